"""The IKE_SA rekeyed and closed, by either end, with nobody in the way (sections 1.3.2, 1.4.1)."""

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, make_pair
from post import Post
from transcript import ike_messages, opened, transcript

from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.payloads import KePayload, SaPayload

REKEY = [
    "--> CREATE_CHILD_SA: SK {SA, Ni, KE}",
    "<-- CREATE_CHILD_SA: SK {SA, Nr, KE}",
    "--> INFORMATIONAL: SK {D(IKE)}",
    "<-- INFORMATIONAL: SK {}",
]


@pytest.mark.rfc("7296", "1.3.2", "MUST", "ke-in-rekey")
@pytest.mark.rfc("7296", "2.18", "MUST", "new-key-exchange")
@pytest.mark.parametrize("side", [0, 1])
def test_rekey_by_either_end_moves_the_child_sas_and_closes_the_old_ike_sa(side):
    pair = make_pair()
    pair.connect()
    start, old, children = len(pair.sent), pair.ike_spis(0), pair.spis(0)
    pair.do(side, "rekey_ike", CONNECTION)
    pair.run(1.0)
    me, peer = "ab"[side], "ab"[1 - side]
    who = (me, peer, me, peer)
    assert transcript(pair, first=start) == [
        f"{name} {line}" for name, line in zip(who, REKEY, strict=True)
    ]
    assert not pair.ike_spis(0) & old
    assert pair.spis(0) == children
    assert ike_sa(pair, side).initiator
    assert not ike_sa(pair, 1 - side).initiator
    pair.agreed()


@pytest.mark.rfc("7296", "3.1", "MUST", "i-bit")
@pytest.mark.rfc("7296", "2.18", "MUST", "reset-ids")
def test_message_ids_restart_at_zero_on_the_new_ike_sa():
    pair = make_pair()
    pair.connect()
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    start = len(pair.sent)
    for side in (0, 1):
        pair.do(side, "check_liveness", CONNECTION)
        pair.run(1.0)
    headers = [sent.header for sent in ike_messages(pair, first=start)]
    assert [header.message_id for header in headers] == [0, 0, 0, 0]
    # b initiated this IKE_SA, whoever initiated the first one.
    assert [header.initiator for header in headers] == [False, True, True, False]


def test_rekeyed_ike_sa_can_be_rekeyed_again_and_again():
    pair = make_pair()
    pair.connect()
    for number in range(20):
        pair.do(number % 2, "rekey_ike", CONNECTION)
        pair.run(1.0)
        pair.do(number // 2 % 2, "rekey_child", CONNECTION)
        pair.run(1.0)
    assert len(pair.events("ike_rekeyed", 0)) == 20
    pair.agreed()


def test_rekey_with_another_group_asked_for():
    pair = make_pair(
        a={"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519-ecp256"),)},
        b={"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256"),)},
    )
    pair.connect()
    start = len(pair.sent)
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start)[:4] == [
        "a --> CREATE_CHILD_SA: SK {SA, Ni, KE}",
        "b <-- CREATE_CHILD_SA: SK {N(INVALID_KE_PAYLOAD)}",
        "a --> CREATE_CHILD_SA: SK {SA, Ni, KE}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, KE}",
    ]
    methods = [opened(pair, pair.sent[start + i])[1][2].method for i in (0, 2)]
    assert methods == [KeMethod.CURVE25519, KeMethod.ECP_256]
    pair.agreed()


def test_new_proposal_takes_over_prf_and_cipher():
    stronger = (parse_ike_proposal("aes256-sha512-prfsha512-ecp256"),)
    weaker = (parse_ike_proposal("aes128gcm16-prfsha256-x25519"),)
    pair = make_pair(a={"ike_proposals": weaker}, b={"ike_proposals": (*stronger, *weaker)})
    pair.connect()
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    pair.agreed()


def test_rekey_wanted_twice_is_done_once():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    pair.do(0, "rekey_ike", CONNECTION)
    post.open(10.0)
    assert len(pair.events("ike_rekeyed", 0)) == 1
    pair.agreed()


def test_rekey_that_waits_is_needless_once_the_peer_has_rekeyed():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "check_liveness", CONNECTION)
    pair.do(0, "rekey_ike", CONNECTION)  # waits for the liveness check
    pair.do(1, "rekey_ike", CONNECTION)
    post.deliver("b CREATE_CHILD_SA request", "a CREATE_CHILD_SA response")
    post.open(10.0)
    assert len(pair.events("ike_rekeyed", 0)) == 1
    pair.agreed()


