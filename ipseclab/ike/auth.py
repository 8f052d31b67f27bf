"""IKE_AUTH with pre-shared keys, and the first CHILD_SA.

RFC 7296 sections 1.2, 2.15, 2.16 and 2.21.2.

    Initiator                         Responder
    HDR, SK {IDi, [N(INITIAL_CONTACT),] [IDr,]
      AUTH, SAi2, TSi, TSr}  -->
                             <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}

If only the CHILD_SA cannot be made, the IKE_SA stands and a Notify says why (section 1.2).
"""

from __future__ import annotations

import hmac

from typing_extensions import override

from ipseclab.errors import AuthenticationFailed, IkeError, InvalidSyntax, NoProposalChosen
from ipseclab.ike.child import ChildOffer, answer_child, finish_child, offer_child
from ipseclab.ike.config import ConnectionConfig, Identity
from ipseclab.ike.context import Context
from ipseclab.ike.informational import CloseAfterFailure
from ipseclab.ike.keys import psk_auth, signed_octets
from ipseclab.ike.lifecycle import announce, close_ike, establish
from ipseclab.ike.negotiation import choose_proposal
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.task import Task
from ipseclab.registry import AuthMethod, ExchangeType, NotifyType, PayloadType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    AuthPayload,
    IdiPayload,
    IdrPayload,
    NotifyPayload,
    Payload,
    SaPayload,
)


class AuthTask(Task):
    """The initiator's half of IKE_AUTH."""

    exchange = ExchangeType.IKE_AUTH
    name = "IKE_AUTH"

    def __init__(self) -> None:
        self.offer: ChildOffer | None = None

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        connection = sa.connection
        self.offer = offer_child(ctx, sa, connection, with_ke=None)
        own_id = IdiPayload(connection.own_id.id_type, connection.own_id.data)
        contact = connection.initial_contact and not ctx.others(sa)
        return (
            own_id,
            *((NotifyPayload(NotifyType.INITIAL_CONTACT),) if contact else ()),
            IdrPayload(connection.peer_id.id_type, connection.peer_id.data),
            AuthPayload(AuthMethod.SHARED_KEY, _auth_value(sa, own_id.encode(), by_initiator=True)),
            *self.offer.payloads,
        )

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        assert self.offer is not None
        error = _error_of(message)
        if message.find(AuthPayload) is None:
            reason = error.name if error is not None else "IKE_AUTH response without AUTH"
            ctx.notice("auth_failed", connection=sa.connection.name, reason=reason)
            close_ike(ctx, sa, reason, now)
            return
        try:
            self._check_peer(sa, message)
        except IkeError as problem:
            # Section 2.21.2: the peer believes that the IKE_SA stands, so it must be told.
            ctx.notice("auth_failed", connection=sa.connection.name, reason=str(problem))
            ctx.queue(sa, CloseAfterFailure(problem), first=True)
            return
        establish(ctx, sa, now)
        announce(ctx, sa)
        if message.find(SaPayload) is None:
            reason = error.name if error is not None else "no SA payload"
            ctx.notice("child_failed", connection=sa.connection.name, reason=reason)
            return
        finish_child(ctx, sa, self.offer, message, (sa.nonce_i, sa.nonce_r), b"")

    @staticmethod
    def _check_peer(sa: IkeSa, message: OpenedMessage) -> None:
        """The responder's identity and AUTH. Raises AuthenticationFailed."""
        peer_id, auth = message.find(IdrPayload), message.find(AuthPayload)
        if peer_id is None or auth is None:
            raise AuthenticationFailed("IKE_AUTH response without IDr or AUTH")
        found = Identity(peer_id.id_type, peer_id.data)
        if found != sa.connection.peer_id:
            raise AuthenticationFailed(f"peer is {found}, expected {sa.connection.peer_id}")
        _verify(sa, auth, message.body(PayloadType.IDR), by_initiator=False)


