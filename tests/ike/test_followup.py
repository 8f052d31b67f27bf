"""IKE_FOLLOWUP_KE: CREATE_CHILD_SA with several key exchanges (RFC 9370 section 2.2.4)."""

import hmac
import random

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, Pair, Sent, make_pair
from post import Post, name_of
from transcript import opened, transcript

from ipseclab.ike.followup import MAX_HALF_MADE
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.sa import ChildState
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.payloads import KePayload, NotifyPayload

FOLLOWUP = ExchangeType.IKE_FOLLOWUP_KE
IKE = "aes128gcm16-prfsha256-x25519"
ESP = "aes128gcm16-x25519"
LINK = "N(ADDITIONAL_KEY_EXCHANGE)"
CASES = {
    "rekey_child": [
        "--> CREATE_CHILD_SA: SK {N(REKEY_SA), SA, Ni, KE, TSi, TSr}",
        f"<-- CREATE_CHILD_SA: SK {{SA, Nr, KE, TSi, TSr, {LINK}}}",
        f"--> IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        f"<-- IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        f"--> IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        "<-- IKE_FOLLOWUP_KE: SK {KE}",
        "--> INFORMATIONAL: SK {D(ESP)}",
        "<-- INFORMATIONAL: SK {D(ESP)}",
    ],
    "rekey_ike": [
        "--> CREATE_CHILD_SA: SK {SA, Ni, KE}",
        f"<-- CREATE_CHILD_SA: SK {{SA, Nr, KE, {LINK}}}",
        f"--> IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        f"<-- IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        f"--> IKE_FOLLOWUP_KE: SK {{KE, {LINK}}}",
        "<-- IKE_FOLLOWUP_KE: SK {KE}",
        "--> INFORMATIONAL: SK {D(IKE)}",
        "<-- INFORMATIONAL: SK {}",
    ],
}
each_case = pytest.mark.parametrize("what", CASES)
each_side = pytest.mark.parametrize("side", [0, 1])


def made(added: str = "ke1_x448-ke2_ecp256", **options: object) -> Pair:
    both = {
        "ike_proposals": (parse_ike_proposal(f"{IKE}-{added}"),),
        "esp_proposals": (parse_esp_proposal(f"{ESP}-{added}"),),
    }
    pair = make_pair(both=both, **options)
    pair.connect()
    pair.agreed()
    return pair


def until_followup(what: str, side: int = 0) -> tuple[Pair, Post]:
    """A rekey whose CREATE_CHILD_SA is through, and whose IKE_FOLLOWUP_KE request is held."""
    pair = made()
    post = Post(pair)
    pair.do(side, what, CONNECTION)
    me, peer = "ab"[side], "ba"[side]
    post.deliver(f"{me} CREATE_CHILD_SA request", f"{peer} CREATE_CHILD_SA response")
    return pair, post


@pytest.mark.rfc("9370", "2.2.4", "MUST", "followup")
@pytest.mark.rfc("9370", "2.2.4", "MUST", "link-given")
@pytest.mark.rfc("9370", "2.2.4", "MUST", "no-link")
@each_case
@each_side
def test_a_rekey_by_either_end(what: str, side: int) -> None:
    pair = made()
    start, ike, child = len(pair.sent), pair.ike_spis(0), pair.spis(0)
    pair.do(side, what, CONNECTION)
    pair.run(1.0)
    names = ["ab"[side ^ (n % 2)] for n in range(8)]
    expected = [f"{name} {line}" for name, line in zip(names, CASES[what], strict=True)]
    assert transcript(pair, first=start) == expected
    assert (pair.spis(0) == child, pair.ike_spis(0) == ike) == (
        what == "rekey_ike",
        what == "rekey_child",
    )
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.4", "MUST", "followup")
@each_side
def test_a_further_child_sa(side: int) -> None:
    pair = made("ke1_mlkem768")
    pair.do(side, "create_child", CONNECTION)
    pair.run(1.0)
    assert len(pair.spis(0)) == 2
    assert pair.spis(0) == pair.spis(1)


@pytest.mark.rfc("9370", "2.2.4", "MUST", "keymat")
def test_keymat_is_of_all_secrets() -> None:
    pair = made("ke1_x448")
    post = Post(pair)
    pair.do(0, "rekey_child", CONNECTION)
    task = ike_sa(pair, 0).own_request.task
    first = task.private
    request = opened(pair, post.held[0])[1]
    post.deliver("a CREATE_CHILD_SA request")
    response = opened(pair, post.held[0])[1]
    post.deliver("b CREATE_CHILD_SA response")
    second = ike_sa(pair, 0).own_request.task.private
    post.deliver("a IKE_FOLLOWUP_KE request")
    last = opened(pair, post.held[0])[1]
    post.open(1.0)

    def data(payloads: tuple[object, ...], name: str) -> bytes:
        return next(p.data for p in payloads if p.payload_type.name == name)

    seed = first.agree(data(response, "KE")) + data(request, "NONCE") + data(response, "NONCE")
    seed += second.agree(data(last, "KE"))
    keymat = hmac.digest(ike_sa(pair, 0).keys.sk_d, seed + b"\x01", "sha256")
    logged = {key.encr_key for key in pair.keys if hasattr(key, "encr_key")}
    assert keymat[:20] in logged
    pair.agreed()


