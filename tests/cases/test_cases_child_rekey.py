"""Cases 1 to 8: the rekey of a CHILD_SA, with two real gateways, begun by either.

Message by message these are in tests/ike/test_child_sa.py and test_lifetimes.py too.
"""

import pytest
from collide import LONG, SIDES, connected, create, exchange, held, info
from forge import forge, ike_sa, receive
from pair import CONNECTION
from transcript import transcript

from ipseclab.ike.config import Retransmission
from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.outputs import SendPacket
from ipseclab.registry import ExchangeType, ProtocolId
from ipseclab.wire.payloads import DeletePayload

SEVERAL = {"esp_proposals": (parse_esp_proposal("aes128gcm16-x25519-ke1_x448"),)}
X25519_FIRST = parse_esp_proposal("aes128gcm16-x25519-ecp256")
ECP256_FIRST = parse_esp_proposal("aes128gcm16-ecp256-x25519")


def old_child(pair, side):
    (child,) = pair.gateways[side].ike.child_sas
    return child


def ends_of(pair, side, spi):
    """Why that side's SA went, each time that it did."""
    gone = pair.events("child_gone", side)
    return [n.details["reason"] for n in gone if n.details["spi_in"] == spi.hex()]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
def test_case_01_plain_rekey_by_either_end_with_and_without_a_key_exchange(side, esp):
    pair = connected(both={"esp_proposals": (parse_esp_proposal(esp),)})
    before = pair.spis(0)
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(1.0)
    own, other, ke = "ab"[side], "ab"[1 - side], ", KE" if "x25519" in esp else ""
    assert transcript(pair) == [
        f"{own} --> CREATE_CHILD_SA: SK {{N(REKEY_SA), SA, Ni{ke}, TSi, TSr}}",
        f"{other} <-- CREATE_CHILD_SA: SK {{SA, Nr{ke}, TSi, TSr}}",
        f"{own} --> INFORMATIONAL: SK {{D(ESP)}}",
        f"{other} <-- INFORMATIONAL: SK {{D(ESP)}}",
    ]
    assert not before & pair.spis(0)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_01_rekey_with_several_key_exchanges(side):
    pair = connected(both=SEVERAL)
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(1.0)
    own, other, link = "ab"[side], "ab"[1 - side], "N(ADDITIONAL_KEY_EXCHANGE)"
    assert transcript(pair) == [
        f"{own} --> CREATE_CHILD_SA: SK {{N(REKEY_SA), SA, Ni, KE, TSi, TSr}}",
        f"{other} <-- CREATE_CHILD_SA: SK {{SA, Nr, KE, TSi, TSr, {link}}}",
        f"{own} --> IKE_FOLLOWUP_KE: SK {{KE, {link}}}",
        f"{other} <-- IKE_FOLLOWUP_KE: SK {{KE}}",
        f"{own} --> INFORMATIONAL: SK {{D(ESP)}}",
        f"{other} <-- INFORMATIONAL: SK {{D(ESP)}}",
    ]
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_02_another_group_where_several_key_exchanges_are_proposed(side):
    wishes = [
        {"esp_proposals": (parse_esp_proposal(f"aes128gcm16-{groups}-ke1_x448"),)}
        for groups in ("x25519-ecp256", "ecp256-x25519")
    ]
    pair = connected(a=wishes[0], b=wishes[1])
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(1.0)
    lines = transcript(pair)
    assert sum("N(INVALID_KE_PAYLOAD)" in line for line in lines) == 1
    assert sum("IKE_FOLLOWUP_KE" in line for line in lines) == 2
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_02_responder_responder_wants_another_group(side):
    wishes = [X25519_FIRST, ECP256_FIRST]
    pair = connected(a={"esp_proposals": (wishes[0],)}, b={"esp_proposals": (wishes[1],)})
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(1.0)
    lines = transcript(pair)
    assert sum("N(INVALID_KE_PAYLOAD)" in line for line in lines) == 1
    assert sum("N(REKEY_SA)" in line for line in lines) == 2
    assert len(pair.events("child_ready", 1 - side)) == 2
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("expiry", ["child_soft_expired", "child_hard_expired"])
def test_case_03_expiry_of_the_old_sa_between_response_and_delete(side, expiry):
    pair, post = held()
    olds = [old_child(pair, i) for i in SIDES]
    pair.do(side, "rekey_child", CONNECTION)
    post.deliver(*create(side))
    assert post.names == [info(side)[0]]
    for i in SIDES:
        endpoint = pair.gateways[i].ike
        events = getattr(endpoint, expiry)(olds[i].spi_in, pair.now)
        pair.carry_out(i, pair.gateways[i]._settle(events, pair.now))
    post.open(LONG)
    assert len(pair.events("rekey_started")) == 1
    assert [len(ends_of(pair, i, olds[i].spi_in)) for i in SIDES] == [1, 1]
    assert sum("D(ESP)" in line and "-->" in line for line in transcript(pair)) == 1
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("deleter", SIDES)
def test_case_04_new_sa_deleted_by_hand_before_the_old_ones_delete(side, deleter):
    pair, post = held()
    pair.do(side, "rekey_child", CONNECTION)
    post.deliver(*create(side))
    pair.do(deleter, "delete_child", CONNECTION)
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    assert len(pair.ike_spis(0)) == 1
    for i in SIDES:
        assert len(pair.events("child_gone", i)) == 2


