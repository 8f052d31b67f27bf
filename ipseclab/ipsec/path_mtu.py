"""Path MTU: learnt from ICMP about our own packets, told to inner senders, clamped into TCP's MSS.

RFC 1191, RFC 8201, RFC 4301 section 8.2. ICMP is not authenticated; what it quotes is: a message
counts only when it quotes an SPI and a sequence number that this end has sent not long ago, or the
ports of an SA in UDP, and it can only lower the MTU, to no less than a limit, for a while.
"""

from __future__ import annotations

import struct
from enum import Enum
from ipaddress import ip_address
from math import inf
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.ipsec.ah import header_size
from ipseclab.ipsec.counters import OUTBOUND, Counters, DropReason
from ipseclab.ipsec.esp import HEADER_SIZE, TRAILER_SIZE
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.processing import SMALLEST_PATH_MTU, DontFragment, Fragmentation
from ipseclab.ipsec.sad import Sad, SadEntry
from ipseclab.outputs import DeliverPacket, Notice, TcpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    ICMP_UNREACHABLE,
    IPV4_HEADER_SIZE,
    UDP_HEADER_SIZE,
    build_ipv4,
    checksum,
    decode_ipv4_header,
    pseudo_header_checksum,
)
from ipseclab.wire.ipv6 import (
    FRAGMENT,
    FRAGMENT_HEADER_SIZE,
    ICMPV6_PACKET_TOO_BIG,
    IPV6_ADDRESS_SIZE,
    IPV6_HEADER_SIZE,
    build_icmpv6,
    build_ipv6,
    decode_ipv6_header,
)

RECENT = 65_536
"""Packets that an SA may have sent since the one that an ICMP message quotes."""

FRAGMENTATION_NEEDED = 4
_ICMP_HEADER_SIZE = 8
_QUOTED_IPV4 = 548
"""RFC 1812 section 4.3.2.3: as much as fits 576 octets."""
_QUOTED_IPV6 = 1280 - IPV6_HEADER_SIZE - _ICMP_HEADER_SIZE

_TCP_SYN, _TCP_MSS, _MSS_SIZE = 0x02, 2, 4
_TCP_HEADER_SIZE = 20
_TCP_CHECKSUM = slice(16, 18)


class TooBig(NamedTuple):
    """What an ICMP message says of a packet that was too long; `quoted` is what followed its IP
    header, as far as the message has it."""

    mtu: int
    source: bytes
    destination: bytes
    protocol: int
    quoted: bytes


def too_big_in(packet: bytes) -> TooBig | None:
    """The content of a "fragmentation needed" or "packet too big"; None for any other packet."""
    try:
        if packet[0] >> 4 == 6:
            return _too_big_in_ipv6(packet)
        return _too_big_in_ipv4(packet)
    except WireError:
        return None


def _too_big_in_ipv4(packet: bytes) -> TooBig | None:
    header = decode_ipv4_header(packet)
    icmp = packet[header.header_length : header.total_length]
    if header.protocol != IpProtocol.ICMP or header.is_fragment:
        return None
    if icmp[:2] != bytes([ICMP_UNREACHABLE, FRAGMENTATION_NEEDED]) or checksum(icmp):
        return None
    quoted = icmp[_ICMP_HEADER_SIZE:]
    if len(quoted) < IPV4_HEADER_SIZE or quoted[0] >> 4 != 4:
        return None
    size = (quoted[0] & 0x0F) * 4
    mtu = int.from_bytes(icmp[6:8], "big")
    return TooBig(mtu, quoted[12:16], quoted[16:20], quoted[9], quoted[size:])


def _too_big_in_ipv6(packet: bytes) -> TooBig | None:
    header = decode_ipv6_header(packet)
    icmp = packet[header.header_length : header.total_length]
    if header.protocol != IpProtocol.ICMPV6 or header.is_fragment or len(icmp) < 8:
        return None
    quoted = icmp[_ICMP_HEADER_SIZE:]
    ends = header.source, header.destination
    if icmp[0] != ICMPV6_PACKET_TOO_BIG or len(quoted) < IPV6_HEADER_SIZE or quoted[0] >> 4 != 6:
        return None
    if pseudo_header_checksum(*ends, IpProtocol.ICMPV6, icmp):
        return None
    mtu = int.from_bytes(icmp[4:8], "big")
    protocol, behind = quoted[6], quoted[IPV6_HEADER_SIZE:]
    if protocol == FRAGMENT and len(behind) >= FRAGMENT_HEADER_SIZE and not _offset(behind):
        # What we have cut up ourselves; its first piece shows the SPI.
        protocol, behind = behind[0], behind[FRAGMENT_HEADER_SIZE:]
    return TooBig(mtu, quoted[8:24], quoted[24:40], protocol, behind)


