"""A figure that is one packet, field by field: as it left, as it arrived, and what its ICV covers.

AH covers the IP header less what routers change (RFC 4302 section 3.3.3.1), ESP nothing before its
own header (RFC 4303 section 2.8); so a NAT's new address breaks the one and not the other. The
packet is the run's first of AH or ESP over IPv4 that was seen at both ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from ipseclab.errors import WireError
from ipseclab.ipsec.ah import FIXED_SIZE as AH_FIXED_SIZE
from ipseclab.ipsec.ah import immutable_part
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.measure.captured import NAT_T_PORT
from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.results import Manifest, ResultsFolder, Row
from ipseclab.measure.series import chosen_run
from ipseclab.present.matrix import CALM, STRIKING
from ipseclab.present.report.dissect import AH_FIELDS, IPV4_FIELDS, UDP_FIELDS, Fields
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import IPV4_HEADER_SIZE, UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import decode_ip_header

PLAIN, HARMLESS = "#FFFFFF", "#FBF3C4"
MOST_SHOWN = 8
"""Octets of a field that are spelt out."""
ESP_FIELDS: Fields = (("SPI", 4), ("Sequence Number", 4), ("IV, ciphertext; ICV at the end", 0))
NON_ESP_MARKER = bytes(4)
_ADDRESSES = ("Source Address", "Destination Address")


class Cover(Enum):
    """How the ICV covers a field."""

    COVERED = "yes"
    AS_ZEROS = "as zeros"
    NOT_COVERED = "no"


@dataclass(frozen=True, slots=True)
class FieldRow:
    """A field of the packet at both ends."""

    header: str
    name: str
    start: int
    left: bytes
    arrived: bytes
    cover: Cover

    @property
    def changed(self) -> bool:
        """Whether it arrived as something else."""
        return self.left != self.arrived

    @property
    def colour(self) -> str:
        """What changed under the ICV strikes; what changed elsewhere is only marked."""
        if self.changed:
            return STRIKING if self.cover is Cover.COVERED else HARMLESS
        return CALM if self.cover is Cover.COVERED else PLAIN


def octets(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """The packet as a table, a line a field."""
    row = chosen_run(rows, spec)
    if row is None:
        return None
    pair = seen_twice(folder.run_path(row.run) / "capture.pcapng")
    if pair is None:
        return None
    found = field_rows(*pair)
    figure = Figure(figsize=(9.2, 0.9 + 0.27 * (len(found) + 1)), layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    table = axis.table(
        cellText=[_words(field) for field in found],
        cellColours=[[field.colour] * 6 for field in found],
        colLabels=["header", "field", "octets", "as it left", "as it arrived", "under the ICV"],
        colWidths=[0.1, 0.25, 0.1, 0.21, 0.21, 0.13],
        cellLoc="left",
        bbox=Bbox.unit(),
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (line, _), cell in table.get_celld().items():
        cell.set_edgecolor("#888888")
        if line == 0 or found[line - 1].changed:
            cell.get_text().set_fontweight("bold")
    what = ", ".join(f"{key} {value}" for key, value in row.parameters.items())
    title = spec.title or f"{manifest.experiment}: a packet at both ends"
    figure.suptitle(f"{title}\n{manifest.world}{', ' + what if what else ''}", fontsize="medium")
    return figure


def seen_twice(capture: Path) -> tuple[bytes, bytes] | None:
    """The first packet of AH or ESP that the capture has as it left and as it arrived."""
    before: dict[bytes, bytes] = {}
    for captured in read_capture(capture):
        packet = ip_packet(captured)
        key = None if packet is None else _identity(packet)
        if packet is None or key is None:
            continue
        if key in before:
            return before[key], packet
        before[key] = packet
    return None


def _identity(packet: bytes) -> bytes | None:
    """SPI and sequence number; None for what is no AH or ESP over IPv4."""
    try:
        header = decode_ip_header(packet)
    except WireError:
        return None
    if packet[0] >> 4 != 4 or header.is_fragment:
        return None
    at = header.header_length
    match header.protocol:
        case IpProtocol.AH:
            return packet[at + 4 : at + AH_FIXED_SIZE]
        case IpProtocol.ESP:
            return packet[at : at + 8]
        case IpProtocol.UDP:
            ports = packet[at : at + 2], packet[at + 2 : at + 4]
            body = packet[at + UDP_HEADER_SIZE :]
            in_udp = NAT_T_PORT.to_bytes(2, "big") in ports and len(body) > 8
            return body[:8] if in_udp and body[:4] != NON_ESP_MARKER else None
    return None


def field_rows(left: bytes, arrived: bytes) -> list[FieldRow]:
    """Every field of the packet, from its first octet on."""
    header = decode_ip_header(left)
    ah = header.protocol == IpProtocol.AH
    rows = list(_rows("IPv4", IPV4_FIELDS[:-1], (left, arrived), 0, _ip_covers(ah=ah)))
    at = header.header_length
    if header.protocol == IpProtocol.UDP:
        covers = [Cover.NOT_COVERED] * len(UDP_FIELDS)
        rows += _rows("UDP", UDP_FIELDS, (left, arrived), at, covers)
        at += UDP_HEADER_SIZE
    if not ah:
        covers = [Cover.COVERED] * len(ESP_FIELDS)
        return [*rows, *_rows("ESP", ESP_FIELDS, (left, arrived), at, covers)]
    size = (left[at + 1] + 2) * 4
    fields = (*AH_FIELDS[:-1], ("ICV", size - AH_FIXED_SIZE))
    covers = [*[Cover.COVERED] * (len(fields) - 1), Cover.AS_ZEROS]
    rows += _rows("AH", fields, (left, arrived), at, covers)
    inside: Fields = (("what AH protects", 0),)
    return [*rows, *_rows("", inside, (left, arrived), at + size, [Cover.COVERED])]


def _ip_covers(*, ah: bool) -> list[Cover]:
    """For each field of the IPv4 header; of AH found out by asking what its ICV is made of."""
    if not ah:
        return [Cover.NOT_COVERED] * len(IPV4_FIELDS[:-1])
    full = b"\x4f".ljust(IPV4_HEADER_SIZE, b"\xff")
    still, at, found = immutable_part(full, IPV4_HEADER_SIZE), 0, []
    for _, size in IPV4_FIELDS[:-1]:
        found.append(Cover.COVERED if any(still[at : at + size]) else Cover.AS_ZEROS)
        at += size
    return found


def _rows(
    header: str, fields: Fields, packets: tuple[bytes, bytes], start: int, covers: Sequence[Cover]
) -> Iterator[FieldRow]:
    left, arrived = packets
    for (name, size), cover in zip(fields, covers, strict=True):
        end = start + size if size else len(left)
        yield FieldRow(header, name, start, left[start:end], arrived[start:end], cover)
        start = end


def _words(field: FieldRow) -> list[str]:
    last = field.start + len(field.left) - 1
    places = str(field.start) if last == field.start else f"{field.start} to {last}"
    values = [_value(field.name, value) for value in (field.left, field.arrived)]
    return [field.header, field.name, places, *values, field.cover.value]


def _value(name: str, value: bytes) -> str:
    if name in _ADDRESSES:
        return ".".join(str(octet) for octet in value)
    return value[:MOST_SHOWN].hex(" ") + (" …" if len(value) > MOST_SHOWN else "")
