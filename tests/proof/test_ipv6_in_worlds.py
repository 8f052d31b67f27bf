"""IPv6 in both worlds: inside, outside and mixed with IPv4, in ESP, ESP in UDP and AH."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.plan import Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import Topology, load_topology

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])

# What makes site-to-site-ipv6's two sites, or its two links between the gateways, IPv4.
INSIDE = {
    "links.lan1.addresses": ["10.1.0.10/24", "10.1.0.1/24"],
    "links.lan2.addresses": ["10.2.0.1/24", "10.2.0.10/24"],
}
OUTSIDE = {
    "links.wan.addresses": ["192.0.2.1/24", "192.0.2.254/24"],
    "links.wan2.addresses": ["198.51.100.254/24", "198.51.100.2/24"],
}
FAMILIES = {"6 in 6": {}, "4 in 6": INSIDE, "6 in 4": OUTSIDE}
ENCAPSULATIONS = {
    "esp": {},
    "udp": {"connections.site.encapsulation": "forced"},
    "ah": {"connections.site.protocol": "ah"},
}
VERSIONS = {"6 in 6": (40, 40), "4 in 6": (40, 20), "6 in 4": (20, 40)}


def _plan(*connection: str) -> RunPlan:
    return RunPlan(
        (
            Ping("ping", "h1", "h2", start=0.6, interval=0.1, count=5),
            Probe("probe", "h2", "h1", start=0.6, duration=1.5, rate=50, size=200),
            Transfer("bulk", "h1", "h2", start=0.7, octets=300_000),
        ),
        (at(1.2, "rekey_child", *connection), at(1.5, "rekey_ike", *connection)),
        duration=3.5,
    )


def _all_came(run: Run) -> None:
    assert len(run.events("ping_received")) == 5
    assert run.metrics["probe_lost"] == run.metrics["rekey_lost"] == 0
    assert run.metrics["rekeys"] == 2
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 300_000
    assert {r.fields["reason"] for r in run.events("packet_dropped")} <= {"too_big"}


@pytest.mark.parametrize("families", FAMILIES)
@pytest.mark.parametrize("encapsulation", ENCAPSULATIONS)
def test_traffic_goes_through_a_tunnel(
    world: str, families: str, encapsulation: str, tmp_path: Path
) -> None:
    changes = {**FAMILIES[families], **ENCAPSULATIONS[encapsulation]}
    topology: Topology = load_topology("site-to-site-ipv6").with_overrides(changes)
    run = run_in(world, topology, _plan(), tmp_path / "run")
    _all_came(run)
    assert {r.fields["encapsulated"] for r in run.events("child_ready")} == {encapsulation == "udp"}
    outer, inner = VERSIONS[families]
    found = (run.metrics["overhead.outer_ip"], run.metrics["overhead.inner_ip"])
    assert found == (outer, inner)
    assert run.metrics["overhead.udp"] == (8 if encapsulation == "udp" else 0)


@pytest.mark.parametrize("protocol", ["esp", "ah"])
def test_two_hosts_in_transport_mode(world: str, protocol: str, tmp_path: Path) -> None:
    topology = load_topology("host-to-host").with_overrides(
        {
            "links.wan.addresses": ["2001:db8:a::1/64", "2001:db8:a::254/64"],
            "links.wan2.addresses": ["2001:db8:b::254/64", "2001:db8:b::2/64"],
            "connections.hosts.protocol": protocol,
        }
    )
    run = run_in(world, topology, _plan("h1", "hosts"), tmp_path / "run")
    _all_came(run)
    assert (run.metrics["overhead.outer_ip"], run.metrics["overhead.inner_ip"]) == (40, 0)
