"""Crash detection tokens: made, given, kept (RFC 6290 section 4); `crash.py` uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload

if TYPE_CHECKING:
    from ipseclab.ike.context import Context
    from ipseclab.ike.sa import IkeSa

MIN_TOKEN_SIZE, MAX_TOKEN_SIZE = 16, 128  # RFC 6290 section 4.1


def makes_tokens(ctx: Context, sa: IkeSa) -> bool:
    """Whether this end gives tokens: only what it could make again after a restart is of use."""
    return sa.connection.crash_detection and bool(ctx.config.secret)


def token_notify(ctx: Context, spi_i: bytes, spi_r: bytes) -> NotifyPayload:
    """The token of the IKE_SA with these SPIs (section 5.1)."""
    token = ctx.secrets.derive(b"crash " + spi_i + spi_r)
    return NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, ProtocolId.IKE)


def own_token(ctx: Context, sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """What to give the peer, if anything."""
    return (token_notify(ctx, sa.spi_i, sa.spi_r),) if makes_tokens(ctx, sa) else ()


def take_token(sa: IkeSa, message: Message) -> None:
    """Keep the token that the peer gives, in place of one before; nothing without one, and nothing
    of a size that the RFC forbids."""
    notify = message.notify(NotifyType.QUICK_CRASH_DETECTION)
    if notify is None or not sa.connection.crash_detection:
        return
    if MIN_TOKEN_SIZE <= len(notify.data) <= MAX_TOKEN_SIZE:
        sa.peer_token = notify.data


class GiveToken(Task):
    """Tell the peer the token of an IKE_SA that a rekey made (section 4.3)."""

    exchange = ExchangeType.INFORMATIONAL
    name = "give crash detection token"
    follows_succession = False
    exclusive = False

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        return own_token(ctx, sa) if sa.alive else None

    @override
    def response(self, ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
        take_token(sa, message)
