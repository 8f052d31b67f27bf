"""IKE_INTERMEDIATE and additional key exchanges (RFC 9242, RFC 9370 section 2.2)."""

import hmac
import random
from dataclasses import replace

import pytest
from forge import forge, ike_sa, receive
from pair import Pair, Sent, make_pair
from post import Post
from transcript import ike_messages, ike_octets, opened, transcript

from ipseclab.crypto.kex import KE_METHODS
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.sa import IkeState
from ipseclab.outputs import IkeKeyLog
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.payloads import KePayload, NotifyPayload, SaPayload

BASE = "aes128gcm16-prfsha256-x25519"
INTERMEDIATE = ExchangeType.IKE_INTERMEDIATE
HANDSHAKE = [
    "a --> IKE_SA_INIT: SA, KE, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED)",
    "b <-- IKE_SA_INIT: SA, KE, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED)",
    "a --> IKE_INTERMEDIATE: SK {KE}",
    "b <-- IKE_INTERMEDIATE: SK {KE}",
    "a --> IKE_AUTH: SK {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
    "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}",
]


def ike(*texts: str) -> dict[str, object]:
    return {"ike_proposals": tuple(parse_ike_proposal(text) for text in texts)}


def hybrid(added: str = "ke1_mlkem768", base: str = BASE, **options: object) -> Pair:
    return make_pair(both=ike(f"{base}-{added}"), **options)


@pytest.mark.rfc("9370", "2.2.1", "MUST", "say-intermediate")
@pytest.mark.rfc("9242", "3.2", "MUST", "message-ids")
@pytest.mark.parametrize("side", [0, 1])
def test_a_hybrid_handshake_by_either_end(side: int) -> None:
    pair = hybrid()
    pair.connect(side)
    expected = [("ab"[side ^ (line[0] == "b")]) + line[1:] for line in HANDSHAKE]
    assert transcript(pair) == expected
    assert [sent.header.message_id for sent in ike_messages(pair)] == [0, 0, 1, 1, 2, 2]
    pair.agreed()


@pytest.mark.rfc("9370", "2.1", "MUST", "seven")
@pytest.mark.rfc("9370", "2.2.2", "MUST", "in-order")
@pytest.mark.rfc("9242", "4", "MAY", "several")
@pytest.mark.parametrize(
    ("base", "added", "rounds"),
    [
        (BASE, "ke1_mlkem512", 1),
        (BASE, "ke1_mlkem1024", 1),
        (BASE, "ke1_mlkem768-ke2_mlkem1024", 2),
        (BASE, "ke2_x448-ke4_ecp384-ke7_mlkem768", 3),
        ("aes256-sha384-ecp256", "ke1_mlkem768-ke3_modp2048", 2),
        ("aes128gcm16-prfsha256-mlkem768", "ke1_x25519", 1),
    ],
)
def test_every_number_and_kind_of_key_exchange(base: str, added: str, rounds: int) -> None:
    pair = hybrid(added, base)
    pair.connect()
    headers = [sent.header for sent in ike_messages(pair) if sent.is_ike(INTERMEDIATE)]
    assert len({(header.message_id, header.response) for header in headers}) == 2 * rounds
    pair.agreed()


def test_ml_kem_as_the_first_key_exchange() -> None:
    pair = make_pair(both=ike("aes128gcm16-prfsha256-mlkem768"))
    pair.connect()
    sizes = [len(opened(pair, s)[0].find(KePayload).data) for s in ike_messages(pair)[:2]]
    assert sizes == [1184, 1088]
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.2", "MUST", "use-new-keys")
@pytest.mark.rfc("9242", "3.3.1", "MUST", "under-keys")
def test_each_exchange_leaves_new_keys_of_which_the_last_protect_ike_auth() -> None:
    pair = hybrid("ke1_mlkem768-ke2_mlkem1024")
    pair.connect()
    logs = [key for key in pair.keys if isinstance(key, IkeKeyLog)]
    assert len({key.sk_ei for key in logs}) == 3
    assert len({(key.spi_i, key.spi_r) for key in logs}) == 1
    (sa,) = pair.a.ike.ike_sas
    assert logs[-1].sk_ei == sa.keys.sk_ei


