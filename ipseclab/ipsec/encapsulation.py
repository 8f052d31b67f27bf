"""From an IP packet to a protected packet and back, for one SA: family, mode and encapsulation.

RFC 4301 section 5.1.2 and 5.2, RFC 4303 section 3.1 and RFC 4302 section 3.1 (tunnel and transport
mode), RFC 3948 (in UDP). Inner and outer packet may be of different families. No state but the
entry's own; a packet that cannot be carried ends in `Dropped`.
"""

from __future__ import annotations

import random

from ipseclab.ipsec import ipv4, ipv6
from ipseclab.ipsec.ah import begin_ah, finish_ah
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.esp import seal_esp
from ipseclab.ipsec.sad import FLOWS_PER_SA, SadEntry
from ipseclab.outputs import SendDatagram, SendPacket, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import DONT_FRAGMENT
from ipseclab.wire.ipv6 import IPV6_ADDRESS_SIZE, flow_of_packet

# Plain integers: on the way of every packet an enum member costs a look-up and a conversion.
_IPV4, _IPV6 = int(IpProtocol.IPV4), int(IpProtocol.IPV6)
_ESP, _AH = int(IpProtocol.ESP), int(IpProtocol.AH)


def encapsulate(entry: SadEntry, packet: bytes, rng: random.Random) -> SendPacket | SendDatagram:
    """`packet` sealed under the entry's outbound half. Raises Dropped."""
    half = entry.outbound
    if entry.ah:
        return SendPacket(_with_ah(entry, packet))
    if entry.parameters.tunnel:
        esp = seal_esp(half, _IPV4 if packet[0] >> 4 == 4 else _IPV6, packet, rng)
        if entry.path is None:
            return SendPacket(_outer(entry, esp, packet))
    elif packet[0] >> 4 == 4:
        header = ipv4.header_of_whole(packet)
        esp = seal_esp(half, packet[9], packet[len(header) :], rng)
        if entry.path is None:
            return SendPacket(ipv4.with_protocol(header, _ESP, esp))
    else:
        split = ipv6.split_for_transport(packet)
        esp = seal_esp(half, split.next_header, split.payload, rng)
        if entry.path is None:
            return SendPacket(ipv6.with_protocol(split.head, _ESP, esp))
    if len(esp) > ipv4.UDP_PAYLOAD_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    return SendDatagram(entry.path, esp)


def _outer(entry: SadEntry, payload: bytes, inner: bytes) -> bytes:
    """The tunnel's outer header around `payload` (RFC 4301 section 5.1.2)."""
    p = entry.parameters
    if len(p.local) == IPV6_ADDRESS_SIZE:
        value = ipv6.traffic_class(inner) if inner[0] >> 4 == 6 else inner[1]
        return ipv6.around(p.local, p.remote, p.protocol, payload, inner_class=value)
    sequence = entry.outbound.sequence
    if inner[0] >> 4 == 4:
        return entry.outer.around(payload, inner, sequence)
    # No router fragments IPv6; in IPv4 DF says the same.
    value = ipv6.traffic_class(inner)
    return entry.outer.around_with(payload, value, DONT_FRAGMENT, sequence)


def _with_ah(entry: SadEntry, packet: bytes) -> bytes:
    """RFC 4302 section 3.1: AH behind the packet's own header, or in front of the whole packet."""
    half, is_ipv6 = entry.outbound, packet[0] >> 4 == 6
    if entry.parameters.tunnel:
        outer_ipv6 = len(entry.parameters.local) == IPV6_ADDRESS_SIZE
        ah = begin_ah(half, _IPV6 if is_ipv6 else _IPV4, ipv6=outer_ipv6)
        whole = _outer(entry, ah + packet, packet)
        return finish_ah(half, whole, len(whole) - len(packet) - len(ah))
    if is_ipv6:
        split = ipv6.split_for_transport(packet)
        ah = begin_ah(half, split.next_header, ipv6=True)
        whole = ipv6.with_protocol(split.head, _AH, ah + split.payload)
        return finish_ah(half, whole, len(split.head))
    header = ipv4.header_of_whole(packet)
    ah = begin_ah(half, packet[9], ipv6=False)
    whole = ipv4.with_protocol(header, _AH, ah + packet[len(header) :])
    return finish_ah(half, whole, len(header))


def decapsulate(
    entry: SadEntry, next_header: int, payload: bytes, outer: bytes, path: UdpPath | None
) -> bytes:
    """The IP packet that an opened ESP or AH packet carried, within the SA's selectors. Raises
    Dropped.

    `outer` is the IP header that was around it, with options or extension headers; in UDP it is
    empty, and `path` says from where it came.
    """
    if not entry.parameters.tunnel:
        packet = _transported(next_header, payload, outer, path)
    elif next_header in (_IPV4, _IPV6):
        packet = _tunnelled(next_header, payload, outer)
    else:
        raise Dropped(DropReason.MALFORMED)
    key = flow_key(packet)
    if key not in entry.inbound.checked_flows:
        _check_selectors(entry, packet, key)
    return packet


def flow_key(packet: bytes) -> bytes:
    """`ipv4.flow_key` or `ipv6.flow_key`; empty for a packet that needs a closer look."""
    return ipv4.flow_key(packet) or (
        ipv6.flow_key(packet) if packet[:1] and packet[0] >> 4 == 6 else b""
    )


def _transported(next_header: int, payload: bytes, outer: bytes, path: UdpPath | None) -> bytes:
    if path is not None:
        return ipv4.from_udp(path, next_header, payload)
    if outer[0] >> 4 == 6:
        return ipv6.with_protocol(outer, next_header, payload)
    return ipv4.with_protocol(outer, next_header, payload)


def _tunnelled(next_header: int, payload: bytes, outer: bytes) -> bytes:
    """The inner packet, with the mark of congestion that the outer one brought (RFC 6040)."""
    packet = ipv4.trimmed(payload) if next_header == _IPV4 else ipv6.trimmed(payload)
    if not outer:
        return packet
    mark = outer[1] if outer[0] >> 4 == 4 else ipv6.traffic_class(outer)
    own = packet[1] if next_header == _IPV4 else ipv6.traffic_class(packet)
    if not (mark ^ own) & ipv4.ECN_MASK:
        return packet
    tos = ipv4.marked(own, mark)
    if tos == own:
        return packet
    if next_header == _IPV4:
        return ipv4.with_tos(packet, tos)
    return ipv6.with_traffic_class(packet, tos)


def _check_selectors(entry: SadEntry, packet: bytes, key: bytes) -> None:
    """RFC 4301 section 5.2, step 4: an SA brings only what it was agreed for."""
    if not entry.accepts(flow_of_packet(packet)):
        raise Dropped(DropReason.SELECTOR_MISMATCH)
    checked = entry.inbound.checked_flows
    if len(checked) >= FLOWS_PER_SA:
        checked.clear()
    if key:
        checked.add(key)
