"""Reauthentication: a new IKE_SA from scratch in place of one whose authentication grows old.

RFC 7296 section 2.8.3, RFC 4478 (AUTH_LIFETIME). Make before break: the old IKE_SA and its
CHILD_SAs stay in use until the new one has CHILD_SAs for the same traffic, and are then deleted.

    IKE_SA_INIT, IKE_AUTH  -->  a new IKE_SA and its first CHILD_SA
    CREATE_CHILD_SA        -->  whatever else the old IKE_SA carries
    INFORMATIONAL          -->  DELETE of the old IKE_SA, on which it is sent

Who set the session up begins, `margin` before the end as for lifetimes; the other end does at the
very end, or closes the IKE_SA where it cannot begin: a user's password is the user's to show.

Both may begin at once, and each then has a new IKE_SA. Section 2.8.3 does not say which one stays;
here it is settled as section 2.8 settles rekeys: the one with the lowest of the four nonces of
IKE_SA_INIT is closed by the end that began it, once the other carries all that it does. A peer
without that rule keeps its own when it should close it; then both stay, which does no harm.
"""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.create import CreateChild
from ipseclab.ike.eap.settings import EapDemand, EapOnly
from ipseclab.ike.informational import REAUTHENTICATED, DeleteIke
from ipseclab.ike.lifecycle import REAUTH_RETRY, activate_child, arm_session, patience, postpone
from ipseclab.ike.sa import ChildSa, IkeSa
from ipseclab.ike.selectors import ChildWish
from ipseclab.ike.start import begin
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload

NO_CHILD = "no CHILD_SA for what the old IKE_SA carries"
TOO_OLD = "authentication is too old"
LIFETIME_SIZE = 4  # RFC 4478 section 3
SHORTEST = 10.0
"""Seconds of AUTH_LIFETIME that this end goes along with: whoever says less gets as much."""
GRACE = 30.0
"""Seconds that an end which had to begin at the very end has for it."""
EARLY, JITTER = 0.1, 0.5
"""The share of the lifetime before its end at which to begin, and of that share up to which to
begin still earlier."""


