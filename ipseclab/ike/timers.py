"""Deadlines by SA and kind: set, cancelled, moved, taken when due, in O(log n) of their number.

Deadlines at the same moment come in the order in which they were set.
"""

from __future__ import annotations

import heapq
from enum import Enum
from typing import NamedTuple

from ipseclab.outputs import Deadline


class TimerKind(Enum):
    """What the timer of an IKE_SA is for; the text is what a `Deadline` shows."""

    RETRANSMIT = "retransmit"
    RETRY = "retry after TEMPORARY_FAILURE"
    HALF_OPEN = "forget an IKE_SA_INIT request"
    SOFT = "IKE_SA soft lifetime"
    HARD = "IKE_SA hard lifetime"
    LIVENESS = "liveness"
    KEEPALIVE = "NAT keepalive"
    REPLACED = "wait for the old IKE_SA's DELETE"
    CANDIDATE = "wait for a rekey collision to end"
    FORGET = "forget a closed IKE_SA"


class TimerKey(NamedTuple):
    """Whose timer (the SPI that this end chose), and what it is for."""

    owner: bytes
    kind: TimerKind


_SLACK = 64
"""Outdated heap entries that are put up with before the heap is built anew."""


class Timers:
    """A heap with lazy removal: a key's latest setting counts, older heap entries are skipped."""

    def __init__(self) -> None:
        self._due: dict[TimerKey, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, TimerKey]] = []
        self._settings = 0
        self._next: Deadline | None = None
        self._next_is_known = True

    def __len__(self) -> int:
        return len(self._due)

    def set(self, owner: bytes, kind: TimerKind, at: float) -> None:
        """Make (owner, kind) due at `at` seconds, whatever it was before."""
        key = TimerKey(owner, kind)
        self._next_is_known = False
        self._settings += 1
        self._due[key] = (at, self._settings)
        heapq.heappush(self._heap, (at, self._settings, key))
        if len(self._heap) > _SLACK + 4 * len(self._due):
            self._heap = [(due, order, key) for key, (due, order) in self._due.items()]
            heapq.heapify(self._heap)

    def cancel(self, owner: bytes, *kinds: TimerKind) -> None:
        """Forget these timers of `owner`; ones that are not set are none."""
        self._next_is_known = False
        for kind in kinds:
            self._due.pop(TimerKey(owner, kind), None)

    def next_deadline(self) -> Deadline | None:
        """The earliest deadline, or None."""
        # Asked for after every packet, changed by IKE messages alone.
        if not self._next_is_known:
            self._next, self._next_is_known = self._earliest(), True
        return self._next

    def take_due(self, now: float) -> TimerKey | None:
        """Remove and return the earliest key due at `now`, or None."""
        deadline = self.next_deadline()
        if deadline is None or deadline.at > now:
            return None
        _at, _order, key = heapq.heappop(self._heap)
        del self._due[key]
        self._next_is_known = False
        return key

    def _earliest(self) -> Deadline | None:
        while self._heap:
            at, order, key = self._heap[0]
            if self._due.get(key) == (at, order):
                return Deadline(at, key.kind.value)
            heapq.heappop(self._heap)
        return None
