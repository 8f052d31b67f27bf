"""TCP connections over time: opened in place of UDP, broken, opened again, closed (RFC 9329).

The end that opened a connection is the one to open it again when it breaks; the SAs stay. The other
end goes over to a new connection with the first message on it that is authentic and new, whatever
address that comes from (section 6.1). Requests are not repeated on one connection, but they are on
the next one (section 6.2).
"""

from __future__ import annotations

from dataclasses import replace

from ipseclab.ike.config import TcpUse
from ipseclab.ike.context import Context
from ipseclab.ike.events import ChildSaMoved
from ipseclab.ike.informational import Liveness
from ipseclab.ike.init import InitTask
from ipseclab.ike.lifecycle import close_ike, retransmission_wait
from ipseclab.ike.mobike.paths import candidates
from ipseclab.ike.mobike.tasks import move, want_update
from ipseclab.ike.resume import ResumeTask
from ipseclab.ike.sa import IkeSa, IkeState, OwnRequest
from ipseclab.ike.start import begin
from ipseclab.ike.stream_use import close_stream, open_stream, take_into_use, tell
from ipseclab.ike.streams import MOST_BAD, Stream, opened_here
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.transmit import transmit_again
from ipseclab.outputs import CloseStream, TcpPath, UdpPath

FALL_BACK_AFTER = 2
"""Repetitions in UDP before TCP is tried: section 5 asks for one at least."""
NO_CONNECTION = "no TCP connection"


def stream_accepted(ctx: Context, path: TcpPath, now: float) -> None:
    """A peer has opened a connection. Until a message of an IKE_SA comes it may be closed to make
    room for others."""
    limits = ctx.config.limits
    if ctx.streams.get(path) is not None:
        # The same ports once more: the peer has lost the former connection.
        stream_closed(ctx, path, "opened anew", now)
    if len(ctx.streams) >= limits.streams:
        ctx.counters["ike.stream_refused"] += 1
        ctx.emit(CloseStream(path, abort=True))
        return
    stream = ctx.streams.add(path)
    stream.is_open = True
    tell(ctx, "stream_accepted", path)
    ctx.timers.set(stream.number, TimerKind.STREAM, now + limits.idle_stream_timeout)
    for oldest in ctx.streams.surplus(limits.idle_streams):
        ctx.counters["ike.stream_evicted"] += 1
        close_stream(ctx, oldest, "too many that nothing uses", abort=True)


def stream_opened(ctx: Context, path: TcpPath) -> None:
    """A connection of ours is there."""
    stream = ctx.streams.get(path)
    if stream is not None:
        stream.is_open = True
        tell(ctx, "stream_opened", path)


def stream_closed(ctx: Context, path: TcpPath, reason: str, now: float) -> None:
    """The peer has closed a connection, or it broke, or could not be opened."""
    stream = ctx.streams.get(path)
    if stream is None or stream.broken:
        return
    tell(ctx, "stream_closed", path, reason=reason)
    _lost(ctx, stream, now)


def stream_corrupt(ctx: Context, path: TcpPath, reason: str, now: float) -> None:
    """What comes on a connection makes no sense: it is closed (section 6.1)."""
    stream = ctx.streams.get(path)
    if stream is not None and not stream.broken:
        ctx.counters["ike.stream_corrupt"] += 1
        ctx.emit(CloseStream(path, abort=True))
        tell(ctx, "stream_closed", path, reason=reason)
        _lost(ctx, stream, now)


def judge(ctx: Context, path: TcpPath, now: float, *, good: bool) -> None:
    """A message on a connection was one of an SA, or was none."""
    stream = ctx.streams.get(path)
    if stream is None:
        return
    if good:
        stream.bad = stream.attempts = 0
        return
    stream.bad += 1
    if stream.bad >= MOST_BAD:
        stream_corrupt(ctx, path, "too many messages of no SA", now)


def stream_due(ctx: Context, number: bytes, now: float) -> None:
    """An accepted connection without a user has had its time, or a broken one is to be replaced."""
    stream = ctx.streams.numbered(number)
    if stream is None:
        return
    if stream.broken:
        _replace(ctx, stream, now)
    elif not stream.sas:
        close_stream(ctx, stream, "no IKE_SA uses it")


def _lost(ctx: Context, stream: Stream, now: float) -> None:
    """The connection is gone. Its opener opens another one, at once for the first time."""
    if not opened_here(stream.path) or not stream.sas:
        stream.broken = True
        for sa in tuple(stream.sas.values()):
            ctx.streams.detach(sa, stream)
        close_stream(ctx, stream, "")
        return
    stream.broken = True
    schedule = next(iter(stream.sas.values())).connection.retransmission
    if stream.attempts == 0:
        _replace(ctx, stream, now)
    elif stream.attempts > schedule.tries:
        close_stream(ctx, stream, "")
        for sa in tuple(stream.sas.values()):
            close_ike(ctx, sa, NO_CONNECTION, now)
    else:
        wait = retransmission_wait(schedule, stream.attempts - 1)
        ctx.timers.set(stream.number, TimerKind.STREAM, now + wait)


