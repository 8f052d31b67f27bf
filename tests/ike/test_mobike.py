"""MOBIKE: addresses lost, added and changed, checks of the new ones, NATs on the way (RFC 4555)."""

import random

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, Mode, make_pair
from roaming import (
    CAFE,
    HOME,
    OFFICE,
    QUICK,
    SECOND,
    STATIONARY,
    addresses_of,
    connected,
    esp_ways,
    notifies,
    roaming,
    since,
)
from transcript import ike_messages, opened, transcript

from ipseclab.ike.config import Retransmission
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.outputs import SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.payloads import NotifyPayload

INFORMATIONAL = ExchangeType.INFORMATIONAL

# --- what the ends say in IKE_AUTH ----------------------------------------------------------------


@pytest.mark.rfc("4555", "3.2", "MUST", "mobike-supported")
@pytest.mark.rfc("4555", "4.2.1", "MUST", "sent-empty")
def test_mobike_supported_is_said_in_ike_auth_and_empty():
    net = connected(a=STATIONARY)
    request, response = ike_messages(net.pair)[2:4]
    assert notifies(net.pair, request)[NotifyType.MOBIKE_SUPPORTED] == b""
    assert notifies(net.pair, response)[NotifyType.MOBIKE_SUPPORTED] == b""
    assert NotifyType.ADDITIONAL_IP4_ADDRESS in notifies(net.pair, request)
    assert ike_sa(net.pair, 1).mobility.peer_addresses == (HOME, CAFE)


def test_one_end_without_mobike_leaves_both_without():
    pair = make_pair(a={"mobike": Mobike()})
    pair.connect()
    assert [ike_sa(pair, side).mobility for side in (0, 1)] == [None, None]
    pair.do(0, "change_addresses", (CAFE,))
    pair.run(1.0)
    assert ike_sa(pair, 0).path.local.address == HOME


def test_transport_mode_stays_where_it_is():
    transport = {"mode": Mode.TRANSPORT, "mobike": Mobike()}
    pair = make_pair(both=transport)
    pair.connect()
    assert ike_sa(pair, 0).mobility is None


@pytest.mark.rfc("4555", "3.3", "MUST", "port-4500")
def test_ike_goes_to_port_4500_without_a_nat_and_esp_stays_out_of_udp():
    net = connected()
    ports = [sent.item.path.remote.port for sent in ike_messages(net.pair)]
    assert ports == [500, 500, 4500, 4500]
    assert isinstance(net.pair.sent[-1].item, SendPacket)


@pytest.mark.rfc("4555", "3.1", "SHOULD", "combinations")
def test_the_initiator_looks_for_the_peer_at_all_its_addresses():
    net = roaming(a=Mobike(peer=(SECOND,)), b=Mobike(own=(SECOND,)), both=QUICK)
    net.cut_way(HOME, OFFICE)
    net.pair.connect()
    net.pair.run(3.0)
    assert ike_sa(net.pair, 0).path.remote.address == SECOND
    assert not ike_sa(net.pair, 0).encapsulated
    net.works()


# --- addresses change -----------------------------------------------------------------------------


def test_initiator_that_loses_its_address_takes_the_next_and_traffic_follows():
    net = connected(a=STATIONARY)
    first = len(net.pair.sent)
    net.change(0, CAFE)
    net.pair.run(1.0)
    update = "a --> INFORMATIONAL: SK {N(UPDATE_SA_ADDRESSES), N(NO_ADDITIONAL_ADDRESSES), "
    assert since(net, first)[:2] == [
        update + "N(COOKIE2)}",
        "b <-- INFORMATIONAL: SK {N(COOKIE2)}",
    ]
    first = len(net.pair.sent)
    net.works()
    assert esp_ways(net.pair, first) == [(CAFE, OFFICE), (OFFICE, CAFE)]


@pytest.mark.rfc("4555", "3.7", "SHOULD", "performed")
@pytest.mark.rfc("4555", "3.7", "SHOULD", "before-update")
def test_responder_sends_esp_to_a_new_address_only_when_it_has_answered():
    net = connected(a=STATIONARY)
    held = []

    def no_check(sent):
        if sent.sender == 1 and sent.is_ike(INFORMATIONAL, response=False):
            held.append(sent)
            return ()
        return net.fate(sent)

    net.pair.fate = no_check
    net.change(0, CAFE)
    net.pair.run(0.5)
    assert NotifyType.COOKIE2 in notifies(net.pair, held[0])
    first = len(net.pair.sent)
    net.pair.send(1)
    net.pair.run(0.1)
    assert esp_ways(net.pair, first) == [(OFFICE, HOME)]
    net.pair.fate = net.fate
    net.pair.run(10.0)
    assert ike_sa(net.pair, 1).mobility.proven == CAFE
    net.works()


