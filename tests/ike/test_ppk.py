"""Post-quantum preshared keys (RFC 8784): used, done without, required, with EAP and rounds."""

from dataclasses import replace

import pytest
from forge import ike_sa
from pair import PSK, make_pair
from post import Post
from transcript import transcript

from ipseclab.crypto.prf import PRFS
from ipseclab.ike.config import Identity, Ppk, SharedKeyAuth
from ipseclab.ike.eap.settings import EapAuth, EapDemand
from ipseclab.ike.keys import IkeKeys, mix_ppk
from ipseclab.registry import EapType, IdType, PrfId

BLUE, RED = Ppk(b"blue", b"a key of 32 octets and some more"), Ppk(b"red", b"another")
WRONG = Ppk(b"blue", b"not the blue one")
FIRST = "IDi, N(INITIAL_CONTACT), IDr, AUTH"


def ppk_pair(of_a, of_b, **required):
    return make_pair(
        a={"ppks": of_a, "ppk_required": required.get("a", False)},
        b={"ppks": of_b, "ppk_required": required.get("b", False)},
    )


def auth_lines(pair):
    return [line for line in transcript(pair) if "IKE_AUTH" in line]


@pytest.mark.rfc("8784", "3", "MUST", "three-keys")
def test_three_keys_change_and_no_other():
    keys = IkeKeys(*(bytes([n]) * 32 for n in range(7)))
    prf = PRFS[PrfId.PRF_HMAC_SHA2_256]
    mixed = mix_ppk(prf, keys, BLUE.key)
    for name in ("sk_d", "sk_pi", "sk_pr"):
        expected = prf.prf(BLUE.key, getattr(keys, name) + b"\x01")
        assert getattr(mixed, name) == expected
    for name in ("sk_ai", "sk_ar", "sk_ei", "sk_er"):
        assert getattr(mixed, name) == getattr(keys, name)


@pytest.mark.rfc("8784", "3", "MUST", "say-use-ppk")
@pytest.mark.rfc("8784", "3", "MUST", "answer-use-ppk")
@pytest.mark.rfc("8784", "3", "MUST", "named")
@pytest.mark.rfc("8784", "3", "MUST NOT", "without-required")
@pytest.mark.parametrize("required", [False, True])
def test_ppk_that_both_have_is_used(required):
    pair = ppk_pair((BLUE,), (RED, BLUE), a=required, b=required)
    pair.connect()
    beside = "N(PPK_IDENTITY)" if required else "N(PPK_IDENTITY), N(NO_PPK_AUTH)"
    assert transcript(pair) == [
        "a --> IKE_SA_INIT: SA, KE, Ni, N(USE_PPK)",
        "b <-- IKE_SA_INIT: SA, KE, Nr, N(USE_PPK)",
        f"a --> IKE_AUTH: SK {{{FIRST}, {beside}, SA, TSi, TSr}}",
        "b <-- IKE_AUTH: SK {IDr, AUTH, N(PPK_IDENTITY), SA, TSi, TSr}",
    ]
    pair.agreed()
    assert ike_sa(pair, 0).keys == ike_sa(pair, 1).keys
    plain = make_pair()
    plain.connect()
    assert ike_sa(plain, 0).keys.sk_d != ike_sa(pair, 0).keys.sk_d
    assert ike_sa(plain, 0).keys.sk_ei == ike_sa(pair, 0).keys.sk_ei


@pytest.mark.rfc("8784", "3", "MAY", "without")
@pytest.mark.rfc("8784", "3", "MUST", "not-confirmed")
def test_ppk_that_the_responder_does_not_know_is_done_without():
    pair = ppk_pair((BLUE,), (RED,))
    pair.connect()
    assert auth_lines(pair)[1] == "b <-- IKE_AUTH: SK {IDr, AUTH, SA, TSi, TSr}"
    pair.agreed()
    plain = make_pair()
    plain.connect()
    assert ike_sa(plain, 0).keys.sk_d == ike_sa(pair, 0).keys.sk_d


