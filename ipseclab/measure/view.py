"""A run's trace made ready to be measured: records by event, SA pairs, rekey windows, probes.

Nothing here decides what a number means (`metrics` does); it finds the things that the metrics and
the figures speak about, so that both see the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TypeVar

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.plan import TrafficFlow
from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.lab.ways import LinkWay
from ipseclab.measure.captured import Load

PairKey = tuple[str, ...]
_Sa = TypeVar("_Sa", PairKey, str)


def text(record: TraceRecord, key: str) -> str:
    """A field as text; empty when it is missing or null."""
    value = record.fields.get(key)
    return "" if value is None else str(value)


def number(record: TraceRecord, key: str) -> float | None:
    """A field as a number; None when it is missing or not one."""
    value = record.fields.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def pair_key(record: TraceRecord) -> PairKey:
    """What both ends of a CHILD_SA have in common: its two SPIs, in no end's order."""
    return tuple(sorted((text(record, "spi_in"), text(record, "spi_out"))))


@dataclass(frozen=True, slots=True)
class Rekey:
    """One rekey: of which SA, started by whom, from the request's first sending to the old SA's
    deletion at every end that traced it (`ended` None: not seen to end, or another SA never took
    the old one's place at every end)."""

    kind: str
    node: str
    started: float
    ended: float | None


@dataclass(frozen=True, slots=True)
class ProbeLog:
    """One probe flow: when each sequence number was sent and first delivered, and its period."""

    flow: str
    sent: Mapping[int, float]
    received: Mapping[int, float]

    @property
    def period(self) -> float | None:
        """Seconds between two sendings (the median, as senders jitter in real time)."""
        times = sorted(self.sent.values())
        if len(times) < 2:
            return None
        return median(b - a for a, b in pairwise(times))

    @property
    def longest_transit(self) -> float | None:
        """The longest time from a sending to its delivery; None when nothing was delivered."""
        return max(
            (at - self.sent[number] for number, at in self.received.items() if number in self.sent),
            default=None,
        )

    def longest_silence(self, start: float, end: float) -> float | None:
        """The longest time without a delivery that touches `start`..`end`; None without two
        probes."""
        times = sorted(self.received.values())
        gaps = [b - a for a, b in pairwise(times) if b >= start and a <= end]
        return max(gaps, default=None)


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as the metrics see it.

    `inside` names the nodes behind a NAT; `flows` is the plan's traffic; `load` what the run's
    capture held when it kept one; `ways` each flow's links with their directions, where they are
    known; `duration` how long the run was (s). In the emulated world `cpu_per_packet` is what the
    gateways' processes needed (s), `overruns` how many packets the lab itself lost.
    """

    records: tuple[TraceRecord, ...]
    flows: tuple[TrafficFlow, ...] = ()
    inside: tuple[str, ...] = ()
    load: Load | None = None
    cpu_per_packet: float | None = None
    overruns: float | None = None
    ways: Mapping[str, tuple[LinkWay, ...]] = field(default_factory=dict)
    duration: float | None = None
    by_event: Mapping[str, tuple[TraceRecord, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        records: Iterable[TraceRecord],
        *,
        flows: tuple[TrafficFlow, ...] = (),
        inside: tuple[str, ...] = (),
        load: Load | None = None,
        cpu_per_packet: float | None = None,
        overruns: float | None = None,
        ways: Mapping[str, tuple[LinkWay, ...]] | None = None,
        duration: float | None = None,
    ) -> RunView:
        """Index the records of one run, in order of time."""
        ordered = tuple(sorted(records, key=lambda record: record.t))
        by_event: dict[str, list[TraceRecord]] = {}
        for record in ordered:
            by_event.setdefault(record.event, []).append(record)
        return cls(
            ordered,
            flows,
            inside,
            load,
            cpu_per_packet,
            overruns,
            ways if ways is not None else {},
            duration,
            {event: tuple(found) for event, found in by_event.items()},
        )

    @classmethod
    def read(cls, trace: Path) -> RunView:
        """The view of a trace file alone (figures drawn again from a results folder). Raises
        ConfigError when there is none, or another file in its place."""
        try:
            return cls.of(read_trace(trace))
        except OSError as problem:
            raise ConfigError(f"cannot be read: {problem.strerror}", Place(str(trace))) from None
        except ValueError as problem:
            raise ConfigError(f"not a trace: {problem}") from None

    def events(self, *names: str) -> tuple[TraceRecord, ...]:
        """The records of these events; of one event in order of time, else event by event."""
        found: list[TraceRecord] = []
        for name in names:
            found.extend(self.by_event.get(name, ()))
        return tuple(found)

    def end(self) -> float:
        """The run's end, or the time of the last record where that is not known; 0.0 of an empty
        run."""
        if self.duration is not None:
            return self.duration
        return self.records[-1].t if self.records else 0.0

    def probes(self) -> tuple[ProbeLog, ...]:
        """Each probe flow's log, by name."""
        sent: dict[str, dict[int, float]] = {}
        received: dict[str, dict[int, float]] = {}
        for event, log in (("probe_sent", sent), ("probe_received", received)):
            for record in self.events(event):
                sequence = int(number(record, "sequence") or 0)
                log.setdefault(text(record, "flow"), {}).setdefault(sequence, record.t)
        return tuple(
            ProbeLog(flow, sent.get(flow, {}), received.get(flow, {}))
            for flow in sorted({**sent, **received})
        )

    def rekeys(self) -> tuple[Rekey, ...]:
        """Every rekey of a CHILD_SA or IKE_SA, by the time of its start."""
        return tuple(sorted((*child_rekeys(self), *ike_rekeys(self)), key=lambda r: r.started))


