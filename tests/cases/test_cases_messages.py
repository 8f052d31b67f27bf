"""Cases 21 to 28: messages and windows, cookies, bad input, authentication, first contact."""

from dataclasses import replace
from random import Random

import pytest
from collide import LONG, SIDES, connected, held
from faulty import fault, faulty_pair, suffer
from forge import forge, ike_sa, path_to, receive
from pair import ADDRESSES, CONNECTION, Pair, connection, gateway_config, make_pair
from transcript import ike_octets, transcript

from ipseclab.gateway import Gateway
from ipseclab.ike.config import Identity, IkeLimits, Retransmission
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.window import MAX_WINDOW
from ipseclab.lab.mutate import cuts, wrong_lengths
from ipseclab.outputs import UdpEndpoint
from ipseclab.registry import ExchangeType, IdType, IpProtocol, NotifyType, PayloadType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NotifyPayload
from ipseclab.wire.selector import TrafficSelector

ASK_COOKIES = IkeLimits(cookie_threshold=0)
CREATE = {"exchange": "CREATE_CHILD_SA", "kind": "request"}
INIT = {"exchange": "IKE_SA_INIT", "kind": "request"}


def limited(limits, **options):
    """A pair whose responder has those limits."""
    ends = [connection(i, **options.get("ab"[i], {})) for i in SIDES]
    return Pair(
        (gateway_config(ends[0], name="a"), gateway_config(ends[1], limits=limits, name="b"))
    )


def networks(*texts):
    return tuple(TrafficSelector.of_network(text) for text in texts)


# 21


@pytest.mark.rfc("7296", "2.1", "MUST", "repeat-without-effect")
@pytest.mark.rfc("7296", "2.11", "MUST", "answer-where-from")
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("method", ["rekey_child", "rekey_ike", "create_child", "delete_child"])
def test_case_21_repeated_request_gets_the_cached_response_and_has_no_second_effect(side, method):
    pair = connected()
    pair.do(side, method, CONNECTION)
    request = pair.sent[0]
    pair.run(0.025)
    (response,) = [s for s in pair.sent if s.sender != side]
    made = len(pair.events("child_ready")) + len(pair.events("child_gone", 1 - side))
    for source in (UdpEndpoint(ADDRESSES[side], 500), UdpEndpoint("203.0.113.77", 500)):
        path = path_to(1 - side, source=source)
        (again,) = receive(pair, 1 - side, ike_octets(request), path)
        assert ike_octets(again) == ike_octets(response)
        assert again.item.path.remote == source
    assert len(pair.events("child_ready")) + len(pair.events("child_gone", 1 - side)) == made
    pair.run(LONG)
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.parametrize(
    ("schedule", "times", "end"),
    [
        (Retransmission(), [0.0, 4.0, 11.2, 24.16, 47.488, 89.4784], 165.06112),
        (Retransmission(1.0, 2.0, 4, limit=3.0), [0.0, 1.0, 3.0, 6.0, 9.0], 12.0),
    ],
)
@pytest.mark.parametrize("side", SIDES)
def test_case_21_schedule_of_retransmissions(schedule, times, end, side):
    pair = connected(both={"retransmission": schedule})
    start = pair.now
    pair.fate = lambda sent: ()
    pair.do(side, "check_liveness", CONNECTION)
    pair.run(200.0)
    assert [sent.at - start for sent in pair.sent] == pytest.approx(times)
    gone = [at for at, who, n in pair.notices if who == side and n.event == "ike_gone"]
    assert gone == [pytest.approx(start + end)]


# 22


