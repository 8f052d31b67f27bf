"""Cases 9 to 16: exchanges about CHILD_SAs that collide (RFC 7296 sections 2.8.1, 2.25).

All orders of delivery are in tests/lab/test_explorer.py, and message by message most of these are
in tests/ike/test_collisions.py.
"""

import pytest
from collide import (
    LONG,
    NONCES,
    SIDES,
    colliding,
    create,
    crossed,
    exchange,
    held,
    info,
    redundant_at,
)
from pair import CONNECTION
from transcript import transcript

from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.lab.schedules.explore import Budget, explore
from ipseclab.lab.schedules.parties import Terms

CONTRARY = {
    "a": {"esp_proposals": (parse_esp_proposal("aes128gcm16-ecp256-x25519"),)},
    "b": {"esp_proposals": (parse_esp_proposal("aes128gcm16-x25519-ecp256"),)},
}
BOTH_REKEY = ("rekey_child", "rekey_child")


def nothing_is_left(pair):
    assert pair.spis(0) == pair.spis(1) == set()
    assert pair.ike_spis(0) == pair.ike_spis(1)


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("lowest", NONCES)
@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
def test_case_09_both_rekey_at_once_and_the_lowest_nonce_loses(lowest, first, esp):
    pair, post = crossed("rekey_child", lowest, both={"esp_proposals": (parse_esp_proposal(esp),)})
    post.deliver(create(first)[1], create(1 - first)[1])
    post.open(LONG)
    loser = redundant_at(lowest)
    reasons = [n.details["reason"] for n in pair.events("child_gone", loser)]
    assert sorted(reasons) == ["redundant", "rekeyed"]
    deleted = [line[0] for line in transcript(pair) if "-->" in line and "D(ESP)" in line]
    assert sorted(deleted) == ["a", "b"]
    pair.agreed()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_case_10_both_rekey_at_once_with_several_key_exchanges(seed):
    """In every order of all messages, whoever has the lowest nonce."""
    found = explore(*BOTH_REKEY, seed=seed, budget=Budget(0, 0), terms=Terms(further=True))
    assert not found.violation, found.story
    assert set(found.ends) == {"IKE_SA first, CHILD_SA a", "IKE_SA first, CHILD_SA b"}
    assert found.orders > 800


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
@pytest.mark.parametrize("side", SIDES)
def test_case_10_several_key_exchanges_on_one_side_alone(side, seed):
    """Both propose both ways; `side` prefers two key exchanges, and as a responder chooses so."""
    texts = ("aes128gcm16-x25519-ke1_x448-ke1_none", "aes128gcm16-x25519-ke1_none-ke1_x448")
    ends = [{"esp_proposals": (parse_esp_proposal(text),)} for text in texts[:: 1 - 2 * side]]
    pair, post = colliding(BOTH_REKEY, seed, a=ends[0], b=ends[1])
    post.deliver(create(0)[0], create(1)[0])
    post.open(LONG)
    longer = [line[0] for line in transcript(pair) if "--> IKE_FOLLOWUP_KE" in line]
    assert longer == ["ab"[1 - side]]
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lowest", NONCES)
@pytest.mark.parametrize("then", [False, True])
def test_case_11_response_after_the_peers_delete(side, lowest, then):
    """`then`: also after the peer deleted the SA that was left."""
    pair, post = crossed("rekey_child", lowest)
    post.deliver(create(1 - side)[1])
    while info(1 - side)[0] in post.names:
        post.deliver(*info(1 - side))
    if then:
        pair.do(1 - side, "delete_child", CONNECTION)
        while info(1 - side)[0] in post.names:
            post.deliver(*info(1 - side))
    post.deliver(create(side)[1])
    post.open(LONG)
    if then and redundant_at(lowest) == side:
        nothing_is_left(pair)
    elif then:
        assert pair.spis(0) == pair.spis(1)
    else:
        pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("until", ["response", "delete", "deleted"])
