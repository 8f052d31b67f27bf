"""INFORMATIONAL: DELETE of CHILD_SAs and of the IKE_SA, liveness checks.

RFC 7296 sections 1.4 and 1.4.1, 2.4 (liveness), 2.25 (collisions).

    HDR, SK {[N,] [D,] ...}  -->
                             <--  HDR, SK {[N,] [D,] ...}
"""

from __future__ import annotations

from math import inf

from typing_extensions import override

from ipseclab.errors import IkeError
from ipseclab.ike.addresses import answer_configuration
from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import activate_child, close_ike, patience, remove_child, succeed
from ipseclab.ike.mobike.answer import answer_mobike
from ipseclab.ike.mobike.tasks import asks_for_mapping, check_mapping
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.redirect.follow import new_gateway
from ipseclab.ike.sa import MAX_CLOSED_EARLY, ChildSa, ChildState, IkeSa, IkeState
from ipseclab.ike.task import Task
from ipseclab.ike.ticket_notifies import give_ticket
from ipseclab.outputs import UdpPath
from ipseclab.registry import ExchangeType, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import DeletePayload, NotifyPayload, Payload

REKEYED = "rekeyed"
DELETED = "deleted"
EXPIRED = "expired"
REDUNDANT = "redundant"
REDIRECTED = "redirected"
REAUTHENTICATED = "reauthenticated"


class Liveness(Task):
    """An empty request: is the peer still there, and still has the IKE_SA? (Section 2.4.)"""

    exchange = ExchangeType.INFORMATIONAL
    name = "liveness"
    exclusive = False

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        return asks_for_mapping(sa, now)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        ctx.notice("liveness_confirmed", spi_i=sa.spi_i.hex(), spi_r=sa.spi_r.hex())
        check_mapping(ctx, sa, message)


