"""The sending half of a connection: what goes out when, and what is sent again.

RFC 5681 and 6675 (fast recovery with SACK), RFC 8985 (RACK, tail loss probe), RFC 6937 (PRR),
RFC 6298 (RTO), RFC 4015 (a spurious recovery is undone, told by timestamps), as Linux joins them.
Left out: ECN, pacing, F-RTO, the persist timer (a peer here reads at once: no window closes).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ipseclab.sim.tcp.congestion import CongestionControl
from ipseclab.sim.tcp.scoreboard import DUPLICATE_THRESHOLD, MAX_SACK_BLOCKS, Scoreboard, Sent
from ipseclab.sim.tcp.stream import QueueStream, Stream
from ipseclab.sim.tcp.timing import RttEstimator, timestamp_clock

MAX_RETRIES = 15
"""Time-outs in a row after which the peer is given up: Linux's tcp_retries2."""
WORST_DELAYED_ACK = 0.2
"""WCDelAckT of RFC 8985 section 7.2."""
FIRST_OCTET = 1
"""Position 0 is the SYN's; the stream's first octet has position 1."""
NO_LIMIT = 1 << 62
REORDER_STEPS_HELD = 16
"""Recoveries for which a widened reordering window is kept (RFC 8985 section 6.2 step 4)."""


class Phase(Enum):
    """What the window is doing."""

    OPEN = "open"
    RECOVERY = "recovery"
    LOSS = "loss"


# Asked for with each segment, where a name in a module costs a tenth of an enum's attribute.
_OPEN, _RECOVERY, _LOSS = Phase.OPEN, Phase.RECOVERY, Phase.LOSS


@dataclass(slots=True)
class SenderCounters:
    """What a connection's sender did, in segments and events."""

    segments: int = 0
    retransmitted: int = 0
    recoveries: int = 0
    timeouts: int = 0
    tail_probes: int = 0
    undone: int = 0


class Transmission(NamedTuple):
    """Positions [start, end) are to be sent now; `fin` when the last of them is the FIN's."""

    start: int
    end: int
    fin: bool


@dataclass(slots=True)
class _Undo:
    """What to go back to if the first retransmission of a recovery turns out to be needless."""

    cwnd: float
    ssthresh: float
    retransmitted_at: int | None = None
    """On the timestamp clock."""


