"""Congestion control: NewReno (RFC 5681, 6582) and CUBIC (RFC 9438) with HyStart as Linux has it.

Where Linux (6.x, net/ipv4/tcp_cubic.c) departs from the RFC, the departure is named and followed:
goodput here is held against Linux's (benchmarks/tcp_truth.py).

Windows are counted in segments, as Linux counts them, and cut to whole ones: with few segments in
flight that is a part of the goodput. When a window is cut, and how a recovery paces its sending, is
the sender's business: these objects say by how much, and how a window grows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

INITIAL_WINDOW = 10.0
"""RFC 6928."""
MIN_WINDOW = 2.0


class CongestionControl(Protocol):
    """A window and what makes it grow and shrink."""

    name: str
    cwnd: float
    ssthresh: float

    def on_ack(self, delivered: int, rtt: float | None, now: float, *, sent: int, una: int) -> None:
        """`delivered` segments newly arrived. `sent` and `una` are the stream positions of the next
        new octet and of the first unacknowledged one: they mark rounds."""

    def on_loss(self, now: float) -> None:
        """A loss was found: set `ssthresh`. The sender brings `cwnd` down to it."""

    def on_timeout(self) -> None:
        """The retransmission timer ran out, after `on_loss` if that was called for it."""

    def undo(self, cwnd: float, ssthresh: float) -> None:
        """The last loss was none: go back to the window before it."""


class NewReno:
    """Additive increase by a segment a round trip, halving on loss."""

    name = "newreno"

    def __init__(self) -> None:
        self.cwnd = INITIAL_WINDOW
        self.ssthresh = float("inf")

    def on_ack(self, delivered: int, rtt: float | None, now: float, *, sent: int, una: int) -> None:
        """RFC 5681 section 3.1, with appropriate byte counting (RFC 3465)."""
        grown = slow_start(self, delivered)
        self.cwnd += grown / self.cwnd

    def on_loss(self, now: float) -> None:
        """RFC 5681 equation 4."""
        self.ssthresh = max(float(int(self.cwnd) // 2), MIN_WINDOW)

    def on_timeout(self) -> None:
        """Nothing is remembered that a time-out could put in doubt."""

    def undo(self, cwnd: float, ssthresh: float) -> None:
        """Go back to the window before the last loss."""
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = ssthresh


class Cubic:
    """A window that is a cubic function of the time since the last loss."""

    name = "cubic"

    C = 0.4
    BETA = 0.7
    ALPHA = 3 * (1 - BETA) / (1 + BETA)
    FIRST_GROWTH = 0.05
    """Linux: while no loss has shown how wide the path is, the window grows by this share of itself
    a round trip at least. The curve alone would stay flat for seconds where HyStart ended slow
    start early."""

    def __init__(self) -> None:
        self.cwnd = INITIAL_WINDOW
        self.ssthresh = float("inf")
        self._w_max = 0.0
        self._hystart = HyStart()
        self._epoch: float | None = None
        self._origin = self._k = self._w_est = 0.0
        self._before_loss: tuple[float, float | None] = (0.0, None)

    def on_ack(self, delivered: int, rtt: float | None, now: float, *, sent: int, una: int) -> None:
        """RFC 9438 section 4.2 to 4.5; HyStart ends slow start early."""
        if rtt is not None:
            self._hystart.sample(rtt)
            if self.cwnd < self.ssthresh and self._hystart.ends_slow_start(
                self.cwnd, rtt, now, sent=sent, una=una
            ):
                self.ssthresh = self.cwnd
        delivered = slow_start(self, delivered)
        if delivered == 0:
            return
        if self._epoch is None:
            self._start_epoch(now)
        epoch = self._epoch if self._epoch is not None else now
        minimum = self._hystart.min_rtt if self._hystart.min_rtt is not None else 0.0
        target = self._origin + self.C * (now - epoch + minimum - self._k) ** 3
        target = min(max(target, self.cwnd), 1.5 * self.cwnd)
        # Section 4.3: never slower than Reno. The RFC's alpha becomes 1 once the old window is
        # reached; Linux keeps it, and gets up to a sixth less where this estimate rules.
        self._w_est += self.ALPHA * delivered / self.cwnd
        step = target - self.cwnd
        if self._w_max == 0.0:
            step = max(step, self.FIRST_GROWTH * self.cwnd)
        grown = self.cwnd + step * delivered / self.cwnd
        self.cwnd = max(grown, self._w_est)

    def on_loss(self, now: float) -> None:
        """Multiplicative decrease and fast convergence (sections 4.6 and 4.7)."""
        self._before_loss = (self._w_max, self._epoch)
        converging = self.cwnd < self._w_max
        self._w_max = self.cwnd * (1 + self.BETA) / 2 if converging else self.cwnd
        self._epoch = None
        self.ssthresh = max(float(int(int(self.cwnd) * self.BETA)), MIN_WINDOW)

    def on_timeout(self) -> None:
        """Section 4.8; Linux then also forgets the window that was lost from and HyStart's RTT: the
        path may be another one."""
        self._w_max = 0.0
        self._epoch = None
        self._hystart = HyStart()

    def undo(self, cwnd: float, ssthresh: float) -> None:
        """Section 4.9: go back to the window and the curve before the last loss."""
        self.cwnd = max(self.cwnd, cwnd)
        self.ssthresh = ssthresh
        self._w_max, self._epoch = self._before_loss

    def _start_epoch(self, now: float) -> None:
        self._epoch = now
        self._w_est = self.cwnd
        self._origin = max(self._w_max, self.cwnd)
        self._k = ((self._origin - self.cwnd) / self.C) ** (1 / 3)


class HyStart:
    """Ends slow start before the queue overflows: told by a long ACK train, or by a rising RTT.

    After Ha and Rhee ("Taming the elephants: new TCP slow start", 2011), as Linux does it without
    pacing. A round begins with the first ACK beyond what was sent when the last one began, so that
    its first samples are those of segments that met the queue at its shortest.

    - ACK train: ACKs no more than 2 ms apart since the round's beginning reach over half the
      smallest RTT. One wider gap ends the train for that round, so that it seldom counts where the
      ACKs are jittered.
    - Delay: from the ninth sample of a round on, the smallest of them all lies above the smallest
      RTT ever by an eighth of that (4 to 16 ms).

    RFC 9406 (HyStart++) has no ACK train, and checks a rising RTT in slower rounds before it
    believes it; Linux does not implement it.
    """

    LOW_WINDOW = 16
    SAMPLES = 8
    TRAIN_GAP = 0.002
    AGGREGATION = 0.001
    """Linux's allowance for aggregated segments and ACKs: four of the largest at twice the window's
    rate, 1 ms at most; it is 1 ms below 2 Gbit/s."""
    MIN_THRESHOLD, MAX_THRESHOLD = 0.004, 0.016

    __slots__ = ("_last_ack", "_round_end", "_round_min", "_round_start", "_samples", "min_rtt")

    def __init__(self) -> None:
        self.min_rtt: float | None = None
        self._round_end = 0
        self._round_start = self._last_ack = 0.0
        self._round_min = float("inf")
        self._samples = 0

    def sample(self, rtt: float) -> None:
        """An RTT was measured."""
        if self.min_rtt is None or rtt < self.min_rtt:
            self.min_rtt = rtt

    def ends_slow_start(self, cwnd: float, rtt: float, now: float, *, sent: int, una: int) -> bool:
        """True when this ACK shows that the pipe is full."""
        if una > self._round_end:
            self._round_end = sent
            self._round_start = self._last_ack = now
            self._round_min, self._samples = float("inf"), 0
        if self.min_rtt is None or cwnd < self.LOW_WINDOW:
            return False
        # Both are looked at, since both keep count.
        train, delay = self._train_is_long(now, self.min_rtt), self._rtt_rises(rtt, self.min_rtt)
        return train or delay

    def _train_is_long(self, now: float, min_rtt: float) -> bool:
        if now - self._last_ack > self.TRAIN_GAP:
            return False
        self._last_ack = now
        return now - self._round_start > (min_rtt + self.AGGREGATION) / 2

    def _rtt_rises(self, rtt: float, min_rtt: float) -> bool:
        self._round_min = min(rtt, self._round_min)
        if self._samples < self.SAMPLES:
            self._samples += 1
            return False
        threshold = min(max(min_rtt / 8, self.MIN_THRESHOLD), self.MAX_THRESHOLD)
        return self._round_min > min_rtt + threshold


def slow_start(control: CongestionControl, delivered: int) -> int:
    """Grow below ssthresh by a segment for each one delivered; what of them is left over."""
    if control.cwnd >= control.ssthresh:
        return delivered
    grown = min(control.cwnd + delivered, control.ssthresh)
    left = delivered - (grown - control.cwnd)
    control.cwnd = grown
    return int(left)


CONGESTION_CONTROLS: dict[str, Callable[[], CongestionControl]] = {
    NewReno.name: NewReno,
    Cubic.name: Cubic,
}
