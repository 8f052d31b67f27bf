"""Every fault knob, on two real gateways: what it does, and that it does nothing else."""

from collections import Counter
from pathlib import Path

import pytest
from faulty import fault, faulty_pair
from pair import CONNECTION
from transcript import opened, transcript

from ipseclab.ike.config import IkeLimits, Lifetime, Retransmission
from ipseclab.ike.sa import ChildState
from ipseclab.lab.faults import FaultyGateway, gateway_with
from ipseclab.lab.faults.fault import BEHAVIOUR, CONTENT, FLOW
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, PayloadType
from ipseclab.wire.payloads import NotifyPayload, UnknownPayload

CREATE = {"exchange": "CREATE_CHILD_SA", "kind": "request"}
INIT = {"exchange": "IKE_SA_INIT", "kind": "request"}
AUTH = {"exchange": "IKE_AUTH", "kind": "request"}
ONCE = {"nth": (1,)}


def struck(pair, side=0):
    """How often each fault struck."""
    return Counter(notice.details["does"] for notice in pair.events("fault", side))


def connected(*faults, **options):
    pair = faulty_pair(*faults, **options)
    pair.connect()
    return pair


def numbers(pair, side=1):
    return [int.from_bytes(packet[28:32], "big") for packet in pair.delivered[side]]


def flood(pair, count=4):
    for number in range(1, count + 1):
        pair.send(0, number)
        pair.run(0.001)
    pair.run(2.0)


# Flow.


def test_gateway_without_faults_is_a_plain_one():
    pair = faulty_pair(fault("drop", "c"))
    assert not any(isinstance(gateway, FaultyGateway) for gateway in pair.gateways)


@pytest.mark.parametrize("side", ["a", "b"])
def test_drop_loses_the_message_that_is_meant(side):
    direction = "out" if side == "a" else "in"
    pair = faulty_pair(fault("drop", side, direction=direction, **INIT, **ONCE))
    pair.connect()
    assert not pair.events("ike_established")
    pair.run(10.0)
    pair.agreed()
    assert struck(pair, "ab".index(side)) == {"drop": 1}


def test_messages_are_counted_among_those_that_are_meant():
    pair = connected(fault("drop", **CREATE, nth=(2,)))
    pair.do(0, "check_liveness", CONNECTION)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert struck(pair) == {}
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert struck(pair) == {"drop": 1}
    pair.run(10.0)
    pair.agreed()


def test_block_lets_nothing_by_from_then_on():
    pair = connected(fault("block", traffic="esp", nth=(2,)))
    flood(pair)
    assert numbers(pair) == [1]


def test_block_ends_after_its_time():
    pair = connected(fault("block", delay=5.0, kind="request"))
    assert not pair.ike_spis(1)
    pair.run(20.0)
    pair.agreed()


def test_held_message_is_released_by_later_ones():
    pair = connected(fault("hold", traffic="esp", nth=(1,), after=2))
    flood(pair)
    assert numbers(pair) == [2, 3, 1, 4]


def test_reordered_message_changes_place_with_the_next():
    pair = connected(fault("reorder", traffic="esp", nth=(2,)))
    flood(pair)
    assert numbers(pair) == [1, 3, 2, 4]


@pytest.mark.parametrize(("do", "delay"), [("duplicate", 0.0), ("replay", 1.0)])
def test_copy_of_an_esp_packet_is_not_delivered_again(do, delay):
    pair = connected(fault(do, traffic="esp", nth=(3,), delay=delay))
    flood(pair)
    assert numbers(pair) == [1, 2, 3, 4]
    assert pair.b.counters["drops.replayed"] == 1


def test_copy_of_a_request_has_no_second_effect():
    pair = connected(fault("duplicate", **CREATE), fault("replay", delay=3.0, **CREATE))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(10.0)
    assert struck(pair) == {"duplicate": 1, "replay": 1}
    assert len(pair.events("child_ready", 1)) == 2
    pair.agreed()