@pytest.mark.rfc("9370", "2.2.2", "MUST", "new-keys")
@pytest.mark.rfc("9242", "3.3.2", "MUST", "in-auth")
@pytest.mark.rfc("9242", "3.3.2", "MUST", "keys-of-exchange")
def test_keys_and_int_auth_are_those_of_the_rfcs() -> None:
    pair = hybrid()
    pair.do(0, "initiate", "site")
    pair.run(2.5 * pair.delay)
    before = ike_sa(pair, 1)
    assert before.state is IkeState.HALF_OPEN
    old, (sa,) = before.keys, pair.a.ike.ike_sas
    private = sa.own_request.task.private
    pair.run(pair.delay)
    request, response = ike_messages(pair)[2:]
    new = ike_sa(pair, 1).keys
    secret = private.agree(opened(pair, response)[1][0].data)
    # RFC 9370 section 2.2.2: SKEYSEED(1) = prf(SK_d(0), SK(1) | Ni | Nr)
    seed = hmac.digest(old.sk_d, secret + sa.nonce_i + sa.nonce_r, "sha256")
    spis = sa.spi_i + sa.spi_r
    first = hmac.digest(seed, sa.nonce_i + sa.nonce_r + spis + b"\x01", "sha256")
    assert new.sk_d == first
    # RFC 9242 section 3.3.2, with AES-GCM: an IV of 8, an ICV of 16, a pad length of 1 octet
    covered = []
    for sent in (request, response):
        octets = ike_octets(sent)
        body = len(octets) - 32 - 8 - 16 - 1
        assert body == 4 + 4 + (1184 if sent is request else 1088)
        payload = opened(pair, sent)[1][0]
        head = octets[:24] + (32 + body).to_bytes(4, "big") + octets[28:30]
        inner = bytes(2) + body.to_bytes(2, "big") + payload.encode()
        covered.append(head + (4 + body).to_bytes(2, "big") + inner)
    expected = (
        hmac.digest(old.sk_pi, covered[0], "sha256")
        + hmac.digest(old.sk_pr, covered[1], "sha256")
        + (2).to_bytes(4, "big")
    )
    assert ike_sa(pair, 1).int_auth == expected
    pair.run(1.0)
    assert ike_sa(pair, 0).int_auth == expected
    pair.agreed()


@pytest.mark.rfc("9242", "3.3.2", "MUST", "as-if-whole")
def test_what_is_covered_does_not_depend_on_padding() -> None:
    pair = hybrid(base="aes128-sha256-x25519")
    pair.connect()
    assert ike_sa(pair, 0).int_auth == ike_sa(pair, 1).int_auth != b""
    pair.agreed()


@pytest.mark.parametrize("response", [False, True])
def test_a_key_exchange_that_is_lost_is_sent_again_and_answered_the_same(response: bool) -> None:
    pair = hybrid("ke1_mlkem768-ke2_mlkem1024")
    lost: list[Sent] = []

    def fate(sent: Sent) -> tuple[float, ...]:
        if sent.is_ike(INTERMEDIATE, response=response) and len(lost) < 1:
            lost.append(sent)
            return ()
        return (0.0,)

    pair.fate = fate
    pair.connect()
    pair.run(60.0)
    copies = [s for s in ike_messages(pair) if ike_octets(s) == ike_octets(lost[0])]
    assert len(copies) == 2
    pair.agreed()


def test_every_message_twice_and_the_second_late() -> None:
    pair = hybrid("ke1_mlkem768-ke2_mlkem1024")
    pair.fate = lambda sent: (0.0, 2.5 * pair.delay)
    pair.connect()
    pair.agreed()


