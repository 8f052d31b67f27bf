"""Crash detection tokens in IKE_AUTH (RFC 6290 section 4.2)."""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.context import Context
from ipseclab.ike.crash_token import own_token, take_token
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.wire.payloads import Payload


class CrashDetectionExtension(AuthExtension):
    """Each end gives its token with its last message."""

    @override
    def last_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        return own_token(ctx, sa)

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        take_token(sa, last)
        return own_token(ctx, sa)

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        take_token(sa, response)
