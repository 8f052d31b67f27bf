"""The first SPD entry that matches, found without asking each: one bit vector a selector field.

RFC 4301 section 4.4.1 wants decorrelated entries so that order need not be kept; here order is
kept and the look-up scales all the same. Each entry is spread into rules (one local and one remote
selector), in order, a bit each. Every field cuts its values into intervals, and each interval knows
the rules that it can belong to; the lowest bit that all fields have in common is the first match.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ipseclab.wire.selector import ANY_PORTS, OPAQUE_PORTS, TrafficSelector

LAST_PORT = 0xFFFF


class Rule(NamedTuple):
    """One pair of selectors of an entry; `entry` is the entry's place in the SPD."""

    entry: int
    near: TrafficSelector
    far: TrafficSelector


class _Intervals:
    """A field whose values are cut at each rule's bounds."""

    __slots__ = ("_masks", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """`ranges` are first value, last value and number of each rule."""
        changes: dict[int, int] = {}
        for first, last, number in ranges:
            for value in (first, last + 1):
                changes[value] = changes.get(value, 0) ^ 1 << number
        self._starts = sorted(changes)
        self._masks = [0]
        for start in self._starts:
            self._masks.append(self._masks[-1] ^ changes[start])

    def mask(self, value: int) -> int:
        """The rules whose range `value` is in."""
        return self._masks[bisect_right(self._starts, value)]


class RuleIndex:
    """The rules of one address family."""

    __slots__ = (
        "_any_protocol",
        "_far",
        "_far_ports",
        "_near",
        "_near_ports",
        "_protocols",
        "_rules",
    )

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        numbered = list(enumerate(rules))
        self._near = _Intervals(_addresses((n, rule.near) for n, rule in numbered))
        self._far = _Intervals(_addresses((n, rule.far) for n, rule in numbered))
        self._near_ports = _ports([(n, rule.near) for n, rule in numbered])
        self._far_ports = _ports([(n, rule.far) for n, rule in numbered])
        self._any_protocol = 0
        self._protocols: dict[int, int] = {}
        for number, rule in numbered:
            named = {rule.near.protocol, rule.far.protocol} - {0}
            if not named:
                self._any_protocol |= 1 << number
            elif len(named) == 1:
                (protocol,) = named
                self._protocols[protocol] = self._protocols.get(protocol, 0) | 1 << number

    def first(
        self, near: bytes, far: bytes, protocol: int, near_port: int | None, far_port: int | None
    ) -> int | None:
        """The place in the SPD of the first entry that matches; a port None is one that a later
        fragment does not show."""
        mask = self._near.mask(int.from_bytes(near, "big"))
        mask &= self._far.mask(int.from_bytes(far, "big"))
        mask &= self._protocols.get(protocol, 0) | self._any_protocol
        if mask:
            mask &= self._near_ports.mask(LAST_PORT + 1 if near_port is None else near_port)
            mask &= self._far_ports.mask(LAST_PORT + 1 if far_port is None else far_port)
        return self._rules[(mask & -mask).bit_length() - 1].entry if mask else None


def index_of(
    entries: Sequence[tuple[Sequence[TrafficSelector], Sequence[TrafficSelector]]],
) -> dict[int, RuleIndex]:
    """The index by octets of an address, for entries that are each near and far selectors."""
    rules: dict[int, list[Rule]] = {4: [], 16: []}
    for place, (nears, fars) in enumerate(entries):
        for near in nears:
            for far in fars:
                if near.known and len(near.start) == len(far.start):
                    rules[len(near.start)].append(Rule(place, near, far))
    return {size: RuleIndex(found) for size, found in rules.items()}


def _addresses(
    selectors: Iterable[tuple[int, TrafficSelector]],
) -> Iterable[tuple[int, int, int]]:
    for number, selector in selectors:
        first, last = selector.start, selector.end
        yield int.from_bytes(first, "big"), int.from_bytes(last, "big"), number


def _ports(selectors: Sequence[tuple[int, TrafficSelector]]) -> _Intervals:
    """Ports, and beyond the last one the place for those that cannot be seen."""
    ranges: list[tuple[int, int, int]] = []
    for number, selector in selectors:
        if selector.ports == OPAQUE_PORTS:
            ranges.append((LAST_PORT + 1, LAST_PORT + 1, number))
        elif selector.ports == ANY_PORTS:
            ranges.append((0, LAST_PORT + 1, number))
        else:
            ranges.append((*selector.ports, number))
    return _Intervals(ranges)
