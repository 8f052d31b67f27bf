"""The responder's half of IKE_AUTH: what it remembers between requests, and what it answers.

RFC 7296 sections 1.2, 2.4 (INITIAL_CONTACT), 2.15; RFC 4739 (several rounds). `rounds.py` draws the
exchange. All errors end the IKE_SA, except those about the CHILD_SA.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipseclab.errors import AuthenticationFailed, IkeError, InvalidSyntax
from ipseclab.ike.auth_puzzle import check_solution
from ipseclab.ike.authentication import ppk
from ipseclab.ike.authentication.extensions import EXTENSIONS
from ipseclab.ike.authentication.identities import (
    check_algorithms,
    check_peer_identity,
    connection_of,
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
from ipseclab.ike.authentication.rounds import ANOTHER, EAP_ONLY, Progress, Step, arranged
from ipseclab.ike.certificates import taken_requests
from ipseclab.ike.child import answer_child
from ipseclab.ike.config import NullAuth
from ipseclab.ike.context import Context
from ipseclab.ike.eap.server import EapServer, ServerSetting
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly
from ipseclab.ike.lifecycle import announce, close_ike, establish
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import NotifyType, PayloadType
from ipseclab.wire.payloads import (
    AuthPayload,
    CertreqPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    SaPayload,
)


def answer_auth(ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> tuple[Payload, ...]:
    """The answer to one IKE_AUTH request. Raises AuthenticationFailed and InvalidSyntax, which end
    the IKE_SA."""
    if sa.authentication is None:
        check_solution(sa, message)
        sa.authentication = AuthResponder(message)
        sa.round_trip = now - sa.created
    return sa.authentication.answer(ctx, sa, message, now)


@dataclass(slots=True)
class AuthResponder:
    """One IKE_AUTH from its first request to its last."""

    first: OpenedMessage
    """What it asks for is granted in the last response."""
    progress: Progress = field(default_factory=Progress)
    eap: EapServer | None = None
    """While a round by EAP is under way."""
    ppk_used: bool = False
    """True until the initiator has been told so."""

    def answer(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """The payloads of the response."""
        progress = self.progress
        progress.exchanges += 1
        proof = self._advance(ctx, sa, message, now)
        if sa.close_reason:
            return proof
        if progress.step is Step.DONE:
            sa.authentication = None
            return (*proof, *self._finish(ctx, sa, message, now))
        progress.check_limit(ctx)
        patience = ctx.config.limits.authentication_timeout
        ctx.timers.set(sa.own_spi, TimerKind.HALF_OPEN, sa.created + patience)
        return proof

    def _advance(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """One exchange of a round. Raises AuthenticationFailed, InvalidSyntax."""
        progress = self.progress
        match progress.step:
            case Step.EAP:
                return self._go_on_with_eap(ctx, sa, message)
            case Step.EAP_AUTH:
                proof = self._end_eap(sa, message)
            case Step.ROUND if (begun := self._peer_round(ctx, sa, message, now)) is not None:
                progress.step = Step.EAP
                return (*(self._own_round(sa) if progress.exchanges == 1 else ()), begun)
            case _:
                proof = (*self._own_round(sa), *self._confirmed_ppk())
        progress.step = progress.following(sa)
        return proof

    def _peer_round(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float
    ) -> EapPayload | None:
        """The initiator begins a round; the first EAP packet when it is one by EAP. Raises
        AuthenticationFailed, InvalidSyntax."""
        progress = self.progress
        peer_id, auth = message.find(IdiPayload), message.find(AuthPayload)
        if peer_id is None:
            raise InvalidSyntax("IKE_AUTH request without IDi")
        if progress.exchanges == 1:
            asked = message.find(IdrPayload)
            sa.connection = connection_of(ctx, sa, peer_id, asked, eap=auth is None)
            if certreqs := taken_requests(message.all(CertreqPayload)):
                sa.peer_certreqs = certreqs
        progress.peer, progress.peer_id = identity_of(peer_id), message.body(PayloadType.IDI)
        check_peer_identity(sa, progress.peer_done, progress.peer)
        rounds = sa.connection.peer_rounds
        how = rounds[progress.peer_done]
        match how:
            case EapDemand():
                if auth is not None:
                    raise AuthenticationFailed("AUTH of an initiator that EAP is to authenticate")
                user = eap_user(progress.peer)
                time = ctx.config.time_of_day(now)
                setting = ServerSetting(how, user, progress.peer, time)
                self.eap = EapServer(setting, rng=ctx.rng)
                begun: EapPayload | None = self.eap.start()
            case EapOnly():
                raise AuthenticationFailed("EAP alone authenticates responders, not initiators")
            case _:
                proof = progress.proof(message, ctx.config.time_of_day(now))
                auth = self._auth_to_verify(sa, message, proof.auth)
                if auth is not proof.auth:
                    proof = replace(proof, auth=auth)
                assert sa.keys is not None
                verify(sa, how, proof, sa.keys)
                self._peer_done(sa, message)
                begun = None
        if progress.exchanges == 1:
            check_algorithms(sa)
        return begun

    def _auth_to_verify(self, sa: IkeSa, message: OpenedMessage, auth: AuthPayload) -> AuthPayload:
        """The initiator's AUTH, or what stands for it without a PPK."""
        if self.progress.peer_done:
            return auth
        auth, self.ppk_used = ppk.accept(sa, message, auth)
        return auth

    def _confirmed_ppk(self) -> tuple[Payload, ...]:
        """Said once, in the response to the PPK's name."""
        said, self.ppk_used = self.ppk_used, False
        return (ppk.CONFIRMED,) if said else ()

    def _peer_done(self, sa: IkeSa, message: OpenedMessage) -> None:
        self.progress.peer_done += 1
        self.progress.check_follows(message, len(sa.connection.peer_rounds))

    def _go_on_with_eap(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage
    ) -> tuple[Payload, ...]:
        """Answer an EAP packet. Raises InvalidSyntax, AuthenticationFailed."""
        assert self.eap is not None
        packet = message.find(EapPayload)
        if packet is None:
            raise InvalidSyntax("IKE_AUTH request without EAP")
        answer = self.eap.answer(packet)
        if self.eap.outcome is False:
            # RFC 7296 section 2.16: Failure is the last thing said on this IKE_SA.
            ctx.notice("auth_failed", connection=sa.connection.name, reason=self.eap.reason)
            sa.close_reason = self.eap.reason
        elif self.eap.outcome:
            self.progress.step = Step.EAP_AUTH
        return (answer,)

    def _end_eap(self, sa: IkeSa, message: OpenedMessage) -> tuple[Payload, ...]:
        """Both AUTH payloads with the key of the EAP method. Raises AuthenticationFailed."""
        progress = self.progress
        auth = message.find(AuthPayload)
        if auth is None:
            raise InvalidSyntax("IKE_AUTH request without AUTH after EAP")
        assert self.eap is not None
        auth = self._auth_to_verify(sa, message, auth)
        assert sa.keys is not None
        verify_by_key(sa, self.eap.key, auth, progress.peer_id, sa.keys)
        self._peer_done(sa, message)
        own = prove_by_key(sa, self.eap.key, progress.own_id, sa.keys)
        self.eap = None
        rounds = sa.connection.own_rounds
        if progress.own_done < len(rounds) and isinstance(rounds[progress.own_done], EapOnly):
            progress.own_done += 1
        another = (ANOTHER,) if progress.own_done < len(rounds) else ()
        return (own, *another, *self._confirmed_ppk())

    def _own_round(self, sa: IkeSa) -> tuple[Payload, ...]:
        """IDr, CERT and AUTH of the next own round, IDr alone where EAP is to authenticate this
        end; nothing when there is none."""
        progress, rounds = self.progress, sa.connection.own_rounds
        if progress.own_done == len(rounds):
            return ()
        how = rounds[progress.own_done]
        identity = own_identity(sa.connection, how)
        own_id = IdrPayload(identity.id_type, identity.data)
        progress.own_id = own_id.encode()
        match how:
            case EapOnly():
                if self.eap is None or self.first.notify(EAP_ONLY.notify_type) is None:
                    raise AuthenticationFailed("the initiator does not leave all to EAP")
                return (own_id,)
            case EapAuth():
                raise AuthenticationFailed("EAP authenticates initiators, not responders")
            case _:
                assert sa.keys is not None
                auth = prove(sa, how, progress.own_id, sa.keys)
        progress.own_done += 1
        another = (ANOTHER,) if progress.own_done < len(rounds) else ()
        return (own_id, *build_certificates(sa, how), auth, *another)

    def _finish(
        self, ctx: Context, sa: IkeSa, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """Both ends are authenticated: the IKE_SA enters service, and what was asked is granted."""
        if self.first.notify(NotifyType.INITIAL_CONTACT) is not None and not _nobody(sa):
            _believe_initial_contact(ctx, sa, now)
        establish(ctx, sa, now)
        announce(ctx, sa)
        granted: list[Payload] = []
        try:
            for extension in EXTENSIONS:
                granted += extension.last_response(ctx, sa, self.first, last, now)
            return arranged(self._child(ctx, sa), granted)
        except IkeError as problem:
            ctx.notice("child_failed", connection=sa.connection.name, reason=str(problem))
            refusal = NotifyPayload(problem.notify, problem.notification_data())
            return arranged((refusal,), granted)

    def _child(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        """SA, TSi and TSr of the first CHILD_SA. Raises IkeError."""
        wanted = all(extension.wants_child(ctx, sa) for extension in EXTENSIONS)
        if self.first.find(SaPayload) is None and not wanted:
            return ()
        nonces = (sa.nonce_i, sa.nonce_r)
        return answer_child(ctx, sa, self.first, nonces, b"", in_auth=True, replaces=None)


def _believe_initial_contact(ctx: Context, sa: IkeSa, now: float) -> None:
    """Section 2.4: the peer asserts that it has no other IKE_SA with us.

    That was so when it sent IKE_AUTH, after our IKE_SA_INIT response: an IKE_SA that was
    established later may be one that both ends initiate at the same moment, and stays.
    """
    for other in ctx.others(sa):
        if other.established < sa.created:
            close_ike(ctx, other, "initial contact", now)


def _nobody(sa: IkeSa) -> bool:
    """True when the peer proved no identity that could have had other IKE_SAs (RFC 7619 section
    2.2)."""
    return all(isinstance(how, NullAuth) for how in sa.connection.peer_rounds)
