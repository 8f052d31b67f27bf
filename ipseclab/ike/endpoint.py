"""An IKEv2 endpoint without I/O: datagrams and time go in, outputs come out.

RFC 7296 sections 2.1 to 2.4 (messages, windows, retransmission), 2.21 (errors), 2.23 (addresses). The
exchanges are in files of their own; this one finds the IKE_SA of a message, checks the message ID,
opens it, has it answered, and keeps time.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from ipseclab.errors import (
    AuthenticationFailed,
    IkeError,
    IntegrityFailure,
    InvalidSyntax,
    UnsupportedCriticalPayload,
    WireError,
)
from ipseclab.ike.auth import AuthTask, answer_auth
from ipseclab.ike.config import IKE_PORT, IkeConfig
from ipseclab.ike.context import Context
from ipseclab.ike.create import CreateChild, Retrying, answer_create, is_ike_rekey
from ipseclab.ike.events import ChildSaMoved, IkeOutput
from ipseclab.ike.informational import (
    DELETED,
    EXPIRED,
    DeleteChild,
    DeleteIke,
    Liveness,
    answer_informational,
    finish_closing,
)
from ipseclab.ike.init import ZERO_SPI, Cookies, InitTask, answer_init
from ipseclab.ike.lifecycle import (
    CANDIDATE,
    FORGET,
    HALF_OPEN,
    HARD,
    KEEPALIVE,
    LIVENESS,
    REPLACED,
    RETRANSMIT,
    RETRY,
    SOFT,
    close_ike,
    remove_child,
)
from ipseclab.ike.natt import KEEPALIVE as KEEPALIVE_OCTET
from ipseclab.ike.protection import Envelope, inner_payloads
from ipseclab.ike.rekey import IkeRekey, answer_rekey
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa, IkeState, OwnRequest, PeerRequest
from ipseclab.ike.task import Task
from ipseclab.outputs import Deadline, SendDatagram, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message, decode_header, decode_message
from ipseclab.wire.payloads import NotifyPayload, Payload, SkPayload, UnknownPayload

MAJOR_VERSION = 2
LAST_MESSAGE_ID = 0xFFFFFFFF


class SaActivity(Protocol):
    """What the endpoint asks of the datapath: when did a CHILD_SA last carry a packet?"""

    def last_inbound(self, spi_in: bytes) -> float | None:
        """Seconds; None for never."""

    def last_outbound(self, spi_in: bytes) -> float | None:
        """Seconds; None for never."""


class IkeEndpoint:
    """All IKE_SAs of one node."""

    def __init__(self, config: IkeConfig, *, rng: random.Random, activity: SaActivity) -> None:
        self._ctx = Context(config, rng=rng)
        self._cookies = Cookies(rng)
        self._activity = activity

    # What a user or a policy wants.

    def initiate(self, connection: str, now: float) -> list[IkeOutput]:
        """Set the connection up: an IKE_SA with a CHILD_SA, or what of them is missing."""
        config = self._ctx.connection(connection)
        sa = self._sa_of(connection)
        if sa is None:
            self._start(connection, now)
        elif sa.alive and not any(child.usable for child in sa.children.values()):
            wanted = any(isinstance(task, CreateChild) for task in sa.tasks)
            busy = sa.own_request is not None and isinstance(sa.own_request.task, CreateChild)
            if not wanted and not busy:
                self._ctx.queue(sa, CreateChild(config))
        return self._done(now)

    def create_child(self, connection: str, now: float) -> list[IkeOutput]:
        """One more CHILD_SA beside those that the connection has."""
        sa = self._sa_of(connection)
        if sa is not None and sa.alive:
            self._ctx.queue(sa, CreateChild(sa.connection))
        return self._done(now)

    def rekey_child(self, connection: str, now: float) -> list[IkeOutput]:
        """Rekey every CHILD_SA of the connection that is in service."""
        for child in self._children_of(connection):
            self._rekey(child)
        return self._done(now)

    def rekey_ike(self, connection: str, now: float) -> list[IkeOutput]:
        """Rekey the connection's IKE_SA."""
        sa = self._sa_of(connection)
        if sa is not None and sa.alive:
            self._queue_rekey(sa)
        return self._done(now)

    def delete_child(self, connection: str, now: float) -> list[IkeOutput]:
        """Close every CHILD_SA of the connection."""
        for child in self._children_of(connection):
            self._ctx.queue(child.ike, DeleteChild(child, DELETED))
        return self._done(now)

    def delete_ike(self, connection: str, now: float) -> list[IkeOutput]:
        """Close the connection's IKE_SA, and with it all its CHILD_SAs."""
        sa = self._sa_of(connection)
        if sa is not None:
            if sa.state is IkeState.INIT_SENT:
                close_ike(self._ctx, sa, DELETED, now)
            else:
                self._ctx.queue(sa, DeleteIke(DELETED), first=True)
        return self._done(now)

    def check_liveness(self, connection: str, now: float) -> list[IkeOutput]:
        """Ask the peer for a sign of life."""
        sa = self._sa_of(connection)
        if sa is not None and sa.alive:
            self._ctx.queue(sa, Liveness())
        return self._done(now)

    # What the datapath tells.

    def child_soft_expired(self, spi_in: bytes, now: float) -> list[IkeOutput]:
        """A CHILD_SA came near its end: rekey it, unless that is done or under way."""
        child = self._ctx.children.get(spi_in)
        if child is not None:
            self._rekey(child)
        return self._done(now)

    def child_hard_expired(self, spi_in: bytes, now: float) -> list[IkeOutput]:
        """A CHILD_SA reached its end: close it, with a DELETE where none is due already."""
        child = self._ctx.children.get(spi_in)
        if child is not None:
            if child.state is ChildState.REPLACED_BY_PEER:
                remove_child(self._ctx, child, EXPIRED)
            elif child.state in (ChildState.INSTALLED, ChildState.REKEYING):
                self._ctx.queue(child.ike, DeleteChild(child, EXPIRED))
        return self._done(now)

    def peer_seen(self, spi_in: bytes, path: UdpPath, now: float) -> list[IkeOutput]:
        """An authenticated, newer ESP packet came along `path` (RFC 7296 section 2.23)."""
        child = self._ctx.children.get(spi_in)
        if child is not None:
            self._follow(child.ike, path)
        return self._done(now)

    # What the network brings.

    def receive(self, path: UdpPath, octets: bytes, now: float) -> list[IkeOutput]:
        """One IKE message, without a non-ESP marker. Nothing in it raises."""
        try:
            self._receive(path, octets, now)
        except WireError:
            self._ctx.drop("malformed")
        except IntegrityFailure:
            self._ctx.drop("bad_icv")
        return self._done(now)

    def next_deadline(self) -> Deadline | None:
        """When `handle_timeout` wants to be called."""
        return self._ctx.timers.next_deadline()

    def handle_timeout(self, now: float) -> list[IkeOutput]:
        """Do all that is due at `now`."""
        while (key := self._ctx.timers.take_due(now)) is not None:
            if key.why == RETRY:
                self._retry(key.owner)
                continue
            sa = self._ctx.sas.get(key.owner)
            if sa is not None:
                self._due(sa, key.why, now)
        return self._done(now)

    # What there is.

    @property
    def counters(self) -> Mapping[str, int]:
        """Messages dropped and refused, by reason."""
        return self._ctx.counters

    @property
    def ike_sas(self) -> tuple[IkeSa, ...]:
        """All IKE_SAs but those that only answer repeats."""
        return tuple(sa for sa in self._ctx.sas.values() if sa.state is not IkeState.GONE)

    @property
    def child_sas(self) -> tuple[ChildSa, ...]:
        """All CHILD_SAs."""
        return tuple(self._ctx.children.values())

    @property
    def half_open(self) -> int:
        """IKE_SAs that wait for IKE_AUTH."""
        return len(self._ctx.half_open)

    # Sending.

    def _start(self, connection: str, now: float) -> None:
        config = self._ctx.connection(connection)
        if config.peer_address is None:
            self._ctx.notice("cannot_initiate", connection=connection, reason="no peer address")
            return
        ends = (config.own_address, config.peer_address)
        sa = IkeSa(
            spi_i=self._ctx.new_ike_spi(),
            spi_r=ZERO_SPI,
            initiator=True,
            connection=config,
            path=UdpPath(*(UdpEndpoint(address, IKE_PORT) for address in ends)),
            state=IkeState.INIT_SENT,
            created=now,
        )
        self._ctx.sas[sa.own_spi] = sa
        self._ctx.queue(sa, InitTask(sa, self._ctx.rng))

    def _done(self, now: float) -> list[IkeOutput]:
        """Start whatever waits for its turn, and hand everything over."""
        ready = self._ctx.ready
        while ready:
            sa = ready.popleft()
            while sa.tasks and sa.own_request is None and sa.state is not IkeState.GONE:
                self._send_request(sa, sa.tasks.popleft(), now)
        return self._ctx.take_outputs()

    def _send_request(self, sa: IkeSa, task: Task, now: float) -> None:
        payloads = task.request(self._ctx, sa, now)
        if payloads is None:
            return
        if sa.next_message_id > LAST_MESSAGE_ID:
            close_ike(self._ctx, sa, "message IDs exhausted", now)
            return
        message_id = sa.next_message_id
        sa.next_message_id += 1
        if task.exchange == ExchangeType.IKE_SA_INIT:
            bare = Message(sa.spi_i, ZERO_SPI, task.exchange, True, False, message_id, payloads)
            octets = sa.init_request = bare.encode()
        else:
            assert sa.protection is not None
            envelope = Envelope(sa.spi_i, sa.spi_r, task.exchange, sa.initiator, False, message_id)
            octets = sa.protection.seal(envelope, payloads)
        sa.own_request = OwnRequest(message_id, task, octets, now)
        self._transmit(sa, sa.own_request, now)

    def _transmit(self, sa: IkeSa, request: OwnRequest, now: float) -> None:
        """Send a request, for the first time or again, and set the timer for the next time."""
        self._ctx.send(sa.path, request.octets, attempt=request.attempt)
        sa.last_sent = now
        schedule = sa.connection.retransmission
        wait = schedule.timeout * schedule.base**request.attempt
        if schedule.limit is not None:
            wait = min(wait, schedule.limit)
        if schedule.jitter:
            wait *= 1.0 - schedule.jitter * self._ctx.rng.random()
        self._ctx.timers.set(sa.own_spi, RETRANSMIT, now + wait)

    # Receiving.

    def _receive(self, path: UdpPath, octets: bytes, now: float) -> None:
        header = decode_header(octets)
        if header.major != MAJOR_VERSION:
            self._refuse_version(path, octets)
            return
        self._ctx.notice(
            "ike_received",
            exchange=header.exchange.name,
            message_id=header.message_id,
            request=not header.response,
            octets=len(octets),
            spi_i=header.spi_i.hex(),
            spi_r=header.spi_r.hex(),
            source=str(path.remote),
            destination=str(path.local),
        )
        # The Initiator flag says which SPI is whose (section 3.1).
        own_spi = header.spi_r if header.initiator else header.spi_i
        if header.exchange == ExchangeType.IKE_SA_INIT:
            self._receive_init(path, decode_message(octets), octets, now)
            return
        sa = self._ctx.sas.get(own_spi)
        if sa is None or sa.protection is None or sa.initiator == header.initiator:
            self._ctx.drop("no_ike_sa")
            return
        if (header.spi_i, header.spi_r) != (sa.spi_i, sa.spi_r):
            self._ctx.drop("no_ike_sa")
            return
        if header.response:
            self._receive_response(sa, path, octets, now)
        else:
            self._receive_request(sa, path, octets, now)

    def _refuse_version(self, path: UdpPath, octets: bytes) -> None:
        """Section 2.5: a higher major version is told ours; anything else is dropped."""
        header = decode_header(octets)
        self._ctx.drop("version")
        if header.major > MAJOR_VERSION and not header.response:
            notify = NotifyPayload(NotifyType.INVALID_MAJOR_VERSION)
            answer = Message(
                header.spi_i,
                header.spi_r,
                header.exchange,
                not header.initiator,
                True,
                header.message_id,
                (notify,),
            )
            self._ctx.send(path, answer.encode())

    def _receive_init(self, path: UdpPath, message: Message, octets: bytes, now: float) -> None:
        if not message.response:
            if not message.initiator or message.message_id:
                self._ctx.drop("init_flags")
            else:
                answer_init(self._ctx, self._cookies, message, octets, path, now)
            return
        sa = self._ctx.sas.get(message.spi_i)
        request = sa.own_request if sa is not None else None
        if (
            sa is None
            or request is None
            or not isinstance(request.task, InitTask)
            or message.initiator
            or message.message_id
            or path.remote.address != sa.path.remote.address
        ):
            self._ctx.drop("unexpected_response")
            return
        try:
            ready = request.task.accept(self._ctx, sa, message, path, now)
        except (IkeError, WireError):
            # Not authenticated, so not believed: the responder's own answer may still come.
            self._ctx.drop("init_refused")
            return
        if ready:
            self._ctx.timers.cancel(sa.own_spi, RETRANSMIT)
            sa.own_request = None
            sa.init_response = octets
            sa.state = IkeState.HALF_OPEN
            self._ctx.queue(sa, AuthTask(), first=True)

    def _open(self, sa: IkeSa, octets: bytes) -> tuple[Message, SkPayload, bytes]:
        """The message, its Encrypted payload, the plaintext. Raises IntegrityFailure, WireError."""
        message = decode_message(octets)
        sk = message.find(SkPayload)
        if sk is None:
            raise WireError(f"{message.exchange.name} without an Encrypted payload")
        assert sa.protection is not None
        return message, sk, sa.protection.open(octets, sk)

    def _receive_request(self, sa: IkeSa, path: UdpPath, octets: bytes, now: float) -> None:
        last = sa.peer_request
        if last is not None and last.octets == octets:
            # Section 2.1: a repeat gets the very same response, wherever it came from, and has no
            # further effect.
            self._ctx.counters["ike.repeated_requests"] += 1
            self._ctx.send(path, last.response, attempt=1)
            return
        message, sk, plaintext = self._open(sa, octets)
        if sa.state is IkeState.GONE or message.message_id != sa.expected_message_id:
            self._ctx.drop("message_id")
            return
        if sa.state is IkeState.HALF_OPEN and message.exchange != ExchangeType.IKE_AUTH:
            self._ctx.drop("not_authenticated")
            return
        sa.expected_message_id += 1
        sa.last_received = now
        if sa.state is IkeState.HALF_OPEN:
            sa.path = path
        else:
            self._follow(sa, path)
        payloads = self._answer(sa, message, sk, plaintext, now)
        assert sa.protection is not None
        envelope = Envelope(
            sa.spi_i, sa.spi_r, message.exchange, sa.initiator, True, message.message_id
        )
        response = sa.protection.seal(envelope, payloads)
        sa.peer_request = PeerRequest(message.message_id, octets, response)
        self._ctx.send(path, response)
        sa.last_sent = now
        if sa.close_reason:
            finish_closing(self._ctx, sa, now)

    def _answer(
        self, sa: IkeSa, message: Message, sk: SkPayload, plaintext: bytes, now: float
    ) -> tuple[Payload, ...]:
        """The payloads of the response; an IkeError becomes its Notify, here and nowhere else."""
        try:
            inner = replace(message, payloads=_checked(sk, plaintext))
            return self._dispatch(sa, inner, now)
        except IkeError as error:
            self._ctx.counters[f"ike.{error.notify.name.lower()}"] += 1
            self._ctx.notice("ike_error_sent", notify=error.notify.name, reason=str(error))
            fatal = isinstance(error, AuthenticationFailed | InvalidSyntax)
            if fatal or sa.state is IkeState.HALF_OPEN:
                # Sections 2.21.2 and 2.21.3.
                sa.close_reason = str(error)
            return (
                NotifyPayload(error.notify, error.notification_data(), error.protocol, error.spi),
            )

    def _dispatch(self, sa: IkeSa, message: Message, now: float) -> tuple[Payload, ...]:
        match message.exchange:
            case ExchangeType.IKE_AUTH if sa.state is IkeState.HALF_OPEN:
                return answer_auth(self._ctx, sa, message, now)
            case ExchangeType.CREATE_CHILD_SA if is_ike_rekey(message):
                return answer_rekey(self._ctx, sa, message, now)
            case ExchangeType.CREATE_CHILD_SA:
                return answer_create(self._ctx, sa, message, now)
            case ExchangeType.INFORMATIONAL:
                return answer_informational(self._ctx, sa, message, now)
            case _:
                raise InvalidSyntax(f"unexpected {message.exchange.name} request")

    def _receive_response(self, sa: IkeSa, path: UdpPath, octets: bytes, now: float) -> None:
        message, sk, plaintext = self._open(sa, octets)
        request = sa.own_request
        if (
            request is None
            or message.message_id != request.message_id
            or message.exchange != request.task.exchange
        ):
            self._ctx.drop("unexpected_response")
            return
        self._ctx.timers.cancel(sa.own_spi, RETRANSMIT)
        sa.own_request = None
        sa.last_received = now
        self._ctx.ready.append(sa)
        self._follow(sa, path)
        try:
            inner = replace(message, payloads=_checked(sk, plaintext))
            if inner.notify(NotifyType.INVALID_SYNTAX) is not None and sa.alive:
                close_ike(self._ctx, sa, "the peer found our request malformed", now)
                return
            request.task.response(self._ctx, sa, inner, now)
        except IkeError as error:
            self._ctx.notice("exchange_failed", task=request.task.name, reason=str(error))
            request.task.abandoned(self._ctx, sa, now)
            if sa.state is IkeState.HALF_OPEN:
                close_ike(self._ctx, sa, str(error), now)

    def _follow(self, sa: IkeSa, path: UdpPath) -> None:
        """The peer moved, as its NAT gave it another address or port (section 2.23).

        Only a peer behind a NAT is followed: without one an address changes by MOBIKE, or someone is
        playing tricks. A DELETE or retransmission under way goes to the new address too.
        """
        if path == sa.path or not sa.peer_behind_nat or path.local.port != sa.path.local.port:
            return
        old, sa.path = sa.path, path
        self._ctx.notice(
            "peer_moved", spi_i=sa.spi_i.hex(), old=str(old.remote), new=str(path.remote)
        )
        for child in sa.children.values():
            self._ctx.emit(ChildSaMoved(child.spi_in, path))

    # Time.

    def _due(self, sa: IkeSa, why: str, now: float) -> None:
        match why:
            case _ if why == RETRANSMIT:
                self._retransmit(sa, now)
            case _ if why == SOFT:
                self._queue_rekey(sa)
            case _ if why == HARD:
                self._ctx.queue(sa, DeleteIke(EXPIRED), first=True)
            case _ if why == LIVENESS:
                self._liveness_due(sa, now)
            case _ if why == KEEPALIVE:
                self._keepalive_due(sa, now)
            case _ if why in (HALF_OPEN, CANDIDATE, REPLACED):
                close_ike(self._ctx, sa, f"timed out: {why}", now)
            case _ if why == FORGET:
                self._ctx.sas.pop(sa.own_spi, None)
            case _:
                raise AssertionError(f"unknown timer {why}")

    def _retransmit(self, sa: IkeSa, now: float) -> None:
        request = sa.own_request
        if request is None:
            return
        if request.attempt >= sa.connection.retransmission.tries:
            # Section 2.4: an IKE_SA whose peer does not answer is gone, and so are its CHILD_SAs.
            close_ike(self._ctx, sa, "no answer", now)
            return
        request.attempt += 1
        self._transmit(sa, request, now)

    def _liveness_due(self, sa: IkeSa, now: float) -> None:
        interval = sa.connection.liveness
        if interval is None or not sa.alive:
            return
        seen = [self._activity.last_inbound(spi) for spi in sa.children]
        last = max([sa.last_received, *(at for at in seen if at is not None)])
        if now - last < interval:
            self._ctx.timers.set(sa.own_spi, LIVENESS, last + interval)
            return
        if sa.own_request is None:
            self._ctx.queue(sa, Liveness())
        self._ctx.timers.set(sa.own_spi, LIVENESS, now + interval)

    def _keepalive_due(self, sa: IkeSa, now: float) -> None:
        """RFC 3948 section 4: one octet, if nothing else went out along the path lately."""
        interval = sa.connection.keepalive
        if interval is None or sa.state is not IkeState.ESTABLISHED:
            return
        sent = [self._activity.last_outbound(spi) for spi in sa.children]
        last = max([sa.last_sent, *(at for at in sent if at is not None)])
        if now - last >= interval:
            self._ctx.emit(SendDatagram(sa.path, KEEPALIVE_OCTET))
            self._ctx.notice("keepalive_sent", destination=str(sa.path.remote))
            sa.last_sent = last = now
        self._ctx.timers.set(sa.own_spi, KEEPALIVE, last + interval)

    def _retry(self, key: bytes) -> None:
        sa, task = self._ctx.retries.pop(key)
        assert isinstance(task, Retrying)
        target = sa.current() if task.follows_succession else sa
        if target.alive:
            self._ctx.queue(target, task)

    # Look-ups.

    def _rekey(self, child: ChildSa) -> None:
        if child.state is ChildState.INSTALLED:
            waiting = [task for task in child.ike.tasks if isinstance(task, CreateChild)]
            if not any(task.replaces is child for task in waiting):
                self._ctx.queue(child.ike, CreateChild(child.connection, child))

    def _queue_rekey(self, sa: IkeSa) -> None:
        if not any(isinstance(task, IkeRekey) for task in sa.tasks):
            self._ctx.queue(sa, IkeRekey(sa.connection.ike_proposals))

    def _sa_of(self, connection: str) -> IkeSa | None:
        """The newest IKE_SA of a connection that is not on its way out."""
        leaving = (IkeState.GONE, IkeState.REPLACED, IkeState.DELETING, IkeState.CANDIDATE)
        found = [
            sa
            for sa in self._ctx.sas.values()
            if sa.connection.name == connection and sa.state not in leaving
        ]
        return found[-1] if found else None

    def _children_of(self, connection: str) -> list[ChildSa]:
        return [
            child
            for child in self._ctx.children.values()
            if child.connection.name == connection and child.state is ChildState.INSTALLED
        ]


def _checked(sk: SkPayload, plaintext: bytes) -> tuple[Payload, ...]:
    """The inner payloads. Raises InvalidSyntax, and UnsupportedCriticalPayload (section 2.5)."""
    try:
        payloads = inner_payloads(sk, plaintext)
    except WireError as error:
        raise InvalidSyntax(str(error)) from error
    for payload in payloads:
        if isinstance(payload, UnknownPayload) and payload.critical:
            raise UnsupportedCriticalPayload(payload.payload_type)
    return payloads
