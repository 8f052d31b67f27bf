"""Octets by part, measured: a run's capture opened with the run's own keys and taken apart.

What `measure.overhead` works out from the formats is here found on the wire, packet by packet: the
outer headers, the IV and ICV of the SA's suite, and, behind the decryption, the padding, the inner
header and the payload. RFC 4303 section 2, RFC 4302 section 2, RFC 3948 section 2. AH hides nothing
and needs no keys. Fragments are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from statistics import fmean

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import ConfigError, IntegrityFailure, WireError
from ipseclab.ike.tcp_stream import LENGTH_SIZE, only_message
from ipseclab.ipsec.ah import FIXED_SIZE as AH_FIXED_SIZE
from ipseclab.ipsec.esp import open_captured
from ipseclab.lab.keys import ESP_TABLE, KEYS_FOLDER, read_esp_rows
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.measure.overhead import AH_LENGTH_AND_RESERVED, OVERHEAD_PARTS, Overhead
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import EncrId, IntegId, IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import decode_ip_header

IKE_PORTS = (500, 4500)
NAT_T_PORT = 4500
SMALLEST_ESP = 16
MOST_OPENED = 20_000
"""Data packets taken apart in one capture; sizes repeat long before."""

_TRANSPORT_HEADERS = {IpProtocol.UDP: 8, IpProtocol.ICMP: 8, IpProtocol.ICMPV6: 8}
_TUNNELLED = (IpProtocol.IPV4, IpProtocol.IPV6)
_TCP_SMALLEST_HEADER = 20


@dataclass(frozen=True, slots=True)
class Opened:
    """One data packet taken apart: its transport protocol, payload octets, and all the rest."""

    protocol: int
    payload: int
    overhead: Overhead


@dataclass(slots=True)
class Load:
    """What a capture held: every packet's octets, and the data packets by protocol and payload
    size."""

    octets: int = 0
    payload: int = 0
    groups: dict[tuple[int, int], dict[Overhead, int]] = field(default_factory=dict)

    def add(self, opened: Opened) -> None:
        """Count a data packet."""
        self.payload += opened.payload
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
    return load_of(_packets(capture), keys)


def _packets(capture: Path) -> Iterator[bytes]:
    frames = read_capture(capture)
    while True:
        try:
            captured = next(frames)
        except (StopIteration, ConfigError):
            return
        packet = ip_packet(captured)
        if packet is not None:
            yield packet


def load_of(packets: Iterable[bytes], keys: Iterable[EspKeyLog]) -> Load:
    """The load in these IP packets."""
    openers = {row.spi: _Opener(row) for row in keys}
    load = Load()
    opened = 0
    for packet in packets:
        if opened >= MOST_OPENED:
            break
        load.octets += len(packet)
        try:
            found = open_packet(packet, openers)
        except (WireError, IntegrityFailure):
            continue  # damaged on the link: octets on the wire, but no payload
        if found is not None:
            load.add(found)
            opened += 1
    return load


def open_packet(packet: bytes, openers: Mapping[bytes, _Opener]) -> Opened | None:
    """The packet's parts; None for IKE, keepalives, fragments and ESP without keys.

    Raises WireError or IntegrityFailure for a packet that is not whole.
    """
    header = decode_ip_header(packet)
    if header.is_fragment:
        return None
    body = packet[header.header_length : header.total_length]
    if header.protocol == IpProtocol.ESP:
        return _open_esp(body, openers, header.header_length, udp=0)
    if header.protocol == IpProtocol.AH:
        return _open_ah(body, header.header_length)
    if header.protocol == IpProtocol.UDP and len(body) >= UDP_HEADER_SIZE:
        ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        data = body[UDP_HEADER_SIZE:]
        if NAT_T_PORT in ports and len(data) > 1 and any(data[:4]):
            return _open_esp(data, openers, header.header_length, udp=UDP_HEADER_SIZE)
        if any(port in IKE_PORTS for port in ports):
            return None
    if header.protocol == IpProtocol.TCP and len(body) >= _TCP_SMALLEST_HEADER:
        ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        if NAT_T_PORT in ports:
            return _open_frame(body, openers, header.header_length)
    return _plain(header.protocol, body, header.header_length)


def _open_frame(segment: bytes, openers: Mapping[bytes, _Opener], outer_ip: int) -> Opened | None:
    """The ESP packet of a segment that holds just that (RFC 9329); where a stream is cut elsewhere
    its packets are not looked for."""
    start = (segment[12] >> 4) * 4
    esp = only_message(segment[start:])
    if esp is None:
        return None
    return _open_esp(esp, openers, outer_ip, udp=start + LENGTH_SIZE)


def _plain(protocol: int, body: bytes, outer_ip: int) -> Opened | None:
    transport = _transport_header(protocol, body)
    if transport is None or len(body) <= transport:
        return None
    return Opened(protocol, len(body) - transport, Overhead(outer_ip=outer_ip, transport=transport))


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
) -> Opened | None:
    opener = openers.get(esp[:4])
    if opener is None or len(esp) < SMALLEST_ESP:
        return None
    plaintext = open_captured(opener.suite, opener.protection, esp)
    padding, next_header = plaintext[-2], plaintext[-1]
    inner = plaintext[: len(plaintext) - 2 - padding]
    found = _inside(int(next_header), inner)
    if found is None:
        return None
    protocol, inner_ip, transport, payload = found
    overhead = Overhead(
        outer_ip=outer_ip,
        udp=udp,
        spi=4,
        sequence=4,
        iv=opener.suite.iv_size,
        inner_ip=inner_ip,
        transport=transport,
        padding=padding,
        pad_length=1,
        next_header=1,
        icv=opener.suite.icv_size,
    )
    return Opened(protocol, payload, overhead)


def _open_ah(body: bytes, outer_ip: int) -> Opened | None:
    size = (body[1] + 2) * 4 if len(body) >= AH_FIXED_SIZE else 0
    found = _inside(body[0], body[size:]) if AH_FIXED_SIZE < size <= len(body) else None
    if found is None:
        return None
    protocol, inner_ip, transport, payload = found
    overhead = Overhead(
        outer_ip=outer_ip,
        ah_length=AH_LENGTH_AND_RESERVED,
        spi=4,
        sequence=4,
        inner_ip=inner_ip,
        transport=transport,
        next_header=1,
        icv=size - AH_FIXED_SIZE,
    )
    return Opened(protocol, payload, overhead)


def _inside(next_header: int, inner: bytes) -> tuple[int, int, int, int] | None:
    """What ESP or AH carried: transport protocol, octets of inner header, transport header and
    payload; None without a payload."""
    inner_ip, protocol, segment = 0, next_header, inner
    if next_header in _TUNNELLED:
        header = decode_ip_header(inner)
        inner_ip, protocol = header.header_length, header.protocol
        segment = inner[inner_ip : header.total_length]
    transport = _transport_header(protocol, segment)
    if transport is None or len(segment) <= transport:
        return None
    return protocol, inner_ip, transport, len(segment) - transport