def child_rekeys(view: RunView) -> list[Rekey]:
    """CHILD_SA rekeys; two ends that start at once make one (RFC 7296 section 2.8.1)."""
    pair_of_spi: dict[str, PairKey] = {}
    ends: dict[PairKey, set[str]] = {}
    replaced: dict[PairKey, set[str]] = {}
    for record in view.events("child_ready"):
        key = pair_key(record)
        ends.setdefault(key, set()).add(record.node)
        old = text(record, "rekeys")
        replaced.setdefault(pair_of_spi.get(old, (old,)), set()).add(record.node)
        pair_of_spi.update(dict.fromkeys(key, key))
    gone: dict[PairKey, dict[str, float]] = {}
    for record in view.events("child_gone"):
        gone.setdefault(pair_key(record), {})[record.node] = record.t
    _keep_replaced(gone, replaced)
    started: dict[PairKey, TraceRecord] = {}
    for record in view.events("rekey_started"):
        old = text(record, "old")
        if text(record, "kind") == "child":
            started.setdefault(pair_of_spi.get(old, (old,)), record)
    return [
        _rekey("child", view, record, gone.get(key, {}), ends.get(key, {record.node}))
        for key, record in started.items()
    ]


def ike_rekeys(view: RunView) -> list[Rekey]:
    """IKE_SA rekeys; `old` holds the replaced SA's SPIs, of which the initiator's comes first."""
    ends: dict[str, set[str]] = {}
    for record in view.events("ike_established", "ike_rekeyed"):
        ends.setdefault(text(record, "spi_i"), set()).add(record.node)
    gone: dict[str, dict[str, float]] = {}
    for record in view.events("ike_gone"):
        gone.setdefault(text(record, "spi_i"), {})[record.node] = record.t
    replaced: dict[str, set[str]] = {}
    for record in view.events("ike_rekeyed"):
        replaced.setdefault(text(record, "old_spi_i"), set()).add(record.node)
    _keep_replaced(gone, replaced)
    started: dict[str, TraceRecord] = {}
    for record in view.events("rekey_started"):
        if text(record, "kind") == "ike":
            old = text(record, "old")
            known = next((spi for spi in ends if old.startswith(spi)), old)
            started.setdefault(known, record)
    return [
        _rekey("ike", view, record, gone.get(spi, {}), ends.get(spi, {record.node}))
        for spi, record in started.items()
    ]


def _keep_replaced(gone: dict[_Sa, dict[str, float]], replaced: Mapping[_Sa, set[str]]) -> None:
    """Leave out where an SA ended without another in its place: refused, deleted, or given up with
    its IKE_SA."""
    for key, ends in gone.items():
        gone[key] = {node: t for node, t in ends.items() if node in replaced.get(key, ())}


def _rekey(
    kind: str, view: RunView, record: TraceRecord, gone: Mapping[str, float], ends: set[str]
) -> Rekey:
    """Join a start with its first request and the old SA's last deletion."""
    requests = (
        sent.t
        for sent in view.events("ike_sent")
        if sent.node == record.node
        and text(sent, "exchange") == "CREATE_CHILD_SA"
        and sent.fields.get("request") is True
        and sent.t >= record.t
    )
    ended = max(gone.values()) if gone and ends <= gone.keys() else None
    return Rekey(kind, record.node, next(requests, record.t), ended)
