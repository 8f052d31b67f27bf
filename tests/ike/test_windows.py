"""Windows above 1 (RFC 7296 section 2.3): several requests at once, answered in any order."""

import random

import pytest
from forge import forge, ike_sa, receive
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CONNECTION, make_pair
from post import Post
from transcript import ike_octets, transcript

from ipseclab.ike.config import Retransmission
from ipseclab.ike.sa import PeerRequest
from ipseclab.ike.window import MAX_WINDOW
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.payloads import NotifyPayload

WINDOW = 4


def wide_pair(**options):
    options = {"both": {"window": WINDOW}, **options}
    pair = make_pair(**options)
    pair.connect()
    return pair


def set_window(data):
    return NotifyPayload(NotifyType.SET_WINDOW_SIZE, data)


def requests_of(pair, side, start):
    return [
        sent.header.message_id
        for sent in pair.sent[start:]
        if sent.sender == side and sent.header and not sent.header.response
    ]


def test_each_end_says_how_much_it_takes():
    pair = wide_pair()
    said = [line for line in transcript(pair) if "SET_WINDOW_SIZE" in line]
    assert said == [
        "b --> INFORMATIONAL: SK {N(SET_WINDOW_SIZE)}",
        "a --> INFORMATIONAL: SK {N(SET_WINDOW_SIZE)}",
    ]
    for side in (0, 1):
        assert (ike_sa(pair, side).own_window, ike_sa(pair, side).peer_window) == (WINDOW, WINDOW)
    pair.agreed()


@pytest.mark.rfc("7296", "2.3", "MUST", "set-window-octets")
def test_only_the_end_with_a_larger_window_says_so():
    pair = wide_pair(both={}, b={"window": 9})
    assert sum("SET_WINDOW_SIZE" in line for line in transcript(pair)) == 1
    assert (ike_sa(pair, 0).peer_window, ike_sa(pair, 1).peer_window) == (9, 1)


@pytest.mark.rfc("7296", "2.3", "MAY", "several-at-once")
@pytest.mark.rfc("7296", "2.3", "MUST NOT", "beyond-window")
def test_as_many_requests_as_the_window_has_are_out_at_once():
    pair = wide_pair()
    start = len(pair.sent)
    for _ in range(6):
        pair.do(0, "create_child", CONNECTION)
    assert requests_of(pair, 0, start) == [3, 4, 5, 6]
    pair.run(2.0)
    assert requests_of(pair, 0, start) == [3, 4, 5, 6, 7, 8]
    assert len(pair.spis(0)) == 7
    assert pair.spis(0) == pair.spis(1)


def test_responses_in_the_opposite_order():
    pair = wide_pair()
    post = Post(pair)
    for _ in range(WINDOW):
        pair.do(0, "create_child", CONNECTION)
    post.deliver(*["a CREATE_CHILD_SA request"] * WINDOW)
    answers = [post.take("b CREATE_CHILD_SA response") for _ in range(WINDOW)]
    for answer in reversed(answers):
        post.deliver_sent(answer)
    assert not ike_sa(pair, 0).own_requests
    assert len(pair.spis(0)) == WINDOW + 1
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "2.1", "MUST", "keep-response")
@pytest.mark.rfc("7296", "2.3", "MUST", "keep-window-of-responses")
def test_requests_in_the_opposite_order_and_repeats_of_each_get_their_own_response():
    pair = wide_pair()
    post = Post(pair)
    for _ in range(WINDOW):
        pair.do(0, "create_child", CONNECTION)
    requests = [post.take("a CREATE_CHILD_SA request") for _ in range(WINDOW)]
    for request in reversed(requests):
        post.deliver_sent(request)
    answers = {s.header.message_id: ike_octets(s) for s in post.held}
    assert sorted(answers) == [r.header.message_id for r in requests]
    children = pair.spis(1)
    for request in requests:
        (again,) = receive(pair, 1, ike_octets(request))
        assert ike_octets(again) == answers[request.header.message_id]
    assert pair.spis(1) == children
    assert pair.b.counters["ike.repeated_requests"] == WINDOW
    post.open(1.0)
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "2.3", "MUST NOT", "acknowledge-invalid-id")
def test_a_request_beyond_the_window_is_dropped():
    pair = wide_pair()
    first = ike_sa(pair, 0).next_message_id
    for number in (first - 1, first + WINDOW, 0xFFFFFFFF):
        octets = forge(pair, 0, ExchangeType.INFORMATIONAL, message_id=number)
        assert receive(pair, 1, octets) == []
    assert pair.b.counters["ike.message_id"] == 3
    last = forge(pair, 0, ExchangeType.INFORMATIONAL, message_id=first + WINDOW - 1)
    assert len(receive(pair, 1, last)) == 1
    # The one at the window's far end does not move it: those before it are missing still.
    beyond = forge(pair, 0, ExchangeType.INFORMATIONAL, message_id=first + WINDOW)
    assert receive(pair, 1, beyond) == []


