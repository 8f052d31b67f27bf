"""AGGFRAG payloads: inner packets as a stream of blocks across ESP packets of one size.

RFC 9347 sections 2.2 and 6.1. A payload begins with how far the packet goes on that an earlier one
began; packets follow each other without a gap, the last one goes on in the next payload, and what
is left is padding. Congestion control (sub-type 1) is left out: USE_AGGFRAG is not agreed with a
peer that asks for it.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |  Sub-Type (0) |   Reserved    |          BlockOffset          |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |  the rest of a packet, packets, the first part of a packet or padding ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from ipseclab.ipsec.counters import Dropped, DropReason

HEADER_SIZE = 4
NON_CONGESTION_CONTROL = 0

QUEUED_PACKETS = 1024
QUEUED_OCTETS = 1_048_576
"""Inner packets that wait for their turn; what comes beyond is dropped, as at any full link."""

WINDOW = 256
"""Payloads with parts of packets that wait for the others; a packet of 65,535 octets in payloads of
300 fits."""
WINDOW_OCTETS = 524_288

_SMALLEST_IPV4, _SMALLEST_IPV6 = 20, 40


class BlockSender:
    """The inner packets that wait to be sent, and how far the one is that has been begun."""

    __slots__ = ("_begun", "_octets", "_sent", "_waiting", "fragments")

    def __init__(self, *, fragments: bool = True) -> None:
        self.fragments = fragments
        """Whether packets may be cut: the peer may have said that it cannot join them."""
        self._waiting: deque[bytes] = deque()
        self._octets = 0
        self._begun = b""
        self._sent = 0

    def offer(self, packet: bytes) -> bool:
        """Let a packet wait; False when there is no room."""
        full = len(self._waiting) >= QUEUED_PACKETS or self._octets + len(packet) > QUEUED_OCTETS
        if full:
            return False
        self._waiting.append(packet)
        self._octets += len(packet)
        return True

    def leave(self) -> list[bytes]:
        """Take away all packets that have not been sent to their last octet."""
        left = [self._begun] if self._begun else []
        left += self._waiting
        self._begun, self._sent, self._octets = b"", 0, 0
        self._waiting.clear()
        return left

    def fill(self, size: int) -> tuple[bytes, list[bytes]]:
        """A payload of `size` octets, and the packets that end in it."""
        offset = len(self._begun) - self._sent
        blocks, ended = bytearray(), list[bytes]()
        room = size - HEADER_SIZE
        while room > len(blocks) and self._next(room - len(blocks)):
            part = self._begun[self._sent : self._sent + room - len(blocks)]
            blocks += part
            self._sent += len(part)
            if self._sent == len(self._begun):
                ended.append(self._begun)
                self._begun, self._sent = b"", 0
        header = bytes([NON_CONGESTION_CONTROL, 0]) + offset.to_bytes(2, "big")
        return header + blocks.ljust(room, b"\0"), ended

    def _next(self, room: int) -> bool:
        """Whether there is something to put in; begins the next packet where none is begun."""
        if self._begun:
            return True
        if not self._waiting or not (self.fragments or len(self._waiting[0]) <= room):
            return False
        self._begun = self._waiting.popleft()
        self._octets -= len(self._begun)
        return True


@dataclass(slots=True)
class _Parts:
    """What one payload holds of packets that are not in it as a whole."""

    end: bytes | None = None
    """The last octets of a packet begun earlier."""
    middle: bytes | None = None
    """All of the payload, of a packet that neither begins nor ends in it."""
    start: bytes | None = None
    """The first octets of a packet that ends later."""
    padding: bool = False
    """Nothing at all: the packet may go on behind it."""

    @property
    def parts(self) -> Iterator[bytes]:
        """Those that are there."""
        return (part for part in (self.end, self.middle, self.start) if part is not None)


class BlockReceiver:
    """Inner packets out of payloads, in whatever order those come.

    A packet that is whole in its payload does not wait for others; parts of packets do, within a
    window of sequence numbers.
    """

    __slots__ = ("_octets", "_parts", "lost")

    def __init__(self) -> None:
        self._parts: dict[int, _Parts] = {}
        self._octets = 0
        self.lost = 0
        """Parts that were given up, not yet asked for by `take_lost`."""

    @property
    def waiting(self) -> tuple[int, int]:
        """Payloads of which parts wait, and the octets of those."""
        return len(self._parts), self._octets

    def take_lost(self) -> int:
        """How many parts were given up since the last call."""
        lost, self.lost = self.lost, 0
        return lost

    def take(self, sequence: int, payload: bytes) -> list[bytes]:
        """The inner packets that a payload makes whole. Raises Dropped for one that is none; what
        is wrong behind good packets counts as lost."""
        if len(payload) < HEADER_SIZE or payload[0] != NON_CONGESTION_CONTROL:
            raise Dropped(DropReason.MALFORMED)
        blocks = payload[HEADER_SIZE:]
        offset = int.from_bytes(payload[2:HEADER_SIZE], "big")
        if offset > len(blocks):
            self._keep(sequence, _Parts(middle=blocks))
            return self._joined(sequence)
        parts = _Parts(end=blocks[:offset] if offset else None)
        packets, parts.start, good = _cut(blocks[offset:])
        self.lost += not good
        parts.padding = not packets and not offset and parts.start is None and good
        if not packets or parts.end is not None or parts.start is not None:
            self._keep(sequence, parts)
        if parts.end is not None:
            packets = self._joined(sequence) + packets
        elif parts.padding:
            packets = self._joined(sequence)
        if parts.start is not None:
            packets += self._joined(sequence + 1, begun=sequence)
        return packets

    def _keep(self, sequence: int, parts: _Parts) -> None:
        self._parts[sequence] = parts
        self._octets += sum(map(len, parts.parts))
        while len(self._parts) > WINDOW or self._octets > WINDOW_OCTETS:
            oldest = min(self._parts)
            self.lost += sum(1 for _ in self._parts[oldest].parts)
            self._forget(oldest)

    def _forget(self, sequence: int) -> None:
        self._octets -= sum(map(len, self._parts.pop(sequence).parts))

    def _joined(self, sequence: int, *, begun: int | None = None) -> list[bytes]:
        """The packet that goes through `sequence`, when all of it is there."""
        if begun is None:
            begun = sequence - 1
            while (before := self._parts.get(begun)) is not None and before.start is None:
                if before.middle is None and not before.padding:
                    return []
                begun -= 1
        first = self._parts.get(begun)
        if first is None or first.start is None:
            return []
        found, last = [first.start], begun + 1
        while (parts := self._parts.get(last)) is not None:
            if parts.end is not None:
                return self._ended(begun, last, b"".join([*found, parts.end]))
            if parts.middle is not None:
                found.append(parts.middle)
            elif not parts.padding:
                break
            last += 1
        return []

    def _ended(self, begun: int, last: int, packet: bytes) -> list[bytes]:
        """Take away what a packet was made of; the packet, when it is as long as it says."""
        for sequence in range(begun + 1, last):
            self._forget(sequence)
        for sequence, name in ((begun, "start"), (last, "end")):
            parts = self._parts[sequence]
            self._octets -= len(getattr(parts, name))
            setattr(parts, name, None)
            if not any(True for _ in parts.parts):
                del self._parts[sequence]
        if _length_of(packet) != len(packet):
            self.lost += 1
            return []
        return [packet]


def _cut(blocks: bytes) -> tuple[list[bytes], bytes | None, bool]:
    """Whole packets, the first part of one, and whether all was as it has to be."""
    packets: list[bytes] = []
    at = 0
    while at < len(blocks) and blocks[at] >> 4:
        length = _length_of(blocks[at:])
        if length is None:
            return packets, blocks[at:], True
        if not length:
            return packets, None, False
        if at + length > len(blocks):
            return packets, blocks[at:], True
        packets.append(blocks[at : at + length])
        at += length
    return packets, None, True


def _length_of(packet: bytes) -> int | None:
    """How long the packet is that begins so; None when that is not to be seen yet, 0 for what is no
    packet."""
    version = packet[0] >> 4
    if version == 4:
        length = int.from_bytes(packet[2:4], "big")
        return None if len(packet) < 4 else length if length >= _SMALLEST_IPV4 else 0
    if version == 6:
        return None if len(packet) < 6 else int.from_bytes(packet[4:6], "big") + _SMALLEST_IPV6
    return 0
