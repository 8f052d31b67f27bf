"""Traffic selectors: which packets an SA carries, as ranges of addresses, protocol and ports.

RFC 7296 section 3.13.1, and RFC 4301 section 4.4.1.2 for what ranges, ANY and OPAQUE mean.
Selectors of an unknown type are kept as octets; they match nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Self

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol, TsType
from ipseclab.wire.buffer import Reader

ANY_PORTS = (0, 0xFFFF)
# RFC 7296 section 3.13.1: a start above the end says that the port is hidden (a later fragment).
OPAQUE_PORTS = (0xFFFF, 0)

ADDRESS_SIZES: Mapping[int, int] = {TsType.TS_IPV4_ADDR_RANGE: 4, TsType.TS_IPV6_ADDR_RANGE: 16}
SELECTOR_HEADER_SIZE = 4
PORTS_SIZE = 4
_HEAD = struct.Struct("!BBH")
_PORTS = struct.Struct("!HH")

_TYPES_BY_VERSION = {4: TsType.TS_IPV4_ADDR_RANGE, 6: TsType.TS_IPV6_ADDR_RANGE}
_ICMP_PROTOCOLS = (IpProtocol.ICMP, IpProtocol.ICMPV6)


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """A range of addresses (packed, both ends inside), an IP protocol (0: any), a range of ports.

    For ICMP a port is type * 256 + code. Of an unknown `ts_type` only `protocol`, the second octet,
    and `opaque`, all that follows the length, have a meaning.
    """

    ts_type: TsType
    protocol: int
    start_port: int
    end_port: int
    start: bytes
    end: bytes
    opaque: bytes = b""

    @classmethod
    def of_network(
        cls, network: str, protocol: int = 0, ports: tuple[int, int] = ANY_PORTS
    ) -> Self:
        """The selector of an IPv4 or IPv6 network such as "10.1.0.0/24". Raises ValueError."""
        parsed = ip_network(network)
        start, end = parsed.network_address.packed, parsed.broadcast_address.packed
        return cls(_TYPES_BY_VERSION[parsed.version], protocol, *ports, start, end)

    @classmethod
    def of_address(
        cls, address: str | bytes, protocol: int = 0, ports: tuple[int, int] = ANY_PORTS
    ) -> Self:
        """The selector of one address, dotted or packed. Raises ValueError."""
        parsed = ip_address(address)
        kind = _TYPES_BY_VERSION[parsed.version]
        return cls(kind, protocol, *ports, parsed.packed, parsed.packed)

    @property
    def known(self) -> bool:
        """False for a selector type that is kept but not understood."""
        return self.ts_type in ADDRESS_SIZES

    @property
    def ports(self) -> tuple[int, int]:
        """Start and end port; ANY_PORTS and OPAQUE_PORTS have their own meanings."""
        return self.start_port, self.end_port

    def contains(self, address: bytes, protocol: int, port: int) -> bool:
        """True when a packet with these values matches."""
        return (
            len(address) == len(self.start)
            and self.start <= address <= self.end
            and self.protocol in (0, protocol)
            and self.start_port <= port <= self.end_port
        )

    def intersection(self, other: TrafficSelector) -> TrafficSelector | None:
        """What both match, None when that is nothing (RFC 7296 section 2.9: narrowing)."""
        if not (self.known and self.ts_type == other.ts_type):
            return None
        if self.protocol != other.protocol and 0 not in (self.protocol, other.protocol):
            return None
        # Packed addresses of one size order as the numbers that they are.
        start, end = max(self.start, other.start), min(self.end, other.end)
        ports = _common_ports(self.ports, other.ports)
        if start > end or ports is None:
            return None
        protocol = self.protocol if self.protocol else other.protocol
        return TrafficSelector(self.ts_type, protocol, *ports, start, end)

    def is_subset_of(self, other: TrafficSelector) -> bool:
        """True when `other` matches every packet that this one matches."""
        # Asked for each pair of a list: without making the intersection, what differs most first.
        return (
            other.start_port <= self.start_port
            and self.end_port <= other.end_port
            and other.start <= self.start
            and self.end <= other.end
            and self.ts_type == other.ts_type
            and other.protocol in (0, self.protocol)
            and self.known
            and (self.ports != OPAQUE_PORTS or other.ports in (OPAQUE_PORTS, ANY_PORTS))
        )

    def encode(self) -> bytes:
        """The selector's octets."""
        body = self.opaque
        if self.known:
            body = _PORTS.pack(self.start_port, self.end_port) + self.start + self.end
        length = SELECTOR_HEADER_SIZE + len(body)
        if length > 0xFFFF:
            raise WireError(f"traffic selector of {length} octets, at most 65535")
        return _HEAD.pack(self.ts_type, self.protocol, length) + body

    def __str__(self) -> str:
        if not self.known:
            return f"{self.ts_type.name}[{self.opaque.hex()}]"
        return self._address_text() + self._upper_text()

    def _address_text(self) -> str:
        first = int.from_bytes(self.start, "big")
        size = int.from_bytes(self.end, "big") - first + 1
        if size.bit_count() == 1 and first % size == 0:
            return f"{ip_address(self.start)}/{8 * len(self.start) + 1 - size.bit_length()}"
        return f"{ip_address(self.start)}-{ip_address(self.end)}"

    def _upper_text(self) -> str:
        if not self.protocol and self.ports == ANY_PORTS:
            return ""
        protocol = IpProtocol(self.protocol)
        name = protocol.name.lower() if protocol.known else str(self.protocol)
        if self.ports == ANY_PORTS:
            return f"[{name}]"
        if self.ports == OPAQUE_PORTS:
            return f"[{name}/opaque]"
        show = _icmp_text if self.protocol in _ICMP_PROTOCOLS else str
        first, last = show(self.start_port), show(self.end_port)
        return f"[{name}/{first}]" if first == last else f"[{name}/{first}-{last}]"


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |   TS Type     |IP Protocol ID*|       Selector Length         |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |           Start Port*         |           End Port*           |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                         Starting Address*                     ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                         Ending Address*                       ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def decode_selector(reader: Reader) -> TrafficSelector:
    """The next selector of a TSi or TSr payload. Raises WireError."""
    kind, protocol, length = reader.unpack(_HEAD)
    ts_type = TsType(kind)
    if length < SELECTOR_HEADER_SIZE:
        raise WireError(f"traffic selector length {length}, at least {SELECTOR_HEADER_SIZE}")
    body = reader.sub(length - SELECTOR_HEADER_SIZE, "traffic selector")
    address_size = ADDRESS_SIZES.get(ts_type)
    if address_size is None:
        return TrafficSelector(ts_type, protocol, 0, 0, b"", b"", body.rest())
    if body.remaining != PORTS_SIZE + 2 * address_size:
        wanted = SELECTOR_HEADER_SIZE + PORTS_SIZE + 2 * address_size
        raise WireError(f"{ts_type.name} length {length}, must be {wanted}")
    first_port, last_port = body.unpack(_PORTS)
    ports = first_port, last_port
    start, end = body.octets(address_size), body.octets(address_size)
    if start > end:
        raise WireError(f"{ts_type.name}: start address {start.hex()} above end {end.hex()}")
    if ports[0] > ports[1] and ports != OPAQUE_PORTS:
        raise WireError(f"{ts_type.name}: start port {ports[0]} above end port {ports[1]}")
    return TrafficSelector(ts_type, protocol, *ports, start, end)


def _common_ports(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int] | None:
    """Ports in both ranges. ANY takes in OPAQUE (RFC 4301 section 4.4.1.1); a range does not."""
    if OPAQUE_PORTS in (one, two):
        return OPAQUE_PORTS if one in (two, ANY_PORTS) or two == ANY_PORTS else None
    start, end = max(one[0], two[0]), min(one[1], two[1])
    return (start, end) if start <= end else None


def _icmp_text(port: int) -> str:
    return f"{port >> 8}({port & 0xFF})"