def _offset(fragment_header: bytes) -> int:
    return int.from_bytes(fragment_header[2:4], "big") & ~0b111


def too_big_for(packet: bytes, mtu: int) -> bytes | None:
    """The ICMP message that tells the sender of `packet` to send `mtu` octets at most, as from its
    destination, the one address that surely is on the way; None about an ICMP error (RFC 1122
    section 3.2.2) or a later fragment."""
    if packet[0] >> 4 == 6:
        six = decode_ipv6_header(packet)
        if six.fragment_offset or _is_icmp_error(six.protocol, packet[six.header_length :]):
            return None
        body = mtu.to_bytes(4, "big") + packet[:_QUOTED_IPV6]
        message = build_icmpv6(six.destination, six.source, ICMPV6_PACKET_TOO_BIG, 0, body)
        return build_ipv6(six.destination, six.source, IpProtocol.ICMPV6, message)
    four = decode_ipv4_header(packet)
    if four.fragment_offset or _is_icmp_error(four.protocol, packet[four.header_length :]):
        return None
    start = bytes([ICMP_UNREACHABLE, FRAGMENTATION_NEEDED])
    rest = struct.pack("!HH", 0, mtu) + packet[:_QUOTED_IPV4]
    value = checksum(start + b"\0\0" + rest)
    message = start + value.to_bytes(2, "big") + rest
    ends = four.destination, four.source
    return build_ipv4(*ends, IpProtocol.ICMP, message, flags_fragment=DONT_FRAGMENT)


def refuse(counters: Counters, packet: bytes, mtu: int) -> list[DatapathOutput]:
    """Drop a packet that is too long, and tell its sender."""
    answer = too_big_for(packet, mtu)
    drop = counters.drop(DropReason.TOO_BIG, OUTBOUND, len(packet))
    return [drop, DeliverPacket(answer)] if answer is not None else [drop]


def _is_icmp_error(protocol: int, message: bytes) -> bool:
    if protocol == IpProtocol.ICMP:
        return message[:1] not in (b"\0", b"\x08", b"\x0d", b"\x0e")
    return protocol == IpProtocol.ICMPV6 and message[:1] < b"\x80"


def with_clamped_mss(packet: bytes, limit: int) -> bytes:
    """A TCP SYN, of no longer segments than an IP packet of `limit` octets holds; any other packet
    as it is."""
    try:
        if packet[0] >> 4 == 6:
            six = decode_ipv6_header(packet)
            start, protocol, ends = six.header_length, six.protocol, (six.source, six.destination)
            whole, fixed = not six.is_fragment, IPV6_HEADER_SIZE
        else:
            four = decode_ipv4_header(packet)
            start, protocol, ends = (
                four.header_length,
                four.protocol,
                (four.source, four.destination),
            )
            whole, fixed = not four.is_fragment, IPV4_HEADER_SIZE
    except WireError:
        return packet
    segment = packet[start:]
    if protocol != IpProtocol.TCP or not whole or len(segment) < _TCP_HEADER_SIZE:
        return packet
    at = _mss_at(segment)
    largest = limit - fixed - _TCP_HEADER_SIZE
    if at is None or int.from_bytes(segment[at : at + 2], "big") <= largest or largest <= 0:
        return packet
    changed = bytearray(segment)
    changed[at : at + 2] = largest.to_bytes(2, "big")
    changed[_TCP_CHECKSUM] = b"\0\0"
    value = pseudo_header_checksum(*ends, IpProtocol.TCP, bytes(changed))
    changed[_TCP_CHECKSUM] = value.to_bytes(2, "big")
    return packet[:start] + bytes(changed)


