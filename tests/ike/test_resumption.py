"""Session resumption (RFC 5723): tickets asked for, given, used once, refused; keys, identity and
NAT detection of what is resumed; both roles, lost messages, hostile values."""

import contextlib
from dataclasses import replace

import pytest
from forge import ike_sa, path_to, receive
from hypothesis import given
from hypothesis import strategies as st
from pair import CONNECTION, Pair, make_pair
from post import Post
from transcript import ike_octets, opened, transcript

from ipseclab.crypto.prf import PRFS
from ipseclab.errors import WireError
from ipseclab.ike.config import NULL_IDENTITY, Identity, IkeLimits, NullAuth, Ppk
from ipseclab.ike.eap.settings import EapAuth, EapDemand
from ipseclab.ike.keys import resumed_skeyseed
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.tickets import LONGEST_LIFETIME, MAX_USED, TicketState
from ipseclab.registry import EapType, ExchangeType, IdType, NotifyType, PrfId
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NoncePayload, NotifyPayload

WITH = {"resumption": 3600.0}
SECRET = b"a secret of the gateway, 32 octs"


def resumption_pair(both=WITH, secret=b"", limits=None, **options):
    pair = make_pair(both=both, **options)
    changes = {"secret": secret, "limits": limits if limits is not None else IkeLimits()}
    configs = [replace(config, ike=replace(config.ike, **changes)) for config in pair.configs]
    return Pair(tuple(configs), seed=pair.seed)


def break_off(pair):
    """The client loses its IKE_SA without a word, as after a sleep; the gateway still has it."""
    (sa,) = pair.a.ike.ike_sas
    ctx = pair.a.ike._ctx
    close_ike(ctx, sa, "gone", pair.now)
    pair.carry_out(0, pair.a._settle(ctx.take_outputs(), pair.now))


def come_back(pair):
    """Transcript of the client's coming back."""
    first = len(pair.sent)
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    return transcript(pair, first=first)


RESUMED = [
    "a --> IKE_SESSION_RESUME: Ni, N(TICKET_OPAQUE)",
    "b <-- IKE_SESSION_RESUME: Nr",
    "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr, N(TICKET_REQUEST)}",
    "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr, N(TICKET_LT_OPAQUE)}",
]


@pytest.mark.rfc("5723", "4.1", "MAY", "request")
@pytest.mark.rfc("5723", "4.3.2", "MUST", "message-id")
@pytest.mark.rfc("5723", "5.1", "MUST", "auth")
def test_ticket_is_given_and_resumes():
    pair = resumption_pair()
    pair.connect()
    assert transcript(pair)[2].endswith("SA, TSi, TSr, N(TICKET_REQUEST)}")
    assert transcript(pair)[3].endswith("SA, TSi, TSr, N(TICKET_LT_OPAQUE)}")
    break_off(pair)
    old = ike_sa(pair, 1)
    assert come_back(pair) == RESUMED
    assert pair.events("ike_resumed", 1)
    resumes = [sent for sent in pair.sent if sent.is_ike(ExchangeType.IKE_SESSION_RESUME)]
    assert [sent.header.message_id for sent in resumes] == [0, 0]
    pair.agreed()
    assert ike_sa(pair, 1).connection.peer_id == old.connection.peer_id
    break_off(pair)
    assert come_back(pair) == RESUMED
    pair.agreed()


@pytest.mark.rfc("5723", "5.1", "MUST", "keys")
def test_keys_come_from_the_old_sk_d_and_the_new_nonces():
    pair = resumption_pair()
    pair.connect()
    sk_d = ike_sa(pair, 0).keys.sk_d
    break_off(pair)
    come_back(pair)
    new, prf = ike_sa(pair, 0), PRFS[PrfId.PRF_HMAC_SHA2_256]
    seed = resumed_skeyseed(prf, sk_d, new.nonce_i, new.nonce_r)
    assert seed == prf.prf(sk_d, b"Resumption" + new.nonce_i + new.nonce_r)
    spis = new.spi_i + new.spi_r
    assert new.keys.sk_d == prf.plus(seed, new.nonce_i + new.nonce_r + spis, 32)
    assert new.keys == ike_sa(pair, 1).keys
    assert new.keys.sk_d != sk_d


