"""IKE_INTERMEDIATE: additional key exchanges between IKE_SA_INIT and IKE_AUTH, and a PPK.

RFC 9242 (the exchange, and how AUTH covers it), RFC 9370 section 2.2.2 (key exchanges in it), RFC
9867 section 3.1 (a post-quantum preshared key, beside the last key exchange or alone).

    Initiator                         Responder
    HDR, SK {KEi(n), [N(PPK_IDENTITY_KEY)+]}  -->
                      <--  HDR, SK {KEr(n), [N(PPK_IDENTITY)]}

Each exchange is protected with the keys that there were before it and leaves new ones behind, which
the next is protected with. The initiator takes them once it has the response, the responder once
its response is on its way; a repeated request is answered from the cache, whatever the keys are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import AuthenticationFailed, IntegrityFailure, InvalidSyntax
from ipseclab.ike import ppk_exchange
from ipseclab.ike.authentication.initiator import AuthTask
from ipseclab.ike.config import Ppk
from ipseclab.ike.context import Context
from ipseclab.ike.init import derive
from ipseclab.ike.key_exchange import agree, expected_ke, respond, tell
from ipseclab.ike.keys import additional_skeyseed, ike_keys, ppk_skeyseed
from ipseclab.ike.proposals import suite_of
from ipseclab.ike.protection import Envelope, Fragment, OpenedMessage, Verified, adjusted, head_of
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.message import IkeHeader, encode_payloads
from ipseclab.wire.payloads import KePayload, NotifyPayload, Payload

MESSAGE_ID_SIZE = 4


def after_init(sa: IkeSa) -> Task:
    """What the initiator does next: one more key exchange, or IKE_AUTH when all are done."""
    if sa.additional:
        return IntermediateTask(sa.additional[0])
    return IntermediateTask(None) if sa.ppk_awaited else AuthTask()


class IntermediateTask(Task):
    """The initiator's half of one additional key exchange; without a method, of naming a PPK."""

    exchange = ExchangeType.IKE_INTERMEDIATE
    name = "IKE_INTERMEDIATE"

    def __init__(self, method: KeMethod | None) -> None:
        self.method = method
        self.private: KeyExchangePrivate
        self.payloads: tuple[Payload, ...] = ()
        self.ppks: tuple[Ppk, ...] = ()
        """Those that it names."""

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        ke: tuple[Payload, ...] = ()
        if self.method is not None:
            self.private = KE_METHODS[self.method].generate(ctx.rng)
            ke = (KePayload(self.method, self.private.public),)
            tell(ctx, self.method, "generate")
        if sa.ppk_awaited and len(sa.additional) <= 1:
            self.ppks = sa.connection.ppks
        self.payloads = (*ke, *ppk_exchange.named(sa, self.ppks))
        return self.payloads

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        errors = [n for n in message.all(NotifyPayload) if n.notify_type.is_error]
        if errors:
            raise InvalidSyntax(f"IKE_INTERMEDIATE refused: {errors[0].notify_type.name}")
        secret = None
        if self.method is not None:
            secret = agree(self.private, expected_ke(message, self.method))
            tell(ctx, self.method, "agree")
        ppk = ppk_exchange.taken(message, self.ppks)
        envelope = Envelope(
            sa.spi_i, sa.spi_r, self.exchange, sa.initiator, False, message.message_id
        )
        _cover(sa, _plain(envelope, self.payloads), _plain_of(message), message.message_id)
        sa.ppk_awaited = sa.ppk_awaited and not self.ppks
        _take_keys(ctx, sa, secret, ppk)
        ctx.queue(sa, after_init(sa), first=True)


@dataclass(frozen=True, slots=True)
class PendingKeys:
    """Responder: what an exchange came to, until its response is on its way."""

    request: bytes
    """What IntAuth covers of the request."""
    secret: bytes | None = field(repr=False)
    ppk: Ppk | None = None


def answer_intermediate(ctx: Context, sa: IkeSa, message: OpenedMessage) -> tuple[Payload, ...]:
    """The responder's half. Raises InvalidSyntax and AuthenticationFailed, which end the IKE_SA."""
    reply: tuple[Payload, ...] = ()
    secret = ppk = None
    if sa.additional:
        ke, secret = respond(ctx, expected_ke(message, sa.additional[0]))
        tell(ctx, ke.method, "respond")
        reply = (ke,)
    names = message.notify(NotifyType.PPK_IDENTITY_KEY) is not None
    if names and sa.ppk_awaited:
        ppk = _choose_ppk(ctx, sa, message)
    elif not reply:
        raise InvalidSyntax("IKE_INTERMEDIATE with neither key exchange nor PPK")
    sa.pending_keys = PendingKeys(_plain_of(message), secret, ppk)
    return (*reply, *ppk_exchange.confirmed(ppk))


