"""CREATE_CHILD_SA for CHILD_SAs: a further one, or the rekey of one.

RFC 7296 sections 1.3.1 and 1.3.3.

    HDR, SK {[N(REKEY_SA),] SA, Ni, [KEi,] TSi, TSr}  -->
                                    <--  HDR, SK {SA, Nr, [KEr,] TSi, TSr}

Section 2.8.1 says what happens when both ends rekey the same SA at once: both exchanges succeed,
and the new SA with the lowest of the four nonces is closed by the end that made it. Section 2.25.1
says what is answered while an SA is being closed or replaced.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import (
    ChildSaNotFound,
    InvalidKePayload,
    InvalidSyntax,
    StateNotFound,
    TemporaryFailure,
)
from ipseclab.ike.child import (
    ChildOffer,
    choose_esp,
    finish_child,
    grant_child,
    install_granted,
    offer_child,
)
from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.followup import ChildFollowup, HalfMade, check_room, keep, link_in
from ipseclab.ike.informational import (
    DELETED,
    REDUNDANT,
    REKEYED,
    DeleteChild,
    DeleteIke,
    DeleteSpi,
    close_child,
)
from ipseclab.ike.init import NONCE_SIZE, checked_nonce
from ipseclab.ike.key_exchange import agree, respond
from ipseclab.ike.lifecycle import activate_child, postpone, remove_child
from ipseclab.ike.negotiation import (
    additional_methods,
    check_chosen,
    ke_method,
    method_asked_for,
    offered_methods,
)
from ipseclab.ike.ppk_exchange import confirmed, fresh, fresh_choice, named
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.resources import further_resources, wants_resources
from ipseclab.ike.sa import MAKING, ChildSa, ChildState, IkeSa, IkeState
from ipseclab.ike.selectors import BY_POLICY, ChildWish, Trigger
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import KePayload, NoncePayload, NotifyPayload, Payload, SaPayload

RETRY_DELAY = (1.0, 3.0)
"""Seconds, drawn uniformly, before what met TEMPORARY_FAILURE is tried again. The upper end doubles
each time, up to `RETRY_DELAY_LIMIT`, so that the two ends of a collision do not meet for ever,
however slow the path."""
RETRY_DELAY_LIMIT = 48.0
RETRY_PATIENCE = 240.0
"""Seconds of TEMPORARY_FAILUREs after which the ends have lost step and the IKE_SA is closed
(RFC 7296 section 2.25: "several minutes")."""


class Retrying(Task):
    """A task that the peer may put off with TEMPORARY_FAILURE."""

    def __init__(self) -> None:
        self.first_refused: float | None = None
        self.retry_delay = RETRY_DELAY

    def too_late(self, sa: IkeSa) -> float:
        """When there is no use in trying any more."""
        return inf

    def retry_later(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Queue this task again after a while, on whichever IKE_SA is then in service: in half of
        the time that is left at the latest, so that a further refusal is not the end."""
        target = sa.current() if self.follows_succession else sa
        if not target.alive:
            return
        if self.first_refused is None:
            self.first_refused = now
        elif now - self.first_refused > RETRY_PATIENCE:
            ctx.queue(target, DeleteIke("out of step: TEMPORARY_FAILURE for minutes"))
            return
        least, most = self.retry_delay
        self.retry_delay = (least, min(2.0 * most, RETRY_DELAY_LIMIT))
        most = min(most, max(least, (self.too_late(target) - now) / 2.0))
        postpone(ctx, target, self, now + ctx.rng.uniform(least, most))


