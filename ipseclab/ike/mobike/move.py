"""Addresses taken into use: by the IKE_SA, then by its CHILD_SAs (RFC 4555 section 3.5)."""

from __future__ import annotations

from ipseclab.ike import natt
from ipseclab.ike.config import Mode
from ipseclab.ike.context import Context
from ipseclab.ike.events import ChildSaMoved
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.stream_use import take_into_use
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.transmit import transmit
from ipseclab.outputs import TcpPath, UdpPath
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload


def use_path(ctx: Context, sa: IkeSa, path: UdpPath, now: float) -> None:
    """Have the IKE_SA use `path`: what is outstanding goes on there, at once and with all its
    repetitions to come."""
    assert sa.mobility is not None
    if path == sa.path:
        return
    old = sa.path
    take_into_use(ctx, sa, path, now)
    sa.mobility.changes += 1
    ctx.notice(
        "path_changed",
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
        old_local=str(old.local),
        old_remote=str(old.remote),
        local=str(path.local),
        remote=str(path.remote),
    )
    for request in tuple(sa.own_requests.values()):
        request.attempt = 0
        transmit(ctx, sa, request, now)


def move_children(ctx: Context, sa: IkeSa) -> None:
    """Have the CHILD_SAs follow the IKE_SA. Those of transport mode stay: their selectors are their
    addresses (section 1.2)."""
    for child in sa.children.values():
        if child.mode is Mode.TUNNEL:
            ctx.emit(ChildSaMoved(child.spi_in, sa.path, sa.encapsulated))


def take_nats(ctx: Context, sa: IkeSa, message: Message, seen_along: UdpPath, now: float) -> None:
    """Enable or disable NAT traversal by the NAT_DETECTION notifications of `message`, which came
    along `seen_along` on an IKE_SA with its SPIs."""
    if not sa.nat_traversal:
        return
    notifies = message.all(NotifyPayload)
    found = natt.find_nat(notifies, message.spi_i, message.spi_r, seen_along)
    if found is None:
        return
    sa.own_behind_nat, sa.peer_behind_nat = found
    if sa.connection.force_encapsulation:
        sa.own_behind_nat = True
    keep_mapping(ctx, sa, now)


def keep_mapping(ctx: Context, sa: IkeSa, now: float) -> None:
    """Keepalives where this end is behind a NAT, and only there (RFC 3948 section 4)."""
    interval = sa.connection.keepalive
    in_udp = not isinstance(sa.path, TcpPath)
    if sa.own_behind_nat and interval is not None and in_udp:
        ctx.timers.set(sa.own_spi, TimerKind.KEEPALIVE, now + interval)
    else:
        ctx.timers.cancel(sa.own_spi, TimerKind.KEEPALIVE)


def seen_as(message: Message) -> bytes:
    """How the sender of `message` sees this end: a hash of address and port (section 3.8)."""
    said = message.notify(NotifyType.NAT_DETECTION_DESTINATION_IP)
    return said.data if said is not None else b""
