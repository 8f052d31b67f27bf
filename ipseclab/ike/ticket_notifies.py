"""Tickets on their way to a client: asked for, given, refused, kept (RFC 5723 section 4.2)."""

from __future__ import annotations

from ipseclab.ike.config import NULL_IDENTITY
from ipseclab.ike.context import Context
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.tickets import LONGEST_LIFETIME, MAX_TICKET_SIZE, HeldTicket, TicketState
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

LIFETIME_SIZE = 4


def give_ticket(ctx: Context, sa: IkeSa, message: Message, now: float) -> tuple[NotifyPayload, ...]:
    """Responder: the ticket that `message` asks for, or a refusal. Who has no tickets says nothing,
    and nobody gets one for an identity that it did not prove."""
    lifetime = sa.connection.resumption
    if message.notify(NotifyType.TICKET_REQUEST) is None or lifetime is None:
        return ()
    if sa.initiator or sa.connection.peer_id == NULL_IDENTITY:
        return (NotifyPayload(NotifyType.TICKET_NACK),)
    assert sa.proposal is not None
    assert sa.keys is not None
    seconds = int(min(lifetime, LONGEST_LIFETIME))
    time = ctx.config.time_of_day(now).timestamp()
    state = TicketState(
        connection=sa.connection.name,
        peer_id=sa.connection.peer_id,
        spi_i=sa.spi_i,
        spi_r=sa.spi_r,
        proposal=sa.proposal,
        expires=int(time) + seconds,
        sk_d=sa.keys.sk_d,
    )
    ticket = ctx.tickets.make(state, time)
    ctx.notice("ticket_given", connection=sa.connection.name, seconds=seconds)
    data = seconds.to_bytes(LIFETIME_SIZE, "big") + ticket
    return (NotifyPayload(NotifyType.TICKET_LT_OPAQUE, data),)


def keep_ticket(ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
    """Initiator: the ticket in `message`, in place of an older one; nothing without one."""
    notify = message.notify(NotifyType.TICKET_LT_OPAQUE)
    if notify is None or sa.connection.resumption is None:
        return
    ticket = notify.data[LIFETIME_SIZE:]
    if not 1 <= len(ticket) <= MAX_TICKET_SIZE:
        ctx.notice("ticket_ignored", connection=sa.connection.name, octets=len(ticket))
        return
    assert sa.proposal is not None
    assert sa.keys is not None
    seconds = int.from_bytes(notify.data[:LIFETIME_SIZE], "big")
    lifetime = min(float(seconds), sa.connection.resumption)
    ctx.held_tickets[sa.connection.name] = HeldTicket(
        ticket, now + lifetime, sa.proposal, sa.keys.sk_d
    )
    ctx.notice("ticket_kept", connection=sa.connection.name, seconds=int(lifetime))
