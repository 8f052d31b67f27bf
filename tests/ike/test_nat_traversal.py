"""NATs: found, floated over to port 4500, kept open, followed when they rebind (section 2.23)."""

import pytest
from forge import forge, ike_sa, path_to, receive
from nat_box import NAT_ADDRESS, NatBox
from pair import ADDRESSES, CONNECTION, Mode, make_pair
from transcript import ike_messages

from ipseclab.ike.config import Retransmission
from ipseclab.outputs import SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType
from ipseclab.wire.ip import build_ipv4, build_udp, checksum, flow_of
from ipseclab.wire.selector import TrafficSelector

ANYWHERE = {"peer_address": None}


def natted(**options):
    """a is behind a NAT, b takes it from anywhere; connected."""
    box = NatBox()
    b = {**ANYWHERE, **options.pop("b", {})}
    pair = make_pair(b=b, translate=box, **options)
    pair.connect()
    return pair, box


def host(address):
    return (TrafficSelector.of_network(f"{address}/32"),)


def test_without_a_nat_esp_goes_as_protocol_50_and_ike_stays_on_port_500():
    pair = make_pair()
    pair.connect()
    pair.send(0)
    assert isinstance(pair.sent[-1].item, SendPacket)
    assert {s.item.path.local.port for s in ike_messages(pair)} == {500}
    assert not ike_sa(pair, 0).encapsulated
    assert not ike_sa(pair, 1).encapsulated


@pytest.mark.rfc("7296", "2.23", "MUST", "ike-ports")
@pytest.mark.rfc("7296", "2.23", "MUST", "float")
@pytest.mark.rfc("7296", "2.23", "MUST", "initiator-checks")
@pytest.mark.rfc("7296", "2", "MUST", "four-zeros")
@pytest.mark.rfc("7296", "2.11", "MUST", "any-port")
@pytest.mark.rfc("3948", "2.2", "MUST", "non-esp-marker")
def test_nat_is_found_by_both_ends_and_the_initiator_floats_to_4500():
    pair, _box = natted()
    a, b = ike_sa(pair, 0), ike_sa(pair, 1)
    assert (a.own_behind_nat, a.peer_behind_nat) == (True, False)
    assert (b.own_behind_nat, b.peer_behind_nat) == (False, True)
    ports = [s.item.path.local.port for s in ike_messages(pair)]
    assert ports == [500, 500, 4500, 4500]
    marked = [s.item.data[:4] for s in ike_messages(pair)[2:]]
    assert marked == [bytes(4)] * 2
    assert b.path.remote == UdpEndpoint(NAT_ADDRESS, 40_002)
    pair.agreed()


@pytest.mark.rfc("7296", "2.23", "MUST NOT", "esp-500")
@pytest.mark.rfc("7296", "2.23", "MUST", "udp-behind-nat")
@pytest.mark.rfc("3948", "2.1", "MUST", "ike-ports")
def test_esp_behind_a_nat_goes_in_udp_both_ways():
    pair, _box = natted()
    start = len(pair.sent)
    for side in (0, 1):
        packet = pair.send(side)
        pair.run(0.1)
        assert pair.delivered[1 - side] == [packet]
    assert all(isinstance(s.item, SendDatagram) for s in pair.sent[start:])
    assert all(s.item.path.local.port == 4500 for s in pair.sent[start:])


@pytest.mark.rfc("7296", "2.23", "MUST", "float")
def test_responder_behind_a_nat():
    box = NatBox(inside=1, address=ADDRESSES[1], ports={500: 500, 4500: 4500})
    inner = "192.168.9.9"

    def translate(sender, path):
        seen = box(sender, path)
        if sender == 0:  # a static mapping: same ports, another address
            return UdpPath(UdpEndpoint(inner, path.remote.port), path.local)
        return seen

    pair = make_pair(b={"own_address": inner}, translate=translate)
    pair.connect()
    assert ike_sa(pair, 0).peer_behind_nat
    assert ike_sa(pair, 1).own_behind_nat
    assert {s.item.path.local.port for s in ike_messages(pair)[2:]} == {4500}
    packet = pair.send(0)
    pair.run(0.1)
    assert pair.delivered[1] == [packet]


