"""Whom certificates make trusted: each reason to refuse one, by itself."""

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.crypto.keys import KEY_KINDS
from ipseclab.crypto.signature import public_key_info
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.certificates import MAX_CERT_PAYLOADS, Presented, presented
from ipseclab.ike.config import Identity
from ipseclab.ike.credentials import LAB_EPOCH, CertificateDemand, RawKeyDemand
from ipseclab.ike.trust import MAX_SIGNATURE_CHECKS, pinned_key, trusted_key
from ipseclab.ike.x509_read import read_certificate, read_ocsp
from ipseclab.lab.pki import (
    Authority,
    Issued,
    Subject,
    Validity,
    der,
    issue,
    make_authority,
    make_crl,
    make_key,
    make_ocsp,
)
from ipseclab.registry import CertEncoding, IdType
from ipseclab.wire.payloads import CertPayload

NOW = LAB_EPOCH
YEAR = Validity.of_days(NOW, 365)
GW1 = Identity(IdType.ID_FQDN, b"gw1.example.org")
KIND = "ecdsa-p256"


@dataclass(frozen=True)
class Lab:
    """A root, an authority below it, and gw1's certificate."""

    root: Authority
    branch: Authority
    gw1: Issued


def authority(name, issuer=None, *, kind=KIND, validity=YEAR, key=None, **options):
    rng = Random(f"authority {name}")
    key = key if key is not None else make_key(kind, rng)
    return make_authority(name, key, validity, rng=rng, issuer=issuer, **options)


def end(issuer, name="gw1", *, identities=(GW1,), kind=KIND, validity=YEAR, key=None, **says):
    rng = Random(f"end {name}")
    key = key if key is not None else make_key(kind, rng)
    return issue(issuer, Subject(name, identities, **says), key, validity, rng=rng)


@pytest.fixture(scope="module")
def lab():
    root = authority("root")
    branch = authority("branch", root)
    return Lab(root, branch, end(branch))


def shown(*certificates, **more):
    return Presented(tuple(read_certificate(item) for item in certificates), **more)


def judged(demand, what, identity=GW1, now=NOW):
    return trusted_key(demand, what, identity, now)


def refused(demand, what, why, identity=GW1, now=NOW):
    with pytest.raises(AuthenticationFailed, match=why):
        trusted_key(demand, what, identity, now)


UNUSED = ("rsa-1024", "rsa-4096")
"""Too weak; too slow to make."""


def demand_of(*authorities, **more):
    return CertificateDemand(tuple(item.certificate for item in authorities), **more)


@pytest.mark.parametrize("kind", [kind for kind in KEY_KINDS if kind not in UNUSED])
def test_chain_of_each_kind_of_key_is_trusted(kind):
    if kind == "rsa-3072":
        keys = [rsa.generate_private_key(65537, 3072) for _ in range(2)]
        root = authority("root", key=keys[0])
        gw1 = end(root, key=keys[1])
    else:
        root = authority("root", kind=kind)
        gw1 = end(authority("branch", root, kind=kind), kind=kind)
    assert judged(demand_of(root), shown(*gw1.chain)) == gw1.private.public_key()


@pytest.mark.rfc("7296", "3.6", "MUST", "first-certificate")
@pytest.mark.rfc("7296", "1.2", "MUST", "first-certificate")
def test_key_is_that_of_the_first_certificate(lab):
    key = judged(demand_of(lab.root), shown(*lab.gw1.chain))
    assert key == lab.gw1.private.public_key()


def test_intermediate_may_be_known_beforehand_or_trusted_by_itself(lab):
    alone = shown(lab.gw1.certificate)
    known = demand_of(lab.root, intermediates=(lab.branch.certificate,))
    assert judged(known, alone)
    assert judged(demand_of(lab.branch), alone)
    refused(demand_of(lab.root), alone, "issuer CN=branch,O=ipseclab is not a trusted authority")


