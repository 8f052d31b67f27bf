"""CREATE_CHILD_SA that rekeys the IKE_SA itself (RFC 7296 sections 1.3.2, 2.18, 2.8.2, 2.25.2).

    HDR, SK {SA, Ni, KEi}  -->
                           <--  HDR, SK {SA, Nr, KEr}

The end whose request made the surviving IKE_SA closes the old one. When both ends ask at once, the
new IKE_SA that the peer made is a candidate until our own response shows all four nonces.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import IkeError, InvalidSyntax, StateNotFound, TemporaryFailure
from ipseclab.ike.config import Ppk
from ipseclab.ike.context import IKE_SPI_SIZE, Context
from ipseclab.ike.create import Retrying, answer_ke, has_unknown_error, rekeys_ike
from ipseclab.ike.followup import Followup, HalfMade, check_room, keep, link_in
from ipseclab.ike.informational import REDUNDANT, REKEYED, DeleteIke, live_candidate
from ipseclab.ike.init import NONCE_SIZE, checked_nonce
from ipseclab.ike.key_exchange import agree
from ipseclab.ike.keys import ike_keys, mix_sk_d, rekey_skeyseed
from ipseclab.ike.lifecycle import log_keys, patience, succeed
from ipseclab.ike.negotiation import (
    additional_methods,
    check_chosen,
    choose_proposal,
    ke_method,
    method_asked_for,
    offered_methods,
    with_spi,
)
from ipseclab.ike.ppk_exchange import confirmed, fresh, fresh_choice, named, taken
from ipseclab.ike.proposals import prf_of, suite_of
from ipseclab.ike.protection import MessageProtection, OpenedMessage
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
)
from ipseclab.wire.proposal import Proposal


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What a new IKE_SA is made of; `secret` is the first key exchange's."""

    proposal: Proposal
    nonces: tuple[bytes, bytes]
    spis: tuple[bytes, bytes]
    secret: bytes = field(repr=False)
    additional: bytes = field(default=b"", repr=False)
    ppk: Ppk | None = None
    """A fresh one, if both ends want one (RFC 9867)."""