@pytest.mark.rfc("7296", "1.3.2", "SHOULD NOT", "create-while-rekeyed")
def test_tasks_that_wait_go_over_to_the_new_ike_sa():
    pair = make_pair()
    pair.connect()
    for method in ("rekey_ike", "rekey_child", "create_child", "check_liveness"):
        pair.do(0, method, CONNECTION)
    pair.run(5.0)
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)
    assert pair.events("liveness_confirmed", 0)


def test_unusable_response_to_a_rekey_starts_the_connection_over():
    """The peer has a new IKE_SA that this end cannot have, so that the old one is closed too."""
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    post.deliver("a CREATE_CHILD_SA request")
    _message, payloads = opened(pair, post.take("b CREATE_CHILD_SA response"))
    without_spi = [
        SaPayload(
            (p.proposals[0].__class__(1, p.proposals[0].protocol, b"", p.proposals[0].transforms),)
        )
        if isinstance(p, SaPayload)
        else p
        for p in payloads
    ]
    old = next(sa for sa in pair.b.ike.ike_sas if sa.successor is not None)
    bad = forge(
        pair,
        1,
        ExchangeType.CREATE_CHILD_SA,
        *without_spi,
        message_id=2,
        response=True,
        sa=old,
    )
    receive(pair, 0, bad)
    assert pair.events("exchange_failed", 0)
    post.open(10.0)
    assert not pair.ike_spis(0)


@pytest.mark.rfc("7296", "3.4", "MUST", "refuse-group")
@pytest.mark.rfc("7296", "1.3", "MUST", "refuse-group")
def test_key_exchange_value_of_another_group_is_refused():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    _message, payloads = opened(pair, post.take("a CREATE_CHILD_SA request"))
    changed = [
        KePayload(KeMethod.ECP_256, bytes(64)) if isinstance(p, KePayload) else p for p in payloads
    ]
    (answer,) = receive(
        pair, 1, forge(pair, 0, ExchangeType.CREATE_CHILD_SA, *changed, message_id=2)
    )
    (refusal,) = opened(pair, answer)[1]
    assert refusal.notify_type == NotifyType.INVALID_KE_PAYLOAD
    assert refusal.data == int(KeMethod.CURVE25519).to_bytes(2, "big")
    assert len(pair.ike_spis(1)) == 1


@pytest.mark.parametrize("side", [0, 1])
def test_delete_by_either_end_closes_everything(side):
    pair = make_pair()
    pair.connect()
    start = len(pair.sent)
    pair.do(side, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start) == [
        f"{'ab'[side]} --> INFORMATIONAL: SK {{D(IKE)}}",
        f"{'ab'[1 - side]} <-- INFORMATIONAL: SK {{}}",
    ]
    for who in (0, 1):
        assert not pair.ike_spis(who)
        assert not pair.spis(who)
        assert [n.details["reason"] for n in pair.events("ike_gone", who)] == ["deleted"]
        assert [n.details["reason"] for n in pair.events("child_gone", who)] == ["ike_gone"]


@pytest.mark.rfc("7296", "1.4.1", "MUST", "both-directions")
@pytest.mark.rfc("7296", "1.4.1", "MUST", "close-named")
@pytest.mark.rfc("7296", "2.4", "MUST", "delete-told")
@pytest.mark.parametrize("side", [0, 1])
def test_delete_of_the_child_sa_leaves_the_ike_sa(side):
    pair = make_pair()
    pair.connect()
    start = len(pair.sent)
    pair.do(side, "delete_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start) == [
        f"{'ab'[side]} --> INFORMATIONAL: SK {{D(ESP)}}",
        f"{'ab'[1 - side]} <-- INFORMATIONAL: SK {{D(ESP)}}",
    ]
    assert not pair.spis(0)
    assert not pair.spis(1)
    assert len(pair.ike_spis(0)) == 1
    packet = pair.send(0)  # traffic makes another
    pair.run(1.0)
    assert pair.delivered[1] == [packet]
    pair.agreed()


def test_delete_before_the_handshake_is_through():
    for moment in (0.0, 0.005, 0.015, 0.025, 0.035):
        pair = make_pair()
        pair.do(0, "initiate", CONNECTION)
        pair.run(moment)
        pair.do(0, "delete_ike", CONNECTION)
        pair.run(400.0)  # a responder waits for as long as its peer may still ask
        assert not pair.ike_spis(0)
        assert not pair.ike_spis(1)


def test_initiate_when_connected_does_nothing():
    pair = make_pair()
    pair.connect()
    start = len(pair.sent)
    for side in (0, 1):
        pair.do(side, "initiate", CONNECTION)
    assert len(pair.sent) == start


def test_rekey_and_delete_without_a_connection_do_nothing():
    pair = make_pair()
    for method in ("rekey_ike", "rekey_child", "delete_ike", "delete_child", "check_liveness"):
        pair.do(0, method, CONNECTION)
    assert pair.sent == []