def _mss_at(segment: bytes) -> int | None:
    """Where a SYN's MSS is; None in another segment, or without the option."""
    end = min((segment[12] >> 4) * 4, len(segment))
    if not segment[13] & _TCP_SYN:
        return None
    at = _TCP_HEADER_SIZE
    while at < end and segment[at]:
        if segment[at] == 1:
            at += 1
            continue
        size = segment[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return None
        if segment[at] == _TCP_MSS and size == _MSS_SIZE:
            return at + 2
        at += size
    return None


class Way(Enum):
    """How a packet leaves an SA that looks at sizes."""

    WHOLE = "whole"
    INNER_PIECES = "fragmented before"
    OUTER_PIECES = "fragmented after"
    REFUSED = "refused"


def way_of(entry: SadEntry, packet: bytes, now: float) -> tuple[Way, bytes, int]:
    """How `packet` leaves, itself with its MSS clamped, and the size that the way goes by: of the
    outer packet for OUTER_PIECES, of the inner one else (RFC 4301 section 8, appendix D)."""
    if now >= entry.path_mtu_until:
        entry.path_mtu, entry.path_mtu_until = entry.processing.path_mtu, inf
    if entry.path_mtu is None or isinstance(entry.path, TcpPath):
        return Way.WHOLE, packet, 0  # a TCP connection cuts its stream as the path wants it
    processing, p = entry.processing, entry.parameters
    limit = inner_limit(entry, entry.path_mtu)
    if processing.clamp_mss:
        packet = with_clamped_mss(packet, limit)
    if len(packet) <= limit:
        return Way.WHOLE, packet, limit
    if packet[0] >> 4 == 6:
        # RFC 8200 section 5: so much passes in one piece, and whoever is in between sees to it.
        limit = max(limit, SMALLEST_PATH_MTU[IPV6_ADDRESS_SIZE])
        if len(packet) <= limit:
            return Way.OUTER_PIECES, packet, entry.path_mtu
    may_fragment = packet[0] >> 4 == 4 and not packet[6] & DONT_FRAGMENT >> 8
    over_ipv6 = len(p.local) == IPV6_ADDRESS_SIZE
    before = processing.fragmentation is Fragmentation.BEFORE
    if may_fragment and p.tunnel and (before or over_ipv6):
        return Way.INNER_PIECES, packet, limit
    if (may_fragment or processing.dont_fragment is DontFragment.CLEAR) and not over_ipv6:
        return Way.OUTER_PIECES, packet, entry.path_mtu
    return Way.REFUSED, packet, limit


def inner_limit(entry: SadEntry, path_mtu: int) -> int:
    """The longest packet of the protected side whose outer packet has `path_mtu` octets or less."""
    p, half = entry.parameters, entry.outbound
    is_ipv6 = len(p.local) == IPV6_ADDRESS_SIZE
    header = IPV6_HEADER_SIZE if is_ipv6 else IPV4_HEADER_SIZE
    room = path_mtu - header - (UDP_HEADER_SIZE if entry.path is not None else 0)
    # In transport mode the packet's own header stays outside; what is left fits behind it.
    outside = 0 if p.tunnel else header
    if entry.ah:
        return outside + room - header_size(half.icv_size, ipv6=is_ipv6)
    room -= HEADER_SIZE + p.suite.iv_size + p.suite.icv_size
    return outside + room // half.alignment * half.alignment - TRAILER_SIZE


def learn_path_mtu(sad: Sad, packet: bytes, now: float) -> list[Notice]:
    """Take in a plain packet that may be ICMP about one of ours: a Notice for each SA whose path
    MTU it lowers."""
    told = too_big_in(packet)
    if told is None:
        return []
    return [
        Notice(
            "path_mtu",
            {
                "spi_out": entry.outbound.spi.hex(),
                "octets": entry.path_mtu,
                "inner": inner_limit(entry, entry.path_mtu) if entry.path_mtu is not None else None,
            },
        )
        for entry in sad.sending(_quoted_spi(told))
        if _is_about(entry, told) and entry.learn_path_mtu(told.mtu, now)
    ]


def _is_about(entry: SadEntry, told: TooBig) -> bool:
    """True when `told` quotes a packet that this SA sent not long ago."""
    p, path = entry.parameters, entry.path
    local, remote, start = p.local, p.remote, 4 if entry.ah else 0
    if isinstance(path, TcpPath):
        return False
    if path is not None:
        local, remote = (ip_address(end.address).packed for end in path)
        ports = path.local.port.to_bytes(2, "big") + path.remote.port.to_bytes(2, "big")
        if told.quoted[:4] != ports:
            return False
        start = UDP_HEADER_SIZE
    if (told.source, told.destination) != (local, remote):
        return False
    protocol = IpProtocol.UDP if path is not None else p.protocol
    if told.protocol != protocol or told.quoted[start : start + 4] != p.spi_out:
        return False
    sequence = told.quoted[start + 4 : start + 8]
    behind = entry.outbound.sequence - int.from_bytes(sequence, "big") & 0xFFFF_FFFF
    return len(sequence) == 4 and behind < RECENT


def _quoted_spi(told: TooBig) -> bytes:
    """The SPI in the packet that `told` quotes; empty when it is not there."""
    starts = {IpProtocol.ESP: 0, IpProtocol.AH: 4, IpProtocol.UDP: UDP_HEADER_SIZE}
    start = starts.get(IpProtocol(told.protocol))
    return told.quoted[start : start + 4] if start is not None else b""
