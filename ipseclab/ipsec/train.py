"""Trains: packets of one flow and one length, sealed and opened together in prepared buffers.

A way of driving a `Datapath`, not a second one: the same SAD entries, sequence numbers, replay
windows, counts and marks. A train is only what would go its way packet by packet without anything
happening (no limit reached, no new flow, no gap in the sequence numbers); all else goes to the
datapath packet by packet, in order. So the octets and the counters are the same either way.

Trains are ESP in tunnel mode, IPv4 in IPv4, under an AEAD that writes into a buffer (RFC 4106,
RFC 4309, RFC 7634), in UDP or as protocol 50.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from ipseclab.crypto.protection import AeadProtection
from ipseclab.ipsec import ipv4
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.esp import HEADER_SIZE, PADDING, TRAILER_SIZE, trailers, without_trailer
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.nonces import IV_SIZE, Keyed, sequences
from ipseclab.ipsec.sad import SPI_SIZE, InboundHalf, OutboundHalf, SadEntry
from ipseclab.ipsec.segmentation import (
    LARGEST_CUT,
    LARGEST_PACKET,
    NUMBERS,
    CutRows,
    Octets,
    SuperPacket,
    column,
    join,
    joinable,
    segments_of,
)
from ipseclab.outputs import Notice, TcpPath, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import DONT_FRAGMENT, IPV4_HEADER_SIZE

TRAIN_LIMIT = 64
"""Packets in one train: what UDP_SEGMENT takes in one call."""

SHORTEST = 3
"""Fewer packets are cheaper one by one."""

BUFFER_SIZE = 128 * 1024
LAYOUTS = 64
"""Packet sizes whose views over a buffer are kept; when full, starts again empty."""

Numbers = NDArray[np.int64]
_IPV4 = int(IpProtocol.IPV4)
_LOW = 0xFFFF_FFFF
_WITH_PORTS = (int(IpProtocol.TCP), int(IpProtocol.UDP))
_SAME_FLOW = np.array(
    [0xFF00_FFFF, 0x0000_3FFF, 0x00FF_0000, *(3 * [0xFFFF_FFFF])], dtype=np.uint32
)
"""What is alike in the headers of one flow's packets of one length that are no fragments: version,
length, fragment offset, protocol, addresses and ports; the words of 32 bits of IPv4's header and
the next one."""
_SAME_OUTER = np.array([0xFFFF_FFFF, 0x0000_3FFF, 0x00FF_0000], dtype=np.uint32)
"""What is alike in the outer headers of protocol 50: all but identification, DF, TTL, checksum and
addresses."""


@dataclass(frozen=True, slots=True)
class SealedTrain:
    """Packets to send one behind the other: datagrams' payloads along `path`, or whole packets of
    protocol 50. Each has `size` octets, the last one no more; `octets` hold until the next call."""

    path: UdpPath | None
    octets: memoryview
    size: int

    def packets(self) -> Iterator[bytes]:
        """Each packet by itself."""
        for start in range(0, len(self.octets), self.size):
            yield bytes(self.octets[start : start + self.size])


@dataclass(frozen=True, slots=True)
class OpenedTrain:
    """Packets to deliver, a row each, the last one of `last` octets; held until the next call."""

    rows: Octets
    last: int

    def parts(self) -> Iterator[OpenedTrain]:
        """Trains that are short enough to be `joined`."""
        if self.rows.size <= LARGEST_PACKET:
            yield self
            return
        step = joinable(self.rows)
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            whole = start + step < len(self.rows)
            yield OpenedTrain(rows, rows.shape[1] if whole else self.last)

    def joined(self) -> SuperPacket | None:
        """One packet that stands for all, where they are one TCP connection's in order."""
        return join(self.rows, self.last)

    def packets(self) -> Iterator[bytes]:
        """Each packet by itself."""
        for row in self.rows[:-1]:
            yield row.tobytes()
        yield self.rows[-1, : self.last].tobytes()


