"""Exchanges that collide, as RFC 7296 sections 2.8.1, 2.8.2 and 2.25 tell them, message by message.

`test_every_order.py` walks through all orders; here are the ones that have a name, each with the
lowest of the four nonces in each of the four messages.
"""

import collide
import pytest
from collide import LONG, NONCES, create, crossed, info, redundant_at
from forge import forge, ike_sa, receive
from pair import CONNECTION, make_pair
from post import Post
from transcript import opened, transcript

from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.sa import ChildState
from ipseclab.registry import ExchangeType, ProtocolId
from ipseclab.wire.payloads import DeletePayload

CREATE_A, CREATE_B = create(0), create(1)
INFO_A, INFO_B = info(0), info(1)


def colliding(method, seed, **options):
    """A connected pair whose ends have both sent `method`'s request, and the post with it all."""
    return collide.colliding((method, method), seed, **options)


# Section 2.8.1.


@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "rekey-rekeying")
@pytest.mark.rfc("7296", "2.3", "MUST", "answer-while-waiting")
@pytest.mark.rfc("7296", "2.8.1", "SHOULD", "lowest-nonce")
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("lowest", NONCES)
def test_child_sa_with_the_lowest_nonce_is_closed_by_the_end_that_made_it(lowest, first):
    pair, post = crossed("rekey_child", lowest)
    responses = (CREATE_A[1], CREATE_B[1])
    post.deliver(*responses[:: 1 - 2 * first])
    loser, winner = "ab"[redundant_at(lowest)], "ab"[1 - redundant_at(lowest)]
    deletes = [line for line in transcript(pair) if "D(ESP)" in line]
    assert sorted(deletes) == sorted(
        [f"{loser} --> INFORMATIONAL: SK {{D(ESP)}}", f"{winner} --> INFORMATIONAL: SK {{D(ESP)}}"]
    )
    (new,) = pair.gateways[redundant_at(lowest)].ike.child_sas[2:] or [None]
    assert new is not None
    post.open(LONG)
    reasons = [n.details["reason"] for n in pair.events("child_gone", redundant_at(lowest))]
    assert sorted(reasons) == ["redundant", "rekeyed"]
    assert not any("CHILD_SA_NOT_FOUND" in line for line in transcript(pair))
    pair.agreed()


@pytest.mark.parametrize("lowest", NONCES)
def test_response_that_comes_after_the_peers_delete_of_the_old_sa(lowest):
    pair, post = crossed("rekey_child", lowest)
    post.deliver(CREATE_B[1])  # b has its response
    while "b INFORMATIONAL request" in post.names:
        post.deliver(*INFO_B)  # and closes what it has to close
    post.deliver(CREATE_A[1])
    post.open(LONG)
    pair.agreed()


@pytest.mark.parametrize("lowest", CREATE_A)
def test_response_that_comes_after_the_peer_deleted_the_new_sa_too(lowest):
    pair, post = crossed("rekey_child", lowest)
    post.deliver(CREATE_B[1])
    post.deliver(*INFO_B)
    pair.do(1, "delete_child", CONNECTION)
    post.deliver(*INFO_B)
    post.deliver(CREATE_A[1])
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()


@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "rekey-unknown")
def test_request_that_comes_after_the_old_sa_is_gone_is_told_so_and_that_is_ignored():
    """The second sequence of section 2.8.1."""
    pair, post = colliding("rekey_child", 1)
    late = post.take(CREATE_A[0])
    post.deliver(*CREATE_B, *INFO_B)
    post.deliver_sent(late)
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {N(CHILD_SA_NOT_FOUND)}"
    post.deliver(CREATE_A[1])
    assert post.names == []
    post.open(LONG)
    pair.agreed()


@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "rekey-closing")
def test_request_for_an_sa_that_is_being_closed_is_put_off_and_then_needless():
    pair, post = colliding("rekey_child", 1)
    late = post.take(CREATE_A[0])
    post.deliver(*CREATE_B)
    assert post.names == ["b INFORMATIONAL request"]
    post.deliver_sent(late)
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}"
    start = len(pair.sent)
    post.open(LONG)
    assert not [line for line in transcript(pair, first=start) if "REKEY_SA" in line]
    pair.agreed()


