"""The receiving half of a connection: reassembly, SACK blocks and when to acknowledge.

RFC 9293 section 3.10.7.4, RFC 2018 and 2883 (SACK, D-SACK), RFC 5681 section 4.2 (delayed ACKs,
with Linux's times and its quick ACKs at the start). The application reads at once, so the receive
buffer bounds what may be in flight, and never fills with octets in order.
"""

from __future__ import annotations

from ipseclab.sim.tcp.ranges import Range, RangeSet

DELAYED_ACK = 0.04
"""Linux's TCP_DELACK_MIN (RFC 5681 allows 0.5 s)."""
QUICK_ACKS = 16
"""Segments acknowledged at once at the start, while the peer's window is still small."""


class Receiver:
    """Receive state of one connection, in positions: the peer's SYN has 0."""

    def __init__(self, *, buffer: int) -> None:
        self.nxt = 1
        self.fin_received = False
        self.ack_now = False
        self.ack_at: float | None = None
        self._buffer = buffer
        self._largest = 0
        self._acked = 1
        self._quick = QUICK_ACKS
        self._held = RangeSet()
        self._pieces: dict[int, bytes] = {}
        self._recent: list[int] = []
        self._duplicate: Range | None = None
        self._fin: int | None = None

    @property
    def window(self) -> int:
        """Octets beyond `nxt` that are accepted."""
        return self._buffer

    def accept(self, start: int, payload: bytes, *, fin: bool, now: float) -> bytes:
        """Take in a segment; the octets that are now in order, for the application."""
        end = start + len(payload)
        self._largest = max(self._largest, len(payload))
        if fin and self._fin is None and end <= self.nxt + self._buffer:
            self._fin = end
        if not payload:
            self._take_fin()
            self.ack_now = self.ack_now or fin
            return b""
        if end > self.nxt + self._buffer:
            # Outside the window: answered with an acknowledgment (RFC 9293 section 3.10.7.4).
            self.ack_now = True
            return b""
        if start == self.nxt and not self._held:
            self.nxt = end
            self._take_fin()
            self._schedule_ack(now)
            return payload
        return self._accept_out_of_order(start, end, payload)

    @property
    def has_blocks(self) -> bool:
        """True when `sack_blocks` may have something to tell."""
        return bool(self._recent) or self._duplicate is not None

    def sack_blocks(self) -> tuple[Range, ...]:
        """A D-SACK if there is one, then the ranges held, latest first (RFC 2018 section 4)."""
        blocks: list[Range] = []
        if self._duplicate is not None:
            blocks.append(self._duplicate)
        for position in self._recent:
            block = self._held.containing(position)
            if block is not None and block not in blocks[-len(self._recent) :]:
                blocks.append(block)
        return tuple(blocks)

    def acknowledged(self) -> None:
        """An acknowledgment up to `nxt` has been sent."""
        self._acked = self.nxt
        self._duplicate = None
        self.ack_now = False
        self.ack_at = None
        self._quick = max(0, self._quick - 1)

    def handle_timeout(self, now: float) -> None:
        """The wait for a second segment is over."""
        if self.ack_at is not None and self.ack_at <= now:
            self.ack_now = True
            self.ack_at = None

    def _accept_out_of_order(self, start: int, end: int, payload: bytes) -> bytes:
        self.ack_now = True
        first = max(start, self.nxt)
        added = self._held.add(first, end) if end > self.nxt else []
        if not added:
            self._duplicate = (start, end)
            self._quick = QUICK_ACKS
            return b""
        for new_start, new_end in added:
            self._pieces[new_start] = payload[new_start - start : new_end - start]
        delivered: list[bytes] = []
        while self.nxt in self._pieces:
            piece = self._pieces.pop(self.nxt)
            delivered.append(piece)
            self.nxt += len(piece)
        self._held.drop_below(self.nxt)
        if first >= self.nxt:
            self._remember(first)
        else:
            self._recent = [position for position in self._recent if position >= self.nxt]
        self._take_fin()
        return b"".join(delivered)

    def _remember(self, position: int) -> None:
        block = self._held.containing(position)
        kept = [
            other
            for other in self._recent
            if other >= self.nxt and self._held.containing(other) != block
        ]
        self._recent = [position, *kept][:4]

    def _take_fin(self) -> None:
        if self._fin == self.nxt and not self.fin_received:
            self.fin_received = True
            self.nxt += 1
            self.ack_now = True

    def _schedule_ack(self, now: float) -> None:
        # More than one full segment, by the largest that came: the peer may send less than our MSS.
        if self._quick or self.nxt - self._acked > self._largest:
            self.ack_now = True
        elif self.ack_at is None:
            self.ack_at = now + DELAYED_ACK
