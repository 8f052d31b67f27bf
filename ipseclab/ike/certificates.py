"""CERT and CERTREQ payloads: what to ask for, what to send, what the peer sent.

RFC 7296 sections 3.6 and 3.7, RFC 7670 (raw public keys), RFC 4806 (OCSP). Certificates by hash and
URL are never fetched: HTTP_CERT_LOOKUP_SUPPORTED is never sent, and who uses them is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ipseclab.crypto.signature import public_key_info
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.credentials import (
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.ike.x509_read import ReadCertificate, read_certificate, read_crl, read_ocsp
from ipseclab.registry import CertEncoding
from ipseclab.wire.payloads import CertPayload, CertreqPayload

HASH_SIZE = 20
"""RFC 7296 section 3.7: SHA-1 of a CA's SubjectPublicKeyInfo."""

MAX_CERT_PAYLOADS = 12
"""CERT payloads of a peer, of all kinds."""
MAX_CERTREQ_PAYLOADS = 8
MAX_AUTHORITIES = 100
"""Hashes that one CERTREQ of ours lists."""
_URLS = (CertEncoding.HASH_AND_URL_X509, CertEncoding.HASH_AND_URL_X509_BUNDLE)


@dataclass(frozen=True, slots=True)
class Presented:
    """What a peer's CERT payloads hold; the first certificate is its own."""

    certificates: tuple[ReadCertificate, ...] = ()
    raw_keys: tuple[bytes, ...] = ()
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    ocsp: tuple[ocsp.OCSPResponse, ...] = ()
    by_url: bool = False
    """It sent a certificate's hash and URL."""


def presented(payloads: Iterable[CertPayload]) -> Presented:
    """What the peer's CERT payloads say; encodings that we do not know are passed over. Raises
    AuthenticationFailed for too many, or what cannot be read."""
    found = tuple(payloads)
    if len(found) > MAX_CERT_PAYLOADS:
        raise AuthenticationFailed(f"{len(found)} CERT payloads, at most {MAX_CERT_PAYLOADS}")

    def of(encoding: CertEncoding) -> list[bytes]:
        return [payload.data for payload in found if payload.encoding == encoding]

    return Presented(
        tuple(read_certificate(octets) for octets in of(CertEncoding.X509_SIGNATURE)),
        tuple(of(CertEncoding.RAW_PUBLIC_KEY)),
        tuple(read_crl(octets) for octets in of(CertEncoding.CRL)),
        tuple(read_ocsp(octets) for octets in of(CertEncoding.OCSP_CONTENT)),
        any(payload.encoding in _URLS for payload in found),
    )


def authority_hash(certificate: x509.Certificate) -> bytes:
    """How CERTREQ names a CA."""
    key = read_certificate(certificate).key
    return hashlib.sha1(public_key_info(key), usedforsecurity=False).digest()


def build_certreqs(demands: Sequence[object]) -> tuple[CertreqPayload, ...]:
    """What to ask a peer for that may mean any connection with those demands."""
    trusts = [demand for demand in demands if isinstance(demand, CertificateDemand)]
    hashes = dict.fromkeys(authority_hash(ca) for trust in trusts for ca in trust.authorities)
    requests = []
    if hashes:
        listed = b"".join(list(hashes)[:MAX_AUTHORITIES])
        requests.append(CertreqPayload(CertEncoding.X509_SIGNATURE, listed))
    if any(trust.ask_ocsp for trust in trusts):
        # RFC 4806 section 3.1: an empty list takes every responder that the CA takes.
        requests.append(CertreqPayload(CertEncoding.OCSP_CONTENT, b""))
    if any(isinstance(demand, RawKeyDemand) for demand in demands):
        # RFC 7670 section 3: there is no CA to name.
        requests.append(CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b""))
    return tuple(requests)


def build_certs(credential: object, requests: Sequence[CertreqPayload]) -> tuple[CertPayload, ...]:
    """The CERT payloads that go with our AUTH, our own certificate first.

    CERTREQ is a hint (section 3.7): we have one chain, and send of it what leads to an authority
    that the peer names, or all when it names none."""
    if isinstance(credential, RawKeyAuth):
        info = public_key_info(credential.private.public_key())
        return (CertPayload(CertEncoding.RAW_PUBLIC_KEY, info),)
    if not isinstance(credential, CertificateAuth):
        return ()
    chain = _up_to(credential.chain, _named(requests))
    certs = [_cert(CertEncoding.X509_SIGNATURE, item.public_bytes(Encoding.DER)) for item in chain]
    certs += [_cert(CertEncoding.CRL, octets) for octets in credential.crls]
    if any(request.encoding == CertEncoding.OCSP_CONTENT for request in requests):
        certs += [_cert(CertEncoding.OCSP_CONTENT, octets) for octets in credential.ocsp]
    return tuple(certs[:MAX_CERT_PAYLOADS])


def taken_requests(payloads: Iterable[CertreqPayload]) -> tuple[CertreqPayload, ...]:
    """The peer's CERTREQs as far as they are kept: they are not authenticated yet."""
    return tuple(payloads)[:MAX_CERTREQ_PAYLOADS]


def _cert(encoding: CertEncoding, octets: bytes) -> CertPayload:
    return CertPayload(encoding, octets)


def _named(requests: Sequence[CertreqPayload]) -> frozenset[bytes]:
    """The authorities' hashes; an octet too many at the end is passed over."""
    listed = [r.data for r in requests if r.encoding == CertEncoding.X509_SIGNATURE]
    return frozenset(
        data[at : at + HASH_SIZE]
        for data in listed
        for at in range(0, len(data) - HASH_SIZE + 1, HASH_SIZE)
    )


def _up_to(
    chain: Sequence[x509.Certificate], named: frozenset[bytes]
) -> Sequence[x509.Certificate]:
    """The chain without the authorities that the peer has, and what is above them."""
    for index, certificate in enumerate(chain[1:], start=1):
        if authority_hash(certificate) in named:
            return chain[:index]
    return chain
