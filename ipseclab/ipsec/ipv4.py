"""IPv4 headers around and inside ESP: made for tunnel mode, rewritten for transport mode.

RFC 4301 section 5.1.2.1 (what an outer header takes from the inner one), RFC 6040 (ECN), RFC 3948
section 3.1.2 (TCP and UDP checksums behind a NAT). TTL is the forwarding host's business.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import ip_address

from ipseclab.errors import WireError
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.outputs import UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    DEFAULT_TTL,
    DONT_FRAGMENT,
    FRAGMENT_OFFSET_MASK,
    IPV4_HEADER,
    IPV4_HEADER_SIZE,
    MORE_FRAGMENTS,
    build_ipv4,
    checksum,
    decode_ipv4_header,
    pseudo_header_checksum,
)
from ipseclab.wire.ipv6 import IPV6_ADDRESS_SIZE, build_ipv6

PACKET_LIMIT = 0xFFFF
"""RFC 791: what the total length can say."""

UDP_PAYLOAD_LIMIT = PACKET_LIMIT - 28

ECN_MASK = 0x03
ECN_CE = 0x03

# RFC 6040 section 4.2, figure 4: [inner][outer] -> outgoing; rows and columns in the order of the
# codepoints Not-ECT, ECT(1), ECT(0), CE. None: drop.
_ECN_OUT: tuple[tuple[int | None, ...], ...] = (
    (0, 0, 0, None),
    (1, 1, 1, 3),
    (2, 1, 2, 3),
    (3, 3, 3, 3),
)

# Plain integers: on the way of every packet an enum member costs a look-up and a conversion.
_ESP = int(IpProtocol.ESP)
_ANY_FRAGMENT = MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK
_VERSION_4_NO_OPTIONS = 0x45
_FIXED_PART = struct.Struct("!BxHxxHxcxx12s")
_START = struct.Struct("!BxHxxHxB")
_TCP, _UDP, _ICMP = (bytes([p]) for p in (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP))
_TCP_HEADER_SIZE, _TCP_CHECKSUM_OFFSET = 20, 16
_UDP_HEADER_SIZE, _UDP_CHECKSUM_OFFSET = 8, 6


def flow_key(packet: bytes) -> bytes:
    """Octets that are equal for packets of one flow; empty for one that needs a closer look, or is
    not IPv4.

    A cheap stand-in for `wire.ip.flow_of`: protocol, addresses, and ports or ICMP type and code.
    Only a whole packet without options, not a fragment, and exactly as long as it says has a key.
    """
    if len(packet) < _FIXED_PART.size:
        return b""
    fields: tuple[int, int, int, bytes, bytes] = _FIXED_PART.unpack_from(packet)
    first, total, fragment, protocol, ends = fields
    if first != _VERSION_4_NO_OPTIONS or total != len(packet) or fragment & _ANY_FRAGMENT:
        return b""
    if protocol in (_TCP, _UDP):
        return protocol + ends
    return protocol + (ends[:10] if protocol == _ICMP else ends[:8])


def is_plain_esp(packet: bytes) -> bool:
    """True for a whole packet of protocol 50 without options, exactly as long as it says; others
    need a closer look."""
    if len(packet) < IPV4_HEADER_SIZE:
        return False
    first, total, fragment, protocol = _START.unpack_from(packet)
    whole = first == _VERSION_4_NO_OPTIONS and total == len(packet) and not fragment & _ANY_FRAGMENT
    return whole and protocol == _ESP


class OuterHeader:
    """The outer header of a tunnel-mode SA: what never changes is worked out once."""

    __slots__ = ("_destination", "_protocol", "_source", "_sum")

    def __init__(self, source: bytes, destination: bytes, protocol: int = _ESP) -> None:
        self._source, self._destination = source, destination
        self._protocol = int(protocol)
        fixed = IPV4_HEADER.pack(0x45, 0, 0, 0, 0, DEFAULT_TTL, protocol, 0, source, destination)
        self._sum = int.from_bytes(fixed, "big") % 0xFFFF

    def around(self, esp: bytes, inner: bytes, sequence: int) -> bytes:
        """The whole packet; DSCP, ECN and DF are those of `inner`, an IPv4 packet.

        The identification follows the ESP sequence number and is never 0: Linux would fill in its
        own on a raw socket.
        """
        return self.around_with(esp, inner[1], inner[6] << 8 & DONT_FRAGMENT, sequence)

    def around_with(self, esp: bytes, tos: int, dont_fragment: int, sequence: int) -> bytes:
        """The whole packet with that TOS octet and DF bit (0 or DONT_FRAGMENT)."""
        total = IPV4_HEADER_SIZE + len(esp)
        if total > PACKET_LIMIT:
            raise Dropped(DropReason.TOO_BIG)
        identification = identification_of(sequence)
        total_sum = (self._sum + tos + total + identification + dont_fragment) % 0xFFFF
        value = 0xFFFF - total_sum if total_sum else 0
        return (
            IPV4_HEADER.pack(
                _VERSION_4_NO_OPTIONS,
                tos,
                total,
                identification,
                dont_fragment,
                DEFAULT_TTL,
                self._protocol,
                value,
                self._source,
                self._destination,
            )
            + esp
        )


def marked(tos: int, outer_tos: int) -> int:
    """A decapsulated packet's TOS octet with congestion marked on the way carried over to it.

    Raises Dropped when it cannot carry the mark.
    """
    mark = _ECN_OUT[tos & ECN_MASK][outer_tos & ECN_MASK]
    if mark is None:
        raise Dropped(DropReason.CONGESTED)
    return tos & ~ECN_MASK | mark


def with_tos(packet: bytes, tos: int) -> bytes:
    """The packet with another TOS octet."""
    size = (packet[0] & 0x0F) * 4
    return _with_checksum(packet[:1] + bytes([tos]) + packet[2:size]) + packet[size:]


def header_of_whole(packet: bytes) -> bytes:
    """The header of a valid packet, with options. Raises Dropped for a fragment: transport mode is
    for whole packets (RFC 4303 section 3.3.4)."""
    if (packet[6] << 8 | packet[7]) & _ANY_FRAGMENT:
        raise Dropped(DropReason.MALFORMED)
    return packet[: (packet[0] & 0x0F) * 4]


def trimmed(payload: bytes) -> bytes:
    """The IPv4 packet at the start of a tunnel's payload; what follows it is traffic flow
    confidentiality padding (RFC 4303 section 2.7). Raises Dropped."""
    try:
        return payload[: decode_ipv4_header(payload).total_length]
    except WireError:
        raise Dropped(DropReason.MALFORMED) from None


def identification_of(sequence: int) -> int:
    """A packet's identification by its sequence number: never 0."""
    return (sequence - 1) % 0xFFFF + 1


