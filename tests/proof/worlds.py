"""The proofs' way to do one run in either world: as a sweep's worker does it, row and all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ipseclab.lab.plan import Action, RunPlan
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.measure import worker
from ipseclab.measure.job import Job
from ipseclab.measure.metric import MetricValue
from ipseclab.measure.results import ROW_FILE, Row

SIM, NETNS = "sim", "netns"
WORLDS = (SIM, NETNS)


@dataclass(frozen=True)
class Run:
    """A run that is done: its folder, its trace, its metrics."""

    folder: Path
    records: tuple[TraceRecord, ...]
    metrics: Mapping[str, MetricValue]

    def events(self, *names: str, node: str | None = None) -> list[TraceRecord]:
        """The records of these events, at that node or anywhere, in order of time."""
        return [r for r in self.records if r.event in names and node in (None, r.node)]


def run_in(
    world: str, topology: Topology, plan: RunPlan, folder: Path, *, seed: int = 1, costs: str = ""
) -> Run:
    """Do it; `costs` is a cost table as JSON text, empty for zero."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{topology.name}.yaml"
    job = Job(folder.name, world, seed, 0, {}, topology.source.data, name, plan, costs)
    job.write(folder)
    worker.run_job(folder)
    row = Row.from_json((folder / ROW_FILE).read_text(encoding="utf-8"))
    return Run(folder, tuple(read_trace(folder / worker.TRACE_FILE)), row.metrics)


def at(seconds: float, what: str, node: str = "gw1", connection: str = "site") -> Action:
    """A gateway's action."""
    return Action(seconds, what, node=node, arguments={"connection": connection})  # type: ignore[arg-type]
