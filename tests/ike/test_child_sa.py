"""CHILD_SAs: every ESP suite, selectors narrowed, transport mode, further ones, rekeys."""

import pytest
from forge import forge, ike_sa, receive
from pair import ADDRESSES, CONNECTION, Mode, Pair, connection, gateway_config, make_pair
from post import Post
from transcript import opened, transcript

from ipseclab.ike.config import IkeLimits, Lifetime
from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, PayloadType, ProtocolId
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    TsiPayload,
    TsrPayload,
    UnknownPayload,
)
from ipseclab.wire.selector import TrafficSelector

ESP_SUITES = (
    "aes128gcm16",
    "aes192gcm16",
    "aes256gcm16",
    "chacha20poly1305",
    "aes128-sha256",
    "aes192-sha384",
    "aes256-sha512",
)
REKEY = [
    "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, TSi, TSr}",
    "b <-- CREATE_CHILD_SA: SK {SA, Nr, TSi, TSr}",
    "a --> INFORMATIONAL: SK {D(ESP)}",
    "b <-- INFORMATIONAL: SK {D(ESP)}",
]


def esp(*texts):
    return {"esp_proposals": tuple(parse_esp_proposal(text) for text in texts)}


def selectors(*networks):
    return tuple(TrafficSelector.of_network(network) for network in networks)


def udp(source, destination, port=4001):
    ends = [bytes(map(int, address.split("."))) for address in (source, destination)]
    return build_ipv4(*ends, 17, build_udp(ends[0], 4000, ends[1], port, b"data"))


def since(pair):
    """Connect; where the transcript goes on."""
    pair.connect()
    return len(pair.sent)


@pytest.mark.parametrize("suite", ESP_SUITES)
@pytest.mark.parametrize("mode", Mode)
def test_every_suite_carries_packets_of_every_size_both_ways(suite, mode):
    transport = {
        "mode": mode,
        "own_ts": selectors(f"{ADDRESSES[0]}/32"),
        "peer_ts": selectors(f"{ADDRESSES[1]}/32"),
    }
    swapped = {
        "mode": mode,
        "own_ts": transport["peer_ts"],
        "peer_ts": transport["own_ts"],
    }
    hosts = mode is Mode.TRANSPORT
    a, b = (transport, swapped) if hosts else ({}, {})
    pair = make_pair(a={**esp(suite), **a}, b={**esp(suite), **b})
    pair.connect()
    ends = ADDRESSES if hosts else ("10.1.0.2", "10.2.0.2")
    for size in (0, 1, 15, 16, 17, 1400):
        for side in (0, 1):
            source, destination = (bytes(map(int, x.split("."))) for x in ends[:: 1 - 2 * side])
            datagram = build_udp(source, 1, destination, 2, bytes(size))
            packet = build_ipv4(source, destination, 17, datagram)
            pair.do(side, "send_packet", packet)
            pair.run(0.05)
            assert pair.delivered[1 - side][-1] == packet


def test_selectors_are_narrowed_to_what_both_allow():
    a = {"own_ts": selectors("10.1.0.0/16"), "peer_ts": selectors("10.2.0.0/16")}
    b = {"own_ts": selectors("10.2.3.0/24"), "peer_ts": selectors("10.1.0.7/32")}
    pair = make_pair(a=a, b=b)
    pair.connect()
    (child,) = pair.a.ike.child_sas
    assert [str(ts) for ts in child.own_ts] == ["10.1.0.7/32"]
    assert [str(ts) for ts in child.peer_ts] == ["10.2.3.0/24"]
    inside, outside = udp("10.1.0.7", "10.2.3.4"), udp("10.1.0.8", "10.2.3.4")
    pair.do(0, "send_packet", inside)
    pair.do(0, "send_packet", outside)
    pair.run(20.0)
    assert pair.delivered[1] == [inside]


def test_several_selectors_with_ports_and_protocols():
    dns = TrafficSelector.of_network("10.2.0.53/32", protocol=17, ports=(53, 53))
    web = TrafficSelector.of_network("10.2.0.0/24", protocol=6, ports=(80, 443))
    pair = make_pair(
        a={"peer_ts": selectors("10.2.0.0/16")},
        b={"own_ts": (dns, web)},
    )
    pair.connect()
    (child,) = pair.b.ike.child_sas
    assert child.own_ts == (dns, web)
    allowed, refused = udp("10.1.0.2", "10.2.0.53", 53), udp("10.1.0.2", "10.2.0.53", 54)
    pair.do(0, "send_packet", allowed)
    pair.do(0, "send_packet", refused)
    pair.run(20.0)
    assert pair.delivered[1] == [allowed]


