"""The report's ladder: what the trace says of each IKE message, with its octets from the capture,
and of each ESP or AH SA the first packets and the last.

The trace knows what was lost and what a NAT did; the capture has the octets, and what nobody who
writes a trace has sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ipseclab.errors import ConfigError, WireError
from ipseclab.lab.keys_read import find_keys, read_secrets
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import FieldValue
from ipseclab.measure.view import RunView, text
from ipseclab.present.ladder import Rung, rungs
from ipseclab.present.opener import Opener
from ipseclab.present.report.dissect import Dissection, dissect
from ipseclab.present.report.material import Counters
from ipseclab.present.sighting import Sighting, sighting_in
from ipseclab.wire.message import decode_header, decode_message
from ipseclab.wire.payloads import SkfPayload

MOST_FRAMES = 250_000
MOST_IKE = 2_000
FIRST_ESP = 2
MOST_ESP_SAS = 100
SPI_AT = {"ESP": 0, "AH": 4}
"""Where the SPI is, with the sequence number behind it: RFC 4303 and RFC 4302, section 2."""
MOST_ROWS = 300
"""Messages that a ladder shows."""

IkeKey = tuple[FieldValue, ...]


@dataclass(frozen=True, slots=True)
class LadderRow:
    """A message or packet of the ladder; `sender` and `receiver` are nodes, or addresses where no
    node is known. `opened` None: the capture does not have it."""

    at: float
    words: str
    sender: str
    receiver: str
    kind: str
    lost: bool
    about: str
    opened: Dissection | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The rows in order of time, the nodes as columns, and what was left out."""

    rows: tuple[LadderRow, ...]
    nodes: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(slots=True)
class EspFlow:
    """An ESP SA as its sender's interface saw it."""

    interface: str
    first: list[Sighting] = field(default_factory=list)
    last: Sighting | None = None
    packets: int = 0


@dataclass(slots=True)
class Captured:
    """What a capture holds for a ladder."""

    ike: dict[IkeKey, list[Sighting]] = field(default_factory=dict)
    odd: list[Sighting] = field(default_factory=list)
    """What is on an IKE port and does not decode."""
    esp: dict[bytes, EspFlow] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    messages: int = 0


def make_ladder(
    view: RunView, topology: Topology, captured: Captured, opener: Opener, octets: int
) -> Ladder:
    """The ladder of a run. `octets` bounds what messages may take with all their panes; where that
    is used up, rows stay without."""
    names = {str(i.address): node.name for node in topology.nodes.values() for i in node.interfaces}
    drawn = [
        *_traced(view, captured),
        *_untraced(captured, names),
        *_packets(captured, names, _ends_of_spis(view)),
    ]
    drawn.sort(key=lambda item: item[0].at)
    rows: list[LadderRow] = []
    bare = 0
    for row, sighting in drawn[:MOST_ROWS]:
        found = dissect(sighting, opener) if sighting is not None else None
        size = sum(len(pane) for _, pane in found.panes) if found is not None else 0
        if size > octets:
            found, size, bare = None, 0, bare + 1
        octets -= size
        rows.append(
            LadderRow(row.at, row.words, row.sender, row.receiver, row.kind, row.lost, row.about,
                      found)
        )  # fmt: skip
    notes = list(captured.notes)
    if len(drawn) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} rows; {len(drawn) - MOST_ROWS} more are left out.")
    if bare:
        notes.append(f"{bare} rows are without their octets, to keep the report small.")
    nodes = tuple(dict.fromkeys(end for row in rows for end in (row.sender, row.receiver) if end))
    return Ladder(tuple(rows), nodes, tuple(notes))


def opener_for(capture: Path) -> Opener:
    """What opens a run's capture: the keys beside it, where there are any that can be read."""
    found = find_keys(capture)
    try:
        return Opener(read_secrets(found) if found is not None else None)
    except ConfigError:
        return Opener(None)


def read_captured(capture: Path, counters: Counters, topology: Topology) -> Captured:
    """Read a capture as far as it goes and as far as a report needs it; ESP packets of gateways are
    counted on the way."""
    found = Captured()
    nodes = {i.name: node.name for node in topology.nodes.values() for i in node.interfaces}
    frames = read_capture(capture)
    for number in range(MOST_FRAMES + 1):
        try:
            frame = next(frames)
        except StopIteration:
            return found
        except ConfigError as problem:
            found.notes.append(f"The capture cannot be read to its end: {problem.problem}.")
            return found
        if number == MOST_FRAMES:
            break
        packet = ip_packet(frame)
        try:
            sighting = sighting_in(frame, packet) if packet is not None else None
        except WireError:
            continue
        if sighting is not None:
            _keep(found, sighting, counters, nodes.get(sighting.interface, ""))
    found.notes.append(f"Of the capture the first {MOST_FRAMES:,} packets are read.")
    return found