@each_case
@each_side
@pytest.mark.parametrize("lost", range(6))
def test_any_message_lost_once(what: str, side: int, lost: int) -> None:
    pair = made()
    seen: list[Sent] = []

    def fate(sent: Sent) -> tuple[float, ...]:
        if sent.is_ike(FOLLOWUP) or sent.is_ike(ExchangeType.CREATE_CHILD_SA):
            seen.append(sent)
            return () if len(seen) == lost + 1 else (0.0, 0.05)
        return (0.0,)

    pair.fate = fate
    pair.do(side, what, CONNECTION)
    pair.run(30.0)
    assert len(pair.events("rekey_started")) == 1
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.4", "MUST", "collisions")
@each_case
@pytest.mark.parametrize("seed", range(12))
def test_both_ends_at_once(what: str, seed: int) -> None:
    # Whichever nonce is the lowest, exactly one new SA is left, and both ends agree which.
    pair = made("ke1_x448", seed=seed)
    rng = random.Random(seed)
    before = pair.spis(0), pair.ike_spis(0)
    pair.fate = lambda sent: (rng.choice((0.0, 0.0, 0.02, 0.1)),)
    for side in (0, 1):
        pair.do(side, what, CONNECTION)
        pair.run(rng.choice((0.0, 0.005, 0.02)))
    pair.run(400.0)
    assert (pair.spis(0), pair.ike_spis(0)) != before
    pair.agreed()
    assert not ike_sa(pair, 0).half_made
    assert not ike_sa(pair, 1).half_made


@pytest.mark.rfc("9370", "2.2.4", "MUST", "collisions")
@pytest.mark.parametrize("seed", range(8))
def test_both_ends_at_once_with_several_key_exchanges_on_one_side_alone(seed: int) -> None:
    several = {"esp_proposals": (parse_esp_proposal(f"{ESP}-ke1_x448-ke1_none"),)}
    one = {"esp_proposals": (parse_esp_proposal(f"{ESP}-ke1_none-ke1_x448"),)}
    pair = make_pair(a=several, b=one, seed=seed)
    pair.connect()
    for side in (0, 1):
        pair.do(side, "rekey_child", CONNECTION)
    pair.run(100.0)
    assert any(sent.is_ike(FOLLOWUP) for sent in pair.sent if sent.sender == 1)
    assert not any(sent.is_ike(FOLLOWUP, response=False) for sent in pair.sent if not sent.sender)
    pair.agreed()


@pytest.mark.parametrize("seed", range(10))
def test_a_child_sa_and_the_ike_sa_at_once(seed: int) -> None:
    pair = made("ke1_x448", seed=seed)
    rng = random.Random(seed)
    pair.fate = lambda sent: (rng.choice((0.0, 0.03)),)
    pair.do(seed % 2, "rekey_child", CONNECTION)
    pair.run(rng.choice((0.0, 0.015, 0.03)))
    pair.do(1 - seed % 2, "rekey_ike", CONNECTION)
    pair.run(400.0)
    pair.agreed()


# Cases 4, 7 and 14 of collisions, in the middle of the key exchanges.


@each_side
def test_the_old_child_sa_is_deleted_meanwhile(side: int) -> None:
    pair, post = until_followup("rekey_child")
    pair.do(side, "delete_child", CONNECTION)
    post.open(60.0)
    assert pair.spis(0) == pair.spis(1)
    assert all(not ike_sa(pair, s).half_made for s in (0, 1))
    assert len(pair.ike_spis(0)) == 1


@each_side
@each_case
def test_the_ike_sa_is_deleted_meanwhile(side: int, what: str) -> None:
    pair, post = until_followup(what)
    pair.do(side, "delete_ike", CONNECTION)
    post.open(300.0)
    assert pair.ike_spis(0) == pair.ike_spis(1) == set()
    for gateway in pair.gateways:
        assert gateway.ike.table_sizes["child_sas"] == gateway.ike.table_sizes["timers"] == 0


# State that is not found, and state that nobody comes for.


@pytest.mark.rfc("9370", "2.2.4", "MUST", "state-not-found")
@pytest.mark.rfc("9370", "2.2.4", "MAY", "start-over")
@each_case
def test_a_responder_that_forgot_says_so_and_the_rekey_starts_over(what: str) -> None:
    pair, post = until_followup(what)
    for half in ike_sa(pair, 1).half_made.values():
        half.dropped()
    ike_sa(pair, 1).half_made.clear()
    post.deliver("a IKE_FOLLOWUP_KE request")
    (notify,) = opened(pair, post.held[0])[1]
    assert notify.notify_type == NotifyType.STATE_NOT_FOUND
    start = len(pair.events("rekey_started"))
    post.open(60.0)
    assert len(pair.events("rekey_started")) == start + 1
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.4", "SHOULD", "forget")
@each_case
def test_half_made_state_is_given_up_after_a_while(what: str) -> None:
    pair, post = until_followup(what)
    assert len(ike_sa(pair, 1).half_made) == 1
    post.take("a IKE_FOLLOWUP_KE request")
    pair.fate = lambda sent: ()
    pair.run(400.0)
    assert not ike_sa(pair, 1).half_made
    assert len(pair.events("half_made_dropped", 1)) == 1
    assert [child.state for child in pair.b.ike.child_sas] == [ChildState.INSTALLED]


