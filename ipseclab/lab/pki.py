"""A lab's public-key infrastructure: authorities, certificates, CRLs and OCSP responses (RFC 5280,
RFC 6960), made from a generator and a time of day that are given.

The same generator and time make the same octets, unless an ML-DSA key signs: it hedges with
randomness of the system. Anything that a certificate can have wrong can be asked for, since a lab
has to show how it is refused.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from ipseclab.crypto.keys import KEY_KINDS
from ipseclab.crypto.signature import CURVES, PrivateKey
from ipseclab.ike.config import Identity
from ipseclab.registry import HashAlgorithmId, IdType

IPSEC_IKE = "1.3.6.1.5.5.7.3.17"
"""id-kp-ipsecIKE (RFC 4945 section 5.1.3.12)."""
SERIAL_BITS = 127
"""RFC 5280 section 4.1.2.2: positive, at most 20 octets."""
DAY = timedelta(days=1)
AUTHORITY_DAYS, CERTIFICATE_DAYS, LIST_DAYS = 3650, 365, 30
BACKDATED = timedelta(hours=1)
"""Clocks of peers may be behind."""
ORGANIZATION = "ipseclab"

SigningHash = hashes.SHA256 | hashes.SHA384 | hashes.SHA512
_HASHES: Mapping[HashAlgorithmId, SigningHash] = {
    HashAlgorithmId.SHA2_256: hashes.SHA256(),
    HashAlgorithmId.SHA2_384: hashes.SHA384(),
    HashAlgorithmId.SHA2_512: hashes.SHA512(),
}


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when."""

    begin: datetime
    end: datetime

    @classmethod
    def of_days(cls, now: datetime, days: float) -> Validity:
        """From a little before `now` on."""
        return cls(now - BACKDATED, now + days * DAY)


@dataclass(frozen=True, slots=True)
class Authority:
    """A certification authority; `issuer` None for a root."""

    private: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    issuer: Authority | None = None

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """Its certificate and those above it, without the root."""
        return () if self.issuer is None else (self.certificate, *self.issuer.chain)

    @property
    def root(self) -> x509.Certificate:
        """The certificate at the top."""
        return self.certificate if self.issuer is None else self.issuer.root


@dataclass(frozen=True, slots=True)
class Issued:
    """An end's key with its certificate and who issued it."""

    private: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    issuer: Authority

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What it sends: its certificate and those above, without the root."""
        return (self.certificate, *self.issuer.chain)


@dataclass(frozen=True, slots=True)
class Subject:
    """What an end's certificate says. `extended_usage` None leaves the extension out."""

    name: str
    identities: tuple[Identity, ...] = ()
    digital_signature: bool = True
    extended_usage: tuple[str, ...] | None = (IPSEC_IKE,)


