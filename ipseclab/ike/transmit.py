"""Requests sent, and sent again: as many at once as the peer's window allows (RFC 7296 sections 2.1
to 2.4).

What is too long for the path goes in fragments, where the peer can put them together (RFC 7383).
"""

from __future__ import annotations

from ipseclab.ike.context import Context
from ipseclab.ike.fragments import SMALLER_AFTER, SMALLEST_FRAGMENT_SIZE, largest_message
from ipseclab.ike.lifecycle import close_ike, patience, retransmission_wait
from ipseclab.ike.mobike.paths import ways
from ipseclab.ike.protection import Envelope
from ipseclab.ike.sa import IkeSa, IkeState, OwnRequest
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.outputs import TcpPath
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
        while sa.tasks and sa.state is not IkeState.GONE and sa.may_send(sa.tasks[0]):
            _send_request(ctx, sa, sa.tasks.pop(0), now)


def _send_request(ctx: Context, sa: IkeSa, task: Task, now: float) -> None:
    if sa.next_message_id > LAST_MESSAGE_ID:
        close_ike(ctx, sa, "message IDs exhausted", now)
        return
    task.strayed = False
    payloads = task.request(ctx, sa, now)
    if payloads is None:
        return
    if not sa.own_requests and task.exchange != ExchangeType.IKE_FOLLOWUP_KE:
        sa.closed_early.clear()
    message_id = sa.next_message_id
    sa.next_message_id += 1
    messages = _encode(sa, task, message_id, payloads)
    kept = payloads if len(messages) > 1 else ()
    request = sa.own_requests[message_id] = OwnRequest(
        message_id, task, messages, payloads=kept, first_sent=now
    )
    transmit(ctx, sa, request, now)


def _encode(
    sa: IkeSa, task: Task, message_id: int, payloads: tuple[Payload, ...]
) -> tuple[bytes, ...]:
    if sa.protection is not None:
        envelope = Envelope(sa.spi_i, sa.spi_r, task.exchange, sa.initiator, False, message_id)
        return sealed(sa, envelope, payloads)
    assert task.exchange in (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)
    bare = Message(sa.spi_i, ZERO_SPI, task.exchange, True, False, message_id, payloads)
    sa.init_request = bare.encode()
    return (sa.init_request,)


def sealed(
    sa: IkeSa,
    envelope: Envelope,
    payloads: tuple[Payload, ...],
    *,
    packet_size: int | None = None,
) -> tuple[bytes, ...]:
    """The message, or its fragments when it has to be cut for packets of `packet_size` octets (by
    default the connection's) and may be."""
    assert sa.protection is not None
    # RFC 9329 section 7.5: what goes in TCP needs no fragments of its own.
    if not sa.fragmentation or isinstance(sa.path, TcpPath):
        return (sa.protection.seal(envelope, payloads),)
    size = packet_size if packet_size is not None else sa.connection.fragment_size
    return sa.protection.seal_to_fit(envelope, payloads, largest_message(sa.path, size))


def transmit_again(ctx: Context, sa: IkeSa, request: OwnRequest, now: float) -> None:
    """Send a request once more, in smaller pieces when the larger ones do not seem to arrive (RFC
    7383 section 2.5.2)."""
    request.attempt += 1
    if request.payloads and request.attempt == SMALLER_AFTER:
        exchange, number = request.task.exchange, request.message_id
        envelope = Envelope(sa.spi_i, sa.spi_r, exchange, sa.initiator, False, number)
        size = min(SMALLEST_FRAGMENT_SIZE, sa.connection.fragment_size)
        smaller = sealed(sa, envelope, request.payloads, packet_size=size)
        if len(smaller) > len(request.messages):
            # A receiver tells the two apart by their totals, and takes the greater (section 2.6).
            request.messages = smaller
    transmit(ctx, sa, request, now)


def transmit(ctx: Context, sa: IkeSa, request: OwnRequest, now: float) -> None:
    """Send a request, for the first time or again, and set the timer for the next time."""
    for path in ways(ctx, sa, request):
        for octets in request.messages:
            ctx.send(path, octets, attempt=request.attempt)
    sa.last_sent = now
    schedule = sa.connection.retransmission
    wait = retransmission_wait(schedule, request.attempt)
    if in_tcp(sa, request):
        # RFC 9329 section 6.2: not repeated, but given as long in all.
        wait = patience(sa.connection) / 2
    if schedule.jitter:
        wait *= 1.0 - schedule.jitter * ctx.rng.random()
    request.due = now + wait
    set_retransmit_timer(ctx, sa)


def in_tcp(sa: IkeSa, request: OwnRequest) -> bool:
    """Whether the request went in TCP when it was sent last."""
    apart = request.task.path is not None and request.attempt < request.task.search_after
    return isinstance(sa.path, TcpPath) and not apart


def set_retransmit_timer(ctx: Context, sa: IkeSa) -> None:
    """Have the timer go off when the first of the outstanding requests is to be sent again."""
    if sa.own_requests:
        earliest = min(request.due for request in sa.own_requests.values())
        ctx.timers.set(sa.own_spi, TimerKind.RETRANSMIT, earliest)
    else:
        ctx.timers.cancel(sa.own_spi, TimerKind.RETRANSMIT)
