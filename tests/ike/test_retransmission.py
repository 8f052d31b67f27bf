"""Requests sent again: when exactly, how often, and what a repeated request does (section 2.1)."""

from itertools import pairwise

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, make_pair
from transcript import ike_octets

from ipseclab.ike.config import Retransmission
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload


def silenced(schedule):
    """A connected pair whose path then loses everything; when it was cut."""
    pair = make_pair(both={"retransmission": schedule})
    pair.connect()
    pair.sent.clear()
    pair.fate = lambda sent: ()
    return pair, pair.now


@pytest.mark.rfc("7296", "2.1", "MUST", "until-answered")
@pytest.mark.rfc("7296", "2.1", "MUST", "same-octets")
@pytest.mark.rfc("7296", "2.2", "MUST", "same-message-id")
@pytest.mark.rfc("7296", "2.4", "MUST", "back-off")
@pytest.mark.parametrize(
    ("schedule", "times", "failure"),
    [
        (Retransmission(), [0.0, 4.0, 11.2, 24.16, 47.488, 89.4784], 165.06112),
        (Retransmission(timeout=1.0, base=2.0, tries=3), [0.0, 1.0, 3.0, 7.0], 15.0),
        (Retransmission(timeout=1.0, base=2.0, tries=4, limit=3.0), [0, 1, 3, 6, 9], 12.0),
        (Retransmission(timeout=0.5, base=1.0, tries=2), [0.0, 0.5, 1.0], 1.5),
        (Retransmission(timeout=2.0, tries=0), [0.0], 2.0),
    ],
)
def test_exact_times_of_retransmissions_and_of_giving_up(schedule, times, failure):
    pair, start = silenced(schedule)
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(failure + 1.0)
    assert [sent.at - start for sent in pair.sent] == pytest.approx(times)
    assert len({sent.item.data for sent in pair.sent}) == 1
    gone = [(at, n) for at, side, n in pair.notices if n.event == "ike_gone" and side == 0]
    assert [at - start for at, _ in gone] == pytest.approx([failure])
    assert gone[0][1].details["reason"] == "no answer"
    assert not pair.a.ike.ike_sas
    assert not pair.a.ike.child_sas


def test_each_repeat_is_numbered_in_the_trace():
    pair, _start = silenced(Retransmission(timeout=1.0, tries=3))
    pair.notices.clear()
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(60.0)
    assert [n.details["retransmission"] for n in pair.events("ike_sent", 0)] == [0, 1, 2, 3]


def test_jitter_shortens_each_wait_by_at_most_its_fraction():
    pair, start = silenced(Retransmission(timeout=1.0, base=1.0, tries=200, jitter=0.4))
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(300.0)
    times = [sent.at - start for sent in pair.sent]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert len(waits) == 200
    assert min(waits) >= 0.6
    assert max(waits) <= 1.0
    assert sum(waits) / 200 == pytest.approx(0.8, abs=0.03)


@pytest.mark.rfc("7296", "2.1", "MUST", "keep-request")
def test_lost_ike_sa_init_and_ike_auth_are_sent_again_and_the_connection_stands():
    pair = make_pair()
    pair.fate = lambda sent: () if sent.index in (0, 2, 4) else (0.0,)
    pair.do(0, "initiate", CONNECTION)
    pair.run(40.0)
    assert sum(bool(n.details["retransmission"]) for n in pair.events("ike_sent", 0)) == 3
    pair.agreed()


def test_handshake_without_any_answer_fails_in_the_end():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    pair.run(165.0)
    assert not pair.events("ike_failed")
    pair.run(0.1)
    (failed,) = pair.events("ike_failed", 0)
    assert failed.details["reason"] == "no answer"
    assert not any({**pair.a.ike.table_sizes, "counters": 0}.values())


@pytest.mark.rfc("7296", "2.1", "MUST", "repeat-without-effect")
@pytest.mark.parametrize("method", ["rekey_child", "rekey_ike", "create_child", "check_liveness"])
def test_repeated_request_gets_the_same_octets_and_has_no_second_effect(method):
    pair = make_pair()
    pair.connect()
    start = len(pair.sent)
    pair.do(0, method, CONNECTION)
    request = pair.sent[start]
    pair.run(0.015)  # b has answered, a has not heard yet
    response = pair.sent[start + 1]
    events, children = len(pair.notices), pair.spis(1)
    for _ in range(3):
        (again,) = receive(pair, 1, ike_octets(request))
        assert ike_octets(again) == ike_octets(response)
    assert [n.event for _, _, n in pair.notices[events:]] == ["ike_received", "ike_sent"] * 3
    assert pair.spis(1) == children
    pair.run(1.0)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)