@pytest.mark.rfc("8784", "3", "MUST NOT", "use-unagreed")
@pytest.mark.rfc("8784", "3", "MUST", "initiator-requires")
@pytest.mark.rfc("8784", "3", "MUST", "responder-requires")
@pytest.mark.parametrize(("a", "b"), [((BLUE,), ()), ((), (BLUE,))])
def test_one_end_without_any_is_done_without_unless_required(a, b):
    pair = ppk_pair(a, b)
    pair.connect()
    pair.agreed()
    pair = ppk_pair(a, b, a=bool(a), b=bool(b))
    pair.connect()
    assert not pair.events("ike_established")
    assert pair.events("auth_failed", 0)
    pair.run(400.0)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


@pytest.mark.rfc("8784", "3", "MUST", "unknown-refused")
@pytest.mark.rfc("8784", "3", "MUST", "known-used")
@pytest.mark.rfc("8784", "4", "SHOULD", "required-knob")
@pytest.mark.parametrize(
    ("a", "b", "required"),
    [
        ((BLUE,), (RED,), {"a": True}),
        ((BLUE,), (RED,), {"b": True}),
        ((BLUE,), (WRONG,), {}),
        ((BLUE,), (WRONG,), {"a": True, "b": True}),
    ],
)
def test_required_but_unknown_and_different_keys_are_refused(a, b, required):
    pair = ppk_pair(a, b, **required)
    pair.connect()
    assert auth_lines(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"
    assert not pair.events("ike_established")


@pytest.mark.rfc("8784", "3", "MUST", "eap-last")
def test_with_eap_the_ppk_rides_beside_the_last_auth():
    alice = Identity(IdType.ID_FQDN, b"a.example.org")
    methods, accounts = (EapType.MSCHAPV2,), ((str(alice), "p"),)
    gate = (SharedKeyAuth(PSK),)
    pair = make_pair(
        both={"ppks": (BLUE,)},
        a={"own_auth": (EapAuth(methods, "p"),), "peer_auth": gate},
        b={"own_auth": gate, "peer_auth": (EapDemand(methods, accounts),)},
    )
    pair.connect()
    lines = auth_lines(pair)
    assert lines[-2:] == [
        "a --> IKE_AUTH: SK {AUTH, N(PPK_IDENTITY), N(NO_PPK_AUTH)}",
        "b <-- IKE_AUTH: SK {AUTH, N(PPK_IDENTITY), SA, TSi, TSr}",
    ]
    assert not any("PPK" in line for line in lines[:-2])
    pair.agreed()


@pytest.mark.rfc("8784", "3", "MUST", "child-keys")
def test_later_rounds_and_rekeys_go_on_with_the_mixed_keys():
    second = SharedKeyAuth(b"2")
    first = SharedKeyAuth(PSK)
    pair = make_pair(
        both={"ppks": (BLUE,)}, a={"own_auth": (first, second)}, b={"peer_auth": (first, second)}
    )
    pair.connect()
    assert sum("N(PPK_IDENTITY)" in line for line in auth_lines(pair)) == 2
    pair.do(0, "rekey_ike", "site")
    pair.run(1.0)
    assert pair.events("ike_rekeyed", 1)
    pair.agreed()


def test_an_initiator_that_insists_wants_the_ppk_confirmed():
    pair = ppk_pair((BLUE,), (RED,))
    post = Post(pair)
    pair.do(0, "initiate", "site")
    post.deliver("a IKE_SA_INIT request", "b IKE_SA_INIT response", "a IKE_AUTH request")
    sa = ike_sa(pair, 0)
    # The responder took NO_PPK_AUTH, which an initiator that insists would not have sent.
    sa.connection = replace(sa.connection, ppk_required=True)
    post.open(1.0)
    assert not pair.events("ike_established", 0)
    assert "does not have ours" in str(pair.events("auth_failed", 0)[0].details["reason"])