class DeleteChild(Task):
    """Close a CHILD_SA: the DELETE names our inbound SPI, the answer the peer's."""

    exchange = ExchangeType.INFORMATIONAL
    name = "delete CHILD_SA"
    touches_children = True
    exclusive = False

    def __init__(self, child: ChildSa, reason: str) -> None:
        self.child = child
        self.reason = reason

    @property
    @override
    def subject(self) -> ChildSa:
        return self.child

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        child = self.child
        if self.reason == DELETED and child.heir is not None and child.heir.usable:
            # Whoever wanted the SA closed wants none in its place.
            ctx.queue(sa, DeleteChild(child.heir, DELETED))
        if child.state is ChildState.GONE:
            return None
        if child.state is ChildState.REPLACED:
            self.reason = REKEYED
        else:
            child.state = ChildState.DELETING
        return (DeletePayload(child.proposal.protocol, (child.spi_in,)),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        self._finish(ctx)
        if self.reason == REKEYED:
            heir = self.child.heir
            new = heir.spi_in.hex() if heir is not None else None
            ctx.notice("rekey_done", kind="child", old=self.child.spi_in.hex(), new=new)

    @override
    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        self._finish(ctx)

    def _finish(self, ctx: Context) -> None:
        linger = self.child.connection.rekey_linger if self.reason == REKEYED else 0.0
        remove_child(ctx, self.child, self.reason, linger=linger)


def close_child(ctx: Context, child: ChildSa, reason: str) -> None:
    """Have `child` closed with a DELETE; from now on nobody may rekey it (section 2.25.1)."""
    if child.state is ChildState.INSTALLED:
        child.state = ChildState.DELETING
    ctx.queue(child.ike, DeleteChild(child, reason))


class DeleteSpi(Task):
    """Close a CHILD_SA that the peer has and this end never put into service."""

    exchange = ExchangeType.INFORMATIONAL
    name = "delete refused CHILD_SA"
    touches_children = True

    def __init__(self, spi_in: bytes, protocol: ProtocolId) -> None:
        self.spi_in = spi_in
        self.protocol = protocol

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        return (DeletePayload(self.protocol, (self.spi_in,)),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        ctx.notice("child_refused", spi_in=self.spi_in.hex())


class DeleteIke(Task):
    """Close an IKE_SA, and with it the CHILD_SAs that it still holds."""

    exchange = ExchangeType.INFORMATIONAL
    name = "delete IKE_SA"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        # An IKE_SA that expired while it was being rekeyed must not take the new one with it.
        self.follows_succession = reason in (DELETED, REAUTHENTICATED)

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        if sa.state is not IkeState.REPLACED:
            sa.state = IkeState.DELETING
        return (DeletePayload(ProtocolId.IKE),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        close_ike(ctx, sa, self.reason, now)
        if self.reason == REKEYED:
            new = sa.successor.spi_i.hex() if sa.successor is not None else None
            ctx.notice("rekey_done", kind="ike", old=sa.spi_i.hex(), new=new)


class CloseAfterFailure(Task):
    """Tell the responder that its IKE_AUTH response was refused; the IKE_SA ends without a DELETE
    (section 2.21.2)."""

    exchange = ExchangeType.INFORMATIONAL
    name = "refuse IKE_AUTH"

    def __init__(self, problem: IkeError) -> None:
        self.problem = problem

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        return (NotifyPayload(self.problem.notify, self.problem.notification_data()),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        close_ike(ctx, sa, str(self.problem), now)


def answer_informational(
    ctx: Context, sa: IkeSa, message: Message, path: UdpPath, now: float
) -> tuple[Payload, ...]:
    """The answer to an INFORMATIONAL request that came along `path`: what it wants to know of
    addresses, and the SPIs that were closed with it."""
    failure = message.notify(NotifyType.AUTHENTICATION_FAILED)
    if failure is not None:
        sa.close_reason = "the peer refused our IKE_AUTH response"
        return ()
    redirect = message.notify(NotifyType.REDIRECT)
    if redirect is not None and NotifyType.REDIRECT_SUPPORTED in sa.own_offers and sa.alive:
        sa.redirected = new_gateway(ctx, sa, redirect, now)
    closed: dict[ProtocolId, list[bytes]] = {ProtocolId.ESP: [], ProtocolId.AH: []}
    deletes = message.all(DeletePayload)
    children = {child.spi_out: child for child in sa.children.values()} if deletes else {}
    for delete in deletes:
        if delete.protocol == ProtocolId.IKE:
            _close_by_peer(ctx, sa, now)
        elif delete.protocol in closed:
            known = [spi for spi in dict.fromkeys(delete.spis) if spi in children]
            for spi_out in known:
                closed[delete.protocol] += _close_child(ctx, sa, children.pop(spi_out))
            _close_early(sa, [spi for spi in delete.spis if spi not in known])
    answers = (DeletePayload(protocol, tuple(spis)) for protocol, spis in closed.items() if spis)
    asked = (*answer_configuration(sa, message), *answer_mobike(ctx, sa, message, path, now))
    return (*asked, *give_ticket(ctx, sa, message, now), *answers)


def _close_by_peer(ctx: Context, sa: IkeSa, now: float) -> None:
    """The peer closes `sa`: what becomes of its CHILD_SAs depends on rekeying (section 2.25.2)."""
    candidate = live_candidate(sa)
    if sa.state is IkeState.ESTABLISHED and candidate is not None:
        # Section 2.8.2: the peer rekeyed without noticing our own attempt, which is forgotten.
        sa.own_requests.clear()
        succeed(ctx, sa, candidate, now)
    _note_successor(ctx, sa)
    if sa.state is IkeState.ESTABLISHED:
        # What the peer ends on purpose is not to be resumed.
        ctx.held_tickets.pop(sa.connection.name, None)
    reasons = {IkeState.REPLACED: REKEYED, IkeState.CANDIDATE: REDUNDANT}
    sa.close_reason = reasons.get(sa.state, DELETED)


def _note_successor(ctx: Context, sa: IkeSa) -> None:
    """A peer that closes an IKE_SA after it has set up a younger one has reauthenticated: it has
    the CHILD_SAs of that, so that traffic may move there (section 2.8.3)."""
    if sa.state is not IkeState.ESTABLISHED:
        return
    younger = [
        other
        for other in ctx.others(sa)
        # Or this end's own, where both have reauthenticated at once.
        if other.established > sa.established or other.session.renewal is not None
    ]
    for other in younger:
        for child in other.children.values():
            if child.state is ChildState.INSTALLED:
                activate_child(ctx, child)
    sa.reauthenticated = bool(younger)


def live_candidate(sa: IkeSa) -> IkeSa | None:
    """The IKE_SA of the peer's simultaneous rekey, unless the peer has closed it already."""
    alive = (c for c in sa.candidates if c.state is IkeState.CANDIDATE)
    return next(alive, None)


def _close_early(sa: IkeSa, spis: list[bytes]) -> None:
    """The peer has closed what is not there yet, or not any more."""
    sa.closed_early += spis
    del sa.closed_early[:-MAX_CLOSED_EARLY]


def _close_child(ctx: Context, sa: IkeSa, child: ChildSa) -> list[bytes]:
    """Close a CHILD_SA that the peer has closed; its own SPI unless section 1.4.1 says that it must
    not be in the answer."""
    crossing = any(isinstance(t, DeleteChild) and t.child is child for t in sa.under_way())
    replacement = child.peer_replacement
    replaced = child.state in (ChildState.REPLACED, ChildState.REPLACED_BY_PEER)
    if replacement is not None and replacement.usable:
        # Section 2.8: the DELETE of the old SA shows that the peer can receive on the new one.
        activate_child(ctx, replacement)
        replaced = True
    linger = child.connection.rekey_linger if replaced else 0.0
    remove_child(ctx, child, REKEYED if replaced else DELETED, linger=linger)
    return [] if crossing else [child.spi_in]


def finish_closing(ctx: Context, sa: IkeSa, now: float) -> None:
    """After a response that ends `sa` is on its way: keep answering repeats for a while.

    A peer that was never authenticated holds our memory for no longer than a half-open IKE_SA.
    """
    stranger = sa.state is IkeState.HALF_OPEN and not sa.initiator
    most = ctx.config.limits.half_open_timeout if stranger else inf
    close_ike(ctx, sa, sa.close_reason, now, forget_after=min(most, patience(sa.connection)))