def test_forced_encapsulation_looks_like_a_nat_to_the_peer():
    pair = make_pair(a={"force_encapsulation": True})
    pair.connect()
    assert ike_sa(pair, 0).encapsulated
    assert ike_sa(pair, 1).encapsulated
    pair.send(0)
    assert isinstance(pair.sent[-1].item, SendDatagram)
    pair.run(1.0)
    pair.agreed()


@pytest.mark.parametrize("without", [0, 1], ids=["initiator", "responder"])
def test_an_end_without_nat_traversal_keeps_esp_out_of_udp_at_both(without):
    pair, _box = natted(**{"ab"[without]: {"nat_traversal": False}})
    assert [ike_sa(pair, end).encapsulated for end in (0, 1)] == [False, False]
    assert {s.item.path.local.port for s in ike_messages(pair)} == {500}
    pair.send(0)
    assert isinstance(pair.sent[-1].item, SendPacket)


@pytest.mark.rfc("3948", "2.3", "MUST", "one-octet")
@pytest.mark.rfc("3948", "4", "SHOULD", "keepalive-sent")
@pytest.mark.rfc("7296", "2.23", "SHOULD", "keepalive")
def test_keepalive_after_silence_and_only_from_behind_the_nat():
    pair, _box = natted(both={"keepalive": 20.0})
    start = pair.now
    pair.run(100.0)
    keepalives = [
        s for s in pair.sent if isinstance(s.item, SendDatagram) and s.item.data == b"\xff"
    ]
    assert {s.sender for s in keepalives} == {0}
    assert [s.at for s in keepalives] == pytest.approx([0.04 + 20.0 * i for i in range(1, 6)])
    assert pair.events("keepalive_received", 1)
    assert start < keepalives[0].at
    pair.agreed()


@pytest.mark.rfc("3948", "4", "SHOULD", "keepalive-sent")
def test_traffic_makes_keepalives_needless():
    pair, _box = natted(both={"keepalive": 20.0})
    for number in range(20):
        pair.send(0, number)
        pair.run(5.0)
    assert not pair.events("keepalive_sent")
    pair.run(20.0)
    assert len(pair.events("keepalive_sent", 0)) == 1


def test_keepalives_switched_off():
    pair, _box = natted(both={"keepalive": None})
    pair.run(200.0)
    assert not pair.events("keepalive_sent")


def test_keepalive_goes_on_after_a_rekey_of_the_ike_sa():
    pair, _box = natted(both={"keepalive": 20.0})
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    pair.notices.clear()
    pair.run(50.0)
    assert {side for _, side, n in pair.notices if n.event == "keepalive_sent"} == {0}


@pytest.mark.rfc("7296", "2.23", "SHOULD", "follow")
def test_rebinding_is_followed_from_esp_and_traffic_goes_on_without_a_handshake():
    pair, box = natted()
    pair.run(1.0)
    box.rebind()
    start = len(pair.sent)
    lost = pair.send(1)  # to the old mapping
    pair.run(0.1)
    assert lost not in pair.delivered[0]
    pair.send(0)
    pair.run(0.1)
    assert len(pair.delivered[1]) == 1
    back = pair.send(1, 7)
    pair.run(0.1)
    assert pair.delivered[0] == [back]
    assert not [s for s in pair.sent[start:] if s.header is not None]
    (moved,) = pair.events("peer_moved", 1)
    assert moved.details["new"] == f"{NAT_ADDRESS}:40003"


@pytest.mark.rfc("7296", "2.23", "SHOULD", "follow")
def test_rebinding_is_followed_from_ike_and_data_goes_there_too():
    """Case 37: a liveness check that passes must not leave the data at the old address."""
    pair, box = natted()
    box.rebind("203.0.113.77")
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(0.1)
    assert ike_sa(pair, 1).path.remote.address == "203.0.113.77"
    packet = pair.send(1)
    pair.run(0.1)
    assert pair.delivered[0] == [packet]
    pair.agreed()


