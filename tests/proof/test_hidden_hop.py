"""A hop of 1,300 octets that nobody was told of is no black hole, whatever mode or IP."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, run_in

from ipseclab.lab.plan import Ping, RunPlan, Transfer
from ipseclab.lab.topology import load_topology

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])

SIX = {
    "links.wan.addresses": ["2001:db8:a::1/64", "2001:db8:a::254/64"],
    "links.hidden.addresses": ["2001:db8:c::1/64", "2001:db8:c::2/64"],
    "links.wan2.addresses": ["2001:db8:b::254/64", "2001:db8:b::2/64"],
}
IPS = {"IPv4": {}, "IPv6": SIX}
ENCAPSULATIONS = {
    "esp": {},
    "udp": {"connections.hosts.encapsulation": "forced"},
    "ah": {"connections.hosts.protocol": "ah"},
}
SIZES = (1400, 4000, 9000)
COUNT = 6
"""Each may teach its sender one thing, and is lost then."""


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("encapsulation", ENCAPSULATIONS)
@pytest.mark.parametrize("ip", IPS)
def test_tcp_and_pings_of_every_size_get_through(
    world: str, ip: str, encapsulation: str, mode: str, tmp_path: Path
) -> None:
    changes = {**IPS[ip], **ENCAPSULATIONS[encapsulation], "connections.hosts.mode": mode}
    topology = load_topology("hidden-hop").with_overrides(changes)
    pings = [
        Ping(f"ping-{size}", "h1", "h2", start=0.6 + size / 20_000, interval=0.2, count=COUNT,
             size=size)
        for size in SIZES
    ]  # fmt: skip
    bulk = Transfer("bulk", "h2", "h1", start=0.6, octets=200_000)
    run = run_in(world, topology, RunPlan((*pings, bulk), duration=4.0), tmp_path / "run")
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 200_000
    for size in SIZES:
        found = {
            r.fields["sequence"]
            for r in run.events("ping_received")
            if r.fields["flow"] == f"ping-{size}"
        }
        assert {COUNT - 1, COUNT - 2} <= found, size