def lifetime_notify(sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """Responder: how long it takes the initiator's authentication for good."""
    seconds = sa.connection.reauthentication
    if seconds is None:
        return ()
    data = int(seconds).to_bytes(LIFETIME_SIZE, "big")
    return (NotifyPayload(NotifyType.AUTH_LIFETIME, data),)


def limit_of(message: Message) -> float | None:
    """What AUTH_LIFETIME in the peer's message says; None without, or without a sense."""
    notify = message.notify(NotifyType.AUTH_LIFETIME)
    if notify is None or len(notify.data) != LIFETIME_SIZE:
        return None
    seconds = int.from_bytes(notify.data, "big")
    return max(float(seconds), SHORTEST) if seconds else None


def schedule(ctx: Context, sa: IkeSa, limit: float | None, now: float) -> None:
    """`sa` was authenticated at `now`, for as long as the connection says, or `limit` if that is
    shorter."""
    limits = [one for one in (sa.connection.reauthentication, limit) if one is not None]
    if not limits:
        return
    seconds, session = min(limits), sa.session
    session.expires = now + seconds
    early = EARLY * (1.0 + JITTER * ctx.rng.random()) if session.begun_here else 0.0
    session.renew = now + seconds * (1.0 - early)
    arm_session(ctx, sa)


def take_lifetime(ctx: Context, sa: IkeSa, message: Message, now: float) -> None:
    """The peer says in INFORMATIONAL how long it still takes our authentication (RFC 4478)."""
    limit = limit_of(message)
    if limit is not None and sa.session.begun_here:
        schedule(ctx, sa, limit, now)


def may_begin(config: ConnectionConfig) -> bool:
    """Whether this end can begin an IKE_SA of its own: EAP has roles, and so have clients."""
    demands = any(isinstance(how, EapDemand) for how in config.peer_rounds)
    alone = any(isinstance(how, EapOnly) for how in config.own_rounds)
    return config.peer_address is not None and config.provision is None and not (demands or alone)


def reauthenticate(ctx: Context, sa: IkeSa, now: float) -> bool:
    """Begin the IKE_SA that is to take the place of `sa`; False where the other end has to."""
    config = ctx.connection(sa.connection.name)
    if not may_begin(config):
        return False
    younger = (other for other in ctx.of_connection(config.name) if other is not sa)
    if not sa.alive or any(other.renews is sa for other in younger):
        return True
    ctx.notice("reauth_started", connection=config.name, spi_i=sa.spi_i.hex())
    if config.break_before_make:
        ctx.queue(sa, DeleteIke(REAUTHENTICATED), first=True)
        begin(ctx, config, now, fresh=True)
    else:
        begin(ctx, config, now, sa.trigger, renews=sa)
    return True


class TakeOver(Task):
    """Make on the new IKE_SA what the old one has beside its first CHILD_SA, then close that."""

    exchange = ExchangeType.INFORMATIONAL
    name = "take over from the old IKE_SA"

    def __init__(self, old: IkeSa) -> None:
        self.old = old
        self.asked = False

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        old = self.old.current()
        wanted = [child for child in old.children.values() if child.usable]
        missing = [child for child in wanted if not _carried(child, sa)]
        if missing and not self.asked:
            self.asked = True
            for child in missing:
                selectors = (child.own_ts, child.peer_ts)
                wish = ChildWish(selectors=selectors, resource=child.resource)
                ctx.queue(sa, CreateChild(sa.connection, wish=wish))
            ctx.queue(sa, self)
            return None
        if missing and not any(child.usable for child in sa.children.values()):
            self._failed(ctx, sa, now)
            return None
        old.reauthenticated = True
        self._done(ctx, sa, now)
        if old.alive:
            ctx.queue(old, DeleteIke(REAUTHENTICATED), first=True)
        return None

    def _failed(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Better an old IKE_SA with traffic than a new one without."""
        ctx.notice("reauth_failed", connection=sa.connection.name, spi_i=sa.spi_i.hex())
        ctx.queue(sa, DeleteIke(NO_CHILD), first=True)
        ctx.timers.set(self.old.current().own_spi, TimerKind.REAUTH, now + REAUTH_RETRY)

    def _done(self, ctx: Context, sa: IkeSa, now: float) -> None:
        sa.renews = None
        ctx.notice("reauth_done", connection=sa.connection.name, spi_i=sa.spi_i.hex())
        settle_collision(ctx, sa, now)


class GiveWay(TakeOver):
    """The same for an IKE_SA that the peer has made anew at the same time as this end: its own, of
    the lowest nonce, goes."""

    name = "give way to the peer's new IKE_SA"

    @override
    def _failed(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Two IKE_SAs are better than none with traffic."""

    @override
    def _done(self, ctx: Context, sa: IkeSa, now: float) -> None:
        ctx.notice("reauth_redundant", connection=sa.connection.name, spi_i=self.old.spi_i.hex())
        # What is sent from now on must not meet the DELETE.
        for child in sa.children.values():
            if child.usable:
                activate_child(ctx, child)


def begin_session(sa: IkeSa, now: float) -> None:
    """Both ends of `sa` are authenticated."""
    sa.session.nonce = min(sa.nonce_i, sa.nonce_r)
    sa.session.since = now


def settle_collision(ctx: Context, new: IkeSa, now: float) -> None:
    """Where `new` has come up and both ends have authenticated anew at once, have the IKE_SA of the
    lowest nonce closed if this end began it. It is the peer's, too, that came up while ours was
    under way, or soon enough after it: its first request may have been lost."""
    name = new.connection.name
    if not may_begin(ctx.connection(name)):
        return  # and a gateway for thousands of clients need not look through them
    alive = [sa for sa in (new, *ctx.others(new)) if sa.alive and sa.connection.name == name]
    for own in alive:
        begun = own.session.renewal
        if begun is None or not own.session.begun_here or own.renews is not None:
            continue
        latest = own.session.since + patience(own.connection)
        for other in alive:
            session = other.session
            at_once = not session.begun_here and begun <= session.since <= latest
            if at_once and own.session.nonce < session.nonce:
                own.session.renewal = None
                # The peer has its CHILD_SA only when our answer has reached it.
                postpone(ctx, other, GiveWay(own), now + other.round_trip)
                break


def _carried(child: ChildSa, sa: IkeSa) -> bool:
    """True when `sa` has a CHILD_SA for all that `child` carries."""
    return any(
        other.usable
        and other.resource == child.resource
        and all(any(ts.is_subset_of(one) for one in other.own_ts) for ts in child.own_ts)
        and all(any(ts.is_subset_of(one) for one in other.peer_ts) for ts in child.peer_ts)
        for other in sa.children.values()
    )


def reauth_due(ctx: Context, sa: IkeSa, now: float) -> None:
    """Time to begin; an end that cannot closes the IKE_SA when its time is over."""
    expires = sa.session.expires
    if not reauthenticate(ctx, sa, now) and expires is not None and expires <= now:
        auth_expired(ctx, sa, now)
    elif expires is not None and expires <= now:
        ctx.timers.set(sa.own_spi, TimerKind.AUTH_EXPIRED, now + GRACE)


def auth_expired(ctx: Context, sa: IkeSa, now: float) -> None:
    """RFC 4478 section 3: who is not authenticated anew in time is let go."""
    if sa.alive:
        ctx.queue(sa, DeleteIke(TOO_OLD), first=True)