def test_request_under_way_is_sent_again_to_the_new_address():
    pair, box = natted()
    box.rebind()
    pair.do(1, "check_liveness", CONNECTION)  # to the old mapping, so lost
    pair.run(1.0)
    pair.send(0)
    pair.run(10.0)
    assert pair.events("liveness_confirmed", 1)


def test_copy_of_a_packet_from_elsewhere_is_not_followed():
    pair, _box = natted()
    pair.send(0)
    copied = pair.sent[-1]
    pair.run(0.1)
    before = ike_sa(pair, 1).path
    attacker = UdpPath(UdpEndpoint(ADDRESSES[1], 4500), UdpEndpoint("203.0.113.66", 4500))
    pair.do(1, "receive_datagram", attacker, copied.item.data)
    assert ike_sa(pair, 1).path == before
    assert not pair.events("peer_moved")
    assert pair.b.counters["drops.replayed"] == 1


def test_older_packet_that_comes_late_from_elsewhere_is_not_followed():
    pair, _box = natted()
    held = []

    def hold_first(sent):
        if not held:
            held.append(sent)
            return ()
        return (0.0,)

    pair.fate = hold_first
    pair.send(0, 1)
    pair.send(0, 2)
    pair.run(0.1)
    attacker = UdpPath(UdpEndpoint(ADDRESSES[1], 4500), UdpEndpoint("203.0.113.66", 4500))
    pair.do(1, "receive_datagram", attacker, held[0].item.data)
    assert len(pair.delivered[1]) == 2  # it is a good packet all the same
    assert not pair.events("peer_moved")


@pytest.mark.rfc("7296", "2.23", "MUST", "any-port")
@pytest.mark.rfc("7296", "2.11", "MUST", "answer-where-from")
def test_repeated_ike_request_from_elsewhere_is_answered_there_but_not_followed():
    pair, _box = natted()
    pair.do(0, "check_liveness", CONNECTION)
    request = pair.sent[-1]
    pair.run(0.1)
    before = ike_sa(pair, 1).path
    source = UdpEndpoint("203.0.113.66", 4500)
    (answer,) = receive(pair, 1, request.item.data, path_to(1, source=source, port=4500))
    assert answer.item.path.remote == source
    assert ike_sa(pair, 1).path == before


@pytest.mark.rfc("7296", "1.2", "MUST", "verify")
def test_tampered_message_from_elsewhere_is_not_followed():
    pair, _box = natted()
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL)
    bad = bytes(4) + octets[:-1] + bytes([octets[-1] ^ 1])
    source = UdpEndpoint("203.0.113.66", 4500)
    before = ike_sa(pair, 1).path
    assert receive(pair, 1, bad, path_to(1, source=source, port=4500)) == []
    assert ike_sa(pair, 1).path == before
    assert pair.b.counters["ike.bad_icv"] == 1


def test_peer_that_is_not_behind_a_nat_is_not_followed():
    pair = make_pair()
    pair.connect()
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL)
    source = UdpEndpoint("203.0.113.66", 500)
    (answer,) = receive(pair, 1, octets, path_to(1, source=source))
    assert answer.item.path.remote == source
    assert ike_sa(pair, 1).path.remote.address == ADDRESSES[0]


def test_rekeys_of_both_kinds_by_both_ends_behind_a_nat():
    pair, _box = natted()
    for side in (0, 1):
        for what in ("rekey_child", "rekey_ike"):
            pair.do(side, what, CONNECTION)
            pair.run(1.0)
    assert ike_sa(pair, 0).own_behind_nat
    assert ike_sa(pair, 1).peer_behind_nat
    pair.agreed()


