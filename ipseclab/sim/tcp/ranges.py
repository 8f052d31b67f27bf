"""A set of octet positions as sorted, disjoint, half-open ranges.

The receiver's out-of-order queue and the sender's SACK scoreboard are both one of these.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

Range = tuple[int, int]


class RangeSet:
    """Positions held as ranges [start, end); few ranges, many positions."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def ranges(self) -> list[Range]:
        """All ranges, ascending."""
        return list(zip(self._starts, self._ends, strict=True))

    def containing(self, position: int) -> Range | None:
        """The range that `position` lies in."""
        index = bisect_right(self._starts, position) - 1
        if index >= 0 and position < self._ends[index]:
            return self._starts[index], self._ends[index]
        return None

    def add(self, start: int, end: int) -> list[Range]:
        """Join [start, end) to the set; the parts of it that were not there before, ascending."""
        if start >= end:
            return []
        # Ranges first..last-1 touch or overlap the new one and melt into it.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        added: list[Range] = []
        at = start
        for index in range(first, last):
            if at < self._starts[index]:
                added.append((at, self._starts[index]))
            at = max(at, self._ends[index])
        if at < end:
            added.append((at, end))
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return added

    def drop_below(self, position: int) -> None:
        """Forget everything before `position`."""
        index = bisect_right(self._ends, position)
        del self._starts[:index], self._ends[:index]
        if self._starts and self._starts[0] < position:
            self._starts[0] = position

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._ends.clear()
