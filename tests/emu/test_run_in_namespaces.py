"""Whole runs in the emulated world, each in a sandbox of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from ipseclab.lab.impairment import Bernoulli, losses
from ipseclab.lab.keys_read import read_esp_rows, read_ike_rows
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.trace import Trace, TraceRecord, read_trace
from ipseclab.present.ladder import ladder
from ipseclab.registry import IpProtocol
from ipseclab.sim import network as simulator
from ipseclab.wire.ip import flow_of

pytestmark = pytest.mark.netns

SEED = 11
LOSSY = """
nodes: {h1: {kind: host}, r1: {kind: router}, h2: {kind: host}}
links:
  - {name: wan, ends: [h1, r1], addresses: [10.1.0.1/24, 10.1.0.2/24], delay: 5ms, loss: 20%}
  - {name: lan, ends: [r1, h2], addresses: [10.2.0.2/24, 10.2.0.1/24]}
"""

RUN = """
    from ipseclab.emu import network
    from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
    from ipseclab.lab.topology import {load}
    from ipseclab.lab.trace import Trace
    with (OUT / "trace.jsonl").open("w") as sink:
        network.run({load}({topology!r}), {plan!r}, seed={seed}, trace=Trace(sink), out=OUT)
"""


@pytest.fixture
def run(sandboxed: Callable[[str], Any], tmp_path: Path) -> Callable[..., list[TraceRecord]]:
    """Does a run and gives its trace."""

    def one(topology: str, plan: RunPlan) -> list[TraceRecord]:
        load = "parse_topology" if "\n" in topology else "load_topology"
        done = sandboxed(RUN.format(load=load, topology=topology, plan=plan, seed=SEED))
        assert done.code == 0, done.log
        return list(read_trace(tmp_path / "trace.jsonl"))

    return one


def named(records: Sequence[TraceRecord], event: str, node: str | None = None) -> list[TraceRecord]:
    return [r for r in records if r.event == event and node in (None, r.node)]


def sequences(records: Sequence[TraceRecord]) -> list[object]:
    return [record.fields["sequence"] for record in records]


def test_the_packets_lost_are_those_of_the_seed_and_of_the_simulator(
    run: Callable[..., list[TraceRecord]],
) -> None:
    plan = RunPlan((Probe("p", "h1", "h2", 0.1, 1.0, 200.0, 100),), duration=1.4)
    emulated = run(LOSSY, plan)
    lost = islice(losses(Bernoulli(0.2), SEED, "wan", "forward"), 200)
    drawn = [index for index, gone in enumerate(lost) if gone]
    missing = sorted(
        set(sequences(named(emulated, "probe_sent")))
        - set(sequences(named(emulated, "probe_received")))
    )
    assert missing == drawn
    simulated = Trace()
    simulator.run(parse_topology(LOSSY), plan, seed=SEED, trace=simulated)
    for records in (emulated, simulated.records):
        dropped = named(records, "link_dropped", "wan")
        assert [r.fields["index"] for r in dropped if r.fields["direction"] == "forward"] == drawn


def test_links_are_measured_before_the_run(
    run: Callable[..., list[TraceRecord]], tmp_path: Path
) -> None:
    run(LOSSY.replace("loss: 20%", "loss: 20%, rate: 10Mbit/s"), RunPlan(duration=0.1))
    forward = json.loads((tmp_path / "links.json").read_text())["wan"]["forward"]
    assert forward["set"]["delay"] == 0.005
    assert forward["measured"]["least_delay"] == pytest.approx(0.005, abs=0.002)
    assert forward["measured"]["rate"] == pytest.approx(10e6, rel=0.15)
    drawn = list(islice(losses(Bernoulli(0.2), SEED, "wan", "forward"), 100))
    assert forward["measured"]["loss"] == pytest.approx(sum(drawn) / 100)


def test_a_link_that_is_not_as_set_stops_the_run(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        f"""
        from ipseclab.emu.lab import Lab
        from ipseclab.emu.probe import LinkMismatch
        from ipseclab.lab.topology import parse_topology
        lab = Lab(parse_topology({LOSSY!r}), seed={SEED}, out=OUT)
        lab.build()
        lab.measure_links()
        lab.set_link("wan", {{"delay": 0.030, "direction": "backward"}})
        try:
            lab.measure_links()
        except LinkMismatch as mismatch:
            print(mismatch)
        lab.set_link("wan", {{"delay": 0.005, "loss": 0.3}})
        try:
            lab.measure_links()
        except LinkMismatch as mismatch:
            print(mismatch)
        """
    )
    assert done.code == 0, done.log
    delay, loss = done.log.strip().splitlines()
    assert re.match(r"link wan backward: delay set to 0\.005000 s, measured 0\.0(29|3)", delay)
    assert "the seed takes" in loss


@pytest.mark.parametrize(
    ("topology", "source", "destination", "encapsulated"),
    [
        ("site-to-site", "h1", "h2", False),
        ("site-to-site-nat", "h1", "h2", True),
        ("host-to-host", "h1", "h2", False),
        ("double-nat", "h1", "h2", True),
    ],
)
def test_traffic_passes_a_tunnel_that_is_rekeyed(
    run: Callable[..., list[TraceRecord]],
    tmp_path: Path,
    topology: str,
    source: str,
    destination: str,
    encapsulated: bool,
) -> None:
    connection = load_topology(topology).connections[0]
    rekeys = tuple(
        Action(at, action, connection.initiator, None, {"connection": connection.name})
        for at, action in ((1.0, "rekey_child"), (1.4, "rekey_ike"))
    )
    flows = (
        Ping("ping", source, destination, 0.5, 0.1, 5, 56),
        Probe("probe", source, destination, 0.5, 1.5, 200.0, 200),
        Transfer("bulk", source, destination, 0.6, octets=200_000),
    )
    records = run(topology, RunPlan(flows, rekeys, 2.4))
    assert [r.fields["role"] for r in named(records, "ike_established", connection.initiator)]
    ready = named(records, "child_ready", connection.initiator)
    assert [r.fields["encapsulated"] for r in ready] == [encapsulated] * 2
    assert len(named(records, "rekey_done", connection.initiator)) == 2
    assert len(named(records, "ping_received")) == 5
    assert len(named(records, "probe_sent")) == 300
    assert len(named(records, "probe_received")) == 300
    assert named(records, "transfer_done")[0].fields["octets"] == 200_000
    assert not named(records, "packet_dropped")
    assert [record.t for record in records] == sorted(record.t for record in records)
    # On the wire there is nothing but IKE and ESP.
    with (tmp_path / "capture.pcapng").open("rb") as stream:
        packets = [captured.packet for captured in read_pcapng(stream)]
    flows_seen = {flow_of(packet) for packet in packets}
    assert {flow.protocol for flow in flows_seen} <= {IpProtocol.UDP, IpProtocol.ESP}
    assert len(packets) >= 2 * (300 + 2 * 5)
    for flow in flows_seen:
        if flow.protocol == IpProtocol.UDP:
            assert {flow.source_port, flow.destination_port} & {500, 4500}
    ike_rows = list(read_ike_rows((tmp_path / "keys" / "ikev2_decryption_table").read_text()))
    esp_rows = list(read_esp_rows((tmp_path / "keys" / "esp_sa").read_text()))
    assert (len(ike_rows), len(esp_rows)) == (2, 4)


def test_a_nat_that_rebinds_is_followed_without_a_new_handshake(
    run: Callable[..., list[TraceRecord]],
) -> None:
    rebind = Action(1.0, "nat_rebind", "nat1", None, {"address": "192.0.2.7"})
    flows = (Probe("probe", "h1", "h2", 0.5, 1.2, 100.0, 100),)
    records = run("site-to-site-nat", RunPlan(flows, (rebind,), 2.0))
    assert [record.fields["action"] for record in named(records, "action")] == ["nat_rebind"]
    assert len(named(records, "nat_rebound")) >= 1
    moved = named(records, "peer_moved", "gw2")
    assert moved
    assert len(named(records, "ike_established")) == 2
    received = sequences(named(records, "probe_received", "h2"))
    assert received[-1] == 119
    assert len(received) >= 115


def test_two_clients_behind_one_nat_reach_one_gateway(
    run: Callable[..., list[TraceRecord]],
) -> None:
    topology = load_topology("two-clients-one-nat")
    initiators = [connection.initiator for connection in topology.connections]
    hosts = [
        next(i.peer for i in topology.nodes[gateway].interfaces if i.peer.startswith("h"))
        if topology.nodes[gateway].forwards
        else gateway
        for gateway in initiators
    ]
    inside = topology.nodes[topology.connections[0].responder]
    target = next(i.peer for i in inside.interfaces if i.peer.startswith("h"))
    flows = tuple(Ping(f"from-{host}", host, target, 0.6, 0.1, 4, 56) for host in hosts)
    records = run("two-clients-one-nat", RunPlan(flows, (), 1.4))
    for flow in flows:
        answers = [r for r in named(records, "ping_received") if r.fields["flow"] == flow.name]
        assert len(answers) == 4, flow.name


def test_without_ipsec_the_same_traffic_passes_in_the_clear(
    run: Callable[..., list[TraceRecord]],
) -> None:
    text = load_topology("host-to-host").with_overrides({"connections.hosts.mode": "none"})
    flows = (
        Ping("ping", "h1", "h2", 0.1, 0.1, 3, 56),
        Transfer("bulk", "h1", "h2", 0.2, octets=100_000, congestion="newreno"),
    )
    topology = json.dumps(text.source.data) + "\n"
    records = run(topology, RunPlan(flows, (), 1.2))
    assert len(named(records, "ping_received")) == 3
    assert named(records, "transfer_done")[0].fields["octets"] == 100_000
    assert not named(records, "ike_sent")


def test_plain_packets_from_outside_do_not_get_in(sandboxed: Callable[[str], Any]) -> None:
    done = sandboxed(
        """
        import subprocess, time
        from ipseclab.emu.lab import Lab
        from ipseclab.lab.topology import load_topology
        topology = load_topology("site-to-site")
        lab = Lab(topology, seed=1, out=OUT)
        lab.build()
        lab.start_nodes()
        lab.restart_links()
        def ping(node, address, *more):
            command = ["mnexec", "-a", str(lab.pid(node)), "ping", "-c1", "-W1", *more, address]
            return subprocess.run(command, stdout=subprocess.DEVNULL).returncode
        # The router between the gateways knows the way to both sites.
        print("r1 to h2:", ping("r1", "10.2.0.10"))
        print("r1 to gw2:", ping("r1", str(topology.nodes["gw2"].address)))
        print("h2 to r1:", ping("h2", str(topology.nodes["r1"].address)))
        print(lab.report("gw2").counters["drops.no_policy"] > 0)
        """
    )
    assert done.code == 0, done.log
    # Its own ICMP is the one thing that the gateway answers outside (own-icmp).
    assert done.log.split("\n")[:4] == ["r1 to h2: 1", "r1 to gw2: 0", "h2 to r1: 1", "True"]


def test_what_the_lab_itself_loses_is_counted_where_it_was_lost(
    sandboxed: Callable[[str], Any],
) -> None:
    done = sandboxed(
        """
        import os, signal, socket, time
        from ipseclab.emu import devices
        from ipseclab.emu.lab import Lab
        from ipseclab.lab.topology import load_topology
        topology = load_topology("site-to-site-nat").with_overrides(
            {"links.wan.delay": 0.0, "links.wan.mtu": 1400})
        devices.SOCKET_BUFFER = 100_000  # soon full
        lab = Lab(topology, seed=1, out=OUT, relayed=lambda link: link.name == "wan")
        lab.build()
        lab.start_nodes()
        lab.restart_links()
        lab.initiate({"gw1": ("site",)})
        def lost():
            relays = {name: done.overruns for name, done in lab.relay_work().items()}
            return {**lab.lost_in_nodes(), **relays}
        def flood(name, stopped):
            os.kill(stopped.pid, signal.SIGSTOP)
            with devices.in_network(lab.pid("h1")):
                sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with sender:
                for number in range(2_000):
                    sender.sendto(bytes(1000), (str(topology.nodes["h2"].address), 9))
                    if number % 20 == 0:
                        time.sleep(0.002)
            os.kill(stopped.pid, signal.SIGCONT)
            lab.wait_until(time.monotonic() + 0.5)
            print(name, lost()[name] > 0)
            lab.restart_links()
        lab.wait_until(time.monotonic() + 0.5)
        print(sum(lost().values()))
        flood("gw1", lab.gateways["gw1"])
        flood("gw2", lab.gateways["gw2"])
        flood("nat1", lab._nats["nat1"])
        flood("wan", lab._links["wan"])
        print(sum(lost().values()))
        """
    )
    assert done.code == 0, done.log
    assert done.log.split("\n") == ["0", "gw1 True", "gw2 True", "nat1 True", "wan True", "0", ""]


def test_a_frame_that_a_relay_cannot_send_is_named_by_its_index(
    sandboxed: Callable[[str], Any], tmp_path: Path
) -> None:
    done = sandboxed(
        f"""
        import os, socket, subprocess, time
        from ipseclab.emu import devices
        from ipseclab.emu.lab import Lab
        from ipseclab.emu.nodes import relay_interface
        from ipseclab.lab.topology import parse_topology
        topology = parse_topology({LOSSY!r})
        lab = Lab(topology, seed={SEED}, out=OUT)
        lab.build()
        for _ in range(3):
            lab.restart_links()
        relay = lab._links["wan"]
        opened = [os.readlink(e) for e in os.scandir(f"/proc/{{relay.pid}}/fd") if e.is_symlink()]
        print(sum(path.endswith("link-wan.jsonl") for path in opened))
        subprocess.run(["ip", "link", "set", relay_interface(0, 1), "mtu", "68"], check=True)
        with devices.in_network(lab.pid("h1")):
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            for _ in range(40):
                sender.sendto(bytes(64), ("10.1.0.2", 9))
        lab.wait_until(time.monotonic() + 0.5)
        print(lab.relay_work()["wan"].overruns)
        """
    )
    assert done.code == 0, done.log
    drawn = list(islice(losses(Bernoulli(0.2), SEED, "wan", "forward"), 40))
    opened, overruns = map(int, done.log.split())
    assert opened == 1, "each restart leaves a file open"
    records = list(read_trace(tmp_path / "parts" / "link-wan.jsonl"))
    overrun = [r.fields["index"] for r in records if r.fields["reason"] == "overrun"]
    assert overrun == [index for index, gone in enumerate(drawn) if not gone]
    assert overruns == len(overrun) > 20


def test_faults_strike_as_in_the_simulator(run: Callable[..., list[TraceRecord]]) -> None:
    """One message lost, one late, one changed inside its Encrypted payload: the same ladder."""
    text = """
