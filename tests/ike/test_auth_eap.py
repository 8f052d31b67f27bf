"""EAP in IKE_AUTH (RFC 7296 section 2.16): passwords, refusals, and peers that misbehave."""

from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pytest
from forge import forge, ike_sa, receive
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CONNECTION, connection, make_pair
from post import Post
from transcript import opened, transcript

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.authentication.methods import prove_by_key
from ipseclab.ike.config import (
    ANY_IDENTITY,
    Identity,
    IkeLimits,
    Retransmission,
    SharedKeyAuth,
)
from ipseclab.ike.eap.method import EapRefused, response
from ipseclab.ike.eap.peer import EapPeer, PeerSetting
from ipseclab.ike.eap.server import EapServer, ServerSetting
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly
from ipseclab.ike.keys import psk_auth, signed_octets
from ipseclab.registry import EapCode, EapType, ExchangeType, IdType, NotifyType
from ipseclab.wire.payloads import AuthPayload, EapPayload, NotifyPayload

ALICE = Identity(IdType.ID_RFC822_ADDR, b"alice@example.org")
GATE = SharedKeyAuth(b"of the gate")
MSCHAP, MD5 = (EapType.MSCHAPV2,), (EapType.MD5_CHALLENGE,)
ACCOUNTS = (("alice@example.org", "wonderland"), ("bob", "b"), ("LAB\\carol", "c"))
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def remote(
    methods=MSCHAP, *, client=None, password="wonderland", demand=None, a=None, b=None, **options
):
    """A client that authenticates by EAP at a gateway with a key of its own."""
    how = EapAuth(client if client is not None else methods, password)
    return make_pair(
        a={"own_id": ALICE, "own_auth": (how,), "peer_auth": (GATE,), **(a or {})},
        b={
            "peer_id": ANY_IDENTITY,
            "own_auth": (GATE,),
            "peer_auth": (EapDemand(methods, ACCOUNTS, **(demand or {})),),
            **(b or {}),
        },
        **options,
    )


def auth_lines(pair):
    return [line for line in transcript(pair) if "IKE_AUTH" in line]


def eap_packets(pair):
    found = (opened(pair, sent)[1] for sent in pair.sent if sent.is_ike(ExchangeType.IKE_AUTH))
    return [p for payloads in found for p in payloads if isinstance(p, EapPayload)]


def assert_nothing_left(pair):
    pair.run(400.0)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


@pytest.mark.rfc("7296", "2.16", "MUST", "success")
@pytest.mark.rfc("7296", "2.16", "MUST", "auth-after-success")
def test_mschapv2_message_by_message():
    pair = remote()
    pair.connect()
    assert auth_lines(pair) == [
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, AUTH, EAP}",
        "a --> IKE_AUTH: SK {EAP}",
        "b <-- IKE_AUTH: SK {EAP}",
        "a --> IKE_AUTH: SK {EAP}",
        "b <-- IKE_AUTH: SK {EAP}",
        "a --> IKE_AUTH: SK {AUTH}",
        "b <-- IKE_AUTH: SK {AUTH, SA, TSi, TSr}",
    ]
    assert [p.code for p in eap_packets(pair)] == [1, 2, 1, 2, 3]
    assert ike_sa(pair, 1).connection.peer_id == ALICE
    pair.agreed()


@pytest.mark.rfc("7296", "3.16", "SHOULD NOT", "ask-identity")
@pytest.mark.rfc("7296", "3.16", "MAY", "give-identity")
@pytest.mark.parametrize("methods", [MSCHAP, MD5])
@pytest.mark.parametrize("ask", [False, True])
def test_each_password_method_with_and_without_an_eap_identity(methods, ask):
    how = EapAuth(methods, "c", eap_identity=b"LAB\\carol")
    if ask:
        pair = remote(methods, demand={"ask_identity": True}, a={"own_auth": (how,)})
    else:
        pair = remote(methods)
    pair.connect()
    asked = [p for p in eap_packets(pair) if p.data[:1] == bytes([EapType.IDENTITY])]
    assert len(asked) == 2 * ask
    pair.agreed()


