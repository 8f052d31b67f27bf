"""A captured packet as a tree whose parts know their octets, sealed parts opened with the keys.

A part is (words, pane, first octet, octets, parts inside): pane 0 is the packet as it was on the
wire, pane 1 what was found behind its encryption. Field positions are those of RFC 7296 section 3,
RFC 4303, RFC 4302 and RFC 3948, each section 2; what decodes has been decoded before it is walked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ipsec.ah import FIXED_SIZE as AH_FIXED_SIZE
from ipseclab.present.describe import Context, describe_packet, describe_payload
from ipseclab.present.opener import (
    ESP_HEADER_SIZE,
    Closed,
    OpenedChain,
    OpenedEsp,
    OpenedFragment,
    Opener,
    inner_payloads,
)
from ipseclab.present.sighting import Sighting
from ipseclab.registry import IpProtocol, PayloadType
from ipseclab.wire.ip import IPV4_HEADER_SIZE, UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import decode_ip_header
from ipseclab.wire.message import HEADER_SIZE, PAYLOAD_HEADER_SIZE, decode_header, decode_message
from ipseclab.wire.payloads import (
    CpPayload,
    Payload,
    SaPayload,
    SkfPayload,
    SkPayload,
    TsiPayload,
    TsrPayload,
)
from ipseclab.wire.proposal import Proposal

WIRE, OPENED = 0, 1

Fields = tuple[tuple[str, int], ...]
"""Names and octets of fields, one after the other; the last one takes what is left when it says
0."""

IKE_HEADER: Fields = (
    ("IKE SA Initiator's SPI", 8),
    ("IKE SA Responder's SPI", 8),
    ("Next Payload", 1),
    ("Version", 1),
    ("Exchange Type", 1),
    ("Flags", 1),
    ("Message ID", 4),
    ("Length", 4),
)
PAYLOAD_HEADER: Fields = (("Next Payload", 1), ("Critical, RESERVED", 1), ("Payload Length", 2))
BODIES: Mapping[PayloadType, Fields] = {
    PayloadType.KE: (("Key Exchange Method", 2), ("RESERVED", 2), ("Key Exchange Data", 0)),
    PayloadType.NONCE: (("Nonce Data", 0),),
    PayloadType.IDI: (("ID Type", 1), ("RESERVED", 3), ("Identification Data", 0)),
    PayloadType.IDR: (("ID Type", 1), ("RESERVED", 3), ("Identification Data", 0)),
    PayloadType.AUTH: (("Auth Method", 1), ("RESERVED", 3), ("Authentication Data", 0)),
    PayloadType.CERT: (("Cert Encoding", 1), ("Certificate Data", 0)),
    PayloadType.CERTREQ: (("Cert Encoding", 1), ("Certification Authority", 0)),
    PayloadType.DELETE: (("Protocol ID", 1), ("SPI Size", 1), ("Num of SPIs", 2), ("SPIs", 0)),
    PayloadType.VENDOR: (("Vendor ID", 0),),
    PayloadType.EAP: (("Code", 1), ("Identifier", 1), ("Length", 2), ("Data", 0)),
}
TS_HEADER: Fields = (("Number of TSs", 1), ("RESERVED", 3))
CP_HEADER: Fields = (("CFG Type", 1), ("RESERVED", 3))
SKF_HEADER: Fields = (("Fragment Number", 2), ("Total Fragments", 2))
PROPOSAL_HEADER = 8
IPV4_FIELDS: Fields = (
    ("Version, IHL", 1),
    ("DSCP, ECN", 1),
    ("Total Length", 2),
    ("Identification", 2),
    ("Flags, Fragment Offset", 2),
    ("Time to Live", 1),
    ("Protocol", 1),
    ("Header Checksum", 2),
    ("Source Address", 4),
    ("Destination Address", 4),
    ("Options", 0),
)
IPV6_FIELDS: Fields = (
    ("Version, Traffic Class, Flow Label", 4),
    ("Payload Length", 2),
    ("Next Header", 1),
    ("Hop Limit", 1),
    ("Source Address", 16),
    ("Destination Address", 16),
    ("Extension Headers", 0),
)
AH_FIELDS: Fields = (
    ("Next Header", 1),
    ("Payload Len", 1),
    ("RESERVED", 2),
    ("SPI", 4),
    ("Sequence Number", 4),
    ("ICV", 0),
)
UDP_FIELDS: Fields = (
    ("Source Port", 2),
    ("Destination Port", 2),
    ("Length", 2),
    ("Checksum", 2),
)
TRANSPORT_HEADERS: Mapping[int, tuple[str, int]] = {
    IpProtocol.UDP: ("UDP header", UDP_HEADER_SIZE),
    IpProtocol.ICMP: ("ICMP header", 8),
    IpProtocol.ICMPV6: ("ICMPv6 header", 8),
}
INNER: Mapping[int, tuple[str, Fields]] = {
    IpProtocol.IPV4: ("IPv4", IPV4_FIELDS),
    IpProtocol.IPV6: ("IPv6", IPV6_FIELDS),
}


class Part(NamedTuple):
    """A part of a packet, with the octets that it takes in a pane."""

    words: str
    pane: int
    start: int
    size: int
    parts: Sequence[Part] = ()


@dataclass(frozen=True, slots=True)
class Dissection:
    """A packet's octets by pane, and its parts."""

    panes: tuple[tuple[str, bytes], ...]
    parts: tuple[Part, ...]


