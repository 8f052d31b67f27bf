"""Rounds of IKE_AUTH (RFC 4739), NULL authentication (RFC 7619), and what features hang on it."""

from dataclasses import replace

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, make_pair
from post import Post
from transcript import opened, transcript

from ipseclab.ike.authentication import initiator, responder
from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.config import (
    ANY_IDENTITY,
    NULL_IDENTITY,
    Identity,
    IkeLimits,
    NullAuth,
    Retransmission,
    SharedKeyAuth,
)
from ipseclab.ike.keys import psk_auth, signed_octets
from ipseclab.registry import (
    AuthMethod,
    CfgAttributeType,
    CfgType,
    ExchangeType,
    IdType,
    NotifyType,
)
from ipseclab.wire.payloads import (
    AuthPayload,
    CpAttribute,
    CpPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
)

MACHINE, USER = (
    SharedKeyAuth(b"of the machine"),
    SharedKeyAuth(b"of the user", Identity(IdType.ID_RFC822_ADDR, b"user@example.org")),
)
QUICK = Retransmission(timeout=1.0, tries=4)
GATE, HALL = (
    SharedKeyAuth(b"of the gate"),
    SharedKeyAuth(b"of the hall", Identity(IdType.ID_FQDN, b"hall.example.org")),
)


def rounds(of_a, of_b, **options):
    """A pair whose ends authenticate by those rounds."""
    return make_pair(
        a={"own_auth": of_a, "peer_auth": of_b, **options.pop("a", {})},
        b={"own_auth": of_b, "peer_auth": of_a, **options.pop("b", {})},
        **options,
    )


def auth_lines(pair):
    return [line for line in transcript(pair) if "IKE_AUTH" in line]


@pytest.mark.rfc("7296", "2.4", "MUST", "contact-first")
@pytest.mark.parametrize(
    ("of_a", "of_b", "lines"),
    [
        (
            (MACHINE, USER),
            (GATE,),
            [
                "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, "
                "N(ANOTHER_AUTH_FOLLOWS), N(MULTIPLE_AUTH_SUPPORTED), SA, TSi, TSr}",
                "b <-- IKE_AUTH: SK {IDr, AUTH}",
                "a --> IKE_AUTH: SK {IDi, AUTH}",
                "b <-- IKE_AUTH: SK {SA, TSi, TSr}",
            ],
        ),
        (
            (MACHINE,),
            (GATE, HALL),
            [
                "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, "
                "N(MULTIPLE_AUTH_SUPPORTED), SA, TSi, TSr}",
                "b <-- IKE_AUTH: SK {IDr, AUTH, N(ANOTHER_AUTH_FOLLOWS)}",
                "a --> IKE_AUTH: SK {}",
                "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}",
            ],
        ),
        (
            (MACHINE, USER),
            (GATE, HALL),
            [
                "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, "
                "N(ANOTHER_AUTH_FOLLOWS), N(MULTIPLE_AUTH_SUPPORTED), SA, TSi, TSr}",
                "b <-- IKE_AUTH: SK {IDr, AUTH, N(ANOTHER_AUTH_FOLLOWS)}",
                "a --> IKE_AUTH: SK {IDi, AUTH}",
                "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}",
            ],
        ),
    ],
)
def test_each_end_authenticates_in_all_its_rounds(of_a, of_b, lines):
    pair = rounds(of_a, of_b)
    pair.connect()
    assert auth_lines(pair) == lines
    pair.agreed()
    assert ike_sa(pair, 1).authentication is None


def test_rounds_survive_losses_and_duplicates():
    pair = rounds((MACHINE, USER, MACHINE), (GATE, HALL), both={"retransmission": QUICK})
    seen = []

    def fate(sent):
        seen.append(sent)
        return () if len(seen) % 3 == 1 else (0.0, 0.005)

    pair.fate = fate
    pair.do(0, "initiate", CONNECTION)
    pair.run(60.0)
    pair.agreed()


@pytest.mark.parametrize(
    "changed",
    [
        {"peer_auth": (MACHINE, replace(USER, key=b"another"))},
        {"peer_auth": (MACHINE,)},
        {"peer_auth": (MACHINE, USER, USER)},
        {"own_auth": (replace(GATE, key=b"another"),)},
        {"own_auth": (GATE, HALL)},
    ],
)
def test_rounds_that_differ_at_the_two_ends_come_to_nothing(changed):
    pair = rounds((MACHINE, USER), (GATE,), b=changed)
    pair.connect()
    assert not pair.events("child_ready")
    assert pair.events("auth_failed", 0)
    pair.run(400.0)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


