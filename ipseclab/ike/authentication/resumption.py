"""Tickets in IKE_AUTH, and what resuming an IKE_SA ends (RFC 5723).

The last request asks for a ticket, the last response has it. A responder whose client has resumed
an IKE_SA closes the old one, if it still has it, without a word.
"""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.ticket_notifies import give_ticket, keep_ticket
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import NotifyPayload, Payload


class ResumptionExtension(AuthExtension):
    """Asks for tickets, gives them, and takes note of those that were used."""

    @override
    def last_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        if sa.connection.resumption is None:
            return ()
        return (NotifyPayload(NotifyType.TICKET_REQUEST),)

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        resumption, sa.resumption = sa.resumption, None
        if resumption is not None:
            state = resumption.state
            ctx.tickets.use(resumption.ticket, state.expires, ctx.config.time_of_day(now))
            old = ctx.sas.get(state.spi_r)
            if old is not None and old.spi_i == state.spi_i:
                close_ike(ctx, old.current(), "resumed", now)
            ctx.notice("ike_resumed", connection=sa.connection.name, spi_i=sa.spi_i.hex())
        return give_ticket(ctx, sa, last, now)

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        keep_ticket(ctx, sa, response, now)
