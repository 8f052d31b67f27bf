"""Octets by part, measured: a run's capture opened with the run's own keys and taken apart.

What `measure.overhead` works out from the formats is here found on the wire, packet by packet: the
outer headers, the IV and ICV of the SA's suite, and, behind the decryption, the padding, the inner
header and the payload. RFC 4303 section 2, RFC 4302 section 2, RFC 3948 section 2. AH hides nothing
and needs no keys. A packet in fragments, outer or inner ones, is one whose parts are those of all
its pieces (`measure.pieces`). What was compressed (RFC 3173), or shares payloads of a fixed size
(RFC 9347), counts as payload; there is no telling which octets were added to which packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields, replace
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import ConfigError, IntegrityFailure, WireError
from ipseclab.ike.tcp_stream import LENGTH_SIZE, only_message
from ipseclab.ipsec.aggfrag import BlockReceiver
from ipseclab.ipsec.ah import FIXED_SIZE as AH_FIXED_SIZE
from ipseclab.ipsec.counters import Dropped
from ipseclab.ipsec.esp import open_captured
from ipseclab.ipsec.ipcomp import HEADER_SIZE as IPCOMP_HEADER_SIZE
from ipseclab.ipsec.ipcomp import inflated
from ipseclab.lab.keys import ESP_TABLE, KEYS_FOLDER, read_esp_rows
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.measure.observer import Sightings
from ipseclab.measure.overhead import AH_LENGTH_AND_RESERVED, OVERHEAD_PARTS, Overhead
from ipseclab.measure.pieces import Crossings, Pieces, Whole
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import EncrId, IntegId, IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import decode_ip_header

IKE_PORTS = (500, 4500)
NAT_T_PORT = 4500
SMALLEST_ESP = 16
MOST_OPENED = 20_000
"""Data packets taken apart in one capture; sizes repeat long before."""
MARK_SIZE = 16
"""Octets by which a packet without SPI and sequence number is known again."""

_TRANSPORT_HEADERS = {IpProtocol.UDP: 8, IpProtocol.ICMP: 8, IpProtocol.ICMPV6: 8}
_TUNNELLED = (IpProtocol.IPV4, IpProtocol.IPV6)
_TCP_SMALLEST_HEADER = 20


class Captured(NamedTuple):
    """An IP packet, where it was seen, and when."""

    interface: str
    packet: bytes
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """One data packet taken apart: its transport protocol, payload octets, and all the rest."""

    protocol: int
    payload: int
    overhead: Overhead | None
    """None of what was compressed or aggregated."""


@dataclass(frozen=True, slots=True)
class _Unwrapped:
    """What protection, or nothing, was around: the octets inside, what they are, and what was added
    to them. `mark` is the same wherever the packet is seen; `octets` are those of the packet of the
    protected side, without what was added."""

    mark: bytes
    next_header: int
    inside: bytes
    added: Overhead
    octets: int
    plain: bool = True
    """False of what was compressed, or is one of several in a payload."""


@dataclass(slots=True)
class Load:
    """What a capture held: every packet's octets, and the data packets by protocol and payload
    size."""

    octets: int = 0
    payload: int = 0
    groups: dict[tuple[int, int], dict[Overhead, int]] = field(default_factory=dict)
    crossings: Crossings = field(default_factory=Crossings)
    """Which packets were seen at both ends."""
    sightings: Sightings = field(default_factory=Sightings)
    """What shows without keys."""

    def add(self, opened: Opened) -> None:
        """Count a data packet."""
        self.payload += opened.payload
        if opened.overhead is None:
            return
        group = self.groups.setdefault((opened.protocol, opened.payload), {})
        group[opened.overhead] = group.get(opened.overhead, 0) + 1

    @property
    def efficiency(self) -> float | None:
        """Payload octets / octets on the link, IKE and acknowledgements included."""
        return self.payload / self.octets if self.payload else None

    def parts(self) -> dict[str, float]:
        """Mean octets of each part; empty when no packet of constant size went through.

        Over the probes, or else the pings: a TCP segment's size depends on the moment. Each payload
        size counts once, however many packets of it arrived.
        """
        for protocol in (IpProtocol.UDP, IpProtocol.ICMP, IpProtocol.ICMPV6):
            means = [
                _mean_parts(group) for (found, _), group in self.groups.items() if found == protocol
            ]
            if means:
                return {part: fmean(mean[part] for mean in means) for part in OVERHEAD_PARTS}
        return {}


def _mean_parts(group: Mapping[Overhead, int]) -> dict[str, float]:
    packets = sum(group.values())
    totals = [0] * len(OVERHEAD_PARTS)
    for overhead, count in group.items():
        totals = [
            total + part * count for total, part in zip(totals, astuple(overhead), strict=True)
        ]
    return {f.name: total / packets for f, total in zip(fields(Overhead), totals, strict=True)}


def read_load(capture: Path) -> Load:
    """Take apart a run's capture, with the keys in the folder beside it.

    A capture that a killed run cut off is read as far as it goes.
    """
    table = capture.parent / KEYS_FOLDER / ESP_TABLE
    keys = read_esp_rows(table.read_text(encoding="ascii")) if table.is_file() else ()
    return load_of_links(_packets(capture), keys)


def _packets(capture: Path) -> Iterator[Captured]:
    frames = read_capture(capture)
    while True:
        try:
            captured = next(frames)
        except (StopIteration, ConfigError):
            return
        packet = ip_packet(captured)
        if packet is not None:
            yield Captured(captured.interface, packet, captured.time)


def load_of(packets: Iterable[bytes], keys: Iterable[EspKeyLog]) -> Load:
    """The load in these IP packets of one interface."""
    return load_of_links((Captured("", packet) for packet in packets), keys)


def load_of_links(seen: Iterable[Captured], keys: Iterable[EspKeyLog]) -> Load:
    """The load in IP packets with the interfaces at which they were seen."""
    openers = {row.spi: _Opener(row) for row in keys}
    load = Load()
    readers: dict[str, _Reader] = {}
    opened = 0
    for interface, packet, time in seen:
        if opened >= MOST_OPENED:
            break
        load.octets += len(packet)
        load.sightings.add(interface, time, packet)
        reader = readers.setdefault(interface, _Reader(interface, openers, load.crossings))
        try:
            found = reader.take(packet)
        except (WireError, IntegrityFailure):
            continue  # damaged on the link: octets on the wire, but no payload
        for one in found:
            load.add(one)
        opened += len(found)
    return load


class _Reader:
    """The packets of one interface, those in fragments put together outside and inside."""

    def __init__(
        self, interface: str, openers: Mapping[bytes, _Opener], crossings: Crossings
    ) -> None:
        self._interface = interface
        self._openers = openers
        self._crossings = crossings
        self._outer: Pieces[None] = Pieces()
        self._inner: Pieces[_Unwrapped] = Pieces()
        self._blocks: dict[bytes, BlockReceiver] = {}

    def take(self, packet: bytes) -> list[Opened]:
        """The data packets for which this was the last that they lacked. Raises as `unwrap`."""
        outer = self._outer.take(packet, None)
        found = None
        if outer is not None:
            found = unwrap(outer.packet, self._openers, outer.headers)
        if outer is None or found is None:
            return []
        if found.next_header == IpProtocol.AGGFRAG:
            return self._aggregated(found)
        one = self._one(outer, found)
        return [one] if one is not None else []

    def _aggregated(self, found: _Unwrapped) -> list[Opened]:
        """The packets that a payload makes whole (RFC 9347), by the SPI that it came with."""
        blocks = self._blocks.setdefault(found.mark[:4], BlockReceiver())
        try:
            packets = blocks.take(int.from_bytes(found.mark[4:], "big"), found.inside)
        except Dropped:
            return []
        opened = []
        for packet in packets:
            header = decode_ip_header(packet)
            segment = packet[header.header_length :]
            transport = _transport_header(header.protocol, segment)
            if transport is not None and not header.is_fragment and len(segment) > transport:
                opened.append(Opened(header.protocol, len(segment) - transport, None))
        return opened

    def _one(self, outer: Whole[None], found: _Unwrapped) -> Opened | None:
        if found.next_header not in _TUNNELLED:
            return self._opened(found, found.next_header, found.inside, in_pieces=outer.pieces > 1)
        inner = self._inner.take(found.inside, found)
        if inner is None:
            return None
        wrapped = _joined(inner)
        protocol = decode_ip_header(inner.packet).protocol
        in_pieces = outer.pieces > 1 or inner.pieces > 1
        return self._opened(wrapped, protocol, inner.body, in_pieces=in_pieces)

    def _opened(
        self, found: _Unwrapped, protocol: int, segment: bytes, *, in_pieces: bool
    ) -> Opened | None:
        transport = _transport_header(protocol, segment)
        if transport is None or len(segment) <= transport:
            return None
        self._crossings.seen(found.mark, self._interface, found.octets, in_pieces=in_pieces)
        overhead = replace(found.added, transport=transport) if found.plain else None
        return Opened(protocol, len(segment) - transport, overhead)


def _joined(inner: Whole[_Unwrapped]) -> _Unwrapped:
    """What was added to an inner packet, in as many packets as it took."""
    first = min(inner.carriers, key=lambda one: one.mark)
    added = replace(first.added, inner_ip=inner.headers)
    for carrier in inner.carriers:
        if carrier is not first:
            added += carrier.added
    return replace(first, added=added, octets=len(inner.packet))


def unwrap(
    packet: bytes, openers: Mapping[bytes, _Opener], headers: int | None = None
) -> _Unwrapped | None:
    """What a whole packet carries; None for IKE, keepalives and ESP without keys. `headers`: octets
    of outer IP headers, where it came in several fragments.

    Raises WireError or IntegrityFailure for a packet that is damaged.
    """
    header = decode_ip_header(packet)
    outer_ip = headers if headers is not None else header.header_length
    body = packet[header.header_length : header.total_length]
    if header.protocol == IpProtocol.ESP:
        found = _open_esp(body, openers, outer_ip, udp=0)
    elif header.protocol == IpProtocol.AH:
        found = _open_ah(body, outer_ip)
    else:
        found = _open_other(header.protocol, body, openers, outer_ip)
    # A packet in transport mode had its IP header before.
    return replace(found, octets=found.octets + header.header_length) if found is not None else None


def _open_other(
    protocol: int, body: bytes, openers: Mapping[bytes, _Opener], outer_ip: int
) -> _Unwrapped | None:
    if protocol == IpProtocol.UDP and len(body) >= UDP_HEADER_SIZE:
        ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        data = body[UDP_HEADER_SIZE:]
        if NAT_T_PORT in ports and len(data) > 1 and any(data[:4]):
            return _open_esp(data, openers, outer_ip, udp=UDP_HEADER_SIZE)
        if any(port in IKE_PORTS for port in ports):
            return None
    if protocol == IpProtocol.TCP and len(body) >= _TCP_SMALLEST_HEADER:
        ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        if NAT_T_PORT in ports:
            return _open_frame(body, openers, outer_ip)
    mark = blake2b(body, digest_size=MARK_SIZE).digest()
    return _Unwrapped(mark, protocol, body, Overhead(outer_ip=outer_ip), len(body))


def _open_frame(
    segment: bytes, openers: Mapping[bytes, _Opener], outer_ip: int
) -> _Unwrapped | None:
    """The ESP packet of a segment that holds just that (RFC 9329); where a stream is cut elsewhere
    its packets are not looked for."""
    start = (segment[12] >> 4) * 4
    esp = only_message(segment[start:])
    if esp is None:
        return None
    return _open_esp(esp, openers, outer_ip, udp=start + LENGTH_SIZE)


def _transport_header(protocol: int, segment: bytes) -> int | None:
    """Octets of the transport header; None for a protocol without one that we know."""
    if protocol == IpProtocol.TCP and len(segment) >= _TCP_SMALLEST_HEADER:
        return (segment[12] >> 4) * 4
    return _TRANSPORT_HEADERS.get(IpProtocol(protocol))


class _Opener:
    """One SA's way to open its packets."""

    def __init__(self, row: EspKeyLog) -> None:
        self.suite = suite_of(row)
        self.protection: Protection = self.suite.keyed(row.encr_key, row.integ_key)


