"""Reading and rewriting of the packets that a NAT translates: IPv4 with UDP, TCP, ICMP.

RFC 3022 section 4 (what is to be changed), RFC 1624 (checksums by difference, so that a damaged
packet stays recognisably damaged), RFC 5508 section 4 (ICMP errors carry a packet inside).
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_TIME_EXCEEDED,
    ICMP_UNREACHABLE,
    IPV4_HEADER_SIZE,
    checksum,
    decode_ipv4_header,
)

ICMP_SOURCE_QUENCH = 4
ICMP_PARAMETER_PROBLEM = 12
ICMP_ERRORS = (
    ICMP_UNREACHABLE,
    ICMP_SOURCE_QUENCH,
    ICMP_TIME_EXCEEDED,
    ICMP_PARAMETER_PROBLEM,
)
ICMP_ERROR_HEADER_SIZE = 8

TCP_FIN, TCP_SYN, TCP_RST = 0x01, 0x02, 0x04

_TTL_AT, _PROTOCOL_AT, _IP_SUM_AT, _SOURCE_AT, _DESTINATION_AT = 8, 9, 10, 12, 16
_SUM_AT = {IpProtocol.TCP: 16, IpProtocol.UDP: 6, IpProtocol.ICMP: 2}
_ICMP_ID_AT = 4
_TCP_FLAGS_AT = 13
_SMALLEST = {IpProtocol.TCP: 20, IpProtocol.UDP: 8, IpProtocol.ICMP: 8}
_SMALLEST_INSIDE = 8
"""RFC 792: an ICMP error carries the header and 8 octets of what it is about."""


class Endpoint(NamedTuple):
    """An address (4 octets) and a port; for ICMP echo its identifier, 0 where there is neither."""

    address: bytes
    port: int

    def __str__(self) -> str:
        return f"{IPv4Address(self.address)}:{self.port}"


class Packet(NamedTuple):
    """What a NAT looks at in a packet."""

    protocol: int
    source: Endpoint
    destination: Endpoint
    ttl: int
    total_length: int
    identification: int
    header_length: int
    fragment_offset: int
    more_fragments: bool
    tcp_flags: int
    icmp_type: int | None

    @property
    def is_icmp_error(self) -> bool:
        """True for an ICMP message about another packet."""
        return self.icmp_type in ICMP_ERRORS


def read_packet(packet: bytes) -> Packet:
    """What stands in a whole IPv4 packet. Raises WireError, also for a bad header checksum."""
    header = decode_ipv4_header(packet)
    if checksum(packet[: header.header_length]):
        raise WireError("IPv4 header checksum does not fit")
    return _read(packet[: header.total_length], header.header_length, _SMALLEST)


def read_inside(packet: Packet, octets: bytes) -> Packet:
    """The packet that an ICMP error is about, which may be cut short. Raises WireError."""
    inside = octets[packet.header_length + ICMP_ERROR_HEADER_SIZE :]
    if len(inside) < IPV4_HEADER_SIZE or inside[0] >> 4 != 4:
        raise WireError("ICMP error without an IPv4 packet in it")
    header_length = (inside[0] & 0x0F) * 4
    if header_length < IPV4_HEADER_SIZE:
        raise WireError(f"IPv4 header of {header_length} octets inside an ICMP error")
    smallest = dict.fromkeys(_SMALLEST, _SMALLEST_INSIDE)
    return _read(inside, header_length, smallest)


def _read(octets: bytes, start: int, smallest: dict[IpProtocol, int]) -> Packet:
    protocol = octets[_PROTOCOL_AT]
    fragment = int.from_bytes(octets[6:8], "big")
    offset = fragment & 0x1FFF
    source_port = destination_port = flags = 0
    icmp_type: int | None = None
    if not offset and protocol in smallest:
        if len(octets) - start < smallest[IpProtocol(protocol)]:
            raise WireError(f"protocol {protocol} header cut short at {len(octets) - start} octets")
        if protocol == IpProtocol.ICMP:
            icmp_type = octets[start]
            identifier = int.from_bytes(octets[start + 4 : start + 6], "big")
            source_port = identifier if icmp_type == ICMP_ECHO_REQUEST else 0
            destination_port = identifier if icmp_type == ICMP_ECHO_REPLY else 0
        else:
            source_port = int.from_bytes(octets[start : start + 2], "big")
            destination_port = int.from_bytes(octets[start + 2 : start + 4], "big")
            if protocol == IpProtocol.TCP and len(octets) > start + _TCP_FLAGS_AT:
                flags = octets[start + _TCP_FLAGS_AT]
    return Packet(
        protocol,
        Endpoint(octets[_SOURCE_AT : _SOURCE_AT + 4], source_port),
        Endpoint(octets[_DESTINATION_AT : _DESTINATION_AT + 4], destination_port),
        octets[_TTL_AT],
        int.from_bytes(octets[2:4], "big"),
        int.from_bytes(octets[4:6], "big"),
        start,
        offset,
        bool(fragment & 0x2000),
        flags,
        icmp_type,
    )


def rewrite(
    octets: bytes,
    seen: Packet,
    *,
    source: Endpoint | None = None,
    destination: Endpoint | None = None,
) -> bytes:
    """`octets`, read as `seen`, with other ends and the TTL one lower."""
    changed = bytearray(octets)
    _change_ends(changed, seen, source, destination)
    word = bytes([seen.ttl - 1, seen.protocol])
    _replace(changed, _TTL_AT, word, _IP_SUM_AT)
    return bytes(changed)


def rewrite_error(
    octets: bytes,
    seen: Packet,
    inside: Packet,
    *,
    source: Endpoint | None = None,
    destination: Endpoint | None = None,
    inside_source: Endpoint | None = None,
    inside_destination: Endpoint | None = None,
) -> bytes:
    """An ICMP error with other ends, also of the packet `inside` it, and the TTL one lower.

    Raises WireError when its checksum does not fit: it is made anew, which would hide that.
    """
    start = seen.header_length
    body = bytearray(octets[start:])
    if checksum(bytes(body)):
        raise WireError("ICMP checksum does not fit")
    quoted = body[ICMP_ERROR_HEADER_SIZE:]
    _change_ends(quoted, inside, inside_source, inside_destination)
    body[ICMP_ERROR_HEADER_SIZE:] = quoted
    body[2:4] = bytes(2)
    body[2:4] = checksum(bytes(body)).to_bytes(2, "big")
    return rewrite(
        octets[:start] + bytes(body),
        seen,
        source=None if source is None else Endpoint(source.address, 0),
        destination=None if destination is None else Endpoint(destination.address, 0),
    )


def _change_ends(
    octets: bytearray, seen: Packet, source: Endpoint | None, destination: Endpoint | None
) -> None:
    sums = [_IP_SUM_AT, *_pseudo_header_sums(octets, seen)]
    own_sum = _transport_sum(octets, seen)
    start = seen.header_length
    for end, address_at, port_at in (
        (source, _SOURCE_AT, start),
        (destination, _DESTINATION_AT, start + 2),
    ):
        if end is None:
            continue
        _replace(octets, address_at, end.address, *sums)
        port = end.port.to_bytes(2, "big")
        if seen.fragment_offset:
            continue
        if seen.icmp_type in (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY) and end.port:
            _replace(octets, start + _ICMP_ID_AT, port, *own_sum)
        elif seen.protocol in (IpProtocol.UDP, IpProtocol.TCP):
            _replace(octets, port_at, port, *own_sum)
    if (
        seen.protocol == IpProtocol.UDP
        and own_sum
        and octets[own_sum[0] : own_sum[0] + 2] == b"\0\0"
    ):
        # RFC 768: a sum of zero is sent as all ones, as zero means none.
        octets[own_sum[0] : own_sum[0] + 2] = b"\xff\xff"


def _transport_sum(octets: bytearray, seen: Packet) -> tuple[int, ...]:
    """Where the transport checksum stands, if it is there and in use."""
    if seen.fragment_offset or seen.protocol not in _SUM_AT:
        return ()
    at = seen.header_length + _SUM_AT[IpProtocol(seen.protocol)]
    unused = seen.protocol == IpProtocol.UDP and octets[at : at + 2] == b"\0\0"
    return () if unused or at + 2 > len(octets) else (at,)


def _pseudo_header_sums(octets: bytearray, seen: Packet) -> tuple[int, ...]:
    return () if seen.protocol == IpProtocol.ICMP else _transport_sum(octets, seen)


def _replace(octets: bytearray, at: int, new: bytes, *sums: int) -> None:
    """Put `new` at an even place and correct the checksums at `sums` by the difference."""
    old = bytes(octets[at : at + len(new)])
    for where in sums:
        value = adjusted(int.from_bytes(octets[where : where + 2], "big"), old, new)
        octets[where : where + 2] = value.to_bytes(2, "big")
    octets[at : at + len(new)] = new


def adjusted(value: int, old: bytes, new: bytes) -> int:
    """The checksum `value` after 16-bit words `old` have become `new` (RFC 1624 equation 3)."""
    difference = int.from_bytes(new, "big") - int.from_bytes(old, "big")
    total = (0xFFFF - value + difference) % 0xFFFF
    return 0xFFFF - total if total else 0
