"""Fragments: made before or after protection, put together again within bounds.

RFC 791 section 3.2, RFC 8200 section 4.5; RFC 4303 section 3.4.1 wants ESP whole before it is
opened. Fragments that overlap spoil their packet (RFC 5722, done for IPv4 too).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.ipsec import ipv4, ipv6
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    FRAGMENT_OFFSET_MASK,
    MORE_FRAGMENTS,
    decode_ipv4_header,
)
from ipseclab.wire.ipv6 import (
    FRAGMENT,
    FRAGMENT_HEADER_SIZE,
    decode_ip_header,
    decode_ipv6_header,
)

MOST_PIECES = 64
"""Fragments of one packet: 9,000 octets over the smallest path are 17."""

PACKET_LIMIT = 0xFFFF
_COPIED_OPTION = 0x80
_END, _NO_OPERATION = 0, 1


def fragments_of(packet: bytes, mtu: int, identification: int = 0) -> list[bytes]:
    """A packet as fragments of at most `mtu` octets; itself when it fits. Raises Dropped when not
    even 8 octets fit. `identification` is for IPv6, which has none in its header."""
    if len(packet) <= mtu:
        return [packet]
    if packet[0] >> 4 == 6:
        return _ipv6_fragments(packet, mtu, identification)
    header = decode_ipv4_header(packet)
    first = packet[: header.header_length]
    later = _later_header(first)
    payload = packet[header.header_length : header.total_length]
    size = (mtu - len(first)) // 8 * 8
    if size <= 0:
        raise Dropped(DropReason.TOO_BIG)
    found: list[bytes] = []
    base, more_after = header.fragment_offset, header.flags_fragment & MORE_FRAGMENTS
    for start in range(0, len(payload), size):
        last = start + size >= len(payload)
        flags = (more_after if last else MORE_FRAGMENTS) | base + start // 8
        head = later if start else first
        found.append(_with_flags(head, flags, payload[start : start + size]))
    return found


def is_fragment(packet: bytes) -> bool:
    """True for a piece of a packet, as far as the packet can be read."""
    try:
        return decode_ip_header(packet).is_fragment
    except WireError:
        return False


def datagram_of(fragment: bytes) -> bytes:
    """What the fragments of one packet have in common, and with no other's."""
    return _taken_apart(fragment).key


def _ipv6_fragments(packet: bytes, mtu: int, identification: int) -> list[bytes]:
    """RFC 8200 section 4.5: a fragment header behind what every router has to see."""
    split = ipv6.split_for_transport(packet)
    size = (mtu - len(split.head) - FRAGMENT_HEADER_SIZE) // 8 * 8
    if size <= 0:
        raise Dropped(DropReason.TOO_BIG)
    found: list[bytes] = []
    for start in range(0, len(split.payload), size):
        field = start | (start + size < len(split.payload))
        extension = bytes([split.next_header, 0]) + field.to_bytes(2, "big")
        extension += (identification & 0xFFFF_FFFF).to_bytes(4, "big")
        piece = extension + split.payload[start : start + size]
        found.append(ipv6.with_protocol(split.head, FRAGMENT, piece))
    return found


def _with_flags(head: bytes, flags: int, payload: bytes) -> bytes:
    return ipv4.with_protocol(head[:6] + flags.to_bytes(2, "big") + head[8:], head[9], payload)