def test_peers_own_certificate_may_be_trusted_by_itself(lab):
    demand = CertificateDemand((lab.gw1.certificate,))
    assert judged(demand, shown(lab.gw1.certificate)) == lab.gw1.private.public_key()


def test_expired_and_not_yet_valid(lab):
    demand, what = demand_of(lab.root), shown(*lab.gw1.chain)
    refused(demand, what, "gw1.* expired at 2027-01-01 00:00:00", now=NOW + timedelta(days=366))
    refused(demand, what, "not valid before 2025-12-31 23", now=NOW - timedelta(days=1))


def test_expired_authority_in_the_middle_and_at_the_top():
    short = Validity.of_days(NOW, 1)
    later = NOW + timedelta(days=2)
    root = authority("root")
    branch = authority("branch", root, validity=short)
    refused(demand_of(root), shown(*end(branch).chain), "branch.* expired", now=later)
    root = authority("root", validity=short)
    refused(demand_of(root), shown(*end(root).chain), "root.* expired", now=later)


def test_wrong_name(lab):
    what, demand = shown(*lab.gw1.chain), demand_of(lab.root)
    other = Identity(IdType.ID_FQDN, b"gw2.example.org")
    refused(demand, what, "not for ID_FQDN gw2.* names: gw1.example.org", identity=other)
    for identity in (
        Identity(IdType.ID_RFC822_ADDR, b"gw1@example.org"),
        Identity(IdType.ID_KEY_ID, b"gw1.example.org"),
        Identity(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
        Identity(IdType.ID_DER_ASN1_DN, b"0\0"),
    ):
        refused(demand, what, f"not for {identity.id_type.name}", identity=identity)


@pytest.mark.parametrize(
    "identity",
    [
        Identity(IdType.ID_FQDN, b"GW1.Example.ORG"),
        Identity(IdType.ID_RFC822_ADDR, b"gw1@example.org"),
        Identity(IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 1])),
        Identity(IdType.ID_IPV6_ADDR, bytes.fromhex("20010db8") + bytes(12)),
    ],
)
def test_each_kind_of_alternative_name(lab, identity):
    gw1 = end(lab.root, identities=(GW1, identity))
    assert judged(demand_of(lab.root), shown(*gw1.chain), identity=identity)


def test_local_part_of_a_mail_address_has_its_case_and_its_domain_has_none(lab):
    gw1 = end(lab.root, identities=(Identity(IdType.ID_RFC822_ADDR, b"gw1@example.org"),))
    demand, what = demand_of(lab.root), shown(*gw1.chain)
    assert judged(demand, what, Identity(IdType.ID_RFC822_ADDR, b"gw1@EXAMPLE.org"))
    refused(demand, what, "is not for", Identity(IdType.ID_RFC822_ADDR, b"GW1@example.org"))


def test_distinguished_name_is_the_subject(lab):
    identity = Identity(IdType.ID_DER_ASN1_DN, lab.gw1.certificate.subject.public_bytes())
    assert judged(demand_of(lab.root), shown(*lab.gw1.chain), identity=identity)


def test_wildcards_match_nothing_but_themselves(lab):
    """RFC 4945 section 3.1.2: an identity is one host."""
    gw1 = end(lab.root, identities=(Identity(IdType.ID_FQDN, b"*.example.org"),))
    refused(demand_of(lab.root), shown(*gw1.chain), "is not for")


def test_wrong_issuer_and_issuer_of_the_same_name(lab):
    other = authority("other")
    refused(demand_of(other), shown(*lab.gw1.chain), "issuer CN=root.* is not a trusted authority")
    twin = authority("root", key=ec.derive_private_key(99, ec.SECP256R1()))
    refused(demand_of(twin), shown(*lab.gw1.chain), "branch.* is not signed by CN=root")


