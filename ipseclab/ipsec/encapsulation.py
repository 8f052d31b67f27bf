"""From an IP packet to a protected packet and back, for one SA: family, mode and encapsulation.

RFC 4301 section 5.1.2 and 5.2, RFC 4303 section 3.1 and RFC 4302 section 3.1 (tunnel and transport
mode), RFC 3948 (in UDP), RFC 9329 (in TCP). Inner and outer packet may be of different families. No
state but the entry's own; a packet that cannot be carried ends in `Dropped`.
"""

from __future__ import annotations

import random

from ipseclab.ipsec import ipv4, ipv6
from ipseclab.ipsec.ah import begin_ah, finish_ah
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.esp import seal_esp
from ipseclab.ipsec.icmp_errors import flow_about
from ipseclab.ipsec.processing import SMALLEST_PATH_MTU, DontFragment
from ipseclab.ipsec.sad import FLOWS_PER_SA, SadEntry
from ipseclab.outputs import SendDatagram, SendMessage, SendPacket, TcpPath, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import DONT_FRAGMENT
from ipseclab.wire.ipv6 import IPV6_ADDRESS_SIZE, flow_of_packet

# Plain integers: on the way of every packet an enum member costs a look-up and a conversion.
_IPV4, _IPV6 = int(IpProtocol.IPV4), int(IpProtocol.IPV6)
SMALLEST_DUMMY = 64
# What an outer header of a dummy is taken from: no DSCP, no ECN, DF clear.
_NO_INNER = b"\x45" + bytes(19)
_AGGFRAG = int(IpProtocol.AGGFRAG)
_IPCOMP = int(IpProtocol.IPCOMP)
_ESP, _AH = int(IpProtocol.ESP), int(IpProtocol.AH)


def encapsulate(
    entry: SadEntry, packet: bytes, rng: random.Random
) -> SendPacket | SendDatagram | SendMessage:
    """`packet` sealed under the entry's outbound half. Raises Dropped."""
    if entry.ah:
        return SendPacket(_with_ah(entry, packet))
    if entry.parameters.tunnel:
        payload = packet.ljust(entry.processing.tfc_padding, b"\0") if entry.shaped else packet
        esp = _sealed(entry, _IPV4 if packet[0] >> 4 == 4 else _IPV6, payload, rng)
        if entry.path is None:
            return SendPacket(_outer(entry, esp, packet))
    elif packet[0] >> 4 == 4:
        header = ipv4.header_of_whole(packet)
        esp = _sealed(entry, packet[9], packet[len(header) :], rng)
        if entry.path is None:
            return SendPacket(ipv4.with_protocol(header, _ESP, esp))
    else:
        split = ipv6.split_for_transport(packet)
        esp = _sealed(entry, split.next_header, split.payload, rng)
        if entry.path is None:
            return SendPacket(ipv6.with_protocol(split.head, _ESP, esp))
    if len(esp) > ipv4.UDP_PAYLOAD_LIMIT:
        raise Dropped(DropReason.TOO_BIG)
    return _along(entry.path, esp)


def _sealed(entry: SadEntry, next_header: int, payload: bytes, rng: random.Random) -> bytes:
    """An ESP packet, compressed before where IPComp was agreed (RFC 3173)."""
    return seal_esp(entry.outbound, *_compressed(entry, next_header, payload), rng)


def _compressed(entry: SadEntry, next_header: int, payload: bytes) -> tuple[int, bytes]:
    if entry.compressor is None:
        return next_header, payload
    return entry.compressor.pack(next_header, payload)


def _along(path: UdpPath, esp: bytes) -> SendDatagram | SendMessage:
    """An ESP packet in UDP (RFC 3948) or TCP (RFC 9329)."""
    return SendMessage(path, esp) if isinstance(path, TcpPath) else SendDatagram(path, esp)


def _outer(entry: SadEntry, payload: bytes, inner: bytes) -> bytes:
    """The tunnel's outer header around `payload` (RFC 4301 section 5.1.2)."""
    p, processing = entry.parameters, entry.processing
    if not entry.shaped and len(p.local) == 4 and inner[0] >> 4 == 4:
        return entry.outer.around(payload, inner, entry.outbound.sequence)
    value = inner[1] if inner[0] >> 4 == 4 else ipv6.traffic_class(inner)
    if processing.dscp is not None:
        value = processing.dscp << 2 | value & ipv4.ECN_MASK
    if not processing.ecn:
        value &= ~ipv4.ECN_MASK
    if len(p.local) == IPV6_ADDRESS_SIZE:
        return ipv6.around(p.local, p.remote, p.protocol, payload, inner_class=value)
    # No router fragments IPv6; in IPv4 DF says the same. But what IPv6 carries anywhere must pass
    # (RFC 8200 section 5).
    small = len(inner) <= SMALLEST_PATH_MTU[IPV6_ADDRESS_SIZE]
    own = 0 if small else DONT_FRAGMENT
    copied = inner[6] << 8 & DONT_FRAGMENT if inner[0] >> 4 == 4 else own
    bits = {DontFragment.COPY: copied, DontFragment.SET: DONT_FRAGMENT, DontFragment.CLEAR: 0}
    bit = bits[processing.dont_fragment]
    return entry.outer.around_with(payload, value, bit, entry.outbound.sequence)


