"""State of IKE_SAs and CHILD_SAs: what an endpoint remembers between messages.

RFC 7296 sections 1.3, 2.3 (window of size 1), 2.8. No behaviour beyond look-ups; the exchanges
change these objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from ipseclab.crypto.prf import Prf
from ipseclab.ike.child_options import NO_OPTIONS, ChildOptions
from ipseclab.ike.config import ConnectionConfig, Mode, Ppk
from ipseclab.ike.keys import IkeKeys
from ipseclab.ike.protection import MessageProtection
from ipseclab.ike.puzzles import Puzzle
from ipseclab.ike.selectors import Trigger
from ipseclab.ike.session import Session
from ipseclab.outputs import TcpPath, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, KeMethod, NotifyType
from ipseclab.wire.payloads import CertreqPayload
from ipseclab.wire.proposal import Proposal
from ipseclab.wire.selector import TrafficSelector

if TYPE_CHECKING:
    from ipseclab.ike.authentication.responder import AuthResponder
    from ipseclab.ike.followup import HalfMade
    from ipseclab.ike.intermediate import PendingKeys
    from ipseclab.ike.mobike.state import Mobility
    from ipseclab.ike.resume import Resumption
    from ipseclab.ike.task import Task
    from ipseclab.wire.payloads import Payload

MAKING = (ExchangeType.CREATE_CHILD_SA, ExchangeType.IKE_FOLLOWUP_KE)
"""Exchanges that make an SA of an IKE_SA (RFC 9370 section 2.2.4 for the second)."""
MAX_CLOSED_EARLY = 64


class IkeState(Enum):
    """Where an IKE_SA stands."""

    INIT_SENT = "init sent"
    """Initiator: IKE_SA_INIT is out."""
    HALF_OPEN = "half open"
    """Responder: IKE_SA_INIT is answered. Initiator: IKE_AUTH is out."""
    ESTABLISHED = "established"
    CANDIDATE = "candidate"
    """Made by the peer's rekey while our own is under way: section 2.8.2 decides."""
    REPLACED = "replaced"
    """Rekeyed; only its DELETE is still to come."""
    DELETING = "deleting"
    GONE = "gone"
    """Answers repeated requests from its cache for a while, and nothing else."""


class ChildState(Enum):
    """Where a CHILD_SA stands."""

    INSTALLED = "installed"
    REKEYING = "rekeying"
    """Our CREATE_CHILD_SA with REKEY_SA is out."""
    REPLACED_BY_PEER = "replaced by peer"
    """The peer rekeyed it; its DELETE is to come from the peer."""
    REPLACED = "replaced"
    """We rekeyed it; our DELETE is waiting or out."""
    DELETING = "deleting"
    """Our DELETE is waiting or out, with nothing in its place."""
    GONE = "gone"


@dataclass(slots=True, eq=False)
class ChildSa:
    """A pair of ESP SAs. `lowest_nonce` is the lower of its exchange's two, for section 2.8.1."""

    ike: IkeSa
    connection: ConnectionConfig
    spi_in: bytes
    spi_out: bytes
    mode: Mode
    own_ts: tuple[TrafficSelector, ...]
    peer_ts: tuple[TrafficSelector, ...]
    proposal: Proposal
    made_by_peer: bool
    lowest_nonce: bytes
    replaces: bytes | None = None
    options: ChildOptions = NO_OPTIONS
    resource: int = 0
    """Which of several with the same selectors (RFC 9611)."""
    ppk: Ppk | None = None
    """Mixed into its keys (RFC 9867)."""
    state: ChildState = ChildState.INSTALLED
    installed: bool = False
    """False while it waits for additional key exchanges: it has no keys yet."""
    peer_replacement: ChildSa | None = None
    """The SA that the peer's rekey of this one made."""
    heir: ChildSa | None = None
    """The SA that took its place, by our rekey or the peer's."""

    @property
    def usable(self) -> bool:
        """True unless it is being closed without a replacement, or gone."""
        return self.state not in (ChildState.DELETING, ChildState.GONE)


@dataclass(slots=True)
class OwnRequest:
    """The request that waits for its response; its messages, of which a fragmented one has several,
    are sent again as they are. `payloads` are kept of a fragmented one, to cut it anew."""

    message_id: int
    task: Task
    messages: tuple[bytes, ...]
    attempt: int = 0
    due: float = inf
    """When it is to be sent again."""
    payloads: tuple[Payload, ...] = ()
    first_sent: float = 0.0
    stalls: int = 0
    """How often a TCP connection has brought no answer for long."""
    first_path: UdpPath | None = None
    """Of an IKE_SA with MOBIKE: along which it was sent first."""

    @property
    def makes_child(self) -> bool:
        """True for an exchange that makes or rekeys a CHILD_SA."""
        return self.task.exchange in MAKING and self.task.touches_children


