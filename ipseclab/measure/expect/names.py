"""What the names in an expectation mean, and whether its units go together.

A name is a metric (`rekey_lost`: its value in each run), a metric with a statistic
(`handshake_time.p95`: over the runs that are judged together), a parameter of the sweep, or a fact
of the point: `duration`, `links.<link>.delay`, `traffic.<flow>.rate`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from ipseclab.lab.yaml_source import one_of
from ipseclab.measure.drops import DROPS
from ipseclab.measure.expect.dimension import (
    BIT_RATE,
    NUMBER,
    OCTETS,
    SECONDS,
    Unit,
    unit_named,
)
from ipseclab.measure.expect.expression import (
    Arithmetic,
    Call,
    Comparison,
    Expression,
    ExpressionError,
    Logic,
    Name,
    Negated,
    Number,
    parts,
)
from ipseclab.measure.metrics import DELIVERED, METRICS, unit_of
from ipseclab.measure.overhead import OVERHEAD_PARTS

COUNTS = ("count", "share")
"""Of runs that have a value at all: these never lack one."""
STATISTICS = ("mean", "median", "min", "max", "sum", "stdev", *COUNTS)
PERCENTILE = re.compile(r"p([1-9][0-9]?)")
A_SECOND = Unit(seconds=-1)

LINK_FACTS: Mapping[str, Unit] = {
    "delay": SECONDS,
    "jitter": SECONDS,
    "loss": NUMBER,
    "rate": BIT_RATE,
    "mtu": OCTETS,
}
FLOW_FACTS: Mapping[str, Unit] = {
    "start": SECONDS,
    "duration": SECONDS,
    "interval": SECONDS,
    "rate": A_SECOND,
    "count": NUMBER,
    "size": OCTETS,
    "octets": OCTETS,
}
_SECTIONS = {"links": ("link", LINK_FACTS), "traffic": ("flow", FLOW_FACTS)}
_KEYED = ("drops", "overhead", DELIVERED.rstrip("."))
"""Metrics of which there are several, told apart by a word behind the dot."""


@dataclass(frozen=True, slots=True)
class MetricUse:
    """A metric, and the statistic over runs; None for the value of each run by itself."""

    metric: str
    statistic: str | None
    unit: Unit


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter or a fact: what is known of a point before anything runs."""

    name: str
    unit: Unit | None
    """None for a bare number, as a parameter without a unit is."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What there is to name in one experiment: parameters with their units, links, flows."""

    parameters: Mapping[str, str]
    links: tuple[str, ...]
    flows: tuple[str, ...]

    def meaning(self, name: Name) -> MetricUse | Constant:
        """What a name means. Raises ExpressionError with the nearest name."""
        first, *rest = name.text.split(".")
        if not rest and first in self.parameters:
            unit = self.parameters[first]
            return Constant(name.text, unit_named(unit) if unit else None)
        if name.text == "duration":
            return Constant(name.text, SECONDS)
        if first in _SECTIONS:
            return self._fact(name, first, rest)
        return self._metric(name, first, rest)

    def _fact(self, name: Name, section: str, rest: list[str]) -> Constant:
        kind, facts = _SECTIONS[section]
        known = self.links if section == "links" else self.flows
        if not rest or rest[0] not in known:
            wrong = rest[0] if rest else ""
            raise ExpressionError(f"{name.text!r} names no {kind}, {one_of(known, wrong)}", name.at)
        key = ".".join(rest[1:])
        if key not in facts:
            raise ExpressionError(
                f"{name.text!r} is nothing that a {kind} has, {one_of(list(facts), key)}", name.at
            )
        return Constant(name.text, facts[key])

    def _metric(self, name: Name, first: str, rest: list[str]) -> MetricUse:
        metric = first
        if rest and first in _KEYED and not _is_statistic(rest[0]):
            metric = f"{first}.{rest.pop(0)}"
        names = (*_metric_names(), *(f"{DELIVERED}{flow}" for flow in self.flows))
        if metric not in names:
            known = [*self.parameters, *names]
            kinds = "metric and no parameter" if self.parameters else "metric"
            raise ExpressionError(f"{metric!r} is no {kinds}, {one_of(known, metric)}", name.at)
        if not rest:
            return MetricUse(metric, None, unit_named(unit_of(metric)))
        statistic = ".".join(rest)
        if not _is_statistic(statistic):
            choices = (*STATISTICS, "p95")
            raise ExpressionError(
                f"{statistic!r} is no statistic, {one_of(choices, statistic)}", name.at
            )
        unit = NUMBER if statistic in COUNTS else unit_named(unit_of(metric))
        return MetricUse(metric, statistic, unit)

    def uses(self, tree: Expression) -> tuple[MetricUse | Constant, ...]:
        """What the names of an expectation mean, each once."""
        found = [self.meaning(part) for part in parts(tree) if isinstance(part, Name)]
        return tuple(dict.fromkeys(found))

    def check(self, tree: Expression) -> None:
        """See that an expectation compares what can be compared, and names a metric. Raises
        ExpressionError."""
        if not self._is_condition(tree):
            raise ExpressionError("says nothing that can hold, expected a comparison", 0)
        if not any(isinstance(use, MetricUse) for use in self.uses(tree)):
            raise ExpressionError("names no metric, expected one such as handshake_time.median", 0)

    def _is_condition(self, tree: Expression) -> bool:
        match tree:
            case Comparison(operator, left, right, at):
                _common(operator, self._unit(left), self._unit(right), at)
                return True
            case Logic(operator, operands):
                for operand in operands:
                    if not self._is_condition(operand):
                        raise ExpressionError(
                            f"{operator!r} of what is no condition, expected a comparison",
                            operand.at,
                        )
                return True
            case _:
                self._unit(tree)
                return False

    def _unit(self, tree: Expression) -> Unit | None:
        """The unit of a value; None of a bare number."""
        match tree:
            case Number(_, unit):
                return unit
            case Name():
                return self.meaning(tree).unit
            case Negated(operand):
                return self._unit(operand)
            case Call(function, arguments, at):
                unit = self._unit(arguments[0])
                for argument in arguments[1:]:
                    unit = _common(function, unit, self._unit(argument), at)
                return unit
            case Arithmetic(operator, left, right, at):
                one, other = self._unit(left), self._unit(right)
                if operator in "*/":
                    return scaled(operator, one, other)
                return _common(operator, one, other, at)
            case Comparison(at=at) | Logic(at=at):
                raise ExpressionError("a condition where a value was expected", at)
            case _:
                assert_never(tree)


def scaled(operator: str, one: Unit | None, other: Unit | None) -> Unit | None:
    """The unit of a product or quotient; bare numbers have none."""
    if one is None and other is None:
        return None
    one, other = (NUMBER if unit is None else unit for unit in (one, other))
    return one.times(other) if operator == "*" else one.over(other)


def _common(operator: str, one: Unit | None, other: Unit | None, at: int) -> Unit | None:
    if one is None or other is None:
        return other if one is None else one
    if not one.alike(other):
        names = [str(unit) or "a number" for unit in (one, other)]
        raise ExpressionError(
            f"{operator!r} between {names[0]} and {names[1]}, expected the same unit", at
        )
    return one


def _is_statistic(word: str) -> bool:
    return word in STATISTICS or PERCENTILE.fullmatch(word) is not None


def _metric_names() -> tuple[str, ...]:
    return (
        *METRICS,
        *(f"overhead.{part}" for part in OVERHEAD_PARTS),
        *(f"drops.{reason}" for reason in DROPS),
    )
