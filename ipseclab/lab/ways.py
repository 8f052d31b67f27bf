"""Which links a flow's packets cross, in which direction, and where they are looked out for.

What a connection protects goes by way of its two ends, whatever the shortest way between the hosts
is; a NAT's one-way door does not matter, since what comes back through it goes the way it came.
"""

from __future__ import annotations

from itertools import pairwise

from ipseclab.lab.model import Connection, Direction
from ipseclab.lab.plan import Probe, RunPlan
from ipseclab.lab.topology import Topology
from ipseclab.lab.traffic import flow_ids

LinkWay = tuple[str, Direction]


def link_ways(topology: Topology, source: str, destination: str) -> tuple[LinkWay, ...]:
    """Each link on the way with its direction, in order; empty when there is no way."""
    found: list[LinkWay] = []
    for start, end in pairwise(_stations(topology, source, destination)):
        path = topology.routing.path(start, end)
        if path is None:
            back = topology.routing.path(end, start)
            if back is None:
                return ()
            path = back[::-1]
        for near, far in pairwise(path):
            link = topology.link(topology.nodes[near].interface_to(far).link)
            found.append((link.name, link.direction_from(near)))
    return tuple(found)


def probe_receivers(topology: Topology, plan: RunPlan) -> dict[str, dict[int, str]]:
    """The hosts that look out for probes, each with the names of its flows by their numbers: where
    flows go, and where an attacker sends what it has made up."""
    numbers = flow_ids(plan)
    receivers: dict[str, dict[int, str]] = {}
    for flow in plan.flows:
        if isinstance(flow, Probe):
            receivers.setdefault(flow.destination, {})[numbers[flow.name]] = flow.name
    for attack in topology.attacks:
        if attack.receiver is not None:
            receivers.setdefault(attack.receiver, {})
    return receivers


def _stations(topology: Topology, source: str, destination: str) -> list[str]:
    """Source, the ends of the connection that protects the flow, destination; each once."""
    for connection in topology.connections:
        if _carries(topology, connection, source, destination):
            ends = connection.ends
        elif _carries(topology, connection, destination, source):
            ends = connection.ends[::-1]
        else:
            continue
        return list(dict.fromkeys((source, *ends, destination)))
    return [source, destination]


def _carries(topology: Topology, connection: Connection, local: str, remote: str) -> bool:
    """True when a packet from `local` to `remote` fits the initiator's selectors, whatever its
    protocol and ports: connections that these tell apart have the same ends."""
    own, peer = topology.nodes[local].address, topology.nodes[remote].address
    access = connection.access
    if access is not None and access.asks:
        # What it sends comes from an address that it is given.
        ours = local == connection.initiator
    else:
        ours = any(own in item.network for item in connection.local_ts)
    return ours and any(peer in item.network for item in connection.remote_ts)
