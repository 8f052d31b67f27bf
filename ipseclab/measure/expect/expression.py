"""The language of expectations: text to a tree, each part with its place in the text.

    expectation = and { "or" and }
    and         = not { "and" not }
    not         = "not" not | compared
    compared    = sum { ("<" | "<=" | ">" | ">=" | "==" | "!=") sum }
    sum         = product { ("+" | "-") product }
    product     = signed { ("*" | "/") signed }
    signed      = "-" signed | value
    value       = number [unit] | name | "(" expectation ")"
                | ("min" | "max" | "abs") "(" sum { "," sum } ")"

A name is words with dots: `handshake_time.p95`, `rtt`, `links.wan.rate`. What names mean, and
whether units go together, is `names.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ipseclab.lab.yaml_source import one_of
from ipseclab.measure.expect.dimension import LITERALS, Unit

LONGEST = 300
DEEPEST = 20
FUNCTIONS = ("min", "max", "abs")
COMPARISONS = ("<=", ">=", "==", "!=", "<", ">")
_WORDS = ("and", "or", "not")
_SECTIONS = ("links", "traffic")
"""Below these stand names from a topology, which may have hyphens."""

_TOKEN = re.compile(
    r"\s*(?:"
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"
    r"|(?P<name>(?:(?:" + "|".join(_SECTIONS) + r")\.[A-Za-z0-9_-]+|[A-Za-z_]\w*)(?:\.\w+)*)"
    r"|(?P<mark><=|>=|==|!=|[-+*/()<>,])"
    r")"
)
_UNIT = re.compile(r"\s*(bit/s|kbit/s|Mbit/s|Gbit/s|%|[A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Number:
    """A literal; `unit` is None for a bare number."""

    value: float
    unit: Unit | None
    at: int


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name."""

    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Negated:
    """The value with the other sign."""

    operand: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`left` and `right` joined by + - * or /."""

    operator: str
    left: Expression
    right: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """min, max or abs."""

    function: str
    arguments: tuple[Expression, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left operator right`; a chain is several of them joined by `and`."""

    operator: str
    left: Expression
    right: Expression
    at: int


@dataclass(frozen=True, slots=True)
class Logic:
    """`and` or `or` of several, or `not` of one."""

    operator: str
    operands: tuple[Expression, ...]
    at: int


Expression = Number | Name | Negated | Arithmetic | Call | Comparison | Logic


class ExpressionError(ValueError):
    """Text that is no expectation: what was found and expected, and where, from 0."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem)
        self.at = at


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int
    value: float = 0.0
    unit: Unit | None = None


def parse(text: str) -> Expression:
    """The tree of an expectation. Raises ExpressionError."""
    if len(text) > LONGEST:
        raise ExpressionError(f"{len(text)} characters, expected at most {LONGEST}", 0)
    return _Parser(tuple(_tokens(text))).expectation()


def parts(tree: Expression) -> Iterator[Expression]:
    """The tree and all below it, from left to right."""
    yield tree
    below: tuple[Expression, ...] = ()
    match tree:
        case Negated(operand):
            below = (operand,)
        case Arithmetic(_, left, right) | Comparison(_, left, right):
            below = (left, right)
        case Call(_, arguments):
            below = arguments
        case Logic(_, operands):
            below = operands
    for part in below:
        yield from parts(part)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise ExpressionError(f"{text[at]!r} has no meaning here", at)
        kind = str(match.lastgroup)
        start, at = match.start(kind), match.end()
        if kind == "number":
            token, at = _number(text, match[kind], start, at)
            yield token
        else:
            word = match[kind]
            yield _Token("mark" if word in _WORDS else kind, word, start)
    yield _Token("end", "its end", end)


def _number(text: str, digits: str, start: int, at: int) -> tuple[_Token, int]:
    """The literal that begins with these digits, its unit included, and where it ends."""
    found = _UNIT.match(text, at)
    if found is None or found[1] in _WORDS:
        return _Token("number", digits, start, float(digits)), at
    if found[1] not in LITERALS:
        raise ExpressionError(
            f"{found[1]!r} is no unit, {one_of(list(LITERALS), found[1])}", found.start(1)
        )
    worth, unit = LITERALS[found[1]]
    # Rounded to 15 digits, as quantities elsewhere: 20 ms is to be the same float as 0.02.
    value = float(f"{float(digits) * worth:.15g}")
    return _Token("number", digits, start, value, unit), found.end()


class _Parser:
    """Recursive descent, a method a rule of the grammar above."""

    def __init__(self, tokens: tuple[_Token, ...]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def expectation(self) -> Expression:
        tree = self._or()
        if self._token.kind != "end":
            raise self._refusal("an operator or the end")
        return tree

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *marks: str) -> _Token | None:
        """The next token if it is one of these marks."""
        token = self._token
        if token.kind != "mark" or token.text not in marks:
            return None
        self._next += 1
        return token

    def _refusal(self, expected: str) -> ExpressionError:
        found = self._token.text if self._token.kind == "end" else repr(self._token.text)
        return ExpressionError(f"{found}, expected {expected}", self._token.at)

    def _or(self) -> Expression:
        first = self._and()
        others = []
        while self._take("or"):
            others.append(self._and())
        return Logic("or", (first, *others), first.at) if others else first

    def _and(self) -> Expression:
        first = self._not()
        others = []
        while self._take("and"):
            others.append(self._not())
        return Logic("and", (first, *others), first.at) if others else first

    def _not(self) -> Expression:
        signs = 0
        at = self._token.at
        while self._take("not"):
            signs += 1
        inner = self._compared()
        return Logic("not", (inner,), at) if signs % 2 else inner

    def _compared(self) -> Expression:
        left = self._sum()
        found: list[Expression] = []
        while mark := self._take(*COMPARISONS):
            right = self._sum()
            found.append(Comparison(mark.text, left, right, mark.at))
            left = right
        if not found:
            return left
        return found[0] if len(found) == 1 else Logic("and", tuple(found), found[0].at)

    def _sum(self) -> Expression:
        left = self._product()
        while mark := self._take("+", "-"):
            left = Arithmetic(mark.text, left, self._product(), mark.at)
        return left

    def _product(self) -> Expression:
        left = self._signed()
        while mark := self._take("*", "/"):
            left = Arithmetic(mark.text, left, self._signed(), mark.at)
        return left

    def _signed(self) -> Expression:
        signs = []
        while mark := self._take("-"):
            signs.append(mark)
        inner = self._value()
        return Negated(inner, signs[0].at) if len(signs) % 2 else inner

    def _value(self) -> Expression:
        token = self._token
        if token.kind == "number":
            self._next += 1
            return Number(token.value, token.unit, token.at)
        if token.kind == "name":
            self._next += 1
            if token.text in FUNCTIONS and self._open():
                return Call(token.text, self._arguments(token.text), token.at)
            return Name(token.text, token.at)
        if self._open():
            inner = self._or()
            self._close()
            return inner
        raise self._refusal("a number, a name or (")

    def _arguments(self, function: str) -> tuple[Expression, ...]:
        found = [self._sum()]
        while self._take(","):
            found.append(self._sum())
        self._close()
        if function == "abs" and len(found) != 1:
            raise ExpressionError(f"abs of {len(found)} values, expected one", found[1].at)
        return tuple(found)

    def _open(self) -> bool:
        found = self._take("(")
        if found is None:
            return False
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(f"nested deeper than {DEEPEST}", found.at)
        return True

    def _close(self) -> None:
        if not self._take(")"):
            raise self._refusal(")")
        self._depth -= 1
