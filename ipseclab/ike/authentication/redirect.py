"""A client sent to another gateway by IKE_AUTH's last response (RFC 5685 section 6), and what ends
with a redirection that was followed."""

from __future__ import annotations

from typing_extensions import override

from ipseclab.errors import Redirected
from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.context import Context
from ipseclab.ike.informational import REDIRECTED, DeleteIke
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.redirect.follow import new_gateway
from ipseclab.ike.redirect.notifies import redirect_data
from ipseclab.ike.redirect.send import sent_away_authenticated
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.start import begin
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import Payload


class RedirectExtension(AuthExtension):
    """REDIRECT in place of the CHILD_SA."""

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        gateway = sent_away_authenticated(ctx, sa)
        if gateway is not None:
            raise Redirected(gateway, redirect_data(gateway))
        return ()

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        replaced, sa.replaces = sa.replaces, None
        if replaced is not None and replaced.current().alive:
            ctx.queue(replaced.current(), DeleteIke(REDIRECTED), first=True)
        notify = response.notify(NotifyType.REDIRECT)
        if notify is None:
            return
        connection = new_gateway(ctx, sa, notify, now)
        ctx.queue(sa, DeleteIke(REDIRECTED), first=True)
        if connection is not None:
            begin(ctx, connection, now, sa.trigger, redirected_from=sa.path.remote.address)
