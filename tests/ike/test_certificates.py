"""IKE_AUTH by certificates and raw keys, end to end: what is sent, and how each bad one ends."""

from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from pair import Pair, connection, gateway_config
from transcript import opened, transcript

from ipseclab.crypto.signature import decode_digital_signature, public_key_info
from ipseclab.ike.certificates import authority_hash
from ipseclab.ike.config import Identity
from ipseclab.ike.credentials import (
    LAB_EPOCH,
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.lab.pki import (
    DAY,
    Authority,
    Issued,
    Subject,
    Validity,
    issue,
    make_authority,
    make_crl,
    make_key,
    make_ocsp,
)
from ipseclab.registry import AuthMethod, CertEncoding, IdType, NotifyType
from ipseclab.wire.payloads import AuthPayload, CertPayload, CertreqPayload, NotifyPayload

NOW = LAB_EPOCH
YEAR = Validity.of_days(NOW, 365)
KIND = "ecdsa-p256"
NAMES = tuple(Identity(IdType.ID_FQDN, name) for name in (b"a.example.org", b"b.example.org"))


def authority(name="root", issuer=None, *, kind=KIND, validity=YEAR, **options):
    rng = Random(f"authority {name} {kind}")
    return make_authority(name, make_key(kind, rng), validity, rng=rng, issuer=issuer, **options)


def end(side, issuer, *, kind=KIND, validity=YEAR, key=None, identities=None, **says):
    rng = Random(f"end {side} {kind}")
    key = key if key is not None else make_key(kind, rng)
    names = identities if identities is not None else (NAMES[side],)
    return issue(issuer, Subject("ab"[side], names, **says), key, validity, rng=rng)


@dataclass(frozen=True)
class Lab:
    """Whom both ends trust, and what each has; a test changes the bad end's."""

    root: Authority
    ends: tuple[Issued, Issued]


ROOT = authority()
LAB = Lab(ROOT, (end(0, ROOT), end(1, ROOT)))
GOOD = CertificateDemand((ROOT.certificate,))


def auth_of(issued, **more):
    return CertificateAuth(issued.private, issued.chain, **more)


def pair_of(own, demands, *, clock=NOW, **options):
    """Two gateways: what each holds and what each demands."""
    configs = []
    for side in (0, 1):
        one = connection(
            side, own_auth=(own[side],), peer_auth=(demands[side],), fragment_size=65_535
        )
        config = gateway_config(one, name="ab"[side])
        configs.append(replace(config, ike=replace(config.ike, wall_clock=clock)))
    return Pair(tuple(configs), **options)


def certified(*, bad=None, side=0, demand=GOOD, clock=NOW, **more):
    """Both ends with good certificates, but for what `side` has."""
    own = [auth_of(issued) for issued in LAB.ends]
    if bad is not None:
        own[side] = auth_of(bad, **more)
    return pair_of(own, (demand, demand), clock=clock)


def payloads_of(pair, kind, index):
    """Payloads of that kind in the message with that index."""
    return [p for p in opened(pair, pair.sent[index])[1] if isinstance(p, kind)]


# What is sent.


@pytest.mark.rfc("7296", "3.6", "SHOULD", "send-certificates")
def test_certificates_go_where_the_rfc_has_them():
    pair = certified()
    pair.connect()
    assert transcript(pair) == [
        "a --> IKE_SA_INIT: SA, KE, Ni, N(SIGNATURE_HASH_ALGORITHMS)",
        "b <-- IKE_SA_INIT: SA, KE, Nr, CERTREQ, N(SIGNATURE_HASH_ALGORITHMS)",
        "a --> IKE_AUTH: SK {IDi, CERT, N(INITIAL_CONTACT), CERTREQ, IDr, AUTH, SA, TSi, TSr}",
        "b <-- IKE_AUTH: SK {IDr, CERT, AUTH, SA, TSi, TSr}",
    ]
    pair.agreed()


def test_without_signatures_nothing_is_said_of_them():
    pair = Pair(tuple(gateway_config(connection(side)) for side in (0, 1)))
    pair.connect()
    said = " ".join(transcript(pair))
    assert "SIGNATURE_HASH_ALGORITHMS" not in said
    assert "CERT" not in said


@pytest.mark.rfc("7296", "3.7", "MAY", "certreq")
def test_certreq_holds_the_hash_of_the_authoritys_key():
    pair = certified()
    pair.connect()
    for index in (1, 2):
        (request,) = payloads_of(pair, CertreqPayload, index)
        assert request.encoding == CertEncoding.X509_SIGNATURE
        assert request.data == authority_hash(ROOT.certificate)


@pytest.mark.rfc("7296", "3.7", "SHOULD", "chain-sent")
@pytest.mark.rfc("7296", "1.2", "MUST", "first-certificate")
@pytest.mark.rfc("7296", "2.15", "MAY", "send-chain")
def test_intermediates_follow_the_own_certificate():
    middle = authority("middle", ROOT)
    pair = certified(bad=end(0, middle))
    pair.connect()
    certs = payloads_of(pair, CertPayload, 2)
    assert [cert.data for cert in certs] == [
        item.public_bytes(Encoding.DER) for item in end(0, middle).chain
    ]
    assert len(certs) == 2
    pair.agreed()


def test_intermediate_that_the_peer_trusts_stays_at_home():
    middle = authority("middle", ROOT)
    demands = (GOOD, CertificateDemand((middle.certificate,)))
    pair = pair_of((auth_of(end(0, middle)), auth_of(LAB.ends[1])), demands)
    pair.connect()
    assert len(payloads_of(pair, CertPayload, 2)) == 1
    pair.agreed()


@pytest.mark.rfc("7427", "3", "MUST", "any-signature")
@pytest.mark.rfc("7296", "3.6", "SHOULD", "raw-rsa")
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("rsa-2048", "rsa-pss-sha256"),
        ("ecdsa-p256", "ecdsa-sha256"),
        ("ecdsa-p384", "ecdsa-sha384"),
        ("ecdsa-p521", "ecdsa-sha512"),
        ("ed25519", "ed25519"),
        ("ed448", "ed448"),
        ("ml-dsa-44", "ml-dsa-44"),
        ("ml-dsa-65", "ml-dsa-65"),
        ("ml-dsa-87", "ml-dsa-87"),
    ],
)
def test_each_kind_of_key_by_certificate_and_raw(kind, scheme):
    key = rsa.generate_private_key(65537, 2048) if kind.startswith("rsa") else None
    issued = end(0, ROOT, kind=kind, key=key)
    pinned = RawKeyDemand((public_key_info(issued.private.public_key()),))
    for own, demand in ((auth_of(issued), GOOD), (RawKeyAuth(issued.private), pinned)):
        pair = pair_of((own, auth_of(LAB.ends[1])), (GOOD, demand))
        pair.connect()
        pair.agreed()
        (auth,) = payloads_of(pair, AuthPayload, 2)
        assert auth.method == AuthMethod.DIGITAL_SIGNATURE
        assert decode_digital_signature(auth.data)[0].name == scheme