class Sender:
    """Send state of one connection. Positions are unbounded: the SYN has 0, data begins at 1."""

    def __init__(
        self, stream: Stream, congestion: CongestionControl, *, mss: int, send_buffer: int
    ) -> None:
        self.una = self.nxt = FIRST_OCTET
        self.window_end = FIRST_OCTET
        self.mss = mss
        self.rtt = RttEstimator()
        self.congestion = congestion
        self.phase = _OPEN
        self.counters = SenderCounters()
        self.dead = False
        self.fin_held = False
        """Send nothing, not even the FIN, for now."""
        self.end = None if stream.size is None else FIRST_OCTET + stream.size
        """The position of the FIN; None while the stream has no end."""
        self.limit = FIRST_OCTET if isinstance(stream, QueueStream) else NO_LIMIT
        """Up to where there is something to send, of a stream that is written as it goes."""
        self.stream = stream
        self._send_buffer = send_buffer
        self._board = Scoreboard()
        self._recovery_point = FIRST_OCTET
        self._window_limited = False
        self._undo: _Undo | None = None
        self._prior_cwnd = 0.0
        self._prr_delivered = self._prr_out = 0
        self._reorder_steps = 1
        self._reorder_steps_left = 0
        self._steps_round = FIRST_OCTET
        self._probe_end: int | None = None
        self._probe_again = False
        self._rto_at: float | None = None
        self._tail_at: float | None = None
        self._reorder_at: float | None = None
        self._rto_una = -1

    # What the connection asks

    @property
    def finished(self) -> bool:
        """True when the peer acknowledged our FIN."""
        return self.end is not None and self.una > self.end

    def close(self) -> None:
        """End the stream where sending stands."""
        if self.end is None or self.nxt < self.end:
            self.end = self.nxt

    def write_to(self, written: int) -> None:
        """The stream has so many octets now."""
        self.limit = FIRST_OCTET + written

    def finish(self) -> None:
        """The stream ends with what was written to it."""
        if self.end is None:
            self.end = self.limit

    @property
    def first_sent(self) -> int:
        """Octets of the stream that have been sent once at least."""
        return min(self.nxt, self.limit) - FIRST_OCTET

    @property
    def acknowledged(self) -> int:
        """Octets of the stream that the peer has."""
        return min(self.una, self.limit) - FIRST_OCTET

    def octets(self, transmission: Transmission) -> bytes:
        """The payload of `transmission`."""
        last = transmission.end - FIRST_OCTET - (1 if transmission.fin else 0)
        return self.stream.read(transmission.start - FIRST_OCTET, last)

    def acknowledge(
        self,
        ack: int,
        blocks: tuple[tuple[int, int], ...],
        *,
        window_end: int,
        echo: int | None,
        now: float,
    ) -> None:
        """An acknowledgment up to `ack`. `echo`: our timestamp clock as the peer
        brings it back."""
        if ack > self.nxt or ack < self.una:
            return
        self.window_end = max(self.window_end, window_end)
        duplicate = bool(blocks) and self._is_dsack(ack, blocks)
        if duplicate:
            self._widen_reordering()
        valid: list[tuple[int, int]] = []
        if blocks:
            valid = [block for block in blocks[:MAX_SACK_BLOCKS] if ack < block[1] <= self.nxt]
        advanced = ack > self.una
        self.una = ack
        progress = self._board.acknowledge(ack, valid, now, min_rtt=self.rtt.minimum)
        if progress.first_rtt is not None:
            self.rtt.sample(progress.first_rtt)
        if advanced:
            self.rtt.backoff = 0
        if self._probe_end is not None:
            self._end_tail_probe(ack, duplicate=duplicate, now=now)
        if advanced and self._undo is not None:
            self._undo_if_spurious(echo)
        if self.phase is not _OPEN:
            self._end_phase(ack)
        newly_lost = self._detect_losses(now)
        if self.phase is _RECOVERY:
            self._reduce(progress.delivered, advanced=advanced, newly_lost=newly_lost)
        elif advanced and self._may_grow(progress.acked):
            # What newly arrived counts: an acknowledgment that ends a recovery covers segments that
            # SACK had told of before.
            self.congestion.on_ack(
                progress.delivered, progress.last_rtt, now, sent=self.nxt, una=self.una
            )
        if advanced or progress.delivered:
            self._arm(now, restart=advanced)

    def transmissions(self, now: float) -> list[Transmission]:
        """What may be sent now: lost segments first, then new octets."""
        ready: list[Transmission] = []
        self._window_limited = False
        while True:
            lost = self._board.next_lost()
            if lost is None and not self._has_new():
                break
            if self._board.in_flight >= int(self.congestion.cwnd):
                self._window_limited = True
                break
            ready.append(self._send_again(lost, now) if lost is not None else self._send_new(now))
            self._prr_out += 1
        if ready and self._rto_at is None:
            self._arm(now, restart=True)
        elif ready:
            self._arm_tail(now)
        return ready

    def next_deadline(self) -> float | None:
        """The earliest of the retransmission, tail probe and reordering timers."""
        # Asked for after every segment: written for speed.
        earliest = self._rto_at
        for at in (self._tail_at, self._reorder_at):
            if at is not None and (earliest is None or at < earliest):
                earliest = at
        return earliest

    def handle_timeout(self, now: float) -> list[Transmission]:
        """Do what is due; a tail probe is sent beyond the window, so it is returned from here."""
        if self._reorder_at is not None and self._reorder_at <= now:
            self._reorder_at = None
            if self._detect_losses(now) and self.phase is _RECOVERY:
                self._reduce(0, advanced=False, newly_lost=1)
        # A probe due together with the time-out takes its place (RFC 8985 section 7.2).
        if self._tail_at is not None and self._tail_at <= now:
            return self._probe_tail(now)
        if self._rto_at is not None and self._rto_at <= now:
            self._time_out(now)
        return []

    def shrink_mss(self, mss: int) -> None:
        """The path carries `mss` octets a segment at most (RFC 1191); no window is cut for that."""
        if mss < self.mss:
            self.mss = mss
            self._board.split(mss)

    # Sending

    def _has_new(self) -> bool:
        end = self.end
        if self.fin_held or (end is not None and self.nxt > end):
            return False
        edge = min(self.window_end, self.una + self._send_buffer, self.limit)
        if end is not None and end <= edge:
            return True
        # Silly window avoidance (RFC 9293 section 3.8.6.2.1): a full segment, or wait for room.
        # All that was written goes at once, as with TCP_NODELAY.
        all_there_is = edge == self.limit or self._board.outstanding == 0
        return edge - self.nxt >= self.mss or (edge > self.nxt and all_there_is)

    def _send_new(self, now: float) -> Transmission:
        edge = min(self.window_end, self.una + self._send_buffer, self.limit)
        start, end = self.nxt, min(self.nxt + self.mss, edge)
        fin = False
        if self.end is not None and end >= self.end:
            # The FIN takes a position but no octet, and may pass the edge of the window.
            end, fin = self.end + 1, True
        self.nxt = end
        self._board.sent_new(start, end, now)
        self.counters.segments += 1
        return Transmission(start, end, fin)

    def _send_again(self, segment: Sent, now: float) -> Transmission:
        self._board.sent_again(segment, now)
        if segment is self._board.head:
            self._rto_at = now + self.rtt.rto
        self.counters.retransmitted += 1
        if self._undo is not None and self._undo.retransmitted_at is None:
            self._undo.retransmitted_at = timestamp_clock(now)
        fin = self.end is not None and segment.end > self.end
        return Transmission(segment.start, segment.end, fin)

    # Loss and recovery

    def _detect_losses(self, now: float) -> int:
        board = self._board
        if not board.overtaken:
            self._reorder_at = None
            return 0
        window = 0.0
        srtt, minimum = self.rtt.srtt, self.rtt.minimum
        certain = self.phase is not _OPEN or board.sacked >= DUPLICATE_THRESHOLD
        if srtt is not None and minimum is not None and (board.reordering_seen or not certain):
            # RFC 8985 section 6.2 step 4.
            window = min(self._reorder_steps * minimum / 4, srtt)
        lost, self._reorder_at = board.detect_losses(now, window)
        if lost and self.phase is _OPEN:
            self._enter_recovery(now)
        return lost

    def _enter_recovery(self, now: float) -> None:
        self.counters.recoveries += 1
        self.phase = _RECOVERY
        self._recovery_point = self.nxt
        self._prior_cwnd = self.congestion.cwnd
        self._undo = _Undo(self.congestion.cwnd, self.congestion.ssthresh)
        self.congestion.on_loss(now)
        self._prr_delivered = self._prr_out = 0
        self._tail_at = self._probe_end = None

    def _reduce(self, delivered: int, *, advanced: bool, newly_lost: int) -> None:
        """Proportional rate reduction with the slow-start bound (RFC 6937 section 3)."""
        in_flight, ssthresh = self._board.in_flight, int(self.congestion.ssthresh)
        if delivered == 0 and self._prr_out:
            return
        self._prr_delivered += delivered
        if in_flight > ssthresh:
            share = -(-ssthresh * self._prr_delivered // max(int(self._prior_cwnd), 1))
            quota = share - self._prr_out
        else:
            quota = max(self._prr_delivered - self._prr_out, delivered)
            if advanced and not newly_lost:
                quota += 1
            quota = min(ssthresh - in_flight, quota)
        # The first retransmission of a recovery goes out whatever is in flight.
        quota = max(quota, 0 if self._prr_out else 1)
        self.congestion.cwnd = float(in_flight + quota)

    def _end_phase(self, ack: int) -> None:
        if self.phase is _OPEN or ack < self._recovery_point:
            return
        if self.phase is _RECOVERY:
            self.congestion.cwnd = self.congestion.ssthresh
            self._reorder_steps_left = max(0, self._reorder_steps_left - 1)
            if self._reorder_steps_left == 0:
                self._reorder_steps = 1
        self.phase = _OPEN
        self._undo = None

    def _undo_if_spurious(self, echo: int | None) -> None:
        """RFC 3522: an acknowledgment of new octets that answers a segment sent before the first
        retransmission proves that nothing had been lost."""
        undo = self._undo
        if undo is None or undo.retransmitted_at is None or echo is None:
            return
        if echo < undo.retransmitted_at:
            self.counters.undone += 1
            self._board.unmark_lost()
            self.congestion.undo(undo.cwnd, undo.ssthresh)
            self.phase = _OPEN
        # One acknowledgment of new octets decides: later ones may answer the retransmission.
        self._undo = None

    def _may_grow(self, acked: int) -> bool:
        """A window that nobody fills proves nothing about the path (RFC 7661, Linux)."""
        if self._window_limited or self.phase is _LOSS:
            return True
        control = self.congestion
        return control.cwnd < control.ssthresh and control.cwnd < 2 * (
            self._board.outstanding + acked
        )

    def _time_out(self, now: float) -> None:
        """RFC 6298 section 5.4 to 5.6; RFC 5681 section 3.1: cut ssthresh once for a segment."""
        if self.rtt.backoff >= MAX_RETRIES:
            self.dead = True
            self._rto_at = self._tail_at = self._reorder_at = None
            return
        self.counters.timeouts += 1
        control = self.congestion
        if self.phase is _OPEN:
            self._undo = _Undo(control.cwnd, control.ssthresh)
        if self.phase is _OPEN or (self.phase is _LOSS and self._rto_una != self.una):
            control.on_loss(now)
        control.on_timeout()
        self._rto_una = self.una
        self.phase = _LOSS
        self._recovery_point = self.nxt
        self._board.mark_all_lost()
        control.cwnd = 1.0
        self.rtt.backoff += 1
        self._tail_at = self._reorder_at = self._probe_end = None
        self._rto_at = now + self.rtt.rto

    # Tail loss probe (RFC 8985 section 7)

    def _probe_tail(self, now: float) -> list[Transmission]:
        self._tail_at = None
        last = self._board.last
        if last is None:
            return []
        self.counters.tail_probes += 1
        self._probe_again = not self._has_new()
        probe = self._send_again(last, now) if self._probe_again else self._send_new(now)
        self._probe_end = self.nxt
        self._rto_at = now + self.rtt.rto
        return [probe]

    def _end_tail_probe(self, ack: int, *, duplicate: bool, now: float) -> None:
        if self._probe_end is None or ack < self._probe_end:
            return
        self._probe_end = None
        if self._probe_again and not duplicate and self.phase is _OPEN:
            # The probe repaired a loss: the network dropped something, so the window is cut.
            self.congestion.on_loss(now)
            self.congestion.cwnd = min(self.congestion.cwnd, self.congestion.ssthresh)

    # Reordering

    def _is_dsack(self, ack: int, blocks: tuple[tuple[int, int], ...]) -> bool:
        """RFC 2883: the first block lies below the acknowledgment or inside the second block."""
        first = blocks[0]
        if first[1] <= ack:
            return True
        return len(blocks) > 1 and blocks[1][0] <= first[0] and first[1] <= blocks[1][1]

    def _widen_reordering(self) -> None:
        if self.una >= self._steps_round:
            self._steps_round = self.nxt
            self._reorder_steps += 1
            self._reorder_steps_left = REORDER_STEPS_HELD

    # Timers

    def _arm(self, now: float, *, restart: bool) -> None:
        if self._board.outstanding == 0:
            self._rto_at = self._tail_at = self._reorder_at = None
            return
        if restart:
            self._rto_at = now + self.rtt.rto
        self._arm_tail(now)

    def _arm_tail(self, now: float) -> None:
        self._tail_at = None
        srtt = self.rtt.srtt
        if self.phase is not _OPEN or srtt is None or self._probe_end is not None:
            return
        if self._board.sacked or self._rto_at is None:
            return
        wait = 2 * srtt + (WORST_DELAYED_ACK if self._board.outstanding == 1 else 0.0)
        self._tail_at = min(now + wait, self._rto_at)