def test_surviving_sa_deleted_after_a_request_that_was_too_late():
    pair, post = colliding("rekey_child", 1)
    late = post.take(CREATE_A[0])
    post.deliver(*CREATE_B, *INFO_B)
    pair.do(1, "delete_child", CONNECTION)
    post.deliver(*INFO_B)
    post.deliver_sent(late)
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()


@pytest.mark.parametrize("delayed", [None, 0, 1])
def test_both_are_asked_for_another_group_and_try_again(delayed):
    pair, post = colliding(
        "rekey_child",
        3,
        a={"esp_proposals": (parse_esp_proposal("aes128gcm16-ecp256-x25519"),)},
        b={"esp_proposals": (parse_esp_proposal("aes128gcm16-x25519-ecp256"),)},
    )
    post.deliver(CREATE_A[0], CREATE_B[0])
    refusals = [line for line in transcript(pair) if "INVALID_KE_PAYLOAD" in line]
    assert len(refusals) == 2
    post.deliver(CREATE_A[1], CREATE_B[1])
    if delayed is not None:
        late = post.take((CREATE_A, CREATE_B)[delayed][0])
        post.deliver(*(CREATE_B, CREATE_A)[delayed])
        post.deliver(*(INFO_B, INFO_A)[delayed])
        post.deliver_sent(late)
    post.open(LONG)
    pair.agreed()


@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "rekey-closing")
@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "close-rekeying")
def test_rekey_against_delete_of_the_same_sa():
    pair = make_pair()
    pair.connect()
    pair.sent.clear()
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    pair.do(1, "delete_child", CONNECTION)
    post.deliver(CREATE_A[0])
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}"
    post.deliver("b INFORMATIONAL request")
    assert transcript(pair)[-1] == "a <-- INFORMATIONAL: SK {D(ESP)}"
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    assert len(pair.ike_spis(0)) == 1


@pytest.mark.parametrize("lost", [CREATE_A[0], "b INFORMATIONAL request"])
def test_rekey_against_delete_with_one_of_the_requests_lost(lost):
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    pair.do(1, "delete_child", CONNECTION)
    post.take(lost)
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.ike_spis(0)) == 1


@pytest.mark.rfc("7296", "1.4.1", "MUST", "crossing-deletes")
@pytest.mark.rfc("7296", "1.4.1", "MUST NOT", "crossing-answers")
@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "close-closing")
def test_two_deletes_of_one_child_sa_cross_and_neither_answer_names_it():
    """Section 1.4.1: "the responses MUST NOT include Delete payloads"."""
    pair, post = colliding("delete_child", 1)
    post.deliver(INFO_A[0], INFO_B[0])
    assert transcript(pair)[-2:] == [
        "b <-- INFORMATIONAL: SK {}",
        "a <-- INFORMATIONAL: SK {}",
    ]
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    for side in (0, 1):
        assert len(pair.events("child_gone", side)) == 1


@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "close-closing")
def test_two_deletes_of_the_ike_sa_cross():
    pair, post = colliding("delete_ike", 1)
    post.deliver(INFO_A[0], INFO_B[0])
    post.open(LONG)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


def test_wrong_peer_deletes_the_old_sa_although_it_did_not_rekey_it():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    (old,) = pair.b.ike.child_sas
    pair.do(0, "rekey_child", CONNECTION)
    post.deliver(*CREATE_A)
    delete = DeletePayload(ProtocolId.ESP, (old.spi_in,))
    receive(pair, 0, forge(pair, 1, ExchangeType.INFORMATIONAL, delete))
    ike_sa(pair, 1).next_message_id += 1
    post.open(LONG)
    assert len(pair.spis(0)) == 1
    assert pair.spis(0) == pair.spis(1)


# Section 2.8.2.


