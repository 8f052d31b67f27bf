"""Whether a certificate on a path was revoked: CRLs (RFC 5280 section 6.3) and OCSP (RFC 6960).

Both are configured or come from the peer (RFC 7296 section 3.6, RFC 4806); nothing is fetched. CRLs
with critical extensions (deltas, parts, indirect ones) are not used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipseclab.crypto.signature import PublicKey, weakness
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.certificates import Presented
from ipseclab.ike.credentials import CertificateDemand
from ipseclab.ike.x509_read import UNREADABLE, ReadCertificate, read_certificate

MAX_OCSP_ANSWERS = 16
"""Single responses looked at in one OCSP response."""
_SHA = (hashes.SHA1, hashes.SHA256, hashes.SHA384, hashes.SHA512)
"""Hashes that may name an issuer; SHA-1 is what RFC 6960 clients commonly use, and nothing depends
on its strength there."""


def check_revocation(
    path: Sequence[ReadCertificate], trust: CertificateDemand, presented: Presented, now: datetime
) -> None:
    """Each certificate below the authority. Raises AuthenticationFailed for one that was revoked,
    or of which nothing is known where that is required."""
    crls = (*trust.crls, *presented.crls)
    for item, issuer in pairwise(path):
        known = [_crl_says_good(item, issuer, crl, now) for crl in crls]
        known += [_ocsp_says_good(item, issuer, response, now) for response in presented.ocsp]
        if trust.revocation_required and not any(known):
            raise AuthenticationFailed(
                f"certificate of {item}: no current CRL or OCSP response of {issuer}"
            )


def _crl_says_good(
    item: ReadCertificate,
    issuer: ReadCertificate,
    crl: x509.CertificateRevocationList,
    now: datetime,
) -> bool:
    """False when this CRL says nothing about it. Raises AuthenticationFailed when it is revoked: a
    CRL that is out of date still shows that much."""
    try:
        if crl.issuer.public_bytes() != item.issuer or not _signed(crl, issuer):
            return False
        if any(extension.critical for extension in crl.extensions):
            return False
        entry = crl.get_revoked_certificate_by_serial_number(item.certificate.serial_number)
        begin, end = crl.last_update_utc, crl.next_update_utc
        revoked = entry.revocation_date_utc if entry is not None else None
    except UNREADABLE:
        return False
    if begin > now:
        return False  # it has not come out yet
    if revoked is not None:
        raise AuthenticationFailed(f"certificate of {item} was revoked at {revoked:%F %T} UTC")
    return end is not None and begin <= now <= end


def _signed(crl: x509.CertificateRevocationList, issuer: ReadCertificate) -> bool:
    if issuer.usage is not None and not issuer.usage.crl_sign:
        return False
    return crl.is_signature_valid(issuer.key)


def _ocsp_says_good(
    item: ReadCertificate, issuer: ReadCertificate, response: ocsp.OCSPResponse, now: datetime
) -> bool:
    """False when this response says nothing about it. Raises AuthenticationFailed when it is
    revoked."""
    try:
        if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
            return False
        answer = _answer_about(item, issuer, response)
        if answer is None or not _authorised(response, issuer, now):
            return False
        begin, end = answer.this_update_utc, answer.next_update_utc
        status, revoked = answer.certificate_status, answer.revocation_time_utc
    except UNREADABLE:
        return False
    if status == ocsp.OCSPCertStatus.REVOKED:
        when = f"{revoked:%F %T} UTC" if revoked is not None else "an unknown time"
        raise AuthenticationFailed(f"certificate of {item} was revoked at {when}, says OCSP")
    current = begin <= now and end is not None and now <= end
    return status == ocsp.OCSPCertStatus.GOOD and current


def _answer_about(
    item: ReadCertificate, issuer: ReadCertificate, response: ocsp.OCSPResponse
) -> ocsp.OCSPSingleResponse | None:
    """The single response that names this certificate (RFC 6960 section 4.1.1, CertID)."""
    for index, answer in enumerate(response.responses):
        if index == MAX_OCSP_ANSWERS:
            return None
        if answer.serial_number != item.certificate.serial_number:
            continue
        algorithm = answer.hash_algorithm
        if not isinstance(algorithm, _SHA):
            continue
        name = hashlib.new(algorithm.name, issuer.subject, usedforsecurity=False).digest()
        key = hashlib.new(algorithm.name, _key_bits(issuer.key), usedforsecurity=False).digest()
        if (answer.issuer_name_hash, answer.issuer_key_hash) == (name, key):
            return answer
    return None


def _key_bits(key: PublicKey) -> bytes:
    """The content of subjectPublicKey, which CertID hashes."""
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _authorised(response: ocsp.OCSPResponse, issuer: ReadCertificate, now: datetime) -> bool:
    """True when the issuer signed the response, or one to whom it gave that right (RFC 6960 section
    4.2.2.2)."""
    if _signature_good(response, issuer.key):
        return True
    return any(
        _may_answer(responder, issuer, now) and _signature_good(response, responder.key)
        for responder in _read(response.certificates[:1])
    )


def _read(certificates: Iterable[x509.Certificate]) -> list[ReadCertificate]:
    try:
        return [read_certificate(item) for item in certificates]
    except AuthenticationFailed:
        return []


def _may_answer(responder: ReadCertificate, issuer: ReadCertificate, now: datetime) -> bool:
    certificate = responder.certificate
    usage = responder.extended_usage or ()
    if ExtendedKeyUsageOID.OCSP_SIGNING.dotted_string not in usage or weakness(responder.key):
        return False
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        return False
    try:
        certificate.verify_directly_issued_by(issuer.certificate)
    except InvalidSignature:
        return False
    return True


def _signature_good(response: ocsp.OCSPResponse, key: PublicKey) -> bool:
    algorithm, octets = response.signature_hash_algorithm, response.tbs_response_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey):
            if not isinstance(algorithm, _SHA[1:]):
                return False
            key.verify(response.signature, octets, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            if not isinstance(algorithm, _SHA[1:]):
                return False
            key.verify(response.signature, octets, ec.ECDSA(algorithm))
        else:
            key.verify(response.signature, octets)
    except InvalidSignature:
        return False
    return True
