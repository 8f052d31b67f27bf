"""When the packets of a flow leave, and what is in a probe: the same in both worlds.

A probe's payload names its flow and number, so that what arrives can be matched with what was sent
by anyone; the filling after that is drawn from flow and number, and checked.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ipseclab.errors import WireError
from ipseclab.lab.plan import Ping, Probe, RunPlan, Transfer

PROBE_PORT = 4711
"""UDP destination port of probes; flow i is sent from PROBE_PORT + 1 + i."""
TRANSFER_PORT = 5201
"""TCP destination port of the first transfer; transfer i listens on TRANSFER_PORT + i."""

PROBE_HEADER = struct.Struct("!4sHI")
PROBE_MAGIC = b"iplb"
SMALLEST_PROBE = PROBE_HEADER.size
LARGEST_PROBE = 65507
FORGED_FLOW = 0xFFFF
"""The flow number of probes that no flow sent: an attacker's own, known again by who gets them."""
_FILLING = 64
"""Octets of filling before it repeats."""


class ProbeMark(NamedTuple):
    """What a probe says about itself."""

    flow: int
    sequence: int


def send_times(flow: Ping | Probe) -> Iterator[float]:
    """When packet 0, 1, 2, ... of the flow leaves, in seconds after the start of the run.

    Each is worked out from its number, so that no rounding error adds up.
    """
    if isinstance(flow, Ping):
        for sequence in range(flow.count):
            yield flow.start + sequence * flow.interval
    else:
        for sequence in range(packet_count(flow)):
            yield flow.start + sequence / flow.rate


def packet_count(flow: Ping | Probe) -> int:
    """How many packets the flow sends; a probe those in [start, start + duration)."""
    if isinstance(flow, Ping):
        return flow.count
    # A hair less: 0.3 s at 10 packets/s is 3 packets, though in floats it is a little more.
    return max(0, math.ceil(flow.duration * flow.rate - 1e-9))


def flow_end(flow: Ping | Probe | Transfer) -> float | None:
    """When the flow has sent its last packet; None for a transfer that ends by octets."""
    if isinstance(flow, Transfer):
        return None if flow.duration is None else flow.start + flow.duration
    number = packet_count(flow)
    step = flow.interval if isinstance(flow, Ping) else 1.0 / flow.rate
    return flow.start + max(0, number - 1) * step


def flow_ids(plan: RunPlan) -> dict[str, int]:
    """A number for each flow of a plan, by its name: its place in the plan."""
    return {flow.name: index for index, flow in enumerate(plan.flows)}


def probe_payload(flow_id: int, sequence: int, size: int) -> bytes:
    """The payload of probe `sequence` (from 0), `size` octets of it and at least SMALLEST_PROBE."""
    if not SMALLEST_PROBE <= size <= LARGEST_PROBE:
        raise ValueError(f"probe of {size} octets, {SMALLEST_PROBE} to {LARGEST_PROBE} possible")
    header = PROBE_HEADER.pack(PROBE_MAGIC, flow_id, sequence)
    return header + _filling(header, size - PROBE_HEADER.size)


def decode_probe(payload: bytes) -> ProbeMark:
    """Flow and number of a probe. Raises WireError when it is none, or damaged."""
    if len(payload) < PROBE_HEADER.size:
        raise WireError(f"probe of {len(payload)} octets, at least {PROBE_HEADER.size} needed")
    magic, flow_id, sequence = PROBE_HEADER.unpack_from(payload)
    if magic != PROBE_MAGIC:
        raise WireError(f"not a probe: it begins with {magic.hex()}")
    header, filling = payload[: PROBE_HEADER.size], payload[PROBE_HEADER.size :]
    if filling != _filling(header, len(filling)):
        raise WireError(f"probe {sequence} of flow {flow_id} is damaged")
    return ProbeMark(flow_id, sequence)


class ProbeJournal:
    """What a host writes down of the datagrams that come to its probe port, in every world.

    `flows` names the probes by their numbers. What is damaged, or was forged, is written down as
    well: IP alone hands it over. A probe from another address than the first of its flow has that
    `source` in its record.
    """

    def __init__(self, flows: Mapping[int, str]) -> None:
        self._flows = flows
        self._sources: dict[int, str] = {}

    def entry(self, payload: bytes, source: str) -> tuple[str, dict[str, str | int]] | None:
        """Event and fields for a datagram that came from `source`; None for another's probe."""
        octets = len(payload)
        try:
            mark = decode_probe(payload)
        except WireError:
            return "probe_damaged", {"octets": octets}
        if mark.flow == FORGED_FLOW:
            return "probe_forged", _fields(sequence=mark.sequence, octets=octets, source=source)
        if mark.flow not in self._flows:
            return None
        first = self._sources.setdefault(mark.flow, source)
        fields = _fields(flow=self._flows[mark.flow], sequence=mark.sequence, octets=octets)
        if source != first:
            fields["source"] = source
        return "probe_received", fields


def _fields(**fields: str | int) -> dict[str, str | int]:
    return fields


def _filling(header: bytes, size: int) -> bytes:
    block = hashlib.blake2b(header, digest_size=_FILLING).digest()
    return (block * (size // _FILLING + 1))[:size]
