"""The ends of an SA's life, soft and hard: by volume or sequence number (RFC 4301 section 4.4.2.1).

Time is the timers' business; what is to be done when it is up is done here as well.
"""

from __future__ import annotations

from math import inf

from ipseclab.ipsec.counters import DropReason
from ipseclab.ipsec.events import DatapathOutput, HardExpired, SoftExpired
from ipseclab.ipsec.sad import SEQUENCE_ROOM, SadEntry
from ipseclab.ipsec.timers import TimerKind
from ipseclab.timers import Timers


class Lifetimes:
    """Tells of each end once, and stops what has come to its hard one."""

    def __init__(self, timers: Timers[bytes | str, TimerKind]) -> None:
        self._timers = timers

    def volume_reached(self, entry: SadEntry) -> list[DatapathOutput]:
        """One of an entry's marks is reached: what follows from it."""
        outputs: list[DatapathOutput] = []
        why = entry.limit_reached(entry.parameters.soft)
        if why is None and entry.outbound.packets >= entry.outbound.last - SEQUENCE_ROOM:
            why = "sequence"
        if why is not None:
            outputs += self.soften(entry, why)
        why = entry.limit_reached(entry.parameters.hard)
        if why is not None:
            outputs += self.expire(entry, why)
        return outputs

    def soften(self, entry: SadEntry, why: str) -> list[DatapathOutput]:
        """It is time to rekey; said once."""
        if entry.soft_told:
            return []
        entry.soft_told = True
        entry.set_marks()
        self._timers.cancel(entry.parameters.spi_in, TimerKind.SOFT_LIFETIME)
        return [SoftExpired(entry.parameters.spi_in, why)]

    def expire(
        self, entry: SadEntry, why: str, refusal: DropReason = DropReason.HARD_EXPIRED
    ) -> list[DatapathOutput]:
        """Stop both halves for good. The entry stays, so that what it refuses is counted as such
        and nothing falls back to clear text, until its owner removes it."""
        if entry.refusal is not None:
            return []
        entry.refusal = refusal
        entry.hard_at = -inf
        entry.next_block_at = None
        if entry.lingering:
            return []
        for kind in TimerKind:
            self._timers.cancel(entry.parameters.spi_in, kind)
        return [HardExpired(entry.parameters.spi_in, why)]