def test_self_signed_stranger(lab):
    rng = Random(1)
    stranger = authority("stranger")
    refused(demand_of(lab.root), shown(*end(stranger).chain, stranger.certificate), "issued itself")
    key = make_key(KIND, rng)
    twin = Authority(key, end(lab.root, "gw1", key=key).certificate)
    own = end(twin, "gw1", key=key)
    assert own.certificate.issuer == own.certificate.subject
    refused(demand_of(lab.root), shown(own.certificate), "not a trusted authority")


def test_end_certificate_is_no_authority(lab):
    below = end(Authority(lab.gw1.private, lab.gw1.certificate, lab.branch), "gw2")
    refused(demand_of(lab.root), shown(*below.chain), "gw1.* but is no authority")


def test_authority_is_no_peer(lab):
    refused(demand_of(lab.root), shown(lab.branch.certificate), "is an authority's")


def test_wrong_usage(lab):
    demand = demand_of(lab.root)
    cannot_sign = end(lab.root, digital_signature=False)
    refused(demand, shown(*cannot_sign.chain), "key usage without digitalSignature")
    code_signing = end(lab.root, extended_usage=("1.3.6.1.5.5.7.3.3",))
    refused(demand, shown(*code_signing.chain), "extended key usage 1.3.6.1.5.5.7.3.3")


@pytest.mark.parametrize(
    "usage",
    [None, ("2.5.29.37.0",), ("1.3.6.1.5.5.7.3.1",), ("1.3.6.1.5.5.7.3.3", "1.3.6.1.5.5.7.3.17")],
)
def test_usages_that_allow_ike(lab, usage):
    gw1 = end(lab.root, extended_usage=usage)
    assert judged(demand_of(lab.root), shown(*gw1.chain))


def test_weak_keys_of_peer_and_authority(lab):
    small = rsa.generate_private_key(65537, 1024)
    refused(demand_of(lab.root), shown(*end(lab.root, key=small).chain), "gw1.*1024 bits")
    root = authority("root", key=small)
    refused(demand_of(root), shown(*end(root).chain), "root.*1024 bits")


def test_weak_hash():
    """No library signs a certificate with SHA-1 any more: only what is said of it is looked at."""
    root = authority("root")
    gw1 = end(root)
    old = replace(read_certificate(gw1.certificate), weak_hash="sha1")
    refused(demand_of(root), Presented((old,)), "signed with sha1")


@pytest.mark.rfc("7296", "3.6", "MUST", "four-certificates")
def test_chain_too_long():
    issuers = [authority("root")]
    for number in range(5):
        issuers.append(authority(f"ca{number}", issuers[-1]))
    demand = demand_of(issuers[0])
    assert judged(demand, shown(*end(issuers[3]).chain))
    refused(demand, shown(*end(issuers[4]).chain), "chain too long: more than 4 certificates")
    refused(
        replace(demand, max_chain=2), shown(*end(issuers[3]).chain), "too long: more than 2 cert"
    )


def test_path_length_of_an_authority_is_kept():
    root = authority("root", path_length=0)
    below = authority("below", root)
    refused(demand_of(root), shown(*end(below).chain), "chain too long: 1 authorities below")
    assert judged(demand_of(root), shown(*end(root).chain))


def test_loop_of_two_authorities(lab):
    one, two = authority("one", lab.root), authority("two", lab.root)
    key_one, key_two = one.private, two.private
    one = authority("one", two, key=key_one)
    two = authority("two", one, key=key_two)
    gw1 = end(one)
    chain = (gw1.certificate, one.certificate, two.certificate)
    refused(demand_of(lab.root), shown(*chain), "loop: CN=two.* is issued by CN=one")


def test_hostile_chain_costs_a_bounded_number_of_signatures(lab):
    """Many certificates of one name, each the issuer of each other: 11! ways without a limit."""
    key = make_key(KIND, Random(5))
    self_issued = authority("many", key=key)
    many = [make_authority("many", key, YEAR, rng=Random(n), issuer=self_issued) for n in range(11)]
    gw1 = end(self_issued)
    chain = (gw1.certificate, *(item.certificate for item in many))
    demand = replace(demand_of(lab.root), max_chain=100)
    refused(demand, shown(*chain), f"more than {MAX_SIGNATURE_CHECKS} signatures")