def test_delay_comes_on_top_of_the_path():
    pair = connected(fault("delay", traffic="esp", delay=0.5))
    pair.send(0, 1)
    pair.run(0.505)
    assert numbers(pair) == []
    pair.run(0.01)
    assert numbers(pair) == [1]


def test_delay_of_what_comes_in():
    pair = connected(fault("delay", "b", direction="in", traffic="esp", delay=0.5))
    pair.send(0, 1)
    pair.run(0.505)
    assert numbers(pair) == []
    pair.run(0.01)
    assert numbers(pair) == [1]


def test_late_answers_are_waited_for():
    pair = connected(fault("answer_late", "b", delay=2.0))
    pair.run(5.0)
    at = next(at for at, side, n in pair.notices if side == 0 and n.event == "ike_established")
    assert at == pytest.approx(4.04)
    pair.agreed()


@pytest.mark.parametrize("octet", [None, 8, -1])
def test_corrupted_esp_is_found_out(octet):
    pair = connected(fault("corrupt", traffic="esp", octet=octet, nth=(2,)))
    flood(pair)
    drops = pair.b.counters
    assert numbers(pair) == [1, 3, 4]
    assert drops["drops.bad_icv"] + drops["drops.no_sa"] + drops["drops.replayed"] == 1


def test_corrupted_message_is_dropped_and_sent_again():
    pair = connected(fault("corrupt", octet=-1, **AUTH, **ONCE))
    pair.run(10.0)
    assert pair.b.counters["ike.bad_icv"] == 1
    pair.agreed()


@pytest.mark.parametrize("octets", [0, 27, 40])
def test_truncated_message_is_malformed(octets):
    pair = connected(fault("truncate", octets=octets, **INIT, **ONCE))
    pair.run(10.0)
    assert pair.b.counters["ike.malformed"] == 1
    pair.agreed()


def test_truncated_esp_packet_has_a_header_that_is_right():
    pair = connected(fault("truncate", traffic="esp", octets=9, nth=(1,)))
    flood(pair, 2)
    assert numbers(pair) == [2]
    assert pair.b.counters["drops.malformed"] == 1


def test_several_faults_strike_one_message():
    twice = fault("duplicate", traffic="esp"), fault("delay", traffic="esp", delay=0.5)
    pair = connected(*twice)
    pair.send(0, 1)
    pair.run(1.0)
    assert numbers(pair) == [1]
    assert pair.b.counters["drops.replayed"] == 1


# Content.


def sent_by(pair, side, exchange, *, response=False):
    """The payloads of every such message, opened."""
    return [
        opened(pair, sent)[1]
        for sent in pair.sent
        if sent.sender == side and sent.is_ike(exchange, response=response)
    ]


def test_payload_left_out_of_a_sealed_message():
    pair = connected(fault("omit", payload=PayloadType.NONCE, **CREATE))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    (payloads,) = sent_by(pair, 0, ExchangeType.CREATE_CHILD_SA)
    assert PayloadType.NONCE not in [payload.payload_type for payload in payloads]
    assert "b <-- CREATE_CHILD_SA: SK {N(INVALID_SYNTAX)}" in transcript(pair)


def test_authentication_covers_the_request_as_it_was_changed():
    notify = NotifyType.NAT_DETECTION_SOURCE_IP
    pair = connected(fault("omit", notify=notify, **INIT))
    (payloads,) = sent_by(pair, 0, ExchangeType.IKE_SA_INIT)
    kinds = [p.notify_type for p in payloads if isinstance(p, NotifyPayload)]
    assert notify not in kinds
    assert NotifyType.NAT_DETECTION_DESTINATION_IP in kinds
    pair.agreed()


def test_authentication_covers_the_response_as_it_was_changed():
    init = {"exchange": "IKE_SA_INIT", "kind": "response"}
    pair = connected(fault("add", "b", notify=40000, data=b"hello", **init))
    (payloads,) = sent_by(pair, 1, ExchangeType.IKE_SA_INIT, response=True)
    assert [p.data for p in payloads if isinstance(p, NotifyPayload)][-1] == b"hello"
    pair.agreed()