def test_wanted_scheme_is_used():
    key = rsa.generate_private_key(65537, 2048)
    pair = certified(bad=end(0, ROOT, key=key), schemes=("rsa-pkcs1-sha512",))
    pair.connect()
    pair.agreed()
    (auth,) = payloads_of(pair, AuthPayload, 2)
    assert decode_digital_signature(auth.data)[0].name == "rsa-pkcs1-sha512"


@pytest.mark.rfc("7296", "3.7", "SHOULD NOT", "other-authorities")
def test_raw_key_travels_as_subject_public_key_info():
    keys = [issued.private for issued in LAB.ends]
    infos = [public_key_info(key.public_key()) for key in keys]
    demands = [RawKeyDemand((info,)) for info in infos[::-1]]
    pair = pair_of([RawKeyAuth(key) for key in keys], demands)
    pair.connect()
    pair.agreed()
    (request,) = payloads_of(pair, CertreqPayload, 1)
    assert (request.encoding, request.data) == (CertEncoding.RAW_PUBLIC_KEY, b"")
    (cert,) = payloads_of(pair, CertPayload, 2)
    assert (cert.encoding, cert.data) == (CertEncoding.RAW_PUBLIC_KEY, infos[0])


def test_ocsp_response_is_asked_for_and_sent_in_band():
    """RFC 4806."""
    good = make_ocsp(LAB.ends[0], YEAR).public_bytes(Encoding.DER)
    strict = replace(GOOD, revocation_required=True, ask_ocsp=True)
    own = (auth_of(LAB.ends[0], ocsp=(good,)), auth_of(LAB.ends[1]))
    pair = pair_of(own, (GOOD, strict))
    pair.connect()
    pair.agreed()
    asked = [request.encoding for request in payloads_of(pair, CertreqPayload, 1)]
    assert asked == [CertEncoding.X509_SIGNATURE, CertEncoding.OCSP_CONTENT]
    sent = payloads_of(pair, CertPayload, 2)
    assert [cert.encoding for cert in sent] == [
        CertEncoding.X509_SIGNATURE,
        CertEncoding.OCSP_CONTENT,
    ]


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ed25519"])
def test_same_seed_same_octets(kind):
    def octets():
        pair = certified(bad=end(0, ROOT, kind=kind))
        pair.connect()
        return [sent.item for sent in pair.sent]

    assert octets() == octets()


