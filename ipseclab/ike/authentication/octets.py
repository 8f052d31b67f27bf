"""What AUTH covers, for either end (RFC 7296 section 2.15; RFC 9242 section 3.3.2)."""

from __future__ import annotations

from ipseclab.ike.keys import IkeKeys, signed_octets
from ipseclab.ike.sa import IkeSa


def auth_octets(sa: IkeSa, keys: IkeKeys, id_body: bytes, *, by_initiator: bool) -> bytes:
    """The octets that the initiator's, or the responder's, AUTH covers.

    `id_body` is the body of the sender's ID payload of that round as it was sent; `keys` are the
    IKE_SA's, unless a PPK changes them. IntAuth comes last, and is empty when there was no
    IKE_INTERMEDIATE.
    """
    assert sa.prf is not None
    message, nonce = (
        (sa.init_request, sa.nonce_r) if by_initiator else (sa.init_response, sa.nonce_i)
    )
    sk_p = sk_p_of(keys, by_initiator=by_initiator)
    return signed_octets(sa.prf, message, nonce, sk_p, id_body) + sa.int_auth


def sk_p_of(keys: IkeKeys, *, by_initiator: bool) -> bytes:
    """SK_pi or SK_pr."""
    return keys.sk_pi if by_initiator else keys.sk_pr
