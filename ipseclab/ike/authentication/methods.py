"""AUTH payloads made and verified, one function of each kind for all methods.

RFC 7296 section 2.15 (pre-shared key) and 2.16 (a key that an EAP method made), RFC 7427
(signatures, which `ike.proof` makes and checks), RFC 7619 (NULL).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from ipseclab.crypto.signature import decode_hashes
from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.authentication.octets import auth_octets, sk_p_of
from ipseclab.ike.certificates import build_certs, presented
from ipseclab.ike.config import (
    DirectAuth,
    DirectDemand,
    Identity,
    NullAuth,
    ResumedAuth,
    SharedKeyAuth,
)
from ipseclab.ike.credentials import CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand
from ipseclab.ike.keys import IkeKeys, psk_auth
from ipseclab.ike.proof import Claim, sign, verify_signed
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import AuthMethod, NotifyType
from ipseclab.wire.payloads import AuthPayload, CertPayload


@dataclass(frozen=True, slots=True)
class PeerProof:
    """What a peer says and shows in a round; `id_body` is its ID payload's body as received."""

    identity: Identity
    id_body: bytes
    auth: AuthPayload
    certificates: tuple[CertPayload, ...]
    now: datetime
    """The time of day."""


def build_certificates(sa: IkeSa, how: DirectAuth) -> tuple[CertPayload, ...]:
    """The CERT payloads of a round: none without a certificate or raw key."""
    return build_certs(how, sa.peer_certreqs)


def prove(sa: IkeSa, how: DirectAuth, id_body: bytes, keys: IkeKeys) -> AuthPayload:
    """This end's AUTH over its own ID payload's body. Raises AuthenticationFailed when the peer
    could not verify any."""
    octets = auth_octets(sa, keys, id_body, by_initiator=sa.initiator)
    match how:
        case SharedKeyAuth(key):
            return AuthPayload(AuthMethod.SHARED_KEY, _shared(sa, key, octets))
        case NullAuth():
            key = sk_p_of(keys, by_initiator=sa.initiator)
            return AuthPayload(AuthMethod.NULL, _shared(sa, key, octets))
        case ResumedAuth():
            return AuthPayload(AuthMethod.SHARED_KEY, _resumed(sa, keys, octets, own=True))
        case CertificateAuth() | RawKeyAuth():
            said = sa.peer_offers.get(NotifyType.SIGNATURE_HASH_ALGORITHMS, b"")
            return sign(how, octets, decode_hashes(said))
        case _:
            assert_never(how)


def verify(sa: IkeSa, how: DirectDemand, proof: PeerProof, keys: IkeKeys) -> None:
    """Check the peer's AUTH. Raises AuthenticationFailed, which says what is wrong."""
    octets = auth_octets(sa, keys, proof.id_body, by_initiator=not sa.initiator)
    match how:
        case SharedKeyAuth(key):
            _expect(proof.auth, AuthMethod.SHARED_KEY)
            _compare(_shared(sa, key, octets), proof.auth, "the pre-shared keys differ")
        case NullAuth():
            _expect(proof.auth, AuthMethod.NULL)
            key = sk_p_of(keys, by_initiator=not sa.initiator)
            _compare(_shared(sa, key, octets), proof.auth, "messages were changed")
        case ResumedAuth():
            _expect(proof.auth, AuthMethod.SHARED_KEY)
            expected = _resumed(sa, keys, octets, own=False)
            _compare(expected, proof.auth, "the peer does not have the keys of the ticket")
        case CertificateDemand() | RawKeyDemand():
            shown = presented(proof.certificates)
            claim = Claim(proof.identity, shown, proof.now)
            verify_signed(how, proof.auth, octets, claim)
        case _:
            assert_never(how)


def prove_by_key(sa: IkeSa, key: bytes, id_body: bytes, keys: IkeKeys) -> AuthPayload:
    """This end's AUTH with the key of an EAP method; SK_p where it made none (section 2.16)."""
    octets = auth_octets(sa, keys, id_body, by_initiator=sa.initiator)
    used = key if key else sk_p_of(keys, by_initiator=sa.initiator)
    return AuthPayload(AuthMethod.SHARED_KEY, _shared(sa, used, octets))


def verify_by_key(sa: IkeSa, key: bytes, auth: AuthPayload, id_body: bytes, keys: IkeKeys) -> None:
    """Check the peer's AUTH with the key of an EAP method. Raises AuthenticationFailed."""
    _expect(auth, AuthMethod.SHARED_KEY)
    octets = auth_octets(sa, keys, id_body, by_initiator=not sa.initiator)
    used = key if key else sk_p_of(keys, by_initiator=not sa.initiator)
    _compare(_shared(sa, used, octets), auth, "the EAP method's keys differ")


def _shared(sa: IkeSa, key: bytes, octets: bytes) -> bytes:
    assert sa.prf is not None
    return psk_auth(sa.prf, key, octets)


def _resumed(sa: IkeSa, keys: IkeKeys, octets: bytes, *, own: bool) -> bytes:
    """AUTH = prf(SK_px, <message octets>), the octets as with a pre-shared key (RFC 5723 section
    5.1)."""
    assert sa.prf is not None
    return sa.prf.prf(sk_p_of(keys, by_initiator=sa.initiator is own), octets)


def _expect(auth: AuthPayload, method: AuthMethod) -> None:
    if auth.method != method:
        raise AuthenticationFailed(f"AUTH method {auth.method.name}, expected {method.name}")


def _compare(expected: bytes, auth: AuthPayload, otherwise: str) -> None:
    if not hmac.compare_digest(expected, auth.data):
        raise AuthenticationFailed(f"AUTH does not verify: {otherwise}")
