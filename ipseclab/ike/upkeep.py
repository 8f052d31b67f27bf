"""What an endpoint does because time has passed, and where it sends to when its peer has moved.

RFC 7296 sections 2.4 (retransmission, liveness), 2.8 (lifetimes), 2.23 (keepalives, addresses that
change).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, nextafter

from ipseclab.ike.carrier import fall_back, falls_back, follow_stream, stalled, stream_due
from ipseclab.ike.context import Context
from ipseclab.ike.events import ChildSaMoved
from ipseclab.ike.followup import drop_overdue
from ipseclab.ike.informational import EXPIRED, DeleteIke, Liveness
from ipseclab.ike.lifecycle import close_ike, forget_init, patience
from ipseclab.ike.mobike.tasks import looks_at_mapping
from ipseclab.ike.natt import KEEPALIVE
from ipseclab.ike.reauth import auth_expired, reauth_due
from ipseclab.ike.rekey import IkeRekey
from ipseclab.ike.sa import IkeSa, IkeState, OwnRequest
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.transmit import in_tcp, set_retransmit_timer, transmit_again
from ipseclab.outputs import SendDatagram, TcpPath, UdpPath

RESPONDER_PATIENCE = 300.0
"""Seconds: RFC 4555 section 3.11 suggests at least so many."""


def queue_rekey(ctx: Context, sa: IkeSa) -> None:
    """Have `sa` rekeyed, unless that is wanted already."""
    if not any(isinstance(task, IkeRekey) for task in sa.wanted()):
        ctx.queue(sa, IkeRekey(sa.connection.ike_proposals))


def follow(ctx: Context, sa: IkeSa, path: UdpPath, now: float, *, esp: bool = False) -> None:
    """The peer moved, as its NAT gave it another address or port (section 2.23).

    Called for new, authenticated packets alone. Only a peer behind a NAT is followed: without one
    an address changes by MOBIKE, or someone is playing tricks. Section 2.23 would have a host that
    is behind a NAT itself follow nobody; then a double NAT would not survive its first rebinding,
    so this end does.

    A request under way is sent to the new address when it is sent again, and as often as a new one:
    that nobody answered at the old address says nothing of a peer that was just heard (section
    2.4).

    With MOBIKE only ESP shows a new mapping, and only one of another port: what was under way when
    the peer moved comes from an address that it has left (RFC 4555 section 3.8).
    """
    if isinstance(path, TcpPath) or isinstance(sa.path, TcpPath):
        follow_stream(ctx, sa, path, now)
        return
    if sa.mobility is not None and not (esp and path.remote.address == sa.path.remote.address):
        return
    if path == sa.path or not sa.peer_behind_nat or path.local.port != sa.path.local.port:
        return
    old, sa.path = sa.path, path
    ctx.notice("peer_moved", spi_i=sa.spi_i.hex(), old=str(old.remote), new=str(path.remote))
    for request in sa.own_requests.values():
        request.attempt = 0
    for child in sa.children.values():
        ctx.emit(ChildSaMoved(child.spi_in, path, sa.encapsulated))


def do_due(ctx: Context, now: float) -> None:
    """Do all that is due at `now`."""
    while (key := ctx.timers.take_due(now)) is not None:
        if key.kind is TimerKind.STREAM:
            stream_due(ctx, key.subject, now)
            continue
        sa = ctx.sas.get(key.subject)
        if sa is not None:
            _DUE[key.kind](ctx, sa, now)


def _retransmit(ctx: Context, sa: IkeSa, now: float) -> None:
    for request in [request for request in sa.own_requests.values() if request.due <= now]:
        if falls_back(sa, request):
            fall_back(ctx, sa, now)
            return
        in_vain = stalled if in_tcp(sa, request) else _given_up
        if in_vain(ctx, sa, request, now):
            # Section 2.4: an IKE_SA whose peer does not answer is gone, and so are its CHILD_SAs.
            close_ike(ctx, sa, request.task.given_up, now)
            return
        if not in_tcp(sa, request):
            transmit_again(ctx, sa, request, now)
        elif request.due <= now and sa.state is not IkeState.GONE:
            request.due = now + patience(sa.connection) / 2
            set_retransmit_timer(ctx, sa)


def _given_up(ctx: Context, sa: IkeSa, request: OwnRequest, now: float) -> bool:
    """Whether the schedule is at its end. With MOBIKE the responder leaves it to the initiator to
    find another path, and waits for that (RFC 4555 section 3.11)."""
    if request.attempt < sa.connection.retransmission.tries:
        return False
    waits = sa.mobility is not None and not sa.mobility.decides
    return not waits or now - request.first_sent >= RESPONDER_PATIENCE


def _retry(ctx: Context, sa: IkeSa, now: float) -> None:
    waiting, sa.postponed = sa.postponed, []
    for at, task in waiting:
        if at > now:
            sa.postponed.append((at, task))
        else:
            ctx.queue(sa, task)
    if sa.postponed:
        ctx.timers.set(sa.own_spi, TimerKind.RETRY, min(at for at, _ in sa.postponed))


def _half_open_due(ctx: Context, sa: IkeSa, now: float) -> None:
    if sa.state is IkeState.HALF_OPEN:
        begun = sa.authentication is not None
        close_ike(ctx, sa, "IKE_AUTH took too long" if begun else "no IKE_AUTH request", now)
    else:
        forget_init(ctx, sa)


def _soft_due(ctx: Context, sa: IkeSa, now: float) -> None:
    queue_rekey(ctx, sa)


def _hard_due(ctx: Context, sa: IkeSa, now: float) -> None:
    ctx.queue(sa, DeleteIke(EXPIRED), first=True)


def _liveness_due(ctx: Context, sa: IkeSa, now: float) -> None:
    interval = sa.connection.liveness
    if interval is None or not sa.alive:
        return
    seen = (ctx.activity.last_inbound(spi) for spi in sa.children)
    due = max([sa.last_received, *(at for at in seen if at is not None)]) + interval
    looks = looks_at_mapping(sa)
    if looks and sa.mobility is not None:
        # Whatever comes from the peer: its requests may go to a mapping that is no more.
        due = min(due, sa.mobility.asked + interval)
    if due <= now:
        # A request under way is as good a question, unless it is about more than a sign of life.
        if sa.own_request is None or looks:
            ctx.queue(sa, Liveness())
        due = now + interval
    ctx.timers.set(sa.own_spi, TimerKind.LIVENESS, max(due, nextafter(now, inf)))


def send_keepalive(ctx: Context, sa: IkeSa, now: float) -> None:
    """One octet along the path of `sa`, for a NAT to see; in TCP there is no need of any (RFC 9329
    section 6.6)."""
    if isinstance(sa.path, TcpPath):
        return
    ctx.emit(SendDatagram(sa.path, KEEPALIVE))
    ctx.notice("keepalive_sent", destination=str(sa.path.remote))
    sa.last_sent = now


def _keepalive_due(ctx: Context, sa: IkeSa, now: float) -> None:
    """RFC 3948 section 4: one octet, if nothing else went out along the path lately."""
    interval = sa.connection.keepalive
    if interval is None or sa.state is not IkeState.ESTABLISHED:
        return
    sent = (ctx.activity.last_outbound(spi) for spi in sa.children)
    due = max([sa.last_sent, *(at for at in sent if at is not None)]) + interval
    if due <= now:
        send_keepalive(ctx, sa, now)
        due = now + interval
    ctx.timers.set(sa.own_spi, TimerKind.KEEPALIVE, max(due, nextafter(now, inf)))


def _replaced_due(ctx: Context, sa: IkeSa, now: float) -> None:
    close_ike(ctx, sa, "rekeyed, and no DELETE came", now)


def _candidate_due(ctx: Context, sa: IkeSa, now: float) -> None:
    close_ike(ctx, sa, "lost a rekey collision, and no DELETE came", now)


def forget_fragments(ctx: Context, sa: IkeSa, now: float) -> None:
    """Give up messages that have been incomplete for too long, and see when the next ones will."""
    due = ctx.fragments.forget_older(sa.own_spi, now)
    if due is not None:
        ctx.timers.set(sa.own_spi, TimerKind.FRAGMENTS, due)
    else:
        ctx.timers.cancel(sa.own_spi, TimerKind.FRAGMENTS)


def _forget_due(ctx: Context, sa: IkeSa, now: float) -> None:
    del ctx.sas[sa.own_spi]


_DUE: Mapping[TimerKind, Callable[[Context, IkeSa, float], None]] = {
    TimerKind.RETRANSMIT: _retransmit,
    TimerKind.RETRY: _retry,
    TimerKind.HALF_OPEN: _half_open_due,
    TimerKind.SOFT: _soft_due,
    TimerKind.HARD: _hard_due,
    TimerKind.REAUTH: reauth_due,
    TimerKind.AUTH_EXPIRED: auth_expired,
    TimerKind.LIVENESS: _liveness_due,
    TimerKind.KEEPALIVE: _keepalive_due,
    TimerKind.REPLACED: _replaced_due,
    TimerKind.CANDIDATE: _candidate_due,
    TimerKind.FRAGMENTS: forget_fragments,
    TimerKind.FORGET: _forget_due,
    TimerKind.HALF_MADE: drop_overdue,
}
