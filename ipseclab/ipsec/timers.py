"""The deadlines of a datapath: what is to happen when, and to which SA or policy."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import Enum

from ipseclab.outputs import Deadline

_STALE_LIMIT = 64


class TimerKind(Enum):
    """Why the datapath wants to be called; the value is the `why` of its `Deadline`."""

    SOFT_LIFETIME = "esp_soft_lifetime"
    HARD_LIFETIME = "esp_hard_lifetime"
    LINGER = "esp_linger"
    ACTIVATE = "esp_activate"
    PARK = "esp_park"


class Timers:
    """At most one deadline for each kind and subject; the earliest is found without a search."""

    def __init__(self) -> None:
        self._armed: dict[tuple[TimerKind, bytes | str], float] = {}
        self._heap: list[tuple[float, int, Deadline, tuple[TimerKind, bytes | str]]] = []
        self._order = 0
        self._next: Deadline | None = None
        self._next_is_known = True

    def arm(self, kind: TimerKind, subject: bytes | str, at: float) -> None:
        """Set the deadline of `subject` for `kind`, in place of any earlier setting."""
        key = (kind, subject)
        if self._armed.get(key) == at:
            return
        self._armed[key] = at
        self._next_is_known = False
        # Of two deadlines at one moment the one set first comes first, whatever their keys are.
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, Deadline(at, kind.value), key))
        if len(self._heap) > 2 * len(self._armed) + _STALE_LIMIT:
            self._heap = [item for item in self._heap if self._armed.get(item[3]) == item[0]]
            heapq.heapify(self._heap)

    def cancel(self, kind: TimerKind, subject: bytes | str) -> None:
        """Forget a deadline; its heap item is skipped when it comes up."""
        self._armed.pop((kind, subject), None)
        self._next_is_known = False

    def next_deadline(self) -> Deadline | None:
        """The earliest deadline that still stands."""
        # Asked for after every packet, and seldom another one.
        if not self._next_is_known:
            self._next, self._next_is_known = self._earliest(), True
        return self._next

    def due(self, now: float) -> Iterator[tuple[TimerKind, bytes | str]]:
        """Take the deadlines that have come, in order; more may be set meanwhile."""
        while (deadline := self.next_deadline()) is not None and deadline.at <= now:
            key = heapq.heappop(self._heap)[3]
            del self._armed[key]
            self._next_is_known = False
            yield key

    def _earliest(self) -> Deadline | None:
        heap, armed = self._heap, self._armed
        while heap:
            if armed.get(heap[0][3]) == heap[0][0]:
                return heap[0][2]
            heapq.heappop(heap)
        return None