def test_case_12_request_delayed_so_that_its_receiver_sees_no_collision(side, until):
    pair, post = colliding(BOTH_REKEY)
    late = post.take(create(side)[0])
    post.deliver(*create(1 - side))
    if until != "response":
        post.deliver(*info(1 - side))
    if until == "deleted":
        pair.do(1 - side, "delete_child", CONNECTION)
        post.deliver(*info(1 - side))
    post.deliver_sent(late)
    answer = {"response": "TEMPORARY_FAILURE"}.get(until, "CHILD_SA_NOT_FOUND")
    assert f"SK {{N({answer})}}" in transcript(pair)[-1]
    post.open(LONG)
    if until == "deleted":
        nothing_is_left(pair)
    else:
        pair.agreed()


@pytest.mark.parametrize("delayed", [None, *SIDES])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_case_13_different_groups_both_refused_and_both_retried(delayed, seed):
    pair, post = colliding(BOTH_REKEY, seed, **CONTRARY)
    post.deliver(create(0)[0], create(1)[0])
    assert sum("N(INVALID_KE_PAYLOAD)" in line for line in transcript(pair)) == 2
    post.deliver(create(0)[1], create(1)[1])
    if delayed is not None:
        late = post.take(create(delayed)[0])
        post.deliver(*create(1 - delayed), *info(1 - delayed))
        post.deliver_sent(late)
    post.open(LONG)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("what", ["nothing", "delete lost", "rekey lost", "response late"])
def test_case_14_one_end_rekeys_while_the_other_deletes(side, what):
    methods = ("rekey_child", "delete_child")[:: 1 - 2 * side]
    pair, post = colliding(methods)
    delete = exchange(1 - side, "INFORMATIONAL")
    if what == "delete lost":
        post.take(delete[0])
        post.deliver(create(side)[0])
    elif what == "rekey lost":
        post.take(create(side)[0])
        post.deliver(delete[0])
    else:
        post.deliver(create(side)[0])
        assert "N(TEMPORARY_FAILURE)" in transcript(pair)[-1]
        if what == "response late":
            late = post.take(create(side)[1])
            post.deliver(*delete)
            post.deliver_sent(late)
    post.open(LONG)
    nothing_is_left(pair)
    assert len(pair.ike_spis(0)) == 1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("other", ["rekey_ike", "delete_ike"])
def test_case_15_child_sa_rekeyed_while_the_ike_sa_is(side, other):
    methods = ("rekey_child", other)[:: 1 - 2 * side]
    pair, post = colliding(methods)
    post.deliver(create(side)[0])
    assert "N(TEMPORARY_FAILURE)" in transcript(pair)[-1]
    start, moment = len(pair.sent), pair.now
    post.open(LONG)
    if other == "delete_ike":
        assert not pair.ike_spis(0)
        assert not pair.ike_spis(1)
        nothing_is_left(pair)
        return
    repeats = [line for line in transcript(pair, first=start) if "REKEY_SA" in line]
    assert len(repeats) == 1
    again = next(s for s in pair.sent[start:] if s.sender == side)
    assert again.at >= moment
    assert pair.events("ike_rekeyed", side)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_16_new_child_sa_while_the_ike_sa_is_rekeyed(side):
    methods = ("create_child", "rekey_ike")[:: 1 - 2 * side]
    pair, post = colliding(methods)
    post.deliver(create(0)[0], create(1)[0])
    refused = [line for line in transcript(pair) if "N(TEMPORARY_FAILURE)" in line]
    assert len(refused) == 2
    start, moment = len(pair.sent), pair.now
    post.open(LONG)
    assert pair.sent[start].at - moment >= 1.0
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.spis(0)) == 2


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("deleter", SIDES)
@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_case_14_deleted_while_its_heir_waits_for_a_further_key_exchange(side, deleter, seen):
    """After any number of the rekey's four messages; whoever wants the SA closed wants no heir."""
    text = "aes128gcm16-x25519-ke1_x448"
    pair, post = held(both={"esp_proposals": (parse_esp_proposal(text),)})
    pair.do(side, "rekey_child", CONNECTION)
    messages = (*create(side), *exchange(side, "IKE_FOLLOWUP_KE"))
    post.deliver(*messages[:seen])
    pair.do(deleter, "delete_child", CONNECTION)
    post.open(LONG)
    nothing_is_left(pair)
    assert len(pair.ike_spis(0)) == 1
    for gateway in pair.gateways:
        assert all(not sa.half_made for sa in gateway.ike.ike_sas)
