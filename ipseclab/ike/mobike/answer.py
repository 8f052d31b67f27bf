"""What an INFORMATIONAL request says of addresses, taken and answered (RFC 4555 sections 3.5 to
3.9)."""

from __future__ import annotations

from ipseclab.ike.context import Context
from ipseclab.ike.mobike.move import move_children, take_nats, use_path
from ipseclab.ike.mobike.notifies import (
    cookie2,
    detection,
    listed_addresses,
    lists_addresses,
    unexpected_nat,
)
from ipseclab.ike.mobike.paths import acceptable
from ipseclab.ike.mobike.state import Mobility
from ipseclab.ike.mobike.tasks import move, want_check, want_update
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

_IN_SERVICE = (IkeState.ESTABLISHED, IkeState.DELETING)


def answer_mobike(
    ctx: Context, sa: IkeSa, message: Message, path: UdpPath, now: float
) -> tuple[NotifyPayload, ...]:
    """The notifications for the response to a request that came along `path`. Raises
    InvalidSyntax."""
    cookie = cookie2(message)
    mobility = sa.mobility
    if mobility is None:
        return cookie
    updates = message.notify(NotifyType.UPDATE_SA_ADDRESSES) is not None and not mobility.decides
    lists = lists_addresses(message)
    if (updates or lists) and unexpected_nat(sa, message, path):
        ctx.counters["ike.unexpected_nat_detected"] += 1
        return (NotifyPayload(NotifyType.UNEXPECTED_NAT_DETECTED), *cookie)
    if lists and message.message_id > mobility.newest_list:
        mobility.newest_list = message.message_id
        take_list(ctx, sa, mobility, message, path, now)
    if updates and message.message_id > mobility.newest_update and sa.state in _IN_SERVICE:
        if not acceptable(ctx, sa, path):
            ctx.counters["ike.unacceptable_addresses"] += 1
            return (NotifyPayload(NotifyType.UNACCEPTABLE_ADDRESSES), *cookie)
        mobility.newest_update = message.message_id
        _update(ctx, sa, mobility, message, path, now)
    asked = message.notify(NotifyType.NAT_DETECTION_SOURCE_IP) is not None
    return (*(detection(sa, path) if asked and sa.nat_traversal else ()), *cookie)


def _update(
    ctx: Context, sa: IkeSa, mobility: Mobility, message: Message, path: UdpPath, now: float
) -> None:
    """The initiator has decided for the addresses that its message came with."""
    mobility.displaced = False
    use_path(ctx, sa, path, now)
    take_nats(ctx, sa, message, path, now)
    settings = sa.connection.mobike
    checked = settings is None or not settings.return_routability
    if checked or path.remote.address == mobility.proven:
        move_children(ctx, sa)
    else:
        want_check(ctx, sa)


def take_list(
    ctx: Context, sa: IkeSa, mobility: Mobility, message: Message, path: UdpPath, now: float
) -> None:
    """Remember where the peer can be reached. The initiator leaves an address that the peer has no
    more; the responder does nothing with the list unless its own address is lost (section 3.4)."""
    mobility.peer_addresses = (path.remote.address, *listed_addresses(message))
    ctx.notice("peer_addresses", spi_i=sa.spi_i.hex(), addresses=" ".join(mobility.peer_addresses))
    present, own = sa.path.remote.address, path.local.address
    if not mobility.decides or not sa.alive or path.remote.address == present:
        return
    if present in mobility.peer_addresses:
        # The peer may have left it for a while: it learns that nothing has changed here.
        want_update(ctx, sa)
    elif own in ctx.addresses:
        move(ctx, sa, UdpPath(UdpEndpoint(own, sa.path.local.port), path.remote), now)