def test_without_the_check_esp_follows_at_once():
    trusting = Mobike(return_routability=False)
    net = connected(a=STATIONARY, b=trusting)
    first = len(net.pair.sent)
    net.change(0, CAFE)
    net.pair.run(0.5)
    assert len(since(net, first)) == 2
    net.works()


def test_initiator_checks_an_address_of_the_responder_before_it_sends_esp_there():
    net = connected(b=Mobike(own=(SECOND,)))
    net.cut_way(HOME, OFFICE)
    net.pair.fate = lambda sent: () if sent.sender == 1 and sent.header else net.fate(sent)
    first = len(net.pair.sent)
    net.pair.do(0, "check_liveness", CONNECTION)
    net.pair.run(20.0)
    net.pair.send(0)
    assert set(esp_ways(net.pair, first)) == {(HOME, OFFICE)}
    net.pair.fate = net.fate
    net.pair.run(60.0)
    assert ike_sa(net.pair, 0).path.remote.address == SECOND
    net.works()


def test_a_better_address_is_tested_and_then_taken():
    net = connected()
    first = len(net.pair.sent)
    net.change(0, CAFE, HOME)
    net.pair.run(1.0)
    assert since(net, first)[0] == "a --> INFORMATIONAL: SK {N(COOKIE2)}"
    assert ike_sa(net.pair, 0).path.local.address == CAFE
    assert ike_sa(net.pair, 1).mobility.peer_addresses == (CAFE, HOME)
    net.works()


def test_a_better_address_that_does_not_work_is_left_and_nothing_is_lost():
    net = connected(both=QUICK)
    net.cut_way(CAFE, OFFICE)
    net.change(0, CAFE, HOME)
    net.pair.run(5.0)
    assert ike_sa(net.pair, 0).path.local.address == HOME
    net.works()


def test_a_further_address_is_told_and_changes_nothing():
    net = connected()
    net.change(0, HOME, CAFE)
    net.pair.run(1.0)
    assert ike_sa(net.pair, 1).mobility.peer_addresses == (HOME, CAFE)
    assert ike_sa(net.pair, 1).path.remote.address == HOME
    net.change(0, HOME)
    net.pair.run(1.0)
    assert ike_sa(net.pair, 1).mobility.peer_addresses == (HOME,)


def test_a_path_that_dies_is_left_for_one_that_answers():
    net = connected(a=STATIONARY, both={**QUICK, "liveness": 2.0})
    net.cut_way(HOME, OFFICE)
    net.pair.run(10.0)
    assert ike_sa(net.pair, 0).path.local.address == CAFE
    assert ike_sa(net.pair, 1).path.remote.address == CAFE
    net.works()


def test_a_request_under_way_goes_on_along_the_new_path():
    net = connected(a=STATIONARY)
    net.ends[0] = ()
    net.pair.do(0, "rekey_child", CONNECTION)
    net.pair.run(1.0)
    first = len(net.pair.sent)
    net.change(0, CAFE)
    net.pair.run(1.0)
    lines = since(net, first)
    assert "a --> CREATE_CHILD_SA" in lines[0]
    assert addresses_of(net.pair.sent[first]) == (CAFE, OFFICE)
    assert any("UPDATE_SA_ADDRESSES" in line for line in lines)
    net.works()


def test_address_that_changes_again_while_the_update_is_under_way():
    net = connected(a=Mobike(own=(CAFE, "203.0.113.8")))
    net.change(0, CAFE)
    net.change(0, "203.0.113.8")
    net.pair.run(2.0)
    for side in (0, 1):
        assert "203.0.113.8" in str(ike_sa(net.pair, side).path)
    net.works()


@pytest.mark.parametrize("rekey", ["rekey_ike", "rekey_child"])
@pytest.mark.parametrize("side", [0, 1])
def test_address_changes_during_a_rekey(side, rekey):
    net = connected(a=STATIONARY)
    net.pair.do(side, rekey, CONNECTION)
    net.pair.run(0.005)
    net.change(0, CAFE)
    net.pair.run(40.0)
    assert ike_sa(net.pair, 0).path.local.address == CAFE
    net.works()