def _later_header(first: bytes) -> bytes:
    """The header of a fragment but the first: only options that are to be copied."""
    options, at = b"", 20
    while at < len(first) and first[at] != _END:
        size = 1 if first[at] == _NO_OPERATION else first[at + 1] if at + 1 < len(first) else 0
        if size < 1 or at + size > len(first):
            break
        if first[at] & _COPIED_OPTION:
            options += first[at : at + size]
        at += size
    options += bytes(-len(options) % 4)
    return bytes([0x40 | (20 + len(options)) // 4]) + first[1:20] + options


class _Fragment(NamedTuple):
    """One fragment taken apart: its datagram's key, the header of the whole, place and octets."""

    key: bytes
    head: bytes
    start: int
    octets: bytes
    more: bool


@dataclass(slots=True)
class _Datagram:
    """A packet that is not whole yet."""

    expires: float
    head: bytes | None = None
    pieces: dict[int, bytes] = field(default_factory=dict)
    end: int | None = None
    size: int = 0


class Reassembler:
    """Packets in pieces: so many at a time, so many octets, so long."""

    def __init__(self, packets: int, octets: int, seconds: float) -> None:
        self._limits = packets, octets
        self._seconds = seconds
        self._datagrams: dict[bytes, _Datagram] = {}
        self._octets = 0
        self._lost = 0

    def add(self, packet: bytes, now: float) -> bytes | None:
        """The whole packet when this fragment was the last that lacked, else None. Raises Dropped:
        no room, or pieces that contradict each other."""
        fragment = _taken_apart(packet)
        datagram = self._datagrams.get(fragment.key)
        if datagram is None:
            if len(self._datagrams) >= self._limits[0]:
                raise Dropped(DropReason.REASSEMBLY_FULL)
            datagram = self._datagrams[fragment.key] = _Datagram(now + self._seconds)
        if self._octets + len(fragment.octets) > self._limits[1]:
            self._spoil(fragment.key)
            raise Dropped(DropReason.REASSEMBLY_FULL)
        if not _fits(datagram, fragment):
            if fragment.octets != datagram.pieces.get(fragment.start):
                self._spoil(fragment.key)
            raise Dropped(DropReason.BAD_FRAGMENT)
        self._keep(datagram, fragment)
        if datagram.end is None or datagram.size < datagram.end or datagram.head is None:
            return None
        self._forget(fragment.key)
        payload = b"".join(datagram.pieces[start] for start in sorted(datagram.pieces))
        return _whole(datagram.head, payload)

    def next_expiry(self) -> float | None:
        """When the oldest has waited long enough; packets are kept in the order of that."""
        return next((datagram.expires for datagram in self._datagrams.values()), None)

    def expire(self, now: float) -> int:
        """Forget what has waited long enough; how many fragments that were, and those that were
        with a fragment that could not be kept."""
        past = [key for key, datagram in self._datagrams.items() if datagram.expires <= now]
        lost, self._lost = self._lost, 0
        for key in past:
            lost += len(self._datagrams[key].pieces)
            self._forget(key)
        return lost

    def _keep(self, datagram: _Datagram, fragment: _Fragment) -> None:
        datagram.pieces[fragment.start] = fragment.octets
        datagram.size += len(fragment.octets)
        self._octets += len(fragment.octets)
        if not fragment.start:
            datagram.head = fragment.head
        if not fragment.more:
            datagram.end = fragment.start + len(fragment.octets)

    def _spoil(self, key: bytes) -> None:
        self._lost += len(self._datagrams[key].pieces)
        self._forget(key)

    def _forget(self, key: bytes) -> None:
        self._octets -= self._datagrams.pop(key).size


def _fits(datagram: _Datagram, fragment: _Fragment) -> bool:
    """True when the fragment overlaps no other and lies before the packet's end."""
    start, end = fragment.start, fragment.start + len(fragment.octets)
    if len(datagram.pieces) >= MOST_PIECES or end > PACKET_LIMIT:
        return False
    if fragment.more and (len(fragment.octets) % 8 or not fragment.octets):
        return False
    if datagram.end is not None and (end > datagram.end or not fragment.more):
        return False
    if not fragment.more and any(s + len(o) > end for s, o in datagram.pieces.items()):
        return False
    return all(s >= end or s + len(o) <= start for s, o in datagram.pieces.items())


def _taken_apart(packet: bytes) -> _Fragment:
    if packet[0] >> 4 == 4:
        header = decode_ipv4_header(packet)
        ends = header.source + header.destination
        key = ends + bytes([header.protocol]) + header.identification.to_bytes(2, "big")
        keep = header.flags_fragment & ~(MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK) & DONT_FRAGMENT
        size = header.header_length
        head = packet[:6] + keep.to_bytes(2, "big") + packet[8:size]
        more = bool(header.flags_fragment & MORE_FRAGMENTS)
        octets = packet[size : header.total_length]
        return _Fragment(key, head, header.fragment_offset * 8, octets, more)
    six = decode_ipv6_header(packet)
    extension = next(item for item in six.extensions if item.protocol == FRAGMENT)
    at = extension.start
    key = six.source + six.destination + packet[at + 4 : at + 8]
    # The header in front of the fragment header announces what was behind it.
    head = ipv6.with_protocol(packet[:at], packet[at], b"")
    octets = packet[at + FRAGMENT_HEADER_SIZE : six.total_length]
    return _Fragment(key, head, six.fragment_offset * 8, octets, bool(packet[at + 3] & 1))


def _whole(head: bytes, payload: bytes) -> bytes:
    if head[0] >> 4 == 4:
        return ipv4.with_protocol(head, head[9], payload)
    length = len(head) - 40 + len(payload)
    if length > PACKET_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    return head[:4] + length.to_bytes(2, "big") + head[6:] + payload
