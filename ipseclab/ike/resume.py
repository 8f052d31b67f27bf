"""IKE_SESSION_RESUME: an IKE_SA made from a ticket, without a key exchange (RFC 5723).

    Initiator                              Responder
    HDR, [N(COOKIE),] Ni, N(TICKET_OPAQUE), [N(NAT_DETECTION_*)]  -->
                              <--  HDR, Nr, [N(NAT_DETECTION_*)]
    HDR, SK {IDi, [IDr,] AUTH, SAi2, TSi, TSr, [N(TICKET_REQUEST)]}  -->
                              <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr, [N(TICKET_LT_OPAQUE)]}

Both ends prove with their AUTH that they know SK_d of the IKE_SA that the ticket stands for. A
gateway that does not take the ticket says TICKET_NACK, and the client begins with IKE_SA_INIT.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import partial

from typing_extensions import override

from ipseclab.errors import InvalidSyntax, NoProposalChosen, UnsupportedCriticalPayload
from ipseclab.ike import natt
from ipseclab.ike.capabilities import offers_in, offers_of_initiator, offers_of_responder
from ipseclab.ike.config import ConnectionConfig, ResumedAuth
from ipseclab.ike.context import Context
from ipseclab.ike.cookies import MAX_COOKIE_SIZE, Cookies
from ipseclab.ike.init import (
    MAX_INIT_ROUNDS,
    NONCE_SIZE,
    InitTask,
    answer_first,
    bare,
    checked_nonce,
    derive,
    detection,
    enter_half_open,
    find_nat,
    float_ports,
    forbids_nats,
    make_room,
    response_to,
)
from ipseclab.ike.keys import resumed_skeyseed
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.negotiation import choose_proposal
from ipseclab.ike.proposals import prf_of
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.task import Task
from ipseclab.ike.tickets import HeldTicket, TicketState
from ipseclab.ike.timers import TimerKind
from ipseclab.outputs import UdpPath
from ipseclab.registry import ExchangeType, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NoncePayload, NotifyPayload, Payload, UnknownPayload
from ipseclab.wire.proposal import Proposal


@dataclass(frozen=True, slots=True)
class Resumption:
    """Responder: the ticket that an IKE_SA is being made from."""

    ticket: bytes
    state: TicketState


def resumed(connection: ConnectionConfig) -> ConnectionConfig:
    """The connection as an IKE_SA made from a ticket has it: one proof each, and no more secrets to
    mix in than the ticket's key already holds."""
    proof = (ResumedAuth(),)
    return replace(connection, own_auth=proof, peer_auth=proof, ppks=(), ppk_required=False)


