"""IPComp and fixed rates in both worlds: packets arrive, and the wire shows what it should."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, run_in

from ipseclab.lab.plan import Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])

PROBE = Probe("probe", "h1", "h2", start=0.5, duration=1.0, rate=50, size=1000)
BULK = Transfer("bulk", "h2", "h1", start=0.6, octets=100_000)


@pytest.mark.parametrize(("ip", "protocol"), [("site-to-site", "esp"), ("site-to-site-ipv6", "ah")])
def test_compressed_packets_arrive_and_are_short(
    world: str, protocol: str, ip: str, tmp_path: Path
) -> None:
    name = "site" if ip == "site-to-site" else load_topology(ip).connections[0].name
    changes = {f"connections.{name}.ipcomp": True, f"connections.{name}.protocol": protocol}
    topology = load_topology(ip).with_overrides(changes)
    run = run_in(world, topology, RunPlan((PROBE, BULK), duration=2.5), tmp_path / "run")
    assert run.metrics["probe_lost"] == 0
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 100_000
    # Probes are zeros beside a number and a time: nothing compresses better.
    assert (run.metrics["efficiency"] or 0.0) > 1.5


def test_packets_of_one_size_whatever_goes_in_them(world: str, tmp_path: Path) -> None:
    changes = {
        "connections.site.iptfs": {"size": 700, "rate": "2Mbit/s"},
        "connections.site.encapsulation": "forced",
        "connections.site.lifetimes": {"child": {"seconds": "1.2s", "margin": 0.2, "jitter": 0}},
    }
    topology = load_topology("site-to-site").with_overrides(changes)
    ping = Ping("ping", "h1", "h2", start=0.5, interval=0.1, count=15, size=3000)
    run = run_in(world, topology, RunPlan((ping, PROBE, BULK), duration=3.0), tmp_path / "run")
    assert run.metrics["ping_lost"] == run.metrics["probe_lost"] == 0
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 100_000
    assert run.metrics["seen_sizes"] == 1
    assert (run.metrics["rekeys"] or 0) >= 1
    assert (run.metrics["seen_variation"] or 0.0) < 0.5
