"""What IKE_AUTH says of its own end: AUTH_LIFETIME (RFC 4478); and an IKE_SA that takes the place
of another (RFC 7296 section 2.8.3)."""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.context import Context
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.reauth import (
    TakeOver,
    begin_session,
    lifetime_notify,
    limit_of,
    schedule,
    settle_collision,
)
from ipseclab.ike.sa import IkeSa
from ipseclab.wire.payloads import Payload


class ReauthenticationExtension(AuthExtension):
    """Agrees when to authenticate again; ends what was to be replaced."""

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        begin_session(sa, now)
        schedule(ctx, sa, None, now)
        settle_collision(ctx, sa, now)
        return lifetime_notify(sa)

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        begin_session(sa, now)
        sa.session.begun_here = True
        schedule(ctx, sa, limit_of(response), now)
        if sa.renews is not None:
            ctx.queue(sa, TakeOver(sa.renews))
        else:
            settle_collision(ctx, sa, now)
