"""A run's files read for its report, within bounds.

Counters are exact whatever the length of the trace: they are counted while it is read. Of the
events that come by the packet a long trace keeps each so manieth, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from ipseclab.errors import ConfigError, Place
from ipseclab.lab.keys import CAPTURE_NAME
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.measure.job import JOB_FILE, Job
from ipseclab.measure.results import ResultsFolder, Row
from ipseclab.measure.view import RunView, number, text

TRACE_FILE = "trace.jsonl"
MOST_OCTETS = 100_000_000
"""Of a trace that is kept whole; of a longer one each k-th packet's events."""
STEPS = 240
"""Of the time slider."""
BY_SEQUENCE = ("probe_sent", "probe_received", "ping_sent", "ping_received")
BY_COUNT = (
    "transfer_octets",
    "link_dropped",
    "link_corrupted",
    "link_duplicated",
    "packet_dropped",
)

ADDED: Mapping[str, tuple[str, int]] = {
    "ike_sent": ("IKE sent", 1),
    "ike_received": ("IKE received", 1),
    "packet_dropped": ("dropped", 1),
    "link_dropped": ("dropped", 1),
    "link_corrupted": ("corrupted", 1),
    "link_duplicated": ("duplicated", 1),
    "nat_mapped": ("mappings", 1),
    "nat_expired": ("mappings", -1),
    "nat_rebound": ("rebindings", 1),
    "nat_dropped": ("dropped", 1),
    "probe_sent": ("probes sent", 1),
    "probe_received": ("probes received", 1),
    "ping_sent": ("pings sent", 1),
    "ping_received": ("pings answered", 1),
}
"""What an event adds to which counter of its node."""
BEGINS: Mapping[str, tuple[str, str]] = {
    "ike_established": ("IKE_SAs", "spi_i"),
    "ike_rekeyed": ("IKE_SAs", "spi_i"),
    "child_ready": ("CHILD_SAs", "spi_in"),
}
ENDS: Mapping[str, tuple[str, str]] = {
    "ike_gone": ("IKE_SAs", "spi_i"),
    "child_gone": ("CHILD_SAs", "spi_in"),
}
"""Events of SAs, their counter, and the field that says which SA: one that never stood may go as
well, and takes nothing away."""
CounterKey = tuple[str, str]


class Counters:
    """How each counter of each node stood at each step of the slider."""

    def __init__(self, end: float) -> None:
        self.end = end
        self._changes: dict[CounterKey, list[list[int]]] = {}
        self._delivered: dict[tuple[str, str], int] = {}
        self._standing: set[tuple[str, str, str]] = set()

    def add(self, t: float, node: str, name: str, amount: int) -> None:
        """Change a counter at a time; times may only go up within a counter."""
        step = self.step(t)
        changes = self._changes.setdefault((node, name), [])
        value = max(0, (changes[-1][1] if changes else 0) + amount)
        if changes and changes[-1][0] >= step:
            changes[-1][1] = value
        else:
            changes.append([step, value])

    def take(self, record: TraceRecord) -> None:
        """Count what a record of the trace says."""
        begun, ended = BEGINS.get(record.event), ENDS.get(record.event)
        if begun is not None or ended is not None:
            self._stand(record, *(begun or ended or ("", "")), begins=begun is not None)
        added = ADDED.get(record.event)
        if added is not None:
            self.add(record.t, record.node, *added)
            if record.event == "ike_sent" and record.fields.get("retransmission"):
                self.add(record.t, record.node, "IKE sent again", 1)
        elif record.event == "transfer_octets":
            key = record.node, text(record, "flow")
            octets = int(number(record, "octets") or 0)
            self.add(record.t, record.node, "TCP octets", octets - self._delivered.get(key, 0))
            self._delivered[key] = octets

    def _stand(self, record: TraceRecord, counter: str, which: str, *, begins: bool) -> None:
        sa = record.node, counter, text(record, which)
        if begins and sa not in self._standing:
            self._standing.add(sa)
            self.add(record.t, record.node, counter, 1)
        elif not begins and sa in self._standing:
            self._standing.remove(sa)
            self.add(record.t, record.node, counter, -1)

    def step(self, t: float) -> int:
        """The first step of the slider that has what happened at that time."""
        return min(max(ceil(t / self.end * STEPS), 0), STEPS) if self.end > 0 else STEPS

    def known(self) -> tuple[CounterKey, ...]:
        """Every counter, by node and name."""
        return tuple(sorted(self._changes))

    def changes(self, key: CounterKey) -> list[list[int]]:
        """(step, value from there on), in order."""
        return self._changes[key]

    def last(self, key: CounterKey) -> int:
        """The value at the end."""
        return self._changes[key][-1][1] if key in self._changes else 0


@dataclass(frozen=True, slots=True)
class Material:
    """One run made ready to be drawn; `every`: the view has each so manieth packet's events."""

    row: Row
    job: Job
    topology: Topology
    view: RunView
    counters: Counters
    capture: Path | None
    every: int = 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the run is not drawn."""
        if self.every == 1:
            return ()
        return (
            f"The trace is long: of what happens by the packet one in {self.every} is drawn. "
            "Counters have all of it.",
        )


def read_material(folder: ResultsFolder, row: Row) -> Material:
    """A run's job, trace and capture. Raises ConfigError for a folder that lacks one of the first
    two, or has something else in its place."""
    path = folder.run_path(row.run)
    job = read_job(path)
    trace = path / TRACE_FILE
    counters = Counters(job.plan.duration)
    try:
        every = max(1, ceil(trace.stat().st_size / MOST_OCTETS))
        view = RunView.of(
            _thinned(read_trace(trace), every, counters.take),
            flows=job.plan.flows,
            duration=job.plan.duration,
        )
    except OSError as problem:
        raise ConfigError(f"cannot be read: {problem.strerror}", Place(str(trace))) from None
    except (ValueError, TypeError) as problem:
        raise ConfigError(f"not a trace: {problem}", Place(str(trace))) from None
    capture = path / CAPTURE_NAME
    found = capture if capture.is_file() else None
    return Material(row, job, job.resolved(), view, counters, found, every)


def read_job(path: Path) -> Job:
    """The `run.json` in a run's folder. Raises ConfigError."""
    place = Place(str(path / JOB_FILE))
    try:
        return Job.read(path / JOB_FILE)
    except OSError as problem:
        raise ConfigError(f"cannot be read: {problem.strerror}", place) from None
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ConfigError(f"not what a run is described by: {problem!r}", place) from None


def _thinned(
    records: Iterator[TraceRecord], every: int, take: Callable[[TraceRecord], None]
) -> Iterator[TraceRecord]:
    """All records are counted; of packets' events those of each k-th are passed on."""
    seen: dict[str, int] = {}
    for record in records:
        take(record)
        if every > 1:
            place: float | None = 0.0
            if record.event in BY_SEQUENCE:
                place = number(record, "sequence")
            elif record.event in BY_COUNT:
                place = seen[record.event] = seen.get(record.event, -1) + 1
            if place is not None and place % every:
                continue
        yield record