@pytest.mark.rfc("3948", "3.1.2", "MUST", "transport-checksum")
@pytest.mark.parametrize("payload", [b"", b"odd", b"payload of even size"])
def test_transport_mode_behind_a_nat_delivers_packets_with_right_checksums(payload):
    a = {"mode": Mode.TRANSPORT, "own_ts": host(ADDRESSES[0]), "peer_ts": host(ADDRESSES[1])}
    b = {
        "mode": Mode.TRANSPORT,
        "own_ts": host(ADDRESSES[1]),
        "peer_ts": (TrafficSelector.of_network("0.0.0.0/0"),),
    }
    pair, _box = natted(a=a, b=b)
    inner, outer, server = (
        bytes(map(int, address.split("."))) for address in (ADDRESSES[0], NAT_ADDRESS, ADDRESSES[1])
    )
    # What each sends as it sees the world, and what the other must be given in its own.
    there = build_ipv4(inner, server, 17, build_udp(inner, 4000, server, 4001, payload))
    pair.do(0, "send_packet", there)
    pair.run(0.1)
    back = build_ipv4(server, outer, 17, build_udp(server, 4001, outer, 4000, payload))
    pair.do(1, "send_packet", back)
    pair.run(0.1)
    for side, ends in ((1, (outer, server)), (0, (server, inner))):
        (packet,) = pair.delivered[side]
        flow = flow_of(packet)
        assert (flow.source, flow.destination) == ends
        assert packet[28:] == payload
        assert_checksums_hold(packet)


def assert_checksums_hold(packet):
    """RFC 768: 0 is "none", which RFC 3948 section 3.1.2 allows after decapsulation."""
    assert checksum(packet[:20]) == 0
    if packet[26:28] != bytes(2):
        pseudo = packet[12:20] + bytes([0, 17]) + packet[24:26]
        assert checksum(pseudo + packet[20:]) == 0


@pytest.mark.rfc("7296", "2.23", "MUST", "transport-one-address")
@pytest.mark.rfc("7296", "2.23.1", "MUST", "one-address")
@pytest.mark.rfc("7296", "2.23.1", "MUST", "source-address")
@pytest.mark.rfc("7296", "2.23.1", "MUST", "destination-address")
def test_transport_mode_selectors_are_answered_with_the_addresses_the_responder_sees():
    """Section 2.23.1: the client then puts its own in their place."""
    a = {"mode": Mode.TRANSPORT, "own_ts": host(ADDRESSES[0]), "peer_ts": host(ADDRESSES[1])}
    b = {"mode": Mode.TRANSPORT, "own_ts": host(ADDRESSES[1]), "peer_ts": host(ADDRESSES[0])}
    pair, _box = natted(a=a, b=b)
    (client,), (server,) = pair.a.ike.child_sas, pair.b.ike.child_sas
    assert (client.own_ts, client.peer_ts) == (host(ADDRESSES[0]), host(ADDRESSES[1]))
    assert (server.own_ts, server.peer_ts) == (host(ADDRESSES[1]), host(NAT_ADDRESS))


def test_rebinding_behind_a_double_nat_is_followed_too():
    """Section 2.23 would have a responder behind a NAT follow nobody; see `follow`."""
    client, inner = NatBox(), "192.168.9.9"

    def translate(sender, path):
        seen = client(sender, path)
        if sender == 0 and seen is not None:  # b's NAT maps each port to the same
            seen = UdpPath(UdpEndpoint(inner, seen.local.port), seen.remote)
        if sender == 1 and seen is not None:
            seen = UdpPath(seen.local, UdpEndpoint(ADDRESSES[1], seen.remote.port))
        return seen

    pair = make_pair(b={**ANYWHERE, "own_address": inner}, translate=translate)
    pair.connect()
    for side in (0, 1):
        sa = ike_sa(pair, side)
        assert sa.own_behind_nat
        assert sa.peer_behind_nat
    client.rebind()
    pair.send(0)
    pair.run(0.1)
    packet = pair.send(1)
    pair.run(0.1)
    assert pair.delivered[0] == [packet]


@pytest.mark.rfc("3948", "4", "MUST NOT", "keepalive-is-no-liveness")
def test_keepalives_are_no_sign_of_life():
    dying = Retransmission(timeout=1.0, base=1.0, tries=2)
    pair, _box = natted(
        a={"keepalive": 5.0}, b={"liveness": 20.0, "retransmission": dying, "keepalive": None}
    )
    # From now on only keepalives get through: the other end must find the peer dead all the same.
    pair.fate = lambda sent: (0.0,) if sent.header is None else ()
    pair.run(30.0)
    assert pair.events("keepalive_received", 1)
    assert not pair.b.ike.ike_sas
