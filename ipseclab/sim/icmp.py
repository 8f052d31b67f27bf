"""ICMP messages about packets that could not go on, of either IP: too big, expired, no port.

RFC 792, RFC 1191 (the MTU in "fragmentation needed"), RFC 1812 section 4.3.2 (how much is quoted,
and that errors are not answered with errors); RFC 4443 for IPv6, whose checksum covers addresses.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple

from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    ICMP_ECHO_HEADER_SIZE,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_TIME_EXCEEDED,
    ICMP_UNREACHABLE,
    IPV4_HEADER_SIZE,
    checksum,
)
from ipseclab.wire.ipv6 import (
    ICMPV6_PACKET_TOO_BIG,
    ICMPV6_TIME_EXCEEDED,
    ICMPV6_UNREACHABLE,
    IPV6_HEADER_SIZE,
    build_icmpv6,
)


class Trouble(Enum):
    """Why a packet could not go on."""

    NO_ROUTE = "no route"
    NO_PORT = "no port"
    TOO_BIG = "too big"
    EXPIRED = "expired"


_ERROR = struct.Struct("!BBHHH")
_QUOTED = 576 - IPV4_HEADER_SIZE - _ERROR.size
"""RFC 1812: octets of an error packet at most, with its IPv4 header."""
_QUOTED_V6 = 1280 - IPV6_HEADER_SIZE - _ERROR.size
_ECHOES = (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY)
_FIRST_INFORMATIONAL = 128
_MULTICAST = 0xFF
_KINDS = {
    Trouble.NO_ROUTE: (ICMP_UNREACHABLE, 0),
    Trouble.NO_PORT: (ICMP_UNREACHABLE, 3),
    Trouble.TOO_BIG: (ICMP_UNREACHABLE, 4),
    Trouble.EXPIRED: (ICMP_TIME_EXCEEDED, 0),
}
_KINDS_V6 = {
    Trouble.NO_ROUTE: (ICMPV6_UNREACHABLE, 0),
    Trouble.NO_PORT: (ICMPV6_UNREACHABLE, 4),
    Trouble.TOO_BIG: (ICMPV6_PACKET_TOO_BIG, 0),
    Trouble.EXPIRED: (ICMPV6_TIME_EXCEEDED, 0),
}
_TROUBLES = {kind: trouble for trouble, kind in _KINDS.items()}
_TROUBLES_V6 = {kind: trouble for trouble, kind in _KINDS_V6.items()}


class IcmpError(NamedTuple):
    """An error about `quoted`, the beginning of a packet that its receiver had sent."""

    trouble: Trouble
    mtu: int
    """Of the next hop, where the packet was too big."""
    quoted: bytes

    @property
    def protocol(self) -> int:
        """Of the packet that it is about."""
        return self.quoted[6] if self.quoted[0] >> 4 == 6 else self.quoted[9]

    @property
    def source(self) -> bytes:
        """Where that packet came from."""
        return self.quoted[8:24] if self.quoted[0] >> 4 == 6 else self.quoted[12:16]

    @property
    def destination(self) -> bytes:
        """Where that packet was to go."""
        return self.quoted[24:40] if self.quoted[0] >> 4 == 6 else self.quoted[16:20]

    @property
    def segment(self) -> bytes:
        """What is there of the packet behind its IP header."""
        is_ipv6 = self.quoted[0] >> 4 == 6
        return self.quoted[IPV6_HEADER_SIZE if is_ipv6 else (self.quoted[0] & 0x0F) * 4 :]


def build_error(trouble: Trouble, packet: bytes, *, source: bytes, mtu: int = 0) -> bytes:
    """An ICMP error about `packet` to its sender, from `source`."""
    if packet[0] >> 4 == 6:
        kind, code = _KINDS_V6[trouble]
        body = mtu.to_bytes(4, "big") + packet[:_QUOTED_V6]
        return build_icmpv6(source, packet[8:24], kind, code, body)
    kind, code = _KINDS[trouble]
    quoted = packet[:_QUOTED]
    value = checksum(_ERROR.pack(kind, code, 0, 0, mtu) + quoted)
    return _ERROR.pack(kind, code, value, 0, mtu) + quoted


def decode_error(message: bytes) -> IcmpError | None:
    """The error in an ICMP message, its checksum already checked; None for other messages."""
    if len(message) < _ERROR.size + IPV4_HEADER_SIZE:
        return None
    kind, code, _sum, _unused, mtu = _ERROR.unpack_from(message)
    quoted = message[_ERROR.size :]
    is_ipv6 = quoted[0] >> 4 == 6
    trouble = (_TROUBLES_V6 if is_ipv6 else _TROUBLES).get((kind, code))
    if trouble is None or (is_ipv6 and len(quoted) < IPV6_HEADER_SIZE):
        return None
    return IcmpError(trouble, mtu, quoted)


def may_be_answered(packet: bytes) -> bool:
    """False for a packet about which no error may be sent: an ICMP error, a later fragment, or one
    that comes from no single host (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4)."""
    if packet[0] >> 4 == 6:
        if packet[8] == _MULTICAST or not any(packet[8:24]):
            return False
        error = packet[40:41] < bytes([_FIRST_INFORMATIONAL])
        return packet[6] != IpProtocol.ICMPV6 or not error
    if int.from_bytes(packet[6:8], "big") & 0x1FFF or packet[12] >= 224 or packet[12] == 0:
        return False
    if packet[9] != IpProtocol.ICMP:
        return True
    start = (packet[0] & 0x0F) * 4
    return len(packet) >= start + ICMP_ECHO_HEADER_SIZE and packet[start] in _ECHOES
