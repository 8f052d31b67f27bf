"""What a lab costs grows with its size and no faster, counted in calls: times would not tell."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ipseclab.lab.plan import RunPlan, Transfer
from ipseclab.lab.topology import Topology, load_topology, parse_topology, resolve
from ipseclab.lab.trace import Trace
from ipseclab.sim.network import Network


def calls(work: Callable[[], object]) -> int:
    """Calls of Python functions and of built-in ones that `work` makes."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def star(gateways: int) -> Topology:
    """Pairs of gateways around one router, a host behind each."""
    nodes, links, connections = ["  r: {kind: router}"], list[str](), list[str]()
    for n in range(1, gateways + 1):
        nodes += [f"  g{n}: {{kind: gateway}}", f"  h{n}: {{kind: host}}"]
        links += [
            f"  - {{ends: [h{n}, g{n}], addresses: [10.0.{n}.2/24, 10.0.{n}.1/24]}}",
            f"  - {{ends: [g{n}, r], addresses: [192.0.{n}.1/24, 192.0.{n}.2/24], delay: 5ms}}",
        ]
        if n % 2 == 0:
            connections.append(f"  - {{initiator: g{n - 1}, responder: g{n}, psk: secret}}")
    parts = ("nodes:", *nodes, "links:", *links, "connections:", *connections)
    return parse_topology("\n".join(parts) + "\n")


def building(gateways: int) -> int:
    """Calls to resolve a topology and build its lab."""
    source = star(gateways).source
    return calls(lambda: Network(resolve(source), seed=1, trace=Trace()))


def handshaking(gateways: int) -> int:
    """Calls to set all its tunnels up."""
    trace = Trace()
    network = Network(star(gateways), seed=1, trace=trace)
    network.start_connections()
    made = calls(lambda: network.run_until(1.0))
    assert sum(record.event == "child_active" for record in trace.records) >= gateways // 2
    return made


def test_building_a_lab_grows_with_its_gateways() -> None:
    assert building(120) < 4.6 * building(30)


def test_handshakes_cost_the_same_among_many_gateways() -> None:
    assert handshaking(120) < 4.6 * handshaking(30)


def test_a_packet_hop_takes_few_calls() -> None:
    """Of Python and built-in functions; doing for each packet what few need took 87."""
    topology = load_topology("site-to-site-nat")
    network = Network(topology, seed=1, trace=Trace())
    network.start_connections()
    network.schedule(RunPlan((Transfer("load", "h1", "h2", start=1.0, octets=300_000),)))
    network.run_until(0.99)
    before = network.packet_hops
    made = calls(lambda: network.run_until(3.0))
    hops = network.packet_hops - before
    assert hops > 1000
    assert made / hops < 76
