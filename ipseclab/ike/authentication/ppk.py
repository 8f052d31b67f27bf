"""Post-quantum preshared keys, mixed in once the peer has been named one (RFC 8784).

    Initiator                              Responder
    HDR, SAi1, KEi, Ni, N(USE_PPK)  -->
                              <--  HDR, SAr1, KEr, Nr, N(USE_PPK)
    HDR, SK {IDi, AUTH, SAi2, TSi, TSr,
      N(PPK_IDENTITY, PPK_ID), [N(NO_PPK_AUTH)]}  -->
                              <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr, [N(PPK_IDENTITY)]}

AUTH is made with the keys that the PPK changes; NO_PPK_AUTH is the same made without, for a
responder that does not have this PPK. Whoever demands a PPK leaves it out. With EAP it all rides
beside the AUTH that the method's key makes. Later rounds and SAs inherit the outcome.
"""

from __future__ import annotations

from collections.abc import Callable

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.config import Ppk
from ipseclab.ike.keys import IkeKeys, mix_ppk
from ipseclab.ike.ppk_exchange import check_required, in_intermediate, ppk_id
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import AuthPayload, NotifyPayload

CONFIRMED = NotifyPayload(NotifyType.PPK_IDENTITY)
_REQUIRED = "a PPK is required"


def check_possible(sa: IkeSa) -> None:
    """Initiator, before IKE_AUTH: a PPK that is required must be possible (section 3). Raises
    AuthenticationFailed."""
    if in_intermediate(sa):
        check_required(sa.connection, sa.ppk)
    elif sa.connection.ppk_required and not sa.agreed(NotifyType.USE_PPK):
        raise AuthenticationFailed(f"{_REQUIRED}, and the responder uses none")


def propose(
    sa: IkeSa, prove: Callable[[IkeKeys], AuthPayload]
) -> tuple[AuthPayload, tuple[NotifyPayload, ...]]:
    """Initiator: its first AUTH, and what goes beside it."""
    assert sa.keys is not None
    if not _in_auth(sa):
        return prove(sa.keys), ()
    ppk = sa.connection.ppks[0]
    named = NotifyPayload(NotifyType.PPK_IDENTITY, ppk_id(ppk))
    auth = prove(_mixed(sa, ppk))
    if sa.connection.ppk_required:
        return auth, (named,)
    return auth, (named, NotifyPayload(NotifyType.NO_PPK_AUTH, prove(sa.keys).data))


def settle(sa: IkeSa, message: Message) -> None:
    """Initiator: what the responder made of `propose`. Raises AuthenticationFailed."""
    if not _in_auth(sa):
        return
    if message.notify(NotifyType.PPK_IDENTITY) is not None:
        sa.ppk = sa.connection.ppks[0]
        sa.keys = _mixed(sa, sa.ppk)
    elif sa.connection.ppk_required:
        raise AuthenticationFailed(f"{_REQUIRED}, and the responder does not have ours")


def accept(sa: IkeSa, message: Message, auth: AuthPayload) -> tuple[AuthPayload, bool]:
    """Responder: the AUTH of the initiator's that is to be verified, and whether a PPK is used from
    now on. Raises AuthenticationFailed."""
    if in_intermediate(sa):
        check_required(sa.connection, sa.ppk)
        return auth, False
    named = message.notify(NotifyType.PPK_IDENTITY)
    required = sa.connection.ppk_required
    if named is None or not _in_auth(sa):
        if required:
            raise AuthenticationFailed(f"{_REQUIRED}, and the initiator names none")
        return auth, False
    ppk = next((ppk for ppk in sa.connection.ppks if ppk_id(ppk) == named.data), None)
    if ppk is not None:
        sa.keys, sa.ppk = _mixed(sa, ppk), ppk
        return auth, True
    without = message.notify(NotifyType.NO_PPK_AUTH)
    if required or without is None:
        raise AuthenticationFailed("the initiator names a PPK that is not known")
    return AuthPayload(auth.method, without.data), False


def _in_auth(sa: IkeSa) -> bool:
    """True when a PPK may be named in IKE_AUTH: both ends can, and can do no better (RFC 9867)."""
    return sa.agreed(NotifyType.USE_PPK) and not in_intermediate(sa)


def _mixed(sa: IkeSa, ppk: Ppk) -> IkeKeys:
    assert sa.prf is not None
    assert sa.keys is not None
    return mix_ppk(sa.prf, sa.keys, ppk.key)
