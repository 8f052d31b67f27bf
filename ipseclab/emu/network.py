"""One run of a plan in namespaces: bring the lab up, measure its links, let things happen, end it.

To be called inside the sandbox (`emu.sandbox`), which is what takes everything down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ipseclab.emu.lab import Lab
from ipseclab.emu.probe import Measured
from ipseclab.emu.process import Child
from ipseclab.emu.traffic import (
    FlowSpec,
    Go,
    ProbeSinkSpec,
    require_congestion_controls,
    start_probe_sink,
    start_source,
    start_transfer_sink,
)
from ipseclab.lab.attacks import require_attacks
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.model import Direction, Link
from ipseclab.lab.plan import RunPlan, Transfer
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import Trace
from ipseclab.lab.traffic import flow_ids
from ipseclab.lab.ways import probe_receivers

LINKS_FILE = "links.json"
WORLD_FILE = "world.json"
LEAD_SECONDS = 0.05
"""From telling everyone when the run starts to its start."""


def run(
    topology: Topology,
    plan: RunPlan,
    *,
    seed: int,
    trace: Trace,
    out: Path,
    capture: bool = True,
    fast_path: bool | None = None,
    slow: float = 1.0,
    make_lab: Callable[..., Lab] = Lab,
) -> None:
    """Do one run of `plan` in a fresh lab; `out` gets capture, keys, logs, `links.json` (what each
    link was set to and measured to do) and `world.json` (counters, CPU seconds, relay overruns).

    `seed` decides the links' losses and the NATs' ports; keys come from the system. `fast_path`:
    whether gateways may move packets in trains (`Lab`). `slow`: how many times as long our gateways
    take for what they do. `make_lab` is for who wants a lab that does more. Raises
    EnvironmentLacks, LinkMismatch among it, ProcessFailed, and at the end NothingAttacked where an
    attack befell no packet.
    """
    require_congestion_controls(plan.flows)
    changed = {action.link for action in plan.actions}
    lab = make_lab(
        topology,
        seed=seed,
        out=out,
        relayed=lambda link: link.name in changed,
        fast_path=fast_path,
        slow=slow,
    )
    lab.build()
    _write(out / LINKS_FILE, _links_document(topology.links, lab.measure_links()))
    lab.start_nodes()
    if capture:
        lab.start_captures()
    flows = _start_flows(lab, plan)
    lab.restart_links()
    _begin(lab, flows)
    for action in plan.timeline():
        lab.wait_until(lab.start_time + action.at)
        lab.act(action)
    lab.end_time = lab.start_time + plan.duration
    lab.wait_until(lab.end_time)
    _write(out / WORLD_FILE, lab.facts())
    tallies = lab.attack_tallies()
    if capture:
        lab.stop_captures()
    lab.finish(trace)
    require_attacks(tallies)


def _start_flows(lab: Lab, plan: RunPlan) -> list[Child]:
    """A process for each end of each flow, ready to go."""
    topology, parts = lab.topology, lab.folders.parts
    numbers = flow_ids(plan)
    started = []
    for flow in plan.flows:
        number = numbers[flow.name]
        source, destination = (
            str(topology.nodes[name].address) for name in (flow.source, flow.destination)
        )
        spec = FlowSpec(flow, number, source, destination, parts)
        if isinstance(flow, Transfer):
            log = lab.folders.log(f"sink-{flow.name}")
            started.append(start_transfer_sink(spec, network=lab.pid(flow.destination), log=log))
        log = lab.folders.log(f"flow-{flow.name}")
        started.append(start_source(spec, network=lab.pid(flow.source), log=log))
    for node, names in probe_receivers(topology, plan).items():
        address = str(topology.nodes[node].address)
        sink = ProbeSinkSpec(node, names, lab.folders.part(f"probes-{node}"), address)
        log = lab.folders.log(f"probes-{node}")
        started.append(start_probe_sink(sink, network=lab.pid(node), log=log))
    for child in started:
        lab.adopt(child).await_ready()
    return started


def _begin(lab: Lab, flows: list[Child]) -> None:
    """Set the run's time 0, and let connections and flows begin there."""
    lab.begin(time.monotonic() + LEAD_SECONDS)
    for child in flows:
        child.control.send(Go(lab.start_time))
    lab.wait_until(lab.start_time)
    lab.initiate({name: starting_connections(lab.topology, name) for name in lab.gateways})


def _links_document(
    links: tuple[Link, ...], measured: Mapping[str, Mapping[Direction, Measured]]
) -> dict[str, Any]:
    """What each link is set to, and what it was found to do, by direction."""
    return {
        link.name: {
            direction: {
                "set": asdict(link.impairment(direction)),
                "measured": asdict(found),
            }
            for direction, found in measured[link.name].items()
        }
        for link in links
    }


def _write(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
