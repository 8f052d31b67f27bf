"""The beginning of an IKE_SA, at the end that wants one."""

from __future__ import annotations

from ipseclab.ike.config import ConnectionConfig, TcpUse
from ipseclab.ike.context import Context
from ipseclab.ike.init import InitTask
from ipseclab.ike.mobike.paths import first_paths
from ipseclab.ike.resume import ResumeTask
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.selectors import Trigger
from ipseclab.ike.stream_use import open_stream, take_into_use
from ipseclab.ike.transmit import ZERO_SPI
from ipseclab.outputs import UdpPath


def begin(
    ctx: Context,
    config: ConnectionConfig,
    now: float,
    trigger: Trigger | None = None,
    *,
    handshakes: int = 1,
    redirected_from: str = "",
    replaces: IkeSa | None = None,
    renews: IkeSa | None = None,
    fresh: bool = False,
    over_tcp: bool = False,
) -> None:
    """Begin a new IKE_SA with the connection's peer: from a ticket where there is one that is good
    (RFC 5723), else with a key exchange. One that `renews` another is to authenticate anew, and so
    is a `fresh` one. `over_tcp`: UDP was tried in vain."""
    if config.peer_address is None:
        ctx.notice("cannot_initiate", connection=config.name, reason="no peer address")
        return
    if config.provision is not None:
        reason = "the peer has no address before it asks for one"
        ctx.notice("cannot_initiate", connection=config.name, reason=reason)
        return
    paths = first_paths(ctx, config)
    if not paths:
        ctx.notice("cannot_initiate", connection=config.name, reason="no own address")
        return
    path: UdpPath | None = paths[0]
    if over_tcp or config.tcp is TcpUse.ALWAYS:
        path = open_stream(ctx, paths[0].local.address, paths[0].remote.address)
    if path is None:
        ctx.notice("cannot_initiate", connection=config.name, reason="too many TCP connections")
        return
    sa = IkeSa(
        spi_i=ctx.new_ike_spi(),
        spi_r=ZERO_SPI,
        initiator=True,
        connection=config,
        path=path,
        state=IkeState.INIT_SENT,
        created=now,
        trigger=trigger,
        handshakes=handshakes,
        replaces=replaces,
        renews=renews,
    )
    if fresh or renews is not None:
        sa.session.renewal = now
    ctx.sas[sa.own_spi] = sa
    ctx.enter(sa)
    take_into_use(ctx, sa, path, now)
    # A ticket is of the gateway that gave it, and proves no identity anew.
    without = redirected_from or fresh or renews is not None
    held = None if without else ctx.held_tickets.pop(config.name, None)
    if held is not None and held.expires > now:
        ctx.queue(sa, ResumeTask(sa, held, ctx.rng))
    else:
        ctx.queue(sa, InitTask(sa, ctx.rng, redirected_from=redirected_from))
