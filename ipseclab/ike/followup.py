"""IKE_FOLLOWUP_KE: additional key exchanges after CREATE_CHILD_SA (RFC 9370 section 2.2.4).

    HDR(CREATE_CHILD_SA), SK {SA, Ni, KEi ...}  -->
                              <--  HDR(CREATE_CHILD_SA), SK {SA, Nr, KEr ...,
                                       N(ADDITIONAL_KEY_EXCHANGE)(link1)}
    HDR(IKE_FOLLOWUP_KE), SK {KEi(1), N(ADDITIONAL_KEY_EXCHANGE)(link1)}  -->
                              <--  HDR(IKE_FOLLOWUP_KE), SK {KEr(1),
                                       N(ADDITIONAL_KEY_EXCHANGE)(link2)}

The last response holds no link. Until then the responder keeps a half-made SA, found by the link
that it gave out; the SA is made by the last exchange, with the secrets of all. How rekeys that
collide are settled (RFC 7296 section 2.8.1) does not change: the nonces are CREATE_CHILD_SA's.
"""

from __future__ import annotations

from typing import Protocol

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import IkeError, InvalidSyntax, StateNotFound, TemporaryFailure
from ipseclab.ike.context import Context
from ipseclab.ike.key_exchange import agree, expected_ke, respond, tell
from ipseclab.ike.lifecycle import patience
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import ChildSa, IkeSa
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import KePayload, NotifyPayload, Payload

LINK_SIZE = 8
MAX_HALF_MADE = 4
"""SAs of one IKE_SA whose key exchanges are not all done; an honest peer has one at a time, and one
more for each that it gave up."""


class Continued(Protocol):
    """The initiator's task whose SA the additional key exchanges complete."""

    @property
    def subject(self) -> ChildSa | None:
        """The CHILD_SA that is rekeyed, if one is."""

    def finish(self, ctx: Context, sa: IkeSa, additional: bytes, now: float) -> None:
        """All are done: `additional` is SK(1) | ... | SK(n)."""

    def put_off(self, ctx: Context, sa: IkeSa, kind: NotifyType, now: float) -> None:
        """The peer refused one of them."""

    def unusable(self, ctx: Context, sa: IkeSa) -> None:
        """The peer has made the SA, and this end cannot."""

    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """They will not be finished."""


class Followup(Task):
    """The initiator's half of one additional key exchange, and those that follow it."""

    exchange = ExchangeType.IKE_FOLLOWUP_KE
    name = "IKE_FOLLOWUP_KE for the IKE_SA"
    follows_succession = False

    def __init__(
        self, parent: Continued, methods: tuple[KeMethod, ...], link: bytes, secrets: bytes = b""
    ) -> None:
        self.parent = parent
        self.methods = methods
        self.link = link
        self.secrets = secrets
        self.private: KeyExchangePrivate

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        method = self.methods[0]
        self.private = KE_METHODS[method].generate(ctx.rng)
        tell(ctx, method, "generate")
        return (KePayload(method, self.private.public), _linked(self.link))

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        errors = [n for n in message.all(NotifyPayload) if n.notify_type.is_error]
        if errors:
            self.parent.put_off(ctx, sa, errors[0].notify_type, now)
            return
        method, *rest = self.methods
        try:
            secrets = self.secrets + agree(self.private, expected_ke(message, method))
        except InvalidSyntax:
            if not rest:
                self.parent.unusable(ctx, sa)
            raise
        tell(ctx, method, "agree")
        if rest:
            follow_up = type(self)(self.parent, tuple(rest), link_in(message), secrets)
            ctx.queue(sa, follow_up, first=True)
        else:
            self.parent.finish(ctx, sa, secrets, now)

    @override
    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        self.parent.abandoned(ctx, sa, now)


class ChildFollowup(Followup):
    """The same for a CHILD_SA."""

    name = "IKE_FOLLOWUP_KE for a CHILD_SA"
    touches_children = True
    exclusive = False

    @property
    @override
    def subject(self) -> ChildSa | None:
        return self.parent.subject


def link_in(message: Message) -> bytes:
    """The link that a message holds. Raises InvalidSyntax."""
    notify = message.notify(NotifyType.ADDITIONAL_KEY_EXCHANGE)
    if notify is None or not notify.data:
        raise InvalidSyntax(f"{message.exchange.name} without ADDITIONAL_KEY_EXCHANGE")
    return notify.data


def _linked(link: bytes) -> NotifyPayload:
    return NotifyPayload(NotifyType.ADDITIONAL_KEY_EXCHANGE, link)


class HalfMade:
    """What the responder keeps of an SA until the last of its key exchanges."""

    def __init__(self, methods: tuple[KeMethod, ...]) -> None:
        self.methods = methods
        self.secrets = b""
        self.due = 0.0
        """When it is given up."""

    def complete(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Make the SA; `secrets` is SK(1) | ... | SK(n). Raises IkeError."""
        raise AssertionError(f"{type(self).__name__} completes nothing")

    def dropped(self) -> None:
        """It will not be finished: put back what was changed for it."""


def check_room(sa: IkeSa) -> None:
    """Raises TemporaryFailure when too many SAs are half-made."""
    if len(sa.half_made) >= MAX_HALF_MADE:
        raise TemporaryFailure(f"{len(sa.half_made)} SAs wait for their key exchanges")


def keep(ctx: Context, sa: IkeSa, half: HalfMade, now: float) -> NotifyPayload:
    """Wait for the next key exchange of `half`: the Notify with the link that it must name."""
    link = ctx.rng.randbytes(LINK_SIZE)
    half.due = now + patience(sa.connection)
    sa.half_made[link] = half
    ctx.timers.set(sa.own_spi, TimerKind.HALF_MADE, min(h.due for h in sa.half_made.values()))
    return _linked(link)


def answer_followup(
    ctx: Context, sa: IkeSa, message: OpenedMessage, now: float
) -> tuple[Payload, ...]:
    """The responder's half. Raises IkeError."""
    half = sa.half_made.pop(link_in(message), None)
    if half is None:
        raise StateNotFound("no half-made SA has that link")
    try:
        return _take(ctx, sa, half, message, now)
    except IkeError:
        half.dropped()
        raise


def _take(
    ctx: Context, sa: IkeSa, half: HalfMade, message: OpenedMessage, now: float
) -> tuple[Payload, ...]:
    method, *rest = half.methods
    reply, secret = respond(ctx, expected_ke(message, method))
    tell(ctx, method, "respond")
    half.secrets += secret
    half.methods = tuple(rest)
    if rest:
        return (reply, keep(ctx, sa, half, now))
    half.complete(ctx, sa, now)
    return (reply,)


def drop_overdue(ctx: Context, sa: IkeSa, now: float) -> None:
    """Give up what nobody finished (RFC 9370 section 2.2.4 lets the responder choose when)."""
    for link, half in tuple(sa.half_made.items()):
        if half.due <= now:
            del sa.half_made[link]
            half.dropped()
            ctx.notice("half_made_dropped", spi_i=sa.spi_i.hex())
    if sa.half_made:
        ctx.timers.set(sa.own_spi, TimerKind.HALF_MADE, min(h.due for h in sa.half_made.values()))
