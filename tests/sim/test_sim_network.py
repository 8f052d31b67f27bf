from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path

import pytest
from sim_lab import SITES, SITES_NAT, events, run, topology

from ipseclab.errors import ConfigError, EnvironmentLacks
from ipseclab.lab.impairment import Bernoulli, losses
from ipseclab.lab.keys import Capture
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace, TraceRecord
from ipseclab.registry import IpProtocol
from ipseclab.sim import network
from ipseclab.sim.costs import CostTable, PacketCost
from ipseclab.wire.ip import decode_ipv4_header

SUITE = "aes128gcm16"


def action(at: float, name: str, node: str = "gw1", **arguments: str | float) -> Action:
    known = {"connection": "site"} if name not in ("nat_rebind", "link_set") else {}
    return Action(at, name, node=node, arguments={**known, **arguments})  # type: ignore[arg-type]


def set_link(at: float, link: str, **arguments: str | float) -> Action:
    return Action(at, "link_set", link=link, arguments=arguments)


# Time


def test_a_ping_takes_the_delays_there_and_back_to_the_nanosecond() -> None:
    records = run(topology(), Ping("p", "h1", "h2", start=1.0, count=5), duration=7.0)
    pings = events(records, "ping_received", node="h1")
    assert [record.fields["rtt"] for record in pings] == [0.048] * 5
    assert [record.t for record in pings] == [1.048, 2.048, 3.048, 4.048, 5.048]
    assert [record.fields["sequence"] for record in pings] == [0, 1, 2, 3, 4]
    assert [record.t for record in events(records, "ping_sent")] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_costs_are_added_to_the_nanosecond() -> None:
    costs = CostTable(
        forward=1e-5,
        esp_seal={SUITE: PacketCost(2e-5, 1e-8)},
        esp_open={SUITE: PacketCost(3e-5, 2e-8)},
    )
    records = run(topology(), Ping("p", "h1", "h2", start=1.0, count=1), costs=costs)
    inner = 20 + 8 + 56
    each_way = 2 * 1e-5 + 2e-5 + inner * 1e-8 + 3e-5 + inner * 2e-8
    rtt = events(records, "ping_received")[0].fields["rtt"]
    assert rtt == pytest.approx(0.048 + 2 * each_way, abs=1e-9)


def test_a_handshake_takes_two_round_trips_and_its_processing() -> None:
    free = run(topology(), duration=1.0)
    ready = events(free, "child_ready", node="gw1")[0]
    assert ready.t == pytest.approx(2 * 0.04, abs=1e-9)
    costs = CostTable(
        ike_message=1e-3, ke_generate={"CURVE25519": 1e-4}, ke_agree={"CURVE25519": 2e-4}
    )
    paid = run(topology(), duration=1.0, costs=costs)
    # Eight times a message is made or taken in; both ends generate and agree.
    expected = 0.08 + 8 * 1e-3 + 2 * 1e-4 + 2 * 2e-4
    assert events(paid, "child_ready", node="gw1")[0].t == pytest.approx(expected, abs=1e-9)
    assert events(paid, "ike_received", node="gw2")[0].t == pytest.approx(0.0211, abs=1e-9)


def test_the_cpu_does_one_thing_after_another() -> None:
    costs = CostTable(esp_seal={SUITE: PacketCost(0.01)})
    # A packet each 5 ms for 1 s; the CPU does one each 10 ms.
    probe = Probe("u", "h1", "h2", start=1.0, duration=1.0, rate=200)
    records = run(topology(), probe, costs=costs)
    arrivals = [record.t for record in events(records, "probe_received")]
    assert len(arrivals) == 200
    assert arrivals[-1] - arrivals[0] == pytest.approx(1.99, abs=1e-6)


def test_a_cost_of_another_suite_is_not_charged() -> None:
    costs = CostTable(esp_seal={"aes256gcm16": PacketCost(0.5)})
    records = run(topology(), Ping("p", "h1", "h2", start=1.0, count=1), costs=costs)
    assert events(records, "ping_received")[0].fields["rtt"] == 0.048


