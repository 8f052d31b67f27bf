"""A node's processor in virtual time: one thing after another, and slow to wake."""

from __future__ import annotations

from ipseclab.sim.costs import CostTable

ASLEEP_AFTER = 0.001
"""Seconds without work after which a process sleeps: waking it, with cold caches, costs extra."""


class Cpu:
    """When a node is done with its work, by a cost table."""

    def __init__(self, costs: CostTable) -> None:
        self._wake = costs.wake
        self._busy_until = 0.0

    def work(self, now: float, seconds: float, *, woken: bool) -> float:
        """Take on work that comes at `now` and takes `seconds`; when it is done (seconds).

        `woken`: a packet brought it, which wakes a node that had nothing to do.
        """
        if woken and now - self._busy_until > ASLEEP_AFTER:
            seconds += self._wake
        self._busy_until = max(now, self._busy_until) + seconds
        return self._busy_until
