"""AH: the header made and checked, over IPv4 and IPv6.

RFC 4302, with extended sequence numbers (section 2.5.1). The ICV covers the IP header in front, its
mutable fields as zeros and its predictable ones as they arrive (section 3.3.3.1); that is why AH
cannot pass a NAT: the addresses are immutable, and what arrives changed ends as `bad_icv`.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import NamedTuple

from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.sad import InboundHalf, OutboundHalf
from ipseclab.wire.ip import IPV4_HEADER_SIZE
from ipseclab.wire.ipv6 import (
    DESTINATION_OPTIONS,
    HOP_BY_HOP,
    IPV6_ADDRESS_SIZE,
    IPV6_HEADER_SIZE,
    ROUTING,
    decode_ipv6_header,
)

FIXED_SIZE = 12
"""Next header, length, RESERVED, SPI and sequence number; the ICV follows."""

_LOW = 0xFFFF_FFFF

# RFC 4302 appendix A1: IPv4 options that no router changes; all others count as zeros.
_END, _NO_OPERATION = 0, 1
_IMMUTABLE_OPTIONS = (_END, _NO_OPERATION, 130, 133, 134, 148, 149)
_SOURCE_ROUTES = (131, 137)
# RFC 8200 section 4.2: an IPv6 option whose data may change on the way.
_CHANGES_EN_ROUTE = 0x20
_PAD1 = 0
_PREDICTABLE_ROUTES = (0, 2)


class OpenedAh(NamedTuple):
    """What was behind an AH that verified."""

    next_header: int
    payload: bytes
    newest: bool


def header_size(icv_size: int, *, ipv6: bool) -> int:
    """Octets of the whole AH: in IPv6 a multiple of 8 (RFC 4302 section 2.6)."""
    align = 8 if ipv6 else 4
    return -(-(FIXED_SIZE + icv_size) // align) * align


#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Next Header   |  Payload Len  |          RESERVED             |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                 Security Parameters Index (SPI)               |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                    Sequence Number Field                      |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                Integrity Check Value-ICV (variable)           ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def begin_ah(half: OutboundHalf, next_header: int, *, ipv6: bool) -> bytes:
    """An AH under the next sequence number, its ICV zeros; `finish_ah` fills that in. Raises
    Dropped."""
    sequence = half.sequence + 1
    if sequence > half.last:
        raise Dropped(DropReason.SEQUENCE_EXHAUSTED)
    half.sequence = sequence
    size = header_size(half.icv_size, ipv6=ipv6)
    fixed = bytes([next_header, size // 4 - 2, 0, 0]) + half.spi
    return (fixed + (sequence & _LOW).to_bytes(4, "big")).ljust(size, b"\0")


def finish_ah(half: OutboundHalf, packet: bytes, at: int) -> bytes:
    """The whole `packet`, whose AH is at octet `at`, with its ICV."""
    half.packets += 1
    half.octets += len(packet)
    icv = _icv(half, packet, at, half.sequence, half.sequence.to_bytes(8, "big"))
    start = at + FIXED_SIZE
    return packet[:start] + icv + packet[start + len(icv) :]


def open_ah(half: InboundHalf, packet: bytes, at: int) -> OpenedAh:
    """What is behind the AH at octet `at` of a whole packet. Raises Dropped.

    In the order of RFC 4302 section 3.4: replay check, ICV, replay mark.
    """
    size = header_size(half.icv_size, ipv6=packet[0] >> 4 == 6)
    if len(packet) < at + size or (packet[at + 1] + 2) * 4 != size:
        raise Dropped(DropReason.MALFORMED)
    sequence = int.from_bytes(packet[at + 8 : at + FIXED_SIZE], "big")
    if half.esn:
        sequence = half.replay.extended(sequence)
    if not half.replay.check(sequence):
        raise Dropped(DropReason.REPLAYED)
    start = at + FIXED_SIZE
    end = start + half.icv_size
    found = packet[start:end]
    blank = packet[:start] + bytes(half.icv_size) + packet[end:]
    if not compare_digest(found, _icv(half, blank, at, sequence, found[:8])):
        raise Dropped(DropReason.BAD_ICV)
    newest = half.replay.mark(sequence)
    half.packets += 1
    half.octets += len(packet)
    return OpenedAh(packet[at], packet[at + size :], newest)


def _icv(
    half: OutboundHalf | InboundHalf, packet: bytes, at: int, sequence: int, iv: bytes
) -> bytes:
    """The ICV of a packet with zeros in its place; with GMAC an IV and the tag under it."""
    covered = immutable_part(packet, at) + packet[at:]
    if half.esn:
        covered += (sequence >> 32).to_bytes(4, "big")
    assert half.mac is not None
    return iv + half.mac(iv, covered) if half.mac_takes_iv else half.mac(covered)


def immutable_part(packet: bytes, at: int) -> bytes:
    """The headers before octet `at` as the ICV covers them. Raises Dropped."""
    head = bytearray(packet[:at])
    if packet[0] >> 4 == 6:
        _still_ipv6(head)
    else:
        _still_ipv4(head)
    return bytes(head)


def _still_ipv4(head: bytearray) -> None:
    """RFC 4302 section 3.3.3.1.1: TOS, flags, offset, TTL and checksum are mutable."""
    head[1] = head[8] = 0
    head[6:8] = head[10:12] = b"\0\0"
    at = IPV4_HEADER_SIZE
    while at < len(head) and head[at] != _END:
        if head[at] == _NO_OPERATION:
            at += 1
            continue
        size = head[at + 1] if at + 1 < len(head) else 0
        if size < 2 or at + size > len(head):
            raise Dropped(DropReason.MALFORMED)
        if head[at] in _SOURCE_ROUTES and size >= 7 and head[at + 2] < size:
            # The destination at the end of the route is what arrives.
            head[16:20] = head[at + size - 4 : at + size]
        if head[at] not in _IMMUTABLE_OPTIONS:
            head[at : at + size] = bytes(size)
        at += size


def _still_ipv6(head: bytearray) -> None:
    """RFC 4302 section 3.3.3.1.2: class, flow label and hop limit are mutable, and options that say
    so; a routing header is as it arrives."""
    head[0:4] = b"\x60\0\0\0"
    head[7] = 0
    # Only the chain before AH: the header's own length would reach beyond it.
    chain = bytes(head[:4]) + (len(head) - IPV6_HEADER_SIZE).to_bytes(2, "big") + bytes(head[6:])
    for extension in decode_ipv6_header(chain).extensions:
        start, end = extension.start, extension.start + extension.size
        if extension.protocol in (HOP_BY_HOP, DESTINATION_OPTIONS):
            _still_options(head, start + 2, end)
        elif extension.protocol == ROUTING and head[start + 2] in _PREDICTABLE_ROUTES:
            _still_route(head, start, end)


def _still_options(head: bytearray, at: int, end: int) -> None:
    while at < end:
        if head[at] == _PAD1:
            at += 1
            continue
        if at + 2 > end or at + 2 + head[at + 1] > end:
            raise Dropped(DropReason.MALFORMED)
        size = head[at + 1]
        if head[at] & _CHANGES_EN_ROUTE:
            head[at + 2 : at + 2 + size] = bytes(size)
        at += 2 + size


def _still_route(head: bytearray, start: int, end: int) -> None:
    """Addresses as at the last hop: the header's destination has gone through all of them."""
    first = start + 8
    left, room = head[start + 3], (end - first) // IPV6_ADDRESS_SIZE
    if left > room:
        raise Dropped(DropReason.MALFORMED)
    if not left:
        return
    route = [bytes(head[at : at + 16]) for at in range(first, first + 16 * room, 16)]
    passed, ahead = route[: room - left], route[room - left :]
    addresses = [*passed, bytes(head[24:40]), *ahead]
    head[24:40] = addresses.pop()
    head[first : first + 16 * room] = b"".join(addresses)
    head[start + 3] = 0
