"""IKE_SA_INIT: agree on algorithms, exchange keys and nonces, find NATs (RFC 7296 section 1.2).

    Initiator                         Responder
    HDR, SAi1, KEi, Ni,
      N(NAT_DETECTION_*)  -->
                          <--  HDR, SAr1, KEr, Nr, N(NAT_DETECTION_*)

The responder may answer with one Notify and no state: COOKIE (section 2.6) or INVALID_KE_PAYLOAD
(section 1.3); the initiator then sends its message again, changed as asked.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile

from typing_extensions import override

from ipseclab.crypto.kex import KE_METHODS, KeyExchangePrivate
from ipseclab.errors import (
    IkeError,
    InvalidKePayload,
    InvalidSyntax,
    NoProposalChosen,
    UnsupportedCriticalPayload,
)
from ipseclab.ike import natt
from ipseclab.ike.auth_puzzle import ask_for_solution, puzzle_in, solve_for
from ipseclab.ike.capabilities import offers_in, offers_of_initiator, offers_of_responder
from ipseclab.ike.certificates import build_certreqs, taken_requests
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT, ConnectionConfig, TcpUse
from ipseclab.ike.context import Context
from ipseclab.ike.cookies import MAX_COOKIE_SIZE, Cookies
from ipseclab.ike.key_exchange import agree, respond
from ipseclab.ike.keys import ike_keys, skeyseed
from ipseclab.ike.lifecycle import close_ike, half_open_seconds, log_keys
from ipseclab.ike.mobike.paths import first_paths
from ipseclab.ike.negotiation import (
    additional_methods,
    check_chosen,
    choose_proposal,
    ke_method,
    method_asked_for,
    offered_methods,
    with_spi,
)
from ipseclab.ike.ppk_exchange import in_intermediate
from ipseclab.ike.proposals import prf_of, suite_of
from ipseclab.ike.protection import MessageProtection
from ipseclab.ike.puzzles import Puzzle, solve
from ipseclab.ike.redirect.follow import new_gateway
from ipseclab.ike.redirect.notifies import redirected_from
from ipseclab.ike.redirect.send import sent_away_at_once
from ipseclab.ike.sa import IkeSa, IkeState
from ipseclab.ike.stream_use import open_stream, take_into_use
from ipseclab.ike.task import Task
from ipseclab.ike.timers import TimerKind
from ipseclab.ike.transmit import ZERO_SPI
from ipseclab.outputs import TcpPath, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, KeMethod, NotifyType, ProtocolId
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import (
    CertreqPayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    PsPayload,
    SaPayload,
    UnknownPayload,
)
from ipseclab.wire.proposal import Proposal

INTERMEDIATE = NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED
NONCE_SIZE = 32
MIN_NONCE_SIZE, MAX_NONCE_SIZE = 16, 256  # RFC 7296 section 3.9
MAX_INIT_ROUNDS = 6
"""How often the initiator starts over when told COOKIE or INVALID_KE_PAYLOAD: these come
unauthenticated, so someone could keep it busy for ever."""


class InitTask(Task):
    """The initiator's half; one object lives through all rounds."""

    exchange = ExchangeType.IKE_SA_INIT
    name = "IKE_SA_INIT"

    def __init__(self, sa: IkeSa, rng: random.Random, *, redirected_from: str = "") -> None:
        self.redirected_from = redirected_from
        """The gateway that sent this end to the present one."""
        self.proposals = with_spi(sa.connection.ike_proposals, b"")
        self.cookie = b""
        self.solution = b""
        self.rounds = 0
        self.private: KeyExchangePrivate
        self.choose_method(offered_methods(self.proposals)[0], rng)
        sa.nonce_i = rng.randbytes(NONCE_SIZE)

    def choose_method(self, method: KeMethod, rng: random.Random) -> None:
        """Take that key exchange method for the next round."""
        self.method = method
        self.private = KE_METHODS[method].generate(rng)

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...]:
        self.rounds += 1
        cookie: tuple[Payload, ...] = ()
        if self.cookie:
            cookie = (NotifyPayload(NotifyType.COOKIE, self.cookie),)
        if self.solution:
            cookie = (*cookie, PsPayload(self.solution))
        offers = offers_of_initiator(sa.connection)
        sa.own_offers = offers_in(offers)
        return (
            *cookie,
            SaPayload(self.proposals),
            KePayload(self.method, self.private.public),
            NoncePayload(sa.nonce_i),
            *detection(ctx, sa),
            *((redirected_from(self.redirected_from),) if self.redirected_from else ()),
            *offers,
        )

    def again(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """Send the request once more, changed, with message ID 0 as before."""
        if self.rounds >= MAX_INIT_ROUNDS:
            close_ike(ctx, sa, "IKE_SA_INIT went round too often", now)
            return
        sa.next_message_id = 0
        ctx.queue(sa, self, first=True)

    def accept(self, ctx: Context, sa: IkeSa, message: Message, path: UdpPath, now: float) -> bool:
        """Take the response, True when the keys are made. Raises IkeError or WireError for one that
        is to be ignored: it is not authenticated, and the true one may still come."""
        refusal = _refusal(message)
        if refusal is not None:
            self._refused(ctx, sa, refusal, message.notify(NotifyType.PUZZLE), now)
            return False
        sa_payload, ke, nonce = _init_payloads(message)
        proposal = check_chosen(sa_payload.proposals, self.proposals)
        if additional_methods(proposal) and message.notify(INTERMEDIATE) is None:
            raise InvalidSyntax("additional key exchanges chosen, and no IKE_INTERMEDIATE")
        if ke.method != ke_method(proposal) or ke.method != self.method:
            raise InvalidSyntax(f"KE of {ke.method.name}, sent {self.method.name}")
        puzzle = puzzle_in(message)
        secret = agree(self.private, ke)
        sa.round_trip = now - sa.created
        sa.spi_r = message.spi_r
        sa.nonce_r = nonce
        sa.path = path
        sa.peer_offers = offers_in(message.all(NotifyPayload))
        sa.ppk_awaited = in_intermediate(sa)
        sa.peer_certreqs = taken_requests(message.all(CertreqPayload))
        find_nat(sa, message, path)
        _first_keys(ctx, sa, proposal, secret)
        float_ports(sa)
        if puzzle is not None:
            solve_for(ctx, sa, puzzle)
        return True

    def _refused(
        self,
        ctx: Context,
        sa: IkeSa,
        notify: NotifyPayload,
        puzzle: NotifyPayload | None,
        now: float,
    ) -> None:
        match notify.notify_type:
            case NotifyType.COOKIE:
                if not 1 <= len(notify.data) <= MAX_COOKIE_SIZE:
                    raise InvalidSyntax(f"cookie of {len(notify.data)} octets, 1 to 64 allowed")
                self._solve(ctx, sa, puzzle, notify.data)
                self.cookie = notify.data
            case NotifyType.REDIRECT:
                if not self._redirected(ctx, sa, notify, now):
                    return
            case NotifyType.INVALID_KE_PAYLOAD:
                wanted = method_asked_for(notify.data, self.proposals, tried=self.method)
                self.choose_method(wanted, ctx.rng)
            case _:
                # Section 2.21.1: anyone could have sent it, so this end goes on trying; in TCP
                # there is no other answer to come (RFC 9329 section 6.4).
                self.given_up = notify.notify_type.name
                ctx.notice("ike_init_refused", reason=self.given_up, spi_i=sa.spi_i.hex())
                if isinstance(sa.path, TcpPath):
                    close_ike(ctx, sa, self.given_up, now)
                return
        ctx.timers.cancel(sa.own_spi, TimerKind.RETRANSMIT)
        sa.own_requests.clear()
        ctx.notice("ike_init_retried", reason=notify.notify_type.name, spi_i=sa.spi_i.hex())
        self.again(ctx, sa, now)

    def _redirected(self, ctx: Context, sa: IkeSa, notify: NotifyPayload, now: float) -> bool:
        """Go to another gateway with all made anew (RFC 5685 section 3); False for a redirection
        that is not followed. Raises InvalidSyntax."""
        connection = new_gateway(ctx, sa, notify, now, nonce=sa.nonce_i)
        if connection is None or connection.peer_address is None:
            return False
        own, peer = sa.path.local, UdpEndpoint(connection.peer_address, IKE_PORT)
        path: UdpPath | None = UdpPath(own, peer)
        if isinstance(sa.path, TcpPath):
            # RFC 9329 section 7.2: the new gateway is tried in UDP first, if there is a choice.
            path = UdpPath(UdpEndpoint(own.address, IKE_PORT), peer)
            if connection.tcp is TcpUse.ALWAYS:
                path = open_stream(ctx, own.address, peer.address)
        if path is None:
            return False
        self.redirected_from = sa.path.remote.address
        sa.connection = connection
        take_into_use(ctx, sa, path, now)
        self.cookie = self.solution = b""
        self.choose_method(self.method, ctx.rng)
        sa.nonce_i = ctx.rng.randbytes(NONCE_SIZE)
        return True

    def _solve(self, ctx: Context, sa: IkeSa, puzzle: NotifyPayload | None, cookie: bytes) -> None:
        """Do the work that goes with the cookie, if any does (RFC 8019 section 7.1.2). Raises
        InvalidSyntax for more than this end takes on."""
        self.solution = b""
        if puzzle is not None:
            asked = Puzzle.of_notify(puzzle)
            found = solve(asked, cookie)
            self.solution = found.octets
            ctx.notice(
                "puzzle_solved",
                spi_i=sa.spi_i.hex(),
                difficulty=asked.difficulty,
                tries=found.tries,
            )


def answer_init(
    ctx: Context, cookies: Cookies, message: Message, octets: bytes, path: UdpPath, now: float
) -> None:
    """The responder's half: a response, a stateless Notify, or a counted drop."""
    answer = partial(_answer, ctx, cookies, message, octets, path, now)
    answer_first(ctx, message, octets, path, answer)


def answer_first(
    ctx: Context, message: Message, octets: bytes, path: UdpPath, answer: Callable[[], bytes | None]
) -> None:
    """Answer a request that begins an IKE_SA, a repeat of it from what was kept.

    `answer` gives the response's octets, None for a counted drop, or raises IkeError.
    """
    known = ctx.inits.get((octets, path.remote))
    if known is not None:
        ctx.counters["ike.repeated_requests"] += 1
        ctx.send(path, known.init_response, attempt=1)
        return
    if not any(message.spi_i) or any(message.spi_r):
        ctx.drop("init_spi")
        return
    try:
        reply = answer()
    except IkeError as error:
        ctx.counters[f"ike.{error.notify.name.lower()}"] += 1
        reply = bare(message, NotifyPayload(error.notify, error.notification_data()))
    if reply is not None:
        ctx.send(path, reply)


def _answer(
    ctx: Context, cookies: Cookies, message: Message, octets: bytes, path: UdpPath, now: float
) -> bytes | None:
    """The response's octets, None for a counted drop. Raises IkeError, answered with its Notify."""
    sa_payload, ke, nonce = _init_payloads(message)
    limits = ctx.config.limits
    if len(ctx.half_open) >= min(limits.cookie_threshold, limits.half_open):
        make_room(ctx, now)
    if isinstance(path, TcpPath) and not ctx.streams.has_room(path):
        ctx.drop("stream_shared")
        return None
    demanded = _demanded(ctx, cookies, message, nonce, path, now)
    if demanded is not None:
        return demanded
    if len(ctx.half_open) >= limits.half_open or len(ctx.sas) >= limits.ike_sas:
        ctx.drop("too_many")
        return None
    possible = ctx.possible_connections(path)
    if not possible.connections:
        raise NoProposalChosen(f"no connection for {path}")
    elsewhere = sent_away_at_once(ctx, possible.connections[0], message, nonce)
    if elsewhere is not None:
        ctx.counters["ike.redirected"] += 1
        return bare(message, elsewhere)
    proposal = choose_proposal(
        sa_payload.proposals,
        possible.ike_proposals,
        ProtocolId.IKE,
        additional=message.notify(INTERMEDIATE) is not None,
    )
    wanted = ke_method(proposal)
    if ke.method != wanted:
        raise InvalidKePayload(wanted)
    ke_r, secret = respond(ctx, ke)
    sa = IkeSa(
        spi_i=message.spi_i,
        spi_r=ctx.new_ike_spi(),
        initiator=False,
        connection=possible.connections[0],
        path=path,
        state=IkeState.HALF_OPEN,
        created=now,
        nonce_i=nonce,
        nonce_r=ctx.rng.randbytes(NONCE_SIZE),
        init_key=(octets, path.remote),
        init_request=octets,
        expected_message_id=1,
    )
    find_nat(sa, message, path)
    if any(connection.force_encapsulation for connection in possible.connections):
        sa.own_behind_nat = True
    _first_keys(ctx, sa, proposal, secret)
    sa.peer_offers = offers_in(message.all(NotifyPayload))
    payloads = (
        *_response_payloads(sa, possible.connections, proposal, ke_r),
        *ask_for_solution(ctx, sa),
    )
    sa.init_response = response_to(message, sa.spi_r, payloads)
    enter_half_open(ctx, sa, now)
    return sa.init_response


def _demanded(
    ctx: Context, cookies: Cookies, message: Message, nonce: bytes, path: UdpPath, now: float
) -> bytes | None:
    """The response that demands a COOKIE or a puzzle's solution; None when nothing is demanded."""
    difficulty = cookies.demand(message, nonce, path, ctx.config.limits, len(ctx.half_open))
    if difficulty == 0 and isinstance(path, TcpPath):
        difficulty = None  # RFC 9329 section 6.3: who has a connection has shown its address
    if difficulty is None:
        return None
    ctx.counters["ike.puzzle_demanded" if difficulty else "ike.cookie_demanded"] += 1
    return bare(message, *cookies.notifies(message, nonce, path, difficulty, now))


def enter_half_open(ctx: Context, sa: IkeSa, now: float) -> None:
    """Put what a peer's first request made into the tables, for as long as its IKE_AUTH may take;
    a repeat of that request finds it."""
    assert sa.init_key is not None
    ctx.sas[sa.own_spi] = ctx.half_open[sa.own_spi] = sa
    take_into_use(ctx, sa, sa.path, now)
    ctx.inits[sa.init_key] = sa
    wait = half_open_seconds(sa.connection, ctx.config.limits)
    ctx.timers.set(sa.own_spi, TimerKind.HALF_OPEN, now + wait)


def _response_payloads(
    sa: IkeSa, connections: Sequence[ConnectionConfig], proposal: Proposal, ke_r: KePayload
) -> tuple[Payload, ...]:
    """What the responder says; which of `connections` the peer means shows in IKE_AUTH only."""
    notifies: tuple[NotifyPayload, ...] = ()
    if not any(forbids_nats(connection) for connection in connections):
        pretend = any(connection.force_encapsulation for connection in connections)
        notifies = natt.detection_notifies(sa.spi_i, sa.spi_r, sa.path, pretend=pretend)
    offers = offers_of_responder(connections, sa.peer_offers)
    sa.own_offers = offers_in(offers)
    sa.ppk_awaited = in_intermediate(sa)
    demands = [how for connection in connections for how in connection.peer_rounds]
    return (
        SaPayload((proposal,)),
        ke_r,
        NoncePayload(sa.nonce_r),
        *build_certreqs(demands),
        *notifies,
        *offers,
    )


def make_room(ctx: Context, now: float) -> None:
    """When there are many, those that have waited long for IKE_AUTH give way; oldest first."""
    born = now - ctx.config.limits.half_open_timeout
    for sa in list(takewhile(lambda sa: sa.created <= born, ctx.half_open.values())):
        if sa.expected_message_id == 1:
            close_ike(ctx, sa, "no IKE_AUTH request", now)


def _init_payloads(message: Message) -> tuple[SaPayload, KePayload, bytes]:
    """SA, KE and nonce, all of which either message must hold. Raises IkeError."""
    for payload in message.payloads:
        if isinstance(payload, UnknownPayload) and payload.critical:
            raise UnsupportedCriticalPayload(payload.payload_type)
    sa_payload, ke = message.find(SaPayload), message.find(KePayload)
    nonce = message.find(NoncePayload)
    if sa_payload is None or ke is None or nonce is None:
        raise InvalidSyntax("IKE_SA_INIT without SA, KE or nonce")
    return sa_payload, ke, checked_nonce(nonce)


def checked_nonce(payload: NoncePayload) -> bytes:
    """The nonce's octets. Raises InvalidSyntax for a size that section 3.9 forbids."""
    if not MIN_NONCE_SIZE <= len(payload.data) <= MAX_NONCE_SIZE:
        raise InvalidSyntax(f"nonce of {len(payload.data)} octets, 16 to 256 allowed")
    return payload.data


def _refusal(message: Message) -> NotifyPayload | None:
    """The Notify that is all the responder had to say; None for a real response."""
    if message.find(SaPayload) is not None:
        return None
    for notify in message.all(NotifyPayload):
        alone = notify.notify_type in (NotifyType.COOKIE, NotifyType.REDIRECT)
        if alone or notify.notify_type.is_error:
            return notify
    return None


def forbids_nats(connection: ConnectionConfig) -> bool:
    """Whether NATs are not even looked for: by an end that cannot deal with them, or that will have
    none (RFC 4555 section 3.9)."""
    mobike = connection.mobike
    return not connection.nat_traversal or (mobike is not None and not mobike.nats)


def detection(ctx: Context, sa: IkeSa) -> tuple[NotifyPayload, ...]:
    """The NAT_DETECTION notifications of a request that may go along several paths: one that fits
    is enough (RFC 7296 section 2.23 says so of sources)."""
    if forbids_nats(sa.connection):
        return ()
    pretend = sa.connection.force_encapsulation
    paths = [sa.path]
    if sa.connection.mobike is not None:
        paths += [path for path in first_paths(ctx, sa.connection) if path != sa.path]
    pairs = [natt.detection_notifies(sa.spi_i, ZERO_SPI, one, pretend=pretend) for one in paths]
    return tuple(dict.fromkeys((*(pair[0] for pair in pairs), *(pair[1] for pair in pairs))))


def find_nat(sa: IkeSa, message: Message, path: UdpPath) -> None:
    """Section 2.23: compare the hashes with the addresses that the message really had."""
    hash_spi_r = message.spi_r if sa.initiator else ZERO_SPI
    found = natt.find_nat(message.all(NotifyPayload), message.spi_i, hash_spi_r, path)
    if found is None or forbids_nats(sa.connection):
        return
    sa.nat_traversal = True
    sa.own_behind_nat, sa.peer_behind_nat = found
    if sa.connection.force_encapsulation:
        sa.own_behind_nat = True
    if path.local.port == NAT_T_PORT and not isinstance(path, TcpPath):
        # Whoever starts on port 4500 wants encapsulation whatever the hashes say.
        sa.peer_behind_nat = True


def float_ports(sa: IkeSa) -> None:
    """From IKE_AUTH on in port 4500, where there is a NAT, or may be one later when ports cannot
    change (RFC 4555 section 3.3)."""
    moves = sa.connection.mobike is not None and sa.nat_traversal
    if not isinstance(sa.path, TcpPath) and (sa.encapsulated or moves):
        sa.path = natt.floated(sa.path)


def _first_keys(ctx: Context, sa: IkeSa, proposal: Proposal, secret: bytes) -> None:
    """SKEYSEED and all keys (RFC 7296 section 2.14)."""
    sa.additional = additional_methods(proposal)
    seed = skeyseed(prf_of(proposal.transforms), sa.nonce_i, sa.nonce_r, secret)
    derive(ctx, sa, proposal, seed)


def derive(ctx: Context, sa: IkeSa, proposal: Proposal, seed: bytes) -> None:
    """All keys of a SKEYSEED: what is sent and received from now on is protected with them."""
    prf, suite = prf_of(proposal.transforms), suite_of(proposal.transforms)
    keys = ike_keys(prf, suite, seed, (sa.nonce_i, sa.nonce_r), (sa.spi_i, sa.spi_r))
    sa.proposal, sa.prf, sa.keys = proposal, prf, keys
    sa.protection = MessageProtection(suite, keys, initiator=sa.initiator, rng=ctx.rng)
    log_keys(ctx, sa)


def bare(message: Message, *notifies: NotifyPayload) -> bytes:
    """A response that holds nothing but that, and leaves no state."""
    return response_to(message, ZERO_SPI, notifies)


def response_to(message: Message, spi_r: bytes, payloads: tuple[Payload, ...]) -> bytes:
    """The response to an unprotected request, which is always the first of its IKE_SA."""
    return Message(
        spi_i=message.spi_i,
        spi_r=spi_r,
        exchange=message.exchange,
        initiator=False,
        response=True,
        message_id=0,
        payloads=payloads,
    ).encode()