@pytest.mark.rfc("5723", "4.3.4", "MUST", "old-sa")
def test_gateway_closes_the_old_ike_sa_without_a_word():
    pair = resumption_pair(both={**WITH, "initial_contact": False})
    pair.connect()
    break_off(pair)
    assert len(pair.b.ike.ike_sas) == 1
    come_back(pair)
    assert [notice.details["reason"] for notice in pair.events("ike_gone", 1)] == ["resumed"]
    assert not any("D(IKE)" in line for line in transcript(pair))
    pair.agreed()


@pytest.mark.rfc("5723", "4.3.2", "MUST", "nack")
@pytest.mark.parametrize("why", ["another secret", "expired", "used", "not wanted", "mangled"])
def test_ticket_that_is_not_taken_leads_to_a_full_handshake(why):
    pair = resumption_pair(both={"resumption": 100.0})
    pair.connect()
    held = pair.a.ike._ctx.held_tickets[CONNECTION]
    break_off(pair)
    match why:
        case "another secret":
            other = resumption_pair(seed=5)
            pair.gateways[1] = other.b
        case "expired":
            pair.run(200.0)
            pair.a.ike._ctx.held_tickets[CONNECTION] = replace(held, expires=pair.now + 1.0)
        case "used":
            come_back(pair)
            break_off(pair)
            pair.a.ike._ctx.held_tickets[CONNECTION] = held
        case "not wanted":
            other = make_pair(b={"name": CONNECTION}, a=WITH)
            pair.gateways[1] = other.b
        case "mangled":
            mangled = held.ticket[:-1] + bytes([held.ticket[-1] ^ 1])
            pair.a.ike._ctx.held_tickets[CONNECTION] = replace(held, ticket=mangled)
    lines = come_back(pair)
    assert lines[1] == "b <-- IKE_SESSION_RESUME: N(TICKET_NACK)"
    assert lines[2].startswith("a --> IKE_SA_INIT")
    assert pair.events("ticket_refused", 0)
    pair.agreed()


@pytest.mark.rfc("5723", "4.3.1", "MUST", "expired")
def test_client_does_not_show_a_ticket_that_has_expired():
    pair = resumption_pair(both={"resumption": 10.0})
    pair.connect()
    break_off(pair)
    pair.run(20.0)
    assert come_back(pair)[0].startswith("a --> IKE_SA_INIT")
    pair.agreed()


@pytest.mark.rfc("5723", "9", "MUST", "restart")
def test_ticket_outlives_a_restart_of_a_gateway_that_keeps_its_secret():
    pair = resumption_pair(secret=SECRET)
    pair.connect()
    break_off(pair)
    pair.gateways[1] = Pair(pair.configs, seed=99).b
    assert come_back(pair) == RESUMED
    pair.agreed()


@pytest.mark.rfc("5723", "9", "SHOULD", "key-change")
def test_key_that_seals_changes_and_the_one_before_is_known():
    pair = resumption_pair(both={"resumption": LONGEST_LIFETIME}, secret=SECRET)
    box = pair.b.ike._ctx.tickets
    who = Identity(IdType.ID_FQDN, b"a")
    proposal = parse_ike_proposal("aes128gcm16-prfsha256-x25519")
    state = TicketState("site", who, bytes(8), bytes(8), proposal, 10**9, b"k" * 32)
    ticket = box.make(state, 100.0)
    assert box.open(ticket, 100.0 + LONGEST_LIFETIME) == state
    assert box.open(ticket, 100.0 + 2 * LONGEST_LIFETIME) is None
    assert box.make(state, 100.0) != ticket


@pytest.mark.rfc("5723", "9", "SHOULD", "identity-hidden")
def test_ticket_shows_nothing_of_what_it_holds():
    pair = resumption_pair()
    pair.connect()
    ticket = pair.a.ike._ctx.held_tickets[CONNECTION].ticket
    sa = ike_sa(pair, 0)
    for secret in (sa.keys.sk_d, b"a.example.org", CONNECTION.encode(), sa.spi_i):
        assert secret not in ticket