def distinguished_name(common_name: str) -> x509.Name:
    """The subject of everything that this lab issues: O=ipseclab, CN=..."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def make_key(kind: str, rng: random.Random) -> PrivateKey:
    """A key of a kind of `KEY_KINDS`. Raises KeyError."""
    return KEY_KINDS[kind](rng)


def make_authority(
    name: str,
    key: PrivateKey,
    validity: Validity,
    *,
    rng: random.Random,
    issuer: Authority | None = None,
    path_length: int | None = None,
) -> Authority:
    """A root, or an authority below `issuer`."""
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = _builder(distinguished_name(name), key, issuer, validity, rng)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(usage, critical=True)
    signer = issuer.private if issuer is not None else key
    return Authority(key, sign_certificate(builder, signer), issuer)


def issue(
    issuer: Authority,
    subject: Subject,
    key: PrivateKey,
    validity: Validity,
    *,
    rng: random.Random,
) -> Issued:
    """A certificate for an end (RFC 4945 section 5)."""
    builder = _builder(distinguished_name(subject.name), key, issuer, validity, rng)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    ).add_extension(_usage(digital_signature=subject.digital_signature), critical=True)
    names = [general_name(identity) for identity in subject.identities]
    known = [name for name in names if name is not None]
    if known:
        builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
    if subject.extended_usage is not None:
        oids = [x509.ObjectIdentifier(oid) for oid in subject.extended_usage]
        builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
    return Issued(key, sign_certificate(builder, issuer.private), issuer)


def general_name(identity: Identity) -> x509.GeneralName | None:
    """The alternative name that an IKE identity must have (RFC 4945 section 3.1); None for one that
    stands in the subject, or nowhere."""
    match identity.id_type:
        case IdType.ID_FQDN:
            return x509.DNSName(identity.data.decode("ascii"))
        case IdType.ID_RFC822_ADDR:
            return x509.RFC822Name(identity.data.decode("ascii"))
        case IdType.ID_IPV4_ADDR | IdType.ID_IPV6_ADDR:
            return x509.IPAddress(ip_address(identity.data))
        case _:
            return None


def make_crl(
    issuer: Authority, revoked: Sequence[x509.Certificate], now: datetime, validity: Validity
) -> x509.CertificateRevocationList:
    """The list of the issuer's certificates that were revoked, at `now`."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(_naive(validity.begin))
        .next_update(_naive(validity.end))
        .add_extension(x509.CRLNumber(int(now.timestamp())), critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )
    for certificate in revoked:
        entry = (
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(_naive(now))
            .add_extension(x509.CRLReason(x509.ReasonFlags.key_compromise), critical=False)
        )
        builder = builder.add_revoked_certificate(entry.build())
    key = issuer.private
    return builder.sign(key, signing_hash(key), ecdsa_deterministic=_is_ec(key))


def make_ocsp(
    issued: Issued, validity: Validity, *, revoked: datetime | None = None
) -> ocsp.OCSPResponse:
    """What the issuer says of one certificate: good, or revoked since then."""
    issuer = issued.issuer
    reason = x509.ReasonFlags.key_compromise if revoked is not None else None
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=issued.certificate,
            issuer=issuer.certificate,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.REVOKED
            if revoked is not None
            else ocsp.OCSPCertStatus.GOOD,
            this_update=_naive(validity.begin),
            next_update=_naive(validity.end),
            revocation_time=_naive(revoked) if revoked is not None else None,
            revocation_reason=reason,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
    )
    return builder.sign(issuer.private, signing_hash(issuer.private))


def sign_certificate(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    """Deterministic but for ML-DSA."""
    return builder.sign(key, signing_hash(key), ecdsa_deterministic=_is_ec(key))


def signing_hash(key: PrivateKey) -> SigningHash | None:
    """The hash to sign a certificate with: as strong as the key, none where the scheme has one."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _HASHES[CURVES[key.curve.name]]
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None


def der(certificates: Sequence[x509.Certificate]) -> tuple[bytes, ...]:
    """Their octets."""
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _builder(
    subject: x509.Name,
    key: PrivateKey,
    issuer: Authority | None,
    validity: Validity,
    rng: random.Random,
) -> x509.CertificateBuilder:
    public = key.public_key()
    above = issuer.certificate.subject if issuer is not None else subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(public)
        .serial_number(rng.getrandbits(SERIAL_BITS) | 1)
        .not_valid_before(_naive(validity.begin))
        .not_valid_after(_naive(validity.end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if issuer is None:
        return builder
    return builder.add_extension(_authority_key_id(issuer), critical=False)


def _authority_key_id(issuer: Authority) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.private.public_key())


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Without any of the three: keyEncipherment, as usage must assert something."""
    nothing = not (digital_signature or key_cert_sign or crl_sign)
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=nothing,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _is_ec(key: PrivateKey) -> bool | None:
    return True if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _naive(moment: datetime) -> datetime:
    """As the library's builders take it: UTC, whole seconds."""
    return moment.replace(microsecond=0, tzinfo=None)
