"""What IPsec adds to a packet, octet by octet, worked out from the formats alone.

RFC 4303 section 2 (ESP), RFC 4302 section 2 (AH), RFC 3948 section 2.1 (ESP in UDP), RFC 4301
section 5.1.2 (tunnel mode), over IPv4 without options or IPv6 without extension headers. The
`overhead` that a run measures is held against it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields

from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.ah import FIXED_SIZE, header_size
from ipseclab.wire.ip import IPV4_HEADER_SIZE, UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE

IP_HEADER_SIZES = {4: IPV4_HEADER_SIZE, 6: IPV6_HEADER_SIZE}
"""By version."""
AH_LENGTH_AND_RESERVED = 3
ESP_ALIGNMENT = 4
"""RFC 4303 section 2.4: pad length and next header end on a 4-octet boundary."""


# plain:      outer IP |                                          transport | payload
# transport:  outer IP | [UDP] | SPI | sequence | IV |            transport | payload | trailer
# AH:         outer IP | next header | length, RESERVED | SPI | sequence | ICV | [inner IP |] ...
# tunnel:     outer IP | [UDP] | SPI | sequence | IV | inner IP | transport | payload | trailer
#                                                 trailer: padding | pad length | next header | ICV
@dataclass(frozen=True, slots=True)
class Overhead:
    """Octets of each part of one packet, in their order on the wire, the payload left out."""

    outer_ip: int = IPV4_HEADER_SIZE
    udp: int = 0
    ah_length: int = field(default=0, kw_only=True)
    """AH's length with RESERVED, behind its next header."""
    spi: int = 0
    sequence: int = 0
    iv: int = 0
    inner_ip: int = 0
    transport: int = 0
    padding: int = 0
    pad_length: int = 0
    next_header: int = 0
    icv: int = 0
    """In AH with the padding that it may end in (RFC 4302 section 2.6)."""

    def __add__(self, other: Overhead) -> Overhead:
        """Part by part: of a packet that goes in several."""
        parts = zip(fields(self), astuple(self), astuple(other), strict=True)
        return Overhead(**{part.name: own + more for part, own, more in parts})

    @property
    def total(self) -> int:
        """The outer packet less the payload."""
        return sum(astuple(self))

    def efficiency(self, payload_octets: int) -> float:
        """Payload octets / octets on the link."""
        return payload_octets / (payload_octets + self.total)


OVERHEAD_PARTS = tuple(part.name for part in fields(Overhead))


def overhead(
    suite: Suite,
    *,
    tunnel: bool,
    encapsulated: bool,
    payload_octets: int,
    transport: int = 0,
    versions: tuple[int, int] = (4, 4),
) -> Overhead:
    """The parts of an ESP packet around `payload_octets` behind a `transport` header of that size.

    With `transport` 0 the payload is all that follows the IP header. `encapsulated`: in UDP.
    `versions`: of outer and inner IP.
    """
    inner_ip = IP_HEADER_SIZES[versions[1]] if tunnel else 0
    alignment = max(ESP_ALIGNMENT, suite.block_size)
    # Padding makes inner packet, padding and the two octets after it whole blocks.
    padding = -(inner_ip + transport + payload_octets + 2) % alignment
    return Overhead(
        outer_ip=IP_HEADER_SIZES[versions[0]],
        udp=UDP_HEADER_SIZE if encapsulated else 0,
        spi=4,
        sequence=4,
        iv=suite.iv_size,
        inner_ip=inner_ip,
        transport=transport,
        padding=padding,
        pad_length=1,
        next_header=1,
        icv=suite.icv_size,
    )


def ah_overhead(
    suite: Suite, *, tunnel: bool, transport: int = 0, versions: tuple[int, int] = (4, 4)
) -> Overhead:
    """The parts of a packet with AH, whatever its payload: nothing is padded but the ICV."""
    return Overhead(
        outer_ip=IP_HEADER_SIZES[versions[0]],
        ah_length=AH_LENGTH_AND_RESERVED,
        spi=4,
        sequence=4,
        inner_ip=IP_HEADER_SIZES[versions[1]] if tunnel else 0,
        transport=transport,
        next_header=1,
        icv=header_size(suite.icv_size, ipv6=versions[0] == 6) - FIXED_SIZE,
    )


def plain_overhead(*, transport: int = 0, version: int = 4) -> Overhead:
    """The parts of a packet without IPsec."""
    return Overhead(outer_ip=IP_HEADER_SIZES[version], transport=transport)