@pytest.mark.rfc("9370", "4", "SHOULD", "bounded")
def test_a_peer_cannot_fill_the_responders_memory() -> None:
    pair = made("ke1_x448")
    post = Post(pair)
    pair.do(0, "create_child", CONNECTION)
    create = opened(pair, post.take("a CREATE_CHILD_SA request"))[1]
    answers = []
    number = ike_sa(pair, 1).expected_message_id
    for message_id in range(number, number + MAX_HALF_MADE + 3):
        octets = forge(pair, 0, ExchangeType.CREATE_CHILD_SA, *create, message_id=message_id)
        (answer,) = receive(pair, 1, octets)
        answers.append(opened(pair, answer)[1][0])
    refused = [a.notify_type for a in answers if isinstance(a, NotifyPayload)]
    assert refused == [NotifyType.TEMPORARY_FAILURE] * 3
    assert len(ike_sa(pair, 1).half_made) == MAX_HALF_MADE
    assert len(pair.b.ike.child_sas) == 1


BAD = {
    "no KE": (),
    "another method": (KePayload(KeMethod.CURVE25519, bytes(32)),),
    "all zero": (KePayload(KeMethod.CURVE448, bytes(56)),),
    "too short": (KePayload(KeMethod.CURVE448, bytes(55)),),
}


@pytest.mark.rfc("9370", "2.2.4", "MUST", "right-followup")
@each_case
@pytest.mark.parametrize("payloads", BAD.values(), ids=BAD)
def test_a_bad_request_is_invalid_syntax(what: str, payloads: tuple[KePayload, ...]) -> None:
    pair, post = until_followup(what)
    (_, link) = opened(pair, post.take("a IKE_FOLLOWUP_KE request"))[1]
    number = ike_sa(pair, 1).expected_message_id
    octets = forge(pair, 0, FOLLOWUP, *payloads, link, message_id=number)
    answer = receive(pair, 1, octets)[0]
    assert opened(pair, answer)[1][0].notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.rfc("9370", "2.2.4", "MUST", "ask-by-link")
@pytest.mark.parametrize("link", [(), (NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, b""),)])
def test_a_request_without_a_link_is_invalid_syntax(link: tuple[NotifyPayload, ...]) -> None:
    pair = made()
    ke = KePayload(KeMethod.CURVE448, bytes(56))
    answer = receive(pair, 1, forge(pair, 0, FOLLOWUP, ke, *link))[0]
    assert opened(pair, answer)[1][0].notify_type == NotifyType.INVALID_SYNTAX


@pytest.mark.rfc("9370", "2.2.4", "MUST", "right-followup")
@each_case
@pytest.mark.parametrize("payloads", BAD.values(), ids=BAD)
def test_a_bad_response_leaves_the_old_sa_in_service(
    what: str, payloads: tuple[KePayload, ...]
) -> None:
    pair, post = until_followup(what)
    sent = post.take("a IKE_FOLLOWUP_KE request")
    number = sent.header.message_id
    ike_sa(pair, 1).expected_message_id += 1
    octets = forge(pair, 1, FOLLOWUP, *payloads, message_id=number, response=True)
    receive(pair, 0, octets)
    assert pair.events("exchange_failed", 0)
    post.open(400.0)
    pair.agreed()


def test_invalid_ke_payload_where_several_are_proposed() -> None:
    # Case 2: the first key exchange is of another group; the others follow all the same.
    a = {"esp_proposals": (parse_esp_proposal("aes128gcm16-ecp256-x25519-ke1_x448"),)}
    b = {"esp_proposals": (parse_esp_proposal(f"{ESP}-ke1_x448"),)}
    pair = make_pair(a=a, b=b)
    pair.connect()
    start = len(pair.sent)
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    lines = transcript(pair, first=start)
    assert lines[1] == "b <-- CREATE_CHILD_SA: SK {N(INVALID_KE_PAYLOAD)}"
    assert lines[5] == "b <-- IKE_FOLLOWUP_KE: SK {KE}"
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.4", "MUST NOT", "in-auth")
@pytest.mark.rfc("7296", "1.2", "SHOULD", "omit-ke")
def test_ike_auth_makes_its_child_sa_without_them() -> None:
    pair = made("ke1_x448")
    (child,) = pair.a.ike.child_sas
    assert {transform.type.name for transform in child.proposal.transforms} == {"ENCR", "ESN"}
    names = [name_of(sent) for sent in pair.sent if sent.header is not None]
    assert "a IKE_FOLLOWUP_KE request" not in names