@pytest.mark.rfc("9242", "3.3.2", "MUST", "as-if-whole")
@pytest.mark.parametrize("lost", [(), (0,), (1, 2), (4,), (3, 5), (0, 4, 8)])
def test_in_fragments_with_some_of_them_lost(lost: tuple[int, ...]) -> None:
    # AUTH covers the whole message, however it was cut (RFC 9242 section 3.3.2); and a request that
    # comes again in fragments was sealed with keys that the responder has left behind.
    pair = make_pair(both=ike(f"{BASE}-ke1_mlkem768") | {"fragment_size": 576})
    fragments: list[Sent] = []

    def fate(sent: Sent) -> tuple[float, ...]:
        if not sent.is_ike(INTERMEDIATE):
            return (0.0,)
        fragments.append(sent)
        return () if len(fragments) - 1 in lost else (0.0,)

    pair.fate = fate
    pair.connect()
    pair.run(120.0)
    assert len(fragments) >= 6
    pair.agreed()


def test_an_old_request_after_the_keys_changed_gets_the_cached_response() -> None:
    pair = hybrid()
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    request = post.take("a IKE_INTERMEDIATE request")
    post.deliver_sent(request)
    first = post.take("b IKE_INTERMEDIATE response")
    keys = ike_sa(pair, 1).keys
    post.deliver_sent(request)
    again = post.take("b IKE_INTERMEDIATE response")
    assert ike_octets(again) == ike_octets(first)
    assert ike_sa(pair, 1).keys == keys
    post.deliver_sent(first)
    post.deliver_sent(again)
    post.open(1.0)
    pair.agreed()


@pytest.mark.rfc("9242", "3.3.1", "MUST", "under-keys")
def test_a_tampered_ciphertext_is_found_out_by_the_keys() -> None:
    # The ICV is right (a man in the middle of X25519 could do that): the ends' secrets differ, and
    # the IKE_AUTH request does not open.
    pair = hybrid()
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    before = ike_sa(pair, 1).protection
    post.deliver("a IKE_INTERMEDIATE request")
    sent = post.take("b IKE_INTERMEDIATE response")
    (ke,) = opened(pair, sent)[1]
    after, ike_sa(pair, 1).protection = ike_sa(pair, 1).protection, before
    changed = KePayload(ke.method, bytes([ke.data[0] ^ 1]) + ke.data[1:])
    octets = forge(pair, 1, INTERMEDIATE, changed, message_id=1, response=True)
    ike_sa(pair, 1).protection = after
    receive(pair, 0, octets)
    post.deliver("a IKE_AUTH request")
    assert pair.b.ike.counters["ike.bad_icv"] == 1
    assert not pair.events("ike_established")


BAD_REQUESTS = {
    "no KE": (),
    "another method": (KePayload(KeMethod.ML_KEM_1024, bytes(1568)),),
    "too short": (KePayload(KeMethod.ML_KEM_768, bytes(1183)),),
    "too long": (KePayload(KeMethod.ML_KEM_768, bytes(1185)),),
    "not reduced": (KePayload(KeMethod.ML_KEM_768, b"\xff" * 1184),),
    "empty": (KePayload(KeMethod.ML_KEM_768, b""),),
}


def half_open(added: str = "ke1_mlkem768") -> tuple[Pair, Post]:
    """IKE_SA_INIT is through, and the IKE_INTERMEDIATE request taken away."""
    pair = hybrid(added)
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response")
    post.take("a IKE_INTERMEDIATE request")
    return pair, post


