"""TCP and UDP super-packets: cut into the packets that they stand for, and joined from packets.

A segmentation offload hands over up to 64 KiB of one flow as one IPv4 packet and the payload size
of each packet (Linux Documentation/networking/segmentation-offloads.rst). RFC 9293 and RFC 768 say
what differs from segment to segment. `segments_of` is for reading and for packets that go one by
one; `CutRows` and `join` do the same for all rows of an array at a time. No IPv6, no IP options.
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

LARGEST_CUT = 128
"""Packets that a super-packet may stand for: those of a usual segment size, and more."""

NUMBERS = np.arange(LARGEST_CUT, dtype=np.int64)
"""0, 1, 2, ...: of the packets in a train."""

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
            _set_segment(transport, number * size, first=not number, last=number == last)
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


def _set_segment(segment: bytearray, offset: int, *, first: bool, last: bool) -> None:
    sequence = int.from_bytes(segment[4:8], "big") + offset
    segment[4:8] = (sequence & 0xFFFF_FFFF).to_bytes(4, "big")
    if not last:
        segment[13] &= ~(_FIN | _PSH)
    if not first:
        segment[13] &= ~_CWR  # it is said once (RFC 3168 section 6.1.2)


def column(rows: Octets, at: int, kind: str) -> NDArray[np.integer]:
    """The numbers of that numpy kind at octet `at` of each row, to read or to set."""
    return rows[:, at : at + np.dtype(kind).itemsize].view(kind)[:, 0]


class CutRows:
    """Rows that a super-packet is cut into, a packet a row, with views of the fields that differ
    from packet to packet."""

    def __init__(self, rows: Octets, length: int) -> None:
        """`rows` has as many octets as the longest TCP or UDP header at least, and `length`, that
        of the packets, rounded up to words of 4: what is beyond `length` gets overwritten."""
        whole = length + 3 & ~3
        self._rows = rows[:, :whole]
        self._length = length
        self._words = rows[:, IPV4_HEADER_SIZE:whole].view("<u4")
        self._total = column(rows, _TOTAL_LENGTH, ">u2")
        self._identification = column(rows, _IDENTIFICATION, ">u2")
        self._ip_checksum = column(rows, _IP_CHECKSUM, ">u2")
        self._sequence = column(rows, _SEQUENCE, ">u4")
        self._flags = rows[:, _FLAGS]
        self._udp_length = column(rows, _UDP_LENGTH, ">u2")
        self._checksums = {
            _TCP: column(rows, _TCP_CHECKSUM, "<u2"),
            _UDP: column(rows, _UDP_CHECKSUM, "<u2"),
        }

    def cut(self, packet: SuperPacket) -> None:
        """Write the packets of `length` octets, the last one of what is left, into the first rows:
        what `segments_of` makes of it."""
        octets, head, size = packet.octets, packet.header_size, packet.size
        full, rest = divmod(len(octets) - head, size)
        count = full + (rest > 0)
        last = head + (rest if rest else size)
        rows, whole = self._rows[:count], np.frombuffer(octets, np.uint8)
        rows[:, :head] = whole[:head]
        rows[:full, head : self._length] = whole[head : head + full * size].reshape(full, size)
        if rest:
            rows[full, head:last] = whole[head + full * size :]
            rows[full, last:] = 0
        if rows.shape[1] > self._length:
            rows[:full, self._length :] = 0
        self._set_ip(octets, count, last)
        if octets[_PROTOCOL] == _TCP:
            self._set_tcp(octets, count, size)
        else:
            self._udp_length[:count] = self._length - IPV4_HEADER_SIZE
            self._udp_length[count - 1] = last - IPV4_HEADER_SIZE
        self._set_checksums(octets, count, last)

    def _set_ip(self, octets: bytes, count: int, last: int) -> None:
        """Total lengths, identifications, and header checksums."""
        first = int.from_bytes(octets[_IDENTIFICATION : _IDENTIFICATION + 2], "big")
        numbers = NUMBERS[:count] + first
        if first + count > 0xFFFF:
            numbers &= 0xFFFF
        fixed = int.from_bytes(octets[:2] + octets[6:_IP_CHECKSUM] + octets[_ENDS], "big") % 0xFFFF
        self._total[:count] = self._length
        self._total[count - 1] = last
        self._identification[:count] = numbers
        # The complement of a one's-complement sum is its negative modulo 65,535.
        self._ip_checksum[:count] = (-fixed - self._length - numbers) % 0xFFFF
        self._ip_checksum[count - 1] = (-fixed - last - int(numbers[-1])) % 0xFFFF

    def _set_tcp(self, octets: bytes, count: int, size: int) -> None:
        start = int.from_bytes(octets[_SEQUENCE : _SEQUENCE + 4], "big")
        self._sequence[:count] = (NUMBERS[:count] * size + start) & 0xFFFF_FFFF
        flags = octets[_FLAGS]
        if flags & (_FIN | _PSH):
            self._flags[: count - 1] = flags & ~(_FIN | _PSH)
        if flags & _CWR:  # it is said once (RFC 3168 section 6.1.2)
            self._flags[1:count] &= 0xFF & ~_CWR

    def _set_checksums(self, octets: bytes, count: int, last: int) -> None:
        protocol = octets[_PROTOCOL]
        found = self._checksums[protocol]
        found[:count] = 0
        sums = np.add.reduce(self._words[:count], axis=1, dtype=np.int64)
        sums += _pseudo_sum(octets, self._length)
        if last != self._length:
            sums[-1] += _pseudo_sum(octets, last) - _pseudo_sum(octets, self._length)
        # Zero would say that UDP has none (RFC 768).
        found[:count] = 0xFFFF - sums % 0xFFFF if protocol == _UDP else -sums % 0xFFFF


def _pseudo_sum(octets: bytes, length: int) -> int:
    """What the pseudo header adds for a packet of `length` octets, octets of words swapped."""
    rest = length - IPV4_HEADER_SIZE
    swapped = (rest & 0xFF) << 8 | rest >> 8
    return int.from_bytes(octets[_ENDS], "little") % 0xFFFF + swapped + (octets[_PROTOCOL] << 8)


def transport_sums(rows: Octets) -> NDArray[np.int64]:
    """The one's-complement sum of each row's segment and pseudo header, with the octets of each
    word swapped (RFC 1071 section 2 (B)); 0 where the checksum in it is right."""
    sums = _sums(rows[:, IPV4_HEADER_SIZE:]) + _pseudo_sum(
        rows[0, :IPV4_HEADER_SIZE].tobytes(), rows.shape[1]
    )
    return sums % 0xFFFF


def _sums(rows: Octets) -> NDArray[np.int64]:
    """Each row as little-endian words of 32 bits, summed: modulo 65,535 the same as of 16 bits."""
    whole = rows.shape[1] & ~3
    sums: NDArray[np.int64] = np.add.reduce(rows[:, :whole].view("<u4"), axis=1, dtype=np.int64)
    for at in range(whole, rows.shape[1]):
        sums += rows[:, at].astype(np.int64) << (8 * (at - whole))
    return sums


def _words_of(octets: bytes) -> NDArray[np.uint32]:
    """A header's octets, as words of 32 bits."""
    return np.frombuffer(octets, ">u4").astype(np.uint32)