def dissect(sighting: Sighting, opener: Opener) -> Dissection:
    """Take a captured packet apart."""
    outer = _outer(sighting)
    if sighting.kind == "IKE":
        found, opened = _ike(sighting, opener)
    elif sighting.kind == "ESP":
        found, opened = _esp(sighting, opener)
    elif sighting.kind == "AH":
        found, opened = _ah(sighting), None
    else:
        found, opened = (Part("NAT keepalive", WIRE, sighting.offset, 1),), None
    panes: tuple[tuple[str, bytes], ...] = (("On the wire", sighting.packet),)
    if opened is not None:
        panes += (("Decrypted", opened),)
    return Dissection(panes, (*outer, *found))


def fields(table: Fields, pane: int, start: int, octets: bytes) -> tuple[Part, ...]:
    """The fields of a header that lies at `start` of a pane; short values are shown."""
    parts: list[Part] = []
    at = 0
    for name, size in table:
        size = size if size else len(octets) - at
        if size <= 0 or at + size > len(octets):
            continue
        value = octets[at : at + size]
        shown = f" {value.hex()}" if size <= 8 else f", {size} octets"
        parts.append(Part(f"{name}{shown}", pane, start + at, size))
        at += size
    return tuple(parts)


def _outer(sighting: Sighting) -> tuple[Part, ...]:
    packet = sighting.packet
    size = decode_ip_header(packet).header_length
    family, table = ("IPv6", IPV6_FIELDS) if packet[0] >> 4 == 6 else ("IPv4", IPV4_FIELDS)
    source, destination = sighting.source, sighting.destination
    ip = Part(
        f"{family} {source.address} > {destination.address}", WIRE, 0, size,
        fields(table, WIRE, 0, packet[:size]),
    )  # fmt: skip
    if not source.port:
        return (ip,)
    udp = Part(
        f"UDP {source.port} > {destination.port}", WIRE, size, UDP_HEADER_SIZE,
        fields(UDP_FIELDS, WIRE, size, packet[size : size + UDP_HEADER_SIZE]),
    )  # fmt: skip
    behind = size + UDP_HEADER_SIZE
    if sighting.kind == "IKE" and sighting.offset > behind:
        marker = Part("non-ESP marker", WIRE, behind, len(NON_ESP_MARKER))
        return ip, udp, marker
    return ip, udp


# --- IKE -----------------------------------------------------------------------------------------


def _ike(sighting: Sighting, opener: Opener) -> tuple[tuple[Part, ...], bytes | None]:
    octets, offset = sighting.octets, sighting.offset
    try:
        header = decode_header(octets)
        message = decode_message(octets)
    except WireError as error:
        return (Part(f"does not decode: {error}", WIRE, offset, len(octets)),), None
    way = "response" if message.response else "request"
    head = Part(
        f"HDR   {message.exchange.name} {way} {message.message_id}", WIRE, offset, HEADER_SIZE,
        fields(IKE_HEADER, WIRE, offset, octets[:HEADER_SIZE]),
    )  # fmt: skip
    context = Context(message, sighting.source, sighting.destination)
    payloads = message.payloads
    if not payloads or not isinstance(payloads[-1], SkPayload | SkfPayload):
        chain = _chain(payloads, context, WIRE, offset + HEADER_SIZE, octets[HEADER_SIZE:])
        return (head, *chain), None
    found = opener.open_chain(octets, message)
    chain = _chain(payloads, context, WIRE, offset + HEADER_SIZE, octets[HEADER_SIZE:])
    inside, opened = _inside(found, context, chain[-1])
    assert header.length == len(octets)
    return (head, *chain[:-1], chain[-1]._replace(parts=(*chain[-1].parts, *inside))), opened