TrainOutput = DatapathOutput | SealedTrain | OpenedTrain


def _views(buffer: memoryview, stride: int, start: int, size: int, count: int) -> list[memoryview]:
    """`size` octets at `start` of each of the rows of `stride` octets."""
    firsts = range(start, start + count * stride, stride)
    return [buffer[first : first + size] for first in firsts]


class _SealingLayout:
    """Where things are in a train of one packet length:

    outer header (protocol 50) | SPI | sequence number | IV | packet, padding, trailer | ICV
    """

    def __init__(self, buffer: bytearray, start: int, ciphered: int, icv: int) -> None:
        self.start = start
        self.cipher_at = start + HEADER_SIZE + IV_SIZE
        self.stride = self.cipher_at + ciphered + icv
        self.count = min(LARGEST_CUT, len(buffer) // self.stride)
        octets = np.frombuffer(buffer, np.uint8)[: self.count * self.stride]
        self.rows = octets.reshape(self.count, self.stride)
        view = memoryview(buffer)
        self.headers = _views(view, self.stride, start, HEADER_SIZE, self.count)
        self.plain = _views(view, self.stride, self.cipher_at, ciphered, self.count)
        self.sealed = _views(view, self.stride, self.cipher_at, ciphered + icv, self.count)
        self.ivs = self.rows[:, self.cipher_at - IV_SIZE : self.cipher_at]
        self._spis = self.rows[:, start : start + SPI_SIZE]
        self._sequence = column(self.rows, start + SPI_SIZE, ">u4")
        self._iv = column(self.rows, start + HEADER_SIZE, ">u8")
        self._cuts: dict[int, CutRows] = {}

    def cuts(self, length: int) -> CutRows:
        """The packets' part of the rows, for packets of `length` octets."""
        cuts = self._cuts.get(length)
        if cuts is None:
            cuts = self._cuts[length] = CutRows(self.rows[:, self.cipher_at :], length)
        return cuts

    def write_headers(self, spi: bytes, first: int, count: int) -> None:
        """SPI, sequence number, and the same again as IV (RFC 4106 section 3.1 lets it count)."""
        numbers = sequences(first, count)
        self._spis[:count] = np.frombuffer(spi, np.uint8)
        self._sequence[:count] = numbers & np.uint64(_LOW)
        self._iv[:count] = numbers


class TrainSealer:
    """Seals what came from the protected side at one time."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._buffer = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._buffer)
        self._layouts: dict[tuple[int, int, int], _SealingLayout] = {}
        self._keyed = Keyed()

    def seal_super(self, packet: SuperPacket, now: float) -> list[TrainOutput]:
        """What `Datapath.send_packet` would make of each packet that it stands for."""
        count = packet.count
        entry, protection = self._carrier(packet.octets, now)
        if entry is not None and protection is not None and SHORTEST <= count <= LARGEST_CUT:
            length = packet.header_size + packet.size
            layout = self._layout(entry, length)
            rest = (len(packet.octets) - packet.header_size) % packet.size
            total = len(packet.octets) + (count - 1) * packet.header_size
            last = packet.header_size + rest if rest else length
            if _has_room(entry.outbound, layout, length, last, count):
                layout.cuts(length).cut(packet)
                return self._seal(entry, protection, layout, (length, last, count), total, now)
        outputs: list[TrainOutput] = []
        for segment in segments_of(packet):
            outputs += self._datapath.send_packet(segment, now)
        return outputs

    def seal_packets(self, packets: Sequence[bytes], now: float) -> list[TrainOutput]:
        """What `Datapath.send_packet` would make of each. A train that is returned must be sent
        before the next call, so at most one is; what is left of `packets` after it was not taken:
        see `taken`."""
        rows = _run(packets)
        run = len(rows)
        if run >= SHORTEST:
            entry, protection = self._carrier(packets[0], now)
            if entry is not None and protection is not None:
                length = len(packets[0])
                layout = self._layout(entry, length)
                if _has_room(entry.outbound, layout, length, length, run):
                    at = layout.cipher_at
                    layout.rows[:run, at : at + length] = rows
                    self.taken = run
                    sizes = length, length, run
                    return self._seal(entry, protection, layout, sizes, run * length, now)
        self.taken = run
        outputs: list[TrainOutput] = []
        for packet in packets[:run]:
            outputs += self._datapath.send_packet(packet, now)
        return outputs

    taken = 0
    """How many packets the last call of `seal_packets` has taken."""

    def _carrier(self, packet: bytes, now: float) -> tuple[SadEntry | None, AeadProtection | None]:
        """The SA that carries `packet`, if a train of its kind can be sealed under it."""
        entry = self._datapath.carrier(ipv4.flow_key(packet))
        if entry is None or now >= entry.hard_at or entry.shaped:
            return None, None
        if isinstance(entry.path, TcpPath):
            return None, None  # the stream has trains of its own
        protection = _in_trains(entry, entry.outbound)
        return (entry, protection) if protection is not None else (None, None)

    def _layout(self, entry: SadEntry, length: int) -> _SealingLayout:
        half = entry.outbound
        ciphered = length + len(trailers(half.alignment, _IPV4)[length % half.alignment])
        key = (0 if entry.path is not None else IPV4_HEADER_SIZE), ciphered, half.icv_size
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = _SealingLayout(self._buffer, *key)
        return layout

    def _seal(
        self,
        entry: SadEntry,
        protection: AeadProtection,
        layout: _SealingLayout,
        sizes: tuple[int, int, int],
        total: int,
        now: float,
    ) -> list[TrainOutput]:
        """The packets are in the layout's rows; `sizes` are length, the last one's, and count."""
        length, last, count = sizes
        half = entry.outbound
        nonces = self._keyed.of(half, protection)
        first = half.sequence + 1
        rows = layout.rows[:count]
        layout.write_headers(half.spi, first, count)
        nonces.ivs[:count] = layout.ivs[:count]
        associated = nonces.associated(first, count, layout.headers)
        trailer = trailers(half.alignment, _IPV4)[length % half.alignment]
        at = layout.cipher_at + length
        rows[:, at : at + len(trailer)] = np.frombuffer(trailer, np.uint8)
        plain, sealed = layout.plain, layout.sealed
        ciphered = (count - 1) * len(plain[0])
        end = (count - 1) * layout.stride + layout.cipher_at + last
        tail = trailers(half.alignment, _IPV4)[last % half.alignment]
        self._view[end : end + len(tail)] = tail
        end += len(tail)
        start = (count - 1) * layout.stride + layout.cipher_at
        last_plain, last_sealed = self._view[start:end], self._view[start : end + half.icv_size]
        if layout.start:
            _write_outer(entry, layout, rows, first, len(last_sealed))
        seal = protection.encrypt_into
        assert seal is not None
        whole = count - 1
        deque(map(seal, nonces.nonces[:whole], plain, associated, sealed), 0)
        seal(nonces.nonces[whole], last_plain, associated[whole], last_sealed)
        half.sequence += count
        half.packets += count
        half.octets += ciphered + len(last_plain)
        entry.last_outbound = now
        self._datapath.counters.packets_out += count
        self._datapath.counters.octets_out += total
        return self._trains(entry.path, layout.stride, end + half.icv_size)

    def _trains(self, path: UdpPath | None, stride: int, end: int) -> list[TrainOutput]:
        """What can leave in one call each."""
        room = longest_train(stride)
        return [
            SealedTrain(path, self._view[start : min(start + room, end)], stride)
            for start in range(0, end, room)
        ]


def longest_train(size: int) -> int:
    """Octets of the datagrams of `size` octets that can leave in one call."""
    return min(TRAIN_LIMIT, ipv4.UDP_PAYLOAD_LIMIT // size) * size


def _in_trains(entry: SadEntry, half: OutboundHalf | InboundHalf) -> AeadProtection | None:
    """What seals or opens trains of the entry; None when packets of it go one by one."""
    protection = half.protection
    if entry.compressor is not None or entry.blocks_in is not None:
        return None
    if entry.ah or not entry.parameters.tunnel or len(entry.parameters.local) != 4:
        return None
    if not isinstance(protection, AeadProtection) or protection.encrypt_into is None:
        return None
    return protection


def _has_room(
    half: OutboundHalf, layout: _SealingLayout, length: int, last: int, count: int
) -> bool:
    """Whether all of a train can be sealed without a limit being reached or a packet too long."""
    octets = half.octets + count * len(layout.plain[0]) if layout.count else 0
    return (
        count <= layout.count
        and layout.stride <= ipv4.UDP_PAYLOAD_LIMIT
        and last <= length
        and half.sequence + count <= half.last
        and half.packets + count < half.packet_mark
        and octets < half.octet_mark
    )


def _run(packets: Sequence[bytes]) -> Octets:
    """The first packets that are of one flow and length, a row each."""
    first = packets[0]
    length, most = len(first), min(TRAIN_LIMIT, len(packets))
    count = 1
    while count < most and len(packets[count]) == length:
        count += 1
    key = ipv4.flow_key(first)
    if count < SHORTEST or not key or key[0] not in _WITH_PORTS:
        count = 1
    rows = np.frombuffer(b"".join(packets[:count]), np.uint8).reshape(count, length)
    if count > 1:
        others = np.nonzero(_differences(rows))[0]
        if len(others):
            rows = rows[: others[0]]
    return rows


def _differences(rows: Octets) -> NDArray[np.uint32]:
    """A value for each row: 0 where it is of the first one's flow."""
    words = rows[:, : IPV4_HEADER_SIZE + 4].view(">u4").astype(np.uint32)
    words ^= words[0]
    words &= _SAME_FLOW
    found: NDArray[np.uint32] = np.bitwise_or.reduce(words, axis=1)
    return found


def _write_outer(
    entry: SadEntry,
    layout: _SealingLayout,
    rows: Octets,
    first: int,
    last_sealed: int,
) -> None:
    """The outer headers: alike but for identification and checksum, the last one's length apart."""
    inner = rows[0, layout.cipher_at : layout.cipher_at + IPV4_HEADER_SIZE]
    tos, fragment = int(inner[1]), int(inner[6]) << 8 & DONT_FRAGMENT
    esp = bytes(layout.stride - IPV4_HEADER_SIZE)
    header = entry.outer.around_with(esp, tos, fragment, first)[:IPV4_HEADER_SIZE]
    rows[:, :IPV4_HEADER_SIZE] = np.frombuffer(header, np.uint8)
    count = len(rows)
    identifications: Numbers = (NUMBERS[:count] + (first - 1) % 0xFFFF) % 0xFFFF + 1
    fixed = int.from_bytes(header[:4] + header[6:10] + header[12:], "big") % 0xFFFF
    column(rows, 4, ">u2")[:] = identifications
    column(rows, 10, ">u2")[:] = (-fixed - identifications) % 0xFFFF
    last = bytes(HEADER_SIZE + IV_SIZE + last_sealed)
    header = entry.outer.around_with(last, tos, fragment, first + count - 1)[:IPV4_HEADER_SIZE]
    rows[-1, :IPV4_HEADER_SIZE] = np.frombuffer(header, np.uint8)


class _OpeningLayout:
    """Where things are in a train that came, and where its packets are opened to: ESP from octet
    `start` of each packet on."""

    def __init__(
        self, source: memoryview, opened: bytearray, start: int, size: int, icv: int
    ) -> None:
        count = min(LARGEST_CUT, len(source) // size)
        cipher_at = start + HEADER_SIZE + IV_SIZE
        self.ciphered = size - cipher_at - icv
        self.rows = np.frombuffer(source, np.uint8)[: count * size].reshape(count, size)
        self.outer = self.rows[:, :start]
        self.headers = _views(source, size, start, HEADER_SIZE, count)
        self.ivs = self.rows[:, cipher_at - IV_SIZE : cipher_at]
        self.numbered = column(self.rows, start, ">u8")
        """SPI and sequence number as one."""
        self.sealed = _views(source, size, cipher_at, self.ciphered + icv, count)
        octets = np.frombuffer(opened, np.uint8)[: count * self.ciphered]
        self.opened = octets.reshape(count, self.ciphered)
        self.plain = _views(memoryview(opened), self.ciphered, 0, self.ciphered, count)


class TrainOpener:
    """Opens trains of ESP packets, in UDP or of protocol 50, that came into `buffer`."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self.buffer = bytearray(BUFFER_SIZE)
        """Where a train is put before `open` is called."""
        self._source = memoryview(self.buffer)
        self._opened = bytearray(BUFFER_SIZE)
        self._layouts: dict[tuple[int, int, int], _OpeningLayout] = {}
        self._keyed = Keyed()

    def open(self, length: int, size: int, path: UdpPath | None, now: float) -> list[TrainOutput]:
        """What `Datapath.receive_esp` would make of each packet of the train: the first `length`
        octets of the buffer, in packets of `size` octets, the last of what is left. Without a path
        they are whole IP packets, and it is what `Datapath.receive_packet` would make of them.

        It stops at the first packet that is not for a train; see `taken`. The rest, which may be
        something else than ESP, is to go its way packet by packet.
        """
        outputs: list[TrainOutput] = []
        self.taken = 0
        if SHORTEST <= length // size <= LARGEST_CUT:
            self.taken = self._open_train(length, size, path, now, outputs)
        return outputs

    taken = 0
    """How many packets the last call of `open` has taken."""

    def _open_train(
        self, length: int, size: int, path: UdpPath | None, now: float, outputs: list[TrainOutput]
    ) -> int:
        """Open as many packets of one size as are a train; how many that is."""
        start = 0 if path is not None else IPV4_HEADER_SIZE
        entry = self._datapath.sad.inbound(bytes(self._source[start : start + SPI_SIZE]))
        if entry is None or now >= entry.hard_at or entry.mobile or entry.lingering:
            return 0
        half, protection = entry.inbound, _in_trains(entry, entry.inbound)
        if protection is None or not entry.active or entry.path != path:
            return 0
        ciphered = size - start - half.overhead
        if ciphered < TRAILER_SIZE + IPV4_HEADER_SIZE or ciphered % half.alignment:
            return 0
        layout = self._layout(start, size, half.icv_size)
        count = length // size
        if path is None and not _are_plain_esp(layout.rows[:count]):
            return 0
        first = self._first_of_run(half, layout.numbered[:count])
        if first is None:
            return 0
        if half.packets + count >= half.packet_mark:
            return 0
        if half.octets + count * ciphered >= half.octet_mark:
            return 0
        nonces = self._keyed.of(half, protection)
        nonces.ivs[:count] = layout.ivs[:count]
        associated = nonces.associated(first, count, layout.headers)
        good = _opened(protection, nonces.nonces[:count], associated, layout)
        if good:
            half.replay.mark_run(first, good)
            half.packets += good
            half.octets += good * ciphered
            half.failures = 0
            opened, outer = layout.opened[:good], layout.outer[:good]
            outputs += self._deliver(entry, opened, outer, path, now)
        return good

    def _layout(self, start: int, size: int, icv: int) -> _OpeningLayout:
        layout = self._layouts.get((start, size, icv))
        if layout is None:
            if len(self._layouts) >= LAYOUTS:
                self._layouts.clear()
            layout = _OpeningLayout(self._source, self._opened, start, size, icv)
            self._layouts[start, size, icv] = layout
        return layout

    def _first_of_run(self, half: InboundHalf, numbered: NDArray[np.integer]) -> int | None:
        """The first sequence number, if all packets are of the SA and their numbers follow each
        other beyond all that was seen."""
        first, count = int(numbered[0]) & _LOW, len(numbered)
        start = int.from_bytes(half.spi, "big") << 32 | first
        if first + count > _LOW or np.count_nonzero(numbered != sequences(start, count)):
            return None
        if half.esn:
            first = half.replay.extended(first)
        return first if first > half.replay.top else None

    def _deliver(
        self,
        entry: SadEntry,
        opened: Octets,
        outer: Octets,
        path: UdpPath | None,
        now: float,
    ) -> list[TrainOutput]:
        """The packets of verified `opened` rows, which were in `outer` headers (of no octets in
        UDP): a train, or one by one through all checks."""
        length = _common_length(opened)
        # Where the TOS octets are equal there is no mark to carry over (RFC 6040).
        if length and (path is not None or (opened[:, 1] == outer[:, 1]).all()):
            key = ipv4.flow_key(opened[0, :length].tobytes())
            if key and key in entry.inbound.checked_flows:
                entry.last_inbound = now
                counters = self._datapath.counters
                counters.packets_in += len(opened)
                counters.octets_in += len(opened) * length
                return [OpenedTrain(opened[:, :length], length)]
        outputs: list[TrainOutput] = []
        for row, header in zip(opened, outer, strict=True):
            try:
                next_header, payload = without_trailer(row.tobytes())
            except Dropped as drop:
                self._datapath.counters.drops[drop.reason] += 1
                outputs.append(_malformed(entry, drop.reason, opened.shape[1]))
            else:
                entry.last_inbound = now
                around = header.tobytes()
                outputs += self._datapath.deliver(entry, next_header, payload, around, path)
        return outputs


def _are_plain_esp(rows: Octets) -> bool:
    """Whether `ipv4.is_plain_esp` holds for all rows; their TOS octets are equal, too."""
    words = rows[:, :12].view(">u4").astype(np.uint32)
    words ^= words[0]
    words &= _SAME_OUTER
    return not np.count_nonzero(words) and ipv4.is_plain_esp(rows[0].tobytes())


def _malformed(entry: SadEntry, reason: DropReason, ciphered: int) -> Notice:
    octets = ciphered + entry.inbound.overhead
    details = {"reason": reason.value, "direction": "inbound", "octets": octets}
    return Notice("packet_dropped", details)


def _opened(
    protection: AeadProtection,
    nonces: list[memoryview],
    associated: list[memoryview],
    layout: _OpeningLayout,
) -> int:
    """Open the rows, as many as there are `nonces`, up to the first that does not verify; how many
    did."""
    decrypt = protection.decrypt_into
    assert decrypt is not None
    try:
        deque(map(decrypt, nonces, layout.sealed, associated, layout.plain), 0)
    except InvalidTag:
        # Which one it was is found by going through them again: it happens to who is attacked.
        number = 0
        with contextlib.suppress(InvalidTag):
            for packet in zip(nonces, layout.sealed, associated, layout.plain, strict=False):
                decrypt(*packet)
                number += 1
        return number
    return len(nonces)


def _common_length(opened: Octets) -> int:
    """The length of every row's packet, when all are IPv4 in tunnel mode of one flow, rightly
    padded, not fragmented and as long as they say; else 0."""
    pad, next_header = (int(value) for value in opened[0, -2:])
    length = opened.shape[1] - TRAILER_SIZE - pad
    if next_header != _IPV4 or length < IPV4_HEADER_SIZE + 4:
        return 0
    if not ipv4.flow_key(opened[0, :length].tobytes()):
        return 0
    expected = np.frombuffer(PADDING[:pad] + bytes([pad, next_header]), np.uint8)
    if np.count_nonzero(_differences(opened)):
        return 0
    padded = np.count_nonzero(opened[:, length:] == expected)
    return length if padded == len(opened) * len(expected) else 0
