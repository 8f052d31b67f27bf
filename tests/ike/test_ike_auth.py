"""IKE_AUTH: who is believed, what AUTH covers, INITIAL_CONTACT, both ends starting at once."""

from dataclasses import replace
from random import Random

import pytest
from forge import forge, ike_sa, path_to, receive
from pair import CONNECTION, PSK, connection, gateway_config, make_pair
from post import Post
from transcript import ike_octets, opened, transcript

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import Identity, IkeConfig, IkeLimits, Retransmission
from ipseclab.ike.keys import psk_auth, signed_octets
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.protection import Envelope
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.registry import AuthMethod, ExchangeType, IdType, NotifyType, PayloadType
from ipseclab.wire.payloads import AuthPayload, IdiPayload, NotifyPayload, UnknownPayload

QUICK = Retransmission(timeout=1.0, tries=2)


def assert_nothing_left(pair):
    pair.run(400.0)
    for gateway in pair.gateways:
        sizes = {**gateway.ike.table_sizes, "counters": 0}
        assert not any(sizes.values()), sizes
        assert len(gateway.datapath.sad) == 0


@pytest.mark.rfc("7296", "1.2", "MUST", "verify")
def test_wrong_psk_is_refused_and_both_ends_forget():
    pair = make_pair(a={"psk": b"another secret"})
    pair.connect()
    assert transcript(pair)[-2:] == [
        "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}",
    ]
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "AUTHENTICATION_FAILED"
    assert not pair.events("ike_established")
    assert not pair.events("child_ready")
    assert_nothing_left(pair)


@pytest.mark.rfc("7296", "1.2", "MUST", "name-of-key")
@pytest.mark.rfc("7296", "2.21.2", "SHOULD", "auth-failed")
def test_unknown_initiator_is_refused_as_failed_authentication():
    stranger = Identity(IdType.ID_FQDN, b"stranger.example.org")
    pair = make_pair(a={"own_id": stranger})
    pair.connect()
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"
    assert_nothing_left(pair)


def test_responder_that_is_asked_for_by_another_name_refuses():
    other = Identity(IdType.ID_FQDN, b"other.example.org")
    pair = make_pair(a={"peer_id": other})
    pair.connect()
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"
    assert_nothing_left(pair)


@pytest.mark.rfc("7296", "1.2", "MUST", "verify")
@pytest.mark.rfc("7296", "2.21.2", "MAY", "auth-failed-told")
def test_initiator_that_refuses_the_responders_auth_says_so_without_a_delete():
    """Section 2.21.2: the responder believes that the IKE_SA stands."""
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.025)  # IKE_AUTH is on its way
    sa = ike_sa(pair, 0)
    sa.connection = replace(sa.connection, psk=b"changed since")
    pair.run(1.0)
    assert transcript(pair)[-3:] == [
        "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}",
        "a --> INFORMATIONAL: SK {N(AUTHENTICATION_FAILED)}",
        "b <-- INFORMATIONAL: SK {}",
    ]
    assert_nothing_left(pair)


@pytest.mark.rfc("7296", "3.5", "MUST", "reserved")
def test_auth_covers_the_id_payload_as_received_with_its_reserved_octets():
    """A peer may set them; AUTH is over what it sent, not over what we would have written."""
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    request = post.take("a IKE_AUTH request")
    sa = ike_sa(pair, 0)
    message, payloads = opened(pair, request)
    body = bytes([IdType.ID_FQDN, 0xAA, 0xBB, 0xCC]) + sa.connection.own_id.data
    octets = signed_octets(sa.prf, sa.init_request, sa.nonce_r, sa.keys.sk_pi, body)
    changed = {
        IdiPayload: UnknownPayload(PayloadType.IDI, body),
        AuthPayload: AuthPayload(AuthMethod.SHARED_KEY, psk_auth(sa.prf, PSK, octets)),
    }
    envelope = Envelope(sa.spi_i, sa.spi_r, message.exchange, True, False, 1)
    odd = sa.protection.seal(envelope, tuple(changed.get(type(p), p) for p in payloads))
    receive(pair, 1, odd)
    assert pair.events("ike_established", 1)
    post.open(1.0)
    pair.agreed()


def test_auth_over_other_reserved_octets_than_those_sent_is_refused():
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    message, payloads = opened(pair, post.take("a IKE_AUTH request"))
    sa = ike_sa(pair, 0)
    body = bytes([IdType.ID_FQDN, 0xAA, 0xBB, 0xCC]) + sa.connection.own_id.data
    envelope = Envelope(sa.spi_i, sa.spi_r, message.exchange, True, False, 1)
    odd = sa.protection.seal(envelope, (UnknownPayload(PayloadType.IDI, body), *payloads[1:]))
    (answer,) = receive(pair, 1, odd)
    assert opened(pair, answer)[1] == (NotifyPayload(NotifyType.AUTHENTICATION_FAILED),)


