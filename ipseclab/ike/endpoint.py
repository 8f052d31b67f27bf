"""An IKEv2 endpoint without I/O: datagrams and time go in, outputs come out.

RFC 7296 sections 2.1 to 2.3 (messages and windows), 2.5 (versions), 2.21 (errors). The exchanges
are in files of their own; this one finds the IKE_SA of a message, checks the message ID, opens it,
and has it answered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from ipseclab.errors import (
    AuthenticationFailed,
    IkeError,
    IntegrityFailure,
    InvalidSyntax,
    WireError,
)
from ipseclab.ike import carrier
from ipseclab.ike.authentication.responder import answer_auth
from ipseclab.ike.config import NAT_T_PORT, IkeConfig
from ipseclab.ike.context import Context, SaActivity, message_fields
from ipseclab.ike.cookies import Cookies
from ipseclab.ike.crash import answer_unknown, is_unprotected, take_crash
from ipseclab.ike.crash_token import take_token
from ipseclab.ike.create import CreateChild, answer_create, is_ike_rekey, withdraw_heir
from ipseclab.ike.events import IkeOutput
from ipseclab.ike.expected import expected
from ipseclab.ike.followup import answer_followup
from ipseclab.ike.informational import (
    DELETED,
    EXPIRED,
    DeleteIke,
    Liveness,
    answer_informational,
    close_child,
    finish_closing,
)
from ipseclab.ike.init import InitTask, answer_init
from ipseclab.ike.intermediate import (
    after_init,
    answer_intermediate,
    finish_intermediate,
    open_request,
)
from ipseclab.ike.lifecycle import activate_child, close_ike, remove_child
from ipseclab.ike.mobike.change import change_addresses, heard
from ipseclab.ike.mobike.paths import first_paths
from ipseclab.ike.protection import Envelope, Fragment, OpenedMessage, Verified
from ipseclab.ike.reauth import reauthenticate, take_lifetime
from ipseclab.ike.redirect.send import SendAway
from ipseclab.ike.rekey import answer_rekey, put_to_use
from ipseclab.ike.resume import ResumeTask, answer_resume
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa, IkeState, PeerRequest
from ipseclab.ike.selectors import ChildWish, Trigger
from ipseclab.ike.start import begin
from ipseclab.ike.stream_use import take_into_use
from ipseclab.ike.streams import Streams
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.transmit import sealed, send_requests, set_retransmit_timer
from ipseclab.ike.upkeep import do_due, follow, forget_fragments, queue_rekey, send_keepalive
from ipseclab.ike.window import take_window
from ipseclab.outputs import Deadline, Notice, TcpPath, UdpPath
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.ip import Flow
from ipseclab.wire.message import IkeHeader, Message, decode_header, decode_message
from ipseclab.wire.payloads import NotifyPayload, Payload

MAJOR_VERSION = 2

_FIRST = {
    ExchangeType.IKE_SA_INIT: answer_init,
    ExchangeType.IKE_SESSION_RESUME: answer_resume,
}
"""The exchanges that make an IKE_SA out of nothing, with message ID 0 and without protection."""


class IkeEndpoint:
    """All IKE_SAs of one node."""

    def __init__(self, config: IkeConfig, *, rng: random.Random, activity: SaActivity) -> None:
        self._ctx = Context(config, rng=rng, activity=activity)
        self._cookies = Cookies(rng)

    # What a user or a policy wants.

    def initiate(self, connection: str, now: float) -> list[IkeOutput]:
        """Set the connection up: an IKE_SA with a CHILD_SA, or what of them is missing."""
        config = self._ctx.connection(connection)
        sa = self._ctx.newest(connection)
        if sa is None:
            begin(self._ctx, config, now)
        elif sa.alive and not any(child.usable for child in sa.children.values()):
            fresh = (task for task in sa.wanted() if isinstance(task, CreateChild))
            if not any(task.replaces is None for task in fresh):
                self._ctx.queue(sa, CreateChild(sa.connection))
        return self._done(now)

    def acquire(self, connection: str, flow: Flow, now: float) -> list[IkeOutput]:
        """A packet of `flow` needs a CHILD_SA: set up what is missing for it."""
        config, trigger = self._ctx.connection(connection), Trigger.of(flow)
        sa = self._ctx.newest(connection, trigger)
        if sa is None and config.address_request and self._ctx.newest(connection):
            pass  # an address that is not ours by now
        elif sa is None:
            begin(self._ctx, config, now, trigger)
        elif (
            sa.alive
            and len(sa.children) < self._ctx.config.limits.children_per_ike
            and not self._has_or_wants(sa, trigger)
        ):
            self._ctx.queue(sa, CreateChild(sa.connection, wish=ChildWish(trigger)))
        return self._done(now)

    @staticmethod
    def _has_or_wants(sa: IkeSa, trigger: Trigger) -> bool:
        fresh = (task for task in sa.wanted() if isinstance(task, CreateChild))
        return any(
            child.usable and trigger.is_carried_by(child.own_ts, child.peer_ts)
            for child in sa.children.values()
        ) or any(task.replaces is None and task.wish.trigger in (None, trigger) for task in fresh)

    def create_child(self, connection: str, now: float) -> list[IkeOutput]:
        """One more CHILD_SA beside those that the connection has."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.alive:
            self._ctx.queue(sa, CreateChild(sa.connection))
        return self._done(now)

    def rekey_child(self, connection: str, now: float) -> list[IkeOutput]:
        """Rekey every CHILD_SA of the connection that is in service."""
        for child in self._ctx.children_of(connection, ChildState.INSTALLED):
            self._rekey(child)
        return self._done(now)

    def rekey_ike(self, connection: str, now: float) -> list[IkeOutput]:
        """Rekey the connection's IKE_SA."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.alive:
            queue_rekey(self._ctx, sa)
        return self._done(now)

    def reauthenticate(self, connection: str, now: float) -> list[IkeOutput]:
        """Have an IKE_SA that is authenticated anew take the place of the connection's."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.alive and not reauthenticate(self._ctx, sa, now):
            reason = "the other end has to authenticate anew"
            self._ctx.notice("cannot_initiate", connection=connection, reason=reason)
        return self._done(now)

    def delete_child(self, connection: str, now: float) -> list[IkeOutput]:
        """Close every CHILD_SA of the connection."""
        in_service = (ChildState.INSTALLED, ChildState.REKEYING)
        for child in self._ctx.children_of(connection, ChildState.REPLACED_BY_PEER):
            withdraw_heir(child)
        for child in self._ctx.children_of(connection, *in_service):
            close_child(self._ctx, child, DELETED)
        return self._done(now)

    def delete_ike(self, connection: str, now: float) -> list[IkeOutput]:
        """Close the connection's IKE_SA, and with it all its CHILD_SAs."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.state is IkeState.INIT_SENT:
            close_ike(self._ctx, sa, DELETED, now)
        elif sa is not None:
            self._ctx.queue(sa, DeleteIke(DELETED), first=True)
        return self._done(now)

    def check_liveness(self, connection: str, now: float) -> list[IkeOutput]:
        """Ask the peer for a sign of life."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.alive:
            self._ctx.queue(sa, Liveness())
        return self._done(now)

    def send_keepalive(self, connection: str, now: float) -> list[IkeOutput]:
        """A NAT keepalive now (RFC 3948 section 4); nothing where none would ever be sent."""
        sa = self._ctx.newest(connection)
        if sa is not None and sa.alive and sa.path.local.port == NAT_T_PORT:
            send_keepalive(self._ctx, sa, now)
        return self._done(now)

    def _rekey(self, child: ChildSa) -> None:
        if child.state is ChildState.INSTALLED:
            wanted = (task for task in child.ike.wanted() if isinstance(task, CreateChild))
            if not any(task.replaces is child for task in wanted):
                self._ctx.queue(child.ike, CreateChild(child.connection, child))

    def redirect(self, connection: str, now: float) -> list[IkeOutput]:
        """Send the connection's peers to the gateway that its configuration names (RFC 5685 section
        5): those that have said that they follow."""
        settings = self._ctx.connection(connection).redirect
        if settings is not None and settings.to is not None:
            for sa in tuple(self._ctx.of_connection(connection)):
                if sa.alive and NotifyType.REDIRECT_SUPPORTED in sa.peer_offers:
                    self._ctx.queue(sa, SendAway(settings.to))
        return self._done(now)

    def change_addresses(self, addresses: Sequence[str], now: float) -> list[IkeOutput]:
        """This end has these addresses from now on, the best first (RFC 4555)."""
        change_addresses(self._ctx, addresses, now)
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
                if child.heir is not None and child.heir.usable:
                    activate_child(self._ctx, child.heir)
                remove_child(self._ctx, child, EXPIRED)
            elif child.state in (ChildState.INSTALLED, ChildState.REKEYING):
                close_child(self._ctx, child, EXPIRED)
        return self._done(now)

    def peer_seen(self, spi_in: bytes, path: UdpPath, now: float) -> list[IkeOutput]:
        """An authenticated, newer ESP packet came along `path` (RFC 7296 section 2.23)."""
        child = self._ctx.children.get(spi_in)
        if child is not None:
            follow(self._ctx, child.ike, path, now, esp=True)
        return self._done(now)

    # TCP connections (RFC 9329).

    @property
    def streams(self) -> Streams:
        """Those there are."""
        return self._ctx.streams

    def stream_accepted(self, path: TcpPath, now: float) -> list[IkeOutput]:
        """A peer has opened that connection."""
        carrier.stream_accepted(self._ctx, path, now)
        return self._done(now)

    def stream_opened(self, path: TcpPath, now: float) -> list[IkeOutput]:
        """A connection of this end's is there."""
        carrier.stream_opened(self._ctx, path)
        return self._done(now)

    def stream_closed(self, path: TcpPath, reason: str, now: float) -> list[IkeOutput]:
        """A connection is there no more, and not by this end's wish."""
        carrier.stream_closed(self._ctx, path, reason, now)
        return self._done(now)

    def stream_corrupt(self, path: TcpPath, reason: str, now: float) -> list[IkeOutput]:
        """What came on a connection cannot be followed."""
        carrier.stream_corrupt(self._ctx, path, reason, now)
        return self._done(now)

    def judge(self, path: TcpPath, now: float, *, good: bool) -> list[IkeOutput]:
        """What came on a connection was, or was not, a message of an SA."""
        carrier.judge(self._ctx, path, now, good=good)
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
        do_due(self._ctx, now)
        return self._done(now)

    # What there is.

    @property
    def counters(self) -> Mapping[str, int]:
        """Messages dropped and refused, by reason."""
        return self._ctx.counters

    def count(self, reason: str) -> None:
        """One more of something that the endpoint does not see itself."""
        self._ctx.counters[reason] += 1

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

    @property
    def table_sizes(self) -> Mapping[str, int]:
        """Entries of each table, what only answers repeats included: none grows without limit."""
        return self._ctx.table_sizes

    def _done(self, now: float) -> list[IkeOutput]:
        """Start whatever waits for its turn, and hand everything over."""
        send_requests(self._ctx, now)
        return self._ctx.take_outputs()

    # Receiving.

    def _receive(self, path: UdpPath, octets: bytes, now: float) -> None:
        header = decode_header(octets)
        if header.major != MAJOR_VERSION:
            self._refuse_version(path, header)
            return
        details = message_fields(header, octets, path.remote, path.local)
        if isinstance(path, TcpPath):
            details["transport"] = "tcp"
        self._ctx.emit(Notice("ike_received", details))
        if header.exchange in _FIRST:
            self._receive_init(path, decode_message(octets, header), octets, now)
            return
        # The Initiator flag says which SPI is whose (section 3.1).
        sa = self._ctx.sas.get(header.spi_r if header.initiator else header.spi_i)
        if (
            sa is None
            or sa.protection is None
            or sa.initiator == header.initiator
            or (header.spi_i, header.spi_r) != (sa.spi_i, sa.spi_r)
        ):
            self._ctx.drop("no_ike_sa")
            answer_unknown(self._ctx, header, path, now)
        elif header.response and is_unprotected(octets):
            take_crash(self._ctx, sa, octets, now)
        elif header.response:
            self._receive_response(sa, path, sa.protection.open(octets, header), now)
        else:
            self._receive_request(sa, path, header, octets, now)

    def _refuse_version(self, path: UdpPath, header: IkeHeader) -> None:
        """Section 2.5: a higher major version is told ours; anything else is dropped."""
        self._ctx.drop("version")
        if header.major > MAJOR_VERSION and not header.response:
            answer = Message(
                header.spi_i,
                header.spi_r,
                header.exchange,
                not header.initiator,
                True,
                header.message_id,
                (NotifyPayload(NotifyType.INVALID_MAJOR_VERSION),),
            )
            self._ctx.send(path, answer.encode())

    def _receive_init(self, path: UdpPath, message: Message, octets: bytes, now: float) -> None:
        if not message.response:
            if not message.initiator or message.message_id:
                self._ctx.drop("init_flags")
            else:
                answer = _FIRST[message.exchange]
                answer(self._ctx, self._cookies, message, octets, path, now)
            return
        sa = self._ctx.sas.get(message.spi_i)
        request = sa.own_request if sa is not None else None
        if (
            sa is None
            or request is None
            or not isinstance(request.task, InitTask | ResumeTask)
            or request.task.exchange != message.exchange
            or message.initiator
            or message.message_id
            or not self._asked(sa, path)
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
            self._ctx.timers.cancel(sa.own_spi, TimerKind.RETRANSMIT)
            sa.own_requests.clear()
            sa.init_response = octets
            sa.state = IkeState.HALF_OPEN
            self._ctx.queue(sa, after_init(sa), first=True)

    def _asked(self, sa: IkeSa, path: UdpPath) -> bool:
        """Whether the IKE_SA_INIT request of `sa` went to where this came from."""
        if isinstance(sa.path, TcpPath) or isinstance(path, TcpPath):
            return path == sa.path
        if sa.connection.mobike is None:
            return path.remote.address == sa.path.remote.address
        ends = path.local.address, path.remote.address
        asked = first_paths(self._ctx, sa.connection)
        return any(ends == (one.local.address, one.remote.address) for one in asked)

    def _receive_request(
        self, sa: IkeSa, path: UdpPath, header: IkeHeader, octets: bytes, now: float
    ) -> None:
        message_id = header.message_id
        last = sa.answered.get(message_id)
        if last is not None and last.octets == octets:
            # Section 2.1: a repeat gets the very same response, wherever it came from, and has no
            # further effect.
            self._send_again(path, last)
            return
        received = open_request(sa, octets, header)
        message = received.message
        if isinstance(received, Fragment) and last is not None:
            # RFC 7383 section 2.6.1: one fragment asks for the response, not each of them.
            if received.number == 1:
                self._send_again(path, last)
            return
        if sa.state is IkeState.GONE or not sa.may_receive(message_id):
            self._ctx.drop("message_id")
            return
        # Before IKE_AUTH is through only the responder is asked anything, and only that. An
        # initiator that answered IKE_AUTH could have its own AUTH reflected to it.
        if sa.state is IkeState.HALF_OPEN and not _may_ask(sa, message.exchange):
            self._ctx.drop("not_authenticated")
            return
        verified = self._whole(sa, received, now)
        if verified is None:
            return
        request = PeerRequest(message_id, octets if isinstance(received, Verified) else b"")
        sa.remember(request)
        sa.last_received = now
        if sa.state is IkeState.HALF_OPEN:
            take_into_use(self._ctx, sa, path, now)
        else:
            follow(self._ctx, sa, path, now)
        payloads = self._answer(sa, verified, path, now)
        envelope = Envelope(sa.spi_i, sa.spi_r, message.exchange, sa.initiator, True, message_id)
        request.response = sealed(sa, envelope, payloads)
        for part in request.response:
            self._ctx.send(path, part)
        sa.last_sent = now
        finish_intermediate(self._ctx, sa, envelope, payloads)
        if sa.close_reason:
            finish_closing(self._ctx, sa, now)
        if sa.redirected is not None:
            connection, sa.redirected = sa.redirected, None
            old = sa.path.remote.address
            begin(self._ctx, connection, now, redirected_from=old, replaces=sa)

    def _send_again(self, path: UdpPath, answered: PeerRequest) -> None:
        self._ctx.counters["ike.repeated_requests"] += 1
        for part in answered.response:
            self._ctx.send(path, part, attempt=1)

    def _whole(self, sa: IkeSa, received: Verified | Fragment, now: float) -> Verified | None:
        """The message that is complete now, if one is (RFC 7383 section 2.6)."""
        if isinstance(received, Verified):
            if sa.fragmentation:
                message = received.message
                self._ctx.fragments.forget_message(
                    sa.own_spi, response=message.response, message_id=message.message_id
                )
            return received
        if not sa.fragmentation:
            self._ctx.drop("fragment_unexpected")
            return None
        result = self._ctx.fragments.collect(sa.own_spi, received, now)
        forget_fragments(self._ctx, sa, now)
        if isinstance(result, str):
            self._ctx.drop(result)
            return None
        return result

    def _answer(
        self, sa: IkeSa, verified: Verified, path: UdpPath, now: float
    ) -> tuple[Payload, ...]:
        """The payloads of the response; an IkeError becomes its Notify, here and nowhere else."""
        try:
            opened = verified.opened(expected(sa, verified.message))
            return self._dispatch(sa, opened, path, now)
        except IkeError as error:
            self._ctx.counters[f"ike.{error.notify.name.lower()}"] += 1
            self._ctx.notice("ike_error_sent", notify=error.notify.name, reason=str(error))
            fatal = isinstance(error, AuthenticationFailed | InvalidSyntax)
            if fatal or sa.state is IkeState.HALF_OPEN:
                # Sections 2.21.2 and 2.21.3.
                sa.close_reason = str(error)
            data = error.notification_data()
            return (NotifyPayload(error.notify, data, error.protocol, error.spi),)

    def _dispatch(
        self, sa: IkeSa, message: OpenedMessage, path: UdpPath, now: float
    ) -> tuple[Payload, ...]:
        put_to_use(self._ctx, sa, message, now)
        take_window(sa, message)
        match message.exchange:
            case ExchangeType.IKE_AUTH if sa.state is IkeState.HALF_OPEN:
                return answer_auth(self._ctx, sa, message, now)
            case ExchangeType.IKE_INTERMEDIATE if sa.state is IkeState.HALF_OPEN:
                return answer_intermediate(self._ctx, sa, message)
            case ExchangeType.CREATE_CHILD_SA if is_ike_rekey(message):
                return answer_rekey(self._ctx, sa, message, now)
            case ExchangeType.CREATE_CHILD_SA:
                return answer_create(self._ctx, sa, message, now)
            case ExchangeType.IKE_FOLLOWUP_KE:
                return answer_followup(self._ctx, sa, message, now)
            case ExchangeType.INFORMATIONAL:
                take_token(sa, message)
                take_lifetime(self._ctx, sa, message, now)
                return answer_informational(self._ctx, sa, message, path, now)
            case _:
                raise InvalidSyntax(f"unexpected {message.exchange.name} request")

    def _receive_response(
        self, sa: IkeSa, path: UdpPath, received: Verified | Fragment, now: float
    ) -> None:
        message = received.message
        request = sa.own_requests.get(message.message_id)
        if request is None or message.exchange != request.task.exchange:
            self._ctx.drop("unexpected_response")
            return
        verified = self._whole(sa, received, now)
        if verified is None:
            return
        del sa.own_requests[message.message_id]
        set_retransmit_timer(self._ctx, sa)
        sa.last_received = now
        self._ctx.ready.append(sa)
        follow(self._ctx, sa, path, now)
        heard(self._ctx, sa, request.task, path, now)
        try:
            opened = verified.opened(expected(sa, message))
            if opened.notify(NotifyType.INVALID_SYNTAX) is not None and sa.alive:
                close_ike(self._ctx, sa, "the peer found our request malformed", now)
                return
            take_window(sa, opened)
            request.task.response(self._ctx, sa, opened, now)
        except IkeError as error:
            self._ctx.notice("exchange_failed", task=request.task.name, reason=str(error))
            request.task.abandoned(self._ctx, sa, now)
            if sa.state is IkeState.HALF_OPEN:
                close_ike(self._ctx, sa, str(error), now)


def _may_ask(sa: IkeSa, exchange: ExchangeType) -> bool:
    """Whether the peer of a half-open IKE_SA may send such a request. Between rounds of IKE_AUTH it
    may say that it gives up (RFC 7296 section 2.21.2)."""
    if sa.initiator:
        return False
    giving_up = sa.authentication is not None and exchange == ExchangeType.INFORMATIONAL
    if exchange == ExchangeType.IKE_INTERMEDIATE:
        return bool(sa.additional) or sa.ppk_awaited
    # IKE_AUTH comes when all key exchanges that were agreed on are done (RFC 9370 section 2.2.2).
    return giving_up or (exchange == ExchangeType.IKE_AUTH and not sa.additional)
