"""Keys that sign: what an end holds to prove who it is, and what it demands of its peer.

Certificates (RFC 4945) and raw public keys (RFC 7670) as frozen values; `ike.proof` makes and
checks AUTH with them, `ike.trust` judges certificates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509

from ipseclab.crypto.signature import PrivateKey

if TYPE_CHECKING:
    from ipseclab.ike.config import Identity

LAB_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""The wall clock when a simulation's clock shows 0."""

MAX_CHAIN = 4
"""Certificates from a peer's own up to the trusted authority, which is not counted."""


@dataclass(frozen=True, slots=True)
class CertificateAuth:
    """A private key with its certificate, then that one's issuer and so on, without the root."""

    private: PrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]
    schemes: tuple[str, ...] = ()
    """Names of `crypto.signature.SCHEMES`, the best first; empty: those that fit the key."""
    ocsp: tuple[bytes, ...] = ()
    """OCSP responses about the chain, DER, for a peer that asks (RFC 4806)."""
    crls: tuple[bytes, ...] = ()
    """CRLs to send along, DER."""
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


@dataclass(frozen=True, slots=True)
class RawKeyAuth:
    """A private key whose public half the peer knows already (RFC 7670)."""

    private: PrivateKey = field(repr=False)
    schemes: tuple[str, ...] = ()
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


@dataclass(frozen=True, slots=True)
class CertificateDemand:
    """A certificate of one of those authorities is demanded, with the peer's identity in it."""

    authorities: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()
    """Certificates of authorities that are known but not trusted by themselves."""
    crls: tuple[x509.CertificateRevocationList, ...] = ()
    revocation_required: bool = False
    """Refuse a certificate of which no current CRL or OCSP response says that it is good."""
    ask_ocsp: bool = False
    """Ask for OCSP responses in-band (RFC 4806)."""
    max_chain: int = MAX_CHAIN
    sha1: bool = False
    """Take RSA signatures with SHA-1, which AUTH method 1 of old peers has."""
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


@dataclass(frozen=True, slots=True)
class RawKeyDemand:
    """One of those public keys is demanded: SubjectPublicKeyInfo, DER (RFC 7670)."""

    keys: tuple[bytes, ...]
    sha1: bool = False
    """As in `CertificateDemand`."""
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


SigningAuth = CertificateAuth | RawKeyAuth
"""How this end signs in a round of IKE_AUTH."""
SigningDemand = CertificateDemand | RawKeyDemand
"""What the peer must sign with in a round of IKE_AUTH."""
