"""ESP in TCP in simulated labs: real segments on the links, loss, NATs, links that go down."""

from __future__ import annotations

from sim_lab import SITES_NAT, events, run, topology

from ipseclab.lab.plan import Action, Ping, Probe, Transfer

TCP = {"connections__0__encapsulation": "tcp"}
PING = Ping("ping", "h1", "h2", start=1.0, interval=0.1, count=50)


def test_ike_and_pings_go_in_tcp():
    records = run(topology(**TCP), PING, duration=7.0)
    assert len(events(records, "ping_received")) == 50
    assert {r.fields["transport"] for r in events(records, "ike_sent")} == {"tcp"}
    (opened,) = events(records, "stream_opened")
    assert opened.node == "gw1"
    assert opened.t >= 0.04  # one round trip, before anything of IKE


def test_loss_delays_and_nothing_is_lost_inside():
    records = run(topology(links__wan__loss=0.1, **TCP), PING, duration=40.0, seed=5)
    assert events(records, "link_dropped")
    received = events(records, "ping_received")
    assert len(received) == 50
    assert max(r.fields["rtt"] for r in received) > 0.2  # TCP waits, and all behind it
    assert not events(records, "ike_sent", retransmission=1)


def test_transfer_in_tcp_in_tcp_fills_the_link():
    transfer = Transfer("bulk", "h1", "h2", start=1.0, octets=2_000_000)
    records = run(topology(links__wan__rate="10Mbit/s", **TCP), transfer, duration=10.0)
    (done,) = events(records, "transfer_done")
    assert done.fields["octets"] == 2_000_000
    goodput = 8 * 2_000_000 / (done.t - 1.0)
    assert 8e6 < goodput < 9.6e6


def test_blocked_stream_drops_and_counts():
    probe = Probe("probe", "h1", "h2", start=1.0, duration=2.0, rate=500.0, size=1000)
    records = run(topology(links__wan__rate="1Mbit/s", **TCP), probe, duration=10.0)
    assert events(records, "packet_dropped", reason="stream_full", node="gw1")
    dropped = len(events(records, "packet_dropped"))
    assert len(events(records, "probe_received")) == 1000 - dropped


def test_through_a_nat():
    records = run(topology(SITES_NAT, **TCP), PING, duration=7.0)
    assert len(events(records, "ping_received")) == 50
    (accepted,) = events(records, "stream_accepted")
    assert accepted.fields["remote"].startswith("192.0.2.1:")
    assert not events(records, "keepalive_sent")


def test_rebinding_breaks_the_connection_and_the_session_goes_on():
    nats = topology(SITES_NAT, connections__0__liveness="2s", **TCP)
    ping = Ping("ping", "h1", "h2", start=1.0, interval=0.5, count=240)
    rebind = Action(10.0, "nat_rebind", node="nat1", arguments={"address": "192.0.2.7"})
    records = run(nats, ping, actions=[rebind], duration=125.0)
    assert len(events(records, "ike_established")) == 2
    accepted = events(records, "stream_accepted")
    assert [r.fields["remote"].split(":")[0] for r in accepted] == ["192.0.2.1", "192.0.2.7"]
    assert events(records, "ping_received", sequence=239)


def test_same_seed_same_trace():
    lab = topology(links__wan__loss=0.05, **TCP)
    assert run(lab, PING, seed=9) == run(lab, PING, seed=9)
    assert run(lab, PING, seed=9) != run(lab, PING, seed=8)