def test_closed_ike_sa_still_answers_a_repeat_of_the_delete():
    pair = make_pair()
    pair.connect()
    lost = []

    def lose_first_response(sent):
        if sent.is_ike(ExchangeType.INFORMATIONAL, response=True) and not lost:
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_first_response
    pair.do(0, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert not pair.b.ike.ike_sas
    assert pair.a.ike.ike_sas
    pair.run(5.0)
    assert not pair.a.ike.ike_sas
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["deleted"]
    assert pair.b.counters["ike.repeated_requests"] == 1


@pytest.mark.rfc("7296", "2.1", "MUST", "forgotten-response")
def test_message_ids_outside_the_window_of_one_are_dropped():
    pair = make_pair()
    pair.connect()
    sa = ike_sa(pair, 0)
    for message_id in (0, 1, 3, 4, 0xFFFFFFFF):
        octets = forge(pair, 0, ExchangeType.INFORMATIONAL, message_id=message_id)
        assert receive(pair, 1, octets) == []
    assert pair.b.counters["ike.message_id"] == 5
    assert sa.next_message_id == 2
    assert len(receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL))) == 1


@pytest.mark.rfc("7296", "3.1", "MUST NOT", "answer-response")
def test_response_that_was_not_asked_for_is_dropped():
    pair = make_pair()
    pair.connect()
    for message_id in (0, 1, 2):
        octets = forge(pair, 1, ExchangeType.INFORMATIONAL, message_id=message_id, response=True)
        assert receive(pair, 0, octets) == []
    assert pair.a.counters["ike.unexpected_response"] == 3
    pair.agreed()


def test_response_of_another_exchange_than_the_request_is_dropped():
    pair = make_pair()
    pair.connect()
    pair.fate = lambda sent: ()
    pair.do(0, "check_liveness", CONNECTION)
    octets = forge(pair, 1, ExchangeType.CREATE_CHILD_SA, message_id=2, response=True)
    assert receive(pair, 0, octets) == []
    assert pair.a.counters["ike.unexpected_response"] == 1


@pytest.mark.rfc("7296", "2.2", "MUST", "no-wrap")
def test_message_ids_do_not_wrap():
    """Section 2.2: the IKE_SA is closed first."""
    pair = make_pair()
    pair.connect()
    a, b = ike_sa(pair, 0), ike_sa(pair, 1)
    a.next_message_id = b.expected_message_id = 0xFFFFFFFF
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(1.0)
    assert pair.events("liveness_confirmed", 0)
    pair.do(0, "check_liveness", CONNECTION)
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["message IDs exhausted"]


@pytest.mark.rfc("7296", "2.3", "MUST", "one-at-once")
def test_one_request_is_out_at_once_the_others_wait_their_turn():
    pair = make_pair()
    pair.connect()
    start = len(pair.sent)
    for method in ("rekey_child", "check_liveness", "create_child"):
        pair.do(0, method, CONNECTION)
    assert len(pair.sent) == start + 1
    pair.run(5.0)
    requests = [s.header for s in pair.sent[start:] if s.header and not s.header.response]
    assert [header.message_id for header in requests] == [2, 3, 4, 5]
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "1.4", "MUST", "after-auth")
@pytest.mark.rfc("7296", "2.4", "MAY", "ignore-unprotected")
def test_unprotected_message_of_an_established_ike_sa_is_dropped():
    pair = make_pair()
    pair.connect()
    sa = ike_sa(pair, 0)
    plain = Message(
        sa.spi_i,
        sa.spi_r,
        ExchangeType.INFORMATIONAL,
        True,
        False,
        2,
        (NotifyPayload(NotifyType.INVALID_IKE_SPI),),
    )
    assert receive(pair, 1, plain.encode()) == []
    assert pair.b.counters["ike.malformed"] == 1
    pair.agreed()