def test_initiator_does_not_answer_its_own_auth_reflected_to_it():
    """With one identity at both ends the initiator would otherwise accept itself."""
    same = Identity(IdType.ID_FQDN, b"same.example.org")
    pair = make_pair(both={"own_id": same, "peer_id": same})
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    _message, payloads = opened(pair, post.take("a IKE_AUTH request"))
    reflected = forge(pair, 1, ExchangeType.IKE_AUTH, *payloads, message_id=0)
    assert receive(pair, 0, reflected) == []
    assert pair.a.counters["ike.not_authenticated"] == 1
    assert not pair.events("ike_established", 0)


@pytest.mark.rfc("7296", "1", "MUST", "init-then-auth")
@pytest.mark.rfc("7296", "1.4", "MUST", "after-auth")
def test_nothing_but_ike_auth_is_answered_before_authentication():
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    for exchange in (ExchangeType.INFORMATIONAL, ExchangeType.CREATE_CHILD_SA):
        assert receive(pair, 1, forge(pair, 0, exchange, message_id=1)) == []
    assert pair.b.counters["ike.not_authenticated"] == 2
    post.open(1.0)
    pair.agreed()


@pytest.mark.rfc("7296", "2.21.2", "MUST", "whole-request")
def test_ike_auth_without_auth_is_malformed():
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    _message, payloads = opened(pair, post.take("a IKE_AUTH request"))
    without = [p for p in payloads if not isinstance(p, AuthPayload)]
    (answer,) = receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *without, message_id=1))
    assert opened(pair, answer)[1] == (NotifyPayload(NotifyType.INVALID_SYNTAX),)


@pytest.mark.rfc("7296", "2.21.2", "MUST", "whole-request")
def test_unknown_critical_payload_ends_ike_auth_before_anything_is_verified():
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    _message, payloads = opened(pair, post.take("a IKE_AUTH request"))
    odd = UnknownPayload(PayloadType(201), b"", critical=True)
    (answer,) = receive(
        pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *payloads, odd, message_id=1)
    )
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(UNSUPPORTED_CRITICAL_PAYLOAD)}"
    assert opened(pair, answer)[1][0].data == bytes([201])
    assert not pair.events("ike_established", 1)


def test_failed_strangers_hold_no_memory_for_longer_than_half_open_ones():
    pair = make_pair(a={"psk": b"wrong"})
    pair.connect()
    assert pair.b.ike.table_sizes["ike_sas"] == 1  # answers a repeat of the request
    assert pair.b.ike.half_open == 0
    pair.run(IkeLimits().half_open_timeout)
    assert pair.b.ike.table_sizes["ike_sas"] == 0


def test_lost_refusal_is_repeated_from_the_cache():
    pair = make_pair(a={"psk": b"wrong", "retransmission": QUICK})
    lost = []

    def lose_first_refusal(sent):
        if sent.is_ike(ExchangeType.IKE_AUTH, response=True) and not lost:
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = lose_first_refusal
    pair.connect()
    pair.run(3.0)
    refusals = [s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=True)]
    assert len(refusals) == 2
    assert ike_octets(refusals[0]) == ike_octets(refusals[1])
    assert pair.events("auth_failed", 0)


@pytest.mark.rfc("7296", "1.3.1", "SHOULD NOT", "keep-ike-sa")
@pytest.mark.rfc("7296", "2.21.2", "MUST NOT", "child-error")
@pytest.mark.parametrize(
    ("b", "notify"),
    [
        ({"esp_proposals": (parse_esp_proposal("aes256gcm16"),)}, "NO_PROPOSAL_CHOSEN"),
        ({"peer_ts": ()}, "TS_UNACCEPTABLE"),
    ],
)
def test_ike_sa_stands_although_its_child_sa_is_refused(b, notify):
    pair = make_pair(b=b)
    pair.connect()
    assert transcript(pair)[-1] == f"b <-- IKE_AUTH: SK {{IDr, AUTH, N({notify})}}"
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert len(pair.ike_spis(0)) == 1
    assert not pair.spis(0)
    assert not pair.spis(1)
    (failed,) = pair.events("child_failed", 0)
    assert failed.details["reason"] == notify
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(1.0)
    assert pair.events("liveness_confirmed", 0)


# INITIAL_CONTACT (section 2.4).


def restarted(pair, side):
    """A gateway of the same configuration that remembers nothing."""
    pair.gateways[side] = Gateway(pair.configs[side], rng=Random(f"again {side}"))


