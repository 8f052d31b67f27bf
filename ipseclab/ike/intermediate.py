"""IKE_INTERMEDIATE: additional key exchanges between IKE_SA_INIT and IKE_AUTH.

RFC 9242 (the exchange, and how AUTH covers it), RFC 9370 section 2.2.2 (key exchanges in it).

    Initiator                         Responder
    HDR, SK {KEi(n)}  -->
                      <--  HDR, SK {KEr(n)}

Each exchange is protected with the keys that there were before it and leaves new ones behind, which
the next is protected with. The initiator takes them once it has the response, the responder once
its response is on its way; a repeated request is answered from the cache, whatever the keys are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import IntegrityFailure, InvalidSyntax
from ipseclab.ike.authentication.initiator import AuthTask
from ipseclab.ike.context import Context
from ipseclab.ike.init import derive
from ipseclab.ike.key_exchange import agree, expected_ke, respond, tell
from ipseclab.ike.keys import additional_skeyseed
from ipseclab.ike.protection import Envelope, Fragment, OpenedMessage, Verified, adjusted, head_of
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, KeMethod
from ipseclab.wire.message import encode_payloads
from ipseclab.wire.payloads import KePayload, NotifyPayload, Payload

MESSAGE_ID_SIZE = 4


def after_init(sa: IkeSa) -> Task:
    """What the initiator does next: one more key exchange, or IKE_AUTH when all are done."""
    return IntermediateTask(sa.additional[0]) if sa.additional else AuthTask()


class IntermediateTask(Task):
    """The initiator's half of one additional key exchange."""

    exchange = ExchangeType.IKE_INTERMEDIATE
    name = "IKE_INTERMEDIATE"

    def __init__(self, method: KeMethod) -> None:
        self.method = method
        self.private: KeyExchangePrivate
        self.payloads: tuple[Payload, ...] = ()

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        self.private = KE_METHODS[self.method].generate(ctx.rng)
        self.payloads = (KePayload(self.method, self.private.public),)
        tell(ctx, self.method, "generate")
        return self.payloads

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        errors = [n for n in message.all(NotifyPayload) if n.notify_type.is_error]
        if errors:
            raise InvalidSyntax(f"IKE_INTERMEDIATE refused: {errors[0].notify_type.name}")
        secret = agree(self.private, expected_ke(message, self.method))
        tell(ctx, self.method, "agree")
        envelope = Envelope(
            sa.spi_i, sa.spi_r, self.exchange, sa.initiator, False, message.message_id
        )
        _cover(sa, _plain(envelope, self.payloads), _plain_of(message), message.message_id)
        _take_keys(ctx, sa, secret)
        ctx.queue(sa, after_init(sa), first=True)


@dataclass(frozen=True, slots=True)
class PendingKeys:
    """Responder: what a key exchange came to, until its response is on its way."""

    request: bytes
    """What IntAuth covers of the request."""
    secret: bytes = field(repr=False)


def answer_intermediate(ctx: Context, sa: IkeSa, message: OpenedMessage) -> tuple[Payload, ...]:
    """The responder's half. Raises InvalidSyntax, which ends the IKE_SA."""
    if not sa.additional:
        raise InvalidSyntax("IKE_INTERMEDIATE, and no additional key exchange was agreed on")
    reply, secret = respond(ctx, expected_ke(message, sa.additional[0]))
    tell(ctx, reply.method, "respond")
    sa.pending_keys = PendingKeys(_plain_of(message), secret)
    return (reply,)


def finish_intermediate(
    ctx: Context, sa: IkeSa, envelope: Envelope, payloads: tuple[Payload, ...]
) -> None:
    """The response is sealed and sent: the new keys are in use from now on."""
    pending, sa.pending_keys = sa.pending_keys, None
    if pending is not None:
        _cover(sa, pending.request, _plain(envelope, payloads), envelope.message_id)
        sa.former_protection = sa.protection
        _take_keys(ctx, sa, pending.secret)


def open_request(sa: IkeSa, octets: bytes) -> Verified | Fragment:
    """A request, its ICV verified. Raises WireError, IntegrityFailure.

    One that changed the keys may come again in fragments, under the keys from before; it is known
    by its message ID alone, and answered from the cache.
    """
    assert sa.protection is not None
    try:
        received = sa.protection.open(octets)
    except IntegrityFailure:
        if sa.former_protection is None:
            raise
        received = sa.former_protection.open(octets)
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


def _take_keys(ctx: Context, sa: IkeSa, secret: bytes) -> None:
    """SKEYSEED(n), and all keys from it (RFC 9370 section 2.2.2)."""
    assert sa.prf is not None
    assert sa.keys is not None
    assert sa.proposal is not None
    sa.additional = sa.additional[1:]
    seed = additional_skeyseed(sa.prf, sa.keys.sk_d, sa.nonce_i, sa.nonce_r, secret)
    derive(ctx, sa, sa.proposal, seed)