class CreateChild(Retrying):
    """Make a CHILD_SA, in place of `replaces` if that is given."""

    exchange = ExchangeType.CREATE_CHILD_SA
    name = "create CHILD_SA"
    touches_children = True
    exclusive = False

    def __init__(
        self,
        connection: ConnectionConfig,
        replaces: ChildSa | None = None,
        *,
        wish: ChildWish = BY_POLICY,
    ) -> None:
        super().__init__()
        self.wish = wish
        self.connection = connection
        self.replaces = replaces
        methods = offered_methods(connection.esp_proposals)
        self.method = methods[0] if methods else KeMethod.NONE
        self.private: KeyExchangePrivate | None = None
        self.nonce = b""
        self.offer: ChildOffer | None = None
        self.half: tuple[OpenedMessage, tuple[bytes, bytes], bytes] | None = None
        """CREATE_CHILD_SA's response, nonces and secret while additional key exchanges go on."""

    @property
    @override
    def subject(self) -> ChildSa | None:
        return self.replaces

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        old = self.replaces
        if not sa.alive or (old is not None and old.state is not ChildState.INSTALLED):
            return None
        self.nonce = ctx.rng.randbytes(NONCE_SIZE)
        self.private = None
        ke: tuple[Payload, ...] = ()
        if self.method != KeMethod.NONE:
            self.private = KE_METHODS[self.method].generate(ctx.rng)
            ke = (KePayload(self.method, self.private.public),)
        with_ke = self.method if ke else None
        self.offer = offer_child(
            ctx, sa, self.connection, with_ke=with_ke, replaces=old, wish=self.wish
        )
        self.offer = replace(self.offer, ppks=fresh(sa))
        *sa_and_mode, tsi, tsr = self.offer.payloads
        rekey: tuple[Payload, ...] = ()
        if old is not None:
            old.state = ChildState.REKEYING
            ctx.notice("rekey_started", kind="child", old=old.spi_in.hex())
            rekey = (NotifyPayload(NotifyType.REKEY_SA, b"", old.proposal.protocol, old.spi_in),)
        ppks = named(sa, self.offer.ppks)
        return (*rekey, *sa_and_mode, NoncePayload(self.nonce), *ke, tsi, tsr, *ppks)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        sa_payload = message.find(SaPayload)
        if sa_payload is not None and has_unknown_error(message):
            self.unusable(ctx, sa)
            sa_payload = None
        if sa_payload is None:
            self._refused(ctx, sa, message, now)
            return
        assert self.offer is not None
        try:
            nonces = self._nonces(message)
            secret = self._secret(message, ke_method(sa_payload.proposals[0]))
        except InvalidSyntax:
            # The peer has the CHILD_SA already, for which this end has no keys.
            self.unusable(ctx, sa)
            raise
        methods = additional_methods(sa_payload.proposals[0])
        if not methods:
            self._complete(ctx, sa, message, (nonces, secret, b""))
            return
        check_chosen(sa_payload.proposals, self.offer.proposals)
        self.half = message, nonces, secret
        ctx.queue(sa, ChildFollowup(self, methods, link_in(message)), first=True)

    def finish(self, ctx: Context, sa: IkeSa, additional: bytes, now: float) -> None:
        """All additional key exchanges are done."""
        assert self.half is not None
        (message, nonces, secret), self.half = self.half, None
        self._complete(ctx, sa, message, (nonces, secret, additional))

    def put_off(self, ctx: Context, sa: IkeSa, kind: NotifyType, now: float) -> None:
        """The peer refused an additional key exchange; if it had forgotten us, start over."""
        self._back_in_service()
        old = self.replaces
        rekeys = old.spi_in.hex() if old is not None else None
        ctx.notice("create_refused", reason=kind.name, rekeys=rekeys)
        replaced = old is not None and old.state is not ChildState.INSTALLED
        if kind in (NotifyType.STATE_NOT_FOUND, NotifyType.TEMPORARY_FAILURE) and not replaced:
            self.retry_later(ctx, sa, now)

    def unusable(self, ctx: Context, sa: IkeSa) -> None:
        """The peer has made a CHILD_SA for which this end has no keys."""
        assert self.offer is not None
        ctx.queue(sa, DeleteSpi(self.offer.spi_in, self.connection.child_protocol))

    def _complete(
        self,
        ctx: Context,
        sa: IkeSa,
        message: OpenedMessage,
        keys: tuple[tuple[bytes, bytes], bytes, bytes],
    ) -> None:
        """Make the CHILD_SA of nonces, first and additional secrets."""
        assert self.offer is not None
        new = finish_child(ctx, sa, self.offer, message, *keys)
        if new.spi_out in sa.closed_early:
            remove_child(ctx, new, DELETED)
        if self.replaces is not None:
            _replace(ctx, self.replaces, new)
        elif not self.wish.resource:
            make_further(ctx, new, message)
        close_if_useless(ctx, new, self.wish.trigger)

    @override
    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        self._back_in_service()

    def _nonces(self, message: Message) -> tuple[bytes, bytes]:
        nonce = message.find(NoncePayload)
        if nonce is None:
            raise InvalidSyntax("CREATE_CHILD_SA response without nonce")
        return self.nonce, checked_nonce(nonce)

    def _secret(self, message: Message, chosen: KeMethod) -> bytes:
        """Of a method that was chosen; none may be, for all that was sent (section 3.3.6)."""
        if self.private is None or chosen == KeMethod.NONE:
            return b""
        ke = message.find(KePayload)
        if ke is None or ke.method != self.method:
            raise InvalidSyntax(f"CREATE_CHILD_SA response without KE of {self.method.name}")
        return agree(self.private, ke)

    def _refused(self, ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
        """The peer made nothing; say what that means for the SA that was to be replaced."""
        errors = [n for n in message.all(NotifyPayload) if n.notify_type.is_error]
        kind = errors[0].notify_type if errors else NotifyType.INVALID_SYNTAX
        self._back_in_service()
        if kind == NotifyType.INVALID_KE_PAYLOAD:
            self._other_method(ctx, sa, errors[0])
            return
        old = self.replaces
        ctx.notice(
            "create_refused",
            reason=kind.name,
            rekeys=old.spi_in.hex() if old is not None else None,
        )
        if old is not None and old.state is not ChildState.INSTALLED:
            return  # the peer replaced or closed it meanwhile: nothing is left to do
        if kind == NotifyType.SINGLE_PAIR_REQUIRED and self.wish.selectors is None:
            ask_for_pair(ctx, sa, self.connection, self.wish.trigger)
        elif kind == NotifyType.TS_MAX_QUEUE:
            _want_no_more(sa, self.wish)
        elif kind == NotifyType.TEMPORARY_FAILURE:
            self.retry_later(ctx, sa, now)
        elif kind == NotifyType.CHILD_SA_NOT_FOUND and old is not None:
            # Section 2.25: drop it without a DELETE, and make a new one from scratch.
            remove_child(ctx, old, "unknown to the peer")
            ctx.queue(sa, CreateChild(self.connection))

    def _other_method(self, ctx: Context, sa: IkeSa, notify: NotifyPayload) -> None:
        proposals = self.connection.esp_proposals
        self.method = method_asked_for(notify.data, proposals, tried=self.method)
        ctx.queue(sa, self, first=True)

    def _back_in_service(self) -> None:
        old = self.replaces
        if old is not None and old.state is ChildState.REKEYING:
            rival = old.peer_replacement
            replaced = rival is not None and rival.usable
            old.state = ChildState.REPLACED_BY_PEER if replaced else ChildState.INSTALLED


def has_unknown_error(message: Message) -> bool:
    """True for a response that says what nobody knows: its request has failed, whatever else it
    holds (RFC 7296 section 3.10.1)."""
    kinds = (notify.notify_type for notify in message.all(NotifyPayload))
    return any(kind.is_error and not kind.known for kind in kinds)


def make_further(ctx: Context, child: ChildSa, message: Message) -> None:
    """`message` granted the first SA of its selectors: make the others that both ends want."""
    if not child.usable or not wants_resources(child.connection, message):
        return
    for resource in further_resources(child):
        wish = ChildWish(selectors=(child.own_ts, child.peer_ts), resource=resource)
        ctx.queue(child.ike, CreateChild(child.connection, wish=wish))


def _want_no_more(sa: IkeSa, refused: ChildWish) -> None:
    """The peer has as many SAs with those selectors as it wants (RFC 9611)."""
    for task in tuple(sa.tasks):
        if isinstance(task, CreateChild) and task.wish.selectors == refused.selectors:
            sa.tasks.remove(task)


def ask_for_pair(
    ctx: Context, sa: IkeSa, connection: ConnectionConfig, trigger: Trigger | None
) -> None:
    """The peer grants a pair of addresses a CHILD_SA: ask for the pair of the packet that wants
    one, where there is such a packet (RFC 7296 section 2.9)."""
    if trigger is not None:
        wish = ChildWish(trigger, trigger.offered())
        ctx.queue(sa, CreateChild(connection, wish=wish))


def close_if_useless(ctx: Context, child: ChildSa, trigger: Trigger | None) -> None:
    """Close an SA made for a packet that it cannot carry: the peer narrowed without regard to what
    was named first, and SAs that nobody uses would pile up."""
    if trigger is None or not child.usable:
        return
    if trigger.is_carried_by(child.own_ts, child.peer_ts):
        return
    others = (other for other in child.ike.children.values() if other is not child)
    same = (child.own_ts, child.peer_ts)
    if any(other.usable and (other.own_ts, other.peer_ts) == same for other in others):
        close_child(ctx, child, REDUNDANT)


def _replace(ctx: Context, old: ChildSa, new: ChildSa) -> None:
    """Our rekey of `old` made `new`; settle with the peer's own rekey, if there was one.

    Section 2.8.1: the SA with the lowest nonce is closed by the end that made it, the old one by
    the end that made the other. That holds for a rival that is gone by now too: it lost, or it won
    and was rekeyed in its turn.
    """
    rival = old.peer_replacement
    if rival is not None and new.usable:
        if new.lowest_nonce < rival.lowest_nonce:
            old.heir = rival
            if old.state is ChildState.REKEYING:
                old.state = ChildState.REPLACED_BY_PEER
            close_child(ctx, new, REDUNDANT)
            return
        if rival.usable:
            # Its DELETE is on the way, so that nothing new is to be begun with it.
            rival.state = ChildState.REPLACED_BY_PEER
    if new.usable:
        activate_child(ctx, new)
        old.heir = new
    if old.state is not ChildState.GONE:
        old.state = ChildState.REPLACED
        ctx.queue(old.ike, DeleteChild(old, REKEYED))


def answer_create(ctx: Context, sa: IkeSa, message: Message, now: float) -> tuple[Payload, ...]:
    """The responder's half, for a new CHILD_SA or a rekey. Raises IkeError."""
    if not sa.alive:
        raise TemporaryFailure(f"the IKE_SA is {sa.state.value}")
    if rekeys_ike(sa):
        raise TemporaryFailure("the IKE_SA is being rekeyed")
    rekey = message.notify(NotifyType.REKEY_SA)
    old = _named_child(sa, rekey) if rekey is not None else None
    sa_payload, nonce = message.find(SaPayload), message.find(NoncePayload)
    if sa_payload is None or nonce is None:
        raise InvalidSyntax("CREATE_CHILD_SA request without SA or nonce")
    proposal = choose_esp(sa_payload.proposals, sa.connection, in_auth=False)
    additional = additional_methods(proposal)
    if additional:
        check_room(sa)
    ke_reply, secret = answer_ke(ctx, message, ke_method(proposal))
    nonces = checked_nonce(nonce), ctx.rng.randbytes(NONCE_SIZE)
    child, payloads = grant_child(
        ctx, sa, message, nonces, in_auth=False, replaces=old, proposal=proposal
    )
    child.ppk = fresh_choice(sa, message)
    link: tuple[Payload, ...] = ()
    if additional:
        half = HalfMadeChild(additional, child, nonces, secret, old)
        link = (keep(ctx, sa, half, now),)
    else:
        install_granted(ctx, child, nonces, secret, replaces=old)
    if old is not None and old.state is ChildState.INSTALLED:
        old.state = ChildState.REPLACED_BY_PEER
        old.heir = old.peer_replacement
    *sa_and_mode, tsi, tsr = payloads
    nonce_r = NoncePayload(nonces[1])
    return (*sa_and_mode, nonce_r, *ke_reply, tsi, tsr, *confirmed(child.ppk), *link)


class HalfMadeChild(HalfMade):
    """A CHILD_SA that waits for additional key exchanges. As the peer's answer to a rekey it counts
    from the start: which of two simultaneous rekeys stands depends on CREATE_CHILD_SA's nonces."""

    def __init__(
        self,
        methods: tuple[KeMethod, ...],
        child: ChildSa,
        nonces: tuple[bytes, bytes],
        secret: bytes,
        replaces: ChildSa | None,
    ) -> None:
        super().__init__(methods)
        self.child = child
        self.nonces = nonces
        self.secret = secret
        self.replaces = replaces

    @override
    def complete(self, ctx: Context, sa: IkeSa, now: float) -> None:
        child = self.child
        if not child.usable or child.spi_in in ctx.children:
            raise StateNotFound(f"CHILD_SA {child.spi_in.hex()} is {child.state.value}")
        old = self.replaces
        install_granted(ctx, child, self.nonces, self.secret, self.secrets, replaces=old)

    @override
    def dropped(self) -> None:
        self.child.state = ChildState.GONE
        old = self.replaces
        if old is None or old.peer_replacement is not self.child:
            return
        old.peer_replacement = None
        if old.heir is self.child:
            old.heir = None
        if old.state is ChildState.REPLACED_BY_PEER:
            old.state = ChildState.INSTALLED


def withdraw_heir(old: ChildSa) -> None:
    """Give up the SA that is to take the place of `old`, if it still waits for its additional key
    exchanges: whoever wants `old` closed wants none in its place. `old` is in service again, and
    the peer, when it asks for the next exchange, hears STATE_NOT_FOUND."""
    for link, half in tuple(old.ike.half_made.items()):
        if isinstance(half, HalfMadeChild) and half.replaces is old:
            del old.ike.half_made[link]
            half.dropped()


def answer_ke(
    ctx: Context, message: Message, method: KeMethod
) -> tuple[tuple[KePayload, ...], bytes]:
    """Our KE payload and the shared secret; nothing and no octets without key exchange.

    Raises InvalidKePayload when the peer's is of another method, InvalidSyntax when it is no good.
    """
    if method == KeMethod.NONE:
        return (), b""
    ke = message.find(KePayload)
    if ke is None or ke.method != method:
        raise InvalidKePayload(method)
    reply, secret = respond(ctx, ke)
    return (reply,), secret


def _named_child(sa: IkeSa, rekey: NotifyPayload) -> ChildSa:
    """The CHILD_SA that REKEY_SA names by the SPI on which its sender receives (section 1.3.3)."""
    child = next((c for c in sa.children.values() if c.spi_out == rekey.spi), None)
    making = next((r.task for r in sa.own_requests.values() if r.makes_child), None)
    if child is None and making is not None:
        # It may be the very SA that the response on its way to us brings.
        raise TemporaryFailure(f"busy with: {making.name}")
    if child is None:
        raise ChildSaNotFound(rekey.spi)
    ready = child.state in (ChildState.INSTALLED, ChildState.REKEYING)
    if not ready or (child.peer_replacement is not None and child.peer_replacement.usable):
        raise TemporaryFailure(f"CHILD_SA {child.spi_in.hex()} is {child.state.value}")
    return child


def is_ike_rekey(message: Message) -> bool:
    """True when a CREATE_CHILD_SA request asks for a new IKE_SA (section 1.3.2)."""
    sa_payload = message.find(SaPayload)
    return sa_payload is not None and any(
        proposal.protocol == ProtocolId.IKE for proposal in sa_payload.proposals
    )


def rekeys_ike(sa: IkeSa) -> bool:
    """True while our own request to rekey the IKE_SA waits for its response."""
    request = sa.own_request
    return (
        request is not None
        and request.task.exchange in MAKING
        and not request.task.touches_children
        and sa.state is IkeState.ESTABLISHED
    )
