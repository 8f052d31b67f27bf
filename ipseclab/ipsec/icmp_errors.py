"""ICMP errors go the way of the traffic that they are about (RFC 4301 section 6.2).

A router behind a gateway has an address that no selector names. Its errors belong to the SA that
carries what returns to the sender of the packet in question; the other end accepts them there, as
the packet that they quote shows that they do.
"""

from __future__ import annotations

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow, decode_ipv4_header
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE, decode_ipv6_header, flow_of_packet

_ICMP_HEADER_SIZE = 8
_QUERIES = (0, 8, 9, 10, 13, 14, 15, 16, 17, 18)
"""Types of ICMP that are no errors (RFC 792, RFC 950, RFC 1256)."""
_FIRST_QUERY_V6 = 128
"""RFC 4443 section 2.1: errors have a type below."""


def flow_about(packet: bytes) -> Flow | None:
    """The selectors of what returns to the sender of the packet that an ICMP error is about: its
    ends the other way round. None for what is no error, and for an error about one."""
    try:
        quoted = _quoted(packet)
        if quoted is None:
            return None
        flow = flow_of_packet(_whole(quoted))
    except WireError:
        return None
    if _is_error(flow.protocol, flow.source_port >> 8):
        return None
    if flow.protocol in (IpProtocol.ICMP, IpProtocol.ICMPV6):
        # Type and code belong to the message, not to an end.
        return flow._replace(source=flow.destination, destination=flow.source)
    return Flow(
        flow.destination,
        flow.source,
        flow.protocol,
        flow.destination_port,
        flow.source_port,
        flow.later_fragment,
    )


def _quoted(packet: bytes) -> bytes | None:
    """What an ICMP error of either family quotes, which must have gone to where the error goes."""
    is_ipv4 = packet[0] >> 4 == 4
    header = decode_ipv4_header(packet) if is_ipv4 else decode_ipv6_header(packet)
    message = packet[header.header_length : header.total_length]
    if header.is_fragment or len(message) <= _ICMP_HEADER_SIZE:
        return None
    if header.protocol != (IpProtocol.ICMP if is_ipv4 else IpProtocol.ICMPV6):
        return None
    quoted = message[_ICMP_HEADER_SIZE:]
    if not _is_error(header.protocol, message[0]) or quoted[0] >> 4 != packet[0] >> 4:
        return None
    source = slice(12, 16) if is_ipv4 else slice(8, 24)
    return quoted if quoted[source] == header.destination else None


def _is_error(protocol: int, kind: int) -> bool:
    if protocol == IpProtocol.ICMP:
        return kind not in _QUERIES
    return protocol == IpProtocol.ICMPV6 and kind < _FIRST_QUERY_V6


def _whole(quoted: bytes) -> bytes:
    """The quoted packet, as long as it is quoted and no longer."""
    if quoted[0] >> 4 == 4:
        return quoted[:2] + len(quoted).to_bytes(2, "big") + quoted[4:]
    return quoted[:4] + max(0, len(quoted) - IPV6_HEADER_SIZE).to_bytes(2, "big") + quoted[6:]
