"""What two real gateways need for a handshake: measured in namespaces, less the time on the wire.

A host-to-host lab shakes hands several times, over a link whose delay lets both processes fall
asleep between two messages, as they do in an experiment. The capture says when each message was on
the wire, by the kernel's clock; what is left of the handshake is processing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ipseclab.errors import WireError
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.lab.keys import CAPTURE_NAME
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.lab.plan import Action, RunPlan
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import read_trace
from ipseclab.measure.job import Job
from ipseclab.measure.worker import TRACE_FILE, emulate
from ipseclab.registry import ExchangeType, IpProtocol
from ipseclab.wire.ip import decode_ipv4_header, decode_udp
from ipseclab.wire.message import IkeHeader, decode_header

TOPOLOGY, INITIATOR, CONNECTION = "host-to-host", "h1", "hosts"
FIRST, EVERY, AGAIN = 0.3, 0.4, 0.15
"""When the first SA is deleted, how often one is, and how long after that the next handshake
begins; each takes two round trips of 40 ms."""
MESSAGES = 4
MARKER = bytes(4)
"""Before an IKE message on port 4500 (RFC 3948 section 2.2)."""

Message = tuple[str, int, bool]
"""Initiator's SPI, exchange, response."""


def processing_seconds(handshakes: int, folder: Path) -> list[float]:
    """Of each of so many handshakes: from the first message's sending to the CHILD_SA, less the
    time on the wire. The run's files are in `folder` meanwhile: not in a temporary folder, which
    would stay when this process is killed. Raises EnvironmentLacks or RunFailed."""
    topology = load_topology(TOPOLOGY)
    plan = RunPlan((), tuple(_actions(handshakes)), FIRST + EVERY * handshakes)
    data = topology.source.data
    job = Job("calibrate", "netns", 0, 0, {}, data, f"{TOPOLOGY}.yaml", plan)
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        job.write(folder)
        emulate(folder)
        wires = _wire_seconds(folder / CAPTURE_NAME)
        return [
            whole - sum(wires[spi])
            for spi, whole in _handshakes(folder / TRACE_FILE)
            if len(wires.get(spi, ())) == MESSAGES
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _actions(handshakes: int) -> Iterator[Action]:
    """The first handshake happens by itself."""
    arguments = {"connection": CONNECTION}
    for number in range(handshakes - 1):
        at = round(FIRST + EVERY * number, 9)
        yield Action(at, "delete_ike", node=INITIATOR, arguments=arguments)
        yield Action(round(at + AGAIN, 9), "initiate", node=INITIATOR, arguments=arguments)


def _handshakes(trace: Path) -> Iterator[tuple[str, float]]:
    """Initiator's SPI and seconds of each handshake; one that sent anything twice is left out."""
    begun: dict[str, float] = {}
    current = ""
    for record in read_trace(trace):
        if record.node != INITIATOR:
            continue
        fields = record.fields
        if record.event == "ike_sent":
            current = str(fields["spi_i"])
            if fields["retransmission"]:
                begun.pop(current, None)
            elif fields["exchange"] == ExchangeType.IKE_SA_INIT.name:
                begun[current] = record.t
        elif record.event == "child_ready" and current in begun:
            yield current, record.t - begun.pop(current)


def _wire_seconds(capture: Path) -> dict[str, list[float]]:
    """How long each message of a handshake was on its way, by the initiator's SPI."""
    sent: dict[Message, float] = {}
    found: dict[str, list[float]] = {}
    with capture.open("rb") as stream:
        for captured in read_pcapng(stream):
            header = _ike_header(captured.packet)
            if header is None or header.exchange not in (
                ExchangeType.IKE_SA_INIT,
                ExchangeType.IKE_AUTH,
            ):
                continue
            message = (header.spi_i.hex(), int(header.exchange), header.response)
            if message not in sent:
                sent[message] = captured.time
            else:
                found.setdefault(message[0], []).append(captured.time - sent[message])
    return found


def _ike_header(packet: bytes) -> IkeHeader | None:
    try:
        ip = decode_ipv4_header(packet)
        if ip.protocol != IpProtocol.UDP:
            return None
        source, destination, data = decode_udp(packet[ip.header_length : ip.total_length])
        if NAT_T_PORT in (source, destination):
            return decode_header(data[len(MARKER) :]) if data[: len(MARKER)] == MARKER else None
        return decode_header(data) if IKE_PORT in (source, destination) else None
    except WireError:
        return None