@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "rekey-rekeying")
@pytest.mark.rfc("7296", "2.8.2", "SHOULD", "lowest-nonce")
@pytest.mark.rfc("7296", "2.8.2", "MUST", "inherit")
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("lowest", NONCES)
def test_ike_sa_with_the_lowest_nonce_is_closed_and_the_other_inherits_the_children(lowest, first):
    pair, post = crossed("rekey_ike", lowest)
    children = pair.spis(0)
    post.deliver(*(CREATE_A[1], CREATE_B[1])[:: 1 - 2 * first])
    post.open(LONG)
    loser = redundant_at(lowest)
    survivor = opened_new_spis(pair, winner=1 - loser)
    assert pair.ike_spis(0) == pair.ike_spis(1) == {survivor}
    reasons = sorted(str(n.details["reason"]) for n in pair.events("ike_gone", loser))
    assert reasons == ["redundant", "rekeyed"]
    assert pair.spis(0) == pair.spis(1) == children
    pair.agreed()


def opened_new_spis(pair, winner):
    """The SPIs of the IKE_SA that `winner`'s rekey made, from the proposals of its exchange."""
    names = (CREATE_A, CREATE_B)[winner]
    spis = []
    for name in names:
        sender, kind = "ab".index(name[0]), name.endswith("response")
        sent = next(
            s
            for s in pair.sent
            if s.sender == sender and s.is_ike(ExchangeType.CREATE_CHILD_SA, response=kind)
        )
        spis.append(opened(pair, sent)[1][0].proposals[0].spi)
    return tuple(spis)


@pytest.mark.rfc("7296", "2.8.2", "SHOULD", "late-rekey")
def test_end_that_did_not_notice_the_collision_answers_temporary_failure():
    pair, post = colliding("rekey_ike", 1)
    late = post.take(CREATE_A[0])
    post.deliver(*CREATE_B)  # b is through before it hears of a's
    assert post.names == ["b INFORMATIONAL request"]
    post.deliver_sent(late)
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}"
    post.open(LONG)
    assert pair.ike_spis(0) == {opened_new_spis(pair, winner=1)}
    pair.agreed()


@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "close-rekeying")
def test_delete_of_the_old_ike_sa_makes_the_end_that_noticed_forget_its_own_rekey():
    """The drawing of section 2.8.2: request 2 never arrives, and is not sent again after D()."""
    pair, post = colliding("rekey_ike", 1)
    post.take(CREATE_A[0])
    post.deliver(*CREATE_B, *INFO_B)
    assert pair.ike_spis(0) == pair.ike_spis(1) == {opened_new_spis(pair, winner=1)}
    start = len(pair.sent)
    post.open(LONG)
    assert len(pair.sent) == start
    pair.agreed()


@pytest.mark.parametrize("method", ["check_liveness", "create_child", "delete_child"])
def test_peer_that_uses_the_new_ike_sa_shows_that_it_survives(method):
    """b knows all four nonces and starts on the new IKE_SA, while its DELETE of the old one and its
    response to a are still on the way."""
    pair, post = crossed("rekey_ike", CREATE_A[0])
    post.deliver(CREATE_B[1])
    pair.do(1, method, CONNECTION)
    requests = [sent for sent in post.held if sent.header and not sent.header.response]
    on_the_new = next(sent for sent in requests if sent.header.message_id == 0)
    post.deliver_sent(on_the_new)
    assert len(pair.events("ike_rekeyed", 0)) == 1
    post.open(LONG)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert len(pair.ike_spis(0)) == 1
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.spis(0)) == {"create_child": 2, "delete_child": 0}.get(method, 1)


@pytest.mark.parametrize("lowest", NONCES)
def test_both_rekeys_of_the_ike_sa_are_asked_for_another_group(lowest):
    pair, post = colliding(
        "rekey_ike",
        NONCES.index(lowest) + 1,
        a={"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256-x25519"),)},
        b={"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519-ecp256"),)},
    )
    post.deliver(CREATE_A[0], CREATE_B[0])
    assert sum("INVALID_KE_PAYLOAD" in line for line in transcript(pair)) == 2
    post.open(LONG)
    pair.agreed()