def _keep(found: Captured, sighting: Sighting, counters: Counters, node: str) -> None:
    if sighting.kind == "IKE":
        if found.messages == MOST_IKE:
            found.notes.append(f"Of the capture's IKE messages the first {MOST_IKE:,} are kept.")
        found.messages += 1
        if found.messages <= MOST_IKE:
            key = _key_of(sighting)
            if key is None:
                found.odd.append(sighting)
            else:
                found.ike.setdefault(key, []).append(sighting)
    elif sighting.kind in SPI_AT and len(sighting.octets) >= SPI_AT[sighting.kind] + 8:
        spi = _spi_and_sequence(sighting)[0]
        flow = found.esp.get(spi)
        if flow is None:
            if len(found.esp) >= MOST_ESP_SAS:
                return
            # Where an SA's packets are seen first is where they are sent.
            flow = found.esp[spi] = EspFlow(sighting.interface)
        if flow.interface != sighting.interface:
            counters.add(sighting.time, node or sighting.interface, f"{sighting.kind} received", 1)
            return
        counters.add(sighting.time, node or sighting.interface, f"{sighting.kind} sent", 1)
        flow.packets += 1
        if len(flow.first) < FIRST_ESP:
            flow.first.append(sighting)
        else:
            flow.last = sighting


def _spi_and_sequence(sighting: Sighting) -> tuple[bytes, int]:
    at = SPI_AT[sighting.kind]
    octets = sighting.octets
    return octets[at : at + 4], int.from_bytes(octets[at + 4 : at + 8], "big")


def _key_of(sighting: Sighting) -> IkeKey | None:
    """What a captured message and its records in the trace have in common."""
    octets = sighting.octets
    try:
        header = decode_header(octets)
        message = decode_message(octets)
    except WireError:
        return None
    last = message.payloads[-1] if message.payloads else None
    part = last.number if isinstance(last, SkfPayload) else None
    return (
        header.spi_i.hex(), header.exchange.name, header.message_id, not header.response,
        len(octets), part,
    )  # fmt: skip


_Item = tuple[LadderRow, Sighting | None]


def _traced(view: RunView, captured: Captured) -> Iterator[_Item]:
    for rung in rungs(view.records):
        record = rung.record.fields
        key = tuple(
            record.get(name)
            for name in ("spi_i", "exchange", "message_id", "request", "octets", "fragment")
        )
        sighting = _nearest(captured.ike.get(key, []), rung)
        yield _row_of(rung), sighting
    used = {
        tuple(
            record.fields.get(name)
            for name in ("spi_i", "exchange", "message_id", "request", "octets", "fragment")
        )
        for record in view.events("ike_sent", "ike_received")
    }
    for key in [key for key in captured.ike if key in used]:
        del captured.ike[key]


def _nearest(sightings: list[Sighting], rung: Rung) -> Sighting | None:
    """The one at the sender's own interface, before a NAT; of several the nearest in time."""
    own = [s for s in sightings if s.interface.startswith(f"{rung.sender}-")]
    return min(own or sightings, key=lambda s: abs(s.time - rung.at), default=None)


def _row_of(rung: Rung) -> LadderRow:
    fields = rung.record.fields
    ways = f"{fields.get('source')} > {fields.get('destination')}, {fields.get('octets')} octets"
    if rung.lost:
        about = f"{ways}, never arrived"
    elif rung.arrived is None:
        about = ways
    else:
        about = f"{ways}, arrived after {1e3 * (rung.arrived - rung.at):.3f} ms"
    words = f"{rung.words}{' (duplicate)' * rung.duplicate}"
    sender = rung.sender or str(fields.get("source"))
    receiver = rung.receiver or str(fields.get("destination"))
    return LadderRow(rung.at, words, sender, receiver, "ike", rung.lost, about, None)


def _untraced(captured: Captured, names: dict[str, str]) -> Iterator[_Item]:
    """IKE messages that are in the capture and in nobody's trace: each once."""
    for sightings in captured.ike.values():
        header = decode_header(sightings[0].octets)
        kind = "response" if header.response else "request"
        words = f"{header.exchange.name} {kind} {header.message_id}"
        yield _seen(sightings[0], words, "ike", names, "in the capture alone"), sightings[0]
    for sighting in captured.odd:
        yield _seen(sighting, "not an IKE message", "ike", names, "on an IKE port"), sighting


def _ends_of_spis(view: RunView) -> dict[str, tuple[str, str]]:
    """Sender and receiver of each SA, where the trace names both: addresses would name a NAT."""
    senders = {text(r, "spi_out"): r.node for r in view.events("child_ready")}
    receivers = {text(r, "spi_in"): r.node for r in view.events("child_ready")}
    return {spi: (node, receivers[spi]) for spi, node in senders.items() if spi in receivers}


def _packets(
    captured: Captured, names: dict[str, str], ends: Mapping[str, tuple[str, str]]
) -> Iterator[_Item]:
    """The first packets of each ESP or AH SA, and the last."""
    for flow in captured.esp.values():
        shown = [*flow.first, *([flow.last] if flow.last is not None else [])]
        for sighting in shown:
            spi, sequence = _spi_and_sequence(sighting)
            words = f"{sighting.kind} {spi.hex()} sequence {sequence}"
            about = f"one of {flow.packets} packets of this SA"
            if sighting is flow.last:
                about = f"the last of {flow.packets} packets of this SA"
            row = _seen(sighting, words, "esp", names, about)
            sender, receiver = ends.get(spi.hex(), (row.sender, row.receiver))
            yield replace(row, sender=sender, receiver=receiver), sighting


def _seen(
    sighting: Sighting, words: str, kind: str, names: dict[str, str], about: str
) -> LadderRow:
    source, destination = sighting.source.address, sighting.destination.address
    what = f"at {sighting.interface}: {source} > {destination}, {sighting.carrier}, {about}"
    return LadderRow(
        sighting.time, words, names.get(source, source), names.get(destination, destination), kind,
        False, what, None,
    )  # fmt: skip
