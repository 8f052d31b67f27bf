"""Pairs of addresses: those there are, and along which a request goes (RFC 4555 sections 3.1, 3.5,
3.10).

A request that stays without an answer is evidence against its path. The end that decides then sends
it along all paths at once: the responder does a repeated request only once, and answers each copy
to where it came from, so that the first answer names a path that works.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from ipseclab.ike.config import IKE_PORT, NAT_T_PORT, ConnectionConfig
from ipseclab.ike.context import Context
from ipseclab.ike.sa import IkeSa, IkeState, OwnRequest
from ipseclab.outputs import TcpPath, UdpEndpoint, UdpPath

MOST_PATHS = 16
_PRIVATE = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918


def candidates(ctx: Context, sa: IkeSa) -> tuple[UdpPath, ...]:
    """Every path between the ends: the present one first, if this end still has its address, then
    by the order of own addresses."""
    assert sa.mobility is not None
    port, remote = sa.path.local.port, sa.path.remote
    if isinstance(sa.path, TcpPath):
        port, remote = NAT_T_PORT, UdpEndpoint(remote.address, NAT_T_PORT)
    others = (address for address in sa.mobility.peer_addresses if address != remote.address)
    remotes = (remote, *(UdpEndpoint(address, port) for address in others))
    locals_ = tuple(UdpEndpoint(address, port) for address in ctx.addresses)
    present = (sa.path,) if sa.path.local.address in ctx.addresses else ()
    return _pairs(present, locals_, remotes)


def first_paths(ctx: Context, connection: ConnectionConfig) -> tuple[UdpPath, ...]:
    """Where to look for the peer, the configured pair first (section 3.1)."""
    assert connection.peer_address is not None
    configured = (connection.own_address,) if connection.own_address in ctx.addresses else ()
    own = tuple(dict.fromkeys((*configured, *ctx.addresses)))
    peers: tuple[str, ...] = (connection.peer_address,)
    if connection.mobike is None:
        own = own[:1]
    else:
        peers = (*peers, *connection.mobike.peer)
    return _pairs(
        (),
        tuple(UdpEndpoint(address, IKE_PORT) for address in own),
        tuple(UdpEndpoint(address, IKE_PORT) for address in peers),
    )


def _pairs(
    first: tuple[UdpPath, ...], own: Iterable[UdpEndpoint], peers: tuple[UdpEndpoint, ...]
) -> tuple[UdpPath, ...]:
    found = dict.fromkeys(first)
    for local in own:
        version = ip_address(local.address).version
        for remote in peers:
            if ip_address(remote.address).version == version:
                found[UdpPath(local, remote)] = None
    return tuple(found)[:MOST_PATHS]


def ways(ctx: Context, sa: IkeSa, request: OwnRequest) -> tuple[UdpPath, ...]:
    """The paths along which to send `request` now; notes in its task when there are several."""
    task = request.task
    found: tuple[UdpPath, ...] = (task.path if task.path is not None else sa.path,)
    if isinstance(sa.path, TcpPath):
        # A connection is the one way of its IKE_SA; only a test of another path goes elsewhere.
        found = found if request.attempt < task.search_after else (sa.path,)
        return _noted(request, found) if sa.mobility is not None else found
    if sa.state is IkeState.INIT_SENT:
        if sa.connection.mobike is not None and request.attempt:
            options = first_paths(ctx, sa.connection)
            found = options[request.attempt % len(options) :][:1] if options else found
        return found
    mobility = sa.mobility
    if mobility is None:
        return found
    if (mobility.decides or task.searches) and request.attempt >= task.search_after:
        every = candidates(ctx, sa)
        found = every if every else found
    return _noted(request, found)


def _noted(request: OwnRequest, found: tuple[UdpPath, ...]) -> tuple[UdpPath, ...]:
    """`found`; whether the request has strayed by then shows in its task."""
    if request.first_path is None:
        request.first_path = found[0]
    if any(path != request.first_path for path in found):
        request.task.strayed = True
    return found


def suspects_nat(path: UdpPath) -> bool:
    """True where a NAT has to be between: a private address here, and none there."""
    own, peer = (_is_private(end.address) for end in path)
    return own and not peer


def _is_private(address: str) -> bool:
    parsed = ip_address(address)
    return any(parsed in network for network in _PRIVATE)


def acceptable(ctx: Context, sa: IkeSa, path: UdpPath) -> bool:
    """Whether this end would use that path (section 3.5, the responder's second step)."""
    if path.local.address not in ctx.addresses or path.remote.address in ctx.addresses:
        return False
    settings = sa.connection.mobike
    if settings is None or not settings.allowed:
        return True
    peer = ip_address(path.remote.address)
    return any(peer in ip_network(network) for network in settings.allowed)