@pytest.mark.parametrize("rekeyer", [0, 1])
def test_after_a_rekey_the_first_initiator_still_decides(rekeyer):
    net = connected(a=STATIONARY)
    net.pair.do(rekeyer, "rekey_ike", CONNECTION)
    net.pair.run(1.0)
    assert ike_sa(net.pair, 0).mobility.decides
    net.change(0, CAFE)
    net.pair.run(1.0)
    net.works()


def test_initiator_without_any_address_goes_on_when_it_has_one_again():
    net = connected(both={"liveness": 30.0})
    net.change(0)
    net.pair.run(5.0)
    net.change(0, CAFE)
    net.pair.run(1.0)
    net.works()


def test_a_handshake_from_an_address_that_is_lost_begins_anew():
    net = roaming(a=STATIONARY)
    net.ends[0] = (CAFE,)
    net.pair.do(0, "initiate", CONNECTION)
    net.change(0, CAFE)
    net.pair.run(1.0)
    assert ike_sa(net.pair, 0).path.local.address == CAFE
    net.works()


# --- the responder's addresses --------------------------------------------------------------------


def test_responder_that_loses_its_address_says_so_from_another():
    net = connected(b=Mobike(own=(SECOND,)))
    first = len(net.pair.sent)
    net.change(1, SECOND)
    net.pair.run(1.0)
    assert "N(NO_ADDITIONAL_ADDRESSES)" in since(net, first)[0]
    assert any("N(UPDATE_SA_ADDRESSES)" in line for line in since(net, first))
    assert ike_sa(net.pair, 0).path.remote.address == SECOND
    net.works()


@pytest.mark.rfc("4555", "3.4", "SHOULD NOT", "other-use")
def test_responder_uses_the_initiators_list_for_nothing_but_its_own_change():
    net = connected(a=STATIONARY, b=Mobike(), both=QUICK)
    net.cut_way(HOME, OFFICE)
    first = len(net.pair.sent)
    net.pair.do(1, "check_liveness", CONNECTION)
    net.pair.run(4.0)
    own = [addresses_of(sent) for sent in net.pair.sent[first:] if sent.sender == 1]
    assert set(own) == {(OFFICE, HOME)}


@pytest.mark.rfc("4555", "3.6", "MUST", "new-request")
def test_a_list_sent_from_several_addresses_is_sent_anew_when_one_is_answered():
    net = connected(b=Mobike(own=(SECOND, "198.51.100.3")), both=QUICK)
    net.cut_way(HOME, SECOND)
    net.change(1, SECOND, "198.51.100.3")
    net.pair.run(6.0)
    assert ike_sa(net.pair, 0).path.remote.address == "198.51.100.3"
    assert set(ike_sa(net.pair, 0).mobility.peer_addresses) == {SECOND, "198.51.100.3"}
    lists = [
        sent
        for sent in ike_messages(net.pair)
        if sent.sender == 1
        and sent.is_ike(INFORMATIONAL, response=False)
        and NotifyType.ADDITIONAL_IP4_ADDRESS in notifies(net.pair, sent)
    ]
    numbers = {opened(net.pair, sent)[0].message_id for sent in lists}
    assert len(numbers) == 2
    assert len({addresses_of(sent)[0] for sent in lists if sent is not lists[-1]}) == 2
    net.works()


@pytest.mark.rfc("4555", "3.11", "SHOULD", "patience")
def test_responder_asks_for_five_minutes_before_it_gives_up():
    quick = {"retransmission": Retransmission(timeout=1.0, base=1.5, tries=2, limit=20.0)}
    net = connected(a=Mobike(), both=quick)
    net.ends[0] = ()
    net.pair.do(1, "check_liveness", CONNECTION)
    net.pair.run(290.0)
    assert len(net.pair.b.ike.ike_sas) == 1
    net.ends[0] = (CAFE,)
    net.pair.do(0, "change_addresses", (CAFE,))
    net.pair.run(30.0)
    net.works()


def test_responder_gives_up_in_the_end():
    net = connected(both=QUICK)
    net.ends[0] = ()
    net.pair.do(1, "check_liveness", CONNECTION)
    net.pair.run(400.0)
    assert net.pair.b.ike.ike_sas == ()