@pytest.mark.parametrize("side", SIDES)
def test_case_05_responder_has_lost_the_sa(side):
    pair = connected()
    lost = old_child(pair, 1 - side)
    forged = DeletePayload(ProtocolId.ESP, (old_child(pair, side).spi_in,))
    receive(pair, 1 - side, forge(pair, side, ExchangeType.INFORMATIONAL, forged))
    ike_sa(pair, side).next_message_id += 1
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(1.0)
    other = "ab"[1 - side]
    assert f"{other} <-- CREATE_CHILD_SA: SK {{N(CHILD_SA_NOT_FOUND)}}" in transcript(pair)
    assert lost.spi_in not in {child.spi_in for child in pair.gateways[1 - side].ike.child_sas}
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_06_wrong_end_sends_delete_for_the_old_sa(side):
    pair, post = held()
    old = old_child(pair, 1 - side)
    pair.do(side, "rekey_child", CONNECTION)
    post.deliver(*create(side))
    delete = DeletePayload(ProtocolId.ESP, (old.spi_in,))
    receive(pair, side, forge(pair, 1 - side, ExchangeType.INFORMATIONAL, delete))
    ike_sa(pair, 1 - side).next_message_id += 1
    post.open(LONG)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_07_delete_without_an_answer_is_one_child_down(side):
    pair = connected(both={"retransmission": Retransmission(timeout=0.5, tries=2)})
    old = old_child(pair, side)
    pair.fate = lambda sent: (
        () if sent.is_ike(ExchangeType.INFORMATIONAL, response=True) else (0.0,)
    )
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(LONG)
    assert len(ends_of(pair, side, old.spi_in)) == 1
    assert [n.details["reason"] for n in pair.events("ike_gone", side)] == ["no answer"]
    assert pair.spis(side) == set()


@pytest.mark.rfc("7296", "2.8.1", "MUST", "either-sa")
@pytest.mark.parametrize("side", SIDES)
def test_case_08_traffic_in_flight_during_a_rekey(side):
    pair = connected()
    olds = {old_child(pair, i).spi_out for i in SIDES}
    for number in range(200):
        if number == 50:
            pair.do(side, "rekey_child", CONNECTION)
        for i in SIDES:
            pair.send(i, number)
        pair.run(0.001)
    pair.run(1.0)
    assert [len(set(packets)) for packets in pair.delivered] == [200, 200]
    # The responder's first packet on the new SA goes out only when it has heard of the peer on it,
    # or that the old one is being closed: two messages after its response.
    response = next(s for s in pair.sent if s.is_ike(ExchangeType.CREATE_CHILD_SA, response=True))
    first = next(
        s
        for s in pair.sent
        if s.sender == 1 - side
        and isinstance(s.item, SendPacket)
        and s.item.packet[20:24] not in olds
    )
    assert first.at >= response.at + 2 * pair.delay
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_08_the_old_sa_carries_traffic_until_the_further_key_exchange_is_done(side):
    """RFC 9370 section 2.2.4: the new one has its keys then, and the old one goes after that."""
    pair, post = held(both=SEVERAL)
    old = pair.spis(0)
    pair.do(side, "rekey_child", CONNECTION)
    for message in (*create(side), *exchange(side, "IKE_FOLLOWUP_KE")):
        assert pair.spis(side) == old
        for sender in SIDES:
            packet = pair.send(sender)
            pair.run(0.1)
            assert pair.delivered[1 - sender][-1:] == [packet]
        post.deliver(message)
    assert post.names == [info(side)[0]]
    post.open(1.0)
    assert not old & pair.spis(0)
    pair.agreed()
