"""AUTH by signature: made with what this end holds, checked against what it demands of the peer.

RFC 7427 (digital signatures), RFC 7296 section 3.8 (the older methods). The octets that are signed,
and the rounds, are the exchange's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from ipseclab.crypto.signature import (
    OLD_METHODS,
    PublicKey,
    choose_scheme,
    decode_digital_signature,
    encode_digital_signature,
    old_method,
)
from ipseclab.errors import AuthenticationFailed, SignatureFailure
from ipseclab.ike.certificates import Presented
from ipseclab.ike.config import Identity
from ipseclab.ike.credentials import (
    CertificateDemand,
    RawKeyDemand,
    SigningAuth,
    SigningDemand,
)
from ipseclab.ike.trust import pinned_key, trusted_key
from ipseclab.registry import AuthMethod, HashAlgorithmId
from ipseclab.wire.payloads import AuthPayload


@dataclass(frozen=True, slots=True)
class Claim:
    """Who the peer says that it is, what it presents for that, and the time of day."""

    identity: Identity
    presented: Presented
    now: datetime


def sign(auth: SigningAuth, octets: bytes, peer_hashes: Sequence[HashAlgorithmId]) -> AuthPayload:
    """Our AUTH payload for a peer that announced those hash algorithms; none: it does not know RFC
    7427. Raises AuthenticationFailed when there is no way of signing that it could verify."""
    public = auth.private.public_key()
    try:
        if not peer_hashes:
            method, old = old_method(public)
            return AuthPayload(method, old.sign(auth.private, octets))
        scheme = choose_scheme(public, peer_hashes, auth.schemes)
        data = encode_digital_signature(scheme, scheme.sign(auth.private, octets))
    except SignatureFailure as error:
        raise AuthenticationFailed(f"own AUTH: {error}") from error
    return AuthPayload(AuthMethod.DIGITAL_SIGNATURE, data)


def verify_signed(demand: SigningDemand, auth: AuthPayload, octets: bytes, claim: Claim) -> None:
    """Check the key that the peer presents, then its AUTH. Raises AuthenticationFailed, which says
    what is wrong."""
    if auth.method != AuthMethod.DIGITAL_SIGNATURE and auth.method not in OLD_METHODS:
        raise AuthenticationFailed(f"AUTH method {auth.method.name}, expected a signature")
    match demand:
        case CertificateDemand():
            key = trusted_key(demand, claim.presented, claim.identity, claim.now)
        case RawKeyDemand():
            key = pinned_key(demand, claim.presented)
        case _:
            assert_never(demand)
    try:
        if auth.method == AuthMethod.DIGITAL_SIGNATURE:
            scheme, signature = decode_digital_signature(auth.data)
            scheme.verify(key, signature, octets)
        else:
            _verify_old(key, auth, octets, sha1=demand.sha1)
    except SignatureFailure as error:
        raise AuthenticationFailed(f"AUTH: {error}") from error


def _verify_old(key: PublicKey, auth: AuthPayload, octets: bytes, *, sha1: bool) -> None:
    """A method that names its scheme, or one of a few. Raises SignatureFailure."""
    failure = SignatureFailure(f"{auth.method.name} does not verify")
    for scheme in OLD_METHODS[auth.method]:
        try:
            scheme.verify(key, auth.data, octets)
        except SignatureFailure as error:
            failure = error
            continue
        if scheme.hash_id == HashAlgorithmId.SHA1 and not sha1:
            raise SignatureFailure("signed with SHA-1, which this connection does not allow")
        return
    raise failure
