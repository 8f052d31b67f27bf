"""Rules of RFC 7296 about exchanges that belong to no other file: hints, errors, what is left."""

from dataclasses import replace
from random import Random

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, Pair, connection, gateway_config, make_pair
from post import Post
from transcript import ike_messages, opened, transcript

from ipseclab.gateway import Gateway
from ipseclab.ike.config import IkeLimits, Lifetime
from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, ProtocolId, TransformType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    DeletePayload,
    KePayload,
    NotifyPayload,
    SaPayload,
)
from ipseclab.wire.proposal import Proposal, Transform

INFORMATIONAL, CREATE = ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA
HINTS = (NotifyType.INVALID_IKE_SPI, NotifyType.INVALID_SPI, NotifyType.AUTHENTICATION_FAILED)


def connected(**options: object) -> Pair:
    pair = make_pair(**options)
    pair.connect()
    return pair


def notify_of(pair: Pair, answer: object) -> NotifyType:
    """The notification that a message holds alone."""
    (notify,) = opened(pair, answer)[1]
    return notify.notify_type


# Without protection (sections 1.5, 2.4, 2.21.4).


@pytest.mark.rfc("7296", "1.5", "MUST NOT", "answer-invalid-spi")
@pytest.mark.rfc("7296", "2.21.4", "MUST NOT", "hint-answered")
@pytest.mark.rfc("7296", "2.21.4", "MUST NOT", "hint-believed")
@pytest.mark.rfc("7296", "2.4", "MUST NOT", "dead-by-rumour")
@pytest.mark.parametrize("hint", HINTS)
@pytest.mark.parametrize("response", [False, True])
def test_unprotected_notifications_change_nothing(hint, response):
    pair = connected()
    for side in (0, 1):
        sa = ike_sa(pair, 1 - side)
        number = sa.next_message_id
        if response:  # to a request that is under way
            pair.fate = lambda sent: ()
            pair.do(side, "check_liveness", CONNECTION)
            number = ike_sa(pair, side).next_message_id - 1
        plain = Message(
            sa.spi_i,
            sa.spi_r,
            INFORMATIONAL,
            sa.initiator,
            response,
            number,
            (NotifyPayload(hint, bytes(4)),),
        )
        assert receive(pair, side, plain.encode()) == []
    pair.fate = lambda sent: (0.0,)
    pair.run(10.0)
    assert not pair.events("ike_gone")
    pair.agreed()


@pytest.mark.rfc("7296", "2.21.4", "MUST NOT", "protected-hint-believed")
@pytest.mark.parametrize("hint", [NotifyType.INVALID_SPI, NotifyType.INVALID_SELECTORS])
def test_protected_hints_change_no_sa(hint):
    pair = connected()
    (child,) = pair.b.ike.child_sas
    notify = NotifyPayload(hint, child.spi_in, ProtocolId.ESP, child.spi_out)
    (answer,) = receive(pair, 1, forge(pair, 0, INFORMATIONAL, notify))
    assert opened(pair, answer)[1] == ()
    ike_sa(pair, 0).next_message_id += 1
    pair.agreed()


@pytest.mark.rfc("7296", "2.21.4", "MUST NOT", "unknown-response")
def test_response_of_an_unknown_ike_sa_is_not_answered():
    pair = connected()
    octets = forge(pair, 0, INFORMATIONAL, response=True)
    unknown = bytes([octets[0] ^ 1]) + octets[1:8] + bytes([octets[8] ^ 1]) + octets[9:]
    assert receive(pair, 1, unknown) == []


# INITIAL_CONTACT (section 2.4).


@pytest.mark.rfc("7296", "2.4", "MUST NOT", "contact-of-many")
def test_an_end_that_may_exist_twice_says_no_initial_contact():
    pair = make_pair(a={"initial_contact": False})
    pair.connect()
    old = pair.ike_spis(1)
    pair.gateways[0] = Gateway(pair.configs[0], rng=Random("the other one"))
    pair.connect()
    assert not any("INITIAL_CONTACT" in line for line in transcript(pair))
    assert old < pair.ike_spis(1)


