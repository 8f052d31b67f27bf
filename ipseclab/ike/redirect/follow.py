"""The client's half of RFC 5685: whether a redirection is believed, and where it leads."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from hmac import compare_digest
from ipaddress import ip_address

from ipseclab.errors import InvalidSyntax
from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.redirect.notifies import read_redirect
from ipseclab.ike.sa import IkeSa
from ipseclab.wire.payloads import NotifyPayload

MAX_REDIRECTS = 5  # section 8
REDIRECT_LOOP_DETECT_PERIOD = 300.0  # section 8, in seconds


def new_gateway(
    ctx: Context, sa: IkeSa, notify: NotifyPayload, now: float, *, nonce: bytes = b""
) -> ConnectionConfig | None:
    """The connection with the gateway that `notify` names; None when it is not to be followed.
    Raises InvalidSyntax for a REDIRECT that cannot be read, or without the nonce that was sent."""
    settings = sa.connection.redirect
    if settings is None or not settings.follow:
        return None
    named, rest = read_redirect(notify.data)
    if not compare_digest(rest, nonce):
        # Section 3: whoever answers has not seen the request.
        raise InvalidSyntax("REDIRECT without the nonce of the request")
    address = dict(settings.names).get(named, named)
    old = sa.path.remote.address
    reason = _not_followed(ctx, sa.connection, address, old, now)
    ctx.notice(
        "redirected" if reason is None else "redirect_ignored",
        connection=sa.connection.name,
        spi_i=sa.spi_i.hex(),
        old=old,
        new=named,
        **({} if reason is None else {"reason": reason}),
    )
    return replace(sa.connection, peer_address=address) if reason is None else None


def _not_followed(
    ctx: Context, connection: ConnectionConfig, address: str, old: str, now: float
) -> str | None:
    """Why this end stays; None when it goes, which then counts."""
    try:
        family = ip_address(address).version
    except ValueError:
        return "unknown name"
    if address == old:
        return "the gateway itself"
    if family != ip_address(connection.own_address).version:
        return "other address family"
    followed = ctx.redirects.setdefault(connection.name, deque(maxlen=MAX_REDIRECTS))
    if len(followed) == MAX_REDIRECTS and now - followed[0] < REDIRECT_LOOP_DETECT_PERIOD:
        return "loop"
    followed.append(now)
    return None
