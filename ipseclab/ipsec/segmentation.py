"""TCP and UDP super-packets: cut into the packets that they stand for, and joined from packets.

A segmentation offload hands over up to 64 KiB of one flow as one IPv4 packet and the payload size
of each packet (Linux Documentation/networking/segmentation-offloads.rst). RFC 9293 and RFC 768 say
what differs from segment to segment. `segments_of` is for reading and for packets that go one by
one; `cut_into` and `join` do the same for all rows of an array at a time. No IPv6, no IP options.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import IPV4_HEADER_SIZE, checksum, pseudo_header_checksum

Octets = NDArray[np.uint8]
"""One packet a row."""

IPV4_NO_OPTIONS = 0x45
UDP_HEADER_SIZE = 8
LARGEST_PACKET = 0xFFFF

# Octets of a packet without IP options.
_TOTAL_LENGTH, _IDENTIFICATION, _PROTOCOL, _IP_CHECKSUM = 2, 4, 9, 10
_ENDS = slice(12, 20)
_SEQUENCE, _DATA_OFFSET, _FLAGS, _TCP_CHECKSUM = 24, 32, 33, 36
_UDP_LENGTH, _UDP_CHECKSUM = 24, 26
_FIN, _PSH, _ACK, _CWR = 0x01, 0x08, 0x10, 0x80
_TCP, _UDP = int(IpProtocol.TCP), int(IpProtocol.UDP)


@dataclass(frozen=True, slots=True)
class SuperPacket:
    """An IPv4 packet without options around TCP or UDP; each packet that it stands for carries
    `size` octets of its payload, the last one what is left. Its checksums are not looked at."""

    octets: bytes
    size: int

    @property
    def header_size(self) -> int:
        """Octets of IP and TCP or UDP header, which each packet has."""
        if self.octets[_PROTOCOL] == _UDP:
            return IPV4_HEADER_SIZE + UDP_HEADER_SIZE
        return IPV4_HEADER_SIZE + (self.octets[_DATA_OFFSET] >> 4) * 4

    @property
    def count(self) -> int:
        """How many packets it stands for."""
        return -(-(len(self.octets) - self.header_size) // self.size)

    @property
    def is_sound(self) -> bool:
        """Whether it is what this module can cut; the rest of a kernel's offloads it cannot."""
        octets = self.octets
        if len(octets) < IPV4_HEADER_SIZE + 20 or octets[0] != IPV4_NO_OPTIONS or self.size <= 0:
            return False
        if octets[_PROTOCOL] not in (_TCP, _UDP):
            return False
        length = int.from_bytes(octets[_TOTAL_LENGTH : _TOTAL_LENGTH + 2], "big")
        return length == len(octets) and IPV4_HEADER_SIZE < self.header_size < len(octets)


def segments_of(packet: SuperPacket) -> Iterator[bytes]:
    """Each packet, with its lengths, sequence number, flags and checksums."""
    octets, head, size = packet.octets, packet.header_size, packet.size
    last = packet.count - 1
    identification = int.from_bytes(octets[_IDENTIFICATION : _IDENTIFICATION + 2], "big")
    for number in range(last + 1):
        start = head + number * size
        payload = octets[start : start + size]
        header = bytearray(octets[:IPV4_HEADER_SIZE])
        header[_TOTAL_LENGTH : _TOTAL_LENGTH + 2] = (head + len(payload)).to_bytes(2, "big")
        header[_IDENTIFICATION : _IDENTIFICATION + 2] = (
            (identification + number) & 0xFFFF
        ).to_bytes(2, "big")
        header[_IP_CHECKSUM : _IP_CHECKSUM + 2] = bytes(2)
        header[_IP_CHECKSUM : _IP_CHECKSUM + 2] = checksum(bytes(header)).to_bytes(2, "big")
        transport = bytearray(octets[IPV4_HEADER_SIZE:head] + payload)
        if octets[_PROTOCOL] == _TCP:
            _set_tcp(transport, number * size, first=not number, last=number == last)
            at = _TCP_CHECKSUM - IPV4_HEADER_SIZE
        else:
            transport[4:6] = len(transport).to_bytes(2, "big")
            at = _UDP_CHECKSUM - IPV4_HEADER_SIZE
        transport[at : at + 2] = bytes(2)
        value = pseudo_header_checksum(
            octets[12:16], octets[16:20], octets[_PROTOCOL], bytes(transport)
        )
        if octets[_PROTOCOL] == _UDP and not value:
            value = 0xFFFF  # zero would say that there is none (RFC 768)
        transport[at : at + 2] = value.to_bytes(2, "big")
        yield bytes(header + transport)