def test_no_overlap_leaves_the_ike_sa_and_sends_nothing_in_clear():
    pair = make_pair(b={"own_ts": selectors("10.9.0.0/24")})
    pair.connect()
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {IDr, AUTH, N(TS_UNACCEPTABLE)}"
    sent = len(pair.sent)
    pair.send(0)
    pair.run(30.0)
    assert all(item.header is not None for item in pair.sent[sent:])
    assert pair.a.counters["drops.park_timeout"] == 1


@pytest.mark.rfc("7296", "1.3.1", "MAY", "transport")
@pytest.mark.rfc("7296", "1.3.1", "MUST", "transport-confirmed")
def test_transport_mode_is_asked_for_and_confirmed():
    hosts = [selectors(f"{address}/32") for address in ADDRESSES]
    pair = make_pair(
        a={"mode": Mode.TRANSPORT, "own_ts": hosts[0], "peer_ts": hosts[1]},
        b={"mode": Mode.TRANSPORT, "own_ts": hosts[1], "peer_ts": hosts[0]},
    )
    pair.connect()
    assert transcript(pair)[-2:] == [
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, N(USE_TRANSPORT_MODE), "
        "SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, AUTH, N(USE_TRANSPORT_MODE), SA, TSi, TSr}",
    ]
    assert {n.details["mode"] for n in pair.events("child_ready")} == {"transport"}


@pytest.mark.rfc("7296", "1.3.1", "MUST", "delete-other-mode")
@pytest.mark.parametrize(("a", "b"), [(Mode.TUNNEL, Mode.TRANSPORT), (Mode.TRANSPORT, Mode.TUNNEL)])
def test_modes_that_differ_make_no_child_sa(a, b):
    pair = make_pair(a={"mode": a}, b={"mode": b})
    pair.connect()
    pair.run(1.0)
    assert not pair.spis(0)
    assert not pair.spis(1)
    assert len(pair.ike_spis(0)) == 1


def test_first_child_sa_needs_no_key_exchange_although_the_proposal_has_one():
    pair = make_pair(both=esp("aes128gcm16-x25519"))
    pair.connect()
    assert "KE" not in transcript(pair)[2].split("SK")[1]
    pair.agreed()


@pytest.mark.rfc("7296", "1.4.1", "MUST", "own-inbound")
def test_rekey_replaces_the_sa_and_the_initiator_deletes_the_old_one():
    pair = make_pair()
    start = since(pair)
    old = pair.spis(0)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start) == REKEY
    assert not pair.spis(0) & old
    pair.agreed()


@pytest.mark.rfc("7296", "1.3", "MAY", "either-end")
def test_rekey_by_the_original_responder():
    pair = make_pair()
    start = since(pair)
    pair.do(1, "rekey_child", CONNECTION)
    pair.run(1.0)
    swap = str.maketrans("ab", "ba")
    expected = [line[0].translate(swap) + line[1:] for line in REKEY]
    assert transcript(pair, first=start) == expected
    pair.agreed()


@pytest.mark.rfc("7296", "3.10", "MUST", "child-protocol")
@pytest.mark.rfc("7296", "1.3.3", "MUST", "rekey-notify")
def test_rekey_names_the_old_sa_by_the_spi_its_sender_receives_on():
    pair = make_pair()
    start = since(pair)
    (old,) = pair.a.ike.child_sas
    pair.do(0, "rekey_child", CONNECTION)
    rekey = opened(pair, pair.sent[start])[1][0]
    assert rekey == NotifyPayload(NotifyType.REKEY_SA, b"", ProtocolId.ESP, old.spi_in)


@pytest.mark.rfc("7296", "1.3", "MAY", "child-ke")
@pytest.mark.rfc("7296", "2.5", "SHOULD", "order-sent")
def test_rekey_with_a_key_exchange_of_its_own():
    pair = make_pair(both=esp("aes128gcm16-x25519"))
    start = since(pair)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start)[:2] == [
        "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, KE, TSi, TSr}",
    ]
    pair.agreed()


