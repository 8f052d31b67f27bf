"""Round-trip time and retransmission time-out (RFC 6298, with Linux's floor)."""

from __future__ import annotations

INITIAL_RTO = 1.0
"""RFC 6298 section 2.1."""
MIN_RTO_VARIANCE = 0.2
"""Linux's TCP_RTO_MIN: the floor of 4 * RTTVAR (RFC 6298 asks for an RTO of 1 s at least)."""
MAX_RTO = 120.0
CLOCK_GRANULARITY = 0.001
"""G of RFC 6298, and the unit of the timestamps option."""
_ALPHA = 1 / 8
_BETA = 1 / 4


def timestamp_clock(now: float) -> int:
    """The value of the timestamps option at `now` (RFC 7323 section 5.4): milliseconds, 32 bits."""
    return int(now / CLOCK_GRANULARITY) & 0xFFFFFFFF


class RttEstimator:
    """SRTT, RTTVAR, the smallest RTT and the RTO with its back-off. Seconds throughout."""

    __slots__ = ("backoff", "latest", "minimum", "srtt", "variance")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.variance = 0.0
        self.minimum: float | None = None
        self.latest: float | None = None
        self.backoff = 0

    def sample(self, rtt: float) -> None:
        """A measured round trip of a segment that was sent once (Karn's rule)."""
        self.latest = rtt
        if self.minimum is None or rtt < self.minimum:
            self.minimum = rtt
        if self.srtt is None:
            self.srtt = rtt
            self.variance = rtt / 2
            return
        self.variance += _BETA * (abs(self.srtt - rtt) - self.variance)
        self.srtt += _ALPHA * (rtt - self.srtt)

    @property
    def rto(self) -> float:
        """The time-out now in force, back-off included."""
        if self.srtt is None:
            base = INITIAL_RTO
        else:
            # The floor lies above the clock's granularity, which RFC 6298 wants here.
            spread = 4 * self.variance
            base = self.srtt + (spread if spread > MIN_RTO_VARIANCE else MIN_RTO_VARIANCE)
        rto = base * 2.0**self.backoff if self.backoff else base
        return rto if rto < MAX_RTO else MAX_RTO