def _set_tcp(segment: bytearray, offset: int, *, first: bool, last: bool) -> None:
    sequence = int.from_bytes(segment[4:8], "big") + offset
    segment[4:8] = (sequence & 0xFFFF_FFFF).to_bytes(4, "big")
    if not last:
        segment[13] &= ~(_FIN | _PSH)
    if not first:
        segment[13] &= ~_CWR  # it is said once (RFC 3168 section 6.1.2)


def column(rows: Octets, at: int, kind: str) -> NDArray[np.integer]:
    """The numbers of that numpy kind at octet `at` of each row, to read or to set."""
    return rows[:, at : at + np.dtype(kind).itemsize].view(kind)[:, 0]


def cut_into(packet: SuperPacket, rows: Octets) -> int:
    """Write the packets into `rows`, one a row; the octets of the last one.

    There are as many rows as packets, and each has room for the longest and no more.
    """
    octets, head, size = packet.octets, packet.header_size, packet.size
    whole = np.frombuffer(octets, np.uint8)
    full, rest = divmod(len(octets) - head, size)
    rows[:, :head] = whole[:head]
    rows[:full, head:] = whole[head : head + full * size].reshape(full, size)
    if rest:
        rows[full, head : head + rest] = whole[head + full * size :]
    _set_ip(octets, rows, head + size, head + rest if rest else 0)
    if octets[_PROTOCOL] == _TCP:
        start = int.from_bytes(octets[_SEQUENCE : _SEQUENCE + 4], "big")
        numbers = np.arange(len(rows), dtype=np.uint64) * size + start
        column(rows, _SEQUENCE, ">u4")[:] = numbers & 0xFFFF_FFFF
        rows[:-1, _FLAGS] &= 0xFF & ~(_FIN | _PSH)
        rows[1:, _FLAGS] &= 0xFF & ~_CWR
    else:
        column(rows, _UDP_LENGTH, ">u2")[:] = head + size - IPV4_HEADER_SIZE
        if rest:
            column(rows, _UDP_LENGTH, ">u2")[-1] = head + rest - IPV4_HEADER_SIZE
    _set_transport_checksums(rows[:full])
    if rest:
        _set_transport_checksums(rows[full:, : head + rest])
    return head + (rest if rest else size)


def _set_ip(octets: bytes, rows: Octets, length: int, last: int) -> None:
    """Total lengths, identifications and header checksums; `last` is 0 for one as all others."""
    count = len(rows)
    identification = int.from_bytes(octets[_IDENTIFICATION : _IDENTIFICATION + 2], "big")
    numbers = (np.arange(count) + identification) & 0xFFFF
    lengths = np.full(count, length)
    if last:
        lengths[-1] = last
    rest = octets[:2] + octets[6:_IP_CHECKSUM] + octets[_ENDS]
    sums = (int.from_bytes(rest, "big") % 0xFFFF + lengths + numbers) % 0xFFFF
    column(rows, _TOTAL_LENGTH, ">u2")[:] = lengths
    column(rows, _IDENTIFICATION, ">u2")[:] = numbers
    column(rows, _IP_CHECKSUM, ">u2")[:] = np.where(sums, 0xFFFF - sums, 0)


def _set_transport_checksums(rows: Octets) -> None:
    if not len(rows):
        return
    udp = rows[0, _PROTOCOL] == _UDP
    at = _UDP_CHECKSUM if udp else _TCP_CHECKSUM
    found = column(rows, at, "<u2")
    found[:] = 0
    sums = transport_sums(rows)
    found[:] = np.where(sums, 0xFFFF - sums, 0xFFFF if udp else 0)


def transport_sums(rows: Octets) -> NDArray[np.uint64]:
    """The one's-complement sum of each row's segment and pseudo header, with the octets of each
    word swapped (RFC 1071 section 2 (B)); 0 where the checksum in it is right."""
    segments = rows[:, IPV4_HEADER_SIZE:]
    length = segments.shape[1]
    protocol = int(rows[0, _PROTOCOL])
    pseudo = int.from_bytes(rows[0, _ENDS].tobytes(), "little") % 0xFFFF
    pseudo += int.from_bytes(length.to_bytes(2, "big"), "little") + (protocol << 8)
    return (_sums(segments) + np.uint64(pseudo)) % np.uint64(0xFFFF)