# Each message on the IKE_SA that it is about (section 1.4).


@pytest.mark.rfc("7296", "1.4", "MUST", "own-child-sa")
def test_a_delete_on_another_ike_sa_closes_nothing():
    pair = make_pair()
    for side in (0, 1):
        pair.do(side, "initiate", CONNECTION)
    pair.run(1.0)
    one, two = pair.a.ike.ike_sas
    (child,) = two.children.values()
    before = pair.spis(1)
    delete = DeletePayload(ProtocolId.ESP, (child.spi_in,))
    (answer,) = receive(pair, 1, forge(pair, 0, INFORMATIONAL, delete, sa=one))
    assert opened(pair, answer)[1] == ()
    assert pair.spis(1) == before
    assert len(before) == 2


@pytest.mark.rfc("7296", "2.25.1", "SHOULD", "close-unknown")
def test_delete_of_an_sa_that_is_not_there_is_answered_without_one():
    pair = connected()
    delete = DeletePayload(ProtocolId.ESP, (b"none",))
    (answer,) = receive(pair, 1, forge(pair, 0, INFORMATIONAL, delete))
    assert opened(pair, answer)[1] == ()
    assert len(pair.spis(1)) == 1


@pytest.mark.rfc("7296", "2.8", "MUST", "delete-last")
def test_the_last_request_on_a_rekeyed_ike_sa_is_its_delete():
    pair = connected(both={"window": 4})
    (old,) = pair.ike_spis(0)
    start = len(pair.sent)
    for method in ("create_child", "rekey_ike", "create_child", "check_liveness"):
        pair.do(0, method, CONNECTION)
        pair.do(1, "check_liveness", CONNECTION)
    pair.run(5.0)
    on_the_old = [
        sent
        for sent in ike_messages(pair, first=start)
        if (sent.header.spi_i, sent.header.spi_r) == old and not sent.header.response
    ]
    assert pair.events("ike_rekeyed", 0)
    assert opened(pair, on_the_old[-1])[1] == (DeletePayload(ProtocolId.IKE),)


# Key exchange (sections 2.18 and 3.3.6).


@pytest.mark.rfc("7296", "2.18", "MUST NOT", "none-accepted")
def test_an_ike_sa_is_not_rekeyed_without_a_key_exchange():
    pair = connected()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    sent = post.take("a CREATE_CHILD_SA request")
    payloads = opened(pair, sent)[1]
    (proposal,) = payloads[0].proposals
    kept = tuple(t for t in proposal.transforms if t.type != TransformType.KE)
    none = Transform(TransformType.KE, KeMethod.NONE)
    for number, transforms in enumerate((kept, (*kept, none)), sent.header.message_id):
        without = SaPayload((Proposal(1, ProtocolId.IKE, proposal.spi, transforms),))
        others = (p for p in payloads[1:] if not isinstance(p, KePayload))
        octets = forge(pair, 0, CREATE, without, *others, message_id=number)
        (answer,) = receive(pair, 1, octets)
        assert notify_of(pair, answer) == NotifyType.NO_PROPOSAL_CHOSEN
    assert len(pair.ike_spis(1)) == 1


@pytest.mark.rfc("7296", "3.3.6", "MUST", "no-key-exchange")
@pytest.mark.parametrize("method", ["create_child", "rekey_child"])
def test_a_responder_that_wants_no_key_exchange_leaves_the_value_alone(method):
    both = tuple(map(parse_esp_proposal, ("aes256gcm16-x25519", "aes128gcm16")))
    pair = connected(a={"esp_proposals": both}, b={"esp_proposals": both[1:]})
    start = len(pair.sent)
    pair.do(0, method, CONNECTION)
    pair.run(1.0)
    lines = transcript(pair, first=start)
    assert "KE" in lines[0].split(", ")
    assert lines[1] == "b <-- CREATE_CHILD_SA: SK {SA, Nr, TSi, TSr}"
    assert len(pair.spis(0)) == (2 if method == "create_child" else 1)
    assert pair.spis(0) == pair.spis(1)
    pair.send(0)
    pair.run(1.0)
    assert len(pair.delivered[1]) == 1


