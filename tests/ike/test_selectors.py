"""Which packets a CHILD_SA carries: offered, narrowed and granted; RFC 7296 section 2.9."""

import pytest
from forge import forge, receive
from hypothesis import given
from hypothesis import strategies as st
from pair import CONNECTION, NETWORKS, make_pair
from post import Post
from transcript import ike_messages, opened, transcript

from ipseclab.errors import SinglePairRequired, TsUnacceptable
from ipseclab.ike.config import Childless, Mode, Narrowing
from ipseclab.ike.selectors import Trigger, grant, narrow
from ipseclab.registry import ExchangeType
from ipseclab.wire.ip import Flow, build_ipv4, build_udp
from ipseclab.wire.payloads import TsiPayload, TsrPayload
from ipseclab.wire.selector import TrafficSelector

TCP, UDP, ICMP, GRE = 6, 17, 1, 47
OWN, PEER = bytes([10, 1, 0, 2]), bytes([10, 2, 0, 2])
NET_1, NET_2 = ((TrafficSelector.of_network(network),) for network in NETWORKS)


def one(address, protocol=0, ports=(0, 0xFFFF)):
    return TrafficSelector.of_address(address, protocol, ports)


def udp_flow(source_port=4000, destination_port=4001):
    return Flow(OWN, PEER, UDP, source_port, destination_port)


@pytest.mark.rfc("7296", "3.13.1", "MUST", "start-any")
@pytest.mark.rfc("7296", "3.13.1", "MUST", "end-any")
@pytest.mark.parametrize(
    ("flow", "own", "peer"),
    [
        (udp_flow(), one(OWN, UDP, (4000, 4000)), one(PEER, UDP, (4001, 4001))),
        (
            Flow(OWN, PEER, ICMP, 0x800, 0),
            one(OWN, ICMP, (0x800, 0x800)),
            one(PEER, ICMP, (0x800, 0x800)),
        ),
        (Flow(OWN, PEER, GRE, 0, 0), one(OWN, GRE), one(PEER, GRE)),
        (Flow(OWN, PEER, UDP, 0, 0), one(OWN, UDP), one(PEER, UDP)),
    ],
    ids=["udp", "icmp", "no ports", "later fragment"],
)
def test_the_packet_s_own_selectors(flow, own, peer):
    trigger = Trigger.of(flow)
    assert (trigger.own, trigger.peer) == (own, peer)
    assert trigger.is_carried_by(NET_1, NET_2)
    assert not trigger.is_carried_by(NET_2, NET_1)


def first_named(trigger):
    return (trigger.own, *NET_1), (trigger.peer, *NET_2)


def test_all_of_the_policy_is_granted_once_however_often_it_was_named():
    granted = grant(first_named(Trigger.of(udp_flow())), (NET_1, NET_2), Narrowing.POLICY)
    assert (granted.own_ts, granted.peer_ts, granted.more) == (NET_1, NET_2, False)


@pytest.mark.rfc("7296", "2.9", "MUST", "keep-first")
def test_only_the_packet_is_granted_and_more_is_possible():
    trigger = Trigger.of(udp_flow())
    granted = grant(first_named(trigger), (NET_1, NET_2), Narrowing.PACKET)
    assert (granted.own_ts, granted.peer_ts) == ((trigger.own,), (trigger.peer,))
    assert granted.more
    assert grant((NET_1, NET_2), (NET_1, NET_2), Narrowing.PACKET).own_ts == NET_1


@pytest.mark.rfc("7296", "2.9", "SHOULD", "narrow-first")
def test_only_a_pair_of_addresses_is_granted():
    trigger = Trigger.of(udp_flow())
    granted = grant(first_named(trigger), (NET_1, NET_2), Narrowing.PAIR)
    assert (granted.own_ts, granted.peer_ts) == ((one(OWN),), (one(PEER),))
    assert granted.more
    assert not grant(trigger.offered(), (NET_1, NET_2), Narrowing.PAIR).more
    with pytest.raises(SinglePairRequired):
        grant((NET_1, NET_2), (NET_1, NET_2), Narrowing.PAIR)


