"""One TCP connection as a pure state machine: segments and timers in, segments out.

RFC 9293 section 3.3.2 and 3.5 (handshake and close), RFC 7323 (window scale, timestamps). Left out:
simultaneous open, urgent data, PAWS (at a lab's rates no old segment lives until the sequence space
wraps). A peer without SACK is served, but its losses are repaired by time-outs alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ipseclab.sim.tcp.congestion import CONGESTION_CONTROLS
from ipseclab.sim.tcp.receiver import Receiver
from ipseclab.sim.tcp.segment import (
    ACK,
    FIN,
    MAX_WINDOW_SCALE,
    PSH,
    RST,
    SYN,
    TIMESTAMPS_SPACE,
    Segment,
)
from ipseclab.sim.tcp.sender import FIRST_OCTET, Sender, Transmission
from ipseclab.sim.tcp.stream import OctetStream, Stream
from ipseclab.sim.tcp.timing import INITIAL_RTO, MAX_RTO, timestamp_clock

SYN_RETRIES = 6
"""Linux's tcp_syn_retries."""
TIME_WAIT_SECONDS = 60.0
"""Linux's TCP_TIMEWAIT_LEN (RFC 9293: two maximum segment lifetimes)."""
DEFAULT_MSS = 536
MIN_MSS = 64
SEQUENCE_MASK = 0xFFFFFFFF
_HALF = 1 << 31


class TcpState(Enum):
    """RFC 9293 section 3.3.2, without LISTEN: a host makes a connection when a SYN comes."""

    CLOSED = "closed"
    SYN_SENT = "syn_sent"
    SYN_RECEIVED = "syn_received"
    ESTABLISHED = "established"
    FIN_WAIT_1 = "fin_wait_1"
    FIN_WAIT_2 = "fin_wait_2"
    CLOSING = "closing"
    TIME_WAIT = "time_wait"
    CLOSE_WAIT = "close_wait"
    LAST_ACK = "last_ack"


# Asked for with each segment, where a name in a module costs a tenth of an enum's attribute.
_CLOSED, _SYN_SENT, _SYN_RECEIVED = TcpState.CLOSED, TcpState.SYN_SENT, TcpState.SYN_RECEIVED
_ESTABLISHED, _TIME_WAIT = TcpState.ESTABLISHED, TcpState.TIME_WAIT
_SENDING = (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT)


@dataclass(frozen=True, slots=True)
class TcpConfig:
    """Settings of one end; the buffers are the ceilings of Linux's autotuning."""

    mss: int = 1460
    congestion: str = "cubic"
    receive_buffer: int = 6 * 1024 * 1024
    send_buffer: int = 4 * 1024 * 1024
    timestamps: bool = True


@dataclass(slots=True)
class _Options:
    """What both ends agreed on."""

    timestamps: bool = False
    sack: bool = False
    send_scale: int = 0
    receive_scale: int = 0
    mss: int = DEFAULT_MSS


@dataclass(slots=True)
class _Handshake:
    """Retransmission of a SYN or SYN-ACK."""

    due: float | None = None
    tries: int = 0
    sent_at: float = 0.0
    options: _Options = field(default_factory=_Options)


