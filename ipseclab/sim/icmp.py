"""ICMP messages about packets that could not go on: too big, expired, no port.

RFC 792, RFC 1191 (the MTU in "fragmentation needed"), RFC 1812 section 4.3.2 (how much is quoted,
and that errors are not answered with errors).
"""

from __future__ import annotations

import struct
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

NETWORK_UNREACHABLE = 0
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
TTL_EXCEEDED = 0

_ERROR = struct.Struct("!BBHHH")
_LARGEST_ERROR = 576
"""RFC 1812: octets of an error packet at most, with its IPv4 header."""
_QUOTED = _LARGEST_ERROR - IPV4_HEADER_SIZE - _ERROR.size
_ECHOES = (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY)


class IcmpError(NamedTuple):
    """An error about `quoted`, the beginning of a packet that its receiver had sent."""

    kind: int
    code: int
    mtu: int
    """Of the next hop, where the code is FRAGMENTATION_NEEDED."""
    quoted: bytes


def build_error(kind: int, code: int, packet: bytes, *, mtu: int = 0) -> bytes:
    """An ICMP error about `packet`."""
    quoted = packet[:_QUOTED]
    value = checksum(_ERROR.pack(kind, code, 0, 0, mtu) + quoted)
    return _ERROR.pack(kind, code, value, 0, mtu) + quoted


def decode_error(message: bytes) -> IcmpError | None:
    """The error in an ICMP message, its checksum already checked; None for other messages."""
    if len(message) < _ERROR.size + IPV4_HEADER_SIZE:
        return None
    kind, code, _sum, _unused, mtu = _ERROR.unpack_from(message)
    if kind not in (ICMP_UNREACHABLE, ICMP_TIME_EXCEEDED):
        return None
    return IcmpError(kind, code, mtu, message[_ERROR.size :])


def may_be_answered(packet: bytes) -> bool:
    """False for a packet about which no error may be sent: an ICMP error, a later fragment, or one
    that comes from no single host (RFC 1812 section 4.3.2.7)."""
    if int.from_bytes(packet[6:8], "big") & 0x1FFF or packet[12] >= 224 or packet[12] == 0:
        return False
    if packet[9] != IpProtocol.ICMP:
        return True
    start = (packet[0] & 0x0F) * 4
    return len(packet) >= start + ICMP_ECHO_HEADER_SIZE and packet[start] in _ECHOES