# --- return routability ---------------------------------------------------------------------------


@pytest.mark.rfc("4555", "3.7", "MUST", "copied")
@pytest.mark.rfc("4555", "4.2.5", "MUST", "copied")
@pytest.mark.parametrize("size", [8, 64])
def test_cookie2_comes_back_as_it_was(size):
    net = connected()
    cookie = NotifyPayload(NotifyType.COOKIE2, bytes(range(size)))
    first = len(net.pair.sent)
    receive(net.pair, 1, forge(net.pair, 0, INFORMATIONAL, cookie))
    assert notifies(net.pair, net.pair.sent[first]) == {NotifyType.COOKIE2: bytes(range(size))}


@pytest.mark.rfc("4555", "4.2.5", "MUST", "size")
@pytest.mark.parametrize("size", [0, 7, 65])
def test_cookie2_of_another_size_is_refused(size):
    net = connected()
    cookie = NotifyPayload(NotifyType.COOKIE2, bytes(size))
    first = len(net.pair.sent)
    receive(net.pair, 1, forge(net.pair, 0, INFORMATIONAL, cookie))
    assert NotifyType.INVALID_SYNTAX in notifies(net.pair, net.pair.sent[first])


@pytest.mark.rfc("4555", "3.7", "MUST", "verified")
@pytest.mark.rfc("4555", "3.7", "MUST", "closed")
@pytest.mark.parametrize("data", [None, b"", bytes(16)])
def test_a_cookie2_that_comes_back_changed_ends_the_ike_sa(data):
    net = connected(a=STATIONARY)
    net.pair.fate = lambda sent: () if sent.sender == 1 else net.fate(sent)
    net.change(0, CAFE)
    sa = ike_sa(net.pair, 0)
    (number,) = sa.own_requests
    payloads = () if data is None else (NotifyPayload(NotifyType.COOKIE2, data),)
    answer = forge(net.pair, 1, INFORMATIONAL, *payloads, message_id=number, response=True)
    receive(net.pair, 0, answer)
    assert net.pair.a.ike.ike_sas == ()
    assert "COOKIE2" in net.pair.events("ike_gone", 0)[-1].details["reason"]


@pytest.mark.rfc("4555", "4.2.5", "MUST", "unpredictable")
def test_cookies_are_drawn_anew_each_time():
    net = connected(a=STATIONARY)
    for address in (CAFE, HOME, CAFE):
        net.change(0, address)
        net.pair.run(1.0)
    cookies = [
        notifies(net.pair, sent).get(NotifyType.COOKIE2)
        for sent in ike_messages(net.pair)
        if sent.is_ike(INFORMATIONAL, response=False)
    ]
    assert len(set(cookies)) == len(cookies) >= 5


def test_a_check_that_went_to_two_addresses_proves_neither():
    net = connected(a=Mobike(own=(CAFE, "203.0.113.8")))
    net.pair.fate = lambda sent: (
        () if sent.sender == 1 and sent.is_ike(INFORMATIONAL, response=False) else net.fate(sent)
    )
    net.change(0, CAFE)
    net.pair.run(0.1)
    net.change(0, "203.0.113.8")
    net.pair.run(0.1)
    net.pair.fate = net.fate
    net.pair.run(10.0)
    assert ike_sa(net.pair, 1).mobility.proven == "203.0.113.8"
    checks = [notice.details["remote"] for notice in net.pair.events("route_checked", 1)]
    assert [remote.split(":")[0] for remote in checks] == ["203.0.113.8"]
    net.works()


# --- policy and hostile values --------------------------------------------------------------------


def test_addresses_that_the_responder_does_not_allow_are_left_again():
    net = connected(a=STATIONARY, b=Mobike(allowed=("192.0.2.0/24",)))
    net.change(0, CAFE, HOME)
    net.pair.run(2.0)
    assert net.pair.b.counters["ike.unacceptable_addresses"] == 1
    assert ike_sa(net.pair, 0).path.local.address == HOME
    net.works()


def test_update_from_the_responder_moves_nobody():
    net = connected()
    before = ike_sa(net.pair, 0).path
    update = NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES)
    message = forge(net.pair, 1, INFORMATIONAL, update)
    path = UdpPath(before.local, UdpEndpoint("203.0.113.66", 4500))
    net.pair.carry_out(0, net.pair.a.receive_datagram(path, bytes(4) + message, net.pair.now))
    assert ike_sa(net.pair, 0).path == before