# Loss


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_probes_lost_are_those_that_the_impairment_drops(seed: int) -> None:
    probe = Probe("u", "h1", "h2", start=30.0, duration=2.0, rate=200)
    records = run(topology(links__wan__loss="20%"), probe, duration=33.0, seed=seed)
    # What gw1 had put on the link before: its IKE messages.
    before = len([r for r in events(records, "ike_sent", node="gw1") if r.t < 30.0])
    assert not [r for r in events(records, "ike_sent", node="gw1") if r.t >= 30.0]
    drawn = islice(losses(Bernoulli(0.2), seed, "wan", "forward"), before, before + 400)
    expected = [sequence for sequence, lost in enumerate(drawn) if lost]
    assert len(expected) > 50
    got = {record.fields["sequence"] for record in events(records, "probe_received", node="h2")}
    assert [sequence for sequence in range(400) if sequence not in got] == expected
    dropped = events(records, "link_dropped", direction="forward")
    assert [r.fields["index"] for r in dropped if r.t >= 30.0] == [before + s for s in expected]


def test_probes_are_conserved_under_every_impairment_at_once() -> None:
    worn = topology(
        links__wan__loss="5%",
        links__wan__jitter="5ms",
        links__wan__reorder="5%",
        links__wan__duplicate="5%",
        links__wan__corrupt="2%",
    )
    records = run(worn, Probe("u", "h1", "h2", start=20.0, duration=5.0, rate=200), duration=27.0)
    received = [record.fields["sequence"] for record in events(records, "probe_received")]
    gone = [
        record
        for name in ("link_dropped", "link_corrupted")
        for record in events(records, name, direction="forward")
        if record.t >= 20.0
    ]
    # The replay window lets no second copy through, and a bad ICV no damage.
    assert len(set(received)) == len(received)
    assert len(received) + len(gone) == 1000
    assert received != sorted(received)
    reasons = {record.fields["reason"] for record in events(records, "packet_dropped", node="gw2")}
    assert {"replayed", "bad_icv"} <= reasons


def test_transfers_survive_a_bad_link_octet_for_octet() -> None:
    worn = topology(
        links__wan__loss="2%", links__wan__corrupt="1%", links__wan__duplicate="1%",
        links__wan__reorder="2%", links__wan__jitter="2ms",
    )  # fmt: skip
    transfer = Transfer("t", "h1", "h2", start=15.0, octets=400_000)
    records = run(worn, transfer, duration=120.0)
    # The sink compares each octet with the stream; here it remains to see that all came.
    assert [r.fields["octets"] for r in events(records, "transfer_done")] == [400_000]


# Traffic


def test_a_transfer_fills_the_link_and_is_sampled() -> None:
    transfer = Transfer("t", "h1", "h2", start=1.0, duration=5.0)
    # A queue that does not overflow: a loss would hold up what is delivered for a round trip.
    wan = topology(links__wan__rate="10Mbit/s", links__wan__queue_packets=500)
    records = run(wan, transfer, duration=8.0)
    samples = events(records, "transfer_octets", node="h2")
    octets = [record.fields["octets"] for record in samples]
    assert octets == sorted(octets)
    gaps = [b.t - a.t for a, b in pairwise(samples)]
    assert max(gaps) < 0.11
    assert min(gaps) > 0.099
    done = events(records, "transfer_done")[0]
    assert 0.9 * 10e6 * 1350 / 1500 < done.fields["octets"] * 8 / 5.0 < 10e6  # type: ignore[operator]
    assert events(records, "transfer_started", node="h1")[0].t == 1.0


def test_packets_too_long_for_the_tunnel_are_answered_not_lost() -> None:
    records = run(topology(), Transfer("t", "h1", "h2", start=1.0, octets=100_000))
    refused = events(records, "packet_dropped", reason="too_big")
    assert len(refused) == 10
    assert {record.node for record in refused} == {"gw1"}
    assert events(records, "transfer_done")[0].fields["octets"] == 100_000
    # Nothing too long ever came to a link.
    assert not events(records, "link_dropped")