def with_identification(header: bytes, sequence: int) -> bytes:
    """The header of an atomic packet as it is, else with an identification that is not 0: Linux
    puts its own in place of a 0 on a raw socket, and AH's ICV covers it (RFC 4302 section
    3.3.3.1.1.1). `with_protocol` makes the checksum."""
    if any(header[4:6]) or header[6] & DONT_FRAGMENT >> 8:
        return header
    return header[:4] + identification_of(sequence).to_bytes(2, "big") + header[6:]


def with_protocol(header: bytes, protocol: int, payload: bytes) -> bytes:
    """Transport mode: `header` (options too) around another payload and protocol."""
    total = len(header) + len(payload)
    if total > PACKET_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    lengths = header[:2] + total.to_bytes(2, "big")
    return _with_checksum(lengths + header[4:9] + bytes([protocol]) + header[10:]) + payload


def from_udp(path: UdpPath, protocol: int, payload: bytes) -> bytes:
    """Transport mode in UDP: a packet made anew from the datagram's addresses, as the socket kept
    the real header to itself. Its identification is 0 with DF set (RFC 6864 section 4.1)."""
    source, destination = _packed(path.remote.address), _packed(path.local.address)
    payload = _with_repaired_checksum(source, destination, protocol, payload)
    try:
        if len(source) == IPV6_ADDRESS_SIZE:
            return build_ipv6(source, destination, protocol, payload)
        return build_ipv4(source, destination, protocol, payload, flags_fragment=DONT_FRAGMENT)
    except WireError:
        raise Dropped(DropReason.TOO_BIG) from None


@lru_cache(maxsize=1024)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _with_repaired_checksum(
    source: bytes, destination: bytes, protocol: int, segment: bytes
) -> bytes:
    """RFC 3948 section 3.1.2: a NAT changed the addresses under the transport checksum.

    The original addresses are unknown here, so the checksum is worked out afresh: the ICV has
    vouched for the segment. A UDP checksum of 0 says that there is none.
    """
    if protocol == IpProtocol.TCP and len(segment) >= _TCP_HEADER_SIZE:
        offset = _TCP_CHECKSUM_OFFSET
    elif protocol == IpProtocol.UDP and len(segment) >= _UDP_HEADER_SIZE:
        offset = _UDP_CHECKSUM_OFFSET
        if segment[offset : offset + 2] == b"\0\0":
            return segment
    else:
        return segment
    before, after = segment[:offset], segment[offset + 2 :]
    value = pseudo_header_checksum(source, destination, protocol, before + b"\0\0" + after)
    if protocol == IpProtocol.UDP and value == 0:
        value = 0xFFFF
    return before + value.to_bytes(2, "big") + after


def _with_checksum(header: bytes) -> bytes:
    value = checksum(header[:10] + b"\0\0" + header[12:])
    return header[:10] + value.to_bytes(2, "big") + header[12:]