@pytest.mark.rfc("5723", "9.1", "MUST", "proof")
def test_stolen_ticket_is_worth_nothing_without_its_key():
    pair = resumption_pair()
    pair.connect()
    held = pair.a.ike._ctx.held_tickets[CONNECTION]
    before = pair.spis(1)
    thief = Pair(pair.configs, seed=42)
    thief.gateways[1], thief.now = pair.b, pair.now
    thief.a.ike._ctx.held_tickets[CONNECTION] = replace(held, sk_d=b"?" * 32)
    thief.connect()
    assert not thief.events("ike_established")
    assert {(c.spi_out, c.spi_in)[::-1] for c in pair.b.ike.child_sas} == before
    # The owner's ticket is as good as it was.
    break_off(pair)
    pair.now = thief.now
    assert come_back(pair) == RESUMED


@pytest.mark.rfc("5723", "9", "SHOULD", "once")
def test_two_that_resume_with_one_ticket_at_once():
    pair = resumption_pair()
    pair.connect()
    held = pair.a.ike._ctx.held_tickets[CONNECTION]
    break_off(pair)
    twin = Pair(pair.configs, seed=42)
    twin.gateways[1], twin.now = pair.b, pair.now
    twin.a.ike._ctx.held_tickets[CONNECTION] = held
    posts = [Post(pair), Post(twin)]
    for one, post in zip((pair, twin), posts, strict=True):
        one.do(0, "initiate", CONNECTION)
        post.deliver("a IKE_SESSION_RESUME request", "b IKE_SESSION_RESUME response")
    for post in posts:
        post.deliver("a IKE_AUTH request", "b IKE_AUTH response")
    assert pair.events("ike_established", 0)
    assert not twin.events("ike_established", 0)
    assert [n.details["reason"] for n in twin.events("ike_error_sent")] == [
        "the ticket was used before"
    ]


def test_replayed_request_makes_no_ike_sa_of_use_and_burns_no_ticket():
    pair = resumption_pair()
    pair.connect()
    break_off(pair)
    come_back(pair)
    (request,) = [sent for sent in pair.sent
                  if sent.is_ike(ExchangeType.IKE_SESSION_RESUME, response=False)]  # fmt: skip
    pair.run(1000.0)
    answers = receive(pair, 1, ike_octets(request))
    assert "TICKET_NACK" in str(opened(pair, answers[0])[1])
    break_off(pair)
    assert come_back(pair) == RESUMED


def test_forged_variant_of_a_request_does_not_keep_the_client_out():
    pair = resumption_pair()
    pair.connect()
    break_off(pair)
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    request = ike_octets(pair.sent[-1])
    receive(pair, 1, request[:-1] + bytes([request[-1] ^ 1]))
    pair.fate = lambda sent: (0.0,)
    pair.run(10.0)  # the request is sent again
    assert pair.events("ike_resumed", 1)
    assert pair.ike_spis(0) <= pair.ike_spis(1)


@pytest.mark.parametrize("lost", range(4))
def test_lost_and_repeated_messages(lost):
    pair = resumption_pair()
    pair.connect()
    break_off(pair)
    first = len(pair.sent)
    pair.fate = lambda sent: () if sent.index == first + lost else (0.0, 0.003)
    pair.do(0, "initiate", CONNECTION)
    pair.run(30.0)
    assert len(pair.events("ike_resumed", 1)) == 1
    pair.agreed()


@pytest.mark.rfc("5723", "4.3.2", "MUST", "cookie")
def test_cookie_is_demanded_before_a_ticket_is_looked_at():
    pair = resumption_pair(limits=IkeLimits(cookie_threshold=0))
    pair.connect()
    break_off(pair)
    lines = come_back(pair)
    assert lines[1] == "b <-- IKE_SESSION_RESUME: N(COOKIE)"
    assert lines[2] == "a --> IKE_SESSION_RESUME: N(COOKIE), Ni, N(TICKET_OPAQUE)"
    pair.agreed()


@pytest.mark.rfc("5723", "4.3.2", "MUST", "nat")
def test_nat_is_found_anew():
    pair = resumption_pair(both={**WITH, "force_encapsulation": True})
    pair.connect()
    break_off(pair)
    assert come_back(pair) == RESUMED
    assert ike_sa(pair, 0).encapsulated
    assert ike_sa(pair, 0).path.local.port == 4500
    assert ike_sa(pair, 1).encapsulated
    pair.agreed()