def test_two_transfers_and_a_probe_share_a_link() -> None:
    wan = topology(links__wan__rate="20Mbit/s", links__wan__queue_packets=1000)
    records = run(
        wan,
        Transfer("a", "h1", "h2", start=1.0, octets=1_000_000),
        Transfer("b", "h2", "h1", start=1.0, octets=1_000_000, congestion="newreno"),
        Probe("u", "h1", "h2", start=1.0, duration=1.0, rate=50),
    )
    assert [r.fields["octets"] for r in events(records, "transfer_done", flow="a")] == [1_000_000]
    assert [r.fields["octets"] for r in events(records, "transfer_done", flow="b")] == [1_000_000]
    assert len(events(records, "probe_received")) == 50


@pytest.mark.parametrize("name", ["site-to-site", "site-to-site-nat", "host-to-host", "double-nat"])
def test_shipped_topologies_carry_all_kinds_of_traffic(name: str) -> None:
    records = run(
        load_topology(name),
        Ping("p", "h1", "h2", start=1.0, count=2),
        Ping("back", "h2", "h1", start=1.5, count=2),
        Probe("u", "h2", "h1", start=1.0, duration=0.5, rate=100),
        Transfer("t", "h1", "h2", start=1.0, octets=200_000),
        duration=5.0,
    )
    assert len(events(records, "ping_received")) == 4
    assert len(events(records, "probe_received", node="h1")) == 50
    assert events(records, "transfer_done", node="h2")


def test_two_clients_behind_one_nat_reach_one_gateway() -> None:
    records = run(
        load_topology("two-clients-one-nat"),
        Ping("first", "h1", "h3", start=1.0, count=3),
        Ping("second", "h2", "h3", start=1.0, count=3),
    )
    assert len(events(records, "ping_received", flow="first", node="h1")) == 3
    assert len(events(records, "ping_received", flow="second", node="h2")) == 3


def test_without_ipsec_the_same_traffic_goes_in_the_clear(tmp_path: Path) -> None:
    clear = topology(connections__site__mode="none")
    plan = RunPlan((Ping("p", "h1", "h2", start=1.0, count=1),), duration=3.0)
    trace = Trace()
    with Capture(tmp_path) as capture:
        network.run(clear, plan, seed=1, trace=trace, capture=capture)
    assert len(events(trace.records, "ping_received")) == 1
    assert not events(trace.records, "ike_sent")
    with (tmp_path / "capture.pcapng").open("rb") as stream:
        seen = [decode_ipv4_header(item.packet).protocol for item in read_pcapng(stream)]
    assert seen == [IpProtocol.ICMP] * 4


# Gateways


def test_rekeys_of_both_kinds_lose_nothing() -> None:
    actions = [action(2.0 + n, "rekey_child") for n in range(5)]
    actions += [action(2.5 + n, "rekey_ike", node="gw2") for n in range(5)]
    probe = Probe("u", "h1", "h2", start=1.0, duration=8.0, rate=500)
    records = run(topology(), probe, actions=actions)
    assert len(events(records, "probe_received")) == 4000
    assert len(events(records, "rekey_done", kind="child", node="gw1")) == 5
    assert len(events(records, "rekey_done", kind="ike", node="gw2")) == 5
    assert [record.fields["target"] for record in events(records, "action")] == ["gw1", "gw2"] * 5


def test_on_demand_the_first_packet_brings_the_connection_up_and_is_not_lost() -> None:
    lazy = topology(connections__site__start="on-demand")
    records = run(lazy, Ping("p", "h1", "h2", start=2.0, count=2), duration=5.0)
    assert min(record.t for record in events(records, "ike_sent")) == pytest.approx(2.001)
    pings = events(records, "ping_received")
    assert [record.fields["rtt"] for record in pings] == [pytest.approx(0.048 + 0.08), 0.048]


def test_deleting_and_initiating_by_hand() -> None:
    actions = [action(2.0, "delete_ike"), action(4.0, "initiate"), action(6.0, "liveness")]
    records = run(topology(), actions=actions, duration=8.0)
    assert [round(r.t, 3) for r in events(records, "ike_established", node="gw1")] == [0.08, 4.08]
    assert (
        events(records, "ike_sent", exchange="INFORMATIONAL", node="gw1", request=True)[-1].t == 6
    )


