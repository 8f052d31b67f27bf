"""Case 32: MOBIKE (RFC 4555). Message by message in tests/ike/test_mobike.py, in whole labs of both
worlds in tests/proof/test_mobike_in_both_worlds.py."""

import pytest
from collide import LONG, SIDES
from forge import ike_sa
from nat_box import NAT_ADDRESS, NatBox
from pair import CONNECTION, make_pair
from roaming import CAFE, HOME, OFFICE, SECOND, addresses_of, connected
from transcript import ike_messages, opened

from ipseclab.ike.config import Retransmission
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.outputs import SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.payloads import NotifyPayload

INFORMATIONAL = ExchangeType.INFORMATIONAL
QUICK = {"retransmission": Retransmission(timeout=0.5, base=1.2, tries=8)}
FURTHER = (CAFE, SECOND)
"""Another address of each end."""
USUAL = (HOME, OFFICE)


def with_second(side, **options):
    """Both ends at their usual addresses; `side` has another one beside."""
    end = {"ab"[side]: Mobike(own=(FURTHER[side],))}
    return connected(**end, both=QUICK, **options)


def seen(net, side):
    """The address of `side` that each end holds for the one in use: its own view, the peer's."""
    own, peer = ike_sa(net.pair, side), ike_sa(net.pair, 1 - side)
    return own.path.local.address, peer.path.remote.address


def esp_ways(net, first):
    return {addresses_of(sent) for sent in net.pair.sent[first:] if sent.header is None}


def cookies(net, first):
    """COOKIE2 of each request and response since: sender, whether a response, data."""
    found = []
    for sent in ike_messages(net.pair, first=first):
        for payload in opened(net.pair, sent)[1]:
            if isinstance(payload, NotifyPayload) and payload.notify_type == NotifyType.COOKIE2:
                found.append((sent.sender, sent.header.response, payload.data))
    return found


@pytest.mark.parametrize("side", SIDES)
def test_case_32_address_lost_and_traffic_goes_on_from_the_other(side):
    net = with_second(side)
    net.change(side, FURTHER[side])
    net.pair.run(2.0)
    assert seen(net, side) == (FURTHER[side], FURTHER[side])
    first = len(net.pair.sent)
    net.works()
    assert all(FURTHER[side] in way for way in esp_ways(net, first))
    for rekeyer in SIDES:
        net.pair.do(rekeyer, "rekey_ike", CONNECTION)
        net.pair.run(1.0)
    net.works()


@pytest.mark.parametrize("side", SIDES)
def test_case_32_address_added_and_taken_away_again_moves_nobody(side):
    net = connected(both=QUICK)
    for addresses in ((USUAL[side], FURTHER[side]), (USUAL[side],)):
        net.change(side, *addresses)
        net.pair.run(1.0)
        assert ike_sa(net.pair, 1 - side).mobility.peer_addresses == addresses
        assert seen(net, side) == (USUAL[side], USUAL[side])
    net.works()


@pytest.mark.parametrize("side", SIDES)
def test_case_32_interface_changes_and_changes_back(side):
    """The one address goes, another one comes: first away, then home again."""
    net = with_second(side)
    for address in (FURTHER[side], USUAL[side], FURTHER[side]):
        net.change(side, address)
        net.pair.run(2.0)
        assert seen(net, side) == (address, address)
        net.works()
    assert len(net.pair.events("ike_established", side)) == 1


@pytest.mark.parametrize("side", SIDES)
def test_case_32_link_dies_and_nobody_is_told(side):
    """Only unanswered requests show it; the initiator finds the way, whoever asked."""
    net = with_second(side)
    net.cut_way(HOME, OFFICE)
    net.pair.do(0, "check_liveness", CONNECTION)
    net.pair.run(30.0)
    assert seen(net, side) == (FURTHER[side], FURTHER[side])
    net.works()


def test_case_32_nat_appears_on_the_way_and_disappears():
    net = connected(a=Mobike(own=(CAFE,)))
    box = NatBox()

    def translate(sender, path):
        if HOME in (path.local.address, path.remote.address):
            return UdpPath(path.remote, path.local)
        passed = box(sender, path)
        if sender == 0 or passed is None:
            return passed
        return UdpPath(UdpEndpoint(CAFE, 4500), passed.remote)

    net.pair.translate = translate
    for address, behind, kind in ((CAFE, True, SendDatagram), (HOME, False, SendPacket)) * 2:
        net.ends[0] = (address, NAT_ADDRESS)
        net.pair.do(0, "change_addresses", (address,))
        net.pair.run(1.0)
        assert ike_sa(net.pair, 0).own_behind_nat is behind
        assert ike_sa(net.pair, 1).peer_behind_nat is behind
        first = len(net.pair.sent)
        net.works()
        esp = [sent for sent in net.pair.sent[first:] if sent.header is None]
        assert {type(sent.item) for sent in esp} == {kind}


def test_case_32_nat_rebinds_while_idle_and_the_liveness_check_finds_it():
    box = NatBox()
    pair = make_pair(a={"mobike": Mobike()}, b={"mobike": Mobike()}, translate=box)
    pair.connect()
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(2.0)
    for address in ("203.0.113.50", "203.0.113.51"):
        box.rebind(address)
        pair.do(0, "check_liveness", CONNECTION)
        pair.run(2.0)
        assert ike_sa(pair, 1).path.remote.address == address
        pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_32_return_routability_is_checked_before_esp_goes_there(side):
    """Until COOKIE2 has come back from the new address, ESP goes to the old one."""
    net = with_second(side)
    checker = 1 - side
    first = len(net.pair.sent)
    asked = []

    def no_answers(sent):
        # What the checker asks is held, so that nothing has proved the new address yet.
        if sent.sender == checker and sent.is_ike(INFORMATIONAL, response=False):
            asked.append(sent)
            return ()
        return net.fate(sent)

    net.pair.fate = no_answers
    net.change(side, FURTHER[side])
    net.pair.run(1.0)
    net.pair.send(checker)
    assert esp_ways(net, first) == {(USUAL[checker], USUAL[side])}
    net.pair.fate = net.fate
    net.pair.run(60.0)
    assert asked
    first = len(net.pair.sent)
    net.works()
    assert (USUAL[checker], FURTHER[side]) in esp_ways(net, first)


@pytest.mark.parametrize("side", SIDES)
def test_case_32_cookie2_comes_back_as_it_went_and_is_another_each_time(side):
    net = with_second(side)
    first = len(net.pair.sent)
    for address in (FURTHER[side], USUAL[side]):
        net.change(side, address)
        net.pair.run(2.0)
    found = cookies(net, first)
    sent = [(who, data) for who, response, data in found if not response]
    back = [(who, data) for who, response, data in found if response]
    assert sent
    assert {(1 - who, data) for who, data in back} == set(sent)
    assert len({data for _who, data in sent}) == len(sent)
    assert all(8 <= len(data) <= 64 for _who, data in sent)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rekey", ["rekey_ike", "rekey_child"])
@pytest.mark.parametrize("rekeyer", SIDES)
def test_case_32_address_changes_in_the_middle_of_a_rekey(side, rekey, rekeyer):
    net = with_second(side)
    net.pair.do(rekeyer, rekey, CONNECTION)
    net.pair.run(0.005)
    net.change(side, FURTHER[side])
    net.pair.run(LONG)
    assert seen(net, side) == (FURTHER[side], FURTHER[side])
    net.works()