_LONGEST_HEAD = 80
"""Octets of an IP and the longest TCP header; a longer one there is not."""


def _mask(*differing: slice) -> NDArray[np.uint32]:
    """All bits of headers but those of the octets in `differing`."""
    octets = bytearray(b"\xff" * _LONGEST_HEAD)
    for part in differing:
        octets[part] = bytes(part.stop - part.start)
    return _words_of(bytes(octets))


# Alike in each header that can be joined, once it is reckoned back to the first: all but checksums
# and TCP's flags, which are looked at by themselves.
_ALIKE = {
    _TCP: _mask(slice(10, 12), slice(_FLAGS, _FLAGS + 1), slice(_TCP_CHECKSUM, _TCP_CHECKSUM + 2)),
    _UDP: _mask(slice(10, 12), slice(_UDP_CHECKSUM, _UDP_CHECKSUM + 2)),
}
_NUMBERS32 = NUMBERS.astype(np.uint32)[:, np.newaxis]


def join(rows: Octets, last: int) -> SuperPacket | None:
    """The super-packet that stands for all these packets, or None when there is none.

    The rows are valid IPv4 packets without options, of one length but for the last one's `last`
    octets. Cutting gives them back octet for octet, wrong checksums and all else that a cut would
    mend being left alone.
    """
    start = rows[0, :_LONGEST_HEAD].tobytes()
    head = _joinable_head(start)
    size = rows.shape[1] - head
    if not head or size <= 0 or last <= head:
        return None
    count, udp = len(rows), start[_PROTOCOL] == _UDP
    length = (count - 1) * size + last
    if length > LARGEST_PACKET or not _continue_each_other(rows, start, head, last):
        return None
    if not _sums_are_right(rows, last):
        return None
    whole = np.empty(length, np.uint8)
    whole[:head] = rows[0, :head]
    whole[head : head + (count - 1) * size].reshape(count - 1, size)[:] = rows[:-1, head:]
    whole[head + (count - 1) * size :] = rows[-1, head:last]
    if not udp:
        whole[_FLAGS] = rows[-1, _FLAGS]
    _set_partial_checksum(whole, udp=udp)
    return SuperPacket(whole.tobytes(), size)