def test_a_packet_that_the_policy_does_not_allow_is_not_granted():
    outside = Trigger.of(Flow(bytes([192, 0, 2, 1]), PEER, UDP, 1, 1))
    for narrowing in (Narrowing.PACKET, Narrowing.PAIR):
        with pytest.raises(TsUnacceptable):
            grant(first_named(outside), (NET_1, NET_2), narrowing)


@st.composite
def selectors(draw):
    start, end = sorted(draw(st.integers(0, 8)) for _ in range(2))
    ports = sorted(draw(st.sampled_from([0, 80, 443, 0xFFFF])) for _ in range(2))
    protocol = draw(st.sampled_from([0, TCP, UDP]))
    kind = NET_1[0].ts_type
    return TrafficSelector(kind, protocol, *ports, bytes([10, 0, 0, start]), bytes([10, 0, 0, end]))


LISTS = st.lists(selectors(), min_size=1, max_size=3).map(tuple)


@pytest.mark.rfc("7296", "2.9", "MUST", "keep-first")
@given(LISTS, LISTS, st.integers(0, 9), st.sampled_from([TCP, UDP]), st.sampled_from([79, 80, 443]))
def test_narrowing_grants_what_both_match_and_nothing_else(offered, allowed, host, protocol, port):
    packet = bytes([10, 0, 0, host]), protocol, port
    both = all(any(ts.contains(*packet) for ts in side) for side in (offered, allowed))
    try:
        granted = narrow(offered, allowed)
    except TsUnacceptable:
        granted = ()
    assert any(ts.contains(*packet) for ts in granted) == both


# Two endpoints.


def packet(host, port=4001):
    source, destination = bytes([10, 1, 0, host]), bytes([10, 2, 0, host])
    return build_ipv4(source, destination, UDP, build_udp(source, 4000, destination, port, b"x"))


def send(pair, side, octets):
    pair.do(side, "send_packet", octets)
    pair.run(0.5)
    assert pair.delivered[1 - side][-1:] == [octets]


@pytest.mark.rfc("7296", "2.9", "SHOULD", "packet-first")
def test_first_packet_names_its_flow_first_and_gets_the_whole_policy():
    pair = make_pair()
    send(pair, 0, packet(2))
    assert [(c.own_ts, c.peer_ts) for c in pair.a.ike.child_sas] == [(NET_1, NET_2)]
    trigger = Trigger.of(udp_flow())
    request = next(s for s in ike_messages(pair) if s.is_ike(ExchangeType.IKE_AUTH))
    _, payloads = opened(pair, request)
    assert [p.selectors for p in payloads if isinstance(p, TsiPayload | TsrPayload)] == [
        (trigger.own, *NET_1),
        (trigger.peer, *NET_2),
    ]
    pair.agreed()


@pytest.mark.rfc("7296", "2.9", "MAY", "more-is-possible")
@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_each_flow_gets_its_own_sa_when_the_responder_wants_it_so(mode):
    pair = make_pair(both={"mode": mode}, b={"narrowing": Narrowing.PACKET})
    for number, port in enumerate((4001, 4002, 4003), 1):
        send(pair, 0, packet(2, port))
        assert len(pair.spis(0)) == number
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.ike_spis(0)) == 1
    ports = [child.peer_ts[0].ports for child in pair.a.ike.child_sas]
    assert ports == [(4001, 4001), (4002, 4002), (4003, 4003)]
    if mode is Mode.TUNNEL:
        assert any("ADDITIONAL_TS_POSSIBLE" in line for line in transcript(pair))
    send(pair, 0, packet(2, 4001))
    assert len(pair.spis(0)) == 3


def test_packets_of_several_flows_that_wait_all_get_their_sa():
    pair = make_pair(b={"narrowing": Narrowing.PACKET})
    waiting = [packet(host) for host in (2, 3, 4, 5)]
    for octets in waiting:
        pair.do(0, "send_packet", octets)
    pair.run(1.0)
    assert pair.delivered[1] == waiting
    assert len(pair.spis(0)) == 4


