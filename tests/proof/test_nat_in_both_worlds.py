"""Tunnels through NATs: two clients behind one, two NATs in a row, a NAT that forgets everything in
the middle of a transfer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])

REBOUND = 2.5
"""When the NAT forgets its mappings."""


def _pings(*pairs: tuple[str, str]) -> tuple[Ping, ...]:
    """Five pings for each pair of hosts."""
    return tuple(Ping(f"ping-{a}-{b}", a, b, start=0.8, interval=0.1, count=5) for a, b in pairs)


def _all_came(run: Run) -> None:
    """Every ping answered, every probe delivered, every transfer done."""
    assert len(run.events("ping_received")) == len(run.events("ping_sent")) > 0
    assert len(run.events("probe_received")) == len(run.events("probe_sent"))
    assert len(run.events("transfer_done")) == len(run.events("transfer_started"))


def test_two_clients_behind_one_nat(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (
            *_pings(("h1", "h3"), ("h3", "h1"), ("h2", "h3"), ("h3", "h2")),
            Probe("first", "h3", "h1", start=0.8, duration=2.2, rate=100, size=100),
            Probe("second", "h3", "h2", start=0.8, duration=2.2, rate=100, size=100),
            Transfer("up", "h1", "h3", start=1.0, octets=200_000),
            Transfer("down", "h3", "h2", start=1.0, octets=200_000),
        ),
        (
            at(1.4, "rekey_child", "gw3", "first"),
            at(1.6, "rekey_child", "gw2", "second"),
            at(1.8, "rekey_ike", "gw3", "second"),
            at(2.0, "rekey_ike", "gw1", "first"),
        ),
        duration=4.0,
    )
    run = run_in(world, load_topology("two-clients-one-nat"), plan, tmp_path / "run")
    _all_came(run)
    assert run.metrics["rekeys"] == 4
    assert run.metrics["rekey_lost"] == 0
    # One address, told apart by port.
    seen = {str(r.fields["source"]) for r in run.events("ike_received", node="gw3")}
    assert {source.partition(":")[0] for source in seen} == {"192.0.2.1"}
    floated = {
        str(record.fields["source"])
        for record in run.events("ike_received", node="gw3")
        if record.fields["exchange"] == "IKE_AUTH"
    }
    assert len(floated) == 2
    established = run.events("ike_established", node="gw3")
    assert sorted(str(r.fields["connection"]) for r in established) == ["first", "second"]
    assert {r.fields["encapsulated"] for r in run.events("child_ready")} == {True}


def test_two_hosts_behind_one_nat_in_transport_mode_clash(world: str, tmp_path: Path) -> None:
    """RFC 3948 section 5.2: the server would have two SAs for the NAT's one address. It refuses the
    second host while the first one has its SA, which meets no harm, and takes it afterwards."""
    first, second, again = (
        Ping(name, host, "server", start=start, interval=0.2, count=5)
        for name, host, start in (("first", "h1", 0.6), ("second", "h2", 0.7), ("again", "h2", 3.5))
    )
    bulk = Transfer("bulk", "h1", "server", start=0.8, octets=100_000)
    gone = (at(2.2, "delete_child", "h1", "first"),)
    plan = RunPlan((first, second, again, bulk), gone, duration=6.0)
    run = run_in(world, load_topology("two-hosts-one-nat"), plan, tmp_path / "run")
    answers = run.events("ping_received")
    assert len([r for r in answers if r.node == "h1"]) == 5
    # What the second host sends meanwhile waits until it gets an SA.
    assert len([r for r in answers if r.node == "h2"]) == 10
    assert min(r.t for r in answers if r.node == "h2") > 2.2
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 100_000
    ready = [str(r.fields["connection"]) for r in run.events("child_ready", node="server")]
    assert ready == ["first", "second"]
    reasons = {str(r.fields["reason"]) for r in run.events("child_failed", node="h2")}
    assert reasons == {"TS_UNACCEPTABLE"}
    # Both are authenticated all the same: it is one CHILD_SA that is refused.
    established = run.events("ike_established", node="server")
    assert sorted(str(r.fields["connection"]) for r in established) == ["first", "second"]


def test_two_nats_in_a_row(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (
            *_pings(("h1", "h2"), ("h2", "h1")),
            Probe("inward", "h2", "h1", start=0.8, duration=2.2, rate=100, size=100),
            Transfer("up", "h1", "h2", start=0.9, octets=200_000),
            Transfer("down", "h2", "h1", start=0.9, octets=200_000),
        ),
        (at(1.4, "rekey_child", "gw2"), at(1.8, "rekey_ike", "gw1")),
        duration=4.0,
    )
    run = run_in(world, load_topology("double-nat"), plan, tmp_path / "run")
    _all_came(run)
    assert run.metrics["rekeys"] == 2
    assert run.metrics["rekey_lost"] == 0
    assert {record.node for record in run.events("nat_mapped")} == {"nat1", "nat2"}
    (established,) = run.events("ike_established", node="gw2")
    assert established.fields["peer_behind_nat"] is True
    sources = {str(r.fields["source"]) for r in run.events("ike_received", node="gw2")}
    assert {source.partition(":")[0] for source in sources} == {"192.0.2.1"}


@pytest.mark.parametrize("way", [("h1", "h2"), ("h2", "h1")], ids=["upload", "download"])
@pytest.mark.parametrize("address", [None, "192.0.2.7"], ids=["another port", "another address"])
def test_rebinding_in_mid_transfer_needs_no_new_handshake(
    world: str, address: str | None, way: tuple[str, str], tmp_path: Path
) -> None:
    topology = load_topology("site-to-site-nat").with_overrides({"links.wan.rate": "8Mbit/s"})
    plan = RunPlan(
        (
            Transfer("bulk", *way, start=0.5, duration=4.5),
            Probe("inward", "h2", "h1", start=0.5, duration=4.5, rate=100, size=64),
            # Whoever is inside has to speak: what comes from outside finds no mapping any more.
            Probe("outward", "h1", "h2", start=0.5, duration=4.5, rate=20, size=64),
        ),
        (
            Action(
                REBOUND,
                "nat_rebind",
                node="nat1",
                arguments={} if address is None else {"address": address},
            ),
        ),
        duration=5.5,
    )
    run = run_in(world, topology, plan, tmp_path / "run", seed=3)

    # The one handshake that there was, and none after.
    exchanges = [record.fields["exchange"] for record in run.events("ike_sent")]
    assert exchanges.count("IKE_SA_INIT") == exchanges.count("IKE_AUTH") == 2
    assert len(run.events("ike_established")) == 2
    assert not run.events("ike_gone", "child_gone")
    # gw2 follows the first authenticated packet from the new place (RFC 7296 section 2.23).
    (rebound,) = run.events("nat_rebound")[-1:]
    assert rebound.t == pytest.approx(REBOUND, abs=0.1)
    moved = run.events("peer_moved", node="gw2")
    assert moved
    assert rebound.t < moved[0].t < rebound.t + 1.0
    # Traffic resumes: the time is reported, and the transfer goes on at its rate.
    recovery = run.metrics["nat_recovery"]
    assert recovery is not None
    assert 0.0 < recovery < 1.5
    after = _delivered(run, REBOUND + 2.0, 5.0)
    before = _delivered(run, 1.5, REBOUND)
    assert after / (5.0 - REBOUND - 2.0) > 0.5 * before / (REBOUND - 1.5) > 0


def _delivered(run: Run, start: float, end: float) -> float:
    """Octets that a transfer's sink has counted from `start` to `end`."""
    counts = [
        (record.t, float(str(record.fields["octets"])))
        for record in run.events("transfer_octets", "transfer_done")
    ]
    return sum(
        later - earlier
        for (_, earlier), (t, later) in pairwise([(0.0, 0.0), *counts])
        if start <= t <= end
    )
