"""Virtual time: SimPy's event queue with calls at absolute times, and timers that can be moved.

A bare call costs a tenth of a SimPy process, and a time computed once (a link's arrival) stays the
same to the last bit, where `timeout(at - now)` would round it again. SimPy's events and calls stand
in one queue, by time and then in the order in which they were put there.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, TypeVarTuple

from simpy.core import EmptySchedule, Environment
from simpy.events import NORMAL

_Args = TypeVarTuple("_Args")

_CALL_SIZE = 5
"""Fields of a call's entry: time, priority, number, function, arguments. SimPy's entries have an
event in place of the last two; the numbers all differ, so nothing behind them is ever compared."""


class Clock(Environment):
    """SimPy's environment; `now` is seconds after the start of the run."""

    # A plain attribute in place of SimPy's property: each packet's way reads it many times.
    now: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._entries: list[Any] = self._queue

    def call_at(self, at: float, function: Callable[[*_Args], object], *args: *_Args) -> None:
        """Call `function` with `args` at time `at`, or at once (after what is due now) when that
        is past."""
        when = at if at > self.now else self.now
        heappush(self._entries, (when, NORMAL, next(self._eid), function, args))

    def step(self) -> None:
        """Do the next thing: a call, or what SimPy does with its events."""
        if not self._entries:
            raise EmptySchedule
        if len(self._entries[0]) != _CALL_SIZE:
            self.now = self._entries[0][0]
            super().step()
            return
        at, _, _, function, args = heappop(self._entries)
        self.now = self._now = at
        function(*args)

    def run_through(self, at: float) -> None:
        """Let time pass up to `at`, and do what is due at that very moment too."""
        entries = self._entries
        while entries and entries[0][0] <= at:
            entry = heappop(entries)
            if len(entry) == _CALL_SIZE:
                # Every packet of every link comes by here: `step` without its call.
                now, _, _, function, args = entry
                self.now = self._now = now
                function(*args)
            else:
                heappush(entries, entry)
                self.now = entry[0]
                super().step()
        self.now = self._now = max(self.now, at)


class Timer:
    """One timer that is moved often, above all to later.

    SimPy cannot take an event out of its queue. So a wake-up that comes too early looks when the
    timer is due now, and a later due time needs no new wake-up while an earlier one is pending:
    moved ten thousand times, a timer still has a few entries in the queue.
    """

    def __init__(self, clock: Clock, callback: Callable[[float], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._due: float | None = None
        self._wake_ups: list[float] = []

    @property
    def pending(self) -> int:
        """Wake-ups in SimPy's queue."""
        return len(self._wake_ups)

    def set(self, at: float | None) -> None:
        """Be due at `at` and at no other time; None: not at all."""
        if at == self._due:
            return
        self._due = at
        if at is not None and not (self._wake_ups and self._wake_ups[0] <= at):
            heappush(self._wake_ups, at)
            self._clock.call_at(at, self._wake)

    def _wake(self) -> None:
        heappop(self._wake_ups)
        due, now = self._due, self._clock.now
        if due is None:
            return
        if due > now:
            self._due = None
            self.set(due)
            return
        self._due = None
        self._callback(now)