def test_unknown_critical_extension(lab):
    gw1 = end(lab.root)
    odd = replace(read_certificate(gw1.certificate), unprocessed=("1.2.3.4",))
    refused(demand_of(lab.root), Presented((odd,)), "critical extension 1.2.3.4")


def test_name_constraints_are_kept_by_the_library_and_refused_where_it_cannot():
    for kind, why in ((KIND, "certificate of CN=gw1"), ("ed25519", "name constraints on a path")):
        key = make_key(kind, Random(3))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "constrained")])
        allowed = x509.NameConstraints([x509.DNSName("example.com")], None)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(YEAR.begin)
            .not_valid_after(YEAR.end)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(allowed, critical=True)
        )
        certificate = builder.sign(key, hashes.SHA256() if kind == KIND else None)
        root = Authority(key, certificate)
        refused(demand_of(root), shown(*end(root, kind=kind).chain), why)


# Revocation.


def test_revoked_by_crl(lab):
    crl = make_crl(lab.branch, [lab.gw1.certificate], NOW, Validity.of_days(NOW, 30))
    what = shown(*lab.gw1.chain)
    refused(replace(demand_of(lab.root), crls=(crl,)), what, "gw1.* was revoked at 2026-01-01")
    refused(demand_of(lab.root), replace(what, crls=(crl,)), "revoked")


def test_revoked_intermediate(lab):
    crl = make_crl(lab.root, [lab.branch.certificate], NOW, Validity.of_days(NOW, 30))
    demand = replace(demand_of(lab.root), crls=(crl,))
    refused(demand, shown(*lab.gw1.chain), "CN=branch.* was revoked")


def test_crl_of_another_key_says_nothing(lab):
    twin = replace(lab.branch, private=make_key(KIND, Random(77)))
    crl = make_crl(twin, [lab.gw1.certificate], NOW, Validity.of_days(NOW, 30))
    assert judged(replace(demand_of(lab.root), crls=(crl,)), shown(*lab.gw1.chain))


def test_revocation_required_wants_a_current_word_on_each_certificate(lab):
    month = Validity.of_days(NOW, 30)
    lists = tuple(make_crl(issuer, [], NOW, month) for issuer in (lab.root, lab.branch))
    demand = replace(demand_of(lab.root), revocation_required=True)
    what = shown(*lab.gw1.chain)
    assert judged(replace(demand, crls=lists), what)
    refused(demand, what, "no current CRL or OCSP response of CN=branch")
    refused(replace(demand, crls=lists[1:]), what, "branch.*no current CRL.* of CN=root")
    later = NOW + timedelta(days=31)
    refused(replace(demand, crls=lists), what, "no current CRL", now=later)


def test_crl_out_of_date_still_revokes(lab):
    crl = make_crl(lab.branch, [lab.gw1.certificate], NOW, Validity.of_days(NOW, 1))
    demand = replace(demand_of(lab.root), crls=(crl,))
    refused(demand, shown(*lab.gw1.chain), "revoked", now=NOW + timedelta(days=9))


@pytest.mark.parametrize("kind", ["ecdsa-p384", "ed25519", "rsa-2048"])
def test_ocsp_says_good_or_revoked(kind):
    root = authority("root", kind=kind)
    gw1 = end(root)
    day = Validity.of_days(NOW, 1)
    demand = replace(demand_of(root), revocation_required=True)
    good, bad = make_ocsp(gw1, day), make_ocsp(gw1, day, revoked=NOW)
    assert judged(demand, shown(*gw1.chain, ocsp=(good,)))
    refused(demand, shown(*gw1.chain, ocsp=(bad,)), "was revoked at .*, says OCSP")
    stale = NOW + timedelta(days=2)
    refused(demand, shown(*gw1.chain, ocsp=(good,)), "no current", now=stale)