def test_a_nat_that_rebinds_in_mid_transfer_is_followed_without_a_handshake() -> None:
    transfer = Transfer("t", "h1", "h2", start=1.0, octets=8_000_000)
    wan = topology(SITES_NAT, links__wan__rate="10Mbit/s")
    moves = [
        action(3.0, "nat_rebind", node="nat1"),
        action(5.0, "nat_rebind", node="nat1", address="192.0.2.7"),
    ]
    records = run(wan, transfer, actions=moves, duration=30.0)
    assert events(records, "nat_rebound", node="nat1")
    assert len(events(records, "peer_moved", node="gw2")) >= 2
    assert len(events(records, "ike_established", node="gw2")) == 1
    assert events(records, "transfer_done")[0].fields["octets"] == 8_000_000
    assert "192.0.2.7" in str(events(records, "nat_mapped")[-1].fields["outside"])


def test_keepalives_hold_a_mapping_and_without_them_it_goes() -> None:
    # 30 s of time-out: a keepalive each 20 s is enough, one each 40 s is not.
    for keepalive, expired in ((20.0, False), (40.0, True)):
        records = run(topology(SITES_NAT, connections__site__keepalive=keepalive), duration=110.0)
        lost = [
            record
            for record in events(records, "nat_expired")
            if str(record.fields["inside"]).endswith(":4500")
        ]
        assert bool(lost) is expired


# Actions and errors


