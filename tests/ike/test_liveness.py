"""Liveness checks: a dead peer is found, and whatever it sends counts as a sign of life."""

import pytest
from pair import CONNECTION, make_pair
from transcript import transcript

from ipseclab.ike.config import Retransmission

SCHEDULE = Retransmission(timeout=1.0, base=2.0, tries=2)  # gives up after 7 s
WATCHFUL = {"liveness": 30.0, "retransmission": SCHEDULE}


@pytest.mark.rfc("7296", "4", "MUST", "answer-informational")
@pytest.mark.rfc("7296", "1.4", "MUST", "answer")
@pytest.mark.rfc("7296", "1.4", "MAY", "empty")
def test_silence_is_asked_about_and_the_answer_is_empty():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    start = len(pair.sent)
    pair.run(30.0)
    assert transcript(pair, first=start) == [
        "a --> INFORMATIONAL: SK {}",
        "b <-- INFORMATIONAL: SK {}",
    ]
    assert pair.sent[start].at == pytest.approx(30.04)
    pair.run(90.0)
    times = [at for at, _, n in pair.notices if n.event == "liveness_confirmed"]
    assert times == pytest.approx([30.06, 60.08, 90.10, 120.12])


@pytest.mark.rfc("7296", "2.4", "MUST", "dead-by-silence")
def test_dead_peer_is_found_and_its_child_sas_go_with_it():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    pair.fate = lambda sent: ()
    pair.run(36.0)  # 30 s after the last response, 7 s of retransmissions, less 0.04
    assert pair.a.ike.ike_sas
    pair.run(0.1)
    assert not pair.a.ike.ike_sas
    assert not pair.a.ike.child_sas
    assert [n.details["reason"] for n in pair.events("child_gone", 0)] == ["ike_gone"]


def test_traffic_from_the_peer_is_a_sign_of_life():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    start = len(pair.sent)
    for number in range(30):
        pair.send(1, number)
        pair.run(10.0)
    assert not [s for s in pair.sent[start:] if s.header is not None]
    last = pair.now - 10.0 + pair.delay
    pair.run(40.0)
    checks = [s for s in pair.sent[start:] if s.header is not None]
    assert checks[0].at == pytest.approx(last + 30.0)


def test_own_traffic_is_no_sign_of_life_of_the_peer():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    pair.fate = lambda sent: ()
    for number in range(10):
        pair.send(0, number)
        pair.run(4.0)
    assert not pair.events("child_active", 1)[1:]
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["no answer"]


def test_after_a_dead_peer_traffic_sets_up_the_connection_anew():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    pair.fate = lambda sent: ()
    pair.run(40.0)
    pair.fate = lambda sent: (0.0,)
    packet = pair.send(0)
    pair.run(1.0)
    assert pair.delivered[1] == [packet]


def test_check_by_hand():
    pair = make_pair()
    pair.connect()
    pair.do(1, "check_liveness", CONNECTION)
    pair.run(1.0)
    assert len(pair.events("liveness_confirmed", 1)) == 1


def test_both_ends_check_at_once():
    pair = make_pair(both=WATCHFUL)
    pair.connect()
    pair.run(300.0)
    assert pair.events("liveness_confirmed")
    pair.agreed()


def test_liveness_goes_on_after_a_rekey_of_the_ike_sa():
    pair = make_pair(a=WATCHFUL)
    pair.connect()
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(10.0)
    pair.fate = lambda sent: ()
    pair.run(40.0)
    assert not pair.a.ike.ike_sas
