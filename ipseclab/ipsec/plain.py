"""Plain packets from the unprotected side: what the SPD makes of them, and datagrams taken apart.

RFC 4301 section 5.2; RFC 768, RFC 8200 section 8.1.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import assert_never

from ipseclab.errors import WireError
from ipseclab.ipsec.counters import DropReason
from ipseclab.ipsec.spd import Action, Spd
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    FRAGMENT_OFFSET_MASK,
    IPV4_HEADER_SIZE,
    MORE_FRAGMENTS,
    Flow,
    Ipv4Header,
    decode_udp,
    pseudo_header_checksum,
)
from ipseclab.wire.ipv6 import Ipv6Header

_UDP = int(IpProtocol.UDP)
_NO_OPTIONS = 0x45
_ANY_FRAGMENT = MORE_FRAGMENTS | FRAGMENT_OFFSET_MASK
_ESP_IN_UDP = struct.Struct("!BxHxxHxBxx4s4sHHHH")
"""An IPv4 header and a UDP header."""
NAT_T_PORT = 4500
"""RFC 3948 section 2."""


def refusal_of_plain(spd: Spd, flow: Flow) -> DropReason | None:
    """Why a packet of `flow` that was not protected may not come in, None when it may: step 2."""
    policy = spd.inbound(flow)
    if policy is None:
        return DropReason.NO_POLICY
    match policy.action:
        case Action.DISCARD:
            return DropReason.POLICY_DISCARD
        case Action.PROTECT:
            return DropReason.NOT_ENCAPSULATED
        case Action.BYPASS:
            return None
        case _:
            assert_never(policy.action)


def read_datagram(header: Ipv4Header | Ipv6Header, packet: bytes) -> tuple[UdpPath, bytes]:
    """The path, `local` being where it goes, and the data of a UDP packet that is no fragment.

    Raises WireError when it is cut short or its checksum does not match.
    """
    segment = packet[header.header_length : header.total_length]
    source_port, port, data = decode_udp(segment)
    if segment[6:8] != b"\0\0" and pseudo_header_checksum(
        header.source, header.destination, _UDP, segment
    ):
        raise WireError("UDP checksum does not match")
    return _path(header.destination, port, header.source, source_port), data


def esp_in_udp(packet: bytes) -> tuple[UdpPath, bytes] | None:
    """`read_datagram` for what most of ESP in UDP looks like: whole IPv4 without options, to port
    4500, the checksum left out (RFC 3948 section 2.1). None for all else."""
    if len(packet) < _ESP_IN_UDP.size:
        return None
    fields = _ESP_IN_UDP.unpack_from(packet)
    first, total, fragment, protocol, peer, own, peer_port, port, length, value = fields
    if first != _NO_OPTIONS or protocol != _UDP or port != NAT_T_PORT or value:
        return None
    if total != len(packet) or fragment & _ANY_FRAGMENT or length != total - IPV4_HEADER_SIZE:
        return None
    return _path(own, port, peer, peer_port), packet[_ESP_IN_UDP.size :]


# A gateway talks to few addresses, very often.
@lru_cache(4096)
def _path(own: bytes, own_port: int, peer: bytes, peer_port: int) -> UdpPath:
    local = UdpEndpoint(str(ip_address(own)), own_port)
    return UdpPath(local, UdpEndpoint(str(ip_address(peer)), peer_port))
