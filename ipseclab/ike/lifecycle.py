"""The birth, succession and end of IKE_SAs and CHILD_SAs: tables, timers, notices.

RFC 7296 sections 1.4.1 (closing), 2.4 (an IKE_SA and its CHILD_SAs fail together), 2.8 (lifetimes
and succession).
"""

from __future__ import annotations

from ipseclab.ike.addresses import give_back
from ipseclab.ike.config import ConnectionConfig, IkeLimits, Retransmission
from ipseclab.ike.context import Context
from ipseclab.ike.crash_token import GiveToken, makes_tokens
from ipseclab.ike.events import ChildSaActive, ChildSaGone
from ipseclab.ike.proposals import proposal_text, transform_names
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa, IkeState
from ipseclab.ike.stream_use import let_go, take_into_use
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.window import SetWindow
from ipseclab.outputs import IkeKeyLog, TcpPath
from ipseclab.registry import TransformType

REAUTH_RETRY = 30.0
"""Seconds until a reauthentication that failed is tried again."""
_NO_NAME = "none"

_OF_SERVICE = (
    TimerKind.SOFT,
    TimerKind.HARD,
    TimerKind.REAUTH,
    TimerKind.AUTH_EXPIRED,
    TimerKind.LIVENESS,
    TimerKind.KEEPALIVE,
    TimerKind.RETRY,
    TimerKind.HALF_MADE,
)
"""The timers that an IKE_SA has no use for once another has taken over."""


def patience(connection: ConnectionConfig) -> float:
    """Seconds until a request without an answer is given up: the sum of all its waits."""
    schedule = connection.retransmission
    return sum(retransmission_wait(schedule, attempt) for attempt in range(schedule.tries + 1))


def half_open_seconds(connection: ConnectionConfig, limits: IkeLimits) -> float:
    """How long a responder waits for IKE_AUTH: a peer with the same schedule may need all of it for
    the answer to IKE_SA_INIT, and once more for the request that is to come then."""
    return min(limits.half_open_patience, 2.0 * patience(connection))


def retransmission_wait(schedule: Retransmission, attempt: int) -> float:
    """Seconds to wait for a response after sending number `attempt` (from 0), without jitter."""
    wait = schedule.timeout * schedule.base**attempt
    return wait if schedule.limit is None else min(wait, schedule.limit)


def establish(ctx: Context, sa: IkeSa, now: float) -> None:
    """`sa` is authenticated, or a rekey made it: it enters service."""
    sa.state = IkeState.ESTABLISHED
    sa.established = sa.last_received = sa.last_sent = now
    ctx.enter(sa)
    ctx.half_open.pop(sa.own_spi, None)
    ctx.timers.cancel(sa.own_spi, TimerKind.CANDIDATE)
    connection = sa.connection
    if connection.window > 1:
        ctx.queue(sa, SetWindow())
    lifetime = connection.ike_lifetime
    if lifetime.seconds is not None:
        early = lifetime.margin * (1.0 + lifetime.jitter * ctx.rng.random())
        soft = max(0.0, lifetime.seconds * (1.0 - early))
        ctx.timers.set(sa.own_spi, TimerKind.SOFT, now + soft)
        ctx.timers.set(sa.own_spi, TimerKind.HARD, now + lifetime.seconds)
    if connection.liveness is not None:
        ctx.timers.set(sa.own_spi, TimerKind.LIVENESS, now + connection.liveness)
    # RFC 9329 section 6.6: none in TCP.
    in_udp = not isinstance(sa.path, TcpPath)
    if sa.own_behind_nat and connection.keepalive is not None and in_udp:
        ctx.timers.set(sa.own_spi, TimerKind.KEEPALIVE, now + connection.keepalive)


def forget_init(ctx: Context, sa: IkeSa) -> None:
    """From now on a repeat of the IKE_SA_INIT request that made `sa` is taken for a new one."""
    ctx.half_open.pop(sa.own_spi, None)
    if sa.init_key is not None:
        ctx.inits.pop(sa.init_key, None)
        sa.init_key = None
        sa.init_request = sa.init_response = b""


