"""A peer's certificate, CRL or OCSP response: from DER to values, all read at once.

The library reads extensions when asked, and a hostile certificate may fail anywhere then; here is
the one place where that is met (RFC 5280 section 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtensionOID

from ipseclab.crypto.signature import PUBLIC_KEYS, PublicKey
from ipseclab.errors import AuthenticationFailed

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises for octets that it cannot read."""

_PROCESSED = (
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.NAME_CONSTRAINTS,
)
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class ReadCertificate:
    """A certificate and what path validation wants to know of it."""

    certificate: x509.Certificate
    subject: bytes
    """The name's DER, as `issuer`."""
    issuer: bytes
    key: PublicKey
    authority: bool
    """basicConstraints says that it is a CA's."""
    path_length: int | None
    """basicConstraints: how many CAs may follow below it."""
    usage: x509.KeyUsage | None
    extended_usage: tuple[str, ...] | None
    """Object identifiers, dotted."""
    names: tuple[x509.GeneralName, ...]
    key_id: bytes | None
    issuer_key_id: bytes | None
    name_constraints: bool
    unprocessed: tuple[str, ...]
    """Critical extensions that nobody here understands."""
    weak_hash: str
    """The hash of its signature, where that is not good enough."""

    def __str__(self) -> str:
        return self.certificate.subject.rfc4514_string() or "(no subject)"

    @property
    def self_issued(self) -> bool:
        """True when subject and issuer are one."""
        return self.subject == self.issuer


def read_certificate(source: bytes | x509.Certificate) -> ReadCertificate:
    """A certificate. Raises AuthenticationFailed for what cannot be read."""
    try:
        if isinstance(source, bytes):
            source = x509.load_der_x509_certificate(source)
        return _read(source)
    except UNREADABLE as error:
        raise AuthenticationFailed(f"unreadable certificate: {one_line(error)}") from error


def read_crl(octets: bytes) -> x509.CertificateRevocationList:
    """A CRL. Raises AuthenticationFailed."""
    try:
        return x509.load_der_x509_crl(octets)
    except UNREADABLE as error:
        raise AuthenticationFailed(f"unreadable CRL: {one_line(error)}") from error


def read_ocsp(octets: bytes) -> ocsp.OCSPResponse:
    """An OCSP response. Raises AuthenticationFailed."""
    try:
        return ocsp.load_der_ocsp_response(octets)
    except UNREADABLE as error:
        raise AuthenticationFailed(f"unreadable OCSP response: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error of the library says, short enough for a log."""
    return " ".join(str(error).split())[:120]


def _read(certificate: x509.Certificate) -> ReadCertificate:
    key = certificate.public_key()
    if not isinstance(key, PUBLIC_KEYS):
        raise UnsupportedAlgorithm(f"public key of kind {type(key).__name__}")
    basic = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    names = _extension(certificate, x509.SubjectAlternativeName)
    key_id = _extension(certificate, x509.SubjectKeyIdentifier)
    issuer_key_id = _extension(certificate, x509.AuthorityKeyIdentifier)
    hash_used = certificate.signature_hash_algorithm
    weak = hash_used is not None and not isinstance(hash_used, _HASHES)
    return ReadCertificate(
        certificate=certificate,
        subject=certificate.subject.public_bytes(),
        issuer=certificate.issuer.public_bytes(),
        key=key,
        authority=basic is not None and basic.ca,
        path_length=basic.path_length if basic is not None else None,
        usage=usage,
        extended_usage=tuple(o.dotted_string for o in extended) if extended is not None else None,
        names=tuple(names) if names is not None else (),
        key_id=key_id.digest if key_id is not None else None,
        issuer_key_id=issuer_key_id.key_identifier if issuer_key_id is not None else None,
        name_constraints=_extension(certificate, x509.NameConstraints) is not None,
        unprocessed=tuple(
            extension.oid.dotted_string
            for extension in certificate.extensions
            if extension.critical and extension.oid not in _PROCESSED
        ),
        weak_hash=hash_used.name if hash_used is not None and weak else "",
    )


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