@pytest.mark.rfc("7296", "3.3.6", "MUST", "check-answer")
@pytest.mark.parametrize("method", ["create_child", "rekey_child"])
def test_a_suite_that_was_not_offered_makes_no_sa(method):
    pair = connected()
    before = pair.spis(0)
    post = Post(pair)
    pair.do(0, method, CONNECTION)
    post.deliver("a CREATE_CHILD_SA request")
    sent = post.take("b CREATE_CHILD_SA response")
    sa_payload, *others = opened(pair, sent)[1]
    other = parse_esp_proposal("aes256gcm16").transforms
    wrong = SaPayload((replace(sa_payload.proposals[0], transforms=other),))
    number = sent.header.message_id
    receive(pair, 0, forge(pair, 1, CREATE, wrong, *others, message_id=number, response=True))
    assert pair.events("exchange_failed", 0)
    post.open(10.0)
    assert pair.spis(0) == pair.spis(1) == before


# Errors (sections 3.10.1 and 4).


@pytest.mark.rfc("7296", "3.10.1", "MUST", "unknown-error-response")
@pytest.mark.parametrize("method", ["create_child", "rekey_child", "rekey_ike"])
def test_an_unknown_error_beside_a_whole_response_fails_the_request(method):
    pair = connected()
    before = pair.spis(0)
    post = Post(pair)
    pair.do(0, method, CONNECTION)
    post.deliver("a CREATE_CHILD_SA request")
    sent = post.take("b CREATE_CHILD_SA response")
    payloads, number = opened(pair, sent)[1], sent.header.message_id
    error = NotifyPayload(NotifyType(9000))
    old = next(sa for sa in pair.b.ike.ike_sas if sa.spi_i == sent.header.spi_i)
    wrong = forge(pair, 1, CREATE, *payloads, error, message_id=number, response=True, sa=old)
    receive(pair, 0, wrong)
    post.open(10.0)
    if method == "rekey_ike":  # the peer has an IKE_SA that this end cannot have: start over
        assert not pair.ike_spis(0)
        assert not pair.events("ike_rekeyed", 0)
    else:
        assert pair.spis(0) == pair.spis(1) == before


@pytest.mark.rfc("7296", "4", "MUST", "instead-of-rekey")
def test_a_peer_without_room_for_a_rekey_gets_a_delete_and_a_new_request():
    limits = IkeLimits(children_per_ike=1)
    lifetime = Lifetime(seconds=100.0, margin=0.2, jitter=0.0)
    sides = connection(0, child_lifetime=lifetime), connection(1)
    pair = Pair((gateway_config(sides[0]), gateway_config(sides[1], limits=limits)))
    pair.connect()
    start = len(pair.sent)
    pair.run(99.5)
    pair.send(0)
    pair.run(1.0)
    assert transcript(pair, first=start)[:4] == [
        "a --> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, TSi, TSr}",
        "b <-- CREATE_CHILD_SA: SK {N(NO_ADDITIONAL_SAS)}",
        "a --> INFORMATIONAL: SK {D(ESP)}",
        "b <-- INFORMATIONAL: SK {D(ESP)}",
    ]
    packet = pair.send(0, 7)
    pair.run(1.0)
    assert packet in pair.delivered[1]
    pair.agreed()


@pytest.mark.rfc("7296", "2.22", "MUST NOT", "ipcomp-unproposed")
def test_nothing_is_compressed():
    """IPComp is not offered, and what a peer offers is passed over (section 2.22)."""
    pair = connected()
    post = Post(pair)
    pair.do(0, "create_child", CONNECTION)
    sent = post.take("a CREATE_CHILD_SA request")
    payloads = opened(pair, sent)[1]
    offered = NotifyPayload(NotifyType.IPCOMP_SUPPORTED, b"\0\1\2")
    octets = forge(pair, 0, CREATE, *payloads, offered, message_id=sent.header.message_id)
    receive(pair, 1, octets)
    assert transcript(pair)[-1] == "b <-- CREATE_CHILD_SA: SK {SA, Nr, TSi, TSr}"