def _sums(rows: Octets) -> NDArray[np.uint64]:
    """Each row as little-endian words of 32 bits, summed: modulo 65,535 the same as of 16 bits."""
    whole = rows.shape[1] & ~3
    sums: NDArray[np.uint64] = rows[:, :whole].view("<u4").sum(axis=1, dtype=np.uint64)
    for at in range(whole, rows.shape[1]):
        sums += rows[:, at].astype(np.uint64) << np.uint64(8 * (at - whole))
    return sums


_ALIKE = np.ones(120, np.bool_)
"""What is the same in each header that can be joined, of the longest TCP header's octets."""
for _start, _size in (
    (_TOTAL_LENGTH, 4),  # and the identification
    (_IP_CHECKSUM, 2),
    (_SEQUENCE, 4),
    (_FLAGS, 1),
    (_TCP_CHECKSUM, 2),
):
    _ALIKE[_start : _start + _size] = False


def join(rows: Octets, last: int) -> SuperPacket | None:
    """The super-packet that stands for all these packets, or None when there is none.

    The rows are valid IPv4 packets without options, of one length but for the last one's `last`
    octets. Cutting gives them back octet for octet, wrong checksums and all else that a cut would
    mend being left alone.
    """
    first, end = rows[0], rows[-1]
    if first[_PROTOCOL] != _TCP or rows.shape[1] < IPV4_HEADER_SIZE + 20:
        return None
    head = IPV4_HEADER_SIZE + int(first[_DATA_OFFSET] >> 4) * 4
    size = rows.shape[1] - head
    if head < IPV4_HEADER_SIZE + 20 or size <= 0 or last <= head:
        return None
    count = len(rows)
    length = head + (count - 1) * size + last - head
    if length > LARGEST_PACKET or not _continue_each_other(rows, head, size):
        return None
    if not _sums_are_right(rows, last):
        return None
    whole = np.empty(length, np.uint8)
    whole[:head] = first[:head]
    whole[_FLAGS] = end[_FLAGS]
    whole[head : head + (count - 1) * size].reshape(count - 1, size)[:] = rows[:-1, head:]
    whole[head + (count - 1) * size :] = end[head:last]
    return SuperPacket(_with_partial_checksum(bytearray(whole)), size)


def _continue_each_other(rows: Octets, head: int, size: int) -> bool:
    """Headers alike, identifications and sequence numbers in order, nothing special but at the
    end."""
    alike = _ALIKE[:head]
    if not ((rows[:, :head] == rows[0, :head])[:, alike]).all():
        return False
    flags = rows[:, _FLAGS]
    if (flags[:-1] != _ACK).any() or int(flags[-1]) & ~(_FIN | _PSH) != _ACK:
        return False
    numbers = np.arange(len(rows), dtype=np.int64)
    found = column(rows, _IDENTIFICATION, ">u2").astype(np.int64)
    sequence = column(rows, _SEQUENCE, ">u4").astype(np.int64)
    in_order = ((found - found[0] - numbers) & 0xFFFF == 0).all()
    return bool(in_order and ((sequence - sequence[0] - numbers * size) & 0xFFFF_FFFF == 0).all())


def _sums_are_right(rows: Octets, last: int) -> bool:
    """Joining makes new checksums: a packet that came with a wrong one keeps it."""
    headers = _sums(rows[:, :IPV4_HEADER_SIZE]) % np.uint64(0xFFFF)
    if headers.any():
        return False
    if last == rows.shape[1]:
        return not transport_sums(rows).any()
    return not transport_sums(rows[:-1]).any() and not transport_sums(rows[-1:, :last]).any()


def _with_partial_checksum(packet: bytearray) -> bytes:
    """The IP header's checksum, and in TCP's place the sum of the pseudo header, to which whoever
    cuts or takes the packet adds the rest."""
    packet[_TOTAL_LENGTH : _TOTAL_LENGTH + 2] = len(packet).to_bytes(2, "big")
    packet[_IP_CHECKSUM : _IP_CHECKSUM + 2] = bytes(2)
    value = checksum(bytes(packet[:IPV4_HEADER_SIZE]))
    packet[_IP_CHECKSUM : _IP_CHECKSUM + 2] = value.to_bytes(2, "big")
    pseudo = int.from_bytes(packet[_ENDS], "big") + _TCP + len(packet) - IPV4_HEADER_SIZE
    packet[_TCP_CHECKSUM : _TCP_CHECKSUM + 2] = (pseudo % 0xFFFF).to_bytes(2, "big")
    return bytes(packet)
