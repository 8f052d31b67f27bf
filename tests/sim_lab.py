"""What the tests of whole simulated labs share: small topologies and a way to run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ipseclab.lab.plan import Action, RunPlan, TrafficFlow
from ipseclab.lab.topology import Topology, parse_topology
from ipseclab.lab.trace import Trace, TraceRecord
from ipseclab.sim import network
from ipseclab.sim.costs import CostTable

#   h1 - gw1 ===== gw2 - h2
SITES = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24], delay: 1ms}
  - {name: wan, ends: [gw1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24], delay: 20ms}
  - {name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24], delay: 3ms}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret}
"""

#   h1 - gw1 - nat1 ===== gw2 - h2
SITES_NAT = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  nat1: {kind: nat, outside: wan, udp_timeout: 30s, pool: [192.0.2.7]}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}
  - {name: access, ends: [gw1, nat1], addresses: [10.9.0.2/24, 10.9.0.1/24]}
  - {name: wan, ends: [nat1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24], delay: 20ms}
  - {name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24]}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret}
"""


def topology(text: str = SITES, **overrides: object) -> Topology:
    """The topology in `text`; `links__wan__loss=...` overrides links.wan.loss."""
    named: Mapping[str, object] = {
        key.replace("__", "."): value for key, value in overrides.items()
    }
    return parse_topology(text).with_overrides(named)


def run(
    topology: Topology,
    *flows: TrafficFlow,
    actions: Iterable[Action] = (),
    duration: float = 10.0,
    seed: int = 1,
    costs: CostTable | None = None,
) -> list[TraceRecord]:
    """The trace of one run."""
    trace = Trace()
    plan = RunPlan(flows, tuple(actions), duration)
    network.run(topology, plan, seed=seed, trace=trace, costs=costs)
    return trace.records


def events(records: Iterable[TraceRecord], event: str, **fields: object) -> list[TraceRecord]:
    """The records of an event whose fields have these values; `node` counts as a field."""
    return [
        record
        for record in records
        if record.event == event
        and all(
            {**record.fields, "node": record.node}[key] == value for key, value in fields.items()
        )
    ]