def _choose_ppk(ctx: Context, sa: IkeSa, message: OpenedMessage) -> Ppk | None:
    """Which of the keys that the initiator names is used, None to go on without. Raises
    InvalidSyntax, and AuthenticationFailed where no connection may do without."""
    if len(sa.additional) > 1:
        raise InvalidSyntax("PPKs named before the last IKE_INTERMEDIATE")
    sa.ppk_awaited = False
    ppk = ppk_exchange.choose(sa, message, ppk_exchange.possible(ctx, sa))
    connections = ctx.possible_connections(sa.path).connections
    if ppk is None and all(connection.ppk_required for connection in connections):
        raise AuthenticationFailed("a PPK is required, and the initiator names none that is known")
    return ppk


def finish_intermediate(
    ctx: Context, sa: IkeSa, envelope: Envelope, payloads: tuple[Payload, ...]
) -> None:
    """The response is sealed and sent: the new keys are in use from now on."""
    pending, sa.pending_keys = sa.pending_keys, None
    if pending is not None:
        _cover(sa, pending.request, _plain(envelope, payloads), envelope.message_id)
        sa.former_protection = sa.protection
        _take_keys(ctx, sa, pending.secret, pending.ppk)


def open_request(sa: IkeSa, octets: bytes, header: IkeHeader) -> Verified | Fragment:
    """A request, its ICV verified. Raises WireError, IntegrityFailure.

    One that changed the keys may come again in fragments, under the keys from before; it is known
    by its message ID alone, and answered from the cache.
    """
    assert sa.protection is not None
    try:
        received = sa.protection.open(octets, header)
    except IntegrityFailure:
        if sa.former_protection is None:
            raise
        received = sa.former_protection.open(octets, header)
        if received.message.message_id not in sa.answered:
            raise
        return received
    sa.former_protection = None
    return received


def _cover(sa: IkeSa, request: bytes, response: bytes, message_id: int) -> None:
    """IntAuth_xN = prf(SK_pxN, IntAuth_x(N-1) | IntAuth_xNA | IntAuth_xNP), for x of i and r, and
    the message ID of the IKE_AUTH request that follows when this was the last exchange
    (RFC 9242 section 3.3.2). SK_p are the keys from before this exchange."""
    assert sa.prf is not None
    assert sa.keys is not None
    size = sa.prf.output_size
    by_initiator, by_responder = sa.int_auth[:size], sa.int_auth[size : 2 * size]
    by_initiator = sa.prf.prf(sa.keys.sk_pi, by_initiator + request)
    by_responder = sa.prf.prf(sa.keys.sk_pr, by_responder + response)
    following = (message_id + 1).to_bytes(MESSAGE_ID_SIZE, "big")
    sa.int_auth = by_initiator + by_responder + following


def _plain(envelope: Envelope, payloads: tuple[Payload, ...]) -> bytes:
    """IntAuth_A | IntAuth_P of a message of ours, as if it were neither padded nor sealed."""
    first, inner = encode_payloads(payloads)
    return head_of(envelope, first, len(inner)) + inner


def _plain_of(message: OpenedMessage) -> bytes:
    """IntAuth_A | IntAuth_P of a message of the peer's, its header's octets as received."""
    return adjusted(message.head, len(message.octets)) + message.octets


def _take_keys(ctx: Context, sa: IkeSa, secret: bytes | None, ppk: Ppk | None) -> None:
    """SKEYSEED(n), and all keys from it (RFC 9370 section 2.2.2); a PPK is mixed in after all else
    (RFC 9867 section 3.1.1)."""
    assert sa.prf is not None
    assert sa.keys is not None
    assert sa.proposal is not None
    seed, sk_d = None, sa.keys.sk_d
    nonces, spis = (sa.nonce_i, sa.nonce_r), (sa.spi_i, sa.spi_r)
    if secret is not None:
        sa.additional = sa.additional[1:]
        seed = additional_skeyseed(sa.prf, sk_d, *nonces, secret)
    if ppk is not None:
        if seed is not None:
            sk_d = ike_keys(sa.prf, suite_of(sa.proposal.transforms), seed, nonces, spis).sk_d
        seed, sa.ppk = ppk_skeyseed(sa.prf, sk_d, ppk.key), ppk
    if seed is not None:
        derive(ctx, sa, sa.proposal, seed)
