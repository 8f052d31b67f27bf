"""What a run's metrics come to on paper, where the closed forms' assumptions hold.

`measure.closed_form` and `measure.overhead` have the formulas; here they meet a run's topology. A
run to which one does not apply (bursts of loss, certificates, a link that changes on the way) has
no value of it, rather than a wrong one.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

from ipseclab.ike.config import Mode, TcpUse
from ipseclab.ike.proposals import child_suite_of
from ipseclab.ipsec.processing import PLAIN
from ipseclab.lab.impairment import Bernoulli, ImpairmentConfig
from ipseclab.lab.model import AuthKind, Connection, Direction, Stack
from ipseclab.lab.plan import Ping, Probe, RunPlan
from ipseclab.lab.topology import Topology
from ipseclab.measure.closed_form import handshake
from ipseclab.measure.job import Job
from ipseclab.measure.overhead import ah_overhead, overhead, plain_overhead
from ipseclab.registry import ProtocolId

TRANSPORT_HEADER = 8
"""Octets of a UDP header, and of an ICMP echo's."""


def on_paper(job: Job, topology: Topology) -> dict[str, float]:
    """Metrics by name."""
    found: dict[str, float | None] = {
        "handshake_time": _handshake_time(topology, job.plan),
        "overhead": _overhead(topology, job.plan),
    }
    return {name: value for name, value in found.items() if value is not None}


def _handshake_time(topology: Topology, plan: RunPlan) -> float | None:
    """The mean over the connections, as the metric is; those that would not end within the run are
    left out of it there and here."""
    protected = [c for c in topology.connections if c.mode is not None]
    if topology.faults or any(action.action == "link_set" for action in plan.actions):
        return None
    means = [_one_handshake(topology, c, plan.duration) for c in protected]
    known = [mean for mean in means if mean is not None]
    return fmean(known) if known and len(known) == len(means) else None


def _one_handshake(topology: Topology, connection: Connection, duration: float) -> float | None:
    if not _plain_exchanges(topology, connection):
        return None
    out = _way(topology, connection.initiator, connection.responder)
    if out is None:
        return None
    there = [impairment for impairment, _ in out]
    back = [impairment for _, impairment in out]
    if not all(_memoryless(impairment) for impairment in (*there, *back)):
        return None
    rtt = sum(impairment.delay for impairment in (*there, *back))
    limits = topology.nodes[connection.responder].ike_limits
    outcomes = handshake(
        connection.retransmission,
        rtt,
        loss_out=_lost(there),
        loss_back=_lost(back),
        half_open_timeout=limits.half_open_patience,
    ).within(duration)
    return outcomes.mean if outcomes.success > 0.0 else None


def _plain_exchanges(topology: Topology, connection: Connection) -> bool:
    """True for IKE_SA_INIT and IKE_AUTH of a packet each way, sent again without jitter."""
    ours = all(topology.nodes[end].stack is Stack.IPSECLAB for end in connection.ends)
    return (
        ours
        and connection.manual is None
        and connection.tcp is TcpUse.NEVER
        and all(
            [one.kind for one in connection.rounds_of(end)] == [AuthKind.PSK]
            for end in connection.ends
        )
        and connection.ppk is None
        and connection.retransmission.jitter == 0.0
        and not any("-ke1_" in proposal for proposal in connection.ike)
    )


def _way(
    topology: Topology, source: str, destination: str
) -> list[tuple[ImpairmentConfig, ImpairmentConfig]] | None:
    """What each link on the way does outward and back."""
    path = topology.routing.path(source, destination)
    if path is None:
        back = topology.routing.path(destination, source)
        if back is None:
            return None
        path = back[::-1]
    found = []
    for near, far in pairwise(path):
        link = topology.link(topology.nodes[near].interface_to(far).link)
        outward: Direction = link.direction_from(near)
        inward: Direction = link.direction_from(far)
        found.append((link.impairment(outward), link.impairment(inward)))
    return found


def _memoryless(impairment: ImpairmentConfig) -> bool:
    """True when each packet takes the link's delay or is lost, whatever became of the others."""
    return (
        (impairment.loss is None or isinstance(impairment.loss, Bernoulli))
        and not impairment.jitter
        and not impairment.reorder
        and not impairment.corrupt
    )


def _lost(impairments: list[ImpairmentConfig]) -> float:
    arrives = 1.0
    for impairment in impairments:
        arrives *= 1.0 - impairment.mean_loss
    return 1.0 - arrives


def _overhead(topology: Topology, plan: RunPlan) -> float | None:
    """Each payload size counts once, as in the metric; with one connection it is plain whose
    packets they are."""
    if len(topology.connections) != 1 or topology.faults:
        return None
    (connection,) = topology.connections
    sizes = _payload_sizes(plan)
    if not sizes:
        return None
    each = [_overhead_of(connection, size) for size in sizes]
    room = min(way.mtu for link in topology.links for way in (link.forward, link.backward))
    # What does not fit goes in fragments, with headers that no formula here counts.
    if any(one is None or size + one > room for size, one in zip(sizes, each, strict=True)):
        return None
    return fmean(one for one in each if one is not None)


def _overhead_of(connection: Connection, size: int) -> int | None:
    """What is added to a payload of `size` octets; None where that is not for a formula."""
    if connection.mode is None:
        return plain_overhead(transport=TRANSPORT_HEADER).total
    if connection.processing != PLAIN or len(connection.child) != 1:
        return None
    if connection.tcp is not TcpUse.NEVER:
        return None
    suite = child_suite_of(connection.child_proposals[0])
    tunnel = connection.mode is Mode.TUNNEL
    if connection.protocol is ProtocolId.AH:
        return ah_overhead(suite, tunnel=tunnel, transport=TRANSPORT_HEADER).total
    return overhead(
        suite,
        tunnel=tunnel,
        encapsulated=connection.in_udp,
        payload_octets=size,
        transport=TRANSPORT_HEADER,
    ).total


def _payload_sizes(plan: RunPlan) -> list[int]:
    """Sizes of the probes, or else of the pings."""
    probes = [flow.size for flow in plan.flows if isinstance(flow, Probe)]
    pings = [flow.size for flow in plan.flows if isinstance(flow, Ping)]
    return sorted(set(probes or pings))
