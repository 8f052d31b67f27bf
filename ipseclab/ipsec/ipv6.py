"""IPv6 headers around and inside ESP and AH: the counterpart of `ipv4.py`.

RFC 4301 section 5.1.2.2 (what an outer header takes from the inner one), RFC 4303 section 3.1.1 and
RFC 4302 section 3.1.1 (where among the extension headers ESP and AH stand), RFC 6040 (ECN).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.registry import IpProtocol
from ipseclab.wire.ipv6 import (
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    IPV6_HEADER_SIZE,
    ROUTING,
    build_ipv6,
    decode_ipv6_header,
)

PAYLOAD_LIMIT = 0xFFFF
"""RFC 8200 section 3; jumbograms are not made."""

_START = struct.Struct("!BxxxHB")
_ADDRESSES = slice(8, 40)
_PORTS = (IpProtocol.TCP, IpProtocol.UDP)
_CHAIN = (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, IpProtocol.ESP, IpProtocol.AH)
_FAMILY = b"6"


class Split(NamedTuple):
    """A packet in two: what stays in front of ESP or AH, and what goes behind."""

    head: bytes
    next_header: int
    payload: bytes


def flow_key(packet: bytes) -> bytes:
    """As `ipv4.flow_key`: only a packet without extension headers, as long as it says, has one."""
    if len(packet) < IPV6_HEADER_SIZE + 4:
        return b""
    _first, length, protocol = _START.unpack_from(packet)
    if IPV6_HEADER_SIZE + length != len(packet) or protocol in _CHAIN:
        return b""
    key = _FAMILY + bytes([protocol]) + packet[_ADDRESSES]
    if protocol in _PORTS:
        return key + packet[IPV6_HEADER_SIZE : IPV6_HEADER_SIZE + 4]
    if protocol == IpProtocol.ICMPV6:
        return key + packet[IPV6_HEADER_SIZE : IPV6_HEADER_SIZE + 2]
    return key


def traffic_class(packet: bytes) -> int:
    """The octet that IPv4 calls TOS: DSCP and ECN."""
    return (packet[0] & 0x0F) << 4 | packet[1] >> 4


def with_traffic_class(packet: bytes, value: int) -> bytes:
    """The packet with another DSCP and ECN; IPv6 has no header checksum."""
    return bytes([0x60 | value >> 4, (value & 0x0F) << 4 | packet[1] & 0x0F]) + packet[2:]


def around(
    source: bytes, destination: bytes, protocol: int, payload: bytes, *, inner_class: int
) -> bytes:
    """Tunnel mode: the outer packet. Its flow label is 0, as the inner one's would tell flows
    apart. Raises Dropped."""
    try:
        return build_ipv6(
            source,
            destination,
            protocol,
            payload,
            traffic_class=inner_class,
        )
    except WireError:
        raise Dropped(DropReason.TOO_BIG) from None


def split_for_transport(packet: bytes) -> Split:
    """Where ESP or AH goes in: behind hop-by-hop options, routing headers, and the destination
    options before a routing header. Raises Dropped for a fragment."""
    try:
        header = decode_ipv6_header(packet)
    except WireError:
        raise Dropped(DropReason.MALFORMED) from None
    if any(extension.protocol == FRAGMENT for extension in header.extensions):
        raise Dropped(DropReason.MALFORMED)
    at, before = IPV6_HEADER_SIZE, 6
    for index, extension in enumerate(header.extensions):
        later = header.extensions[index:]
        if extension.protocol == DESTINATION_OPTIONS and not any(
            other.protocol == ROUTING for other in later
        ):
            break
        at, before = extension.start + extension.size, extension.start
    return Split(packet[:at], packet[before], packet[at : header.total_length])


def with_protocol(head: bytes, protocol: int, payload: bytes) -> bytes:
    """Transport mode: `head` (a header with its extension headers) around another payload, which
    the last of them announces as `protocol`. Raises Dropped."""
    length = len(head) - IPV6_HEADER_SIZE + len(payload)
    if length > PAYLOAD_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    out = bytearray(head)
    out[4:6] = length.to_bytes(2, "big")
    out[_last_next_header(head)] = protocol
    return bytes(out) + payload


def _last_next_header(head: bytes) -> int:
    """Where the last header of `head` says what follows."""
    before, at = 6, IPV6_HEADER_SIZE
    while at < len(head):
        before, at = at, at + (head[at + 1] + 1) * 8
    return before


def trimmed(payload: bytes) -> bytes:
    """The IPv6 packet at the start of a tunnel's payload. Raises Dropped."""
    try:
        return payload[: decode_ipv6_header(payload).total_length]
    except WireError:
        raise Dropped(DropReason.MALFORMED) from None
