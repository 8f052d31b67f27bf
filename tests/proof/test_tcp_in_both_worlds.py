"""IKE and ESP in TCP (RFC 9329) in both worlds, and as tshark reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.keys import CAPTURE_NAME, KEYS_FOLDER
from ipseclab.lab.plan import Action, Ping, RunPlan, Transfer
from ipseclab.lab.topology import load_topology

DISSECTOR = Path(__file__).parents[2] / "docs" / "ike-in-tcp.lua"
both_worlds = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])


def ping(start: float, count: int) -> Ping:
    return Ping("ping", "h1", "h2", start=start, interval=0.05, count=count)


def answered(run: Run) -> int:
    return len(run.events("ping_received"))


@both_worlds
def test_tcp_is_found_where_udp_is_blocked(world: str, tmp_path: Path) -> None:
    plan = RunPlan(
        (ping(4.0, 20), Transfer("bulk", "h1", "h2", start=4.0, octets=300_000)), (), 6.0
    )
    run = run_in(world, load_topology("tcp-encapsulation"), plan, tmp_path / "run")
    blocked = [r for r in run.events("link_dropped") if r.fields["reason"] == "blocked"]
    assert len(blocked) == 3  # IKE_SA_INIT and two repetitions
    (fell,) = run.events("fell_back", node="gw1")
    assert 2.0 < fell.t < 2.6  # 0.5 + 0.75 + 1.125 s
    (opened,) = run.events("stream_opened", node="gw1")
    (accepted,) = run.events("stream_accepted", node="gw2")
    assert str(accepted.fields["remote"]).startswith("192.0.2.1:")  # the NAT's
    (established,) = run.events("ike_established", node="gw1")
    assert fell.t < opened.t < established.t < fell.t + 0.3
    assert established.fields["own_behind_nat"]
    assert answered(run) == 20
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 300_000


@both_worlds
def test_broken_connection_is_opened_again_and_the_sas_stay(world: str, tmp_path: Path) -> None:
    topology = load_topology("tcp-encapsulation").with_overrides(
        {"connections.site.encapsulation": "tcp", "connections.site.liveness": 1.0}
    )
    rebind = Action(1.5, "nat_rebind", "hotel", arguments={"address": "192.0.2.7"})
    plan = RunPlan((ping(1.0, 5), Ping("later", "h1", "h2", 30.0, 0.05, 5)), (rebind,), 31.0)
    run = run_in(world, topology, plan, tmp_path / "run")
    seen = [str(r.fields["remote"]).split(":")[0] for r in run.events("stream_accepted")]
    assert seen == ["192.0.2.1", "192.0.2.7"]
    assert len(run.events("ike_established")) == 2  # one handshake
    assert len([r for r in run.events("ping_received") if r.fields["flow"] == "later"]) == 5


@both_worlds
def test_rekeys_and_the_end_go_in_the_same_stream(world: str, tmp_path: Path) -> None:
    topology = load_topology("tcp-encapsulation").with_overrides(
        {"connections.site.encapsulation": "tcp"}
    )
    actions = (
        at(1.0, "rekey_child", "gw1"),
        at(1.4, "rekey_ike", "gw2"),
        at(1.8, "rekey_ike", "gw1"),
        at(3.0, "delete_ike", "gw2"),
    )
    run = run_in(world, topology, RunPlan((ping(0.8, 40),), actions, 4.0), tmp_path / "run")
    assert answered(run) == 40
    assert len(run.events("stream_opened")) == 1
    assert len(run.events("stream_closed", node="gw1")) == 1
    assert len(run.events("stream_closed", node="gw2")) == 1
    assert len(run.events("ike_rekeyed", node="gw1")) == 2


@pytest.mark.skipif(shutil.which("tshark") is None, reason="no tshark")
def test_tshark_opens_the_stream(tmp_path: Path) -> None:
    topology = load_topology("tcp-encapsulation").with_overrides(
        {"connections.site.encapsulation": "tcp"}
    )
    folder = tmp_path / "run"
    plan = RunPlan((ping(1.0, 5),), (at(2.0, "liveness", "gw1"),), 3.0)
    run_in(SIM, topology, plan, folder)
    config = tmp_path / "config"
    shutil.copytree(folder / KEYS_FOLDER, config)
    command = ["tshark", "-n", "-r", str(folder / CAPTURE_NAME), "-2", "-T", "fields"]
    for preference in ("esp.enable_encryption_decode:TRUE", "esp.enable_authentication_check:TRUE"):
        command += ["-o", preference]
    command += ["-X", f"lua_script:{DISSECTOR}"]
    for field in ("frame.protocols", "isakmp.exchangetype", "isakmp.enc.icd", "esp.icv_good"):
        command += ["-e", field]
    environment = {**os.environ, "WIRESHARK_CONFIG_DIR": str(config), "LC_ALL": "C"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    carried = [line for line in lines if "iketcp" in line[0]]
    exchanges = [line[1] for line in carried if line[1]]
    # Each message at both gateways' interfaces: IKE_SA_INIT, IKE_AUTH, INFORMATIONAL, both ways.
    assert sorted(exchanges) == ["34"] * 4 + ["35"] * 4 + ["37"] * 4
    assert all(line[2] for line in carried if line[1] in ("35", "37"))
    esp = [line for line in carried if ":esp" in line[0]]
    assert len(esp) == 20  # five pings and their answers, twice
    assert all("icmp" in line[0] and line[3] == "1" for line in esp)


@both_worlds
def test_gateway_moves_to_a_network_without_udp_and_back(world: str, tmp_path: Path) -> None:
    topology = load_topology("roaming").with_overrides(
        {
            "connections.site.encapsulation": "auto-tcp",
            "connections.site.retransmission": {"timeout": 0.3, "base": 1.5, "tries": 8},
            "links.mobile.block": ["udp", "esp"],
        }
    )
    actions = (
        Action(1.5, "address_change", "gw1", arguments={"link": "wifi"}),
        Action(5.0, "address_change", "gw1", arguments={"link": "wifi", "address": "192.0.2.1"}),
    )
    flows = (Ping("there", "h1", "h2", 4.0, 0.05, 10), Ping("back", "h1", "h2", 6.5, 0.05, 10))
    run = run_in(world, topology, RunPlan(flows, actions, 7.5), tmp_path / "run")
    (fell,) = run.events("fell_back", node="gw1")
    (opened,) = run.events("stream_opened", node="gw1")
    (closed,) = run.events("stream_closed", node="gw1")
    assert 1.5 < fell.t < opened.t < 4.0
    assert 5.0 < closed.t < 6.0
    locals_ = [str(r.fields["local"]) for r in run.events("addresses_updated", node="gw1")]
    assert locals_[0].startswith("203.0.113.1:6")  # a port of a connection
    assert locals_[-1] == "192.0.2.1:4500"
    assert answered(run) == 20
    assert len(run.events("ike_established", node="gw1")) == 1
