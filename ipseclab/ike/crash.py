"""Quick crash detection: a peer that has lost an IKE_SA proves it at once (RFC 6290).

While all is well each end gives the other a token, in IKE_AUTH and after a rekey of the IKE_SA:

    HDR, SK {IDi, AUTH, ..., N(QUICK_CRASH_DETECTION, token)}  -->
                              <--  HDR, SK {IDr, AUTH, ..., N(QUICK_CRASH_DETECTION, token)}

It is a MAC of the IKE_SA's SPIs with a secret that a restart does not take away, so that an end
which gets a request for an IKE_SA that it does not have can make it again:

    HDR(A, B), SK {...}  -->
                              <--  HDR(A, B), N(INVALID_IKE_SPI), N(QUICK_CRASH_DETECTION, token)

Whoever has been given that token knows by it that the IKE_SA is gone, and need not wait for its
requests to be given up.
"""

from __future__ import annotations

import hmac

from ipseclab.ike.context import Context
from ipseclab.ike.crash_token import token_notify
from ipseclab.ike.lifecycle import close_ike
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.start import begin
from ipseclab.outputs import UdpPath
from ipseclab.registry import NotifyType, PayloadType
from ipseclab.wire.message import IkeHeader, Message, decode_message
from ipseclab.wire.payloads import NotifyPayload

CRASHED = "the peer has restarted"


def answer_unknown(ctx: Context, header: IkeHeader, path: UdpPath, now: float) -> None:
    """A request for an IKE_SA that is not there: say so with its token, so often and no more.

    Never for an IKE_SA that is there, whatever the flags say: its token would end it at the peer.
    Nor for one that a rekey of this end has asked for: the peer has made it, and its first request
    has overtaken the response that says so. It will come again.
    """
    spis = (header.spi_i, header.spi_r)
    possible = ctx.possible_connections(path).connections
    if (
        header.response
        or not (any(header.spi_i) and any(header.spi_r))
        or any(spi in ctx.sas or spi in ctx.offered_spis for spi in spis)
        or not ctx.config.secret
        or not any(connection.crash_detection for connection in possible)
    ):
        return
    if not ctx.stateless_answers.allow(now):
        ctx.counters["ike.token_withheld"] += 1
        return
    answer = Message(
        header.spi_i,
        header.spi_r,
        header.exchange,
        not header.initiator,
        True,
        header.message_id,
        (
            NotifyPayload(NotifyType.INVALID_IKE_SPI),
            token_notify(ctx, header.spi_i, header.spi_r),
        ),
    )
    ctx.counters["ike.token_shown"] += 1
    ctx.send(path, answer.encode())


def is_unprotected(octets: bytes) -> bool:
    """True for a message whose first payload is a Notify in the clear."""
    return octets[16] == PayloadType.NOTIFY


def take_crash(ctx: Context, sa: IkeSa, octets: bytes, now: float) -> None:
    """An answer in the clear: worth nothing, unless it has the peer's token (section 4.4)."""
    message = decode_message(octets)
    shown = message.notify(NotifyType.QUICK_CRASH_DETECTION)
    lost = message.notify(NotifyType.INVALID_IKE_SPI) is not None
    if not lost or shown is None or not sa.peer_token or sa.state is IkeState.GONE:
        ctx.drop("unprotected")
        return
    if not hmac.compare_digest(shown.data, sa.peer_token):
        ctx.drop("bad_token")
        return
    name = sa.connection.name
    ctx.notice("crash_detected", connection=name, spi_i=sa.spi_i.hex(), spi_r=sa.spi_r.hex())
    # One that was replaced, or is being closed, is not to come back.
    was_wanted = sa.alive
    close_ike(ctx, sa, CRASHED, now)
    configured = ctx.connection(name)
    able = configured.peer_address is not None and configured.provision is None
    if was_wanted and able and ctx.newest(name) is None:
        begin(ctx, configured, now)