def test_repeated_request_is_changed_the_same_way_and_answered_from_the_cache():
    pair = connected(fault("add", payload=201, data=b"x", **CREATE))
    pair.fate = lambda sent: () if sent.sender == 1 and pair.now < 3.0 else (0.0,)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(30.0)
    again = [s for s in pair.sent if s.sender == 0 and s.is_ike(ExchangeType.CREATE_CHILD_SA)]
    assert len(again) == 2
    assert again[0].item == again[1].item
    assert len(pair.events("child_ready", 1)) == 2
    pair.agreed()


def test_unknown_payload_is_ignored_unless_it_is_critical():
    pair = connected(fault("add", payload=200, data=b"?", **CREATE))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    (payloads,) = sent_by(pair, 0, ExchangeType.CREATE_CHILD_SA)
    assert isinstance(payloads[-1], UnknownPayload)
    pair.agreed()
    pair = connected(fault("critical", **CREATE))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert "b <-- CREATE_CHILD_SA: SK {N(UNSUPPORTED_CRITICAL_PAYLOAD)}" in transcript(pair)


def test_repeated_notify():
    notify = NotifyType.NAT_DETECTION_SOURCE_IP
    pair = connected(fault("repeat", notify=notify, **INIT))
    (payloads,) = sent_by(pair, 0, ExchangeType.IKE_SA_INIT)
    kinds = [p.notify_type for p in payloads if isinstance(p, NotifyPayload)]
    assert kinds.count(notify) == 2
    pair.agreed()


@pytest.mark.parametrize(("do", "answer"), [("ke_empty", None), ("ke_zero", "INVALID_SYNTAX")])
def test_bad_key_exchange_data_is_refused(do, answer):
    pair = connected(fault(do, **CREATE))
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(1.0)
    assert struck(pair) == {do: 1}
    assert len(pair.events("ike_rekeyed")) == 0
    if answer is not None:
        assert f"b <-- CREATE_CHILD_SA: SK {{N({answer})}}" in transcript(pair)


def test_wrong_group_is_told_the_right_one():
    group = int(KeMethod.MODP_2048)
    pair = connected(fault("ke_group", value=group, **INIT, **ONCE))
    assert "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)" in transcript(pair)
    pair.run(20.0)
    pair.agreed()


def test_mangled_cookie_is_asked_for_again():
    limits = IkeLimits(cookie_threshold=0)
    pair = faulty_pair(fault("mangle_cookie", **INIT, nth=(2,)))
    config = pair.configs[1]
    demanding = type(config)(
        type(config.ike)("b", config.ike.connections, limits), config.policies, config.datapath
    )
    pair.gateways[1] = type(pair.b)(demanding, rng=pair.b._rng)
    pair.connect()
    asked = [line for line in transcript(pair) if line == "b <-- IKE_SA_INIT: N(COOKIE)"]
    assert len(asked) == 2
    assert struck(pair) == {"mangle_cookie": 1}
    pair.agreed()


@pytest.mark.parametrize(
    ("do", "fields", "counter"),
    [
        ("wrong_spi", {}, "ike.no_ike_sa"),
        ("bad_icv", {}, "ike.bad_icv"),
        ("bad_padding", {}, "ike.bad_icv"),
        ("version", {}, "ike.version"),
        ("version", {"value": 0x10}, "ike.version"),
    ],
)
def test_message_that_cannot_be_read_is_dropped_and_sent_again(do, fields, counter):
    pair = connected(fault(do, **CREATE, **ONCE, **fields))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert pair.b.counters[counter] == 1
    assert len(pair.events("child_ready", 1)) == 1
    pair.run(10.0)
    assert len(pair.events("child_ready", 1)) == 2
    pair.agreed()


