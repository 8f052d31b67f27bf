"""What an IKE endpoint is told before it starts: connections, identities, lifetimes, timers.

Frozen values without behaviour; `lab.gateways` makes them from a topology file. Times are seconds,
addresses dotted IPv4 text (as in `outputs.UdpEndpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from ipaddress import ip_address

from ipseclab.ike.configuration import AddressRequest, Provision
from ipseclab.ike.credentials import (
    LAB_EPOCH,
    CertificateAuth,
    CertificateDemand,
    RawKeyAuth,
    RawKeyDemand,
)
from ipseclab.ike.eap.settings import EapAuth, EapDemand, EapOnly
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.ike.redirect.settings import Redirect
from ipseclab.registry import IdType, ProtocolId
from ipseclab.wire.proposal import Proposal
from ipseclab.wire.selector import TrafficSelector

IKE_PORT = 500
NAT_T_PORT = 4500


class Mode(Enum):
    """RFC 4301 section 3.2."""

    TUNNEL = "tunnel"
    TRANSPORT = "transport"


class Childless(Enum):
    """Whether an IKE_SA may begin without a CHILD_SA (RFC 6023)."""

    NEVER = "never"
    ALLOW = "allow"
    """As the responder."""
    PREFER = "prefer"
    """As the initiator too."""


class TcpUse(Enum):
    """When IKE and ESP go in a TCP connection (RFC 9329)."""

    NEVER = "never"
    FALLBACK = "fallback"
    """When nothing comes back in UDP."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True)
class Aggfrag:
    """AGGFRAG payloads (RFC 9347). A CHILD_SA is not made with a peer that has none."""

    fragments: bool = True
    """Whether this end puts packets together that the peer has cut."""


class Narrowing(Enum):
    """How much a responder grants of what both policies allow (RFC 7296 section 2.9)."""

    POLICY = "policy"
    """All of it."""
    PACKET = "packet"
    """Only the flow that the initiator names first, where it names one."""
    PAIR = "pair"
    """Only one pair of addresses."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An identification payload's content (RFC 7296 section 3.5)."""

    id_type: IdType
    data: bytes

    def __str__(self) -> str:
        if self.id_type in (IdType.ID_IPV4_ADDR, IdType.ID_IPV6_ADDR) and len(self.data) in (4, 16):
            return str(ip_address(self.data))
        if self.id_type in (IdType.ID_DER_ASN1_DN, IdType.ID_KEY_ID):
            return f"#{self.data.hex()}"
        return self.data.decode("utf-8", "backslashreplace")


ANY_IDENTITY = Identity(IdType(0), b"")
"""As a connection's `peer_id`: whoever can authenticate. The type is reserved: no peer has it."""

NULL_IDENTITY = Identity(IdType.ID_NULL, b"")
"""Of an end that does not say who it is (RFC 7619 section 2.2)."""


@dataclass(frozen=True, slots=True)
class SharedKeyAuth:
    """Authentication by a pre-shared key (RFC 7296 section 2.15)."""

    key: bytes = field(repr=False)
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


@dataclass(frozen=True, slots=True)
class NullAuth:
    """No authentication (RFC 7619): AUTH proves that there was nobody in the middle who changed the
    messages, not who the sender is."""

    identity: Identity | None = NULL_IDENTITY


class PpkUse(Enum):
    """In which exchange a PPK is named and mixed in."""

    AUTH = "auth"
    """IKE_AUTH (RFC 8784): the first IKE_SA's own messages are not protected by it."""
    INTERMEDIATE = "intermediate"
    """IKE_INTERMEDIATE (RFC 9867): all from IKE_AUTH on is."""
    EITHER = "either"
    """IKE_INTERMEDIATE with a peer that knows it, else IKE_AUTH."""


@dataclass(frozen=True, slots=True)
class ResumedAuth:
    """Authentication by having the keys of an IKE_SA that a ticket stands for (RFC 5723)."""

    identity: Identity | None = None
    """The connection's."""


@dataclass(frozen=True, slots=True)
class Ppk:
    """A post-quantum preshared key and the name by which it is asked for (RFC 8784)."""

    identity: bytes
    key: bytes = field(repr=False)


