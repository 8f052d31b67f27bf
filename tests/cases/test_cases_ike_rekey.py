"""Cases 17 to 19: the IKE_SA rekeyed and deleted, alone and in collision (RFC 7296 2.8.2, 2.25.2).

All orders of delivery are in tests/lab/test_explorer.py; more in tests/ike/test_rekey_ike.py.
"""

import pytest
from collide import LONG, NONCES, SIDES, colliding, connected, create, crossed, info, redundant_at
from pair import CONNECTION
from transcript import transcript

from ipseclab.ike.proposals import parse_ike_proposal

CONTRARY = {
    "a": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256-x25519"),)},
    "b": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519-ecp256"),)},
}
BOTH_REKEY = ("rekey_ike", "rekey_ike")
EXCHANGES = ("CREATE_CHILD_SA", "IKE_FOLLOWUP_KE", "INFORMATIONAL")


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("options", [{}, CONTRARY], ids=["plain", "another group"])
def test_case_17_rekey_by_either_end_moves_the_children_and_starts_at_message_id_0(side, options):
    pair = connected(**options)
    children, before = pair.spis(0), pair.ike_spis(0)
    pair.do(side, "rekey_ike", CONNECTION)
    pair.run(1.0)
    wanted_again = any("N(INVALID_KE_PAYLOAD)" in line for line in transcript(pair))
    assert wanted_again is bool(options)
    assert not before & pair.ike_spis(0)
    assert pair.spis(0) == pair.spis(1) == children
    for end in SIDES:
        pair.sent.clear()
        pair.do(end, "check_liveness", CONNECTION)
        pair.run(1.0)
        assert [sent.header.message_id for sent in pair.sent] == [0, 0]
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_17_rekey_with_several_key_exchanges(side):
    text = "aes128gcm16-prfsha256-x25519-ke1_x448"
    pair = connected(both={"ike_proposals": (parse_ike_proposal(text),)})
    pair.do(side, "rekey_ike", CONNECTION)
    pair.run(1.0)
    kinds = [line.split(":")[0][6:] for line in transcript(pair)]
    assert kinds == [kind for kind in EXCHANGES for _ in SIDES]
    pair.agreed()


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("lowest", NONCES)
def test_case_18_both_rekey_at_once_and_the_lowest_nonce_loses(lowest, first):
    pair, post = crossed("rekey_ike", lowest)
    children = pair.spis(0)
    post.deliver(create(first)[1], create(1 - first)[1])
    post.open(LONG)
    reasons = [n.details["reason"] for n in pair.events("ike_gone", redundant_at(lowest))]
    assert sorted(reasons) == ["redundant", "rekeyed"]
    assert pair.spis(0) == children
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lowest", NONCES)
def test_case_18_response_after_everything_that_the_peer_does(side, lowest):
    pair, post = crossed("rekey_ike", lowest)
    post.deliver(create(1 - side)[1])
    while info(1 - side)[0] in post.names:
        post.deliver(*info(1 - side))
    if create(side)[1] in post.names:
        post.deliver(create(side)[1])
    post.open(LONG)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("fate", ["late", "past the delete", "lost"])
def test_case_18_request_that_its_receiver_does_not_see_in_time(side, fate):
    pair, post = colliding(BOTH_REKEY)
    late = post.take(create(side)[0])
    post.deliver(*create(1 - side))
    if fate != "late":
        post.deliver(*info(1 - side))
    if fate != "lost":
        post.deliver_sent(late)
    post.open(LONG)
    assert len(pair.events("ike_rekeyed", side)) == 1
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("lost", [None, "delete", "rekey"])
def test_case_18_delete_against_rekey(side, lost):
    pair, post = colliding(("delete_ike", "rekey_ike")[:: 1 - 2 * side])
    if lost is not None:
        post.take(info(side)[0] if lost == "delete" else create(1 - side)[0])
    else:
        post.deliver(create(1 - side)[0])
        assert "N(TEMPORARY_FAILURE)" in transcript(pair)[-1]
    post.open(LONG)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("method", ["delete_child", "delete_ike"])
def test_case_19_two_deletes_cross(method, first):
    pair, post = colliding((method, method))
    post.deliver(info(first)[0], info(1 - first)[0])
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    assert len(pair.ike_spis(0)) == len(pair.ike_spis(1)) == (method == "delete_child")
    for side in SIDES:
        assert len(pair.events("child_gone", side)) == 1


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("first", SIDES)
def test_case_19_delete_of_a_child_sa_against_the_rekey_of_its_ike_sa(side, first):
    pair, post = colliding(("delete_child", "rekey_ike")[:: 1 - 2 * side])
    requests = info(side)[0], create(1 - side)[0]
    post.deliver(*requests[:: 1 - 2 * first])
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert len(pair.ike_spis(0)) == 1
