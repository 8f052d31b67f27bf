"""The gateway's half of RFC 5685.

HDR, SK { N(REDIRECT) }  -->
                         <--  HDR, SK { }
"""

from __future__ import annotations

from typing_extensions import override

from ipseclab.errors import InvalidSyntax
from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.redirect.notifies import read_redirect, redirect_data
from ipseclab.ike.redirect.settings import RedirectWhen
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload


def sent_away_at_once(
    ctx: Context, connection: ConnectionConfig, message: Message, nonce: bytes
) -> NotifyPayload | None:
    """The answer to an IKE_SA_INIT request that is sent elsewhere, with its nonce."""
    settings = connection.redirect
    if settings is None or settings.to is None or settings.when is not RedirectWhen.INIT:
        return None
    came_from = message.notify(NotifyType.REDIRECTED_FROM)
    if came_from is None and message.notify(NotifyType.REDIRECT_SUPPORTED) is None:
        return None
    if _names(came_from, settings.to) or not _full(ctx, connection):
        return None
    return NotifyPayload(NotifyType.REDIRECT, redirect_data(settings.to, nonce))


def sent_away_authenticated(ctx: Context, sa: IkeSa) -> str | None:
    """Where a client that is authenticated by now has to go instead."""
    settings = sa.connection.redirect
    if settings is None or settings.when is not RedirectWhen.AUTH:
        return None
    if NotifyType.REDIRECT_SUPPORTED not in sa.peer_offers:
        return None
    return settings.to if _full(ctx, sa.connection, beside=sa) else None


def _names(came_from: NotifyPayload | None, gateway: str) -> bool:
    """Whether the client was sent here by the very gateway to which it would be sent."""
    if came_from is None:
        return False
    try:
        return read_redirect(came_from.data)[0] == gateway
    except InvalidSyntax:
        return False


def _full(ctx: Context, connection: ConnectionConfig, *, beside: IkeSa | None = None) -> bool:
    assert connection.redirect is not None
    if not connection.redirect.above:
        return True
    standing = (sa for sa in ctx.sas.values() if sa.state is IkeState.ESTABLISHED)
    return sum(sa is not beside for sa in standing) >= connection.redirect.above


class SendAway(Task):
    """Tell a client that it has to leave (section 5)."""

    exchange = ExchangeType.INFORMATIONAL
    name = "redirect"
    exclusive = False

    def __init__(self, gateway: str) -> None:
        self.gateway = gateway

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        if not sa.alive:
            return None
        return (NotifyPayload(NotifyType.REDIRECT, redirect_data(self.gateway)),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        ctx.notice("sent_away", spi_i=sa.spi_i.hex(), gateway=self.gateway)
