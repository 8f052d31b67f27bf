"""IPv4, UDP and ICMP echo packets as octets: built, read and checksummed.

RFC 791, RFC 768, RFC 792. Packets stay `bytes` all the way through the lab; these functions read or
write single fields. IPv6 is in `wire/ipv6.py`.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol

IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
UDP_HEADER = struct.Struct("!HHHH")
ICMP_ECHO_HEADER = struct.Struct("!BBHHH")

IPV4_HEADER_SIZE = 20
UDP_HEADER_SIZE = 8
ICMP_ECHO_HEADER_SIZE = 8
DEFAULT_TTL = 64
ICMP_ECHO_REPLY = 0
ICMP_UNREACHABLE = 3
ICMP_ECHO_REQUEST = 8
ICMP_TIME_EXCEEDED = 11

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
FRAGMENT_OFFSET_MASK = 0x1FFF

REMEMBERED_ADDRESSES = 4096
"""Own limit: addresses in text whose octets are remembered."""

_PORT_PROTOCOLS = (IpProtocol.TCP, IpProtocol.UDP)
_UDP = int(IpProtocol.UDP)
_LONG = 512
"""Octets from which on a sum is quicker in four parts."""


def checksum(octets: bytes) -> int:
    """The Internet checksum of `octets` (RFC 1071), as a 16-bit integer to store big-endian.

    The one's-complement sum of 16-bit words is the number modulo 65535; an odd length counts as if
    a zero octet followed.
    """
    if len(octets) & 1:
        octets = octets + b"\0"
    total = int.from_bytes(octets, "big") % 0xFFFF
    if total == 0 and not any(octets):
        return 0xFFFF
    return 0xFFFF - (total if total else 0xFFFF)


class Ipv4Header(NamedTuple):
    """The fields of an IPv4 header; addresses are 4 octets, `options` whole 32-bit words."""

    tos: int
    total_length: int
    identification: int
    flags_fragment: int
    ttl: int
    protocol: int
    source: bytes
    destination: bytes
    header_length: int

    @property
    def is_fragment(self) -> bool:
        """True for any fragment, first or later."""
        return bool(self.flags_fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK))

    @property
    def fragment_offset(self) -> int:
        """In units of 8 octets."""
        return self.flags_fragment & FRAGMENT_OFFSET_MASK

    @property
    def dont_fragment(self) -> bool:
        """True when routers must not fragment the packet."""
        return bool(self.flags_fragment & DONT_FRAGMENT)


def decode_ipv4_header(packet: bytes | memoryview) -> Ipv4Header:
    """The header of `packet`. Raises WireError unless it is IPv4 and as long as it says."""
    if len(packet) < IPV4_HEADER_SIZE:
        raise WireError(f"IPv4 packet {len(packet)} octets, at least {IPV4_HEADER_SIZE} needed")
    first, tos, total, ident, frag, ttl, protocol, _sum, src, dst = IPV4_HEADER.unpack_from(packet)
    if first >> 4 != 4:
        raise WireError(f"IP version {first >> 4}, expected 4")
    header_length = (first & 0x0F) * 4
    if header_length < IPV4_HEADER_SIZE or header_length > total or total > len(packet):
        raise WireError(
            f"IPv4 lengths do not fit: header {header_length}, total {total}, have {len(packet)}"
        )
    return Ipv4Header(tos, total, ident, frag, ttl, protocol, src, dst, header_length)


def build_ipv4(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = DEFAULT_TTL,
    identification: int = 0,
    tos: int = 0,
    flags_fragment: int = 0,
) -> bytes:
    """A whole IPv4 packet without options around `payload`; addresses are 4 octets each."""
    total = IPV4_HEADER_SIZE + len(payload)
    if total > 0xFFFF:
        raise WireError(f"IPv4 packet of {total} octets, at most 65535")
    # RFC 1071 without the octets: the header's 16-bit words, summed as they are worked out.
    words = 0x4500 + tos + total + identification + flags_fragment + (ttl << 8) + protocol
    words = (words + int.from_bytes(source + destination, "big")) % 0xFFFF
    return (
        IPV4_HEADER.pack(
            0x45,
            tos,
            total,
            identification,
            flags_fragment,
            ttl,
            protocol,
            0xFFFF - words if words else 0,
            source,
            destination,
        )
        + payload
    )


def pseudo_header_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """The checksum of a TCP or UDP `segment` with its pseudo header (RFC 9293, RFC 768; the sum is
    the same with IPv6's, RFC 8200 section 8.1)."""
    total = int.from_bytes(source + destination, "big") + protocol + len(segment)
    # As in `checksum`; with a protocol and a length among the words the sum is never nothing.
    return 0xFFFF - ((total + words_of(segment)) % 0xFFFF or 0xFFFF)


def words_of(octets: bytes) -> int:
    """A number that is the sum of the 16-bit words of `octets` modulo 65535, the last one padded
    with a zero."""
    size = len(octets)
    if size & 1:
        octets += b"\0"
    read = int.from_bytes
    if size < _LONG:
        return read(octets, "big")
    # A division of a quarter of the digits: 2^16 is 1, so parts of whole words may be added up.
    part = size >> 3 << 1
    half, last = 2 * part, 3 * part
    parts = read(octets[:part], "big") + read(octets[part:half], "big")
    return parts + read(octets[half:last], "big") + read(octets[last:], "big")


def build_udp(
    source: bytes,
    source_port: int,
    destination: bytes,
    destination_port: int,
    data: bytes,
    *,
    zero_checksum: bool = False,
) -> bytes:
    """A UDP header and `data`; the addresses go into the checksum. With `zero_checksum` it stays 0
    (RFC 3948 section 2.1 wants that for ESP in UDP over IPv4)."""
    length = UDP_HEADER_SIZE + len(data)
    if zero_checksum:
        return UDP_HEADER.pack(source_port, destination_port, length, 0) + data
    segment = UDP_HEADER.pack(source_port, destination_port, length, 0) + data
    value = pseudo_header_checksum(source, destination, _UDP, segment) or 0xFFFF
    return UDP_HEADER.pack(source_port, destination_port, length, value) + data


def decode_udp(segment: bytes) -> tuple[int, int, bytes]:
    """Source port, destination port and data of a UDP segment. Raises WireError."""
    if len(segment) < UDP_HEADER_SIZE:
        raise WireError(f"UDP header {len(segment)} octets, {UDP_HEADER_SIZE} needed")
    source_port, destination_port, length, _sum = UDP_HEADER.unpack_from(segment)
    if not UDP_HEADER_SIZE <= length <= len(segment):
        raise WireError(f"UDP length {length}, have {len(segment)}")
    return source_port, destination_port, segment[UDP_HEADER_SIZE:length]


def build_icmp_echo(kind: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An ICMP echo request (8) or reply (0)."""
    value = checksum(ICMP_ECHO_HEADER.pack(kind, 0, 0, identifier, sequence) + data)
    return ICMP_ECHO_HEADER.pack(kind, 0, value, identifier, sequence) + data


class Flow(NamedTuple):
    """What a policy looks at in a packet (RFC 4301 section 4.4.1.1): addresses are 4 or 16 octets,
    ports are 0 where the protocol has none; for ICMP the source port is type * 256 + code."""

    source: bytes
    destination: bytes
    protocol: int
    source_port: int
    destination_port: int
    later_fragment: bool = False
    """True for a fragment other than the first: its ports cannot be seen."""

    def __str__(self) -> str:
        name = IpProtocol(self.protocol).name
        ends = f"{ip_address(self.source)} > {ip_address(self.destination)}"
        ports = (
            f" {self.source_port} > {self.destination_port}"
            if self.source_port or self.destination_port
            else ""
        )
        return f"{name} {ends}{ports}"


@lru_cache(REMEMBERED_ADDRESSES)
def packed_address(address: str) -> bytes:
    """The 4 or 16 octets of an address in text. Raises ValueError."""
    return ip_address(address).packed


def flow_of(packet: bytes) -> Flow:
    """The selectors of an IPv4 packet. Raises WireError; a later fragment has ports 0."""
    header = decode_ipv4_header(packet)
    start = header.header_length
    source_port = destination_port = 0
    if not header.fragment_offset:
        if header.protocol in _PORT_PROTOCOLS and header.total_length >= start + 4:
            source_port, destination_port = struct.unpack_from("!HH", packet, start)
        elif header.protocol == IpProtocol.ICMP and header.total_length >= start + 2:
            source_port = packet[start] << 8 | packet[start + 1]
    ports = (source_port, destination_port)
    later = bool(header.fragment_offset)
    return Flow(header.source, header.destination, header.protocol, *ports, later)