@pytest.mark.rfc("7296", "2.3", "MUST", "window-moves")
def test_a_lost_request_holds_the_window_back_until_it_is_sent_again():
    pair = wide_pair(both={"window": WINDOW, "retransmission": Retransmission(timeout=1.0)})
    start = len(pair.sent)
    lost = ike_sa(pair, 0).next_message_id
    drops = []

    def lose_the_first(sent):
        if sent.sender == 0 and sent.header and sent.header.message_id == lost and not drops:
            drops.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_the_first
    for _ in range(3 * WINDOW):
        pair.do(0, "check_liveness", CONNECTION)
    pair.run(0.5)
    assert requests_of(pair, 0, start) == [lost + number for number in range(WINDOW)]
    pair.run(2.0)
    sent = requests_of(pair, 0, start)
    assert sent.count(lost) == 2
    assert sorted(set(sent)) == [lost + number for number in range(3 * WINDOW)]
    assert len(pair.events("liveness_confirmed", 0)) == 3 * WINDOW


@pytest.mark.rfc("7296", "2.3", "MUST", "keep-each-request")
def test_each_request_has_a_retransmission_schedule_of_its_own():
    pair = wide_pair(both={"window": WINDOW, "retransmission": Retransmission(1.0, 2.0, 3)})
    pair.sent.clear()
    pair.fate = lambda sent: ()
    start = pair.now
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(0.25)
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(20.0)
    times = {}
    for sent in pair.sent:
        times.setdefault(sent.header.message_id, []).append(sent.at - start)
    assert list(times.values()) == [
        pytest.approx([0.0, 1.0, 3.0, 7.0]),
        pytest.approx([0.25, 1.25, 3.25, 7.25]),
    ]
    (gone,) = [at for at, side, n in pair.notices if n.event == "ike_gone" and side == 0]
    assert gone - start == pytest.approx(15.0)


def test_what_concerns_the_same_child_sa_waits_and_the_rest_overlaps():
    pair = wide_pair()
    start = len(pair.sent)
    pair.do(0, "rekey_child", CONNECTION)
    pair.do(0, "check_liveness", CONNECTION)
    pair.do(0, "delete_child", CONNECTION)
    assert len(requests_of(pair, 0, start)) == 2
    pair.run(2.0)
    assert pair.spis(0) == pair.spis(1) == set()


@pytest.mark.rfc("7296", "1.3.2", "SHOULD NOT", "create-while-rekeyed")
@pytest.mark.parametrize("method", ["rekey_ike", "delete_ike"])
def test_rekey_and_delete_of_the_ike_sa_go_alone(method):
    pair = wide_pair()
    start = len(pair.sent)
    pair.do(0, "create_child", CONNECTION)
    pair.do(0, method, CONNECTION)
    pair.do(0, "create_child", CONNECTION)
    before = len(requests_of(pair, 0, start))
    assert before == 1
    pair.run(5.0)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    assert len(pair.spis(0)) == (0 if method == "delete_ike" else 3)


def test_a_rekeyed_ike_sa_begins_with_a_window_of_one_and_says_its_own_anew():
    pair = wide_pair()
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(2.0)
    assert sum("SET_WINDOW_SIZE" in line for line in transcript(pair)) == 4
    assert ike_sa(pair, 0).own_window == ike_sa(pair, 0).peer_window == WINDOW
    pair.agreed()


@pytest.mark.rfc("7296", "2.3", "MUST", "set-window-octets")
@pytest.mark.parametrize("data", [b"", b"\0\0\4", bytes(4), bytes(5)])
def test_a_window_that_is_no_number_is_invalid_syntax(data):
    pair = make_pair()
    pair.connect()
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL, set_window(data))
    receive(pair, 1, octets)
    assert pair.b.counters["ike.invalid_syntax"] == 1


def test_a_peer_that_allows_everything_gets_our_limit():
    pair = make_pair()
    pair.connect()
    octets = forge(pair, 0, ExchangeType.INFORMATIONAL, set_window(b"\xff" * 4))
    receive(pair, 1, octets)
    assert ike_sa(pair, 1).peer_window == MAX_WINDOW
    start = len(pair.sent)
    for _ in range(2 * MAX_WINDOW):
        pair.do(1, "check_liveness", CONNECTION)
    assert len(requests_of(pair, 1, start)) == MAX_WINDOW


@given(st.integers(1, 8), st.integers(0, 1000))
def test_the_window_moves_over_answered_requests_in_any_order(size, seed):
    """Against a model: every number is taken once, and only within the window."""
    pair = make_pair()
    pair.connect()
    sa, rng = ike_sa(pair, 1), random.Random(seed)
    sa.own_window, taken = size, {0, 1}
    for _ in range(60):
        lowest = next(number for number in range(2, 99) if number not in taken)
        number = lowest + rng.randrange(-2, size + 2)
        allowed = number not in taken and lowest <= number < lowest + size
        assert sa.may_receive(number) is allowed
        if allowed:
            sa.remember(PeerRequest(number, b"octets"))
            taken.add(number)
            assert len(sa.answered) <= size
            assert number in sa.answered


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_stormy_path_leaves_both_ends_with_the_same_sas(seed):
    rng = random.Random(seed)
    pair = wide_pair(
        both={"window": WINDOW, "retransmission": Retransmission(timeout=0.5, tries=9)}
    )
    pair.fate = lambda sent: [0.2 * rng.random() for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    wishes = ("create_child", "rekey_child", "check_liveness", "rekey_ike")
    for _ in range(12):
        pair.do(rng.randrange(2), rng.choice(wishes), CONNECTION)
        pair.run(0.3 * rng.random())
    pair.fate = lambda sent: (0.0,)
    pair.run(1000.0)
    assert len(pair.ike_spis(0)) == 1
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    assert pair.spis(0)