def _inside(
    found: OpenedChain | OpenedFragment | Closed, context: Context, sealed: Part
) -> tuple[tuple[Part, ...], bytes | None]:
    """What was behind the encryption of an SK or SKF payload."""
    whole = sealed.pane, sealed.start, sealed.size
    if isinstance(found, Closed):
        return (Part(f"ciphertext: {found.reason}", *whole),), None
    if isinstance(found, OpenedFragment):
        words = f"{found.size} octets verified, {found.missing} fragments missing"
        return (Part(words, *whole),), None
    payloads = inner_payloads(found)
    if isinstance(payloads, Closed):
        return (Part(payloads.reason, OPENED, 0, len(found.octets)),), found.octets
    if not payloads:
        return (Part("nothing inside", *whole),), None
    return _chain(payloads, context, OPENED, 0, found.octets), found.octets


def _chain(
    payloads: Sequence[Payload], context: Context, pane: int, start: int, octets: bytes
) -> tuple[Part, ...]:
    """A part for each payload of a decoded chain, by the lengths in their headers."""
    parts: list[Part] = []
    at = 0
    for payload in payloads:
        size = int.from_bytes(octets[at + 2 : at + 4], "big")
        words, *more = describe_payload(payload, context)
        head = fields(PAYLOAD_HEADER, pane, start + at, octets[at : at + PAYLOAD_HEADER_SIZE])
        body = octets[at + PAYLOAD_HEADER_SIZE : at + size]
        inside = _body(payload, more, pane, start + at + PAYLOAD_HEADER_SIZE, body)
        parts.append(Part(words, pane, start + at, size, (*head, *inside)))
        at += size
    return tuple(parts)


def _body(
    payload: Payload, more: Sequence[str], pane: int, start: int, body: bytes
) -> tuple[Part, ...]:
    if isinstance(payload, SaPayload):
        return _proposals(payload.proposals, more, pane, start, body)
    if isinstance(payload, TsiPayload | TsrPayload):
        words = [str(selector) for selector in payload.selectors]
        return _listed(words, TS_HEADER, pane, start, body, fixed=0)
    if isinstance(payload, CpPayload):
        words = [f"{item.type.name} {item.value.hex()}" for item in payload.attributes]
        return _listed(words, CP_HEADER, pane, start, body, fixed=4)
    if isinstance(payload, SkfPayload):
        return fields(SKF_HEADER, pane, start, body[:4])
    kind = payload.payload_type
    if kind == PayloadType.NOTIFY:
        return _notify(pane, start, body)
    return fields(BODIES.get(kind, ()), pane, start, body)


def _notify(pane: int, start: int, body: bytes) -> tuple[Part, ...]:
    spi = body[1]
    head: Fields = (("Protocol ID", 1), ("SPI Size", 1), ("Notify Message Type", 2))
    named: Fields = (("SPI", spi),) if spi else ()
    return fields((*head, *named, ("Notification Data", 0)), pane, start, body)


def _listed(
    words: Sequence[str], header: Fields, pane: int, start: int, body: bytes, *, fixed: int
) -> tuple[Part, ...]:
    """Traffic selectors and attributes: each has its length in its octets 2 and 3, which counts
    all of it (`fixed` 0) or what stands behind that many octets."""
    parts = list(fields(header, pane, start, body[:4]))
    at = 4
    for item in words:
        size = int.from_bytes(body[at + 2 : at + 4], "big") + fixed
        parts.append(Part(item, pane, start + at, size))
        at += size
    return tuple(parts)


def _proposals(
    proposals: Sequence[Proposal], words: Sequence[str], pane: int, start: int, body: bytes
) -> tuple[Part, ...]:
    """Proposals with their transforms (RFC 7296 sections 3.3.1 and 3.3.2)."""
    parts: list[Part] = []
    at = 0
    for proposal, line in zip(proposals, words, strict=True):
        size = int.from_bytes(body[at + 2 : at + 4], "big")
        inside: list[Part] = []
        place = at + PROPOSAL_HEADER + len(proposal.spi)
        if proposal.spi:
            spi_at = start + at + PROPOSAL_HEADER
            inside.append(Part(f"SPI {proposal.spi.hex()}", pane, spi_at, len(proposal.spi)))
        for transform in proposal.transforms:
            length = int.from_bytes(body[place + 2 : place + 4], "big")
            kind = f"{transform.type.name} {transform}"
            inside.append(Part(f"transform {kind}", pane, start + place, length))
            place += length
        parts.append(Part(line.strip(), pane, start + at, size, inside))
        at += size
    return tuple(parts)


