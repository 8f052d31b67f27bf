"""The addresses of this end change, or a path shows that it works: what follows (RFC 4555 sections
3.5, 3.6 and 3.10)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from ipseclab.ike.config import TcpUse
from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.mobike.move import move_children, use_path
from ipseclab.ike.mobike.paths import candidates
from ipseclab.ike.mobike.tasks import ListAddresses, TestPath, move
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.start import begin
from ipseclab.ike.stream_use import open_stream
from ipseclab.ike.task import Task
from ipseclab.outputs import TcpPath, UdpPath

MOST_OWN = 16
"""Own addresses taken note of; the rest is counted and left out."""
_BEGINNING = (IkeState.INIT_SENT, IkeState.HALF_OPEN)


def change_addresses(ctx: Context, addresses: Sequence[str], now: float) -> None:
    """From now on this end has these addresses, the best first."""
    known = tuple(dict.fromkeys(str(ip_address(address)) for address in addresses))
    if len(known) > MOST_OWN:
        ctx.counters["ike.own_addresses_left_out"] += len(known) - MOST_OWN
        known = known[:MOST_OWN]
    if known == tuple(ctx.addresses):
        return
    ctx.take_addresses(known)
    ctx.notice("address_changed", addresses=" ".join(known))
    for sa in tuple(ctx.sas.values()):
        if sa.state in _BEGINNING:
            _begin_again(ctx, sa, now)
        elif sa.mobility is None or not known:
            continue
        elif sa.alive and sa.mobility.decides:
            _decide(ctx, sa, now)
        elif sa.alive:
            _tell(ctx, sa, now)
    _follow_heirs(ctx, now)


def _begin_again(ctx: Context, sa: IkeSa, now: float) -> None:
    """A handshake from an address that is gone cannot be finished: AUTH has to come from where
    IKE_SA_INIT came from."""
    if not sa.initiator or sa.path.local.address in ctx.addresses:
        return
    close_ike(ctx, sa, "own address lost", now)
    if ctx.addresses:
        begin(ctx, sa.connection, now, sa.trigger)


def _decide(ctx: Context, sa: IkeSa, now: float) -> None:
    """The initiator: away from an address that is gone, over to a better one if it works, or the
    peer is just told."""
    assert sa.mobility is not None
    sa.mobility.refused = ()
    found = candidates(ctx, sa)
    if not found:
        return
    if sa.path.local.address not in ctx.addresses:
        target: UdpPath | None = found[0]
        if sa.connection.tcp is TcpUse.ALWAYS:
            target = open_stream(ctx, found[0].local.address, found[0].remote.address)
        # Where there is a choice UDP comes first, whatever it was before (RFC 9329 section 7.1).
        if target is not None:
            move(ctx, sa, target, now)
        return
    version = ip_address(sa.path.remote.address).version
    best = next(one for one in ctx.addresses if ip_address(one).version == version)
    if best != sa.path.local.address and sa.connection.tcp is not TcpUse.ALWAYS:
        better = next(path for path in found if path.local.address == best)
        ctx.queue(sa, TestPath(better))
    ctx.queue(sa, ListAddresses())


def _tell(ctx: Context, sa: IkeSa, now: float) -> None:
    """The responder: it says what addresses it has. Only when its own is gone it changes paths by
    itself, the CHILD_SAs' too (the exception at the end of section 3.5)."""
    assert sa.mobility is not None
    found = candidates(ctx, sa)
    in_udp = not isinstance(sa.path, TcpPath)  # a connection is the initiator's to open
    if found and in_udp and sa.path.local.address not in ctx.addresses:
        sa.mobility.displaced = True
        use_path(ctx, sa, found[0], now)
        move_children(ctx, sa)
    ctx.queue(sa, ListAddresses(), first=True)


def _follow_heirs(ctx: Context, now: float) -> None:
    """What is left to do on IKE_SAs that were rekeyed goes along the path of those that stand."""
    for sa in tuple(ctx.sas.values()):
        if sa.mobility is None or sa.state is IkeState.GONE:
            continue
        standing = sa.candidate_for if sa.candidate_for is not None else sa.current()
        if standing is not sa:
            use_path(ctx, sa, standing.path, now)


def heard(ctx: Context, sa: IkeSa, task: Task, path: UdpPath, now: float) -> None:
    """A response came along `path`. Where its request went along several, this one works."""
    mobility, standing = sa.mobility, sa.current()
    tried = task.strayed or task.path is not None
    if mobility is None or not tried or path == standing.path:
        return
    if path not in candidates(ctx, standing):
        return
    if mobility.decides:
        move(ctx, standing, path, now)
    elif mobility.displaced and isinstance(task, ListAddresses):
        use_path(ctx, standing, path, now)
        move_children(ctx, standing)
