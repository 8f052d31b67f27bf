"""KE payloads of either end, in whichever exchange they are (RFC 7296 section 3.4)."""

from __future__ import annotations

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import InvalidSyntax, KeyExchangeFailure
from ipseclab.ike.context import Context
from ipseclab.registry import KeMethod
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import KePayload


def respond(ctx: Context, ke: KePayload) -> tuple[KePayload, bytes]:
    """The responder's KE payload and the shared secret. Raises InvalidSyntax."""
    try:
        answer = KE_METHODS[ke.method].respond(ke.data, ctx.rng)
    except KeyExchangeFailure as error:
        raise InvalidSyntax(str(error)) from error
    return KePayload(ke.method, answer.public), answer.secret


def agree(private: KeyExchangePrivate, ke: KePayload) -> bytes:
    """The initiator's shared secret of the responder's KE payload. Raises InvalidSyntax."""
    try:
        return private.agree(ke.data)
    except KeyExchangeFailure as error:
        raise InvalidSyntax(str(error)) from error


def expected_ke(message: Message, method: KeMethod) -> KePayload:
    """The message's KE payload, which must be of that method. Raises InvalidSyntax."""
    ke = message.find(KePayload)
    if ke is None or ke.method != method:
        raise InvalidSyntax(f"{message.exchange.name} without KE of {method.name}")
    return ke


def tell(ctx: Context, method: KeMethod, step: str) -> None:
    """Notice a step of an additional key exchange: generate, respond or agree."""
    ctx.notice("additional_key_exchange", method=method.name, step=step)
