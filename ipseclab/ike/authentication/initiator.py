"""The initiator's half of IKE_AUTH: one task that sends as many requests as the rounds take.

RFC 7296 sections 1.2, 2.15, 2.16 and 2.21.2; RFC 4739 (several rounds). `rounds.py` draws the
exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from typing_extensions import override

from ipseclab.errors import AuthenticationFailed, IkeError, InvalidSyntax
from ipseclab.ike.auth_puzzle import take_solution
from ipseclab.ike.authentication import ppk
from ipseclab.ike.authentication.extensions import EXTENSIONS
from ipseclab.ike.authentication.identities import (
    check_peer_identity,
    eap_user,
    identity_of,
    own_identity,
)
from ipseclab.ike.authentication.methods import (
    build_certificates,
    prove,
    prove_by_key,
    verify,
    verify_by_key,
)
from ipseclab.ike.authentication.rounds import ANOTHER, EAP_ONLY, SEVERAL, Progress, Step, arranged
from ipseclab.ike.certificates import build_certreqs
from ipseclab.ike.child import ChildOffer, finish_child, narrowed, offer_child
from ipseclab.ike.config import ANY_IDENTITY, Identity
from ipseclab.ike.context import Context
from ipseclab.ike.create import ask_for_pair, make_further
from ipseclab.ike.eap.method import EapRefused
from ipseclab.ike.eap.peer import EapPeer, PeerSetting
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly
from ipseclab.ike.informational import CloseAfterFailure, DeleteSpi
from ipseclab.ike.keys import IkeKeys
from ipseclab.ike.lifecycle import announce, close_ike, establish
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.selectors import ChildWish
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, NotifyType, PayloadType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    AuthPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    SaPayload,
)

FATAL = (
    NotifyType.AUTHENTICATION_FAILED,
    NotifyType.INVALID_SYNTAX,
    NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
)
"""What ends the IKE_SA even if it stands in a response after both ends are authenticated; any other
error there is about the CHILD_SA (RFC 7296 sections 1.2 and 2.21.2)."""


class AuthTask(Task):
    """Both ends' rounds as the initiator sees them; one object lives through all exchanges."""

    exchange = ExchangeType.IKE_AUTH
    name = "IKE_AUTH"

    def __init__(self) -> None:
        self.progress = Progress()
        self.offer: ChildOffer | None = None
        self.eap: EapPeer | None = None
        """While a round by EAP is under way."""
        self.ppk_proposed = False
        """True while the response is awaited that says whether the PPK is used."""
        self.eap_answer: EapPayload | None = None

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        several = len(sa.connection.own_rounds) > 1
        if several and NotifyType.MULTIPLE_AUTH_SUPPORTED not in sa.peer_offers:
            self._fail(ctx, sa, "the responder takes one round of authentication alone", now)
            return None
        self.progress.exchanges += 1
        try:
            ppk.check_possible(sa)
            match self.progress.step:
                case Step.ROUND:
                    return self._start_round(ctx, sa)
                case Step.EAP:
                    assert self.eap_answer is not None
                    return (self.eap_answer,)
                case Step.EAP_AUTH:
                    return self._auth_by_key(ctx, sa)
                case _:
                    return ()
        except AuthenticationFailed as problem:
            self._fail(ctx, sa, str(problem), now)
            return None

    def _start_round(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        connection, progress = sa.connection, self.progress
        how = connection.own_rounds[progress.own_done]
        identity = own_identity(connection, how)
        own_id = IdiPayload(identity.id_type, identity.data)
        progress.own_id = own_id.encode()
        assert sa.keys is not None
        certificates: tuple[Payload, ...] = ()
        proof: tuple[Payload, ...] = ()
        match how:
            case EapAuth():
                self.eap = self._eap_peer(ctx, sa, how, identity)
            case EapOnly():
                raise AuthenticationFailed("EAP alone authenticates responders, not initiators")
            case _:
                certificates = build_certificates(sa, how)
                proof = self._own_auth(sa, partial(prove, sa, how, progress.own_id))
        more = self._last_request(ctx, sa)
        if progress.exchanges > 1:
            return (own_id, *certificates, *proof, *more)
        first = (*certificates, *self._first_request(ctx, sa, proof, more))
        return (*take_solution(sa), own_id, *first)

    @staticmethod
    def _eap_peer(ctx: Context, sa: IkeSa, how: EapAuth, identity: Identity) -> EapPeer:
        user = how.eap_identity if how.eap_identity is not None else eap_user(identity)
        mutual_only = isinstance(sa.connection.peer_rounds[0], EapOnly)
        return EapPeer(PeerSetting(how, user, mutual_only), rng=ctx.rng)

    def _auth_by_key(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        """The end of a round by EAP."""
        assert self.eap is not None
        proof = self._own_auth(sa, partial(prove_by_key, sa, self.eap.key, self.progress.own_id))
        return (*proof, *self._last_request(ctx, sa))

    def _own_auth(
        self, sa: IkeSa, prove_with: Callable[[IkeKeys], AuthPayload]
    ) -> tuple[Payload, ...]:
        """The round's AUTH, the PPK beside the first, and whether this end has another round."""
        assert sa.keys is not None
        beside: tuple[Payload, ...] = ()
        if self.progress.own_done == 0:
            auth, beside = ppk.propose(sa, prove_with)
            self.ppk_proposed = True
        else:
            auth = prove_with(sa.keys)
        self.progress.own_done += 1
        another = self.progress.own_done < len(sa.connection.own_rounds)
        return (auth, *((ANOTHER,) if another else ()), *beside)

    def _first_request(
        self, ctx: Context, sa: IkeSa, proof: tuple[Payload, ...], more: Iterable[Payload]
    ) -> tuple[Payload, ...]:
        """What follows IDi and CERT in the first request, which alone asks for the CHILD_SA."""
        connection = sa.connection
        contact = connection.initial_contact and not ctx.others(sa)
        several = len(connection.own_rounds) > 1 or len(connection.peer_rounds) > 1
        child: tuple[Payload, ...] = ()
        if all(extension.wants_child(ctx, sa) for extension in EXTENSIONS):
            self.offer = offer_child(ctx, sa, connection, with_ke=None, wish=ChildWish(sa.trigger))
            child = self.offer.payloads
        asked = [p for extension in EXTENSIONS for p in extension.first_request(ctx, sa)]
        return (
            *((NotifyPayload(NotifyType.INITIAL_CONTACT),) if contact else ()),
            *build_certreqs(connection.peer_rounds),
            *self._asked_identity(connection.peer_id),
            *proof,
            *((SEVERAL,) if several else ()),
            *((EAP_ONLY,) if isinstance(connection.peer_rounds[0], EapOnly) else ()),
            *arranged(child, (*asked, *more)),
        )

    @staticmethod
    def _asked_identity(identity: Identity) -> tuple[Payload, ...]:
        if identity == ANY_IDENTITY:
            return ()
        return (IdrPayload(identity.id_type, identity.data),)

    def _last_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        """What features say with this end's last AUTH; nothing before."""
        if self.progress.own_done < len(sa.connection.own_rounds):
            return ()
        return tuple(p for extension in EXTENSIONS for p in extension.last_request(ctx, sa))

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        error = _error_of(message)
        refused = error is not None and message.find(AuthPayload) is None
        if refused and (error in FATAL or not self.progress.through(sa)):
            assert error is not None
            self._fail(ctx, sa, error.name, now)
            return
        try:
            self._take(ctx, sa, message, now)
            self._advance(ctx, sa, message, now)
        except EapRefused as problem:
            self._fail(ctx, sa, str(problem), now)
            return
        except IkeError as problem:
            # Section 2.21.2: the peer believes that the IKE_SA stands, or waits for more, so it
            # must be told.
            ctx.notice("auth_failed", connection=sa.connection.name, reason=str(problem))
            ctx.queue(sa, CloseAfterFailure(problem), first=True)
            return
        if self.progress.step is not Step.DONE:
            ctx.queue(sa, self, first=True)
            return
        self._finish(ctx, sa, message, error, now)

    @staticmethod
    def _fail(ctx: Context, sa: IkeSa, reason: str, now: float) -> None:
        ctx.notice("auth_failed", connection=sa.connection.name, reason=reason)
        close_ike(ctx, sa, reason, now)

    def _take(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        """What the responder proves of itself in this response. Raises AuthenticationFailed."""
        progress, rounds = self.progress, sa.connection.peer_rounds
        if self.ppk_proposed:
            ppk.settle(sa, message)
            self.ppk_proposed = False
        peer_id, auth = message.find(IdrPayload), message.find(AuthPayload)
        if peer_id is not None:
            progress.peer_id = message.body(PayloadType.IDR)
            progress.peer = identity_of(peer_id)
            check_peer_identity(sa, progress.peer_done, progress.peer)
        if auth is None:
            return
        assert sa.keys is not None
        if progress.step is Step.EAP_AUTH:
            assert self.eap is not None
            verify_by_key(sa, self.eap.key, auth, progress.peer_id, sa.keys)
            self.eap = None
            owed = progress.peer_done < len(rounds)
            if owed and isinstance(rounds[progress.peer_done], EapOnly):
                progress.peer_done += 1
        else:
            if progress.peer_done == len(rounds):
                raise AuthenticationFailed("one AUTH more than the responder owes")
            how = rounds[progress.peer_done]
            if isinstance(how, EapOnly | EapDemand):
                raise AuthenticationFailed("AUTH of a responder that EAP is to authenticate")
            verify(sa, how, progress.proof(message, ctx.config.time_of_day(now)), sa.keys)
            progress.peer_done += 1
        progress.check_follows(message, len(rounds))

    def _advance(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        """Decide what comes next. Raises IkeError when nothing can."""
        progress = self.progress
        if self.eap is not None:
            self._advance_eap(ctx, sa, message, now)
        elif not progress.peer_done:
            raise AuthenticationFailed("IKE_AUTH response without AUTH")
        else:
            progress.step = progress.following(sa)
        if progress.step is not Step.DONE:
            progress.check_limit(ctx)
            if message.find(SaPayload) is not None:
                raise InvalidSyntax("the responder ends IKE_AUTH before all have authenticated")

    def _advance_eap(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        """Answer the EAP packet, or go on to AUTH after Success. Raises IkeError."""
        assert self.eap is not None
        packet = message.find(EapPayload)
        if packet is None:
            raise AuthenticationFailed(f"IKE_AUTH response without {_owed(self.progress.step)}")
        alone = isinstance(sa.connection.peer_rounds[0], EapOnly)
        if alone and not self.progress.peer_id:
            raise InvalidSyntax("IKE_AUTH response without IDr")
        if not alone and not self.progress.peer_done:
            # Nobody may be shown a password before it has proved who it is.
            raise AuthenticationFailed("the responder begins EAP without an AUTH of its own")
        time = ctx.config.time_of_day(now)
        self.eap_answer = self.eap.answer(packet, self.progress.peer, time)
        self.progress.step = Step.EAP if self.eap_answer is not None else Step.EAP_AUTH

    def _finish(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage, error: NotifyType | None, now: float
    ) -> None:
        """Both ends are authenticated: the IKE_SA enters service, then its first CHILD_SA."""
        establish(ctx, sa, now)
        announce(ctx, sa)
        made = self.offer is not None and message.find(SaPayload) is not None
        try:
            for extension in EXTENSIONS:
                extension.finish(ctx, sa, message, now)
        except IkeError:
            if made and self.offer is not None:
                ctx.queue(sa, DeleteSpi(self.offer.spi_in, self.offer.connection.child_protocol))
            raise
        if self.offer is not None and made:
            nonces = (sa.nonce_i, sa.nonce_r)
            offer = narrowed(self.offer, sa.connection)
            child = finish_child(ctx, sa, offer, message, nonces, b"")
            make_further(ctx, child, message)
        elif self.offer is not None:
            reason = error.name if error is not None else "no SA payload"
            ctx.notice("child_failed", connection=sa.connection.name, reason=reason)
            if error == NotifyType.SINGLE_PAIR_REQUIRED:
                ask_for_pair(ctx, sa, sa.connection, sa.trigger)


def _error_of(message: Message) -> NotifyType | None:
    """The first error notification, if any."""
    errors = (n.notify_type for n in message.all(NotifyPayload) if n.notify_type.is_error)
    return next(errors, None)


def _owed(step: Step) -> str:
    return "AUTH" if step is Step.EAP_AUTH else "EAP"