def _replace(ctx: Context, old: Stream, now: float) -> None:
    """Another connection for all that the broken one carried."""
    ends, sas = _ends_for(ctx, old), tuple(old.sas.values())
    close_stream(ctx, old, "")
    path = open_stream(ctx, *ends, attempts=old.attempts + 1)
    for sa in sas:
        if path is None:
            close_ike(ctx, sa, NO_CONNECTION, now)
        else:
            go_over(ctx, sa, path, now)


def _ends_for(ctx: Context, old: Stream) -> tuple[str, str]:
    """Between which addresses to try next: with MOBIKE between all there are, in turn."""
    sa = next(iter(old.sas.values()))
    present = old.path.local.address, old.path.remote.address
    if sa.mobility is None or not sa.mobility.decides:
        return present
    pairs = ((path.local.address, path.remote.address) for path in candidates(ctx, sa))
    found = list(dict.fromkeys(pairs))
    return found[old.attempts % len(found)] if found else present


def go_over(ctx: Context, sa: IkeSa, path: TcpPath, now: float) -> None:
    """Go on with another connection of this end's: what is outstanding is sent again there, and
    something new besides, for a repeat would not have the peer follow (section 6.1)."""
    take_into_use(ctx, sa, path, now)
    if sa.state is IkeState.INIT_SENT:
        _ask_again(ctx, sa)
        return
    for request in tuple(sa.own_requests.values()):
        transmit_again(ctx, sa, request, now)
    move_children(ctx, sa)
    if sa.alive and sa.mobility is not None and sa.mobility.decides:
        want_update(ctx, sa)
    elif sa.alive:
        ctx.queue(sa, Liveness(), first=True)


def _ask_again(ctx: Context, sa: IkeSa) -> None:
    """The first request says from which port it comes, so it is made anew."""
    request = sa.own_request
    if request is not None and isinstance(request.task, InitTask | ResumeTask):
        ctx.timers.cancel(sa.own_spi, TimerKind.RETRANSMIT)
        sa.own_requests.clear()
        sa.next_message_id = 0
        ctx.queue(sa, request.task, first=True)


def move_children(ctx: Context, sa: IkeSa) -> None:
    """The CHILD_SAs go with their IKE_SA."""
    for child in sa.children.values():
        ctx.emit(ChildSaMoved(child.spi_in, sa.path, sa.encapsulated))


def follow_stream(ctx: Context, sa: IkeSa, path: UdpPath, now: float) -> None:
    """An authentic, new message came on another connection of the peer's: the IKE_SA goes over to
    it, with what waits for an answer."""
    if not isinstance(path, TcpPath) or not isinstance(sa.path, TcpPath):
        return
    if path == sa.path or opened_here(path) or ctx.streams.get(path) is None:
        return
    old = sa.path
    take_into_use(ctx, sa, path, now)
    ctx.notice("peer_moved", spi_i=sa.spi_i.hex(), old=str(old.remote), new=str(path.remote))
    move_children(ctx, sa)
    if sa.state is not IkeState.GONE:
        for request in tuple(sa.own_requests.values()):
            transmit_again(ctx, sa, request, now)


def stalled(ctx: Context, sa: IkeSa, request: OwnRequest, now: float) -> bool:
    """No answer on a connection for long. Its opener tries another one, once; True when that has
    been done, or is for the peer to do, and there is no hope left."""
    request.stalls += 1
    if request.stalls > 1:
        return True
    if isinstance(sa.path, TcpPath) and opened_here(sa.path):
        stream = ctx.streams.get(sa.path)
        if stream is not None and not stream.broken:
            stream_corrupt(ctx, sa.path, "no answer", now)
    return False


def falls_back(sa: IkeSa, request: OwnRequest) -> bool:
    """Whether it is time to try TCP: nothing comes back in UDP, so far (section 5) or along the
    present path of an IKE_SA that may change it (section 7.1)."""
    beginning = sa.initiator and sa.state in (IkeState.INIT_SENT, IkeState.HALF_OPEN)
    moving = sa.alive and sa.mobility is not None and sa.mobility.decides
    may = sa.connection.tcp is TcpUse.FALLBACK and not isinstance(sa.path, TcpPath)
    return (beginning or moving) and may and request.attempt >= FALL_BACK_AFTER


def fall_back(ctx: Context, sa: IkeSa, now: float) -> None:
    """Begin again in TCP, with an SPI of its own (section 5); an IKE_SA that stands moves there."""
    if sa.alive:
        path = open_stream(ctx, sa.path.local.address, sa.path.remote.address)
        ctx.notice("fell_back", connection=sa.connection.name, spi_i=sa.spi_i.hex())
        if path is None:
            close_ike(ctx, sa, NO_CONNECTION, now)
        else:
            move(ctx, sa, path, now)
        return
    renews, sa.renews = sa.renews, None
    ctx.notice("fell_back", connection=sa.connection.name, spi_i=sa.spi_i.hex())
    close_ike(ctx, sa, "no answer in UDP", now)
    # Not as a ticket has it: that is spent.
    configured = ctx.connection(sa.connection.name)
    begin(
        ctx,
        replace(configured, peer_address=sa.connection.peer_address),
        now,
        sa.trigger,
        handshakes=sa.handshakes,
        replaces=sa.replaces,
        renews=renews,
        over_tcp=True,
    )