def answer_auth(ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> tuple[Payload, ...]:
    """The responder's half of IKE_AUTH. Raises AuthenticationFailed and InvalidSyntax, which end
    the IKE_SA."""
    peer_id, auth = message.find(IdiPayload), message.find(AuthPayload)
    if peer_id is None or auth is None:
        raise InvalidSyntax("IKE_AUTH request without IDi or AUTH")
    sa.connection = _connection_of(ctx, sa, peer_id, message.find(IdrPayload))
    _verify(sa, auth, message.body(PayloadType.IDI), by_initiator=True)
    _check_algorithms(sa)
    own_id = IdrPayload(sa.connection.own_id.id_type, sa.connection.own_id.data)
    own_auth = AuthPayload(
        AuthMethod.SHARED_KEY, _auth_value(sa, own_id.encode(), by_initiator=False)
    )
    if message.notify(NotifyType.INITIAL_CONTACT) is not None:
        _believe_initial_contact(ctx, sa, now)
    sa.round_trip = now - sa.created
    establish(ctx, sa, now)
    announce(ctx, sa)
    try:
        nonces = (sa.nonce_i, sa.nonce_r)
        child = answer_child(ctx, sa, message, nonces, b"", in_auth=True, replaces=None)
    except IkeError as problem:
        ctx.notice("child_failed", connection=sa.connection.name, reason=str(problem))
        child = (NotifyPayload(problem.notify, problem.notification_data()),)
    return (own_id, own_auth, *child)


def _check_algorithms(sa: IkeSa) -> None:
    """IKE_SA_INIT chose among the proposals of every connection that the peer might mean; now that
    it is known which one, that must allow the choice. Raises AuthenticationFailed."""
    assert sa.proposal is not None
    try:
        choose_proposal((sa.proposal,), sa.connection.ike_proposals, ProtocolId.IKE)
    except NoProposalChosen as error:
        raise AuthenticationFailed(f"connection {sa.connection.name}: {error}") from error


def _connection_of(
    ctx: Context, sa: IkeSa, peer_id: IdiPayload, asked: IdrPayload | None
) -> ConnectionConfig:
    """The connection with those identities among the ones this peer may mean."""
    found = Identity(peer_id.id_type, peer_id.data)
    wanted = Identity(asked.id_type, asked.data) if asked is not None else None
    for connection in ctx.possible_connections(sa.path).by_peer_id.get(found, ()):
        if wanted in (None, connection.own_id):
            return connection
    raise AuthenticationFailed(f"no connection for peer {found} that asks for {wanted}")


def _believe_initial_contact(ctx: Context, sa: IkeSa, now: float) -> None:
    """Section 2.4: the peer asserts that it has no other IKE_SA with us.

    That was so when it sent IKE_AUTH, after our IKE_SA_INIT response: an IKE_SA that was
    established later may be one that both ends initiate at the same moment, and stays.
    """
    for other in ctx.others(sa):
        if other.established < sa.created:
            close_ike(ctx, other, "initial contact", now)


def _auth_value(sa: IkeSa, id_body: bytes, *, by_initiator: bool) -> bytes:
    assert sa.prf is not None
    assert sa.keys is not None
    message, nonce, sk_p = (
        (sa.init_request, sa.nonce_r, sa.keys.sk_pi)
        if by_initiator
        else (sa.init_response, sa.nonce_i, sa.keys.sk_pr)
    )
    octets = signed_octets(sa.prf, message, nonce, sk_p, id_body)
    return psk_auth(sa.prf, sa.connection.psk, octets)


def _verify(sa: IkeSa, auth: AuthPayload, id_body: bytes, *, by_initiator: bool) -> None:
    """Check the peer's AUTH over its ID payload's octets as received. Raises
    AuthenticationFailed."""
    if auth.method != AuthMethod.SHARED_KEY:
        raise AuthenticationFailed(f"AUTH method {auth.method.name}, expected SHARED_KEY")
    expected = _auth_value(sa, id_body, by_initiator=by_initiator)
    if not hmac.compare_digest(expected, auth.data):
        raise AuthenticationFailed("AUTH does not verify: the pre-shared keys differ")


def _error_of(message: Message) -> NotifyType | None:
    """The first error notification, if any."""
    errors = (n.notify_type for n in message.all(NotifyPayload) if n.notify_type.is_error)
    return next(errors, None)
