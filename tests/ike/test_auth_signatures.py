"""IKE_AUTH by signature: certificates, raw keys, old AUTH methods; both ends, two gateways."""

from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from pair import CONNECTION, make_pair
from transcript import opened, transcript

from ipseclab.crypto.signature import public_key_info
from ipseclab.ike import capabilities
from ipseclab.ike.config import Identity, Retransmission
from ipseclab.ike.credentials import (
    LAB_EPOCH,
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.lab.pki import Subject, Validity, issue, make_authority, make_key
from ipseclab.registry import AuthMethod, ExchangeType, IdType, NotifyType
from ipseclab.wire.payloads import AuthPayload, CertPayload, CertreqPayload

NAMES = [Identity(IdType.ID_FQDN, name) for name in (b"a.example.org", b"b.example.org")]
YEAR = Validity.of_days(LAB_EPOCH, 365)


@pytest.fixture(scope="module")
def ends():
    """Each end's credential, by kind of key, below one authority and an intermediate one."""
    made = {}

    def of(kind):
        if kind not in made:
            rng = Random(f"signatures {kind}")
            root = make_authority("root", make_key("ecdsa-p256", rng), YEAR, rng=rng)
            branch = make_authority(
                "branch", make_key("ecdsa-p256", rng), YEAR, rng=rng, issuer=root
            )
            issued = [
                issue(branch, Subject(str(name), (name,)), make_key(kind, rng), YEAR, rng=rng)
                for name in NAMES
            ]
            auths = [CertificateAuth(end.private, end.chain) for end in issued]
            made[kind] = (auths, CertificateDemand((root.certificate,)))
        return made[kind]

    return of


def signing_pair(auths, demands, *, both=None, **options):
    """Whole messages unless told otherwise, so that each stands in one line."""
    sides = [{"own_auth": (auths[side],), "peer_auth": (demands[side],)} for side in (0, 1)]
    both = {"fragmentation": False, **(both or {})}
    return make_pair(a=sides[0], b=sides[1], both=both, **options)


def auth_methods(pair):
    found = (opened(pair, sent)[1] for sent in pair.sent if sent.is_ike(ExchangeType.IKE_AUTH))
    return [p.method for payloads in found for p in payloads if isinstance(p, AuthPayload)]


KINDS = ["rsa-2048", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521", "ed25519", "ed448"]


@pytest.mark.rfc("7427", "3", "MUST", "any-signature")
@pytest.mark.rfc("7296", "4", "MUST", "accept-rsa")
@pytest.mark.parametrize("kind", KINDS)
def test_certificates_of_each_kind(ends, kind):
    auths, demand = ends(kind)
    pair = signing_pair(auths, (demand, demand))
    pair.connect()
    assert transcript(pair) == [
        "a --> IKE_SA_INIT: SA, KE, Ni, N(SIGNATURE_HASH_ALGORITHMS)",
        "b <-- IKE_SA_INIT: SA, KE, Nr, CERTREQ, N(SIGNATURE_HASH_ALGORITHMS)",
        "a --> IKE_AUTH: SK {IDi, CERT, CERT, N(INITIAL_CONTACT), CERTREQ, IDr, AUTH, "
        "SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, CERT, CERT, AUTH, SA, TSi, TSr}",
    ]
    assert auth_methods(pair) == [AuthMethod.DIGITAL_SIGNATURE] * 2
    pair.agreed()


@pytest.mark.rfc("7427", "4", "MUST NOT", "unless-told")
@pytest.mark.rfc("7427", "4", "MAY", "old-methods")
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("ecdsa-p256", AuthMethod.ECDSA_SHA256_P256),
        ("ecdsa-p384", AuthMethod.ECDSA_SHA384_P384),
        ("ecdsa-p521", AuthMethod.ECDSA_SHA512_P521),
    ],
)
def test_old_methods_where_a_peer_knows_no_rfc_7427(ends, kind, method, monkeypatch):
    rows = capabilities.CAPABILITIES
    kept = tuple(row for row in rows if row.notify != NotifyType.SIGNATURE_HASH_ALGORITHMS)
    monkeypatch.setattr(capabilities, "CAPABILITIES", kept)
    auths, demand = ends(kind)
    pair = signing_pair(auths, (demand, demand))
    pair.connect()
    assert auth_methods(pair) == [method] * 2
    pair.agreed()


