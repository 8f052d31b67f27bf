"""What an IKE_SA carries beyond its CHILD_SAs, in both worlds: tickets that resume, tokens that
tell of a restart, authentication anew without a gap; the last with strongSwan too."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.plan import Action, Ping, Probe, RunPlan
from ipseclab.lab.topology import Topology, load_topology

WORLDS = [SIM, pytest.param(NETNS, marks=pytest.mark.netns)]


def topology(**changes: object) -> Topology:
    overrides = {f"connections.site.{key}": value for key, value in changes.items()}
    return load_topology("site-to-site").with_overrides(overrides)


def received(run: Run, flow: str) -> int:
    return sum(record.fields["flow"] == flow for record in run.events("ping_received"))


@pytest.mark.parametrize("world", WORLDS)
def test_ticket_resumes_faster_than_a_handshake(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (Ping("back", "h1", "h2", start=1.5, interval=0.1, count=3),),
        (at(0.8, "delete_ike"), at(1.1, "initiate")),
        duration=2.0,
    )
    run = run_in(world, topology(resumption=True), plan, tmp_path / "run")
    assert received(run, "back") == 3
    assert run.events("ike_resumed", node="gw2")
    handshake, resumed = run.metrics["handshake_time"], run.metrics["resume_time"]
    assert handshake is not None
    assert resumed is not None
    if world == SIM:
        assert resumed == pytest.approx(handshake)  # two round trips, no costs
    else:
        assert 0.0 < resumed < 2.0 * handshake


@pytest.mark.parametrize("world", WORLDS)
def test_peer_of_a_gateway_that_restarts_is_back_soon(world: str, tmp_path: Path) -> None:
    lab = topology(crash_detection=True, liveness="1s", resumption=True)
    plan = RunPlan(
        (Ping("back", "h1", "h2", start=3.5, interval=0.1, count=3),),
        (Action(1.0, "restart", node="gw2"),),
        duration=4.0,
    )
    run = run_in(world, lab, plan, tmp_path / "run")
    assert run.events("restarted", node="gw2")
    assert run.events("crash_detected", node="gw1")
    assert run.events("ike_resumed", node="gw2")
    assert received(run, "back") == 3


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("side", ["gw1", "gw2"])
def test_authentication_anew_leaves_no_gap(side: str, world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (
            Probe("there", "h1", "h2", start=0.6, duration=1.2, rate=50.0),
            Probe("back", "h2", "h1", start=0.6, duration=1.2, rate=50.0),
        ),
        (at(1.0, "reauthenticate", side),),
        duration=2.2,
    )
    run = run_in(world, topology(), plan, tmp_path / "run")
    assert run.events("reauth_done", node=side)
    gone = run.events("ike_gone", node=side)
    assert [record.fields["reason"] for record in gone] == ["reauthenticated"]
    sent, got = run.events("probe_sent"), run.events("probe_received")
    assert len(sent) == len(got) > 0


@pytest.mark.netns
@pytest.mark.strongswan
@pytest.mark.parametrize("ours", ["gw1", "gw2"])
@pytest.mark.parametrize("by", ["gw1", "gw2"])
def test_authentication_anew_with_strongswan(ours: str, by: str, tmp_path: Path) -> None:
    theirs = {"gw1": "gw2", "gw2": "gw1"}[ours]
    lab = topology(encapsulation="forced").with_overrides({f"nodes.{theirs}.stack": "strongswan"})
    plan = RunPlan(
        (Ping("after", "h1", "h2", start=2.2, interval=0.1, count=3),),
        (at(1.0, "reauthenticate", by),),
        duration=2.8,
    )
    run = run_in(NETNS, lab, plan, tmp_path / "run")
    logs = run.folder.glob("logs/*/charon.log")
    why = "".join(path.read_text(errors="replace")[-6000:] for path in logs)
    assert received(run, "after") == 3, why
    assert len(run.events("ike_established", node=ours)) == 2, why
    assert len(run.events("ike_gone", node=ours)) == 1, why
