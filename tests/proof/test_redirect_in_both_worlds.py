"""A client that its gateway sends to another one (RFC 5685), by address and by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import Topology, load_topology


def _topology(**redirect: object) -> Topology:
    settings = {f"connections.first.redirect.{key}": value for key, value in redirect.items()}
    return load_topology("redirect").with_overrides(settings)


def _gateway_at_last(run: Run) -> None:
    """The client has one IKE_SA, with vpn2, and its packets come back."""
    begun = [r.fields["spi_i"] for r in run.events("ike_established", node="vpn2")]
    ended = {r.fields["spi_i"] for r in run.events("ike_gone")}
    assert len(begun) == 1
    assert begun[0] not in ended
    assert {r.fields["spi_i"] for r in run.events("ike_established", node="vpn1")} <= ended
    assert len(run.events("ping_received")) == 8


@pytest.mark.parametrize("name", [None, "vpn2.example.org"])
@pytest.mark.parametrize(("when", "messages"), [("init", 6), ("auth", 10)])
def test_client_is_sent_away_before_it_has_a_tunnel(
    when: str, messages: int, name: str | None, tmp_path: Path
) -> None:
    plan = RunPlan((Ping("ping", "client", "h2", 1.0, 0.25, 8),), (), 4.0)
    run = run_in(SIM, _topology(when=when, name=name), plan, tmp_path / "run")
    (redirected,) = run.events("redirected", node="client")
    assert redirected.fields["new"] == (name if name is not None else "203.0.113.2")
    assert len(run.events("ike_sent")) == messages
    _gateway_at_last(run)


@pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])
def test_client_is_sent_away_in_mid_session(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (Ping("ping", "client", "h2", 2.0, 0.25, 8),),
        (at(1.0, "redirect", "vpn1", "first"),),
        5.0,
    )
    run = run_in(world, _topology(name="vpn2.example.org"), plan, tmp_path / "run")
    (old,) = run.events("ike_established", node="vpn1")
    (new,) = run.events("ike_established", node="vpn2")
    (gone,) = run.events("ike_gone", node="vpn1")
    assert old.t < 1.0 < new.t < gone.t  # what it has stays until the new tunnel stands
    _gateway_at_last(run)


def test_gateway_keeps_as_many_as_it_is_told(tmp_path: Path) -> None:
    plan = RunPlan((), (), 2.0)
    run = run_in(SIM, _topology(when="init", above=1), plan, tmp_path / "run")
    assert not run.events("redirected")
    assert run.events("ike_established", node="vpn1")


def test_gateways_that_send_a_client_to_each_other_do_not_keep_it_going(tmp_path: Path) -> None:
    topology = _topology(when="auth").with_overrides(
        {"connections.second.redirect": {"to": "vpn1", "when": "auth"}}
    )
    run = run_in(SIM, topology, RunPlan((), (), 30.0), tmp_path / "run")
    assert len(run.events("redirected")) == 5  # RFC 5685 section 8
    (ignored,) = run.events("redirect_ignored")
    assert ignored.fields["reason"] == "loop"