def test_initiator_with_two_rounds_gives_up_on_a_responder_that_takes_one():
    pair = make_pair(a={"own_auth": (MACHINE, USER)}, b={"peer_auth": (MACHINE,)})
    pair.connect()
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "the responder takes one round of authentication alone"
    assert not auth_lines(pair)


def test_responder_forgets_an_initiator_that_stops_between_its_rounds():
    pair = rounds((MACHINE, USER), (GATE,))
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    pair.run(IkeLimits().authentication_timeout - 1.0)
    assert pair.b.ike.half_open == 1
    pair.run(2.0)
    assert pair.b.ike.half_open == 0
    (failed,) = pair.events("ike_failed", 1)
    assert failed.details["reason"] == "IKE_AUTH took too long"


def test_initiator_that_gives_up_between_rounds_is_heard():
    pair = rounds((MACHINE, USER), (GATE,), b={"own_auth": (replace(GATE, key=b"other"),)})
    pair.connect()
    assert transcript(pair)[-2:] == [
        "a --> INFORMATIONAL: SK {N(AUTHENTICATION_FAILED)}",
        "b <-- INFORMATIONAL: SK {}",
    ]
    assert pair.b.ike.half_open == 0


def test_null_authentication_by_both_ends():
    null = (NullAuth(),)
    sides = {"peer_id": NULL_IDENTITY, "own_auth": null, "peer_auth": null}
    pair = make_pair(both=sides)
    pair.connect()
    request = next(s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=False))
    _message, payloads = opened(pair, request)
    assert payloads[0] == IdiPayload(IdType.ID_NULL, b"")
    sa = ike_sa(pair, 0)
    octets = signed_octets(
        sa.prf, sa.init_request, sa.nonce_r, sa.keys.sk_pi, bytes([IdType.ID_NULL, 0, 0, 0])
    )
    auth = next(p for p in payloads if isinstance(p, AuthPayload))
    assert auth == AuthPayload(AuthMethod.NULL, psk_auth(sa.prf, sa.keys.sk_pi, octets))
    pair.agreed()


@pytest.mark.parametrize("side", [0, 1])
def test_null_authentication_of_messages_that_were_changed_is_refused(side):
    """It does not say who sends them, but proves that they are as they were sent."""
    null = (NullAuth(),)
    pair = make_pair(both={"peer_id": NULL_IDENTITY, "own_auth": null, "peer_auth": null})
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    if side == 1:
        post.deliver("a IKE_AUTH request")
    _message, payloads = opened(pair, post.held[0])
    spoilt = [
        replace(p, data=bytes(len(p.data))) if isinstance(p, AuthPayload) else p for p in payloads
    ]
    forged = forge(pair, side, ExchangeType.IKE_AUTH, *spoilt, message_id=1, response=side == 1)
    receive(pair, 1 - side, forged)
    event = "auth_failed" if side == 1 else "ike_error_sent"
    (refused,) = pair.events(event, 1 - side)
    assert "AUTH does not verify: messages were changed" in refused.details["reason"]
    assert not pair.events("ike_established", 1 - side)


def test_initial_contact_of_nobody_closes_nothing():
    pair = make_pair(
        a={"own_auth": (NullAuth(),), "peer_auth": (GATE,)},
        b={"own_auth": (GATE,), "peer_auth": (NullAuth(),), "peer_id": ANY_IDENTITY},
    )
    pair.connect()
    first = pair.ike_spis(1)
    pair.gateways[0] = type(pair.a)(pair.configs[0], rng=pair.gateways[1]._rng)
    pair.connect()
    assert first < pair.ike_spis(1)


def test_null_is_refused_where_a_key_is_wanted_and_the_other_way_round():
    for of_a, wanted in (((NullAuth(None),), (MACHINE,)), ((MACHINE,), (NullAuth(None),))):
        pair = make_pair(a={"own_auth": of_a}, b={"peer_auth": wanted})
        pair.connect()
        assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"


def test_any_identity_takes_each_peer_for_itself():
    pair = make_pair(b={"peer_id": ANY_IDENTITY})
    pair.connect()
    assert str(ike_sa(pair, 1).connection.peer_id) == "a.example.org"
    pair.agreed()


def test_second_round_without_an_identity_is_malformed():
    pair = rounds((MACHINE, USER), (GATE,))
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    post.deliver("b IKE_AUTH response")
    _message, payloads = opened(pair, post.take("a IKE_AUTH request"))
    without = [p for p in payloads if not isinstance(p, IdiPayload)]
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *without, message_id=2))
    assert opened(pair, answer)[1] == (NotifyPayload(NotifyType.INVALID_SYNTAX),)


