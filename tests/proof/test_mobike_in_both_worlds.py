"""A gateway whose addresses change while traffic runs: lost, back, another one (RFC 4555)."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, run_in

from ipseclab.lab.plan import Action, Probe, RunPlan
from ipseclab.lab.topology import load_topology

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])


def _change(at: float, **arguments: str) -> Action:
    return Action(at, "address_change", "gw1", arguments=arguments)


def test_tunnel_follows_the_addresses_of_its_gateway(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (
            Probe("out", "h1", "h2", start=1.0, duration=3.4, rate=50, size=64),
            Probe("in", "h2", "h1", start=1.0, duration=3.4, rate=50, size=64),
        ),
        (
            _change(1.5, link="wifi"),
            _change(2.5, link="wifi", address="192.0.2.1"),
            _change(3.5, link="wifi", address="192.0.2.77"),
        ),
        duration=5.0,
    )
    run = run_in(world, load_topology("roaming"), plan, tmp_path / "run")
    paths = [
        (str(r.fields["local"]), str(r.fields["remote"]))
        for r in run.events("addresses_updated", node="gw1")
    ]
    peer = "198.51.100.2:4500"
    assert paths == [
        ("203.0.113.1:4500", peer),
        ("192.0.2.1:4500", peer),
        ("192.0.2.77:4500", peer),
    ]
    assert len(run.events("route_checked", node="gw2")) == 3
    # Nobody shakes hands again, and what is lost was on its way to an address that had gone.
    assert len(run.events("ike_established", node="gw1")) == 1
    lost = len(run.events("probe_sent")) - len(run.events("probe_received"))
    dropped = [r for r in run.events("packet_dropped") if r.fields["reason"] == "no_address"]
    assert 0 < lost <= len(dropped) + 2 < 40
    move_time = run.metrics["move_time"]
    assert move_time is not None
    assert 0.005 < move_time < 0.3