def dummy(entry: SadEntry, rng: random.Random) -> SendPacket | SendDatagram | SendMessage:
    """A tunnel's dummy packet (RFC 4303 section 2.6), as long as padded ones. Raises Dropped."""
    payload = bytes(max(entry.processing.tfc_padding, SMALLEST_DUMMY))
    esp = seal_esp(entry.outbound, int(IpProtocol.NO_NEXT_HEADER), payload, rng)
    if entry.path is not None:
        return _along(entry.path, esp)
    return SendPacket(_outer(entry, esp, _NO_INNER))


def aggregated(
    entry: SadEntry, payload: bytes, rng: random.Random
) -> SendPacket | SendDatagram | SendMessage:
    """An AGGFRAG payload (RFC 9347), whose outer header says nothing of what is inside (section
    2.4 of it wants DSCP not copied). Raises Dropped."""
    esp = seal_esp(entry.outbound, _AGGFRAG, payload, rng)
    if entry.path is not None:
        return _along(entry.path, esp)
    return SendPacket(_outer(entry, esp, _NO_INNER))


def _with_ah(entry: SadEntry, packet: bytes) -> bytes:
    """RFC 4302 section 3.1: AH behind the packet's own header, or in front of the whole packet."""
    half, is_ipv6 = entry.outbound, packet[0] >> 4 == 6
    if entry.parameters.tunnel:
        outer_ipv6 = len(entry.parameters.local) == IPV6_ADDRESS_SIZE
        next_header, payload = _compressed(entry, _IPV6 if is_ipv6 else _IPV4, packet)
        ah = begin_ah(half, next_header, ipv6=outer_ipv6)
        whole = _outer(entry, ah + payload, packet)
        return finish_ah(half, whole, len(whole) - len(payload) - len(ah))
    if is_ipv6:
        split = ipv6.split_for_transport(packet)
        next_header, payload = _compressed(entry, split.next_header, split.payload)
        ah = begin_ah(half, next_header, ipv6=True)
        whole = ipv6.with_protocol(split.head, _AH, ah + payload)
        return finish_ah(half, whole, len(split.head))
    header = ipv4.header_of_whole(packet)
    next_header, payload = _compressed(entry, packet[9], packet[len(header) :])
    ah = begin_ah(half, next_header, ipv6=False)
    header = ipv4.with_identification(header, half.sequence)
    whole = ipv4.with_protocol(header, _AH, ah + payload)
    return finish_ah(half, whole, len(header))


def decapsulate(
    entry: SadEntry, next_header: int, payload: bytes, outer: bytes, path: UdpPath | None
) -> bytes:
    """The IP packet that an opened ESP or AH packet carried, within the SA's selectors. Raises
    Dropped.

    `outer` is the IP header that was around it, with options or extension headers; in UDP it is
    empty, and `path` says from where it came.
    """
    if next_header == _IPCOMP and entry.compressor is not None:
        next_header, payload = entry.compressor.unpack(payload)
    if not entry.parameters.tunnel:
        packet = _transported(next_header, payload, outer, path)
    elif next_header == _IPV4:
        key = ipv4.flow_key(payload)
        packet = payload if key else ipv4.trimmed(payload)
        # Between IPv4 headers whose TOS octets are equal there is nothing to carry over.
        if outer and (outer[1] != packet[1] or outer[0] >> 4 != 4):
            packet = _with_mark(packet, outer)
        if key and key in entry.inbound.checked_flows:
            return packet
    elif next_header == _IPV6:
        packet = ipv6.trimmed(payload)
        if outer:
            packet = _with_mark(packet, outer)
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


def outbound_key(entry: SadEntry, packet: bytes) -> bytes:
    """`flow_key` where it alone says that `entry` carries the packet; empty for an ICMP error that
    goes by what it quotes."""
    if entry.icmp_errors and not entry.covers(flow_of_packet(packet)):
        return b""
    return flow_key(packet)


def _transported(next_header: int, payload: bytes, outer: bytes, path: UdpPath | None) -> bytes:
    if path is not None:
        return ipv4.from_udp(path, next_header, payload)
    if outer[0] >> 4 == 6:
        return ipv6.with_protocol(outer, next_header, payload)
    return ipv4.with_protocol(outer, next_header, payload)


def _with_mark(packet: bytes, outer: bytes) -> bytes:
    """The inner packet, with the mark of congestion that the outer one brought (RFC 6040)."""
    is_ipv4 = packet[0] >> 4 == 4
    mark = outer[1] if outer[0] >> 4 == 4 else ipv6.traffic_class(outer)
    own = packet[1] if is_ipv4 else ipv6.traffic_class(packet)
    if not (mark ^ own) & ipv4.ECN_MASK:
        return packet
    tos = ipv4.marked(own, mark)
    if tos == own:
        return packet
    if is_ipv4:
        return ipv4.with_tos(packet, tos)
    return ipv6.with_traffic_class(packet, tos)


def _check_selectors(entry: SadEntry, packet: bytes, key: bytes) -> None:
    """RFC 4301 section 5.2, step 4: an SA brings only what it was agreed for."""
    flows = entry.fragment_flows
    flow = flow_of_packet(packet) if flows is None else flows.flow_of(packet)
    if not entry.accepts(flow):
        about = flow_about(packet) if entry.icmp_errors and entry.parameters.tunnel else None
        if about is None or not entry.accepts(about):
            raise Dropped(DropReason.SELECTOR_MISMATCH)
        return  # the next one may quote something else
    checked = entry.inbound.checked_flows
    if len(checked) >= FLOWS_PER_SA:
        checked.clear()
    if key:
        checked.add(key)