@pytest.mark.rfc("7427", "7", "SHOULD NOT", "sha1")
def test_rsa_with_sha1_only_where_it_is_allowed(ends, monkeypatch):
    monkeypatch.setattr(capabilities, "CAPABILITIES", ())
    auths, demand = ends("rsa-2048")
    for sha1 in (False, True):
        allowed = replace(demand, sha1=sha1)
        pair = signing_pair(auths, (allowed, allowed))
        pair.connect()
        assert auth_methods(pair)[0] == AuthMethod.RSA_DIGITAL_SIGNATURE
        assert bool(pair.events("ike_established", 1)) is sha1


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ed25519"])
def test_raw_public_keys(ends, kind):
    auths, _demand = ends(kind)
    raw = [RawKeyAuth(auth.private) for auth in auths]
    pins = [RawKeyDemand((public_key_info(auth.private.public_key()),)) for auth in raw]
    pair = signing_pair(raw, pins[::-1])
    pair.connect()
    pair.agreed()
    swapped = signing_pair(raw, pins)
    swapped.connect()
    assert transcript(swapped)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"


def test_signature_of_one_end_and_a_key_of_the_other(ends):
    auths, demand = ends("ed25519")
    pair = make_pair(a={"own_auth": (auths[0],)}, b={"peer_auth": (demand,)})
    pair.connect()
    assert auth_methods(pair) == [AuthMethod.DIGITAL_SIGNATURE, AuthMethod.SHARED_KEY]
    pair.agreed()


@pytest.mark.rfc("7296", "4", "MUST", "accept-both")
@pytest.mark.rfc("7296", "1.2", "MUST", "name-of-key")
def test_certificate_of_the_responder_and_secret_of_the_initiator(ends):
    auths, demand = ends("rsa-2048")
    pair = make_pair(
        a={"peer_auth": (demand,)}, b={"own_auth": (auths[1],)}, both={"fragmentation": False}
    )
    pair.connect()
    assert auth_methods(pair) == [AuthMethod.SHARED_KEY, AuthMethod.DIGITAL_SIGNATURE]
    pair.agreed()


def test_certificate_of_another_refused_by_either_end(ends):
    auths, demand = ends("ecdsa-p256")
    for thief in (0, 1):
        stolen = [auths[1 - thief] if side == thief else auths[side] for side in (0, 1)]
        pair = signing_pair(stolen, (demand, demand))
        pair.connect()
        assert not pair.events("child_ready", 1 - thief)
        (failed,) = [
            *pair.events("auth_failed", 0)[: thief == 1],
            *pair.events("ike_error_sent", 1)[: thief == 0],
        ]
        assert "is not for ID_FQDN" in failed.details["reason"]
        pair.run(400.0)
        for gateway in pair.gateways:
            assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


def test_certificate_that_expires_while_the_clock_goes_on(ends):
    auths, demand = ends("ecdsa-p256")
    pair = signing_pair(auths, (demand, demand))
    pair.now = timedelta(days=366).total_seconds()
    pair.connect()
    (refused,) = pair.events("ike_error_sent", 1)
    assert "expired at" in refused.details["reason"]


def test_authority_that_the_peer_does_not_trust(ends):
    auths, _demand = ends("ecdsa-p256")
    _others, stranger = ends("ed25519")
    pair = signing_pair(auths, (stranger, stranger))
    pair.connect()
    assert transcript(pair)[-1] == "b <-- IKE_AUTH: SK {N(AUTHENTICATION_FAILED)}"


@pytest.mark.rfc("7427", "4", "MUST", "peers-hash")
def test_key_that_the_peer_has_no_hash_for_ends_before_ike_auth(ends, monkeypatch):
    monkeypatch.setattr(capabilities, "OWN_HASHES", ())
    auths, demand = ends("ed25519")
    pair = signing_pair(auths, (demand, demand))
    pair.connect()
    (failed,) = pair.events("auth_failed", 0)
    assert "own AUTH" in failed.details["reason"]
    assert len(transcript(pair)) == 2
    assert not pair.a.ike.ike_sas


def test_certificates_survive_losses_and_repeats(ends):
    auths, demand = ends("ecdsa-p256")
    quick = Retransmission(timeout=1.0, tries=4)
    pair = signing_pair(auths, (demand, demand), both={"retransmission": quick})
    seen = []

    def fate(sent):
        seen.append(sent)
        return () if len(seen) % 2 else (0.0, 0.002)

    pair.fate = fate
    pair.do(0, "initiate", CONNECTION)
    pair.run(30.0)
    pair.agreed()


def test_long_chains_go_in_fragments(ends):
    auths, demand = ends("rsa-2048")
    pair = signing_pair(auths, (demand, demand), both={"fragmentation": True})
    pair.connect()
    assert "a --> IKE_AUTH: SKF" in transcript(pair)
    pair.agreed()


def test_what_is_asked_for_names_the_authority(ends):
    auths, demand = ends("ecdsa-p256")
    pair = signing_pair(auths, (demand, demand))
    pair.connect()
    payloads = [p for sent in pair.sent[:4] for p in opened(pair, sent)[1]]
    requests = [p for p in payloads if isinstance(p, CertreqPayload)]
    assert len(requests) == 2
    assert requests[0] == requests[1]
    assert len(requests[0].data) == 20
    assert sum(isinstance(p, CertPayload) for p in payloads) == 4