@pytest.mark.rfc("7296", "2.16", "MUST", "failure")
@pytest.mark.parametrize("methods", [MSCHAP, MD5])
@pytest.mark.parametrize(
    "change",
    [
        {"password": "wrong"},
        {"a": {"own_id": Identity(IdType.ID_RFC822_ADDR, b"nobody@example.org")}},
    ],
)
def test_wrong_password_and_unknown_user_look_the_same(methods, change):
    pair = remote(methods, **change)
    pair.connect()
    assert eap_packets(pair)[-1].code == EapCode.FAILURE
    assert len(eap_packets(pair)) == (5 if methods == MSCHAP else 3)
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "EAP Failure"
    assert pair.events("auth_failed", 1)
    assert not pair.events("ike_established")
    assert not any("INFORMATIONAL" in line for line in transcript(pair))
    assert_nothing_left(pair)


def test_gateway_that_does_not_know_the_password_is_not_believed():
    """It says Success all the same; the proof in MSCHAPv2's Success is wrong."""
    server = EapServer(
        ServerSetting(EapDemand(MSCHAP, (("u", "right"),)), b"u", ALICE, NOW), rng=Random(1)
    )
    peer = EapPeer(PeerSetting(EapAuth(MSCHAP, "right"), b"u", False), rng=Random(2))
    success = server.answer(peer.answer(server.start(), ALICE, NOW))
    forged = replace(success, data=success.data.replace(b"S=", b"S=0")[:-1])
    with pytest.raises(AuthenticationFailed, match="does not know the password"):
        peer.answer(forged, ALICE, NOW)


@pytest.mark.rfc("7296", "3.16", "MUST", "response-type")
def test_peer_naks_what_it_does_not_want_and_gets_what_both_have():
    both = (EapType.MD5_CHALLENGE, EapType.MSCHAPV2)
    pair = remote(both, client=MSCHAP)
    pair.connect()
    naks = [p for p in eap_packets(pair) if p.data[:1] == bytes([EapType.NAK])]
    assert [p.data[1:] for p in naks] == [bytes([EapType.MSCHAPV2])]
    pair.agreed()


def test_no_method_in_common_is_a_failure():
    pair = remote(MD5, client=MSCHAP)
    pair.connect()
    (failed,) = pair.events("auth_failed", 1)
    assert failed.details["reason"] == "the peer wants another EAP method than MD5_CHALLENGE"
    assert_nothing_left(pair)


def test_lost_and_repeated_messages_change_nothing():
    quick = Retransmission(timeout=1.0, tries=4)
    pair = remote(both={"retransmission": quick})
    seen = []

    def fate(sent):
        seen.append(sent)
        return () if len(seen) % 3 == 2 else (0.0, 0.003)

    pair.fate = fate
    pair.do(0, "initiate", CONNECTION)
    pair.run(60.0)
    pair.agreed()
    assert len(pair.events("ike_established")) == 2


@pytest.mark.rfc("7296", "2.16", "MUST", "msk-in-auth")
@pytest.mark.rfc("7296", "2.16", "MUST", "sk-p-in-auth")
@pytest.mark.parametrize("methods", [MSCHAP, MD5])
def test_auth_after_eap_is_made_with_the_key_of_the_method(methods):
    """And with SK_pi and SK_pr after a method that has none (section 2.16)."""
    pair = remote(methods)
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    while "AUTH" not in [p.payload_type.name for p in opened(pair, post.held[0])[1]][:1]:
        post.deliver("a IKE_AUTH request", "b IKE_AUTH response")
    sa = ike_sa(pair, 0)
    key = sa.own_request.task.eap.key
    assert bool(key) is (methods == MSCHAP)
    request = post.held[0]
    post.deliver("a IKE_AUTH request")
    ends = (
        (request, sa.init_request, sa.nonce_r, sa.keys.sk_pi, ALICE),
        (post.held[0], sa.init_response, sa.nonce_i, sa.keys.sk_pr, connection(1).own_id),
    )
    for sent, first, nonce, sk_p, name in ends:
        octets = signed_octets(
            sa.prf, first, nonce, sk_p, bytes([name.id_type, 0, 0, 0]) + name.data
        )
        (auth,) = (p for p in opened(pair, sent)[1] if isinstance(p, AuthPayload))
        assert auth.data == psk_auth(sa.prf, key if key else sk_p, octets)
    post.open(1.0)
    pair.agreed()