@dataclass(slots=True)
class PeerRequest:
    """A request of the peer and our response, kept for repeats (RFC 7296 section 2.1). `octets`
    are empty for a request that came in fragments: its repeat may be cut otherwise."""

    message_id: int
    octets: bytes
    response: tuple[bytes, ...] = ()


@dataclass(slots=True, eq=False)
class IkeSa:
    """One IKE_SA as one end sees it. `initiator`: this end sent the exchange that made it."""

    spi_i: bytes
    spi_r: bytes
    initiator: bool
    connection: ConnectionConfig
    path: UdpPath
    state: IkeState
    created: float
    established: float = 0.0
    proposal: Proposal | None = None
    prf: Prf | None = None
    keys: IkeKeys | None = None
    protection: MessageProtection | None = None
    nonce_i: bytes = b""
    nonce_r: bytes = b""
    init_key: tuple[bytes, UdpEndpoint] | None = None
    """Under which `Context.inits` has it."""
    init_request: bytes = b""
    init_response: bytes = b""
    int_auth: bytes = b""
    """What AUTH covers of the IKE_INTERMEDIATE exchanges: IntAuth_i | IntAuth_r | message ID of the
    first IKE_AUTH request (RFC 9242 section 3.3.2); empty without any."""
    additional: tuple[KeMethod, ...] = ()
    """Key exchanges that are still to be done in IKE_INTERMEDIATE (RFC 9370)."""
    ppk_awaited: bool = False
    """True until a PPK has been named in IKE_INTERMEDIATE, where that was agreed on (RFC 9867)."""
    ppk: Ppk | None = None
    """The PPK that was mixed in last."""
    former_protection: MessageProtection | None = None
    """Responder: what the last request was protected with, when its response changed the keys."""
    pending_keys: PendingKeys | None = None
    """Responder: the IKE_INTERMEDIATE whose response is not on its way yet."""
    peer_certreqs: tuple[CertreqPayload, ...] = ()
    """What the peer wants to see of certificates (RFC 7296 section 3.7)."""
    peer_token: bytes = b""
    """What the peer will show when it has lost this IKE_SA (RFC 6290); empty: nothing."""
    resumption: Resumption | None = None
    """Responder, until IKE_AUTH is through: the ticket that it is made from (RFC 5723)."""
    puzzle: Puzzle | None = None
    """Responder: what the first IKE_AUTH request must solve (RFC 8019 section 7.2)."""
    solution: bytes = b""
    """Initiator: the keys that solve such a puzzle, until they are sent."""
    authentication: AuthResponder | None = None
    """Responder: the rounds of IKE_AUTH so far, until all are through."""
    own_offers: dict[NotifyType, bytes] = field(default_factory=dict)
    """What this end said in IKE_SA_INIT that it can do (`ike.capabilities`), with its data."""
    peer_offers: dict[NotifyType, bytes] = field(default_factory=dict)
    """What the peer said; a rekeyed IKE_SA inherits both."""
    own_behind_nat: bool = False
    peer_behind_nat: bool = False
    nat_traversal: bool = False
    """Both ends have sent the notifications by which NATs are found (section 2.23)."""
    mobility: Mobility | None = None
    """Of ends that can change their addresses (RFC 4555); a rekeyed IKE_SA has the same."""
    replaces: IkeSa | None = None
    """The one with another gateway that ends when this one stands (RFC 5685 section 5)."""
    redirected: ConnectionConfig | None = None
    """Set while a response is built: where to go after it."""
    handshakes: int = 1
    """How often this end has begun, when a NAT was found that must not be there (RFC 4555)."""
    next_message_id: int = 0
    expected_message_id: int = 0
    """The peer's next request that is not answered yet; with a larger window those behind it may
    be."""
    own_requests: dict[int, OwnRequest] = field(default_factory=dict)
    """Those that wait for a response, by message ID, the oldest first."""
    own_window: int = 1
    """How many requests of the peer may be outstanding: what this end has said (section 2.3)."""
    peer_window: int = 1
    """How many requests of ours may be."""
    closed_early: list[bytes] = field(default_factory=list)
    """The last `MAX_CLOSED_EARLY` SPIs that the peer closed although no CHILD_SA had them, since
    our last request: the response that makes that CHILD_SA may have been overtaken by its DELETE.
    Lists, here and below, as empty deques would take more than half a kilobyte each."""
    answered: dict[int, PeerRequest] = field(default_factory=dict)
    """The peer's last requests by message ID, as many as the window has."""
    tasks: list[Task] = field(default_factory=list)
    postponed: list[tuple[float, Task]] = field(default_factory=list)
    """Tasks that met TEMPORARY_FAILURE, and from when on they may be tried again."""
    trigger: Trigger | None = None
    """The packet that set it up, if one did."""
    renews: IkeSa | None = None
    """Initiator: the IKE_SA that is to go when this one is up: a reauthentication."""
    reauthenticated: bool = False
    """True when another IKE_SA has taken its place, to which traffic has moved."""
    session: Session = field(default_factory=Session)
    """Moves on when it is rekeyed."""
    children: dict[bytes, ChildSa] = field(default_factory=dict)
    round_trip: float = inf
    """Seconds from one message of the handshake to its answer, retransmissions included."""
    last_received: float = 0.0
    last_sent: float = 0.0
    successor: IkeSa | None = None
    """The IKE_SA that took over the CHILD_SAs."""
    half_made: dict[bytes, HalfMade] = field(default_factory=dict)
    """Responder: SAs that wait for IKE_FOLLOWUP_KE, by the link that the next one must name."""
    candidates: list[IkeSa] = field(default_factory=list)
    """IKE_SAs made by the peer's rekey of this one while our own is under way."""
    candidate_for: IkeSa | None = None
    """While it is a candidate: the IKE_SA that it may replace."""
    offered_spi: bytes = b""
    """Of the IKE_SA that our rekey of this one is to make, as long as it may."""
    lowest_nonce: bytes = b""
    """The lower nonce of the CREATE_CHILD_SA exchange that made it."""
    close_reason: str = ""
    """Set while a response is built that ends this SA."""

    @property
    def own_spi(self) -> bytes:
        """The SPI that this end chose: its key in the endpoint's table."""
        return self.spi_i if self.initiator else self.spi_r

    @property
    def encapsulated(self) -> bool:
        """True when ESP of its CHILD_SAs goes in UDP or TCP."""
        return self.own_behind_nat or self.peer_behind_nat or isinstance(self.path, TcpPath)

    @property
    def fragmentation(self) -> bool:
        """True when both ends have said that they can put fragments together (RFC 7383)."""
        return self.agreed(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED)

    @property
    def alive(self) -> bool:
        """True while it can start exchanges of its own."""
        return self.state is IkeState.ESTABLISHED

    def agreed(self, capability: NotifyType) -> bool:
        """True when both ends said in IKE_SA_INIT that they can do it."""
        return capability in self.own_offers and capability in self.peer_offers

    @property
    def own_request(self) -> OwnRequest | None:
        """The oldest request that waits for its response."""
        return next(iter(self.own_requests.values()), None)

    def under_way(self) -> Iterator[Task]:
        """The task of each request that waits for its response."""
        return (request.task for request in self.own_requests.values())

    def may_send(self, task: Task) -> bool:
        """True when the window has room for a request more, and `task` may go beside the others."""
        oldest = next(iter(self.own_requests), None)
        if oldest is None:
            return True
        if self.next_message_id >= oldest + self.peer_window:
            return False
        return all(task.may_overlap(other) for other in self.under_way())

    def may_receive(self, message_id: int) -> bool:
        """True for a request in the window that is not answered yet."""
        first = self.expected_message_id
        return first <= message_id < first + self.own_window and message_id not in self.answered

    def remember(self, request: PeerRequest) -> None:
        """The peer's request is taken; what a window has passed by is forgotten (section 2.3)."""
        self.answered[request.message_id] = request
        while self.expected_message_id in self.answered:
            self.expected_message_id += 1
        passed = max(self.answered) - self.own_window
        for message_id in [number for number in self.answered if number <= passed]:
            del self.answered[message_id]

    def wanted(self) -> Iterator[Task]:
        """Every task that is under way, waits for its turn, or was put off."""
        yield from self.under_way()
        yield from self.tasks
        yield from (task for _, task in self.postponed)

    def current(self) -> IkeSa:
        """The IKE_SA that carries on this one's work, itself unless it was rekeyed."""
        sa = self
        while sa.successor is not None:
            sa = sa.successor
        return sa
