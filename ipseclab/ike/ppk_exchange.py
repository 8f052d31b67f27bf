"""Post-quantum preshared keys in IKE_INTERMEDIATE and CREATE_CHILD_SA (RFC 9867).

    HDR, SAi1, KEi, Ni, N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(USE_PPK_INT) [, N(USE_PPK)]  -->
              <--  HDR, SAr1, KEr, Nr, N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(USE_PPK_INT)
    HDR, SK {... N(PPK_IDENTITY_KEY, PPK_ID_1, proof) [, N(PPK_IDENTITY_KEY, PPK_ID_2, proof)]}  -->
                                        <--  HDR, SK {... [N(PPK_IDENTITY, PPK_ID_i)]}

Each name comes with a proof of its key, so that two ends that hold different keys under one name do
without, rather than lose each other. The notifications ride in the last IKE_INTERMEDIATE, after all
key exchanges; in each CREATE_CHILD_SA they may name a fresh key for the SA that it makes.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from ipseclab.errors import AuthenticationFailed, InvalidSyntax
from ipseclab.ike.config import ConnectionConfig, Ppk
from ipseclab.ike.context import Context
from ipseclab.ike.keys import PPK_CONFIRMATION_SIZE, ppk_confirmation
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

PPK_ID_FIXED = 2
"""RFC 8784 section 5.1: the PPK_ID names one key for good; type 1 is opaque."""
MAX_NAMED = 16
"""Names of one request that are looked at: each costs a PRF."""


def ppk_id(ppk: Ppk) -> bytes:
    """The PPK_ID by which both ends mean that key."""
    return bytes([PPK_ID_FIXED]) + ppk.identity


def in_intermediate(sa: IkeSa) -> bool:
    """True when both ends take PPKs in IKE_INTERMEDIATE; if so, not in IKE_AUTH."""
    return sa.agreed(NotifyType.USE_PPK_INT) and sa.agreed(
        NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
    )


def named(sa: IkeSa, ppks: Iterable[Ppk]) -> tuple[NotifyPayload, ...]:
    """What names those keys to the responder, the one that is wanted most first."""
    return tuple(
        NotifyPayload(NotifyType.PPK_IDENTITY_KEY, ppk_id(ppk) + _proof(sa, ppk)) for ppk in ppks
    )


def fresh(sa: IkeSa) -> tuple[Ppk, ...]:
    """The keys that a CREATE_CHILD_SA request names: the one after that used last comes first."""
    ppks = sa.connection.ppks
    if not sa.connection.ppk_rekeys or not in_intermediate(sa):
        return ()
    used = next((at for at, ppk in enumerate(ppks) if ppk == sa.ppk), -1)
    return (*ppks[used + 1 :], *ppks[: used + 1])


def possible(ctx: Context, sa: IkeSa) -> tuple[Ppk, ...]:
    """Responder, while it cannot know yet whom it talks to: the keys of all whom it may be."""
    connections = ctx.possible_connections(sa.path).connections
    return tuple(dict.fromkeys(ppk for connection in connections for ppk in connection.ppks))


def fresh_choice(sa: IkeSa, message: Message) -> Ppk | None:
    """Responder: the key for the SA that a CREATE_CHILD_SA request asks for, if one is wanted."""
    if not sa.connection.ppk_rekeys or not in_intermediate(sa):
        return None
    return choose(sa, message, sa.connection.ppks)


def choose(sa: IkeSa, message: Message, ppks: Iterable[Ppk]) -> Ppk | None:
    """Responder: the first key named in `message` that is among `ppks`, and truly the same."""
    own = {ppk_id(ppk): ppk for ppk in ppks}
    offers = [n for n in message.all(NotifyPayload) if n.notify_type == NotifyType.PPK_IDENTITY_KEY]
    for notify in offers[:MAX_NAMED]:
        ppk = own.get(notify.data[:-PPK_CONFIRMATION_SIZE])
        proof = notify.data[-PPK_CONFIRMATION_SIZE:]
        if ppk is not None and hmac.compare_digest(proof, _proof(sa, ppk)):
            return ppk
    return None


def confirmed(ppk: Ppk | None) -> tuple[NotifyPayload, ...]:
    """What tells the initiator which of its keys is used."""
    return (NotifyPayload(NotifyType.PPK_IDENTITY, ppk_id(ppk)),) if ppk is not None else ()


def taken(message: Message, ppks: tuple[Ppk, ...]) -> Ppk | None:
    """Initiator: which of the keys that it named is used, None for none. Raises InvalidSyntax for
    one that it did not name."""
    notify = message.notify(NotifyType.PPK_IDENTITY) if ppks else None
    if notify is None:
        return None
    for ppk in ppks:
        if ppk_id(ppk) == notify.data:
            return ppk
    raise InvalidSyntax("the responder chose a PPK that was not named")


def check_required(connection: ConnectionConfig, ppk: Ppk | None) -> None:
    """What IKE_INTERMEDIATE came to must do for the connection. Raises AuthenticationFailed."""
    if ppk is None and connection.ppk_required:
        raise AuthenticationFailed("a PPK is required, and none is known to both ends")
    if ppk is not None and ppk not in connection.ppks:
        raise AuthenticationFailed("the PPK in use is another connection's")


def _proof(sa: IkeSa, ppk: Ppk) -> bytes:
    assert sa.prf is not None
    return ppk_confirmation(sa.prf, ppk.key, (sa.nonce_i, sa.nonce_r), (sa.spi_i, sa.spi_r))
