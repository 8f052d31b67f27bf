"""Deadlines by key: set, cancelled, moved, taken when due, in O(log n) for any number of SAs."""

from __future__ import annotations

import heapq
from typing import NamedTuple

from ipseclab.outputs import Deadline


class TimerKey(NamedTuple):
    """Whose timer (an SPI), and what it is for."""

    owner: bytes
    why: str


class Timers:
    """A heap with lazy removal: a key's latest setting counts, older heap entries are skipped."""

    def __init__(self) -> None:
        self._due: dict[TimerKey, float] = {}
        self._heap: list[tuple[float, TimerKey]] = []

    def __len__(self) -> int:
        return len(self._due)

    def set(self, owner: bytes, why: str, at: float) -> None:
        """Make (owner, why) due at `at` seconds, whatever it was before."""
        key = TimerKey(owner, why)
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))
        if len(self._heap) > 64 + 4 * len(self._due):
            self._heap = [(due, key) for key, due in self._due.items()]
            heapq.heapify(self._heap)

    def cancel(self, owner: bytes, *whys: str) -> None:
        """Forget these timers of `owner`; ones that are not set are none."""
        for why in whys:
            self._due.pop(TimerKey(owner, why), None)

    def is_set(self, owner: bytes, why: str) -> bool:
        """True while (owner, why) is waiting."""
        return TimerKey(owner, why) in self._due

    def next_deadline(self) -> Deadline | None:
        """The earliest deadline, or None."""
        while self._heap:
            at, key = self._heap[0]
            if self._due.get(key) == at:
                return Deadline(at, key.why)
            heapq.heappop(self._heap)
        return None

    def take_due(self, now: float) -> TimerKey | None:
        """Remove and return the earliest key due at `now`, or None."""
        deadline = self.next_deadline()
        if deadline is None or deadline.at > now:
            return None
        _at, key = heapq.heappop(self._heap)
        del self._due[key]
        return key
