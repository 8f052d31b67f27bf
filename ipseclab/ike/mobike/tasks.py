"""The requests of MOBIKE (RFC 4555 sections 3.5 to 3.7 and 3.10).

HDR, SK { N(UPDATE_SA_ADDRESSES), N(NAT_DETECTION_*_IP) or N(NO_NATS_ALLOWED),
          N(ADDITIONAL_*_ADDRESS)+ or N(NO_ADDITIONAL_ADDRESSES), N(COOKIE2) }  -->
                         <--  HDR, SK { N(NAT_DETECTION_*_IP), N(COOKIE2) }
"""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.mobike.move import (
    move_children,
    seen_as,
    take_nats,
    use_path,
)
from ipseclab.ike.mobike.notifies import (
    COOKIE2_SIZE,
    detection,
    list_notifies,
    protected_addresses,
    returns_cookie2,
)
from ipseclab.ike.mobike.paths import candidates, suspects_nat
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.task import Task
from ipseclab.outputs import TcpPath, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload

BAD_COOKIE2 = "COOKIE2 came back changed"


class _Checked(Task):
    """An INFORMATIONAL request with a COOKIE2: whoever answers it has seen it (section 3.7)."""

    exchange = ExchangeType.INFORMATIONAL
    exclusive = False
    cookie = b""

    @override
    def may_overlap(self, other: Task) -> bool:
        """One at a time, whatever the window: answers to several that went along several paths
        would have the ends change paths for ever."""
        return not isinstance(other, _Checked) and super().may_overlap(other)

    @override
    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Without an answer when the IKE_SA ends; where another has taken its place, the question
        is still one."""
        standing = sa.current()
        if standing is not sa and standing.alive:
            self._ask_again(ctx, standing)

    def _ask_again(self, ctx: Context, sa: IkeSa) -> None:
        ctx.queue(sa, self, first=True)

    def _with_cookie(self, ctx: Context, *payloads: Payload) -> tuple[Payload, ...]:
        self.cookie = ctx.rng.randbytes(COOKIE2_SIZE)
        return (*payloads, NotifyPayload(NotifyType.COOKIE2, self.cookie))

    def _came_back(self, ctx: Context, sa: IkeSa, message: Message, now: float) -> bool:
        """False where the cookie differs: then the IKE_SA is closed."""
        if returns_cookie2(message, self.cookie):
            return True
        close_ike(ctx, sa, BAD_COOKIE2, now)
        return False


class UpdateAddresses(_Checked):
    """Tell the peer to use the addresses of this message from now on."""

    name = "update SA addresses"

    def __init__(self) -> None:
        self.changes = 0

    @override
    def _ask_again(self, ctx: Context, sa: IkeSa) -> None:
        want_update(ctx, sa)

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        mobility = sa.mobility
        if mobility is None or not sa.alive:
            return None
        self.changes = mobility.changes
        update = NotifyPayload(NotifyType.UPDATE_SA_ADDRESSES)
        return self._with_cookie(
            ctx, update, *protected_addresses(sa, sa.path), *_own_list(ctx, sa, sa.path)
        )

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        if not self._came_back(ctx, sa, message, now):
            return
        successor, mobility = sa.current(), sa.mobility
        assert mobility is not None
        if self.strayed or self.changes != mobility.changes or successor is not sa:
            # Which of the paths the peer has taken it for does not show, nor whether it has taken
            # it at all: an update of an IKE_SA that was rekeyed says nothing of the new one.
            want_update(ctx, successor)
            return
        if message.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None:
            mobility.nat_retries += 1
            if mobility.nat_retries <= sa.connection.retransmission.tries:
                want_update(ctx, successor)
            else:
                _refused(ctx, successor, "unexpected NAT", now)
            return
        mobility.nat_retries = 0
        if message.notify(NotifyType.UNACCEPTABLE_ADDRESSES) is not None:
            _refused(ctx, successor, "unacceptable addresses", now)
            return
        take_nats(ctx, sa, message, sa.path, now)
        mobility.proven = sa.path.remote.address
        mobility.fallback = None
        mobility.seen_as = seen_as(message)
        move_children(ctx, sa)
        ctx.notice(
            "addresses_updated",
            spi_i=sa.spi_i.hex(),
            spi_r=sa.spi_r.hex(),
            local=str(sa.path.local),
            remote=str(sa.path.remote),
            encapsulated=sa.encapsulated,
        )


def want_update(ctx: Context, sa: IkeSa) -> None:
    """Have the peer told of the present path as soon as the window allows."""
    if not any(isinstance(task, UpdateAddresses) for task in sa.tasks):
        ctx.queue(sa, UpdateAddresses(), first=True)


def looks_at_mapping(sa: IkeSa) -> bool:
    """Whether this end has to find out by itself that a NAT sees it elsewhere: it decides, and is
    behind one (section 3.8)."""
    mobility = sa.mobility
    behind = mobility is not None and mobility.decides and sa.own_behind_nat
    return behind and sa.nat_traversal


def asks_for_mapping(sa: IkeSa, now: float) -> tuple[NotifyPayload, ...]:
    """What a liveness check then holds beside: how does the peer see this end?"""
    if sa.mobility is None or not looks_at_mapping(sa):
        return ()
    sa.mobility.asked = now
    return detection(sa, sa.path)


def check_mapping(ctx: Context, sa: IkeSa, message: Message) -> None:
    """The answer to that: a NAT that has changed its mapping calls for an update. So does the first
    look after a rekey, which does no harm."""
    seen = seen_as(message)
    if sa.mobility is not None and sa.mobility.decides and seen not in (b"", sa.mobility.seen_as):
        ctx.notice("nat_mapping_changed", spi_i=sa.spi_i.hex())
        want_update(ctx, sa.current())


def move(ctx: Context, sa: IkeSa, path: UdpPath, now: float) -> None:
    """This end has decided for `path` (section 3.5). The CHILD_SAs go at once where the peer's
    address is known to be its own, else after the check."""
    mobility, settings = sa.mobility, sa.connection.mobike
    assert mobility is not None
    assert settings is not None
    if mobility.fallback is None and not isinstance(sa.path, TcpPath):
        # Back to a connection there is no way: it closes when it is left.
        mobility.fallback = sa.path
    use_path(ctx, sa, path, now)
    if sa.nat_traversal and suspects_nat(path):
        sa.own_behind_nat = True
    if not settings.return_routability or path.remote.address == mobility.proven:
        move_children(ctx, sa)
    want_update(ctx, sa)


def _refused(ctx: Context, sa: IkeSa, reason: str, now: float) -> None:
    """The peer does not take the path: another one, or the one before, which it still uses."""
    mobility = sa.mobility
    assert mobility is not None
    mobility.nat_retries = 0
    mobility.refused = (*mobility.refused, sa.path)
    ctx.notice("path_refused", spi_i=sa.spi_i.hex(), reason=reason, remote=str(sa.path.remote))
    fallback, mobility.fallback = mobility.fallback, None
    if fallback is not None and fallback.local.address in ctx.addresses:
        use_path(ctx, sa, fallback, now)
        move_children(ctx, sa)
        return
    left = [path for path in candidates(ctx, sa) if path not in mobility.refused]
    if left:
        move(ctx, sa, left[0], now)


class ListAddresses(_Checked):
    """Tell the peer all of this end's addresses anew (section 3.6). From an address that the peer
    has not spoken with, or to one that may have gone, it is sent along all paths."""

    name = "list addresses"
    searches = True

    def __init__(self) -> None:
        self.retries = 0

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        mobility = sa.mobility
        if mobility is None or not sa.alive or mobility.told == tuple(ctx.addresses):
            return None
        nats = () if sa.nat_traversal else protected_addresses(sa, sa.path)
        return self._with_cookie(ctx, *_own_list(ctx, sa, sa.path), *nats)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        if not self._came_back(ctx, sa, message, now):
            return
        successor, mobility = sa.current(), sa.mobility
        assert mobility is not None
        unexpected = message.notify(NotifyType.UNEXPECTED_NAT_DETECTED) is not None
        self.retries += unexpected
        if self.strayed or (unexpected and self.retries <= sa.connection.retransmission.tries):
            # Section 3.6: sent from several addresses, the list holds for one of them alone.
            self._ask_again(ctx, successor)

    @override
    def _ask_again(self, ctx: Context, sa: IkeSa) -> None:
        if sa.mobility is not None:
            sa.mobility.told = ()
        ctx.queue(sa, self, first=True)


def _own_list(ctx: Context, sa: IkeSa, path: UdpPath) -> tuple[NotifyPayload, ...]:
    """All addresses of this end but the one that the message comes from."""
    assert sa.mobility is not None
    sa.mobility.told = tuple(ctx.addresses)
    return list_notifies(address for address in ctx.addresses if address != path.local.address)


class TestPath(_Checked):
    """Does that path work? (Section 3.10.) The answer has it taken into use; without one the
    request goes along the other paths as well, and all stays as it is."""

    name = "test path"
    search_after = 1

    def __init__(self, path: UdpPath) -> None:
        self.path = path

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        assert self.path is not None
        if sa.mobility is None or not sa.alive or self.path.local.address not in ctx.addresses:
            return None
        return self._with_cookie(ctx)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        self._came_back(ctx, sa, message, now)


class CheckRoute(_Checked):
    """The responder's question whether the peer is where its update came from (section 3.7): only
    then ESP is sent there."""

    name = "return routability"

    def __init__(self) -> None:
        self.changes = 0

    @override
    def _ask_again(self, ctx: Context, sa: IkeSa) -> None:
        want_check(ctx, sa)

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        if sa.mobility is None or not sa.alive:
            return None
        self.changes = sa.mobility.changes
        return self._with_cookie(ctx)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        if not self._came_back(ctx, sa, message, now):
            return
        successor, mobility = sa.current(), sa.mobility
        assert mobility is not None
        if self.strayed or self.changes != mobility.changes:
            # Section 3.7: sent to several addresses, it does not tell which one works.
            want_check(ctx, successor)
            return
        mobility.proven = successor.path.remote.address
        ctx.notice("route_checked", spi_i=successor.spi_i.hex(), remote=str(successor.path.remote))
        move_children(ctx, successor)


def want_check(ctx: Context, sa: IkeSa) -> None:
    """Have the peer's present address checked as soon as the window allows."""
    if not any(isinstance(task, CheckRoute) for task in sa.tasks):
        ctx.queue(sa, CheckRoute(), first=True)
