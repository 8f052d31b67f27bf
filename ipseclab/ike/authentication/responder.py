"""The responder's half of IKE_AUTH: what it remembers between requests, and what it answers.

RFC 7296 sections 1.2, 2.4 (INITIAL_CONTACT), 2.15; RFC 4739 (several rounds). `rounds.py` draws the
exchange. All errors end the IKE_SA, except those about the CHILD_SA.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipseclab.errors import IkeError, InvalidSyntax
from ipseclab.ike.authentication.extensions import EXTENSIONS
from ipseclab.ike.authentication.identities import (
    check_algorithms,
    check_peer_identity,
    connection_of,
    identity_of,
    own_identity,
)
from ipseclab.ike.authentication.methods import prove, verify
from ipseclab.ike.authentication.rounds import ANOTHER, Progress, Step, arranged
from ipseclab.ike.child import answer_child
from ipseclab.ike.config import NullAuth
from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import announce, close_ike, establish
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import NotifyType, PayloadType
from ipseclab.wire.payloads import (
    AuthPayload,
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
        sa.authentication = AuthResponder(message)
        sa.round_trip = now - sa.created
    return sa.authentication.answer(ctx, sa, message, now)


@dataclass(slots=True)
class AuthResponder:
    """One IKE_AUTH from its first request to its last."""

    first: OpenedMessage
    """What it asks for is granted in the last response."""
    progress: Progress = field(default_factory=Progress)

    def answer(
        self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """The payloads of the response."""
        progress = self.progress
        progress.exchanges += 1
        if progress.step is Step.ROUND:
            self._peer_round(ctx, sa, message)
        proof = self._own_round(sa)
        progress.step = progress.following(sa)
        if progress.step is Step.DONE:
            sa.authentication = None
            return (*proof, *self._finish(ctx, sa, message, now))
        progress.check_limit(ctx)
        patience = ctx.config.limits.authentication_timeout
        ctx.timers.set(sa.own_spi, TimerKind.HALF_OPEN, sa.created + patience)
        return proof

    def _peer_round(self, ctx: Context, sa: IkeSa, message: OpenedMessage) -> None:
        """The initiator begins a round. Raises AuthenticationFailed, InvalidSyntax."""
        progress = self.progress
        peer_id, auth = message.find(IdiPayload), message.find(AuthPayload)
        if peer_id is None:
            raise InvalidSyntax("IKE_AUTH request without IDi")
        if progress.exchanges == 1:
            asked = message.find(IdrPayload)
            sa.connection = connection_of(ctx, sa, peer_id, asked, eap=auth is None)
        check_peer_identity(sa, progress.peer_done, identity_of(peer_id))
        progress.peer_id = message.body(PayloadType.IDI)
        if auth is None:
            raise InvalidSyntax("IKE_AUTH request without AUTH")
        rounds = sa.connection.peer_rounds
        verify(sa, rounds[progress.peer_done], auth, progress.peer_id)
        if not progress.peer_done:
            check_algorithms(sa)
        progress.peer_done += 1
        progress.check_follows(message, len(rounds))

    def _own_round(self, sa: IkeSa) -> tuple[Payload, ...]:
        """IDr, CERT and AUTH of the next own round; nothing when there is none."""
        progress, rounds = self.progress, sa.connection.own_rounds
        if progress.own_done == len(rounds):
            return ()
        how = rounds[progress.own_done]
        identity = own_identity(sa.connection, how)
        own_id = IdrPayload(identity.id_type, identity.data)
        progress.own_id = own_id.encode()
        certificates, auth = prove(sa, how, progress.own_id)
        progress.own_done += 1
        another = (ANOTHER,) if progress.own_done < len(rounds) else ()
        return (own_id, *certificates, auth, *another)

    def _finish(
        self, ctx: Context, sa: IkeSa, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """Both ends are authenticated: the IKE_SA enters service, and what was asked is granted."""
        if self.first.notify(NotifyType.INITIAL_CONTACT) is not None and not _nobody(sa):
            _believe_initial_contact(ctx, sa, now)
        establish(ctx, sa, now)
        announce(ctx, sa)
        try:
            granted = [
                payload
                for extension in EXTENSIONS
                for payload in extension.last_response(ctx, sa, self.first, last, now)
            ]
            return arranged(self._child(ctx, sa), granted)
        except IkeError as problem:
            ctx.notice("child_failed", connection=sa.connection.name, reason=str(problem))
            return (NotifyPayload(problem.notify, problem.notification_data()),)

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
