"""Dummy packets where an SA would be silent (RFC 4303 section 2.6)."""

from __future__ import annotations

import random

from ipseclab.ipsec.counters import Counters, Dropped
from ipseclab.ipsec.encapsulation import dummy
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.sad import Sad, SadEntry
from ipseclab.ipsec.timers import TimerKind
from ipseclab.timers import Timers


class Dummies:
    """Sends one whenever nothing has gone out for as long as the policy says."""

    def __init__(
        self,
        sad: Sad,
        timers: Timers[bytes | str, TimerKind],
        counters: Counters,
        rng: random.Random,
    ) -> None:
        self._sad = sad
        self._timers = timers
        self._counters = counters
        self._rng = rng

    def arm(self, entry: SadEntry, now: float) -> None:
        """Set the time of the next one, if the entry sends any."""
        interval, p = entry.processing.dummy_interval, entry.parameters
        if interval is None or not p.tunnel or entry.ah or entry.refusal is not None:
            return
        last = entry.last_outbound if entry.last_outbound is not None else now
        self._timers.set(p.spi_in, TimerKind.DUMMY, max(last + interval, now))

    def send(self, entry: SadEntry, now: float) -> list[DatapathOutput]:
        """The time is up: a dummy, unless something has gone out meanwhile."""
        interval = entry.processing.dummy_interval
        assert interval is not None
        outputs: list[DatapathOutput] = []
        newer = self._sad.covering_policy(entry.parameters.policy)
        silent = entry.last_outbound is None or now >= entry.last_outbound + interval
        if silent and entry.active and newer is entry:
            try:
                outputs.append(dummy(entry, self._rng))
            except Dropped:
                return []
            entry.last_outbound = now
            self._counters.dummies_out += 1
        self.arm(entry, now + interval if silent and not outputs else now)
        return outputs
