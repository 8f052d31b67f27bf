"""Virtual time: SimPy's event queue with calls at absolute times, and timers that can be moved.

A bare callback costs a third of a SimPy process, and a time computed once (a link's arrival) stays
the same to the last bit, where `timeout(at - now)` would round it again.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from simpy.core import Environment
from simpy.events import NORMAL, Event

Callback = Callable[[], None]


class Call(Event):
    """A SimPy event that has been triggered from the start, and calls one function."""

    def __init__(self, clock: Clock, callback: Callback) -> None:
        self.env = clock
        self.callback = callback
        # One list for all: a list of its own with a method of its own would be a cycle to collect.
        self.callbacks = _RUN
        self._ok = True
        self._value = None


def _run(event: Any) -> None:
    event.callback()


_RUN: list[Callable[[Any], None]] = [_run]


class Clock(Environment):
    """SimPy's environment; `now` is seconds after the start of the run."""

    def call_at(self, at: float, callback: Callback) -> None:
        """Call `callback` at time `at`, or at once (after what is due now) when that is past."""
        when = at if at > self._now else self._now
        heappush(self._queue, (when, NORMAL, next(self._eid), Call(self, callback)))

    def run_through(self, at: float) -> None:
        """Let time pass up to `at`, and do what is due at that very moment too."""
        queue = self._queue
        while queue and queue[0][0] <= at:
            event = queue[0][3]
            if isinstance(event, Call):
                # What `step` does, without what only events of SimPy's processes need.
                self._now = heappop(queue)[0]
                event.callback()
            else:
                self.step()
        self._now = max(self._now, at)


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
            self.set(due)
            return
        self._due = None
        self._callback(now)