def log_keys(ctx: Context, sa: IkeSa) -> None:
    """Emit the secrets of `sa` for a decryption table."""
    assert sa.keys is not None
    assert sa.proposal is not None
    names = transform_names(sa.proposal.transforms)
    ctx.emit(
        IkeKeyLog(
            spi_i=sa.spi_i,
            spi_r=sa.spi_r,
            encr=names.get(TransformType.ENCR, _NO_NAME),
            integ=names.get(TransformType.INTEG, _NO_NAME),
            sk_ei=sa.keys.sk_ei,
            sk_er=sa.keys.sk_er,
            sk_ai=sa.keys.sk_ai,
            sk_ar=sa.keys.sk_ar,
        )
    )


def announce(ctx: Context, sa: IkeSa, *, replaces: IkeSa | None = None) -> None:
    """Tell that `sa` is in service, for the first time or in place of another."""
    assert sa.proposal is not None
    details: dict[str, str | int | float | bool | None] = {
        "connection": sa.connection.name,
        "spi_i": sa.spi_i.hex(),
        "spi_r": sa.spi_r.hex(),
        "role": "initiator" if sa.initiator else "responder",
        "proposal": proposal_text(sa.proposal),
        "own_behind_nat": sa.own_behind_nat,
        "peer_behind_nat": sa.peer_behind_nat,
    }
    if replaces is None:
        ctx.notice("ike_established", **details)
        return
    old = {"old_spi_i": replaces.spi_i.hex(), "old_spi_r": replaces.spi_r.hex()}
    ctx.notice("ike_rekeyed", **details, **old)


def succeed(ctx: Context, old: IkeSa, new: IkeSa, now: float) -> None:
    """`new` inherits the CHILD_SAs and the waiting tasks of `old` (RFC 7296 section 2.18)."""
    drop_half_made(old)
    establish(ctx, new, now)
    new.candidate_for = None
    take_into_use(ctx, new, old.path, now)
    new.own_behind_nat, new.peer_behind_nat = old.own_behind_nat, old.peer_behind_nat
    if new.mobility is not None:
        new.mobility.renew()
        _look_in_time(ctx, new, now)
    old.successor = new
    if old.state is not IkeState.GONE:
        old.state = IkeState.REPLACED
    for child in old.children.values():
        child.ike = new
    new.session, old.session = old.session, new.session
    arm_session(ctx, new)
    new.children.update(old.children)
    old.children.clear()
    new.tasks.extend(task for task in old.tasks if task.follows_succession)
    old.tasks.clear()
    ctx.ready.append(new)
    postponed, old.postponed = old.postponed, []
    for at, task in postponed:
        if task.follows_succession:
            postpone(ctx, new, task, at)
    ctx.leave(old)
    ctx.timers.cancel(old.own_spi, *_OF_SERVICE)
    announce(ctx, new, replaces=old)
    if makes_tokens(ctx, new):
        ctx.queue(new, GiveToken())


def _look_in_time(ctx: Context, sa: IkeSa, now: float) -> None:
    """However often the IKE_SA is rekeyed, the end behind a NAT asks for its mapping as often."""
    interval = sa.connection.liveness
    if interval is not None and sa.mobility is not None and sa.own_behind_nat:
        due = min(now, sa.mobility.asked) + interval
        ctx.timers.set(sa.own_spi, TimerKind.LIVENESS, max(now, due))


def arm_session(ctx: Context, sa: IkeSa) -> None:
    """The session's times hold on, whatever IKE_SA has it (RFC 7296 section 2.8.3: a rekey is no
    authentication)."""
    session = sa.session
    if session.renew is not None and session.expires is not None:
        ctx.timers.set(sa.own_spi, TimerKind.REAUTH, session.renew)
        if session.renew < session.expires:
            ctx.timers.set(sa.own_spi, TimerKind.AUTH_EXPIRED, session.expires)