# --- ESP -----------------------------------------------------------------------------------------


def _esp(sighting: Sighting, opener: Opener) -> tuple[tuple[Part, ...], bytes | None]:
    esp, offset = sighting.octets, sighting.offset
    if len(esp) < ESP_HEADER_SIZE:
        return (Part(f"ESP cut short, {len(esp)} octets", WIRE, offset, len(esp)),), None
    sequence = int.from_bytes(esp[4:8], "big")
    head = Part(
        f"ESP   SPI {esp[:4].hex()} sequence {sequence}", WIRE, offset, ESP_HEADER_SIZE,
        fields((("SPI", 4), ("Sequence Number", 4)), WIRE, offset, esp[:ESP_HEADER_SIZE]),
    )  # fmt: skip
    opened = opener.open_esp(esp)
    sealed = offset + ESP_HEADER_SIZE
    if isinstance(opened, Closed):
        words = f"ciphertext: {opened.reason}"
        return (head, Part(words, WIRE, sealed, len(esp) - ESP_HEADER_SIZE)), None
    iv, icv = opened.suite.iv_size, opened.suite.icv_size
    size = len(esp) - ESP_HEADER_SIZE - iv - icv
    parts = [head]
    if iv:
        parts.append(Part(f"IV, {iv} octets", WIRE, sealed, iv))
    parts.append(Part(f"ciphertext, {size} octets", WIRE, sealed + iv, size, _esp_inside(opened)))
    if icv:
        parts.append(Part(f"ICV, {icv} octets", WIRE, sealed + iv + size, icv))
    return tuple(parts), opened.plaintext


def _ah(sighting: Sighting) -> tuple[Part, ...]:
    """RFC 4302 section 2: all in clear; the ICV's keys are in no table."""
    octets, offset = sighting.octets, sighting.offset
    size = (octets[1] + 2) * 4 if len(octets) >= AH_FIXED_SIZE else 0
    if not AH_FIXED_SIZE <= size <= len(octets):
        return (Part(f"AH cut short, {len(octets)} octets", WIRE, offset, len(octets)),)
    spi, sequence = octets[4:8].hex(), int.from_bytes(octets[8:12], "big")
    head = Part(
        f"AH    SPI {spi} sequence {sequence}",
        WIRE,
        offset,
        size,
        fields(AH_FIELDS, WIRE, offset, octets[:size]),
    )
    payload, start = octets[size:], offset + size
    inside = _packet_parts(octets[0], payload, WIRE, start)
    return head, Part(describe_packet(octets[0], payload), WIRE, start, len(payload), inside)


def _esp_inside(opened: OpenedEsp) -> tuple[Part, ...]:
    size, padding = len(opened.payload), opened.padding
    name = IpProtocol(opened.next_header).name
    words = describe_packet(opened.next_header, opened.payload)
    parts = [
        Part(words, OPENED, 0, size, _packet_parts(opened.next_header, opened.payload, OPENED, 0))
    ]
    if padding:
        parts.append(Part(f"Padding, {padding} octets", OPENED, size, padding))
    parts.append(Part(f"Pad Length {padding}", OPENED, size + padding, 1))
    parts.append(Part(f"Next Header {opened.next_header} ({name})", OPENED, size + padding + 1, 1))
    return tuple(parts)


def _packet_parts(protocol: int, packet: bytes, pane: int, start: int) -> tuple[Part, ...]:
    """Inner IP header, transport header, data, as far as they are there."""
    parts: list[Part] = []
    at = 0
    if protocol in INNER:
        family, table = INNER[protocol]
        try:
            header = decode_ip_header(packet)
        except WireError:
            return ()
        at, protocol = header.header_length, header.protocol
        inner = fields(table, pane, start, packet[:at])
        parts.append(Part(f"inner {family} header", pane, start, at, inner))
    name, size = TRANSPORT_HEADERS.get(protocol, ("", 0))
    if protocol == IpProtocol.TCP and len(packet) >= at + IPV4_HEADER_SIZE:
        name, size = "TCP header", (packet[at + 12] >> 4) * 4
    if size and at + size <= len(packet):
        parts.append(Part(name, pane, start + at, size))
        at += size
    if at < len(packet):
        rest = len(packet) - at
        parts.append(Part(f"data, {rest} octets", pane, start + at, rest))
    return tuple(parts)
