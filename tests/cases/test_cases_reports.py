"""Cases 33 to 38: what users of IPsec have reported, with the datapath taking part."""

import pytest
from collide import LONG, SIDES, connected, held
from faulty import fault, faulty_pair
from nat_box import NatBox
from pair import ADDRESSES, CONNECTION, make_pair
from rekey_schedule import in_clear
from sim_lab import SITES_NAT, events, run, topology

from ipseclab.ike.config import Lifetime
from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.lab.plan import Ping, Transfer
from ipseclab.lab.schedules.explore import Budget, explore
from ipseclab.outputs import SendDatagram
from ipseclab.registry import ExchangeType


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_case_33_rekey_collision_and_one_lost_packet(seed):
    """Any one of them, in every order, with four sets of nonces: both ends hold the same SA with
    the same keys, and a packet passes each way over what is left."""
    found = explore("rekey_child", "rekey_child", seed=seed, budget=Budget(1, 0))
    assert not found.violation, found.story
    assert set(found.ends) <= {"IKE_SA first, CHILD_SA a", "IKE_SA first, CHILD_SA b"}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["rekey_child", "create_child"])
def test_case_34_response_overtaken_by_the_first_packets_on_the_new_sa(side, method):
    pair = connected()
    pair.fate = lambda sent: (
        (0.0005,) if sent.is_ike(ExchangeType.CREATE_CHILD_SA, response=True) else (0.0,)
    )
    for number in range(400):
        if number == 100:
            pair.do(side, method, CONNECTION)
        for end in SIDES:
            pair.send(end, number)
        pair.run(0.0001)
    pair.run(5.0)
    assert [len(set(packets)) for packets in pair.delivered] == [400, 400]
    for gateway in pair.gateways:
        assert gateway.counters["drops.no_sa"] == 0


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("after", [0.0, 0.005, 0.015, 0.025, 0.035])
def test_case_35_link_that_bounces_during_the_rekey_of_the_ike_sa(side, after):
    """Down for a minute from any of the exchange's messages on: the new IKE_SA stays."""
    pair = connected()
    pair.do(side, "rekey_ike", CONNECTION)
    pair.run(after)
    pair.fate = lambda sent: ()
    pair.run(60.0)
    pair.fate = lambda sent: (0.0,)
    pair.run(LONG)
    assert len(pair.events("ike_rekeyed", side)) == 1
    assert not [n for n in pair.events("ike_gone") if n.details["reason"] == "no answer"]
    pair.agreed()


@pytest.mark.parametrize("limit", [{"seconds": 20.0}, {"packets": 30}, {"octets": 3000}])
@pytest.mark.parametrize("deaf", ["", "a", "ab"])
def test_case_36_expiry_without_a_rekey_never_leaves_in_clear(limit, deaf):
    """Also where hard expiry is ignored, and nobody takes the SA away."""
    names = [("ignore_soft_expiry", node) for node in "ab"]
    names += [("ignore_hard_expiry", node) for node in deaf]
    pair = faulty_pair(
        *(fault(do, node) for do, node in names),
        both={"child_lifetime": Lifetime(jitter=0.0, **limit)},
    )
    pair.connect()
    pair.fate = lambda sent: (0.0,) if sent.header is None else ()  # no new SA either
    for number in range(60):
        for side in SIDES:
            pair.send(side, number)
        pair.run(0.5)
    assert not in_clear(pair)
    assert not pair.events("rekey_started")
    assert 0 < len(pair.delivered[1]) < 60
    if "a" in deaf:
        assert pair.a.counters["drops.hard_expired"] > 0


@pytest.mark.parametrize("by", ["check_liveness", "rekey_child", "rekey_ike"])
def test_case_37_data_goes_where_liveness_comes_from(by):
    box = NatBox()
    pair = make_pair(b={"peer_address": None}, translate=box)
    pair.connect()
    box.rebind("203.0.113.10")
    pair.do(0, by, CONNECTION)
    pair.run(1.0)
    packet = pair.send(1, 7)
    sent = pair.sent[-1].item
    assert isinstance(sent, SendDatagram)
    assert sent.path.remote.address == "203.0.113.10"
    pair.run(1.0)
    assert pair.delivered[0] == [packet]
    assert ADDRESSES[0] != sent.path.remote.address


ESP = ["aes128gcm16", "aes256-sha512", "chacha20poly1305"]


@pytest.mark.parametrize("esp", ESP)
def test_case_38_full_size_packets_through_a_nat_are_no_black_hole(esp):
    """The protected side is told an MTU that leaves room for UDP and ESP."""
    assert parse_esp_proposal(esp)
    lab = topology(SITES_NAT, connections__site__esp=esp)
    transfer = Transfer("t", "h1", "h2", start=1.0, octets=300_000)
    records = run(
        lab, transfer, Ping("p", "h1", "h2", start=1.0, count=3, size=1300), duration=20.0
    )
    assert events(records, "transfer_done")[0].fields["octets"] == 300_000
    assert len(events(records, "ping_received")) == 3
    told = events(records, "packet_dropped", reason="too_big")
    assert {record.node for record in told} == {"gw1"}
    assert not events(records, "link_dropped")


def test_case_38_packet_of_the_whole_mtu_is_answered_and_not_lost_in_silence():
    lab = topology(SITES_NAT)
    records = run(lab, Ping("p", "h1", "h2", start=1.0, count=3, size=1472))
    # The first one teaches its sender, which sends the second in fragments; its answer teaches h2.
    for node in ("gw1", "gw2"):
        assert len(events(records, "packet_dropped", reason="too_big", node=node)) == 1
    assert len(events(records, "ping_received")) == 1
    assert not events(records, "link_dropped")


def test_case_35_post_that_loses_the_answer_to_the_delete():
    pair, post = held()
    pair.do(0, "rekey_ike", CONNECTION)
    post.deliver("a CREATE_CHILD_SA request", "b CREATE_CHILD_SA response")
    post.deliver("a INFORMATIONAL request")
    post.take("b INFORMATIONAL response")
    post.open(LONG)
    pair.agreed()