def joinable(rows: Octets) -> int:
    """How many rows from the first on would fit one super-packet, if they can be joined at all."""
    head = _joinable_head(rows[0, :_LONGEST_HEAD].tobytes())
    size = rows.shape[1] - head
    return (LARGEST_PACKET - head) // size if head and size > 0 else len(rows)


def _joinable_head(start: bytes) -> int:
    """Octets of the IP and transport headers; 0 where there is no joining."""
    if start[_PROTOCOL] == _UDP:
        # None, where there is no checksum: it would get one.
        present = start[_UDP_CHECKSUM : _UDP_CHECKSUM + 2] != b"\0\0"
        return IPV4_HEADER_SIZE + UDP_HEADER_SIZE if present else 0
    if start[_PROTOCOL] != _TCP or len(start) < IPV4_HEADER_SIZE + 20:
        return 0
    head = IPV4_HEADER_SIZE + (start[_DATA_OFFSET] >> 4) * 4
    return head if head >= IPV4_HEADER_SIZE + 20 else 0


def _continue_each_other(rows: Octets, start: bytes, head: int, last: int) -> bool:
    """Headers alike, identifications and sequence numbers in order, nothing special but at the
    end."""
    tcp = start[_PROTOCOL] == _TCP
    found = rows[:, :head].view(">u4").astype(np.uint32)
    step = np.zeros(head // 4, np.uint32)
    # Reckoned in words of 32 bits: a carry out of the identification is one that wraps to zero.
    step[1] = 1 << 16
    if tcp:
        step[6] = rows.shape[1] - head
    found -= _NUMBERS32[: len(rows)] * step
    found ^= found[0]
    shorter = rows.shape[1] - last
    if shorter:
        short = _words_of(start[:head])
        short[0] -= shorter
        if not tcp:
            short[6] -= shorter << 16
        found[-1] ^= short ^ _words_of(start[:head])
    found &= _ALIKE[start[_PROTOCOL]][: head // 4]
    if np.count_nonzero(found):
        return False
    if not tcp:
        return True
    flags = rows[:, _FLAGS]
    ordinary = np.count_nonzero(flags[:-1] == _ACK) == len(rows) - 1
    return ordinary and int(flags[-1]) & ~(_FIN | _PSH) == _ACK


def _sums_are_right(rows: Octets, last: int) -> bool:
    """Joining makes new checksums: a packet that came with a wrong one keeps it."""
    if np.count_nonzero(_sums(rows[:, :IPV4_HEADER_SIZE]) % 0xFFFF):
        return False
    if rows[0, _PROTOCOL] == _UDP and not column(rows, _UDP_CHECKSUM, ">u2").all():
        return False
    if last == rows.shape[1]:
        return not np.count_nonzero(transport_sums(rows))
    whole, rest = transport_sums(rows[:-1]), transport_sums(rows[-1:, :last])
    return not np.count_nonzero(whole) and not np.count_nonzero(rest)


def _set_partial_checksum(packet: Octets, *, udp: bool) -> None:
    """The lengths, the IP header's checksum, and in the transport's place the sum of the pseudo
    header, to which whoever cuts or takes the packet adds the rest."""
    header = bytearray(packet[:IPV4_HEADER_SIZE].tobytes())
    header[_TOTAL_LENGTH : _TOTAL_LENGTH + 2] = len(packet).to_bytes(2, "big")
    header[_IP_CHECKSUM : _IP_CHECKSUM + 2] = bytes(2)
    header[_IP_CHECKSUM : _IP_CHECKSUM + 2] = checksum(bytes(header)).to_bytes(2, "big")
    packet[:IPV4_HEADER_SIZE] = np.frombuffer(header, np.uint8)
    length = len(packet) - IPV4_HEADER_SIZE
    pseudo = int.from_bytes(header[_ENDS], "big") + header[_PROTOCOL] + length
    at = _UDP_CHECKSUM if udp else _TCP_CHECKSUM
    packet[at : at + 2] = np.frombuffer((pseudo % 0xFFFF).to_bytes(2, "big"), np.uint8)
    if udp:
        packet[_UDP_LENGTH : _UDP_LENGTH + 2] = np.frombuffer(length.to_bytes(2, "big"), np.uint8)