@pytest.mark.rfc("7296", "2.8", "SHOULD NOT", "other-selectors")
@pytest.mark.rfc("7296", "2.9.2", "SHOULD", "rekey-same-selectors")
def test_rekeyed_sa_keeps_what_it_was_narrowed_to():
    pair = make_pair(b={"narrowing": Narrowing.PACKET})
    send(pair, 0, packet(2))
    before = [(c.own_ts, c.peer_ts) for c in pair.a.ike.child_sas]
    for side in (0, 1):
        pair.do(side, "rekey_child", CONNECTION)
        pair.run(1.0)
        assert [(c.own_ts, c.peer_ts) for c in pair.a.ike.child_sas] == before
    pair.run(10.0)
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.spis(0)) == 1
    send(pair, 0, packet(2))


@pytest.mark.rfc("7296", "2.9.2", "SHOULD NOT", "rekey-packet")
def test_a_rekey_asks_for_the_old_selectors_and_no_packets():
    pair = make_pair()
    send(pair, 0, packet(2))
    start = len(pair.sent)
    pair.do(0, "rekey_child", CONNECTION)
    _, payloads = opened(pair, pair.sent[start])
    asked = [p.selectors for p in payloads if isinstance(p, TsiPayload | TsrPayload)]
    assert asked == [NET_1, NET_2]


@pytest.mark.rfc("7296", "2.9.2", "MUST NOT", "rekey-narrower")
@pytest.mark.parametrize("narrowing", Narrowing)
def test_a_rekey_is_granted_no_less_whatever_is_named_first(narrowing):
    """Section 2.9.2, with a peer that names a packet first in a rekey too, and more than it has."""
    pair = make_pair(both={"childless": Childless.NEVER}, b={"narrowing": narrowing})
    if narrowing is Narrowing.PAIR:
        send(pair, 0, packet(2))
    else:
        pair.connect()
    before = [(c.own_ts, c.peer_ts) for c in pair.b.ike.child_sas]
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    sent = post.take("a CREATE_CHILD_SA request")
    trigger = Trigger.of(udp_flow())
    named = {TsiPayload: (trigger.own, *NET_1), TsrPayload: (trigger.peer, *NET_2)}
    payloads = [type(p)(named[type(p)]) if type(p) in named else p for p in opened(pair, sent)[1]]
    number = sent.header.message_id
    receive(pair, 1, forge(pair, 0, ExchangeType.CREATE_CHILD_SA, *payloads, message_id=number))
    old, new = pair.b.ike.child_sas
    assert [(old.own_ts, old.peer_ts)] == [(new.own_ts, new.peer_ts)] == before


def test_single_pair_is_asked_for_when_the_peer_requires_it():
    pair = make_pair(b={"narrowing": Narrowing.PAIR})
    pair.connect()
    assert not pair.spis(0)
    assert [n.details["reason"] for n in pair.events("child_failed", 0)] == ["SINGLE_PAIR_REQUIRED"]
    send(pair, 0, packet(2, 4001))
    send(pair, 0, packet(2, 4002))
    assert len(pair.spis(0)) == 1
    send(pair, 0, packet(3))
    assert len(pair.spis(0)) == 2
    assert len(pair.ike_spis(0)) == 1


def test_peer_that_ignores_the_packet_named_first_does_not_fill_the_tables():
    small = (TrafficSelector.of_network("10.2.0.0/28"),)
    pair = make_pair(b={"own_ts": small})
    pair.connect()
    lost = packet(200)
    for _ in range(20):
        pair.do(0, "send_packet", lost)
        pair.run(1.1)
    assert pair.delivered[1] == []
    pair.run(30.0)
    assert len(pair.spis(0)) == len(pair.spis(1)) == 1
    creates = [s for s in pair.sent if s.is_ike(ExchangeType.CREATE_CHILD_SA, response=False)]
    assert 0 < len(creates) <= 20
