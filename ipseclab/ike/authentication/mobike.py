"""What IKE_AUTH says of mobility: that both ends can do it, and their addresses (RFC 4555 sections
3.2, 3.4 and 3.9)."""

from __future__ import annotations

from typing_extensions import override

from ipseclab.errors import UnexpectedNatDetected
from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.config import Mode
from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.mobike.notifies import (
    additional_notifies,
    listed_addresses,
    no_nats,
    unexpected_nat,
)
from ipseclab.ike.mobike.state import Mobility
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.start import begin
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import NotifyPayload, Payload

SUPPORTED = NotifyPayload(NotifyType.MOBIKE_SUPPORTED)


class MobikeExtension(AuthExtension):
    """MOBIKE_SUPPORTED in the messages with SA payloads, where the connection wants it."""

    @override
    def first_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        if not _wanted(sa):
            return ()
        protected = () if sa.nat_traversal else (no_nats(sa.path),)
        return (SUPPORTED, *_additional(ctx, sa), *protected)

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        if not _wanted(sa) or first.notify(NotifyType.MOBIKE_SUPPORTED) is None:
            return ()
        if unexpected_nat(sa, first, sa.path):
            sa.close_reason = "a NAT where none is allowed"
            raise UnexpectedNatDetected(f"addresses were changed on the way, seen {sa.path}")
        _begin(ctx, sa, first, decides=False)
        return (SUPPORTED, *_additional(ctx, sa))

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        if not _wanted(sa):
            return
        if response.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None:
            _establish_again(ctx, sa, now)
        elif response.notify(NotifyType.MOBIKE_SUPPORTED) is not None:
            _begin(ctx, sa, response, decides=True)


def _wanted(sa: IkeSa) -> bool:
    """RFC 4555 section 1.2 leaves transport mode out."""
    return sa.connection.mobike is not None and sa.connection.mode is Mode.TUNNEL


def _additional(ctx: Context, sa: IkeSa) -> tuple[NotifyPayload, ...]:
    return additional_notifies(one for one in ctx.addresses if one != sa.path.local.address)


def _begin(ctx: Context, sa: IkeSa, message: OpenedMessage, *, decides: bool) -> None:
    remote = sa.path.remote.address
    listed = (remote, *listed_addresses(message))
    told = tuple(ctx.addresses)
    sa.mobility = Mobility(decides, remote, peer_addresses=listed, told=told)


def _establish_again(ctx: Context, sa: IkeSa, now: float) -> None:
    """Section 3.9: an attacker who can change one message must not keep the path unused."""
    reason = "the peer finds a NAT where none is allowed"
    close_ike(ctx, sa, reason, now)
    if sa.handshakes <= sa.connection.retransmission.tries:
        begin(ctx, sa.connection, now, sa.trigger, handshakes=sa.handshakes + 1)
    raise UnexpectedNatDetected(reason)