def test_responder_that_ends_before_it_owes_nothing_is_refused():
    pair = rounds((MACHINE, USER), (GATE,))
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    _message, payloads = opened(pair, post.take("b IKE_AUTH response"))
    _message, asked = opened(
        pair, next(s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=False))
    )
    early = (*payloads, *(p for p in asked if p.payload_type.name in ("SA", "TSI", "TSR")))
    answer = forge(
        pair, 1, ExchangeType.IKE_AUTH, *early, message_id=1, response=True, sa=ike_sa(pair, 1)
    )
    receive(pair, 0, answer)
    assert not pair.events("ike_established", 0)
    assert pair.events("auth_failed", 0)


class Address(AuthExtension):
    """A feature that asks in the first request, confirms in the last, is granted in the end."""

    asked = CpPayload(CfgType.CFG_REQUEST, (CpAttribute(CfgAttributeType.INTERNAL_IP4_ADDRESS),))
    confirmed = NotifyPayload(NotifyType.MOBIKE_SUPPORTED)

    def __init__(self):
        self.got = []

    def first_request(self, ctx, sa):
        return (self.asked,)

    def last_request(self, ctx, sa):
        return (self.confirmed,)

    def last_response(self, ctx, sa, first, last, now):
        assert first.find(CpPayload) == self.asked
        assert last.notify(NotifyType.MOBIKE_SUPPORTED) is not None
        return (CpPayload(CfgType.CFG_REPLY, ()), self.confirmed)

    def finish(self, ctx, sa, response, now):
        self.got.append(response.find(CpPayload))


@pytest.mark.rfc("7296", "2.19", "MUST", "cp-beside-sa")
@pytest.mark.parametrize("of_a", [(MACHINE,), (MACHINE, USER)])
def test_feature_rides_in_the_first_and_last_request_and_the_last_response(monkeypatch, of_a):
    feature = Address()
    monkeypatch.setattr(initiator, "EXTENSIONS", (feature,))
    monkeypatch.setattr(responder, "EXTENSIONS", (feature,))
    pair = rounds(of_a, (GATE,))
    pair.connect()
    lines = auth_lines(pair)
    assert "CP, SA, TSi, TSr" in lines[0]
    assert ("N(MOBIKE_SUPPORTED)" in lines[0]) == (len(of_a) == 1)
    assert lines[-2].endswith("N(MOBIKE_SUPPORTED)}")
    assert lines[-1].endswith("CP, SA, TSi, TSr, N(MOBIKE_SUPPORTED)}")
    assert feature.got == [CpPayload(CfgType.CFG_REPLY, ())]
    pair.agreed()


class Childless(AuthExtension):
    """RFC 6023 in short."""

    def wants_child(self, ctx, sa):
        return False


def test_ike_sa_without_a_child_sa(monkeypatch):
    monkeypatch.setattr(initiator, "EXTENSIONS", (Childless(),))
    monkeypatch.setattr(responder, "EXTENSIONS", (Childless(),))
    pair = make_pair()
    pair.connect()
    assert auth_lines(pair) == [
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH}",
        "b <-- IKE_AUTH: SK {IDr, AUTH}",
    ]
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert not pair.events("child_failed")


@pytest.mark.rfc("9242", "3.3.2", "MUST", "in-auth")
def test_int_auth_is_part_of_what_auth_covers():
    """RFC 9242 section 3.3.2: ends that saw different IKE_INTERMEDIATE messages do not agree."""
    for of_b, works in ((b"same", True), (b"other", False)):
        pair = make_pair()
        post = Post(pair)
        pair.do(0, "initiate", CONNECTION)
        post.deliver("a IKE_SA_INIT request")
        ike_sa(pair, 0).int_auth = b"same"
        ike_sa(pair, 1).int_auth = of_b
        post.open(1.0)
        assert bool(pair.events("ike_established", 0)) is works


def test_identity_of_the_responder_is_the_one_expected_in_each_round():
    stranger = replace(HALL, identity=Identity(IdType.ID_FQDN, b"cellar.example.org"))
    pair = rounds((MACHINE,), (GATE, HALL), b={"own_auth": (GATE, stranger)})
    pair.connect()
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "peer is cellar.example.org, expected hall.example.org"


def test_round_with_a_name_of_another_is_refused_by_the_responder():
    pair = rounds((MACHINE, USER), (GATE,), a={"own_auth": (MACHINE, replace(USER, identity=None))})
    pair.connect()
    assert not pair.events("ike_established")


def test_idr_is_not_asked_for_when_any_will_do():
    pair = make_pair(a={"peer_id": ANY_IDENTITY})
    pair.connect()
    request = next(s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=False))
    assert not any(isinstance(p, IdrPayload) for p in opened(pair, request)[1])
    pair.agreed()
