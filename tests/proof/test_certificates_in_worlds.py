"""Gateways known by certificates that the lab makes, in both worlds; none for a revoked one."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, run_in

from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import load_topology

PLAN = RunPlan((Ping("ping", "h1", "h2", start=0.6, interval=0.1, count=3),), (), duration=1.2)
WORLDS = [SIM, pytest.param(NETNS, marks=pytest.mark.netns)]


@pytest.mark.parametrize("world", WORLDS)
def test_tunnel_between_gateways_with_certificates(world: str, tmp_path: Path) -> None:
    run = run_in(world, load_topology("site-to-site-certificates"), PLAN, tmp_path / "run")
    assert len(run.events("ping_received")) == 3
    assert len(run.events("ike_established")) == 2


@pytest.mark.parametrize("world", WORLDS)
def test_revoked_responder_gets_no_tunnel_and_the_trace_says_why(
    world: str, tmp_path: Path
) -> None:
    topology = load_topology("site-to-site-certificates").with_overrides(
        {"certificates.nodes.gw2.revoked": True}
    )
    run = run_in(world, topology, PLAN, tmp_path / "run")
    assert not run.events("ping_received")
    (failed,) = run.events("auth_failed", node="gw1")[:1]
    assert "certificate of CN=gw2,O=ipseclab was revoked at" in str(failed.fields["reason"])


@pytest.mark.parametrize("world", WORLDS)
def test_a_machine_and_then_its_user_in_two_rounds(world: str, tmp_path: Path) -> None:
    """RFC 4739: certificate, then EAP-MSCHAPv2, behind a NAT."""
    pings = RunPlan((Ping("ping", "laptop", "server", 0.8, 0.1, count=3),), (), duration=1.4)
    run = run_in(world, load_topology("remote-access-two-rounds"), pings, tmp_path / "run")
    assert len(run.events("ping_received")) == 3
    assert len(run.events("ike_established")) == 2
    rounds = [r for r in run.events("ike_sent", node="laptop") if r.fields["message_id"] == 2]
    assert {record.fields["exchange"] for record in rounds} == {"IKE_AUTH"}


@pytest.mark.parametrize("key", ["ecdsa-p256", "ml-dsa-44"])
def test_same_seed_same_trace(key: str, tmp_path: Path) -> None:
    """ML-DSA signatures differ from run to run, their length does not."""
    topology = load_topology("site-to-site-certificates").with_overrides(
        {"certificates.nodes.gw1.key": key, "certificates.nodes.gw2.key": key}
    )
    traces = [
        (run_in(SIM, topology, PLAN, tmp_path / name).folder / "trace.jsonl").read_bytes()
        for name in ("one", "two")
    ]
    assert traces[0] == traces[1]
    assert b"ping_received" in traces[0]