def test_link_settings_change_while_the_run_goes_on() -> None:
    actions = [
        set_link(2.5, "wan", delay=0.05),
        set_link(4.5, "wan", loss=1.0, direction="forward"),
        set_link(6.5, "wan", loss=0.0, delay=0.02),
    ]
    records = run(topology(), Ping("p", "h1", "h2", start=1.0, count=8), actions=actions)
    rtts = {r.fields["sequence"]: r.fields["rtt"] for r in events(records, "ping_received")}
    assert rtts == {0: 0.048, 1: 0.048, 2: 0.108, 3: 0.108, 6: 0.048, 7: 0.048}
    assert {r.fields["direction"] for r in events(records, "link_dropped")} == {"forward"}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (action(1.0, "rekey_child", node="h1"), "h1 is no gateway"),
        (action(1.0, "rekey_child", connection="nope"), "nope"),
        (action(1.0, "nat_rebind", node="gw1"), "gw1 is no NAT"),
        (set_link(1.0, "nowhere", delay=1.0), "no link 'nowhere'"),
        (set_link(1.0, "wan", colour=1.0), "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_action_that_cannot_be_done_is_a_config_error(bad: Action, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        run(topology(), actions=[bad], duration=2.0)


def test_an_address_that_is_none_of_the_nats_is_a_config_error() -> None:
    bad = action(1.0, "nat_rebind", node="nat1", address="203.0.113.9")
    with pytest.raises(ConfigError, match=r"203\.0\.113\.9"):
        run(topology(SITES_NAT), actions=[bad], duration=2.0)


def test_strongswan_is_for_the_other_world() -> None:
    with pytest.raises(EnvironmentLacks, match="--world netns"):
        network.Network(load_topology("strongswan-peer"), seed=1, trace=Trace())


def test_progress_is_told_and_changes_nothing() -> None:
    plan = RunPlan((Ping("p", "h1", "h2", start=1.0),), duration=5.0)
    told: list[float] = []
    traces = (Trace(), Trace())
    network.run(topology(), plan, seed=1, trace=traces[0], on_progress=told.append)
    network.run(topology(), plan, seed=1, trace=traces[1])
    assert told[-1] == 1.0
    assert told == sorted(told)
    assert traces[0].records == traces[1].records


def test_a_network_can_be_stepped_by_hand() -> None:
    trace = Trace()
    lab = network.Network(topology(), seed=1, trace=trace)
    lab.act(action(0.0, "initiate"))
    lab.run_until(0.05)
    assert not events(trace.records, "child_ready", node="gw1")
    lab.run_until(0.1)
    assert events(trace.records, "child_ready", node="gw1")
    assert lab.drivers["gw1"].gateway.status().ike_sas[0].children
    assert lab.packet_hops == 4


# Reproducibility and captures

_RUN = """
import sys
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import parse_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim import network
from ipseclab.sim.costs import CostTable

overrides = {"links.wan.loss": "3%", "links.wan.jitter": "3ms", "links.wan.duplicate": "1%"}
topology = parse_topology(sys.stdin.read()).with_overrides(overrides)
plan = RunPlan(
    (
        Ping("p", "h1", "h2", start=2.0, count=4),
        Probe("u", "h2", "h1", start=2.0, duration=3.0, rate=50),
        Transfer("t", "h1", "h2", start=2.0, octets=300_000),
    ),
    (
        Action(4.0, "rekey_child", node="gw1", arguments={"connection": "site"}),
        Action(5.0, "rekey_ike", node="gw2", arguments={"connection": "site"}),
        Action(6.0, "nat_rebind", node="nat1"),
    ),
    12.0,
)
network.run(
    topology, plan, seed=int(sys.argv[1]), trace=Trace(sys.stdout, keep=False),
    costs=CostTable.default(),
)
"""


def traced(seed: int, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(seed)],
        input=SITES_NAT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.stdout


def test_one_seed_is_one_trace_under_any_hash_seed() -> None:
    first = traced(5, "1")
    assert first.count("\n") > 300
    assert traced(5, "2") == first
    assert traced(6, "1") != first


def test_the_capture_holds_what_passed_the_gateways_outer_interfaces(tmp_path: Path) -> None:
    plan = RunPlan((Ping("p", "h1", "h2", start=1.0, count=2),), duration=4.0)
    trace = Trace()
    with Capture(tmp_path) as capture:
        network.run(
            topology(links__wan__loss={"packets": [2]}), plan, seed=1, trace=trace, capture=capture
        )
    with (tmp_path / "capture.pcapng").open("rb") as stream:
        seen = list(read_pcapng(stream))
    assert {item.interface for item in seen} == {"gw1-eth1", "gw2-eth0"}
    esp = [item for item in seen if item.packet[9] == IpProtocol.ESP]
    # The third packet each way is lost: the first echo request is seen at gw1 alone, the second
    # comes through, and its reply is seen at gw2 alone.
    assert (esp[0].interface, esp[0].time) == ("gw1-eth1", pytest.approx(1.001, abs=1e-9))
    assert [item.interface for item in esp[1:]] == ["gw1-eth1", "gw2-eth0", "gw2-eth0"]
    assert (tmp_path / "keys" / "ikev2_decryption_table").read_text().count("\n") == 1
    assert (tmp_path / "keys" / "esp_sa").read_text().count("\n") == 2


def test_memory_stays_bounded_in_a_long_quiet_run() -> None:
    lab = network.Network(topology(), seed=1, trace=Trace())
    lab.start_connections()
    lab.schedule(RunPlan((Probe("u", "h1", "h2", duration=200.0, rate=20),), duration=200.0))
    deepest = 0
    for second in range(1, 201):
        lab.run_until(float(second))
        deepest = max(deepest, len(lab.clock._queue))
    # One entry for the probe, the packets on their way, and a few wake-ups of the timers.
    assert deepest < 20


def test_no_event_of_a_run_lacks_its_fields() -> None:
    fields = {
        "link_dropped": {"direction", "index", "reason", "octets"},
        "probe_sent": {"flow", "sequence", "octets"},
        "probe_received": {"flow", "sequence", "octets"},
        "ping_sent": {"flow", "sequence", "octets"},
        "ping_received": {"flow", "sequence", "octets", "rtt"},
        "transfer_started": {"flow", "octets"},
        "transfer_octets": {"flow", "octets"},
        "transfer_done": {"flow", "octets"},
        "packet_dropped": {"reason", "direction", "octets"},
        "action": {"action", "target"},
    }
    records: list[TraceRecord] = run(
        topology(SITES, links__wan__loss="5%"),
        Ping("p", "h1", "h2", start=10.0),
        Probe("u", "h1", "h2", start=10.0),
        Transfer("t", "h1", "h2", start=10.0, octets=100_000),
        actions=[action(11.0, "rekey_child")],
        duration=30.0,
    )
    for event, expected in fields.items():
        found = events(records, event)
        assert found, event
        assert all(set(record.fields) == expected for record in found), event