class Connection:
    """One end. It sends `stream`, then its FIN; without a stream it closes after the peer."""

    def __init__(
        self,
        source_port: int,
        destination_port: int,
        *,
        initial_sequence: int,
        stream: Stream | None = None,
        config: TcpConfig | None = None,
    ) -> None:
        self.config = config if config is not None else TcpConfig()
        self.source_port = source_port
        self.destination_port = destination_port
        self.state = TcpState.CLOSED
        self.closed_because: str | None = None
        self.sender = Sender(
            stream if stream is not None else OctetStream(),
            CONGESTION_CONTROLS[self.config.congestion](),
            mss=self.config.mss,
            send_buffer=self.config.send_buffer,
        )
        self.sender.fin_held = stream is None
        self.receiver = Receiver(buffer=self.config.receive_buffer)
        self._own_start = initial_sequence & SEQUENCE_MASK
        self._peer_start = 0
        self._handshake = _Handshake()
        self._ts_recent = 0
        self._last_ack_sent = 0
        self._time_wait_until: float | None = None
        self._received: list[bytes] = []

    @property
    def options(self) -> _Options:
        """What the handshake agreed on."""
        return self._handshake.options

    def open(self, now: float) -> list[Segment]:
        """Active open."""
        self.state = TcpState.SYN_SENT
        return [self._send_syn(now)]

    def receive(self, segment: Segment, now: float) -> list[Segment]:
        """A segment from the peer, its checksum checked."""
        if self.state is _CLOSED:
            if self.closed_because is not None or segment.flags & (SYN | ACK | RST) != SYN:
                return []
            self._learn_syn(segment)
            self.state = TcpState.SYN_RECEIVED
            return [self._send_syn(now)]
        if self.state is _SYN_SENT:
            return self._receive_syn_ack(segment, now)
        return self._receive_synchronized(segment, now)

    def close(self, now: float) -> list[Segment]:
        """End an endless stream here: what was not sent yet never is."""
        self.sender.close()
        if self.state in (TcpState.ESTABLISHED, TcpState.CLOSE_WAIT):
            return self._flush(now)
        return []

    def write(self, written: int, now: float) -> list[Segment]:
        """The stream has so many octets by now: send what may go."""
        self.sender.write_to(written)
        return self._flush(now) if self.state in _SENDING else []

    def finish(self, now: float) -> list[Segment]:
        """End the stream behind what was written to it."""
        self.sender.finish()
        return self._flush(now) if self.state in _SENDING else []

    def reset(self, now: float) -> list[Segment]:
        """Forget the connection, and tell the peer."""
        told = []
        if self.state not in (TcpState.CLOSED, TcpState.SYN_SENT):
            told.append(self._segment(RST | ACK, self.sender.nxt, b"", now))
        self.abort("reset here")
        return told

    def abort(self, reason: str) -> None:
        """Forget the connection."""
        self.state = TcpState.CLOSED
        self.closed_because = reason
        self._handshake.due = self._time_wait_until = None

    def take_received(self) -> bytes:
        """Octets in order that came since the last call."""
        octets = b"".join(self._received)
        self._received.clear()
        return octets

    def next_deadline(self) -> float | None:
        """When `handle_timeout` wants to be called; None while nothing is awaited."""
        if self.state is _CLOSED:
            return None
        if self.state is _ESTABLISHED:
            # Asked for after every segment: written for speed.
            ack_at, other = self.receiver.ack_at, self.sender.next_deadline()
            if ack_at is None or other is None:
                return other if ack_at is None else ack_at
            return ack_at if ack_at < other else other
        times = (
            self._handshake.due,
            self._time_wait_until,
            self.receiver.ack_at,
            self.sender.next_deadline(),
        )
        return min((at for at in times if at is not None), default=None)

    def handle_timeout(self, now: float) -> list[Segment]:
        """Do what is due at `now`."""
        if self.state is TcpState.CLOSED:
            return []
        if self._time_wait_until is not None and self._time_wait_until <= now:
            self.abort("done")
            return []
        if self._handshake.due is not None:
            return self._handshake_timeout(now) if self._handshake.due <= now else []
        self.receiver.handle_timeout(now)
        probes = self.sender.handle_timeout(now)
        if self.sender.dead:
            self.abort("peer does not answer")
            return []
        sent = [self._data_segment(probe, now) for probe in probes]
        return sent + self._flush(now)

    def shrink_path(self, segment_size: int, now: float) -> list[Segment]:
        """The path carries TCP segments of at most `segment_size` octets, header included."""
        mss = max(segment_size - 20 - self._option_space(), MIN_MSS)
        self.sender.shrink_mss(mss)
        return self._flush(now) if self.state is TcpState.ESTABLISHED else []

    # Handshake

    def _send_syn(self, now: float) -> Segment:
        handshake, config = self._handshake, self.config
        handshake.sent_at = now
        handshake.due = now + min(INITIAL_RTO * 2.0**handshake.tries, MAX_RTO)
        answer = self.state is TcpState.SYN_RECEIVED
        agreed = handshake.options
        offered_scale = _scale_of(config.receive_buffer)
        stamps = agreed.timestamps if answer else config.timestamps
        return Segment(
            self.source_port,
            self.destination_port,
            self._own_start,
            (self._peer_start + 1) & SEQUENCE_MASK if answer else 0,
            SYN | ACK if answer else SYN,
            min(config.receive_buffer, 0xFFFF),
            mss=config.mss,
            window_scale=offered_scale if not answer or agreed.receive_scale else None,
            sack_permitted=agreed.sack if answer else True,
            timestamps=(timestamp_clock(now), self._ts_recent) if stamps else None,
        )

    def _learn_syn(self, segment: Segment) -> None:
        config, agreed = self.config, self._handshake.options
        self._peer_start = segment.sequence
        agreed.mss = min(segment.mss if segment.mss is not None else DEFAULT_MSS, config.mss)
        agreed.sack = segment.sack_permitted
        agreed.timestamps = config.timestamps and segment.timestamps is not None
        if segment.window_scale is not None:
            agreed.send_scale = segment.window_scale
            agreed.receive_scale = _scale_of(config.receive_buffer)
        if segment.timestamps is not None:
            self._ts_recent = segment.timestamps[0]
        self.sender.mss = max(agreed.mss - self._option_space(), MIN_MSS)
        # The window of a SYN is never scaled (RFC 7323 section 2.2).
        self.sender.window_end = FIRST_OCTET + segment.window
        self._last_ack_sent = 1

    def _receive_syn_ack(self, segment: Segment, now: float) -> list[Segment]:
        answers = segment.acknowledgment == (self._own_start + 1) & SEQUENCE_MASK
        if segment.flags & RST:
            if segment.flags & ACK and answers:
                self.abort("connection refused")
            return []
        if segment.flags & (SYN | ACK) != SYN | ACK or not answers:
            return []
        self._learn_syn(segment)
        self._established(now)
        self.receiver.ack_now = True
        return self._flush(now)

    def _established(self, now: float) -> None:
        handshake = self._handshake
        if handshake.tries == 0:
            self.sender.rtt.sample(now - handshake.sent_at)
        handshake.due = None
        self.state = TcpState.ESTABLISHED

    def _handshake_timeout(self, now: float) -> list[Segment]:
        self._handshake.tries += 1
        if self._handshake.tries > SYN_RETRIES:
            self.abort("peer does not answer")
            return []
        return [self._send_syn(now)]

    # Established and closing

    def _receive_synchronized(self, segment: Segment, now: float) -> list[Segment]:
        start = self._position(segment.sequence, self._peer_start, self.receiver.nxt)
        if segment.flags & RST:
            if start == self.receiver.nxt:
                self.abort("reset")
            return []
        if segment.flags & SYN:
            # Our SYN-ACK, or our answer to the peer's, was lost (RFC 9293 section 3.10.7.4).
            return self._answer_syn(segment, now)
        if not segment.flags & ACK:
            return []
        ack = self._position(segment.acknowledgment, self._own_start, self.sender.una)
        if self.state is _SYN_RECEIVED:
            if ack < FIRST_OCTET:
                return []
            self._established(now)
        self._remember_timestamp(segment, start)
        fin = bool(segment.flags & FIN)
        octets = self.receiver.accept(start, segment.payload, fin=fin, now=now)
        if octets:
            self._received.append(octets)
        if self.receiver.fin_received:
            self.sender.fin_held = False
        self._acknowledge(segment, ack, now)
        self._advance_state(now)
        if fin and self.state is _TIME_WAIT:
            self._time_wait_until = now + TIME_WAIT_SECONDS
        return self._flush(now) if self.state is not _CLOSED else []

    def _answer_syn(self, segment: Segment, now: float) -> list[Segment]:
        if segment.sequence != self._peer_start:
            return []
        if self.state is TcpState.SYN_RECEIVED:
            return [self._send_syn(now)]
        return [self._pure_ack(now)]

    def _remember_timestamp(self, segment: Segment, start: int) -> None:
        """RFC 7323 section 4.3: of the segments since our last ACK, the earliest counts."""
        if segment.timestamps is not None and start <= self._last_ack_sent:
            value = segment.timestamps[0]
            if (value - self._ts_recent) & SEQUENCE_MASK < _HALF:
                self._ts_recent = value

    def _acknowledge(self, segment: Segment, ack: int, now: float) -> None:
        blocks = segment.sack
        if blocks:
            una = self.sender.una
            positions = [
                tuple(self._position(edge, self._own_start, una) for edge in block)
                for block in blocks
            ]
            blocks = tuple((start, end) for start, end in positions)
        echo = segment.timestamps[1] if segment.timestamps is not None else None
        window = segment.window << self.options.send_scale
        self.sender.acknowledge(ack, blocks, window_end=ack + window, echo=echo, now=now)

    def _advance_state(self, now: float) -> None:
        """Where both halves stand gives the state."""
        ours, theirs = self.sender.finished, self.receiver.fin_received
        sent_fin = self.sender.end is not None and self.sender.nxt > self.sender.end
        if not sent_fin and not theirs:
            return
        match (sent_fin, ours, theirs):
            case (False, _, True):
                self.state = TcpState.CLOSE_WAIT
            case (True, False, False):
                self.state = TcpState.FIN_WAIT_1
            case (True, True, False):
                self.state = TcpState.FIN_WAIT_2
            case (True, False, True) if self.state in (TcpState.CLOSE_WAIT, TcpState.LAST_ACK):
                self.state = TcpState.LAST_ACK
            case (True, False, True):
                self.state = TcpState.CLOSING
            case (True, True, True) if self.state is TcpState.LAST_ACK:
                self.abort("done")
            case (True, True, True):
                if self.state is not TcpState.TIME_WAIT:
                    self._time_wait_until = now + TIME_WAIT_SECONDS
                self.state = TcpState.TIME_WAIT

    # Segments out

    def _flush(self, now: float) -> list[Segment]:
        segments = [self._data_segment(item, now) for item in self.sender.transmissions(now)]
        if segments:
            self._advance_state(now)
        elif self.receiver.ack_now:
            segments.append(self._pure_ack(now))
        return segments

    def _data_segment(self, item: Transmission, now: float) -> Segment:
        flags = ACK | (FIN if item.fin else 0)
        payload = self.sender.octets(item)
        if payload and item.end == self.sender.nxt:
            flags |= PSH
        return self._segment(flags, item.start, payload, now)

    def _pure_ack(self, now: float) -> Segment:
        return self._segment(ACK, self.sender.nxt, b"", now)

    def _segment(self, flags: int, position: int, payload: bytes, now: float) -> Segment:
        blocks: tuple[tuple[int, int], ...] = ()
        if self.options.sack and self.receiver.has_blocks:
            blocks = tuple(
                (
                    (start + self._peer_start) & SEQUENCE_MASK,
                    (end + self._peer_start) & SEQUENCE_MASK,
                )
                for start, end in self.receiver.sack_blocks()
            )
        stamps = self.options.timestamps
        acknowledged = self.receiver.nxt
        window = min(self.receiver.window >> self.options.receive_scale, 0xFFFF)
        self.receiver.acknowledged()
        self._last_ack_sent = acknowledged
        return Segment(
            self.source_port,
            self.destination_port,
            (self._own_start + position) & SEQUENCE_MASK,
            (self._peer_start + acknowledged) & SEQUENCE_MASK,
            flags,
            window,
            payload,
            sack=blocks,
            timestamps=(timestamp_clock(now), self._ts_recent) if stamps else None,
        )

    def _option_space(self) -> int:
        return TIMESTAMPS_SPACE if self.options.timestamps else 0

    @staticmethod
    def _position(sequence: int, start: int, near: int) -> int:
        """The unbounded position whose 32-bit number is `sequence`, closest to `near`."""
        return near + ((sequence - start - near + _HALF) & SEQUENCE_MASK) - _HALF


def _scale_of(buffer: int) -> int:
    """The smallest window scale that lets `buffer` be advertised (RFC 7323 section 2.2)."""
    scale = 0
    while buffer >> scale > 0xFFFF and scale < MAX_WINDOW_SCALE:
        scale += 1
    return scale