@pytest.mark.rfc("7296", "5", "SHOULD", "server-first")
def test_password_is_shown_to_nobody_who_has_not_proved_who_it_is():
    """A gateway that leaves its AUTH out of the first response is asked for nothing more."""
    pair = remote()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    _message, payloads = opened(pair, post.take("b IKE_AUTH response"))
    bare = [p for p in payloads if p.payload_type.name != "AUTH"]
    answer = forge(pair, 1, ExchangeType.IKE_AUTH, *bare, message_id=1, response=True)
    receive(pair, 0, answer)
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "the responder begins EAP without an AUTH of its own"


def test_initiator_that_must_use_eap_and_one_that_may_not():
    key = SharedKeyAuth(b"k")
    for a, notify in (((key,), "AUTHENTICATION_FAILED"), ((EapAuth(MSCHAP, "x"),), "INVALID")):
        pair = remote(a={"own_auth": a}) if a == (key,) else make_pair(a={"own_auth": a})
        pair.connect()
        assert notify in transcript(pair)[-1]
        assert_nothing_left(pair)


def test_eap_alone_is_refused_for_methods_that_do_not_authenticate_the_gateway():
    """RFC 5998 section 3."""
    pair = remote(a={"peer_auth": (EapOnly(),)}, b={"own_auth": (EapOnly(),)})
    pair.connect()
    assert auth_lines(pair)[:2] == [
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, N(EAP_ONLY_AUTHENTICATION), "
        "SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, EAP}",
    ]
    naks = [p for p in eap_packets(pair) if p.data[:1] == bytes([EapType.NAK])]
    assert [p.data[1:] for p in naks] == [b"\0"]
    assert not pair.events("ike_established")


def test_gateway_that_wants_eap_alone_is_refused_by_an_initiator_that_does_not():
    pair = remote(b={"own_auth": (EapOnly(),)})
    pair.connect()
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"


def test_eap_after_a_machines_own_round():
    """RFC 4739: the machine with a key, then its user with a password."""
    machine = SharedKeyAuth(b"machine", Identity(IdType.ID_FQDN, b"laptop.example.org"))
    user = EapAuth(MSCHAP, "wonderland", identity=ALICE)
    pair = make_pair(
        a={"own_auth": (machine, user), "peer_auth": (GATE,)},
        b={
            "peer_id": ANY_IDENTITY,
            "own_auth": (GATE,),
            "peer_auth": (machine, EapDemand(MSCHAP, ACCOUNTS, identity=ALICE)),
        },
    )
    pair.connect()
    assert auth_lines(pair)[1:4] == [
        "b <-- IKE_AUTH: SK {IDr, AUTH}",
        "a --> IKE_AUTH: SK {IDi}",
        "b <-- IKE_AUTH: SK {EAP}",
    ]
    assert auth_lines(pair)[-1] == "b <-- IKE_AUTH: SK {AUTH, SA, TSi, TSr}"
    pair.agreed()


def test_two_rounds_by_eap():
    alice = EapAuth(MSCHAP, "wonderland")
    bob = EapAuth(MD5, "b", identity=Identity(IdType.ID_KEY_ID, b"bob"))
    pair = remote(
        a={"own_auth": (alice, bob)},
        b={
            "peer_auth": (
                EapDemand(MSCHAP, ACCOUNTS),
                EapDemand(MD5, ACCOUNTS, identity=bob.identity),
            )
        },
    )
    pair.connect()
    assert "a --> IKE_AUTH: SK {AUTH, N(ANOTHER_AUTH_FOLLOWS)}" in auth_lines(pair)
    pair.agreed()


def test_peer_that_answers_for_ever_is_cut_off():
    """Identity requests without end from the gateway; bounded at the initiator."""
    pair = remote()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    post.deliver("b IKE_AUTH response")
    for number in range(2, 100):
        if "a IKE_AUTH request" not in post.names:
            break
        post.take("a IKE_AUTH request")
        again = EapPayload(EapCode.REQUEST, number, bytes([EapType.IDENTITY]))
        receive(
            pair,
            0,
            forge(pair, 1, ExchangeType.IKE_AUTH, again, message_id=number, response=True),
        )
    assert number == IkeLimits().authentication_exchanges + 1
    (failed,) = pair.events("auth_failed", 0)
    assert "64 IKE_AUTH exchanges" in failed.details["reason"]


