"""Deadlines by subject and kind: set, cancelled, moved, taken when due, each in O(log n).

IKE and the datapath each have one, with kinds of their own. Deadlines at the same moment come in
the order in which they were set.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

from ipseclab.outputs import Deadline

_Subject = TypeVar("_Subject", bound=Hashable)
_Kind = TypeVar("_Kind", bound=Enum)

_SLACK = 64
"""Outdated heap entries that are put up with before the heap is built anew."""


class TimerKey(NamedTuple, Generic[_Subject, _Kind]):
    """What the timer belongs to, and what it is for."""

    subject: _Subject
    kind: _Kind


class Timers(Generic[_Subject, _Kind]):
    """A heap with lazy removal: a key's latest setting counts, older heap entries are skipped.

    A kind's value is what a `Deadline` gives as its reason.
    """

    def __init__(self) -> None:
        self._due: dict[TimerKey[_Subject, _Kind], tuple[float, int]] = {}
        self._heap: list[tuple[float, int, TimerKey[_Subject, _Kind]]] = []
        self._settings = 0
        self._next: Deadline | None = None
        self._next_is_known = False

    def __len__(self) -> int:
        return len(self._due)

    def set(self, subject: _Subject, kind: _Kind, at: float) -> None:
        """Make (subject, kind) due at `at` seconds, whatever it was before."""
        key = TimerKey(subject, kind)
        before = self._due.get(key)
        if before is not None and before[0] == at:
            return
        self._next_is_known = False
        self._settings += 1
        self._due[key] = (at, self._settings)
        heapq.heappush(self._heap, (at, self._settings, key))
        if len(self._heap) > _SLACK + 4 * len(self._due):
            self._heap = [(due, order, key) for key, (due, order) in self._due.items()]
            heapq.heapify(self._heap)

    def set_or_cancel(self, subject: _Subject, kind: _Kind, at: float | None) -> None:
        """Make it due at `at`; with None there is nothing to wait for any more."""
        if at is None:
            self.cancel(subject, kind)
        else:
            self.set(subject, kind, at)

    def cancel(self, subject: _Subject, *kinds: _Kind) -> None:
        """Forget these timers of `subject`; ones that are not set are none."""
        self._next_is_known = False
        for kind in kinds:
            self._due.pop(TimerKey(subject, kind), None)

    def next_deadline(self) -> Deadline | None:
        """The earliest deadline, or None."""
        # Asked for after every packet, and seldom another one.
        if not self._next_is_known:
            self._next, self._next_is_known = self._earliest(), True
        return self._next

    def take_due(self, now: float) -> TimerKey[_Subject, _Kind] | None:
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