@pytest.mark.parametrize("side", SIDES)
def test_case_22_responses_out_of_order_in_a_window_of_four(side):
    pair = connected(both={"window": 4})
    pair.run(1.0)
    post_pair, post = pair, []
    pair.fate = lambda sent: (post.append(sent), ())[1]
    for _ in range(3):
        pair.do(side, "create_child", CONNECTION)
    requests, post[:] = list(post), []
    assert len(requests) == 3
    for sent in reversed(requests):
        pair.release(sent)
        pair.run(0.0)
    responses, post[:] = list(post), []
    for sent in responses[1:] + responses[:1]:
        post_pair.release(sent)
        pair.run(0.0)
    pair.fate = lambda sent: (0.0,)
    pair.run(1.0)
    assert len(pair.spis(0)) == 4
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("window", [1, 4])
def test_case_22_request_beyond_the_window_is_dropped(window, side):
    pair = connected(both={"window": window})
    pair.run(1.0)
    following = ike_sa(pair, side).next_message_id
    for number in (following - 1 - window, following + window, 0xFFFFFFFF):
        octets = forge(pair, side, ExchangeType.INFORMATIONAL, message_id=number & 0xFFFFFFFF)
        assert receive(pair, 1 - side, octets) == []
    assert pair.gateways[1 - side].counters["ike.message_id"] == 3
    assert MAX_WINDOW == 64


@pytest.mark.parametrize("side", SIDES)
def test_case_22_message_ids_do_not_wrap(side):
    pair = connected()
    ike_sa(pair, side).next_message_id = 0x1_0000_0000
    pair.do(side, "check_liveness", CONNECTION)
    gone = [n.details["reason"] for n in pair.events("ike_gone", side)]
    assert gone == ["message IDs exhausted"]
    assert not pair.sent


# 23

MANY = tuple(
    tuple(TrafficSelector.of_network(f"10.{side}.{i}.0/25") for i in range(40)) for side in (1, 2)
)
FRAGMENTED = {
    "both": {"fragment_size": 576},
    "a": {"own_ts": MANY[0], "peer_ts": MANY[1]},
    "b": {"own_ts": MANY[1], "peer_ts": MANY[0]},
}


@pytest.mark.parametrize("do", ["reorder", "duplicate", "drop", "corrupt", "truncate"])
@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize("nth", [1, 2])
def test_case_23_fragments_reordered_doubled_missing_and_damaged(do, node, nth):
    pair = faulty_pair(
        fault(do, node, exchange="IKE_AUTH", nth=(nth,), octet=-1, octets=40), **FRAGMENTED
    )
    pair.connect()
    pair.run(30.0)
    assert len(pair.events("fault")) == 1
    assert len(pair.spis(0)) == 1
    assert pair.spis(0) == pair.spis(1)
    for gateway in pair.gateways:
        assert gateway.ike.table_sizes["fragments"] == 0


def test_case_23_totals_that_change_start_over_and_memory_is_bounded():
    """What the peer sends in larger pieces and then in smaller ones: the later ones count."""
    pair = make_pair(**FRAGMENTED)
    pair.fate = lambda sent: (
        () if sent.is_ike(ExchangeType.IKE_AUTH) and len(ike_octets(sent)) > 500 else (0.0,)
    )
    pair.connect()
    pair.run(60.0)
    pair.fate = lambda sent: (0.0,)
    pair.run(200.0)
    for gateway in pair.gateways:
        assert gateway.ike.table_sizes["fragments"] == 0


# 24


def test_case_24_cookie_asked_for():
    pair = limited(ASK_COOKIES)
    pair.connect()
    assert transcript(pair)[:4] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "a --> IKE_SA_INIT: N(COOKIE), SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    pair.agreed()


@pytest.mark.parametrize("times", [1, 2])
def test_case_24_wrong_cookie_is_answered_with_the_right_one(times):
    pair = limited(ASK_COOKIES)
    suffer(pair, fault("mangle_cookie", nth=tuple(range(2, 2 + times))))
    pair.connect()
    assert transcript(pair).count("b <-- IKE_SA_INIT: N(COOKIE)") == 1 + times
    pair.agreed()