def begun(pair):
    """The pair with EAP under way; the post that holds the client's next request."""
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    return post


@pytest.mark.parametrize(
    "payloads",
    [
        (),
        (EapPayload(EapCode.RESPONSE, 0, b""),),
        (EapPayload(EapCode.SUCCESS, 0, b""),),
        (EapPayload(EapCode.REQUEST, 0, b"\x1a"),),
        (EapPayload(EapCode.RESPONSE, 0, bytes([26]) + bytes(60_000)),),
    ],
)
def test_malformed_eap_ends_the_half_open_ike_sa(payloads):
    pair = remote()
    begun(pair)
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *payloads, message_id=2))
    assert isinstance(opened(pair, answer)[1][0], NotifyPayload | EapPayload)
    assert pair.b.ike.half_open == 0
    assert_nothing_left(pair)


@pytest.mark.rfc("7296", "2.16", "MUST", "eap-completed")
def test_client_may_not_skip_eap():
    """AUTH with SK_pi, as after a method without a key, in place of the method."""
    pair = remote()
    post = begun(pair)
    post.deliver("b IKE_AUTH response")
    sa = ike_sa(pair, 0)
    auth = prove_by_key(sa, b"", b"", sa.keys)
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, auth, message_id=2))
    assert opened(pair, answer)[1] == (NotifyPayload(NotifyType.INVALID_SYNTAX),)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_conversations_raise_nothing_but_refusals(data):
    kind = data.draw(st.sampled_from([MSCHAP, MD5]))
    demand = EapDemand(kind, (("u", "p"),), ask_identity=data.draw(st.booleans()))
    server = EapServer(ServerSetting(demand, b"u", ALICE, NOW), rng=Random(1))
    peer = EapPeer(PeerSetting(EapAuth(kind, "p"), b"u", False), rng=Random(2))
    packet, to_peer = server.start(), True
    for _ in range(12):
        if data.draw(st.integers(0, 3)) == 0:
            octets = bytearray(packet.data)
            for at in data.draw(st.lists(st.integers(0, max(len(octets) - 1, 0)), max_size=3)):
                if octets:
                    octets[at] ^= data.draw(st.integers(1, 255))
            cut = data.draw(st.integers(0, len(octets)))
            packet = replace(packet, data=bytes(octets[:cut]))
        try:
            answer = peer.answer(packet, ALICE, NOW) if to_peer else server.answer(packet)
        except AuthenticationFailed:
            return
        if answer is None or server.outcome is False:
            break
        packet, to_peer = answer, not to_peer
    assert server.outcome is not True or peer.key == server.key


@pytest.mark.rfc("7296", "3.16", "MUST", "identifier")
@pytest.mark.rfc("7296", "3.16", "MUST", "no-type")
@pytest.mark.rfc("7296", "3.16", "MUST", "response-type")
def test_success_and_failure_have_four_octets():
    for change in ({}, {"password": "wrong"}):
        pair = remote(**change)
        pair.connect()
        last = eap_packets(pair)[-1]
        assert last.code in (EapCode.SUCCESS, EapCode.FAILURE)
        assert last.encode() == bytes([last.code, last.identifier, 0, 4])
        requests = [p for p in eap_packets(pair) if p.code == EapCode.REQUEST]
        responses = [p for p in eap_packets(pair) if p.code == EapCode.RESPONSE]
        for request, answer in zip(requests, responses, strict=True):
            assert answer.identifier == request.identifier
            assert answer.data[0] == request.data[0]


def test_failure_is_told_from_other_refusals():
    peer = EapPeer(PeerSetting(EapAuth(MSCHAP, "p"), b"u", False), rng=Random(2))
    with pytest.raises(EapRefused):
        peer.answer(EapPayload(EapCode.FAILURE, 1, b""), ALICE, NOW)
    with pytest.raises(AuthenticationFailed, match="before a method"):
        peer.answer(EapPayload(EapCode.SUCCESS, 1, b""), ALICE, NOW)
    note = EapPayload(EapCode.REQUEST, 7, bytes([EapType.NOTIFICATION]) + b"hello")
    assert peer.answer(note, ALICE, NOW) == response(7, EapType.NOTIFICATION, b"")