def test_ocsp_of_another_certificate_or_responder_says_nothing(lab):
    demand = replace(demand_of(lab.root), revocation_required=True)
    gw1, gw2 = end(lab.root), end(lab.root, "gw2")
    day = Validity.of_days(NOW, 1)
    refused(demand, shown(*gw1.chain, ocsp=(make_ocsp(gw2, day),)), "no current")
    octets = bytearray(make_ocsp(gw1, day).public_bytes(Encoding.DER))
    assert judged(demand, shown(*gw1.chain, ocsp=(read_ocsp(bytes(octets)),)))
    octets[-1] ^= 1  # the signature
    forged = read_ocsp(bytes(octets))
    refused(demand, shown(*gw1.chain, ocsp=(forged,)), "no current")


# What comes in.


@pytest.mark.rfc("7296", "3.6", "SHOULD NOT", "other-urls")
def test_no_certificate_and_certificate_by_url(lab):
    demand = demand_of(lab.root)
    refused(demand, Presented(), "no CERT payload with a certificate")
    url = CertPayload(CertEncoding.HASH_AND_URL_X509, bytes(20) + b"http://example.org/gw1")
    refused(demand, presented([url]), "hash and URL")


def test_too_many_payloads(lab):
    octets = der(lab.gw1.chain)[0]
    many = [CertPayload(CertEncoding.X509_SIGNATURE, octets)] * (MAX_CERT_PAYLOADS + 1)
    with pytest.raises(AuthenticationFailed, match="13 CERT payloads, at most 12"):
        presented(many)


def test_raw_key_is_the_pinned_one_or_refused(lab):
    info = public_key_info(lab.gw1.private.public_key())
    other = public_key_info(lab.root.private.public_key())
    shown_key = presented([CertPayload(CertEncoding.RAW_PUBLIC_KEY, info)])
    assert pinned_key(RawKeyDemand((other, info)), shown_key) == lab.gw1.private.public_key()
    with pytest.raises(AuthenticationFailed, match="not the one expected"):
        pinned_key(RawKeyDemand((other,)), shown_key)
    with pytest.raises(AuthenticationFailed, match="no CERT payload with a raw public key"):
        pinned_key(RawKeyDemand((info, other)), Presented())
    assert pinned_key(RawKeyDemand((info,)), Presented()) == lab.gw1.private.public_key()
    small = public_key_info(rsa.generate_private_key(65537, 1024).public_key())
    with pytest.raises(AuthenticationFailed, match="1024 bits"):
        pinned_key(RawKeyDemand((small,)), Presented(raw_keys=(small,)))


@pytest.fixture(scope="module")
def everything(lab):
    """CERT payloads of each kind about gw1."""
    crl = make_crl(lab.branch, [], NOW, YEAR).public_bytes(Encoding.DER)
    response = make_ocsp(lab.gw1, YEAR).public_bytes(Encoding.DER)
    payloads = [CertPayload(CertEncoding.X509_SIGNATURE, item) for item in der(lab.gw1.chain)]
    payloads.append(CertPayload(CertEncoding.CRL, crl))
    payloads.append(CertPayload(CertEncoding.OCSP_CONTENT, response))
    assert judged(demand_of(lab.root), presented(payloads))
    return payloads


@settings(max_examples=150, deadline=None)
@given(which=st.integers(0, 3), where=st.floats(0.0, 1.0), flip=st.integers(1, 255), cut=...)
def test_broken_certificates_lists_and_responses_are_refused_or_read(
    lab, everything, which: int, where: float, flip: int, cut: bool
):
    """Any octet changed, or the end cut off: AuthenticationFailed and nothing else."""
    payloads = list(everything)
    octets = bytearray(payloads[which].data)
    at = int(where * (len(octets) - 1))
    octets[at] ^= flip
    payloads[which] = replace(payloads[which], data=bytes(octets[:at] if cut else octets))
    with suppress(AuthenticationFailed):
        trusted_key(demand_of(lab.root), presented(payloads), GW1, NOW)