def suite_of(row: EspKeyLog) -> Suite:
    """The suite that a row of the key table names."""
    encr = EncrId.named(row.encr)
    cipher = next(
        found
        for (number, _), found in CIPHERS.items()
        if number == encr and found.key_size + found.salt_size == len(row.encr_key)
    )
    integrity = None if row.integ == "NONE" else INTEGRITIES[IntegId.named(row.integ)]
    return Suite(cipher, integrity)


def _open_esp(
    esp: bytes, openers: Mapping[bytes, _Opener], outer_ip: int, *, udp: int
) -> _Unwrapped | None:
    opener = openers.get(esp[:4])
    if opener is None or len(esp) < SMALLEST_ESP:
        return None
    plaintext = open_captured(opener.suite, opener.protection, esp)
    padding, next_header = plaintext[-2], int(plaintext[-1])
    inside = plaintext[: len(plaintext) - 2 - padding]
    added = Overhead(
        outer_ip=outer_ip,
        udp=udp,
        spi=4,
        sequence=4,
        iv=opener.suite.iv_size,
        padding=padding,
        pad_length=1,
        next_header=1,
        icv=opener.suite.icv_size,
    )
    return _decompressed(_Unwrapped(esp[:8], next_header, inside, added, len(inside)))


def _decompressed(found: _Unwrapped) -> _Unwrapped | None:
    """The same, behind IPComp (RFC 3173) where there is one."""
    if found.next_header != IpProtocol.IPCOMP or len(found.inside) <= IPCOMP_HEADER_SIZE:
        return found
    try:
        inside = inflated(found.inside)
    except Dropped:
        return None
    next_header = found.inside[0]
    return replace(found, next_header=next_header, inside=inside, octets=len(inside), plain=False)


def _open_ah(body: bytes, outer_ip: int) -> _Unwrapped | None:
    size = (body[1] + 2) * 4 if len(body) >= AH_FIXED_SIZE else 0
    if not AH_FIXED_SIZE < size <= len(body):
        return None
    added = Overhead(
        outer_ip=outer_ip,
        ah_length=AH_LENGTH_AND_RESERVED,
        spi=4,
        sequence=4,
        next_header=1,
        icv=size - AH_FIXED_SIZE,
    )
    return _decompressed(_Unwrapped(body[4:12], body[0], body[size:], added, len(body) - size))
