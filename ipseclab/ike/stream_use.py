"""Which IKE_SA uses which TCP connection: opened, taken into use, let go (RFC 9329 section 6.1).

A connection carries one IKE_SA with its CHILD_SAs, and the one that it is rekeyed to. The end that
opened it closes it with its last IKE_SA; the other end waits a little for that.
"""

from __future__ import annotations

from ipseclab.ike.context import Context
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.streams import STREAM_PORTS, Stream, opened_here
from ipseclab.ike.timers import TimerKind
from ipseclab.outputs import CloseStream, OpenStream, TcpPath, UdpPath

LINGER = 5.0
"""Seconds that an accepted connection may stay without an IKE_SA that it has had."""


def open_stream(ctx: Context, local: str, remote: str, *, attempts: int = 0) -> TcpPath | None:
    """Open a connection between these addresses from a port drawn at random (RFC 6056); None when
    there are too many."""
    start = ctx.rng.randrange(len(STREAM_PORTS))
    path = ctx.streams.free_path(local, remote, start)
    if path is None or len(ctx.streams) >= ctx.config.limits.streams:
        ctx.counters["ike.stream_refused"] += 1
        return None
    ctx.streams.add(path, attempts=attempts)
    ctx.emit(OpenStream(path))
    return path


def take_into_use(ctx: Context, sa: IkeSa, path: UdpPath, now: float) -> None:
    """`path` is the IKE_SA's from now on: of a connection it is counted among its users, and let
    go of the one before."""
    old, sa.path = sa.path, path
    stream = ctx.streams.get(path) if isinstance(path, TcpPath) else None
    if stream is not None:
        ctx.streams.attach(sa, stream)
    if isinstance(old, TcpPath) and old != path:
        _leave(ctx, sa, old, now)


def let_go(ctx: Context, sa: IkeSa, now: float) -> None:
    """The IKE_SA has ended."""
    if isinstance(sa.path, TcpPath):
        _leave(ctx, sa, sa.path, now)


def _leave(ctx: Context, sa: IkeSa, path: TcpPath, now: float) -> None:
    stream = ctx.streams.get(path)
    if stream is None:
        return
    ctx.streams.detach(sa, stream)
    if stream.sas:
        return
    if opened_here(path):
        close_stream(ctx, stream, "no IKE_SA uses it")
    else:
        ctx.timers.set(stream.number, TimerKind.STREAM, now + LINGER)


def close_stream(ctx: Context, stream: Stream, reason: str, *, abort: bool = False) -> None:
    """Close a connection from this end, if it is not gone already, and forget it."""
    ctx.timers.cancel(stream.number, TimerKind.STREAM)
    ctx.streams.remove(stream)
    if not stream.broken:
        ctx.emit(CloseStream(stream.path, abort))
        tell(ctx, "stream_closed", stream.path, reason=reason)


def tell(ctx: Context, event: str, path: TcpPath, **details: str) -> None:
    """A notice about a connection."""
    ctx.notice(event, local=str(path.local), remote=str(path.remote), **details)