@pytest.mark.rfc("7296", "2.4", "MAY", "initial-contact")
@pytest.mark.rfc("7296", "2.4", "MUST", "dead-by-silence")
def test_peer_that_restarts_without_memory_takes_the_place_of_its_old_self():
    pair = make_pair()
    pair.connect()
    old = pair.ike_spis(1)
    restarted(pair, 0)
    pair.connect()
    gone = [n for n in pair.events("ike_gone", 1) if n.details["reason"] == "initial contact"]
    assert len(gone) == 1
    assert not pair.ike_spis(1) & old
    pair.agreed()


def test_restarted_responder_is_found_dead_and_connected_to_anew():
    pair = make_pair(both={"retransmission": QUICK, "liveness": 10.0})
    pair.connect()
    restarted(pair, 1)
    pair.run(30.0)
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["no answer"]
    pair.connect()
    pair.agreed()


def test_initial_contact_is_not_claimed_beside_another_ike_sa():
    pair = make_pair()
    pair.connect()
    sites = replace(connection(0), name="second")
    config = IkeConfig("a", (connection(0), sites))
    assert config.connections[1].peer_id == config.connections[0].peer_id
    first = gateway_config(connection(0))
    second = gateway_config(sites)
    both = replace(first, ike=config, policies=(*first.policies, *second.policies))
    pair.gateways[0] = Gateway(both, rng=pair.gateways[0]._rng)
    pair.connect()
    start = len(pair.sent)
    pair.do(0, "initiate", "second")
    pair.run(1.0)
    auth = transcript(pair, first=start)[2]
    assert auth == "a --> IKE_AUTH: SK {IDi, IDr, AUTH, SA, TSi, TSr}"
    assert len(pair.ike_spis(0)) == len(pair.ike_spis(1)) == 2


def test_both_ends_start_at_once_and_both_ike_sas_stand():
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.do(1, "initiate", CONNECTION)
    pair.run(1.0)
    assert len(pair.ike_spis(0)) == 2
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)
    for side in (0, 1):
        packet = pair.send(side)
        pair.run(0.1)
        assert pair.delivered[1 - side] == [packet]


def test_late_initial_contact_closes_no_ike_sa_that_the_peer_made_meanwhile():
    """a asserted that it had no other before b's own IKE_AUTH was through; a believed both."""
    pair = make_pair()
    post = Post(pair)
    pair.do(0, "initiate", CONNECTION)
    pair.do(1, "initiate", CONNECTION)
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT request")
    post.deliver("a IKE_SA_INIT response", "b IKE_SA_INIT response")
    pair.run(0.5)
    late = post.take("a IKE_AUTH request")
    post.deliver("b IKE_AUTH request", "a IKE_AUTH response")
    assert pair.events("ike_established", 1)
    pair.run(0.5)
    post.deliver_sent(late)
    post.open(20.0)
    assert len(pair.ike_spis(1)) == 2
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert pair.spis(0) == pair.spis(1)


def test_copy_of_ike_auth_from_elsewhere_is_answered_there_and_changes_nothing():
    pair = make_pair()
    pair.connect()
    request = next(s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=False))
    path = path_to(1, source=path_to(1).remote._replace(address="203.0.113.66"))
    (answer,) = receive(pair, 1, ike_octets(request), path)
    assert answer.item.path.remote.address == "203.0.113.66"
    assert ike_sa(pair, 1).path.remote.address == "192.0.2.1"
    pair.agreed()


def test_connection_whose_algorithms_were_not_chosen_refuses_the_peer():
    # Two connections of the responder may mean this peer; IKE_SA_INIT takes what either allows.
    weak = parse_ike_proposal("aes128gcm16-prfsha256-x25519")
    strong = parse_ike_proposal("aes256gcm16-prfsha384-ecp384")
    pair = make_pair(a={"ike_proposals": (weak,)})
    meant = connection(1, ike_proposals=(strong,))
    other = connection(
        1, name="other", ike_proposals=(weak,), peer_id=Identity(IdType.ID_FQDN, b"c.example.org")
    )
    policies = tuple(
        Policy(c.name, Action.PROTECT, c.own_ts, c.peer_ts, c.name) for c in (meant, other)
    )
    config = GatewayConfig(IkeConfig("b", (meant, other)), policies)
    pair.gateways[1] = Gateway(config, rng=Random(2))
    pair.connect()
    assert pair.gateways[1].ike.child_sas == ()
    (failed,) = pair.events("auth_failed", 0)
    assert failed.details["reason"] == "AUTHENTICATION_FAILED"