nodes: {gw1: {kind: gateway}, gw2: {kind: gateway}}
links: [{name: wan, ends: [gw1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24], delay: 5ms}]
connections:
  - name: site
    initiator: gw1
    responder: gw2
    psk: secret
    retransmission: {timeout: 500ms}
faults:
  - {node: gw1, do: drop, exchange: IKE_AUTH, nth: 1}
  - {node: gw2, do: answer_late, exchange: CREATE_CHILD_SA, delay: 200ms}
  - {node: gw1, do: no_delete}
"""
    rekey = Action(1.5, "rekey_child", "gw1", arguments={"connection": "site"})
    plan = RunPlan(actions=(rekey,), duration=2.5)
    emulated, simulated = run(text, plan), Trace()
    simulator.run(parse_topology(text), plan, seed=SEED, trace=simulated)
    assert ladder(emulated) == ladder(simulated.records)
    for records in (emulated, simulated.records):
        struck = [(r.node, r.fields["does"]) for r in named(records, "fault")]
        assert struck == [("gw1", "drop"), ("gw2", "answer_late"), ("gw1", "no_delete")]
        assert not named(records, "child_gone", "gw2")


@pytest.mark.parametrize("encapsulation", ["auto", "forced"])
def test_ike_messages_that_ip_fragments_are_put_together(
    run: Callable[..., list[TraceRecord]], encapsulation: str
) -> None:
    """Without RFC 7383 the kernel cuts an IKE_AUTH with a chain of certificates; no
    fragment shows the ports by which the policy routing knows IKE (RFC 4301 section 7)."""
    text = f"""
nodes: {{gw1: {{kind: gateway}}, gw2: {{kind: gateway}}}}
links:
  - {{name: wan, ends: [gw1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24], mtu: 1280}}
connections:
  - name: site
    initiator: gw1
    responder: gw2
    auth: certificate
    fragmentation: {{enabled: false}}
    encapsulation: {encapsulation}
certificates:
  authorities: {{root: {{}}, middle: {{issuer: root}}, low: {{issuer: middle}}}}
  nodes: {{gw1: {{issuer: low}}, gw2: {{issuer: low}}}}
"""
    records = run(text, RunPlan(duration=2.0))
    assert len(named(records, "ike_established")) == 2
    longest = max(int(str(r.fields["octets"])) for r in named(records, "ike_sent"))
    assert longest > 1280
    assert not named(records, "packet_dropped")
    assert not [r for r in named(records, "ike_sent") if r.fields["retransmission"]]