@pytest.mark.rfc("7296", "4", "MUST", "accept-rsa")
@pytest.mark.parametrize(
    "identity",
    [
        Identity(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
        Identity(IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8") + bytes(12)),
        Identity(IdType.ID_RFC822_ADDR, b"a@example.org"),
        Identity(IdType.ID_DER_ASN1_DN, LAB.ends[0].certificate.subject.public_bytes()),
    ],
    ids=["IPv4", "IPv6", "mail", "distinguished name"],
)
def test_identities_of_each_kind(identity):
    own = end(0, ROOT, identities=(identity,))
    sides = [
        connection(0, own_id=identity, own_auth=(auth_of(own),), peer_auth=(GOOD,)),
        connection(1, peer_id=identity, own_auth=(auth_of(LAB.ends[1]),), peer_auth=(GOOD,)),
    ]
    pair = Pair(tuple(gateway_config(side) for side in sides))
    pair.connect()
    pair.agreed()
    assert "\n" not in str(identity)


# What is refused. The bad end is the initiator, then the responder.

KEY_1024 = rsa.generate_private_key(65537, 1024)


def _long_chain():
    issuer = ROOT
    for number in range(4):
        issuer = authority(f"ca{number}", issuer)
    return issuer


def _loop():
    one = authority("one", ROOT)
    two = authority("two", one)
    return replace(one, certificate=authority("one", two).certificate, issuer=two)


BAD = {
    "expired": (
        lambda side: end(side, ROOT, validity=Validity(NOW - 9 * DAY, NOW - DAY)),
        "expired at 2025-12-31",
    ),
    "not yet valid": (
        lambda side: end(side, ROOT, validity=Validity(NOW + DAY, NOW + 9 * DAY)),
        "is not valid before 2026-01-02",
    ),
    "wrong name": (
        lambda side: end(side, ROOT, identities=(NAMES[1 - side],)),
        "is not for ID_FQDN",
    ),
    "wrong issuer": (
        lambda side: end(side, authority("stranger")),
        "issuer CN=stranger,O=ipseclab is not a trusted authority",
    ),
    "weak key": (lambda side: end(side, ROOT, key=KEY_1024), "RSA key of 1024 bits"),
    "wrong usage": (
        lambda side: end(side, ROOT, digital_signature=False),
        "key usage without digitalSignature",
    ),
    "wrong extended usage": (
        lambda side: end(side, ROOT, extended_usage=("1.3.6.1.5.5.7.3.3",)),
        "extended key usage",
    ),
    "chain too long": (lambda side: end(side, _long_chain()), "chain too long"),
    "issued by no authority": (
        lambda side: end(side, Authority(LAB.ends[side].private, LAB.ends[side].certificate, ROOT)),
        "is no authority",
    ),
}


def assert_refused(pair, side, why):
    """AUTHENTICATION_FAILED on the wire, the reason in the log, nothing left at either end."""
    pair.connect()
    sent = [p for s in pair.sent for p in opened(pair, s)[1] if isinstance(p, NotifyPayload)]
    assert NotifyType.AUTHENTICATION_FAILED in [notify.notify_type for notify in sent]
    name = "ike_error_sent" if side == 0 else "auth_failed"
    reasons = [notice.details["reason"] for notice in pair.events(name, 1 - side)]
    assert [reason for reason in reasons if why in reason], reasons
    assert not pair.events("child_ready", 1 - side)
    assert not pair.events("ike_established", 1 - side)
    pair.run(400.0)
    for gateway in pair.gateways:
        assert not list(gateway.ike.ike_sas)
        assert len(gateway.datapath.sad) == 0


@pytest.mark.rfc("7296", "2.21.2", "SHOULD", "auth-failed")
@pytest.mark.parametrize("side", [0, 1], ids=["initiator", "responder"])
@pytest.mark.parametrize("what", BAD)
def test_bad_certificate_is_refused_with_its_reason(what, side):
    make, why = BAD[what]
    assert_refused(certified(bad=make(side), side=side), side, why)


@pytest.mark.parametrize("side", [0, 1], ids=["initiator", "responder"])
def test_loop_is_refused(side):
    loop = _loop()
    own = [auth_of(issued) for issued in LAB.ends]
    bad = end(side, loop)
    chain = (bad.certificate, loop.certificate, loop.issuer.certificate)
    own[side] = CertificateAuth(bad.private, chain)
    assert_refused(pair_of(own, (GOOD, GOOD)), side, "loop")


@pytest.mark.parametrize("side", [0, 1], ids=["initiator", "responder"])
def test_revoked_by_crl_and_by_ocsp(side):
    bad = LAB.ends[side]
    crl = make_crl(ROOT, [bad.certificate], NOW, YEAR)

    demands = [GOOD, GOOD]
    demands[1 - side] = replace(GOOD, crls=(crl,))
    own = [auth_of(issued) for issued in LAB.ends]
    assert_refused(pair_of(own, demands), side, "was revoked at 2026-01-01")
    response = make_ocsp(bad, YEAR, revoked=NOW).public_bytes(Encoding.DER)
    own[side] = auth_of(bad, ocsp=(response,))
    demands[1 - side] = replace(GOOD, ask_ocsp=True)
    assert_refused(pair_of(own, demands), side, "says OCSP")


def test_time_of_day_goes_on_with_the_clock():
    """Valid when the gateways start, expired when they connect."""
    short = end(0, ROOT, validity=Validity(NOW, NOW + timedelta(seconds=100)))
    pair = certified(bad=short)
    pair.run(101.0)
    assert_refused(pair, 0, "expired at 2026-01-01 00:01:40")


def test_certificate_with_another_ends_key():
    thief = CertificateAuth(make_key(KIND, Random(5)), LAB.ends[0].chain)
    pair = pair_of((thief, auth_of(LAB.ends[1])), (GOOD, GOOD))
    assert_refused(pair, 0, "AUTH: ecdsa-sha256 signature does not verify")


def test_raw_key_that_is_not_the_pinned_one():
    key = make_key(KIND, Random(5))
    pinned = RawKeyDemand((public_key_info(LAB.ends[0].private.public_key()),))
    pair = pair_of((RawKeyAuth(key), auth_of(LAB.ends[1])), (GOOD, pinned))
    assert_refused(pair, 0, "raw public key is not the one expected")


def test_pre_shared_key_does_not_do_where_a_certificate_is_demanded():
    own = connection(0, peer_auth=(GOOD,))
    other = connection(1, own_auth=(auth_of(LAB.ends[1]),), peer_auth=(GOOD,))
    pair = Pair((gateway_config(own, name="a"), gateway_config(other, name="b")))
    assert_refused(pair, 0, "AUTH method SHARED_KEY, expected a signature")


def test_no_revocation_list_where_one_is_required():
    strict = replace(GOOD, revocation_required=True)
    pair = pair_of([auth_of(issued) for issued in LAB.ends], (GOOD, strict))
    assert_refused(pair, 0, "no current CRL or OCSP response")
