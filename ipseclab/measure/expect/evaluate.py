"""The value of an expectation, once its names have values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isclose, isnan
from typing import assert_never

from ipseclab.errors import IpsecLabError
from ipseclab.measure.expect.dimension import NUMBER, Unit
from ipseclab.measure.expect.expression import (
    Arithmetic,
    Call,
    Comparison,
    Expression,
    Logic,
    Name,
    Negated,
    Number,
    parts,
)
from ipseclab.measure.expect.names import scaled

ROUNDING = 1e-12
"""What two numbers may differ by, as a share of the greater, and be equal: 0.09 - 0.04 is not the
float 0.05."""


def _equal(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=ROUNDING)


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda one, other: one < other and not _equal(one, other),
    "<=": lambda one, other: one <= other or _equal(one, other),
    ">": lambda one, other: one > other and not _equal(one, other),
    ">=": lambda one, other: one >= other or _equal(one, other),
    "==": _equal,
    "!=": lambda one, other: not _equal(one, other),
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class NoValue(IpsecLabError):
    """An expectation that cannot be judged, and so is not met; the message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A number in seconds and bits, and its unit; a bare number has none, and counts as it is."""

    number: float
    unit: Unit | None = None

    @classmethod
    def of(cls, number: float, unit: Unit | None) -> Value:
        """A number in that unit."""
        return cls(number if unit is None else number * unit.scale, unit)

    def in_unit(self, unit: Unit | None) -> float:
        """The number as `unit` counts it, which for a bare number is its own."""
        if self.unit is None or unit is None:
            return self.number
        return self.number / unit.scale


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison made: what was measured on the left, what it was to be on the right."""

    measured: float
    operator: str
    expected: float
    unit: str
    held: bool

    @property
    def margin(self) -> float:
        """How far measured and expected are apart."""
        return abs(self.measured - self.expected)


Look = Callable[[str], Value]
"""The value of a name. Raises NoValue."""


def evaluate(tree: Expression, look: Look, measures: Callable[[str], bool]) -> tuple[Compared, ...]:
    """The comparisons that decided, the failed ones alone where the expectation failed: it held
    when all of them did. `measures` tells metrics' names. Raises NoValue.

    `and` and `or` stop where they are decided, so that what lacks a value may be excluded first.
    """
    return _Evaluation(look, measures).condition(tree)[1]


def holds(compared: tuple[Compared, ...]) -> bool:
    """Whether what `evaluate` gave says that the expectation held."""
    return all(one.held for one in compared)


class _Evaluation:
    def __init__(self, look: Look, measures: Callable[[str], bool]) -> None:
        self._look = look
        self._measures = measures

    def condition(self, tree: Expression) -> tuple[bool, tuple[Compared, ...]]:
        """Whether it is true, and the comparisons that made it so, marked as held if it is."""
        match tree:
            case Comparison():
                compared = self._compared(tree)
                return compared.held, (compared,)
            case Logic("not", (operand,)):
                true, decisive = self.condition(operand)
                return not true, tuple(_inverse(one) for one in decisive)
            case Logic(word, operands):
                decided = word == "or"
                decisive = ()
                for operand in operands:
                    true, own = self.condition(operand)
                    if true is decided:
                        return decided, own
                    decisive += own
                return not decided, decisive
            case _:
                raise AssertionError("checked before: an expectation is a condition")

    def _compared(self, tree: Comparison) -> Compared:
        left, right = _in_one_unit(self.value(tree.left), self.value(tree.right))
        held = _COMPARE[tree.operator](left.number, right.number)
        mark = tree.operator
        if not self._measured(tree.left) and self._measured(tree.right):
            left, right, mark = right, left, _TURNED[mark]
        unit = left.unit if left.unit is not None else NUMBER
        return Compared(left.in_unit(unit), mark, right.in_unit(unit), str(unit), held)

    def _measured(self, tree: Expression) -> bool:
        return any(isinstance(part, Name) and self._measures(part.text) for part in parts(tree))

    def value(self, tree: Expression) -> Value:
        match tree:
            case Number(number, unit):
                return Value.of(number, unit)
            case Name(text):
                return self._look(text)
            case Negated(operand):
                inner = self.value(operand)
                return Value(-inner.number, inner.unit)
            case Call(function, arguments):
                return _called(function, [self.value(argument) for argument in arguments])
            case Arithmetic(mark, left, right):
                return _computed(mark, self.value(left), self.value(right))
            case Comparison() | Logic():
                raise AssertionError("checked before: a condition is no value")
            case _:
                assert_never(tree)


def _inverse(compared: Compared) -> Compared:
    """The same comparison seen from outside a `not`."""
    opposite = {"<": ">=", ">=": "<", ">": "<=", "<=": ">", "==": "!=", "!=": "=="}
    return Compared(
        compared.measured,
        opposite[compared.operator],
        compared.expected,
        compared.unit,
        not compared.held,
    )


def _in_one_unit(one: Value, other: Value) -> tuple[Value, Value]:
    """Two values that go together, a bare number read in the other's unit."""
    if one.unit is None and other.unit is not None:
        return Value.of(one.number, other.unit), other
    if other.unit is None and one.unit is not None:
        return one, Value.of(other.number, one.unit)
    return one, other


def _called(function: str, values: list[Value]) -> Value:
    found = values[0]
    for value in values[1:]:
        left, right = _in_one_unit(found, value)
        least = left if left.number <= right.number else right
        most = right if least is left else left
        found = least if function == "min" else most
    return Value(abs(found.number), found.unit) if function == "abs" else found


def _computed(mark: str, left: Value, right: Value) -> Value:
    if mark in "*/":
        unit = scaled(mark, left.unit, right.unit)
        if mark == "/" and right.number == 0:
            raise NoValue("divides by zero")
        number = left.number * right.number if mark == "*" else left.number / right.number
    else:
        left, right = _in_one_unit(left, right)
        unit = left.unit
        number = left.number + right.number if mark == "+" else left.number - right.number
    if isnan(number):
        raise NoValue(f"{left.number:g} {mark} {right.number:g} is no number")
    return Value(number, unit)