def postpone(ctx: Context, sa: IkeSa, task: Task, at: float) -> None:
    """Have `sa` carry out `task` at `at` seconds."""
    sa.postponed.append((at, task))
    earliest = min(due for due, _ in sa.postponed)
    ctx.timers.set(sa.own_spi, TimerKind.RETRY, earliest)


def remove_child(ctx: Context, child: ChildSa, reason: str, *, linger: float = 0.0) -> None:
    """Take `child` out of all tables; doing it twice does nothing."""
    if child.state is ChildState.GONE:
        return
    child.state = ChildState.GONE
    if not child.installed:
        return
    child.ike.children.pop(child.spi_in, None)
    ctx.children.pop(child.spi_in, None)
    ctx.claims.remove(child)
    ctx.emit(ChildSaGone(child.spi_in, reason, linger))
    ctx.notice(
        "child_gone",
        connection=child.connection.name,
        spi_in=child.spi_in.hex(),
        spi_out=child.spi_out.hex(),
        reason=reason,
    )


def activate_child(ctx: Context, child: ChildSa) -> None:
    """The peer can receive on `child`: outbound traffic may move to it."""
    if child.installed:
        ctx.emit(ChildSaActive(child.spi_in))


def close_ike(
    ctx: Context, sa: IkeSa, reason: str, now: float, *, forget_after: float = 0.0
) -> None:
    """End `sa` and the CHILD_SAs it still holds, without a message.

    With `forget_after` it stays for so many seconds to answer a repeated request from its cache:
    our last response may have been lost. Closing twice does nothing.
    """
    if sa.state is IkeState.GONE:
        return
    never_up = sa.state in (IkeState.INIT_SENT, IkeState.HALF_OPEN)
    sa.state = IkeState.GONE
    sa.authentication = None
    ctx.timers.cancel(sa.own_spi, *TimerKind)
    ctx.fragments.forget(sa.own_spi)
    forget_init(ctx, sa)
    ctx.leave(sa)
    let_go(ctx, sa, now)
    for task in _take_tasks(sa):
        task.abandoned(ctx, sa, now)
    drop_half_made(sa)
    ctx.offer_spi(sa)
    for child in tuple(sa.children.values()):
        # Where another IKE_SA has the traffic now, late packets still count (section 2.8.3).
        linger = child.connection.rekey_linger if sa.reauthenticated else 0.0
        remove_child(ctx, child, "ike_gone", linger=linger)
    give_back(ctx, sa)
    if never_up and sa.renews is not None and sa.renews.current().alive:
        # The old one goes on, and so does the wish for a new one.
        old = sa.renews.current()
        ctx.timers.set(old.own_spi, TimerKind.REAUTH, now + REAUTH_RETRY)
    if forget_after > 0.0:
        ctx.timers.set(sa.own_spi, TimerKind.FORGET, now + forget_after)
    else:
        ctx.sas.pop(sa.own_spi, None)
    ctx.notice(
        "ike_failed" if never_up else "ike_gone",
        connection=sa.connection.name,
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
        reason=reason,
    )
    if sa.successor is None:
        # What the peer made in its place can come to nothing either.
        for candidate in sa.candidates:
            if candidate.state is IkeState.CANDIDATE:
                close_ike(ctx, candidate, reason, now, forget_after=forget_after)
    sa.candidates.clear()


def drop_half_made(sa: IkeSa) -> None:
    """Give up what waits for IKE_FOLLOWUP_KE: the IKE_SA has ended, or another took its place."""
    while sa.half_made:
        sa.half_made.popitem()[1].dropped()


def _take_tasks(sa: IkeSa) -> list[Task]:
    tasks = list(sa.wanted())
    sa.own_requests.clear()
    sa.tasks.clear()
    sa.postponed.clear()
    return tasks