@pytest.mark.parametrize("number", [1, 24])
def test_lists_of_nonsense_are_bounded_and_harmless(number):
    net = connected()
    bad = [
        NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, data)
        for data in (b"", b"\x01", bytes(4), b"\xe0\0\0\1", b"\x7f\0\0\1", bytes(16))
    ]
    many = [
        NotifyPayload(NotifyType.ADDITIONAL_IP4_ADDRESS, bytes((10, 9, one >> 8, one & 255)))
        for one in range(number)
    ]
    receive(net.pair, 1, forge(net.pair, 0, INFORMATIONAL, *bad, *many))
    known = ike_sa(net.pair, 1).mobility.peer_addresses
    assert known[0] == HOME
    assert len(known) == 1 + min(number, 16)


@pytest.mark.rfc("4555", "4.2.1", "MUST", "contents-ignored")
def test_contents_of_mobike_supported_are_ignored(monkeypatch):
    from ipseclab.ike.authentication import mobike

    odd = NotifyPayload(NotifyType.MOBIKE_SUPPORTED, b"from the future")
    monkeypatch.setattr(mobike, "SUPPORTED", odd)
    net = connected(a=STATIONARY)
    net.change(0, CAFE)
    net.pair.run(1.0)
    net.works()


@pytest.mark.rfc("4555", "3.12", "SHOULD", "inspected")
@pytest.mark.rfc("4555", "3.12", "SHOULD NOT", "no-evidence")
def test_esp_from_an_address_that_is_left_is_no_sign_of_life():
    net = connected(a=STATIONARY)
    pair = net.pair
    old = pair.send(0)
    late = pair.sent[-1]
    pair.run(0.1)
    net.change(0, CAFE)
    pair.run(1.0)
    (child,) = pair.b.ike.child_sas
    seen = pair.b.datapath.last_inbound(child.spi_in)
    pair.fate = lambda sent: ()
    pair.do(0, "send_packet", old)
    packet = bytearray(pair.sent[-1].item.packet)
    packet[12:16] = late.item.packet[12:16]
    pair.carry_out(1, pair.b.receive_packet(bytes(packet), pair.now))
    assert len(pair.delivered[1]) == 3
    assert pair.b.datapath.last_inbound(child.spi_in) == seen
    pair.fate = net.fate
    net.works()
    assert pair.b.datapath.last_inbound(child.spi_in) > seen


def test_more_own_addresses_than_are_kept():
    net = connected()
    net.change(0, HOME, *(f"203.0.113.{number}" for number in range(20, 60)))
    net.pair.run(1.0)
    assert net.pair.a.counters["ike.own_addresses_left_out"] == 25
    net.works()


# --- lost, repeated, the same again ---------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_it_moves_though_messages_are_lost_and_repeated(seed):
    net = connected(
        a=STATIONARY, b=Mobike(own=(SECOND,)), both={**QUICK, "liveness": 3.0}, seed=seed
    )
    rng = random.Random(seed)

    def bad(sent):
        fate = net.fate(sent)
        if not fate or rng.random() < 0.25:
            return ()
        return (0.0, rng.random()) if rng.random() < 0.25 else fate

    net.pair.fate = bad
    for side, addresses in ((0, (CAFE,)), (1, (SECOND,)), (0, (HOME, CAFE)), (1, (OFFICE, SECOND))):
        net.change(side, *addresses)
        net.pair.run(12.0)
    net.pair.fate = net.fate
    net.pair.run(30.0)
    assert ike_sa(net.pair, 0).path.local == ike_sa(net.pair, 1).path.remote
    assert ike_sa(net.pair, 0).path.remote == ike_sa(net.pair, 1).path.local
    net.works()


def test_same_seed_same_messages():
    def octets():
        net = connected(a=STATIONARY, seed=5)
        net.change(0, CAFE)
        net.pair.run(1.0)
        return [sent.item for sent in net.pair.sent]

    assert octets() == octets()


def test_off_by_default_the_octets_are_what_they_were():
    pair = make_pair()
    pair.connect()
    assert not any("MOBIKE" in line or "ADDITIONAL" in line for line in transcript(pair))
    assert {s.item.path.local.port for s in ike_messages(pair)} == {500}
