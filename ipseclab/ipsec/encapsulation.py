"""From an IP packet to an ESP packet and back, for one SA: mode and encapsulation chosen here.

RFC 4301 section 5.1.2 and 5.2, RFC 4303 section 3.1 (tunnel and transport mode), RFC 3948 (in UDP).
No state but the entry's own; a packet that cannot be carried ends in `Dropped`.
"""

from __future__ import annotations

import random

from ipseclab.ipsec import ipv4
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.esp import seal_esp
from ipseclab.ipsec.sad import FLOWS_PER_SA, SadEntry
from ipseclab.outputs import SendDatagram, SendPacket, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import flow_of

_IPV4 = int(IpProtocol.IPV4)


def encapsulate(entry: SadEntry, packet: bytes, rng: random.Random) -> SendPacket | SendDatagram:
    """`packet` sealed under the entry's outbound half. Raises Dropped."""
    half = entry.outbound
    if entry.parameters.tunnel:
        esp = seal_esp(half, _IPV4, packet, rng)
        if entry.path is None:
            return SendPacket(entry.outer.around(esp, packet, half.sequence))
    else:
        header = ipv4.header_of_whole(packet)
        esp = seal_esp(half, packet[9], packet[len(header) :], rng)
        if entry.path is None:
            return SendPacket(ipv4.with_protocol(header, IpProtocol.ESP, esp))
    if len(esp) > ipv4.UDP_PAYLOAD_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    return SendDatagram(entry.path, esp)


def decapsulate(
    entry: SadEntry, next_header: int, payload: bytes, outer: bytes, path: UdpPath | None
) -> bytes:
    """The IP packet that an opened ESP packet carried, within the SA's selectors. Raises Dropped.

    `outer` is the IPv4 header that was around it; in UDP it is empty, and `path` says from where
    it came.
    """
    if not entry.parameters.tunnel:
        if path is not None:
            packet = ipv4.from_udp(path, next_header, payload)
        else:
            packet = ipv4.with_protocol(outer, next_header, payload)
    elif next_header == _IPV4:
        packet = ipv4.trimmed(payload)
        if outer and (outer[1] ^ packet[1]) & ipv4.ECN_MASK:
            packet = ipv4.with_outer_ecn(packet, outer[1])
    else:
        raise Dropped(DropReason.MALFORMED)
    key = ipv4.flow_key(packet)
    if key not in entry.inbound.checked_flows:
        _check_selectors(entry, packet, key)
    return packet


def _check_selectors(entry: SadEntry, packet: bytes, key: bytes) -> None:
    """RFC 4301 section 5.2, step 4: an SA brings only what it was agreed for."""
    if not entry.accepts(flow_of(packet)):
        raise Dropped(DropReason.SELECTOR_MISMATCH)
    checked = entry.inbound.checked_flows
    if len(checked) >= FLOWS_PER_SA:
        checked.clear()
    if key:
        checked.add(key)
