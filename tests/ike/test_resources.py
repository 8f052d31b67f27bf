"""Several CHILD_SAs with the same selectors (RFC 9611): made by the initiator, flows spread."""

import pytest
from pair import CONNECTION, make_pair

from ipseclab.registry import ExchangeType, IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp


def flows(count):
    source, destination = bytes([10, 1, 0, 2]), bytes([10, 2, 0, 2])
    for port in range(5000, 5000 + count):
        datagram = build_udp(source, port, destination, 4001, b"data")
        yield build_ipv4(source, destination, IpProtocol.UDP, datagram)


def resources(pair, side):
    return sorted(child.resource for child in pair.gateways[side].ike.child_sas)


def test_initiator_makes_as_many_as_both_want():
    pair = make_pair(both={"resources": 4})
    pair.connect()
    assert resources(pair, 0) == resources(pair, 1) == [0, 1, 2, 3]
    assert pair.spis(0) == pair.spis(1)
    assert len({(c.own_ts, c.peer_ts) for c in pair.a.ike.child_sas}) == 1


def test_each_flow_stays_on_its_sa_and_all_sas_are_used():
    pair = make_pair(both={"resources": 4})
    pair.connect()
    packets = list(flows(64))
    for _ in range(2):
        for packet in packets:
            pair.do(0, "send_packet", packet)
    pair.run(1.0)
    assert sorted(pair.delivered[1]) == sorted(packets * 2)
    counts = [entry.outbound.packets for entry in pair.a.datapath.sad]
    assert sum(counts) == 128
    assert all(count and count % 2 == 0 for count in counts)


def test_responder_that_wants_fewer_says_so_and_is_asked_no_further():
    pair = make_pair(a={"resources": 8}, b={"resources": 3})
    pair.connect()
    assert resources(pair, 0) == resources(pair, 1) == [0, 1, 2]
    refused = [n.details["reason"] for n in pair.events("create_refused", 0)]
    assert refused == ["TS_MAX_QUEUE"]


@pytest.mark.rfc("7296", "2.21.2", "MUST NOT", "new-errors")
@pytest.mark.parametrize("able", [0, 1])
def test_peer_that_does_not_know_it_gets_one_sa(able):
    pair = make_pair(**{"ab"[able]: {"resources": 4}})
    pair.connect()
    pair.agreed()
    assert not [s for s in pair.sent if s.is_ike(ExchangeType.CREATE_CHILD_SA)]


@pytest.mark.parametrize("side", [0, 1])
def test_rekeyed_sas_keep_their_numbers_and_lose_nothing(side):
    pair = make_pair(both={"resources": 3})
    pair.connect()
    old = pair.spis(0)
    packets = list(flows(30))
    for number, packet in enumerate(packets):
        pair.do(0, "send_packet", packet)
        if number == 10:
            pair.do(side, "rekey_child", CONNECTION)
        pair.run(0.005)
    pair.run(20.0)
    assert pair.delivered[1] == packets
    assert resources(pair, 0) == resources(pair, 1) == [0, 1, 2]
    assert pair.spis(0) == pair.spis(1)
    assert not pair.spis(0) & old
