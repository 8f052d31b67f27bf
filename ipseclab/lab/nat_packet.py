"""Reading and rewriting of the packets that a NAT translates: IPv4 with UDP, TCP, ICMP.

RFC 3022 section 4 (what is to be changed), RFC 1624 (checksums by difference, so that a damaged
packet stays recognisably damaged), RFC 5508 section 4 (ICMP errors carry a packet inside).
"""

from __future__ import annotations

import struct
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
# Plain integers: on the way of every packet an enum member costs a look-up and a conversion.
_TCP, _UDP, _ICMP = (int(p) for p in (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP))
_PORT_PROTOCOLS = (_UDP, _TCP)
_SUM_AT = {_TCP: 16, _UDP: 6, _ICMP: 2}
_ICMP_ID_AT = 4
_TCP_FLAGS_AT = 13
_NO_OPTIONS = 0x45
"""The first octet of an IPv4 packet without options."""
_WITH_PORTS = struct.Struct("!BxHHHBBxx4s4sHH4x")
"""Its header and a UDP header."""
_SMALLEST = {_TCP: 20, _UDP: 8, _ICMP: 8}
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
    if len(packet) >= _WITH_PORTS.size and packet[0] == _NO_OPTIONS:
        fields = _WITH_PORTS.unpack_from(packet)
        _, total, identification, fragment, ttl, protocol, source, destination, *ports = fields
        # UDP that is no fragment, and as long as it says: all ESP in UDP is.
        if protocol == _UDP and not fragment & 0x3FFF and total == len(packet):
            if int.from_bytes(packet[:IPV4_HEADER_SIZE], "big") % 0xFFFF:
                raise WireError("IPv4 header checksum does not fit")
            ends = Endpoint(source, ports[0]), Endpoint(destination, ports[1])
            start = IPV4_HEADER_SIZE
            return Packet(protocol, *ends, ttl, total, identification, start, 0, False, 0, None)
    header = decode_ipv4_header(packet)
    if checksum(packet[: header.header_length]):
        raise WireError("IPv4 header checksum does not fit")
    whole = packet if header.total_length == len(packet) else packet[: header.total_length]
    return _read(whole, header.header_length, _SMALLEST)


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


def _read(octets: bytes, start: int, smallest: dict[int, int]) -> Packet:
    protocol = octets[_PROTOCOL_AT]
    fragment = int.from_bytes(octets[6:8], "big")
    offset = fragment & 0x1FFF
    source_port = destination_port = flags = 0
    icmp_type: int | None = None
    if not offset and protocol in smallest:
        if len(octets) - start < smallest[protocol]:
            raise WireError(f"protocol {protocol} header cut short at {len(octets) - start} octets")
        if protocol == _ICMP:
            icmp_type = octets[start]
            identifier = int.from_bytes(octets[start + 4 : start + 6], "big")
            source_port = identifier if icmp_type == ICMP_ECHO_REQUEST else 0
            destination_port = identifier if icmp_type == ICMP_ECHO_REPLY else 0
        else:
            source_port = int.from_bytes(octets[start : start + 2], "big")
            destination_port = int.from_bytes(octets[start + 2 : start + 4], "big")
            if protocol == _TCP and len(octets) > start + _TCP_FLAGS_AT:
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
    if seen.protocol in _PORT_PROTOCOLS and not seen.fragment_offset:
        return _rewrite_ports(octets, seen, source, destination)
    changed = bytearray(octets)
    _change_ends(changed, seen, source, destination)
    word = bytes([seen.ttl - 1, seen.protocol])
    _replace(changed, _TTL_AT, word, _IP_SUM_AT)
    return bytes(changed)


def _rewrite_ports(
    octets: bytes, seen: Packet, source: Endpoint | None, destination: Endpoint | None
) -> bytes:
    """`rewrite` for UDP and TCP, most of what a NAT does: both checksums, each corrected once."""
    start = seen.header_length
    sum_at = start + _SUM_AT[seen.protocol]
    changed = bytearray(octets)
    addresses = ports = 0
    for old, new, address_at, port_at in (
        (seen.source, source, _SOURCE_AT, start),
        (seen.destination, destination, _DESTINATION_AT, start + 2),
    ):
        if new is None:
            continue
        addresses += int.from_bytes(new.address, "big") - int.from_bytes(old.address, "big")
        ports += new.port - old.port
        changed[address_at : address_at + 4] = new.address
        changed[port_at : port_at + 2] = new.port.to_bytes(2, "big")
    old_sum = octets[sum_at : sum_at + 2]
    # RFC 768: a sum of zero means none, and one that comes out as zero is sent as all ones.
    if seen.protocol == _TCP or old_sum != b"\0\0":
        value = _corrected(int.from_bytes(old_sum, "big"), addresses + ports)
        if value == 0 and seen.protocol == _UDP:
            value = 0xFFFF
        changed[sum_at : sum_at + 2] = value.to_bytes(2, "big")
    changed[_TTL_AT] = seen.ttl - 1
    header_sum = int.from_bytes(octets[_IP_SUM_AT : _IP_SUM_AT + 2], "big")
    # The TTL is the high octet of its 16-bit word.
    value = _corrected(header_sum, addresses - 0x0100)
    changed[_IP_SUM_AT : _IP_SUM_AT + 2] = value.to_bytes(2, "big")
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
        elif seen.protocol in _PORT_PROTOCOLS:
            _replace(octets, port_at, port, *own_sum)
    if seen.protocol == _UDP and own_sum and octets[own_sum[0] : own_sum[0] + 2] == b"\0\0":
        # RFC 768: a sum of zero is sent as all ones, as zero means none.
        octets[own_sum[0] : own_sum[0] + 2] = b"\xff\xff"


def _transport_sum(octets: bytearray, seen: Packet) -> tuple[int, ...]:
    """Where the transport checksum stands, if it is there and in use."""
    if seen.fragment_offset or seen.protocol not in _SUM_AT:
        return ()
    at = seen.header_length + _SUM_AT[seen.protocol]
    unused = seen.protocol == _UDP and octets[at : at + 2] == b"\0\0"
    return () if unused or at + 2 > len(octets) else (at,)


def _pseudo_header_sums(octets: bytearray, seen: Packet) -> tuple[int, ...]:
    return () if seen.protocol == _ICMP else _transport_sum(octets, seen)


def _replace(octets: bytearray, at: int, new: bytes, *sums: int) -> None:
    """Put `new` at an even place and correct the checksums at `sums` by the difference."""
    old = bytes(octets[at : at + len(new)])
    for where in sums:
        value = adjusted(int.from_bytes(octets[where : where + 2], "big"), old, new)
        octets[where : where + 2] = value.to_bytes(2, "big")
    octets[at : at + len(new)] = new


def adjusted(value: int, old: bytes, new: bytes) -> int:
    """The checksum `value` after 16-bit words `old` have become `new` (RFC 1624 equation 3)."""
    return _corrected(value, int.from_bytes(new, "big") - int.from_bytes(old, "big"))


def _corrected(value: int, difference: int) -> int:
    """The checksum `value` after its 16-bit words have grown by `difference` in all."""
    total = (0xFFFF - value + difference) % 0xFFFF
    return 0xFFFF - total if total else 0
