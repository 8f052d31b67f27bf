"""Addresses from a gateway's pool: the client really has them, in both worlds and with strongSwan.

RFC 7296 section 2.19, RFC 8598. Each client pings the server from the address that it was given.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, run_in

from ipseclab.lab.plan import Action, Ping, RunPlan
from ipseclab.lab.topology import Topology, load_topology

PINGS = 3
PLAN = RunPlan(
    (
        Ping("alice", "alice", "server", start=1.0, interval=0.1, count=PINGS),
        Ping("bob", "bob", "server", start=1.0, interval=0.1, count=PINGS),
    ),
    (),
    duration=1.8,
)


def topology(**changes: object) -> Topology:
    return load_topology("remote-access-pool").with_overrides(changes)


def received(run: Run, flow: str) -> int:
    return sum(record.fields["flow"] == flow for record in run.events("ping_received"))


def given(run: Run, node: str) -> set[str]:
    records = run.events("address_assigned", node=node)
    return {str(record.fields["addresses"]) for record in records}


@pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])
def test_both_clients_have_their_own_address(world: str, tmp_path: Path) -> None:
    run = run_in(world, topology(), PLAN, tmp_path / "run")
    assert received(run, "alice") == PINGS
    assert received(run, "bob") == PINGS
    found = given(run, "alice") | given(run, "bob")
    assert found == {"10.9.0.1", "10.9.0.2"}
    (said,) = run.events("address_assigned", node="alice")
    assert (said.fields["dns"], said.fields["domains"]) == ("10.2.0.53", "corp.example.org")
    if world == NETNS:
        resolver = (run.folder / "nodes" / "alice" / "resolv.conf").read_text()
        assert resolver == "# alice: corp.example.org\nnameserver 10.2.0.53\n"


@pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])
def test_address_goes_with_its_ike_sa_and_stays_over_a_rekey(world: str, tmp_path: Path) -> None:
    pings = (
        Ping("before", "alice", "server", start=0.8, interval=0.1, count=PINGS),
        Ping("rekeyed", "alice", "server", start=1.6, interval=0.1, count=PINGS),
        Ping("gone", "bob", "server", start=1.6, interval=0.1, count=PINGS),
    )
    actions = (
        Action(1.2, "rekey_ike", node="gate", arguments={"connection": "alice"}),
        Action(1.2, "delete_ike", node="bob", arguments={"connection": "bob"}),
    )
    run = run_in(world, topology(), RunPlan(pings, actions, duration=2.2), tmp_path / "run")
    assert [received(run, flow) for flow in ("before", "rekeyed")] == [PINGS, PINGS]
    assert run.events("ike_rekeyed", node="alice")
    assert not run.events("address_lost", node="alice")
    (released,) = run.events("address_released", node="gate")
    assert released.fields["address"] in given(run, "bob")


@pytest.mark.netns
@pytest.mark.strongswan
@pytest.mark.parametrize("theirs", ["gate", "alice"], ids=["its pool", "its client"])
def test_strongswan_gives_and_takes_addresses(theirs: str, tmp_path: Path) -> None:
    run = run_in(NETNS, topology(**{f"nodes.{theirs}.stack": "strongswan"}), PLAN, tmp_path / "run")
    log = "".join(
        path.read_text(errors="replace")[-8000:] for path in run.folder.glob("logs/*/charon.log")
    )
    failures = run.events("auth_failed", "ike_error_sent", "address_refused", "packet_dropped")
    why = f"{[record.fields for record in failures]}\n{log}"
    assert received(run, "alice") == PINGS, why
    assert received(run, "bob") == PINGS, why
    if theirs == "gate":
        (said,) = run.events("address_assigned", node="alice")
        assert str(said.fields["addresses"]).startswith("10.9.0.")
        assert (said.fields["dns"], said.fields["domains"]) == ("10.2.0.53", "corp.example.org")