@pytest.mark.rfc("7296", "1.3", "MUST", "ke-offered")
@pytest.mark.rfc("7296", "1.3", "MUST", "ke-expected")
@pytest.mark.rfc("7296", "1.3", "MUST", "refuse-group")
def test_rekey_with_another_group_asked_for():
    pair = make_pair(a=esp("aes128gcm16-ecp256-x25519"), b=esp("aes128gcm16-x25519"))
    start = since(pair)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start)[:4] == [
        "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {N(INVALID_KE_PAYLOAD)}",
        "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, KE, TSi, TSr}",
    ]
    methods = [
        next(p for p in opened(pair, pair.sent[start + i])[1] if isinstance(p, KePayload)).method
        for i in (0, 2)
    ]
    assert methods == [KeMethod.ECP_256, KeMethod.CURVE25519]
    pair.agreed()


def test_refused_rekey_leaves_the_old_sa_in_service():
    pair = make_pair(a=esp("aes128gcm16-x25519"), b=esp("aes128gcm16"))
    start = since(pair)
    old = pair.spis(0)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(10.0)
    assert transcript(pair, first=start)[1] == ("b <-- CREATE_CHILD_SA: SK {N(NO_PROPOSAL_CHOSEN)}")
    assert pair.spis(0) == old
    pair.agreed()


@pytest.mark.rfc("7296", "3.4", "MUST NOT", "ke-without-group")
@pytest.mark.rfc("7296", "2.8", "SHOULD NOT", "same-selectors-deleted")
def test_further_child_sa_beside_the_first():
    pair = make_pair()
    start = since(pair)
    pair.do(0, "create_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start) == [
        "a --> CREATE_CHILD_SA: SK {SA, Ni, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, TSi, TSr}",
    ]
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "1.3.1", "SHOULD NOT", "keep-ike-sa")
@pytest.mark.rfc("7296", "2.21.3", "MUST", "errors-answered")
def test_limit_of_child_sas_is_answered_and_leaves_the_others_alone():
    limits = IkeLimits(children_per_ike=2)
    pair = Pair((gateway_config(connection(0)), gateway_config(connection(1), limits=limits)))
    pair.connect()
    for _ in range(3):
        pair.do(0, "create_child", CONNECTION)
        pair.run(1.0)
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {N(NO_ADDITIONAL_SAS)}"
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("7296", "2.25", "SHOULD", "child-not-found")
@pytest.mark.rfc("7296", "2.25", "SHOULD", "make-anew")
def test_child_sa_that_the_peer_has_lost_is_made_anew_from_scratch():
    """Section 2.25: CHILD_SA_NOT_FOUND; the old one is dropped without a DELETE."""
    pair = make_pair()
    start = since(pair)
    (lost,) = pair.b.ike.child_sas
    (old,) = pair.a.ike.child_sas
    gone = DeletePayload(ProtocolId.ESP, (old.spi_in,))
    receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, gone))
    ike_sa(pair, 0).next_message_id += 1
    assert lost not in pair.b.ike.child_sas
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    assert transcript(pair, first=start)[-4:] == [
        "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {N(CHILD_SA_NOT_FOUND)}",
        "a --> CREATE_CHILD_SA: SK {SA, Ni, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, TSi, TSr}",
    ]
    refusal = next(
        p
        for s in pair.sent[start:]
        for p in opened(pair, s)[1]
        if isinstance(p, NotifyPayload) and p.notify_type == NotifyType.CHILD_SA_NOT_FOUND
    )
    assert (refusal.protocol, refusal.spi) == (ProtocolId.ESP, old.spi_in)
    pair.agreed()


def test_soft_expiry_of_an_sa_that_waits_for_its_delete_starts_no_second_rekey():
    limits = Lifetime(packets=40, margin=0.5, jitter=0.0)
    pair = make_pair(both={"child_lifetime": limits})
    start = since(pair)
    post = Post(pair)
    for number in range(20):  # the soft limit of 20 packets starts the rekey
        pair.send(0, number)
    post.deliver("a CREATE_CHILD_SA request", "b CREATE_CHILD_SA response")
    assert post.names == ["a INFORMATIONAL request"]
    pair.do(0, "rekey_child", CONNECTION)  # of the new one alone, when its turn comes
    post.open(1.0)
    assert len([line for line in transcript(pair, first=start) if "REKEY_SA" in line]) == 2
    pair.agreed()


