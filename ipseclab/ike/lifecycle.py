"""The birth, succession and end of IKE_SAs and CHILD_SAs: tables, timers, notices.

RFC 7296 sections 1.4.1 (closing), 2.4 (an IKE_SA and its CHILD_SAs fail together), 2.8 (lifetimes and
succession).
"""

from __future__ import annotations

from ipseclab.ike.config import ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.events import ChildSaActive, ChildSaGone
from ipseclab.ike.proposals import proposal_text
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa, IkeState
from ipseclab.outputs import IkeKeyLog
from ipseclab.registry import TransformType

RETRANSMIT = "retransmit"
HALF_OPEN = "half open"
SOFT = "IKE_SA soft lifetime"
HARD = "IKE_SA hard lifetime"
LIVENESS = "liveness"
KEEPALIVE = "NAT keepalive"
REPLACED = "wait for the old IKE_SA's DELETE"
CANDIDATE = "wait for a rekey collision to end"
FORGET = "forget a closed IKE_SA"
RETRY = "retry after TEMPORARY_FAILURE"
IKE_TIMERS = (
    RETRANSMIT,
    HALF_OPEN,
    SOFT,
    HARD,
    LIVENESS,
    KEEPALIVE,
    REPLACED,
    CANDIDATE,
    FORGET,
)

_NO_NAME = "none"


def patience(connection: ConnectionConfig) -> float:
    """Seconds until a request without an answer is given up: the sum of its retransmission waits."""
    schedule = connection.retransmission
    waits = (schedule.timeout * schedule.base**i for i in range(schedule.tries + 1))
    return sum(min(wait, schedule.limit) if schedule.limit is not None else wait for wait in waits)


def establish(ctx: Context, sa: IkeSa, now: float) -> None:
    """`sa` is authenticated, or a rekey made it: it enters service."""
    sa.state = IkeState.ESTABLISHED
    sa.last_received = sa.last_sent = now
    ctx.timers.cancel(sa.own_spi, HALF_OPEN, CANDIDATE)
    _leave_half_open(ctx, sa)
    connection = sa.connection
    lifetime = connection.ike_lifetime
    if lifetime.seconds is not None:
        early = lifetime.margin * (1.0 + lifetime.jitter * ctx.rng.random())
        ctx.timers.set(sa.own_spi, SOFT, now + max(0.0, lifetime.seconds * (1.0 - early)))
        ctx.timers.set(sa.own_spi, HARD, now + lifetime.seconds)
    if connection.liveness is not None:
        ctx.timers.set(sa.own_spi, LIVENESS, now + connection.liveness)
    if sa.own_behind_nat and connection.keepalive is not None:
        ctx.timers.set(sa.own_spi, KEEPALIVE, now + connection.keepalive)


def _leave_half_open(ctx: Context, sa: IkeSa) -> None:
    if sa.half_open_key is not None:
        ctx.half_open.pop(sa.half_open_key, None)
        sa.half_open_key = None


def log_keys(ctx: Context, sa: IkeSa) -> None:
    """Emit the secrets of `sa` for a decryption table."""
    assert sa.keys is not None
    assert sa.proposal is not None
    names = {transform.type: str(transform) for transform in sa.proposal.transforms}
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
    establish(ctx, new, now)
    old.successor = new
    if old.state is not IkeState.GONE:
        old.state = IkeState.REPLACED
    for child in old.children.values():
        child.ike = new
    new.children.update(old.children)
    old.children.clear()
    new.tasks.extend(old.tasks)
    old.tasks.clear()
    ctx.ready.append(new)
    ctx.timers.cancel(old.own_spi, SOFT, HARD, LIVENESS, KEEPALIVE)
    announce(ctx, new, replaces=old)


def remove_child(ctx: Context, child: ChildSa, reason: str, *, linger: float = 0.0) -> None:
    """Take `child` out of all tables; doing it twice does nothing."""
    if child.state is ChildState.GONE:
        return
    child.state = ChildState.GONE
    child.ike.children.pop(child.spi_in, None)
    ctx.children.pop(child.spi_in, None)
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
    ctx.emit(ChildSaActive(child.spi_in))


def close_ike(
    ctx: Context, sa: IkeSa, reason: str, now: float, *, forget_after: float = 0.0
) -> None:
    """End `sa` and the CHILD_SAs it still holds, without a message.

    With `forget_after` it stays for so many seconds to answer a repeated request from its cache: our
    last response may have been lost. Closing twice does nothing.
    """
    if sa.state is IkeState.GONE:
        return
    was_known = sa.state in (IkeState.ESTABLISHED, IkeState.DELETING, IkeState.REPLACED)
    sa.state = IkeState.GONE
    ctx.timers.cancel(sa.own_spi, *IKE_TIMERS)
    _leave_half_open(ctx, sa)
    request, sa.own_request = sa.own_request, None
    waiting = [request.task] if request is not None else []
    waiting.extend(sa.tasks)
    sa.tasks.clear()
    for task in waiting:
        task.abandoned(ctx, sa, now)
    for child in list(sa.children.values()):
        remove_child(ctx, child, "ike_gone")
    if forget_after > 0.0:
        ctx.timers.set(sa.own_spi, FORGET, now + forget_after)
    else:
        ctx.sas.pop(sa.own_spi, None)
    event = "ike_gone" if was_known else "ike_failed"
    ctx.notice(
        event,
        connection=sa.connection.name,
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
        reason=reason,
    )