class IkeRekey(Retrying):
    """Replace the IKE_SA by a fresh one with new keys and message IDs from 0."""

    exchange = ExchangeType.CREATE_CHILD_SA
    name = "rekey IKE_SA"
    follows_succession = False

    def __init__(self, proposals: tuple[Proposal, ...]) -> None:
        super().__init__()
        self.own_proposals = proposals
        self.proposals: tuple[Proposal, ...] = ()
        self.method = offered_methods(proposals)[0]
        self.private: KeyExchangePrivate
        self.nonce = b""
        self.spi = b""
        self.ppks: tuple[Ppk, ...] = ()
        self.half: _Agreed | None = None
        """While additional key exchanges go on."""

    @override
    def too_late(self, sa: IkeSa) -> float:
        """The end of the IKE_SA's lifetime."""
        seconds = sa.connection.ike_lifetime.seconds
        return sa.established + seconds if seconds is not None else inf

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        if not sa.alive:
            return None
        self.spi = ctx.new_ike_spi()
        ctx.offer_spi(sa, self.spi)
        self.nonce = ctx.rng.randbytes(NONCE_SIZE)
        self.private = KE_METHODS[self.method].generate(ctx.rng)
        self.proposals = with_spi(self.own_proposals, self.spi)
        self.ppks = fresh(sa)
        ctx.notice("rekey_started", kind="ike", old=sa.spi_i.hex())
        return (
            SaPayload(self.proposals),
            NoncePayload(self.nonce),
            KePayload(self.method, self.private.public),
            *named(sa, self.ppks),
        )

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        sa_payload = message.find(SaPayload)
        if sa_payload is not None and has_unknown_error(message):
            self.unusable(ctx, sa)
            sa_payload = None
        if sa_payload is None:
            self._refused(ctx, sa, message, now)
            return
        try:
            agreed = self._agreed(sa_payload, message)
        except IkeError:
            self.unusable(ctx, sa)
            raise
        methods = additional_methods(agreed.proposal)
        if methods:
            self.half = agreed
            ctx.queue(sa, Followup(self, methods, link_in(message)), first=True)
            return
        _settle(ctx, sa, _make(ctx, sa, agreed, initiator=True, now=now), now)

    def finish(self, ctx: Context, sa: IkeSa, additional: bytes, now: float) -> None:
        """All additional key exchanges are done."""
        assert self.half is not None
        agreed, self.half = replace(self.half, additional=additional), None
        _settle(ctx, sa, _make(ctx, sa, agreed, initiator=True, now=now), now)

    def put_off(self, ctx: Context, sa: IkeSa, kind: NotifyType, now: float) -> None:
        """The peer refused an additional key exchange."""
        retry = kind in (NotifyType.STATE_NOT_FOUND, NotifyType.TEMPORARY_FAILURE)
        self._stopped(ctx, sa, kind, now, retry=retry)

    def unusable(self, ctx: Context, sa: IkeSa) -> None:
        """The peer has put an IKE_SA into service that this end cannot have: start over."""
        ctx.offer_spi(sa)
        ctx.queue(sa, DeleteIke("unusable response to a rekey"), first=True)

    def _agreed(self, sa_payload: SaPayload, message: OpenedMessage) -> _Agreed:
        """What the IKE_SA that the peer's response brings is made of. Raises IkeError."""
        nonce, ke = message.find(NoncePayload), message.find(KePayload)
        if nonce is None or ke is None or ke.method != self.method:
            raise InvalidSyntax("IKE_SA rekey response without nonce or KE")
        proposal = check_chosen(sa_payload.proposals, self.proposals)
        secret = agree(self.private, ke)
        nonces = (self.nonce, checked_nonce(nonce))
        spis = (self.spi, _ike_spi(proposal))
        return _Agreed(proposal, nonces, spis, secret, ppk=taken(message, self.ppks))

    def _refused(self, ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
        errors = [n for n in message.all(NotifyPayload) if n.notify_type.is_error]
        kind = errors[0].notify_type if errors else NotifyType.INVALID_SYNTAX
        if kind == NotifyType.INVALID_KE_PAYLOAD:
            data = errors[0].data
            self.method = method_asked_for(data, self.own_proposals, tried=self.method)
            ctx.queue(sa, self, first=True)
            return
        self._stopped(ctx, sa, kind, now, retry=kind == NotifyType.TEMPORARY_FAILURE)

    def _stopped(
        self, ctx: Context, sa: IkeSa, kind: NotifyType, now: float, *, retry: bool
    ) -> None:
        ctx.offer_spi(sa)
        ctx.notice("rekey_refused", kind="ike", reason=kind.name)
        candidate = live_candidate(sa)
        if candidate is not None:
            # The peer never saw a collision: its own rekey stands, and it will close the old SA.
            _adopt(ctx, sa, candidate, now)
        elif retry:
            self.retry_later(ctx, sa, now)

    @override
    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        ctx.offer_spi(sa)
        candidate = live_candidate(sa)
        if candidate is not None and sa.alive:
            _adopt(ctx, sa, candidate, now)


def _settle(ctx: Context, old: IkeSa, new: IkeSa, now: float) -> None:
    """Our rekey made `new`; settle with the peer's candidate, if there is one (section 2.8.2).

    A candidate that the peer has closed by now counts as well: if it was the one to survive, then
    it was closed for itself, and the peer waits for our DELETE of `new` as ever.
    """
    ctx.offer_spi(old)
    rival = live_candidate(old)
    loses = any(new.lowest_nonce < candidate.lowest_nonce for candidate in old.candidates)
    if loses and rival is not None:
        _adopt(ctx, old, rival, now)
    if loses or old.successor is not None:
        new.state = IkeState.DELETING
        ctx.queue(new, DeleteIke(REDUNDANT))
        return
    succeed(ctx, old, new, now)
    ctx.queue(old, DeleteIke(REKEYED))


def _adopt(ctx: Context, old: IkeSa, new: IkeSa, now: float) -> None:
    """The peer's rekey takes over; the peer closes the old IKE_SA, or we forget it in the end."""
    succeed(ctx, old, new, now)
    ctx.timers.set(old.own_spi, TimerKind.REPLACED, now + patience(old.connection))


def put_to_use(ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
    """A request came on `sa`. If that is a candidate and the request does not close it, then the
    peer knows that it survives, before our own exchange could tell."""
    closes = any(delete.protocol == ProtocolId.IKE for delete in message.all(DeletePayload))
    old = sa.candidate_for
    if old is not None and old.alive and not closes:
        _adopt(ctx, old, sa, now)


def answer_rekey(ctx: Context, sa: IkeSa, message: Message, now: float) -> tuple[Payload, ...]:
    """The responder's half. Raises IkeError; TEMPORARY_FAILURE as section 2.25 asks."""
    _refuse_in_collision(sa)
    sa_payload, nonce = message.find(SaPayload), message.find(NoncePayload)
    if sa_payload is None or nonce is None:
        raise InvalidSyntax("IKE_SA rekey request without SA or nonce")
    own = sa.connection.ike_proposals
    proposal = choose_proposal(sa_payload.proposals, own, ProtocolId.IKE)
    peer_spi = _ike_spi(proposal)
    additional = additional_methods(proposal)
    if additional:
        check_room(sa)
    ke_reply, secret = answer_ke(ctx, message, ke_method(proposal))
    nonce_r = ctx.rng.randbytes(NONCE_SIZE)
    nonces = (checked_nonce(nonce), nonce_r)
    spis = (peer_spi, ctx.new_ike_spi())
    agreed = _Agreed(proposal, nonces, spis, secret, ppk=fresh_choice(sa, message))
    link: tuple[Payload, ...] = ()
    if additional:
        link = (keep(ctx, sa, HalfMadeIke(additional, agreed), now),)
    else:
        _admit(ctx, sa, agreed, now)
    chosen = Proposal(proposal.number, proposal.protocol, spis[1], proposal.transforms)
    nonce_payload = NoncePayload(nonce_r)
    return (SaPayload((chosen,)), nonce_payload, *ke_reply, *confirmed(agreed.ppk), *link)


class HalfMadeIke(HalfMade):
    """An IKE_SA that waits for additional key exchanges."""

    def __init__(self, methods: tuple[KeMethod, ...], agreed: _Agreed) -> None:
        super().__init__(methods)
        self.agreed = agreed

    @override
    def complete(self, ctx: Context, sa: IkeSa, now: float) -> None:
        _refuse_in_collision(sa)
        if self.agreed.spis[1] in ctx.sas:
            raise StateNotFound("the new IKE_SA's SPI is taken")
        _admit(ctx, sa, replace(self.agreed, additional=self.secrets), now)


def _admit(ctx: Context, sa: IkeSa, agreed: _Agreed, now: float) -> None:
    """The responder has made a new IKE_SA, which takes over unless this end is rekeying as well."""
    new = _make(ctx, sa, agreed, initiator=False, now=now)
    if rekeys_ike(sa):
        new.candidate_for = sa
        sa.candidates.append(new)
        # Long enough for the peer's rekey and its DELETE of what came of it.
        due = now + 2.0 * patience(sa.connection)
        ctx.timers.set(new.own_spi, TimerKind.CANDIDATE, due)
    else:
        _adopt(ctx, sa, new, now)


def _refuse_in_collision(sa: IkeSa) -> None:
    if not sa.alive:
        raise TemporaryFailure(f"the IKE_SA is {sa.state.value}")
    busy = next((task for task in sa.under_way() if task.touches_children), None)
    if busy is not None:
        raise TemporaryFailure(f"busy with: {busy.name}")
    if live_candidate(sa) is not None:
        raise TemporaryFailure("a rekey of the IKE_SA is being settled")


def _make(
    ctx: Context,
    old: IkeSa,
    agreed: _Agreed,
    *,
    initiator: bool,
    now: float,
) -> IkeSa:
    """The new IKE_SA with its keys (section 2.18), in the table but not yet in service."""
    assert old.prf is not None
    assert old.keys is not None
    proposal, nonces, spis = agreed.proposal, agreed.nonces, agreed.spis
    prf, suite = prf_of(proposal.transforms), suite_of(proposal.transforms)
    sk_d = old.keys.sk_d
    if agreed.ppk is not None:
        sk_d = mix_sk_d(old.prf, sk_d, agreed.ppk.key)
    seed = rekey_skeyseed(old.prf, sk_d, *nonces, agreed.secret, agreed.additional)
    keys = ike_keys(prf, suite, seed, nonces, spis)
    new = IkeSa(
        spi_i=spis[0],
        spi_r=spis[1],
        initiator=initiator,
        connection=old.connection,
        path=old.path,
        state=IkeState.CANDIDATE,
        created=now,
        proposal=proposal,
        prf=prf,
        keys=keys,
        protection=MessageProtection(suite, keys, initiator=initiator, rng=ctx.rng),
        nonce_i=nonces[0],
        nonce_r=nonces[1],
        ppk=agreed.ppk if agreed.ppk is not None else old.ppk,
        own_offers=old.own_offers,
        peer_offers=old.peer_offers,
        own_behind_nat=old.own_behind_nat,
        peer_behind_nat=old.peer_behind_nat,
        nat_traversal=old.nat_traversal,
        mobility=old.mobility,
        round_trip=old.round_trip,
        last_received=now,
        last_sent=now,
        lowest_nonce=min(nonces),
    )
    ctx.sas[new.own_spi] = new
    log_keys(ctx, new)
    return new


def _ike_spi(proposal: Proposal) -> bytes:
    """The new SPI that a rekey's proposal must carry (section 1.3.2). Raises InvalidSyntax."""
    if len(proposal.spi) != IKE_SPI_SIZE or not any(proposal.spi):
        raise InvalidSyntax(f"IKE_SA rekey with an SPI of {len(proposal.spi)} octets, 8 needed")
    return proposal.spi