def test_higher_minor_version_is_ignored():
    pair = connected(fault("version", value=0x21))
    pair.do(0, "rekey_ike", CONNECTION)
    pair.run(1.0)
    assert len(pair.events("ike_rekeyed")) == 2
    pair.agreed()


def test_key_length_that_no_cipher_has_is_not_chosen():
    pair = connected(fault("key_length", **CREATE))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert "b <-- CREATE_CHILD_SA: SK {N(NO_PROPOSAL_CHOSEN)}" in transcript(pair)


def test_wrong_selector_count_is_malformed():
    pair = connected(fault("selector_count", **CREATE))
    pair.do(0, "create_child", CONNECTION)
    pair.run(1.0)
    assert pair.b.counters["ike.invalid_syntax"] == 1


def test_no_delete_leaves_the_old_sa_with_the_peer():
    pair = connected(fault("no_delete"))
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(60.0)
    assert transcript(pair)[-2:] == ["a --> INFORMATIONAL: SK {}", "b <-- INFORMATIONAL: SK {}"]
    assert sorted(c.state.value for c in pair.b.ike.child_sas) == [
        ChildState.INSTALLED.value,
        ChildState.REPLACED_BY_PEER.value,
    ]
    assert len(pair.spis(0)) == 1


# Behaviour.

SHORT = {"child_lifetime": Lifetime(seconds=20.0, jitter=0.0)}


def test_soft_expiry_ignored_starts_no_rekey():
    pair = connected(fault("ignore_soft_expiry"), fault("ignore_soft_expiry", "b"), both=SHORT)
    pair.run(19.5)
    assert pair.events("soft_expired")
    assert not pair.events("rekey_started")
    pair.run(5.0)
    assert pair.spis(0) == pair.spis(1) == set()


def test_hard_expiry_ignored_leaves_the_sa_and_nothing_in_clear():
    what = ("ignore_soft_expiry", "ignore_hard_expiry")
    pair = connected(*(fault(do, node) for do in what for node in "ab"), both=SHORT)
    pair.run(25.0)
    assert len(pair.spis(0)) == len(pair.spis(1)) == 1
    before = len(pair.sent)
    pair.send(0, 1)
    pair.run(1.0)
    assert len(pair.sent) == before
    assert pair.a.counters["drops.hard_expired"] == 1


def test_no_retransmission_sends_each_request_once():
    schedule = Retransmission(timeout=1.0, base=1.0, tries=3)
    pair = faulty_pair(fault("no_retransmission"), both={"retransmission": schedule})
    pair.fate = lambda sent: ()
    pair.connect()
    pair.run(60.0)
    assert len(pair.sent) == 1
    assert struck(pair) == {"no_retransmission": 3}
    assert pair.events("ike_failed", 0)


def test_keepalive_can_be_sent_at_any_moment():
    pair = connected(both={"force_encapsulation": True})
    pair.do(0, "send_keepalive", CONNECTION)
    pair.run(1.0)
    assert len(pair.events("keepalive_received", 1)) == 1
    pair = connected()
    before = len(pair.sent)
    pair.do(0, "send_keepalive", CONNECTION)
    assert len(pair.sent) == before


def test_same_faults_same_octets():
    def run():
        faults = (
            fault("corrupt", nth=(1, 3)),
            fault("duplicate", "b", delay=0.1),
            fault("add", payload=200, **CREATE),
        )
        pair = connected(*faults)
        pair.do(0, "rekey_child", CONNECTION)
        pair.run(30.0)
        return [(sent.at, sent.item) for sent in pair.sent]

    assert run() == run()


def test_every_fault_is_tried_here():
    text = Path(__file__).read_text(encoding="utf-8")
    for name in (*FLOW, *CONTENT, *BEHAVIOUR):
        assert f'"{name}"' in text, name


def test_config_without_own_faults_makes_no_faulty_gateway():
    pair = faulty_pair()
    assert type(gateway_with(pair.configs[0], (), rng=pair.a._rng, seed=1)) is type(pair.a)