class ResumeTask(Task):
    """The initiator's half."""

    exchange = ExchangeType.IKE_SESSION_RESUME
    name = "IKE_SESSION_RESUME"

    def __init__(self, sa: IkeSa, held: HeldTicket, rng: random.Random) -> None:
        self.configured = sa.connection
        self.held = held
        self.cookie = b""
        self.rounds = 0
        sa.connection = resumed(sa.connection)
        sa.nonce_i = rng.randbytes(NONCE_SIZE)

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        self.rounds += 1
        offers = offers_of_initiator(sa.connection)
        sa.own_offers = offers_in(offers)
        return (
            *((NotifyPayload(NotifyType.COOKIE, self.cookie),) if self.cookie else ()),
            NoncePayload(sa.nonce_i),
            NotifyPayload(NotifyType.TICKET_OPAQUE, self.held.ticket),
            *detection(ctx, sa),
            *offers,
        )

    def accept(self, ctx: Context, sa: IkeSa, message: Message, path: UdpPath, now: float) -> bool:
        """Take the response, True when the keys are made. Raises IkeError or WireError for one that
        is to be ignored."""
        nonce = message.find(NoncePayload)
        if nonce is None:
            self._refused(ctx, sa, message, now)
            return False
        if not any(message.spi_r):
            raise InvalidSyntax("IKE_SESSION_RESUME response without an SPI")
        sa.round_trip = now - sa.created
        sa.spi_r, sa.nonce_r, sa.path = message.spi_r, checked_nonce(nonce), path
        sa.peer_offers = offers_in(message.all(NotifyPayload))
        find_nat(sa, message, path)
        _keys(ctx, sa, self.held.proposal, self.held.sk_d)
        float_ports(sa)
        return True

    def _refused(self, ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
        """A cookie is wanted, or the ticket is not; anything else does not count, as anyone could
        have sent it."""
        cookie = message.notify(NotifyType.COOKIE)
        if cookie is not None:
            if not 1 <= len(cookie.data) <= MAX_COOKIE_SIZE:
                raise InvalidSyntax(f"cookie of {len(cookie.data)} octets, 1 to 64 allowed")
            if self.rounds >= MAX_INIT_ROUNDS:
                close_ike(ctx, sa, "IKE_SESSION_RESUME went round too often", now)
                return
            self.cookie = cookie.data
            task: Task = self
        elif message.notify(NotifyType.TICKET_NACK) is not None:
            ctx.notice("ticket_refused", connection=sa.connection.name, spi_i=sa.spi_i.hex())
            sa.connection = self.configured
            task = InitTask(sa, ctx.rng)
        else:
            raise InvalidSyntax("IKE_SESSION_RESUME response without a nonce")
        ctx.timers.cancel(sa.own_spi, TimerKind.RETRANSMIT)
        sa.own_requests.clear()
        sa.next_message_id = 0
        ctx.queue(sa, task, first=True)


def answer_resume(
    ctx: Context, cookies: Cookies, message: Message, octets: bytes, path: UdpPath, now: float
) -> None:
    """The responder's half: a response, a stateless Notify, or a counted drop."""
    answer = partial(_answer, ctx, cookies, message, octets, path, now)
    answer_first(ctx, message, octets, path, answer)


def _answer(
    ctx: Context, cookies: Cookies, message: Message, octets: bytes, path: UdpPath, now: float
) -> bytes | None:
    for payload in message.payloads:
        if isinstance(payload, UnknownPayload) and payload.critical:
            raise UnsupportedCriticalPayload(payload.payload_type)
    nonce_payload = message.find(NoncePayload)
    ticket = message.notify(NotifyType.TICKET_OPAQUE)
    if nonce_payload is None or ticket is None:
        raise InvalidSyntax("IKE_SESSION_RESUME without nonce or ticket")
    nonce = checked_nonce(nonce_payload)
    limits = ctx.config.limits
    if len(ctx.half_open) >= min(limits.cookie_threshold, limits.half_open):
        make_room(ctx, now)
    difficulty = cookies.demand(message, nonce, path, limits, len(ctx.half_open))
    if difficulty is not None:
        # RFC 8019 knows no puzzles here: resuming is cheap, a cookie is enough.
        ctx.counters["ike.cookie_demanded"] += 1
        if message.notify(NotifyType.COOKIE) is None or difficulty == 0:
            return bare(message, *cookies.notifies(message, nonce, path, 0, now))
    if len(ctx.half_open) >= limits.half_open or len(ctx.sas) >= limits.ike_sas:
        ctx.drop("too_many")
        return None
    state, connection = _of_ticket(ctx, ticket.data, path, now)
    if state is None or connection is None:
        ctx.counters["ike.ticket_refused"] += 1
        return bare(message, NotifyPayload(NotifyType.TICKET_NACK))
    sa = _made(ctx, message, octets, path, connection, now)
    sa.resumption = Resumption(ticket.data, state)
    return _begin(ctx, sa, message, path, now)


def _of_ticket(
    ctx: Context, ticket: bytes, path: UdpPath, now: float
) -> tuple[TicketState | None, ConnectionConfig | None]:
    """What the ticket stands for, if this end may still resume it for a peer at that address."""
    state = ctx.tickets.open(ticket, ctx.config.time_of_day(now).timestamp())
    if state is None:
        return None, None
    possible = ctx.possible_connections(path).connections
    for connection in possible:
        if connection.name == state.connection and connection.resumption is not None:
            try:
                choose_proposal((state.proposal,), connection.ike_proposals, ProtocolId.IKE)
            except NoProposalChosen:
                return None, None
            return state, replace(resumed(connection), peer_id=state.peer_id)
    return None, None


def _made(
    ctx: Context,
    message: Message,
    octets: bytes,
    path: UdpPath,
    connection: ConnectionConfig,
    now: float,
) -> IkeSa:
    nonce = message.find(NoncePayload)
    assert nonce is not None
    return IkeSa(
        spi_i=message.spi_i,
        spi_r=ctx.new_ike_spi(),
        initiator=False,
        connection=connection,
        path=path,
        state=IkeState.HALF_OPEN,
        created=now,
        nonce_i=nonce.data,
        nonce_r=ctx.rng.randbytes(NONCE_SIZE),
        init_key=(octets, path.remote),
        init_request=octets,
        expected_message_id=1,
    )


def _begin(ctx: Context, sa: IkeSa, message: Message, path: UdpPath, now: float) -> bytes:
    """Enter the half-open IKE_SA into the tables; the response's octets."""
    find_nat(sa, message, path)
    pretend = sa.connection.force_encapsulation
    if pretend:
        sa.own_behind_nat = True
    assert sa.resumption is not None
    state = sa.resumption.state
    _keys(ctx, sa, state.proposal, state.sk_d)
    sa.peer_offers = offers_in(message.all(NotifyPayload))
    offers = offers_of_responder((sa.connection,), sa.peer_offers)
    sa.own_offers = offers_in(offers)
    notifies: tuple[NotifyPayload, ...] = ()
    if not forbids_nats(sa.connection):
        notifies = natt.detection_notifies(sa.spi_i, sa.spi_r, path, pretend=pretend)
    sa.init_response = response_to(
        message, sa.spi_r, (NoncePayload(sa.nonce_r), *notifies, *offers)
    )
    enter_half_open(ctx, sa, now)
    return sa.init_response


def _keys(ctx: Context, sa: IkeSa, proposal: Proposal, sk_d: bytes) -> None:
    """Section 5.1: new keys of the old SK_d and the new nonces."""
    seed = resumed_skeyseed(prf_of(proposal.transforms), sk_d, sa.nonce_i, sa.nonce_r)
    derive(ctx, sa, proposal, seed)