def test_new_sa_deleted_by_hand_before_the_delete_of_the_old_one():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    post.deliver("a CREATE_CHILD_SA request", "b CREATE_CHILD_SA response")
    pair.do(1, "delete_child", CONNECTION)
    post.deliver("b INFORMATIONAL request", "a INFORMATIONAL response")
    post.open(10.0)
    assert not pair.spis(0)
    assert not pair.spis(1)
    assert len(pair.events("child_gone", 0)) == len(pair.events("child_gone", 1)) == 2


def test_delete_of_an_sa_that_is_being_rekeyed_here_closes_what_comes_of_the_rekey():
    pair = make_pair()
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    pair.do(0, "delete_child", CONNECTION)
    post.open(10.0)
    assert not pair.spis(0)
    assert not pair.spis(1)


@pytest.mark.rfc("7296", "1.4.1", "MUST NOT", "half-closed")
def test_delete_that_gets_no_answer_takes_the_sa_down_once():
    pair = make_pair()
    pair.connect()
    pair.fate = lambda sent: ()
    pair.do(0, "delete_child", CONNECTION)
    pair.run(200.0)
    assert len(pair.events("child_gone", 0)) == 1
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["no answer"]


def test_unusable_answer_to_a_rekey_is_closed_with_a_delete_of_its_own():
    """b grants wider selectors than it was asked for: a does not use the SA, and says so."""
    pair = make_pair()
    start = since(pair)
    old = pair.spis(0)
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    post.deliver("a CREATE_CHILD_SA request")
    _message, payloads = opened(pair, post.take("b CREATE_CHILD_SA response"))
    wide = selectors("0.0.0.0/0")
    changed = {TsiPayload: TsiPayload(wide), TsrPayload: TsrPayload(wide)}
    bad = forge(
        pair,
        1,
        ExchangeType.CREATE_CHILD_SA,
        *(changed.get(type(p), p) for p in payloads),
        message_id=2,
        response=True,
    )
    receive(pair, 0, bad)
    post.open(10.0)
    assert transcript(pair, first=start)[2] == "a --> INFORMATIONAL: SK {D(ESP)}"
    assert pair.spis(0) == pair.spis(1) == old


@pytest.mark.rfc("7296", "2.21.3", "SHOULD NOT", "error-request")
def test_answer_without_a_nonce_is_closed_with_a_delete_of_its_own():
    pair = make_pair()
    start = since(pair)
    old = pair.spis(0)
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    post.deliver("a CREATE_CHILD_SA request")
    _message, payloads = opened(pair, post.take("b CREATE_CHILD_SA response"))
    kept = (p for p in payloads if not isinstance(p, NoncePayload))
    bad = forge(pair, 1, ExchangeType.CREATE_CHILD_SA, *kept, message_id=2, response=True)
    receive(pair, 0, bad)
    post.open(10.0)
    assert transcript(pair, first=start)[2] == "a --> INFORMATIONAL: SK {D(ESP)}"
    assert pair.spis(0) == pair.spis(1) == old


def test_unknown_notifies_and_payloads_in_a_request_are_ignored():
    pair = make_pair()
    pair.connect()
    odd = (
        NotifyPayload(NotifyType(40_001)),
        NotifyPayload(NotifyType(8191)),
        UnknownPayload(PayloadType(220), b"whatever"),
    )
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, *odd))
    assert opened(pair, answer)[1] == ()
    assert len(pair.ike_spis(1)) == 1


def test_unknown_critical_payload_in_a_request_is_named_and_the_ike_sa_stands():
    pair = make_pair()
    pair.connect()
    odd = UnknownPayload(PayloadType(220), b"", critical=True)
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.INFORMATIONAL, odd))
    refusal = opened(pair, answer)[1][0]
    assert refusal.notify_type == NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD
    assert refusal.data == bytes([220])
    assert len(pair.ike_spis(1)) == 1


@pytest.mark.rfc("7296", "3.10.1", "MUST", "invalid-syntax")
@pytest.mark.rfc("7296", "2.21.3", "MUST", "errors-answered")
def test_malformed_request_of_the_peer_ends_the_ike_sa_at_both_ends():
    """Section 2.21.3: INVALID_SYNTAX is fatal without a DELETE."""
    pair = make_pair()
    pair.connect()
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.CREATE_CHILD_SA))
    assert opened(pair, answer)[1][0].notify_type == NotifyType.INVALID_SYNTAX
    assert not pair.ike_spis(1)
    assert not pair.spis(1)
