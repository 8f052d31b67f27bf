"""IPv6 packets as octets: built, read, and their chain of extension headers walked within bounds.

RFC 8200. ESP, AH and No Next Header end a chain: what is behind them belongs to others.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol
from ipseclab.wire import ip
from ipseclab.wire.ip import DEFAULT_TTL, Flow

IPV6_HEADER = struct.Struct("!IHBB16s16s")
IPV6_HEADER_SIZE = 40
IPV6_ADDRESS_SIZE = 16
FRAGMENT_HEADER_SIZE = 8

# RFC 4443.
ICMPV6_UNREACHABLE, ICMPV6_PACKET_TOO_BIG, ICMPV6_TIME_EXCEEDED = 1, 2, 3
ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY = 128, 129

MOST_EXTENSION_HEADERS = 16
"""Own limit: RFC 8200 has each at most once, destination options twice."""

HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
_PORT_PROTOCOLS = (IpProtocol.TCP, IpProtocol.UDP)


class Extension(NamedTuple):
    """An extension header: its protocol number, where it begins, how long it is."""

    protocol: int
    start: int
    size: int


class Ipv6Header(NamedTuple):
    """The fields of an IPv6 header, and its chain: `protocol` is what follows the last extension
    header, at `header_length`. Of a fragment other than the first that is a piece of it."""

    traffic_class: int
    total_length: int
    hop_limit: int
    protocol: int
    source: bytes
    destination: bytes
    header_length: int
    extensions: tuple[Extension, ...]
    fragment_offset: int
    """In units of 8 octets; 0 for a first fragment and for a whole packet."""
    is_fragment: bool


#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |Version| Traffic Class |           Flow Label                  |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |         Payload Length        |  Next Header  |   Hop Limit   |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                  Source Address, Destination Address          ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def decode_ipv6_header(packet: bytes | memoryview) -> Ipv6Header:
    """The header of `packet` with its chain. Raises WireError unless it is IPv6 and as long as it
    says."""
    if len(packet) < IPV6_HEADER_SIZE:
        raise WireError(f"IPv6 packet {len(packet)} octets, at least {IPV6_HEADER_SIZE} needed")
    first, length, protocol, hop_limit, source, destination = IPV6_HEADER.unpack_from(packet)
    if first >> 28 != 6:
        raise WireError(f"IP version {first >> 28}, expected 6")
    total = IPV6_HEADER_SIZE + length
    if total > len(packet):
        raise WireError(f"IPv6 length {total}, have {len(packet)}")
    extensions: list[Extension] = []
    at, offset, fragment = IPV6_HEADER_SIZE, 0, False
    while protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS) and not offset:
        if len(extensions) == MOST_EXTENSION_HEADERS:
            raise WireError(f"more than {MOST_EXTENSION_HEADERS} extension headers")
        if at + 8 > total:
            raise WireError(f"extension header {protocol} at {at}, packet ends at {total}")
        size = 8 if protocol == FRAGMENT else (packet[at + 1] + 1) * 8
        if at + size > total:
            raise WireError(f"extension header {protocol} of {size} octets, {total - at} left")
        if protocol == FRAGMENT:
            field = packet[at + 2] << 8 | packet[at + 3]
            offset, fragment = field >> 3, bool(field & 0xFFF9)
        extensions.append(Extension(protocol, at, size))
        protocol, at = packet[at], at + size
    return Ipv6Header(
        first >> 20 & 0xFF,
        total,
        hop_limit,
        protocol,
        source,
        destination,
        at,
        tuple(extensions),
        offset,
        fragment,
    )


def build_ipv6(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    hop_limit: int = DEFAULT_TTL,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """A whole IPv6 packet around `payload`, which may begin with extension headers."""
    if len(payload) > 0xFFFF:
        raise WireError(f"IPv6 payload of {len(payload)} octets, at most 65535")
    first = 6 << 28 | traffic_class << 20 | flow_label
    header = IPV6_HEADER.pack(first, len(payload), protocol, hop_limit, source, destination)
    return header + payload


def build_icmpv6(source: bytes, destination: bytes, kind: int, code: int, body: bytes) -> bytes:
    """An ICMPv6 message with its checksum (RFC 4443 section 2.3); `body` follows the checksum."""
    message = bytes([kind, code, 0, 0]) + body
    value = ip.pseudo_header_checksum(source, destination, IpProtocol.ICMPV6, message)
    return message[:2] + value.to_bytes(2, "big") + body


def flow_of_packet(packet: bytes) -> Flow:
    """The selectors of an IPv4 or IPv6 packet. Raises WireError; a later fragment has ports 0."""
    if packet[:1] and packet[0] >> 4 == 6:
        return _flow_of_ipv6(packet)
    return ip.flow_of(packet)


def decode_ip_header(packet: bytes) -> ip.Ipv4Header | Ipv6Header:
    """The header of a packet of either family. Raises WireError."""
    if packet[:1] and packet[0] >> 4 == 6:
        return decode_ipv6_header(packet)
    return ip.decode_ipv4_header(packet)


def packet_length(packet: bytes) -> int:
    """The octets that an IPv4 or IPv6 packet says it has. Raises WireError."""
    if packet[:1] and packet[0] >> 4 == 6:
        return decode_ipv6_header(packet).total_length
    return ip.decode_ipv4_header(packet).total_length


def _flow_of_ipv6(packet: bytes) -> Flow:
    header = decode_ipv6_header(packet)
    start = header.header_length
    source_port = destination_port = 0
    if not header.fragment_offset:
        if header.protocol in _PORT_PROTOCOLS and header.total_length >= start + 4:
            source_port, destination_port = struct.unpack_from("!HH", packet, start)
        elif header.protocol == IpProtocol.ICMPV6 and header.total_length >= start + 2:
            source_port = packet[start] << 8 | packet[start + 1]
    ports = (source_port, destination_port)
    later = bool(header.fragment_offset)
    return Flow(header.source, header.destination, header.protocol, *ports, later)