@pytest.mark.rfc("9370", "2.2.2", "MUST", "right-method")
@pytest.mark.rfc("9242", "3.4", "MUST", "error-ends")
@pytest.mark.parametrize("payloads", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_gets_invalid_syntax_and_ends_the_ike_sa(payloads: tuple[KePayload]) -> None:
    pair, _ = half_open()
    octets = forge(pair, 0, INTERMEDIATE, *payloads, message_id=1)
    (answer,) = receive(pair, 1, octets)
    (notify,) = opened(pair, answer)[1]
    assert notify.notify_type == NotifyType.INVALID_SYNTAX
    assert not pair.b.ike.ike_sas
    pair.run(60.0)
    assert pair.b.ike.table_sizes["ike_sas"] == pair.b.ike.half_open == 0


@pytest.mark.parametrize(
    ("added", "data", "why"),
    [
        ("ke1_x448", bytes(56), "CURVE448 shared secret is all zero"),
        ("ke1_ecp256", bytes(64), "ECP_256 point not on the curve"),
        ("ke1_ecp512bp", bytes(128), "BRAINPOOL_P512R1 point not on the curve"),
        ("ke1_modp2048", b"\xff" * 256, "outside 2..p-2"),
    ],
)
def test_an_invalid_public_value_of_each_kind(added: str, data: bytes, why: str) -> None:
    pair, _ = half_open(added)
    method = ike_sa(pair, 1).additional[0]
    receive(pair, 1, forge(pair, 0, INTERMEDIATE, KePayload(method, data), message_id=1))
    assert why in pair.events("ike_error_sent", 1)[0].details["reason"]
    assert not pair.b.ike.ike_sas


@pytest.mark.rfc("9370", "2.2.2", "MUST", "right-method")
@pytest.mark.rfc("9242", "3.4", "MUST", "error-ends")
@pytest.mark.parametrize(
    "payloads",
    [
        (),
        (NotifyPayload(NotifyType.INVALID_SYNTAX),),
        (NotifyPayload(NotifyType.NO_PROPOSAL_CHOSEN),),
        (KePayload(KeMethod.ML_KEM_768, bytes(1087)),),
        (KePayload(KeMethod.ML_KEM_1024, bytes(1568)),),
    ],
    ids=["empty", "INVALID_SYNTAX", "NO_PROPOSAL_CHOSEN", "short ciphertext", "another method"],
)
def test_a_bad_response_ends_the_initiators_ike_sa(payloads: tuple[KePayload, ...]) -> None:
    pair, _ = half_open()
    octets = forge(pair, 1, INTERMEDIATE, *payloads, message_id=1, response=True)
    receive(pair, 0, octets)
    assert pair.events("ike_failed", 0)
    assert not pair.a.ike.ike_sas


@pytest.mark.rfc("9370", "2.2.2", "MUST", "all-done")
@pytest.mark.rfc("9242", "3.2", "MUST", "before-auth")
def test_ike_auth_before_all_key_exchanges_are_done_is_not_answered() -> None:
    pair, _ = half_open()
    assert receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, message_id=1)) == []
    assert pair.b.ike.counters["ike.not_authenticated"] == 1


@pytest.mark.rfc("9242", "3.2", "MUST", "before-auth")
@pytest.mark.rfc("9242", "5", "SHOULD", "bounded")
def test_a_further_ike_intermediate_is_not_answered() -> None:
    pair = hybrid()
    post = Post(pair)
    pair.do(0, "initiate", "site")
    for exchange in ("IKE_SA_INIT", "IKE_INTERMEDIATE"):
        post.deliver(f"a {exchange} request", f"b {exchange} response")
    post.take("a IKE_AUTH request")
    public = KE_METHODS[KeMethod.ML_KEM_768].generate(random.Random(1)).public
    ke = KePayload(KeMethod.ML_KEM_768, public)
    assert receive(pair, 1, forge(pair, 0, INTERMEDIATE, ke, message_id=2)) == []
    assert pair.b.ike.counters["ike.not_authenticated"] == 1


@pytest.mark.rfc("9242", "5", "SHOULD", "bounded")
def test_a_responder_that_hears_no_more_forgets() -> None:
    pair, _ = half_open()
    pair.run(400.0)
    assert pair.b.ike.half_open == 0
    assert pair.b.ike.table_sizes["ike_sas"] == 0