def test_case_24_cookie_and_another_group():
    groups = {
        "a": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256-x25519"),)},
        "b": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519"),)},
    }
    pair = limited(ASK_COOKIES, **groups)
    pair.connect()
    assert transcript(pair)[1:4:2] == [
        "b <-- IKE_SA_INIT: N(COOKIE)",
        "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)",
    ]
    pair.agreed()


def test_case_24_another_group_and_then_a_cookie():
    """The load comes between the two."""
    groups = {
        "a": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-ecp256-x25519"),)},
        "b": {"ike_proposals": (parse_ike_proposal("aes128gcm16-prfsha256-x25519"),)},
    }
    pair = limited(IkeLimits(cookie_threshold=1), **groups)
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.015)
    stranger = make_pair(seed=7)
    stranger.fate = lambda sent: ()
    stranger.do(0, "initiate", CONNECTION)
    receive(pair, 1, ike_octets(stranger.sent[0]))
    assert pair.b.ike.half_open == 1
    pair.run(1.0)
    told = [decode_message(ike_octets(sent)) for sent in pair.sent if sent.sender == 1]
    kinds = [next(n.notify_type for n in message.all(NotifyPayload)) for message in told[:3]]
    assert kinds[0] == NotifyType.INVALID_KE_PAYLOAD
    assert kinds[2] == NotifyType.COOKIE
    assert len(pair.spis(0)) == 1
    pair.run(LONG)
    pair.agreed()


@pytest.mark.rfc("7296", "2.6", "SHOULD", "ask-cookie")
def test_case_24_half_open_flood_leaves_room_for_a_client():
    pair = limited(IkeLimits(half_open=16, cookie_threshold=4))
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    request = ike_octets(pair.sent[0])
    for number in range(200):
        octets = number.to_bytes(8, "big").replace(b"\0", b"\1") + request[8:]
        pair.do(1, "receive_datagram", path_to(1), octets)
    assert pair.b.ike.half_open <= 4
    pair.fate = lambda sent: (0.0,)
    pair.run(30.0)
    assert len(pair.spis(0)) == 1
    pair.run(LONG)
    pair.agreed()


# 25


@pytest.mark.parametrize("node", ["a", "b"])
def test_case_25_unknown_critical_payload(node):
    side = "ab".index(node)
    pair = faulty_pair(fault("critical", node, **CREATE, nth=(1,)))
    pair.connect()
    pair.do(side, "create_child", CONNECTION)
    pair.run(1.0)
    refusal = f"{'ba'[side]} <-- CREATE_CHILD_SA: SK {{N(UNSUPPORTED_CRITICAL_PAYLOAD)}}"
    assert transcript(pair)[-1] == refusal
    pair.agreed()


@pytest.mark.parametrize("node", ["a", "b"])
@pytest.mark.parametrize(
    "what",
    [{"payload": 200}, {"notify": 40001}, {"notify": 9000}],
    ids=["payload", "status", "error"],
)
def test_case_25_what_is_unknown_and_uncritical_is_ignored_in_a_request(node, what):
    pair = faulty_pair(fault("add", node, data=b"?", **CREATE, **what))
    pair.connect()
    pair.do("ab".index(node), "rekey_child", CONNECTION)
    pair.run(1.0)
    assert len(pair.events("child_ready", 0)) == 2
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_25_unknown_error_in_a_response_means_that_it_failed(side):
    """RFC 7296 section 3.10.1."""
    response = {"exchange": "CREATE_CHILD_SA", "kind": "response"}
    other = "ba"[side]
    sa_gone = fault("omit", other, payload=PayloadType.SA, **response)
    pair = faulty_pair(sa_gone, fault("add", other, notify=9000, **response))
    pair.connect()
    pair.do(side, "create_child", CONNECTION)
    pair.run(1.0)
    assert len(pair.spis(side)) == 1
    assert pair.events("create_refused", side)


