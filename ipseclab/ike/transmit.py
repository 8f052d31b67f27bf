"""Requests sent, and sent again: one outstanding an IKE_SA (RFC 7296 sections 2.1 to 2.4)."""

from __future__ import annotations

from ipseclab.ike.context import Context
from ipseclab.ike.lifecycle import close_ike, retransmission_wait
from ipseclab.ike.protection import Envelope
from ipseclab.ike.sa import IkeSa, IkeState, OwnRequest
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.registry import ExchangeType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import Payload

ZERO_SPI = bytes(8)
LAST_MESSAGE_ID = 0xFFFFFFFF
"""RFC 7296 section 2.2: an IKE_SA must be rekeyed or closed before its message IDs wrap."""


def send_requests(ctx: Context, now: float) -> None:
    """Start whatever waits for its turn."""
    while ctx.ready:
        sa = ctx.ready.popleft()
        while sa.tasks and sa.own_request is None and sa.state is not IkeState.GONE:
            _send_request(ctx, sa, sa.tasks.popleft(), now)


def _send_request(ctx: Context, sa: IkeSa, task: Task, now: float) -> None:
    if sa.next_message_id > LAST_MESSAGE_ID:
        close_ike(ctx, sa, "message IDs exhausted", now)
        return
    payloads = task.request(ctx, sa, now)
    if payloads is None:
        return
    sa.closed_early.clear()
    message_id = sa.next_message_id
    sa.next_message_id += 1
    octets = _encode(sa, task, message_id, payloads)
    sa.own_request = OwnRequest(message_id, task, octets)
    transmit(ctx, sa, sa.own_request, now)


def _encode(sa: IkeSa, task: Task, message_id: int, payloads: tuple[Payload, ...]) -> bytes:
    if sa.protection is not None:
        envelope = Envelope(sa.spi_i, sa.spi_r, task.exchange, sa.initiator, False, message_id)
        return sa.protection.seal(envelope, payloads)
    assert task.exchange == ExchangeType.IKE_SA_INIT
    bare = Message(sa.spi_i, ZERO_SPI, task.exchange, True, False, message_id, payloads)
    sa.init_request = bare.encode()
    return sa.init_request


def transmit(ctx: Context, sa: IkeSa, request: OwnRequest, now: float) -> None:
    """Send a request, for the first time or again, and set the timer for the next time."""
    ctx.send(sa.path, request.octets, attempt=request.attempt)
    sa.last_sent = now
    schedule = sa.connection.retransmission
    wait = retransmission_wait(schedule, request.attempt)
    if schedule.jitter:
        wait *= 1.0 - schedule.jitter * ctx.rng.random()
    ctx.timers.set(sa.own_spi, TimerKind.RETRANSMIT, now + wait)
