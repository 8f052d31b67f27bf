"""AUTH payloads made and verified, one function of each kind for all methods.

RFC 7296 section 2.15 (pre-shared key), RFC 7619 (NULL). A method that takes several messages (EAP)
ends in a shared key, too: `shared_key_auth` serves it.
"""

from __future__ import annotations

import hmac
from typing import assert_never

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.authentication.octets import auth_octets
from ipseclab.ike.config import NullAuth, OwnAuth, PeerAuth, SharedKeyAuth
from ipseclab.ike.keys import psk_auth
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import AuthMethod
from ipseclab.wire.payloads import AuthPayload, Payload


def prove(sa: IkeSa, how: OwnAuth, id_body: bytes) -> tuple[tuple[Payload, ...], AuthPayload]:
    """This end's CERT payloads and its AUTH over its own ID payload's body."""
    octets = auth_octets(sa, id_body, by_initiator=sa.initiator)
    match how:
        case SharedKeyAuth(key):
            return (), AuthPayload(AuthMethod.SHARED_KEY, _shared(sa, key, octets))
        case NullAuth():
            return (), AuthPayload(AuthMethod.NULL, _shared(sa, null_key(sa, own=True), octets))
        case _:
            assert_never(how)


def verify(sa: IkeSa, how: PeerAuth, auth: AuthPayload, id_body: bytes) -> None:
    """Check the peer's AUTH over its ID payload's body as received. Raises AuthenticationFailed."""
    octets = auth_octets(sa, id_body, by_initiator=not sa.initiator)
    match how:
        case SharedKeyAuth(key):
            _expect(auth, AuthMethod.SHARED_KEY)
            _compare(_shared(sa, key, octets), auth, "the pre-shared keys differ")
        case NullAuth():
            _expect(auth, AuthMethod.NULL)
            _compare(_shared(sa, null_key(sa, own=False), octets), auth, "messages were changed")
        case _:
            assert_never(how)


def prove_by_key(sa: IkeSa, key: bytes, id_body: bytes) -> AuthPayload:
    """This end's AUTH with a key that an EAP method made (RFC 7296 section 2.16)."""
    octets = auth_octets(sa, id_body, by_initiator=sa.initiator)
    return AuthPayload(AuthMethod.SHARED_KEY, _shared(sa, key, octets))


def verify_by_key(sa: IkeSa, key: bytes, auth: AuthPayload, id_body: bytes) -> None:
    """Check the peer's AUTH with a key that an EAP method made. Raises AuthenticationFailed."""
    _expect(auth, AuthMethod.SHARED_KEY)
    octets = auth_octets(sa, id_body, by_initiator=not sa.initiator)
    _compare(_shared(sa, key, octets), auth, "the EAP method's keys differ")


def null_key(sa: IkeSa, *, own: bool) -> bytes:
    """The key of NULL authentication: the sender's SK_p (RFC 7619 section 2.1)."""
    assert sa.keys is not None
    return sa.keys.sk_pi if own == sa.initiator else sa.keys.sk_pr


def _shared(sa: IkeSa, key: bytes, octets: bytes) -> bytes:
    assert sa.prf is not None
    return psk_auth(sa.prf, key, octets)


def _expect(auth: AuthPayload, method: AuthMethod) -> None:
    if auth.method != method:
        raise AuthenticationFailed(f"AUTH method {auth.method.name}, expected {method.name}")


def _compare(expected: bytes, auth: AuthPayload, otherwise: str) -> None:
    if not hmac.compare_digest(expected, auth.data):
        raise AuthenticationFailed(f"AUTH does not verify: {otherwise}")