DirectAuth = SharedKeyAuth | NullAuth | CertificateAuth | RawKeyAuth | ResumedAuth
"""How this end authenticates itself with one AUTH payload."""
DirectDemand = SharedKeyAuth | NullAuth | CertificateDemand | RawKeyDemand | ResumedAuth
"""How the peer has to do that."""
OwnAuth = DirectAuth | EapAuth | EapOnly
"""How this end authenticates itself in a round: EapAuth as an initiator, EapOnly as a responder."""
PeerAuth = DirectDemand | EapDemand | EapOnly
"""How the peer has to: EapDemand of an initiator, EapOnly of a responder."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """Hard limits of an SA, each None for no limit; the soft limit, where a rekey starts, is lower.

    soft = hard * (1 - margin * (1 + jitter * u)) with u uniform in [0, 1), drawn once an SA, so
    that two ends with the same lifetime rarely rekey at the same moment (RFC 7296 section 2.8).
    """

    seconds: float | None = None
    octets: int | None = None
    packets: int | None = None
    margin: float = 0.1
    jitter: float = 0.5


@dataclass(frozen=True, slots=True)
class Retransmission:
    """A request without a response is sent again `tries` times, the first time after `timeout`
    seconds; each wait is `base` times as long as the one before, `limit` at most. After one more
    such wait the peer is given up (RFC 7296 section 2.4). `jitter` is the fraction by which a wait
    may be shorter, drawn each time."""

    timeout: float = 4.0
    base: float = 1.8
    tries: int = 5
    jitter: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One connection of an endpoint: how to authenticate, what to propose, what to protect."""

    name: str
    own_address: str
    peer_address: str | None
    """None: any address may initiate; then this end can only respond."""
    own_id: Identity
    peer_id: Identity
    psk: bytes = field(repr=False)
    """Of both ends, where `own_auth` or `peer_auth` says nothing else."""
    ike_proposals: tuple[Proposal, ...]
    esp_proposals: tuple[Proposal, ...]
    """Of one protocol: ESP, or all of AH."""
    own_ts: tuple[TrafficSelector, ...]
    peer_ts: tuple[TrafficSelector, ...]
    own_auth: tuple[OwnAuth, ...] = ()
    """Rounds in which this end authenticates itself, in order (RFC 4739 for more than one); empty:
    one, with `psk`."""
    peer_auth: tuple[PeerAuth, ...] = ()
    """Rounds in which the peer must; empty: one, with `psk`."""
    ppks: tuple[Ppk, ...] = ()
    """Keys to mix in; an initiator names the first, and in IKE_INTERMEDIATE all; a responder takes
    any of them."""
    ppk_required: bool = False
    """Whether there must be one that both ends have; otherwise it is done without."""
    ppk_use: PpkUse = PpkUse.AUTH
    ppk_rekeys: bool = False
    """Whether each CREATE_CHILD_SA names the next of the keys, too (RFC 9867); needs a peer that
    does so in IKE_INTERMEDIATE."""
    address_request: AddressRequest | None = None
    """As the initiator: what to ask for of the gateway's network; `own_ts` then shrinks to it."""
    provision: Provision | None = None
    """As the responder: what there is for clients; `peer_ts` then shrinks to what one got."""
    policy: str | None = None
    """The PROTECT policy that its SAs serve, where that is another connection's: clients of one
    pool share one. None: the one that names this connection."""
    mode: Mode = Mode.TUNNEL
    narrowing: Narrowing = Narrowing.POLICY
    childless: Childless = Childless.ALLOW
    resumption: float | None = None
    """Seconds for which a ticket resumes an IKE_SA (RFC 5723): the initiator asks for one and comes
    back with it, the responder gives it. None: neither."""
    crash_detection: bool = False
    """Give the peer a token by which it knows that this end has restarted, and take its (RFC 6290);
    to give one takes a `secret` of the endpoint."""
    reauthentication: float | None = None
    """Seconds for which an authentication is good (RFC 7296 section 2.8.3); a responder says so to
    the initiator (RFC 4478). None: for ever."""
    break_before_make: bool = False
    """Whether the old IKE_SA goes before the new one is there, with a gap in the traffic."""
    resources: int = 1
    """CHILD_SAs with the same selectors that this end wants or takes (RFC 9611)."""
    ike_lifetime: Lifetime = Lifetime(seconds=14400.0)
    child_lifetime: Lifetime = Lifetime(seconds=3600.0)
    retransmission: Retransmission = Retransmission()
    liveness: float | None = None
    """Seconds without an authenticated packet from the peer before it is asked; None: never."""
    keepalive: float | None = 20.0
    """Seconds of silence before a NAT keepalive is sent (RFC 3948 section 4); None: never."""
    force_encapsulation: bool = False
    """Pretend a NAT, so that ESP goes in UDP."""
    nat_traversal: bool = True
    """Look for NATs (RFC 7296 section 2.23, which leaves it to each end whether it can)."""
    tcp: TcpUse = TcpUse.NEVER
    """Whether IKE and ESP go in TCP; the initiator opens the connection, and opens it again."""
    ipcomp: bool = False
    """Whether packets are compressed (RFC 3173), with a peer that does so."""
    aggfrag: Aggfrag | None = None
    """Whether CHILD_SAs send at a fixed rate, which is the datapath's (RFC 9347); tunnel mode."""
    initial_contact: bool = True
    replay_window: int = 64
    """Packets; RFC 4303 section 3.4.3 asks for at least 32."""
    fragmentation: bool = True
    """Announce that fragmented messages can be put together, and send such to a peer that can, too
    (RFC 7383)."""
    fragment_size: int = 1280
    """Octets of an IPv4 packet above which a message is sent in fragments, where it may be."""
    redirect: Redirect | None = None
    """Who sends whom to another gateway (RFC 5685); None: nobody."""
    mobike: Mobike | None = None
    """How the ends' addresses may change (RFC 4555); None: not at all."""
    window: int = 1
    """Requests of the peer that may be outstanding at once (RFC 7296 section 2.3)."""
    rekey_linger: float = 5.0
    """Seconds that the inbound half of a rekeyed CHILD_SA is still accepted after its DELETE."""

    @property
    def own_rounds(self) -> tuple[OwnAuth, ...]:
        """`own_auth`, or the pre-shared key."""
        return self.own_auth if self.own_auth else (SharedKeyAuth(self.psk),)

    @property
    def peer_rounds(self) -> tuple[PeerAuth, ...]:
        """`peer_auth`, or the pre-shared key."""
        return self.peer_auth if self.peer_auth else (SharedKeyAuth(self.psk),)

    @property
    def peer_uses_eap(self) -> bool:
        """True when the peer has to begin without an AUTH of its own (RFC 7296 section 2.16)."""
        return isinstance(self.peer_rounds[0], EapDemand)

    @property
    def child_protocol(self) -> ProtocolId:
        """What the CHILD_SAs are: ESP, unless the proposals are AH's."""
        return self.esp_proposals[0].protocol if self.esp_proposals else ProtocolId.ESP