@pytest.mark.parametrize("side", SIDES)
def test_case_25_unknown_status_in_a_response_is_ignored(side):
    response = {"exchange": "CREATE_CHILD_SA", "kind": "response"}
    pair = faulty_pair(fault("add", "ba"[side], notify=40001, **response))
    pair.connect()
    pair.do(side, "create_child", CONNECTION)
    pair.run(1.0)
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


# 26


@pytest.mark.rfc("7296", "3.1", "MUST", "refuse-major")
@pytest.mark.rfc("7296", "2.5", "MUST", "drop-major")
@pytest.mark.parametrize("value", [0x00, 0x10, 0x30, 0xFF])
def test_case_26_wrong_major_version(value):
    pair = faulty_pair(fault("version", value=value, **INIT, nth=(1,)))
    pair.connect()
    assert pair.b.counters["ike.version"] == 1
    told = [line for line in transcript(pair) if "INVALID_MAJOR_VERSION" in line]
    assert len(told) == (value > 0x2F)
    pair.run(10.0)
    pair.agreed()


@pytest.mark.rfc("7296", "3.1", "MUST", "ignore-minor")
@pytest.mark.rfc("7296", "2.5", "MUST", "minor-ignored")
def test_case_26_wrong_minor_version_is_ignored():
    pair = faulty_pair(fault("version", value=0x2F), fault("version", "b", value=0x21))
    pair.connect()
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    pair.agreed()


def first_request():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    return pair, ike_octets(pair.sent[0])


@pytest.mark.rfc("7296", "2.5", "MUST", "reserved")
def test_case_26_reserved_bits_and_fields_are_ignored():
    pair, octets = first_request()
    damaged = bytearray(octets)
    damaged[19] |= 0xC7  # the reserved flags
    at, kind = 28, octets[16]
    while kind:
        damaged[at + 1] |= 0x7F  # of each generic header
        if kind == PayloadType.KE:
            damaged[at + 6 : at + 8] = b"\xff\xff"
        kind, at = octets[at], at + int.from_bytes(octets[at + 2 : at + 4], "big")
    (response,) = receive(pair, 1, bytes(damaged))
    assert decode_message(ike_octets(response)).spi_r != bytes(8)
    assert pair.b.ike.half_open == 1


def test_case_26_spi_zero_cuts_and_lengths_are_dropped():
    pair, octets = first_request()
    inputs = [bytes(8) + octets[8:], *cuts(octets), *wrong_lengths(octets)]
    for hostile in inputs:
        receive(pair, 1, hostile)
    assert len(inputs) > 400
    assert pair.b.ike.half_open <= IkeLimits().half_open
    pair.fate = lambda sent: (0.0,)
    pair.run(400.0)
    assert pair.b.ike.half_open == 0
    pair.connect()
    pair.agreed()


# 27

STRANGER = Identity(IdType.ID_FQDN, b"stranger.example.org")


@pytest.mark.parametrize(
    "changes",
    [
        {"a": {"psk": b"wrong"}},
        {"b": {"psk": b"wrong"}},
        {"a": {"own_id": STRANGER}},
        {"a": {"peer_id": STRANGER}},
        {"b": {"own_id": STRANGER}},
    ],
    ids=["psk of a", "psk of b", "unknown a", "a wants another", "b is another"],
)
def test_case_27_wrong_auth_and_unknown_identities(changes):
    pair = make_pair(**changes)
    pair.connect()
    assert any("N(AUTHENTICATION_FAILED)" in line for line in transcript(pair))
    assert not pair.spis(0)
    pair.run(400.0)
    for gateway in pair.gateways:
        assert not gateway.ike.ike_sas


