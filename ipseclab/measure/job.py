"""One run to be done, as `runs/<id>/run.json` holds it: everything that decides what happens.

The topology stands in it whole, with the point's values set, and so does the plan: a run can be
done again, or looked into, without the files that it came from.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ipseclab.lab.model import Stack
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, TrafficFlow, Transfer
from ipseclab.lab.topology import Topology, resolve
from ipseclab.lab.yaml_source import YamlSource
from ipseclab.measure.experiment import Experiment, Prepared
from ipseclab.measure.results import Scalar, write_atomic

JOB_FILE = "run.json"
LOG_FILE = "logs/run.log"
LONGEST_NAME = 72
SEED_OCTETS = 7
"""Of a digest: 56 bits, which every JSON reader keeps exact to 2**53 or as a text."""

_KINDS: Mapping[str, type[Ping] | type[Probe] | type[Transfer]] = {
    "ping": Ping,
    "probe": Probe,
    "transfer": Transfer,
}


@dataclass(frozen=True, slots=True)
class Job:
    """A run: its name, world, seed, parameters, what it runs on and what happens.

    `costs` is the simulator's cost table as JSON text, empty in the emulated world.
    """

    run: str
    world: str
    seed: int
    repetition: int
    parameters: Mapping[str, Scalar]
    topology: Mapping[str, Any]
    topology_file: str
    plan: RunPlan
    costs: str = ""
    slow: float = 1.0
    """How many times as long our stack takes, in either world."""

    def resolved(self) -> Topology:
        """The topology, made ready again."""
        return resolve(YamlSource(self.topology_file, dict(self.topology), {}))

    def write(self, folder: Path) -> Path:
        """Store it in its run's folder; the path of the file."""
        document = {
            "run": self.run,
            "world": self.world,
            "seed": self.seed,
            "repetition": self.repetition,
            "parameters": dict(self.parameters),
            "topology": self.topology,
            "topology_file": self.topology_file,
            "plan": {
                "flows": [_flow_document(flow) for flow in self.plan.flows],
                "actions": [asdict(action) for action in self.plan.actions],
                "duration": self.plan.duration,
            },
            "costs": self.costs,
            "slow": self.slow,
        }
        path = folder / JOB_FILE
        write_atomic(path, json.dumps(document, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path) -> Job:
        """The job in a `run.json` that `write` made."""
        document = json.loads(path.read_text(encoding="utf-8"))
        plan = document.pop("plan")
        return cls(
            plan=RunPlan(
                tuple(_flow(item) for item in plan["flows"]),
                tuple(Action(**item) for item in plan["actions"]),
                plan["duration"],
            ),
            **document,
        )


def _flow_document(flow: TrafficFlow) -> dict[str, Any]:
    return {"kind": type(flow).__name__.lower(), **asdict(flow)}


def _flow(document: dict[str, Any]) -> TrafficFlow:
    return _KINDS[document.pop("kind")](**document)


def lay_out(
    experiment: Experiment,
    *,
    world: str,
    seed: int,
    quick: bool,
    repetitions: int,
    costs: str = "",
    slow: float = 1.0,
) -> tuple[Job, ...]:
    """Every run of an experiment, in order. Raises ConfigError for any that could not be made
    ready."""
    jobs: list[Job] = []
    for point in experiment.points(quick=quick):
        prepared = experiment.prepare(point)
        if world == "sim":
            _refuse_foreign_stacks(experiment, prepared.topology)
        for repetition in range(repetitions):
            job = _job(prepared, len(jobs), repetition, world, seed)
            jobs.append(replace(job, costs=costs if world == "sim" else "", slow=slow))
    return tuple(jobs)


def _refuse_foreign_stacks(experiment: Experiment, topology: Topology) -> None:
    for node in topology.with_stack(Stack.STRONGSWAN):
        problem = f"{node.name} runs strongSwan, which the simulator does not have: --world netns"
        raise experiment.source.error(("topology",), problem)


def _job(prepared: Prepared, index: int, repetition: int, world: str, seed: int) -> Job:
    parameters = prepared.point.parameters
    return Job(
        run=run_name(index, parameters, repetition),
        world=world,
        seed=run_seed(seed, parameters, repetition),
        repetition=repetition,
        parameters=parameters,
        topology=prepared.source.data,
        topology_file=Path(prepared.source.file).name,
        plan=prepared.plan,
    )


def run_name(index: int, parameters: Mapping[str, Scalar], repetition: int) -> str:
    """A folder's name: sorted, names are in the order of the sweep."""
    words = [f"{name}-{value}" for name, value in parameters.items()]
    text = re.sub(r"[^A-Za-z0-9.-]+", "-", "_".join([*words, f"r{repetition}"]))
    return f"{index:05d}_{text[:LONGEST_NAME]}".rstrip(".-_")


def run_seed(seed: int, parameters: Mapping[str, Scalar], repetition: int) -> int:
    """The seed of one run: the same in both worlds, and in a coarser grid that has the point
    too."""
    text = json.dumps([seed, dict(parameters), repetition], sort_keys=True)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:SEED_OCTETS], "big")