# A peer that cannot.


@pytest.mark.rfc("9242", "3.1", "MUST NOT", "both-said-so")
def test_a_responder_without_support_takes_the_second_proposal() -> None:
    pair = make_pair(a=ike(f"{BASE}-ke1_mlkem768", BASE), b=ike(BASE))
    pair.connect()
    exchanges = {sent.header.exchange for sent in ike_messages(pair)}
    assert INTERMEDIATE not in exchanges
    pair.agreed()


@pytest.mark.rfc("9370", "2.2.1", "MUST", "one-of-each")
def test_none_makes_it_optional_in_one_proposal() -> None:
    for own, rounds in ((f"{BASE}-ke1_mlkem768-ke1_none", 2), (BASE, 0)):
        pair = make_pair(a=ike(f"{BASE}-ke1_mlkem768-ke1_none"), b=ike(own))
        pair.connect()
        exchanges = [sent.header.exchange for sent in ike_messages(pair)]
        assert exchanges.count(INTERMEDIATE) == rounds
        pair.agreed()


@pytest.mark.rfc("9370", "2.2.1", "MUST", "no-proposal")
def test_nothing_in_common_is_no_proposal_chosen() -> None:
    pair = make_pair(a=ike(f"{BASE}-ke1_mlkem768"), b=ike(BASE))
    pair.do(0, "initiate", "site")
    pair.run(1.0)
    assert transcript(pair)[1] == "b <-- IKE_SA_INIT: N(NO_PROPOSAL_CHOSEN)"


@pytest.mark.rfc("9370", "2.2.1", "MUST NOT", "without-intermediate")
def test_an_initiator_that_does_not_say_ike_intermediate_gets_no_additional_key_exchange() -> None:
    # Section 2.2.1 of RFC 9370: without the Notify the transforms cannot be used.
    pair = hybrid("ke1_mlkem768-ke1_none")
    post = Post(pair)
    pair.do(0, "initiate", "site")
    message, payloads = opened(pair, post.take("a IKE_SA_INIT request"))
    told = [p for p in payloads if not _says_intermediate(p)]
    (answer,) = receive(pair, 1, replace(message, payloads=tuple(told)).encode())
    chosen = opened(pair, answer)[0].find(SaPayload).proposals[0]
    assert [t.id for t in chosen.transforms if t.type == 6] == [KeMethod.NONE]


@pytest.mark.rfc("9242", "3.1", "MUST NOT", "both-said-so")
def test_a_choice_of_additional_key_exchanges_without_the_notify_is_not_believed() -> None:
    pair = hybrid()
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request")
    message, payloads = opened(pair, post.take("b IKE_SA_INIT response"))
    told = [p for p in payloads if not _says_intermediate(p)]
    receive(pair, 0, replace(message, payloads=tuple(told)).encode())
    assert pair.a.ike.counters["ike.init_refused"] == 1
    post.open(60.0)
    pair.agreed()


def _says_intermediate(payload: object) -> bool:
    return (
        isinstance(payload, NotifyPayload)
        and payload.notify_type == NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
    )


def test_another_group_in_the_first_key_exchange_of_several() -> None:
    pair = make_pair(
        a=ike("aes128gcm16-prfsha256-ecp256-x25519-ke1_mlkem768"),
        b=ike(f"{BASE}-ke1_mlkem768"),
    )
    pair.connect()
    assert transcript(pair)[1] == "b <-- IKE_SA_INIT: N(INVALID_KE_PAYLOAD)"
    pair.agreed()


def test_same_seed_same_octets() -> None:
    runs = []
    for _ in range(2):
        pair = hybrid("ke1_mlkem768-ke2_mlkem512", seed=7)
        pair.connect()
        runs.append([ike_octets(sent) for sent in ike_messages(pair)])
    assert runs[0] == runs[1]