@pytest.mark.rfc("7296", "1.4", "MUST", "own-ike-sa")
@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "rekey-closing")
@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "close-rekeying")
def test_delete_of_the_ike_sa_against_its_rekey():
    pair = make_pair()
    pair.connect()
    pair.sent.clear()
    post = Post(pair)
    pair.do(0, "delete_ike", CONNECTION)
    pair.do(1, "rekey_ike", CONNECTION)
    post.deliver(CREATE_B[0])
    assert transcript(pair)[-1] == "a <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}"
    post.deliver(INFO_A[0])
    post.open(LONG)
    assert not pair.ike_spis(0)
    assert not pair.ike_spis(1)


def test_bounce_of_the_link_during_the_rekey_does_not_delete_the_new_ike_sa():
    """Case 35: everything after the rekey's response is lost for a minute."""
    pair = make_pair()
    pair.connect()
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(0.015)
    pair.fate = lambda sent: ()
    pair.run(60.0)
    pair.fate = lambda sent: (0.0,)
    pair.run(LONG)
    pair.agreed()
    assert not [n for n in pair.events("ike_gone") if n.details["reason"] == "no answer"]


# Section 2.25: one end at the IKE_SA, the other at a CHILD_SA.


@pytest.mark.rfc("7296", "2.25", "SHOULD", "temporary-failure")
@pytest.mark.rfc("7296", "2.25", "MUST NOT", "retry-at-once")
@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "rekey-ike-busy")
@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "child-while-rekeying")
@pytest.mark.parametrize("method", ["rekey_child", "create_child"])
def test_child_exchange_against_a_rekey_of_the_ike_sa_is_put_off_at_both_ends(method):
    pair = make_pair()
    pair.connect()
    pair.sent.clear()
    post = Post(pair)
    pair.do(0, method, CONNECTION)
    pair.do(1, "rekey_ike", CONNECTION)
    post.deliver(CREATE_A[0], CREATE_B[0])
    assert transcript(pair)[-2:] == [
        "b <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}",
        "a <-- CREATE_CHILD_SA: SK {N(TEMPORARY_FAILURE)}",
    ]
    start, moment = len(pair.sent), pair.now
    post.open(LONG)
    assert pair.sent[start].at - moment >= 1.0  # "MUST NOT immediately retry"
    assert pair.events("ike_rekeyed", 0)
    assert len(pair.spis(0)) == (2 if method == "create_child" else 1)
    assert pair.spis(0) == pair.spis(1)
    assert pair.ike_spis(0) == pair.ike_spis(1)


@pytest.mark.rfc("7296", "2.25.2", "SHOULD", "close-child-while-rekeying")
def test_delete_of_a_child_sa_during_the_rekey_of_its_ike_sa_is_answered_as_usual():
    pair = make_pair()
    pair.connect()
    pair.sent.clear()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    pair.do(1, "delete_child", CONNECTION)
    post.deliver("b INFORMATIONAL request")
    assert transcript(pair)[-1] == "a <-- INFORMATIONAL: SK {D(ESP)}"
    post.open(LONG)
    assert pair.spis(0) == pair.spis(1) == set()
    assert pair.ike_spis(0) == pair.ike_spis(1)


@pytest.mark.rfc("7296", "2.25", "MAY", "retry")
@pytest.mark.rfc("7296", "2.25", "SHOULD", "out-of-step")
def test_temporary_failure_for_minutes_closes_the_ike_sa():
    """Section 2.25: the state is out of step. The peer here never has time."""
    pair = make_pair()
    pair.connect()
    (busy,) = pair.b.ike.child_sas
    busy.state = ChildState.DELETING
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(600.0)
    starts = [at for at, _, n in pair.notices if n.event == "rekey_started"]
    assert len(starts) > 5
    assert starts[-1] - starts[0] > 240.0
    assert "TEMPORARY_FAILURE" in str(pair.events("ike_gone", 0)[0].details["reason"])
    assert not pair.ike_spis(1)