@dataclass(frozen=True, slots=True)
class IkeLimits:
    """Own limits, each with a counted refusal when reached."""

    half_open: int = 1024
    cookie_threshold: int = 32
    """Half-open IKE_SAs from which on a COOKIE is demanded; 0: always (RFC 7296 section 2.6)."""
    puzzle_threshold: int | None = None
    """Half-open IKE_SAs from which on a puzzle must be solved, too (RFC 8019); None: never."""
    auth_puzzle_threshold: int | None = None
    """Those from which on one must be solved for IKE_AUTH (RFC 8019 section 7.2); None: never."""
    half_open_timeout: float = 30.0
    """Seconds after which an IKE_SA for which no IKE_AUTH request has come gives way, when there
    are so many that a COOKIE would be demanded or the table is full."""
    half_open_patience: float = 400.0
    """Seconds that it is kept otherwise, at most: as long as the connection's schedule lets the
    peer ask (`lifecycle.half_open_seconds`)."""
    authentication_timeout: float = 120.0
    """Seconds from IKE_SA_INIT until a peer whose IKE_AUTH takes several exchanges must be
    authenticated."""
    authentication_exchanges: int = 64
    """IKE_AUTH exchanges of one IKE_SA, either end."""
    ike_sas: int = 200_000
    stateless_answers: int = 20
    """A second: messages about IKE_SAs that this end does not have (RFC 6290)."""
    children_per_ike: int = 256
    streams: int = 16_384
    """TCP connections, either way (RFC 9329)."""
    idle_streams: int = 256
    """Of those that peers opened and no IKE_SA uses; the oldest gives way."""
    idle_stream_timeout: float = 10.0
    """Seconds after which such a one is closed."""


@dataclass(frozen=True, slots=True)
class IkeConfig:
    """An endpoint: its name in traces, its connections, its limits."""

    name: str
    connections: tuple[ConnectionConfig, ...]
    limits: IkeLimits = field(default_factory=IkeLimits)
    wall_clock: datetime = LAB_EPOCH
    """The time of day, in UTC, when the driver's clock shows 0: for certificates and tickets."""
    secret: bytes = field(default=b"", repr=False)
    """What tickets and crash detection tokens are made from: with the same one an endpoint knows
    them again after a restart. Empty: drawn anew each time."""

    def time_of_day(self, now: float) -> datetime:
        """The wall clock at `now`."""
        return self.wall_clock + timedelta(seconds=now)