@pytest.mark.rfc("7296", "3.3.4", "MUST", "compare")
@pytest.mark.rfc("7296", "3.3.4", "MUST", "refuse-others")
@pytest.mark.rfc("7296", "2.7", "MUST", "one-proposal")
@pytest.mark.parametrize("of", ["ike", "esp"])
def test_case_27_no_common_proposal(of):
    parse = parse_ike_proposal if of == "ike" else parse_esp_proposal
    text = "aes256-sha384-x25519" if of == "ike" else "aes256-sha384"
    pair = make_pair(b={f"{of}_proposals": (parse(text),)})
    pair.connect()
    assert any("N(NO_PROPOSAL_CHOSEN)" in line for line in transcript(pair))
    assert not pair.spis(0)
    assert len(pair.ike_spis(1)) == (of == "esp")


def test_case_27_selectors_without_overlap():
    pair = make_pair(b={"own_ts": networks("10.77.0.0/24"), "peer_ts": networks("10.1.0.0/24")})
    pair.connect()
    assert "N(TS_UNACCEPTABLE)" in transcript(pair)[3]
    assert pair.spis(0) == pair.spis(1) == set()


def test_case_27_narrowing_to_one_host_and_of_several_selectors():
    wide = networks("10.2.0.0/24", "10.3.0.0/24")
    pair = make_pair(a={"peer_ts": wide}, b={"own_ts": networks("10.2.0.7/32", "10.3.0.0/25")})
    pair.connect()
    (child,) = pair.a.ike.child_sas
    assert [str(ts) for ts in child.peer_ts] == ["10.2.0.7/32", "10.3.0.0/25"]
    assert pair.spis(0) == pair.spis(1)


def test_case_27_port_and_protocol_ranges():
    whole = TrafficSelector.of_network("10.2.0.0/24")
    part = replace(whole, protocol=int(IpProtocol.UDP), start_port=4000, end_port=4001)
    pair = make_pair(b={"own_ts": (part,)})
    pair.connect()
    (child,) = pair.a.ike.child_sas
    assert child.peer_ts == (part,)
    ends = bytes([10, 1, 0, 2]), bytes([10, 2, 0, 2])
    for port, arrives in ((4001, True), (4002, False)):
        datagram = build_udp(ends[0], 4000, ends[1], port, b"....")
        before = len(pair.delivered[1])
        pair.do(0, "send_packet", build_ipv4(*ends, IpProtocol.UDP, datagram))
        pair.run(0.5)
        assert len(pair.delivered[1]) == before + arrives


# 28


@pytest.mark.parametrize("side", SIDES)
def test_case_28_peer_that_restarts_without_memory_says_initial_contact(side):
    pair = connected()
    before = pair.ike_spis(0)
    pair.gateways[side] = Gateway(pair.configs[side], rng=Random(f"again {side}"))
    pair.connect(side)
    assert "N(INITIAL_CONTACT)" in transcript(pair)[2]
    assert not before & pair.ike_spis(1 - side)
    pair.agreed()


@pytest.mark.parametrize("side", SIDES)
def test_case_28_liveness_finds_a_peer_that_has_forgotten_all(side):
    quick = Retransmission(timeout=0.5, tries=2)
    pair = connected(both={"liveness": 10.0, "retransmission": quick})
    pair.gateways[1 - side] = Gateway(pair.configs[1 - side], rng=Random("again"))
    pair.run(30.0)
    assert [n.details["reason"] for n in pair.events("ike_gone", side)] == ["no answer"]
    pair.connect(side)
    pair.agreed()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_case_28_both_ends_begin_at_once(seed):
    pair = make_pair(seed=seed)
    for side in SIDES:
        pair.do(side, "initiate", CONNECTION)
    pair.run(LONG)
    assert len(pair.ike_spis(0)) in (1, 2)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    for side in SIDES:
        packet = pair.send(side)
        pair.run(1.0)
        assert pair.delivered[1 - side] == [packet]


def test_case_28_notify_of_initial_contact_later_is_no_matter():
    pair, post = held()
    suffer(pair, fault("add", notify=int(NotifyType.INITIAL_CONTACT), **CREATE))
    post.open()
    pair.connect()
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    pair.agreed()