@pytest.mark.rfc("5723", "4.3.3", "MUST", "no-eap")
def test_user_of_eap_comes_back_without_eap_and_with_a_ppk_mixed_in_already():
    alice = Identity(IdType.ID_FQDN, b"a.example.org")
    demand = EapDemand((EapType.MSCHAPV2,), ((str(alice), "p"),))
    gate = make_pair().configs[0].ike.connections[0].own_rounds
    ppk = Ppk(b"blue", b"a key of 32 octets and some more")
    pair = resumption_pair(
        both={**WITH, "ppks": (ppk,), "ppk_required": True},
        a={"own_auth": (EapAuth((EapType.MSCHAPV2,), "p"),), "peer_auth": gate},
        b={"own_auth": gate, "peer_auth": (demand,)},
    )
    pair.connect()
    assert len(transcript(pair)) > 6
    break_off(pair)
    assert len(come_back(pair)) == 4
    pair.agreed()


def test_rekeyed_and_resumed_ike_sas_go_on_as_others():
    pair = resumption_pair()
    pair.connect()
    break_off(pair)
    come_back(pair)
    for side in (0, 1):
        for method in ("rekey_ike", "rekey_child"):
            pair.do(side, method, CONNECTION)
            pair.run(10.0)
    pair.agreed()


def test_peer_that_ends_it_on_purpose_ends_the_ticket():
    pair = resumption_pair()
    pair.connect()
    pair.do(1, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert come_back(pair)[0].startswith("a --> IKE_SA_INIT")


def test_nobody_gets_a_ticket():
    null = (NullAuth(),)
    both = {**WITH, "own_auth": null, "peer_auth": null,
            "own_id": NULL_IDENTITY, "peer_id": NULL_IDENTITY}  # fmt: skip
    pair = resumption_pair(both=both)
    pair.connect()
    assert transcript(pair)[3].endswith("N(TICKET_NACK)}")
    pair.agreed()


@pytest.mark.rfc("5723", "4.2", "MAY", "ignored")
@pytest.mark.parametrize(("a", "b"), [({}, WITH), (WITH, {})])
def test_end_without_tickets_says_nothing_of_them(a, b):
    pair = make_pair(a=a, b=b)
    pair.connect()
    assert "TICKET" not in transcript(pair)[3]
    assert not pair.a.ike._ctx.held_tickets
    pair.agreed()


@given(st.binary(max_size=200))
def test_no_ticket_but_ours_opens(octets):
    assert SHARED.b.ike._ctx.tickets.open(octets, 1.0) is None
    with contextlib.suppress(WireError):
        TicketState.decode(octets)


SHARED = resumption_pair()


@pytest.mark.parametrize("payloads", [
    (), (NoncePayload(bytes(32)),), (NotifyPayload(NotifyType.TICKET_OPAQUE, b"x"),),
])  # fmt: skip
def test_requests_that_lack_something_make_no_state(payloads):
    pair = resumption_pair()
    message = Message(
        b"12345678", bytes(8), ExchangeType.IKE_SESSION_RESUME, True, False, 0, payloads
    )
    (answer,) = receive(pair, 1, message.encode(), path_to(1))
    assert decode_message(ike_octets(answer)).notify(NotifyType.INVALID_SYNTAX)
    assert not pair.b.ike.half_open


def test_memory_of_used_tickets_is_bounded():
    box = resumption_pair().b.ike._ctx.tickets
    time = resumption_pair().configs[1].ike.time_of_day(0.0)
    for number in range(MAX_USED + 10):
        box.use(number.to_bytes(4, "big"), 2**40, time)
    assert len(box) == MAX_USED
    assert not box.used((0).to_bytes(4, "big"))
    assert box.used((MAX_USED).to_bytes(4, "big"))


def test_same_seed_same_octets():
    pairs = [resumption_pair(), resumption_pair()]
    for pair in pairs:
        pair.connect()
        break_off(pair)
        come_back(pair)
    assert [sent.item for sent in pairs[0].sent] == [sent.item for sent in pairs[1].sent]
