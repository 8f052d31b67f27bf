"""What a topology file may hold: pydantic models of its keys, each looked at by itself.

`lab.topology` resolves a checked `TopologyFile` into frozen values and checks the whole. The models
also make the JSON Schema that editors complete from.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from ipseclab.crypto.names import transform_named
from ipseclab.crypto.signature import BY_NAME
from ipseclab.errors import ConfigError
from ipseclab.ike.config import IkeLimits
from ipseclab.ike.configuration import AddressPool, check_domain
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.window import MAX_WINDOW
from ipseclab.ipsec.processing import (
    DSCP_LAST,
    LARGEST_TFC,
    DontFragment,
    Fragmentation,
    Processing,
)
from ipseclab.ipsec.replay import REPLAY_WINDOW_MAX, REPLAY_WINDOW_MIN
from ipseclab.lab.faults.fault import (
    CONTENT,
    Direction,
    Exchange,
    FaultName,
    MessageKind,
    Traffic,
)
from ipseclab.lab.impairment import (
    DEFAULT_MTU,
    DEFAULT_QUEUE_PACKETS,
    DEFAULT_REORDER_DELAY,
    Bernoulli,
    GilbertElliott,
    LossModel,
    NthPackets,
)
from ipseclab.lab.model import NetworkSelector
from ipseclab.lab.secret_text import check_secret
from ipseclab.lab.units import Quantity, parse_quantity, parse_size
from ipseclab.lab.yaml_source import one_of
from ipseclab.registry import NotifyType, TransformType

SMALLEST_MTU = 576
LARGEST_MTU = 65535
LOWEST_SPI = 256
"""RFC 4303 section 2.1: IANA keeps those below."""
MOST_NODES = 5000
MOST_LINKS = 10_000
MOST_CONNECTIONS = 5000
MOST_FAULTS = 100
MOST_AUTHORITIES = 16
MOST_DAYS = 36_500

# An interface is `<node>-eth<k>`, and Linux has room for 15 characters.
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=9)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]


def _quantity(kind: Quantity) -> tuple[BeforeValidator, WithJsonSchema]:
    schema: dict[str, Any] = {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": kind.pattern},
        ],
        "description": kind.expected,
    }
    return BeforeValidator(lambda value: parse_quantity(value, kind)), WithJsonSchema(schema)


_TIME, _TIME_SCHEMA = _quantity(Quantity.TIME)
_RATE, _RATE_SCHEMA = _quantity(Quantity.RATE)
_SHARE, _SHARE_SCHEMA = _quantity(Quantity.PROBABILITY)
_SIZE_SCHEMA = _quantity(Quantity.SIZE)[1]

Seconds = Annotated[float, _TIME, _TIME_SCHEMA]
Rate = Annotated[float, Field(gt=0), _RATE, _RATE_SCHEMA]
Probability = Annotated[float, _SHARE, _SHARE_SCHEMA]
Octets = Annotated[int, BeforeValidator(parse_size), _SIZE_SCHEMA]


def _text_to(kind: Callable[[str], Any], expected: str) -> BeforeValidator:
    def convert(value: object) -> Any:
        if isinstance(value, str):
            try:
                return kind(value)
            except ValueError:
                pass
        raise ValueError(f"{value!r} is not usable, expected {expected}")

    return BeforeValidator(convert)


def _interface(text: str) -> IPv4Interface:
    if "/" not in text:
        raise ValueError("without a prefix length")
    return IPv4Interface(text)


Address = Annotated[
    IPv4Address,
    _text_to(IPv4Address, "an IPv4 address like 192.0.2.1"),
    WithJsonSchema({"type": "string", "format": "ipv4"}),
]
InterfaceAddress = Annotated[
    IPv4Interface,
    _text_to(_interface, "an IPv4 address with prefix length like 192.0.2.1/24"),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9.]+/[0-9]+$"}),
]
Selector = Annotated[
    NetworkSelector,
    _text_to(NetworkSelector.parse, "an IPv4 network like 10.1.0.0/24 or 10.1.0.0/24[tcp/80]"),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9.]+(/[0-9]+)?(\[.*\])?$"}),
]


Secret = Annotated[str, Field(min_length=1), AfterValidator(check_secret)]
"""Octets as a text, or after 0x in hexadecimal."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _proposal(parse: Callable[[str], object]) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a proposal, expected one like aes128gcm16-x25519")
        try:
            parse(value)
        except ConfigError as problem:
            raise ValueError(problem.problem) from problem
        return value

    return BeforeValidator(read)


def _both(value: object) -> object:
    return [value, value] if isinstance(value, str) else value


def _scheme(value: object) -> object:
    if value not in BY_NAME:
        raise ValueError(
            f"{value!r} is not a signature scheme, {one_of(list(BY_NAME), str(value))}"
        )
    return value


_ONE_OR_LIST = BeforeValidator(_listed)
_SIGNATURE = BeforeValidator(_scheme)
IkeProposals = Annotated[
    list[Annotated[str, _proposal(parse_ike_proposal)]], Field(min_length=1), _ONE_OR_LIST
]
EspProposals = Annotated[
    list[Annotated[str, _proposal(parse_esp_proposal)]], Field(min_length=1), _ONE_OR_LIST
]
IdPair = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2, max_length=2)]
Selectors = Annotated[list[Selector], Field(min_length=1), _ONE_OR_LIST]


def _pool(text: str) -> IPv4Network | IPv6Network:
    AddressPool.of_network(text)
    return ip_network(text)


PoolNetwork = Annotated[
    IPv4Network | IPv6Network,
    _text_to(_pool, "a network with room for hosts, like 10.9.0.0/24 or 2001:db8:9::/64"),
    WithJsonSchema({"type": "string"}),
]
IpText = Annotated[
    IPv4Address | IPv6Address,
    _text_to(ip_address, "an IP address like 10.2.0.53"),
    WithJsonSchema({"type": "string"}),
]
Domain = Annotated[
    str,
    _text_to(check_domain, "a domain like corp.example.org"),
    WithJsonSchema({"type": "string"}),
]


class _Strict(BaseModel):
    """No unknown keys, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LossFile(_Strict):
    """Loss: exactly one of `probability`, `p` and `r` (Gilbert-Elliott), `packets` / `every`."""

    probability: Probability | None = None
    """Each packet by itself."""
    p: Probability | None = None
    """Gilbert-Elliott: good to bad, a packet."""
    r: Probability | None = None
    """Gilbert-Elliott: bad to good, a packet."""
    h: Probability = 0.0
    """Gilbert-Elliott: the chance to get through in the bad state."""
    k: Probability = 1.0
    """Gilbert-Elliott: the chance to get through in the good state."""
    packets: list[Annotated[int, Field(ge=0)]] = []
    """Exactly these packets, counted from 0."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Every n-th packet."""

    @model_validator(mode="after")
    def _one_model(self) -> LossFile:
        chosen = [
            self.probability is not None,
            self.p is not None or self.r is not None,
            bool(self.packets) or self.every is not None,
        ]
        if sum(chosen) != 1:
            raise ValueError("not one loss model, expected probability, or p and r, or packets")
        if (self.p is None) != (self.r is None):
            raise ValueError("half a Gilbert-Elliott model, expected both p and r")
        return self

    def model(self) -> LossModel:
        """The loss model that it describes."""
        if self.probability is not None:
            return Bernoulli(self.probability)
        if self.p is not None and self.r is not None:
            return GilbertElliott(self.p, self.r, self.h, self.k)
        return NthPackets(tuple(self.packets), self.every)


def _loss(value: object) -> object:
    if value is None or isinstance(value, dict | LossFile):
        return value
    return {"probability": parse_quantity(value, Quantity.PROBABILITY)}


Loss = Annotated[LossFile, BeforeValidator(_loss)]


class ImpairmentFile(_Strict):
    """What a link, or one direction of it, does to packets."""

    delay: Seconds = 0.0
    jitter: Seconds = 0.0
    jitter_distribution: Literal["uniform", "normal"] = "uniform"
    loss: Loss | None = None
    reorder: Probability = 0.0
    """The share of packets held back so that later ones overtake them."""
    reorder_delay: Seconds = DEFAULT_REORDER_DELAY
    duplicate: Probability = 0.0
    corrupt: Probability = 0.0
    """The share of packets with one bit of their payload turned over."""
    rate: Rate | None = None
    queue_packets: Annotated[int, Field(ge=0)] = DEFAULT_QUEUE_PACKETS
    queue_octets: Octets | None = None
    mtu: Annotated[int, Field(ge=SMALLEST_MTU, le=LARGEST_MTU)] = DEFAULT_MTU


class LinkFile(ImpairmentFile):
    """A link between two nodes, each end with an address; the impairments hold for both directions,
    `forward` (first end to second) and `backward` say what is different there."""

    name: Name | None = None
    """By default the two ends: gw1-gw2."""
    ends: Annotated[list[NodeName], Field(min_length=2, max_length=2)]
    addresses: Annotated[list[InterfaceAddress], Field(min_length=2, max_length=2)]
    forward: ImpairmentFile | None = None
    backward: ImpairmentFile | None = None

    @property
    def link_name(self) -> str:
        """Its name, or the two ends."""
        return self.name if self.name is not None else "-".join(self.ends)


class LimitsFile(_Strict):
    """What a node's stack takes on from initiators that it does not know yet."""

    half_open: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    cookie_threshold: Annotated[int, Field(ge=0)] = 32
    puzzle_threshold: Annotated[int, Field(ge=0)] | None = None
    """None: no puzzles."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        puzzles = self.puzzle_threshold
        if puzzles is not None and not self.cookie_threshold <= puzzles < self.half_open:
            raise ValueError(
                f"puzzle_threshold: {puzzles}, expected it from cookie_threshold "
                f"({self.cookie_threshold}) on and below half_open ({self.half_open})"
            )
        return self

    def limits(self) -> IkeLimits:
        """What the stack is told."""
        return IkeLimits(
            half_open=self.half_open,
            cookie_threshold=self.cookie_threshold,
            puzzle_threshold=self.puzzle_threshold,
        )


class _LimitedFile(_Strict):
    """A node that may have a stack."""

    limits: LimitsFile | None = None

    @model_validator(mode="after")
    def _ours(self) -> Self:
        stack = getattr(self, "stack", None)
        if self.limits is not None and stack not in (None, "ipseclab"):
            raise ValueError(f"limits: of a node with stack {stack}, expected ipseclab")
        return self


class HostFile(_LimitedFile):
    """A host: sends and receives traffic; with a `stack` it can be an end of a connection."""

    kind: Literal["host"]
    stack: Literal["ipseclab", "strongswan", "none"] | None = None
    """By default ipseclab where a connection ends here, else none."""


class GatewayFile(_LimitedFile):
    """A security gateway between a protected and an unprotected side."""

    kind: Literal["gateway"]
    stack: Literal["ipseclab", "strongswan", "none"] = "ipseclab"


class RouterFile(_Strict):
    """A plain IPv4 router."""

    kind: Literal["router"]


NatBehaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]


class NatFile(_Strict):
    """An IPv4 NAT (RFC 4787); `outside` names the link on its public side."""

    kind: Literal["nat"]
    outside: Name
    mapping: NatBehaviour = "endpoint-independent"
    filtering: NatBehaviour = "address-and-port-dependent"
    port_preservation: bool = True
    hairpinning: bool = True
    udp_timeout: Seconds = 120.0
    """RFC 4787 REQ-5: not less than 2 minutes; real ones are often shorter."""
    inbound_refresh: bool = False
    """RFC 4787 REQ-6: whether packets from outside also keep a mapping alive."""
    tcp_timeout: Seconds = 7440.0
    tcp_transitory_timeout: Seconds = 240.0
    icmp_timeout: Seconds = 60.0
    ports: Annotated[
        list[Annotated[int, Field(ge=1, le=65535)]], Field(min_length=2, max_length=2)
    ] = [1024, 65535]
    """First and last outside port."""
    mappings: Annotated[int, Field(ge=1)] = 4096
    """Room in the table."""
    pool: list[Address] = []
    """Further outside addresses, for a rebinding to another address."""
    esp_passthrough: bool = False


NodeFile = Annotated[HostFile | GatewayFile | RouterFile | NatFile, Field(discriminator="kind")]


class IkeLifetimeFile(_Strict):
    """The hard limit of an IKE_SA, by time alone; null for none."""

    seconds: Seconds | None = None
    margin: Probability = 0.1
    """The rekey starts this share of the lifetime before its end ..."""
    jitter: Probability = 0.5
    """... and up to this share of the margin earlier."""

    @model_validator(mode="after")
    def _rekeys_later(self) -> Self:
        early = self.margin * (1.0 + self.jitter)
        if early >= 1.0:
            raise ValueError(
                f"an SA that may be rekeyed as soon as it is made (margin * (1 + jitter) is "
                f"{early:g}), expected less than 1"
            )
        return self


class LifetimeFile(IkeLifetimeFile):
    """Hard limits of a CHILD_SA; null for none."""

    octets: Octets | None = None
    packets: Annotated[int, Field(ge=1)] | None = None


class LifetimesFile(_Strict):
    """Lifetimes of the IKE_SA and its CHILD_SAs."""

    ike: IkeLifetimeFile = IkeLifetimeFile(seconds=14400.0)
    child: LifetimeFile = LifetimeFile(seconds=3600.0)


class RetransmissionFile(_Strict):
    """Request i is sent again `timeout * base**i` after its last sending, `tries` times."""

    timeout: Seconds = 4.0
    base: Annotated[float, Field(ge=1.0)] = 1.8
    tries: Annotated[int, Field(ge=0, le=100)] = 5
    jitter: Probability = 0.0
    limit: Seconds | None = None


class FragmentationFile(_Strict):
    """IKE messages above `size` octets of IPv4 go in fragments, if both ends allow it."""

    enabled: bool = True
    size: Annotated[int, Field(ge=576, le=65535)] = 1280


KeyKind = Literal[
    "rsa-2048",
    "rsa-3072",
    "rsa-4096",
    "ecdsa-p256",
    "ecdsa-p384",
    "ecdsa-p521",
    "ed25519",
    "ed448",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
]
Days = Annotated[float, Field(ge=-MOST_DAYS, le=MOST_DAYS)]


class _IssuedFile(_Strict):
    """What authorities and nodes have in common: a key, who signs for it, for how long."""

    key: KeyKind = "ecdsa-p256"
    issuer: Name | None = None
    valid: Annotated[list[Days], Field(min_length=2, max_length=2)] = [-1.0, 365.0]
    """Days from the start of the run: first and last."""
    revoked: bool = False


class AuthorityFile(_IssuedFile):
    """A certification authority of the lab; without an issuer a root, which the ends trust."""

    path_length: Annotated[int, Field(ge=0, le=MOST_AUTHORITIES)] | None = None
    """How many authorities may follow below it."""


class CertificateFile(_IssuedFile):
    """The certificate, or the raw key, of a node. By default it is of the last authority."""

    names: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    """Alternative names; by default the node's identities in its connections."""
    usage: Literal["ipsec", "server", "client", "any", "code-signing"] | None = "ipsec"
    """Extended key usage; null for none."""
    signs: bool = True
    """False: key usage without digitalSignature."""


class CertificatesFile(_Strict):
    """The authorities of the lab, and what the nodes' certificates say where that is not usual."""

    authorities: Annotated[dict[Name, AuthorityFile], Field(max_length=MOST_AUTHORITIES)] = {}
    nodes: dict[NodeName, CertificateFile] = {}


Auth = Literal[
    "psk",
    "certificate",
    "raw-key",
    "anonymous",
    "eap-mschapv2",
    "eap-md5",
    "eap-tls",
    "eap-only",
]
AuthPair = Annotated[list[Auth], Field(min_length=2, max_length=2)]


class ProcessingFile(_Strict):
    """How both ends treat the packets of a connection (RFC 4301 section 8, RFC 6040, RFC 4303)."""

    dont_fragment: Literal["copy", "set", "clear"] = "copy"
    """The outer header's DF bit: the inner one's, or always, or never."""
    dscp: Annotated[int, Field(ge=0, le=DSCP_LAST)] | None = None
    """The outer DSCP; by default the inner packet's."""
    ecn: bool = True
    """false: RFC 6040's compatibility mode, no ECN outside."""
    path_mtu: Annotated[int, Field(ge=SMALLEST_MTU, le=LARGEST_MTU)] | None = None
    """The longest outer packet to begin with; by default any, until ICMP says otherwise."""
    path_mtu_time: Annotated[Seconds, Field(gt=0)] = 600.0
    """How long a smaller one that was learnt is believed."""
    fragmentation: Literal["before", "after"] = "after"
    clamp_mss: bool = False
    tfc_padding: Annotated[int, Field(ge=0, le=LARGEST_TFC)] = 0
    """Octets that inner packets are made long, those that are shorter."""
    dummies: Annotated[Seconds, Field(gt=0)] | None = None
    """Silence after which a dummy packet goes out."""

    def processing(self) -> Processing:
        """The processing that it describes."""
        return Processing(
            dont_fragment=DontFragment(self.dont_fragment),
            dscp=self.dscp,
            ecn=self.ecn,
            path_mtu=self.path_mtu,
            path_mtu_seconds=self.path_mtu_time,
            fragmentation=Fragmentation(self.fragmentation),
            clamp_mss=self.clamp_mss,
            tfc_padding=self.tfc_padding,
            dummy_interval=self.dummies,
        )


class EapFile(_Strict):
    """The initiator's EAP: a user with a password, or TLS."""

    identity: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The user; by default the initiator's identity."""
    password: Annotated[str, Field(min_length=1)] | None = None
    ask_identity: bool = False
    """Whether the responder asks for an EAP-Identity."""
    versions: Annotated[list[Literal["1.2", "1.3"]], Field(min_length=1)] = ["1.2", "1.3"]
    """Of TLS."""


class PpkKeyFile(_Strict):
    """A post-quantum preshared key."""

    id: Annotated[str, Field(min_length=1)]
    key: Secret


class PpkFile(_Strict):
    """Post-quantum preshared keys: one that both ends have, or those of each end."""

    id: Annotated[str, Field(min_length=1)] | None = None
    key: Secret | None = None
    initiator: list[PpkKeyFile] = Field(default_factory=list)
    """Instead: what each end has, the key that it wants most first."""
    responder: list[PpkKeyFile] = Field(default_factory=list)
    required: bool = False
    """Whether it is not done without."""
    use: Literal["auth", "intermediate", "either"] = "auth"
    """In IKE_AUTH (RFC 8784), in IKE_INTERMEDIATE (RFC 9867), or the better of what both can."""
    rekeys: bool = False
    """Whether each CREATE_CHILD_SA mixes in the next key (RFC 9867)."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        lists = bool(self.initiator or self.responder)
        if lists == (self.id is not None) or (self.id is None) != (self.key is None):
            raise ValueError("expected id and key, or lists of them for initiator and responder")
        if self.rekeys and self.use == "auth":
            raise ValueError("rekeys: expected use: intermediate or either beside it (RFC 9867)")
        return self


class ManualFile(_Strict):
    """SAs keyed by hand (RFC 4301 section 4.5.1), initiator to responder first."""

    spis: Annotated[
        list[Annotated[int, Field(ge=LOWEST_SPI, le=0xFFFF_FFFF)]],
        Field(min_length=2, max_length=2),
    ]
    keys: Annotated[
        list[Annotated[str, Field(pattern=r"^([0-9a-fA-F]{2})*$")]],
        Field(min_length=2, max_length=2),
    ]
    """Hexadecimal: the cipher's key with its salt, then the integrity algorithm's."""


class MobikeFile(_Strict):
    """How the ends of a connection may change their addresses; `mobike: true` for all defaults."""

    return_routability: bool = True
    """Whether ESP goes to a new address only after that has answered."""
    nats: bool = True
    """false: no NAT traversal, and a NAT on the way is taken for an attack."""
    allowed: Annotated[list[IPv4Network], Field(max_length=64)] = []
    """Networks in which the initiator may be; by default anywhere."""


def _mobike(value: object) -> object:
    """true: as it comes; false: not at all."""
    if isinstance(value, bool):
        return MobikeFile() if value else None
    return value


class ConnectionFile(_Strict):
    """A connection between two nodes: who starts, how it is authenticated, what it protects."""

    name: Name | None = None
    """By default the two ends: gw1-gw2."""
    initiator: NodeName
    responder: NodeName
    mode: Literal["tunnel", "transport", "none"] = "tunnel"
    """none: no IPsec, the same traffic in the clear."""
    ike: IkeProposals = ["aes128gcm16-prfsha256-x25519"]
    esp: EspProposals = ["aes128gcm16-x25519"]
    allow_weak: bool = False
    """Whether `ike` and `esp` may name what RFC 8247 advises against: modp1024, modp1536."""
    auth: Annotated[AuthPair, BeforeValidator(_both)] = ["psk", "psk"]
    """How the initiator and the responder prove who they are; one word for both."""
    psk: Secret | None = None
    """The pre-shared key: a text, or 0x and hexadecimal."""
    eap: EapFile = EapFile()
    ppk: PpkFile | None = None
    ids: IdPair | None = None
    """Identities of initiator and responder; by default the nodes' names."""
    revocation: Literal["none", "crl", "ocsp"] = "none"
    """What must say that a peer's certificate is good."""
    signatures: Annotated[list[Annotated[str, _SIGNATURE]], _ONE_OR_LIST] = []
    """Signature schemes, the best first; by default what fits the key."""
    local_ts: Selectors | None = None
    """The initiator's networks; by default those behind it, or its own address."""
    remote_ts: Selectors | None = None
    """The responder's networks; by default those behind it, or its own address."""
    pool: Annotated[list[PoolNetwork], _ONE_OR_LIST] = []
    """Addresses that the responder gives the initiator (RFC 7296 section 2.19)."""
    virtual_address: bool = True
    """With a pool: whether the initiator asks for one; it then speaks for that address alone."""
    dns: Annotated[list[IpText], _ONE_OR_LIST] = []
    """Name servers that the initiator is told of."""
    domains: Annotated[list[Domain], _ONE_OR_LIST] = []
    """What they are to be asked about; by default all (RFC 8598)."""
    resumption: bool = False
    """Whether the initiator gets a ticket with which it comes back (RFC 5723)."""
    crash_detection: bool = False
    """Whether the ends give each other tokens that prove a restart (RFC 6290)."""
    reauthentication: Seconds | None = None
    """How long an authentication is good (RFC 7296 section 2.8.3, RFC 4478)."""
    break_before_make: bool = False
    """Whether a reauthentication closes the old IKE_SA first."""
    narrowing: Literal["policy", "packet", "pair"] = "policy"
    """What the responder grants: all that both policies allow, or a CHILD_SA for each flow, or one
    for each pair of addresses (RFC 7296 section 2.9)."""
    childless: Literal["never", "allow", "prefer"] = "allow"
    """Whether the IKE_SA may begin without a CHILD_SA (RFC 6023); prefer: the initiator wants it
    so, and the first CHILD_SA has a key exchange of its own."""
    resources: Annotated[int, Field(ge=1, le=64)] = 1
    """CHILD_SAs with the same selectors, one a resource such as a CPU (RFC 9611)."""
    lifetimes: LifetimesFile = LifetimesFile()
    retransmission: RetransmissionFile = RetransmissionFile()
    fragmentation: FragmentationFile = FragmentationFile()
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] = 1
    liveness: Seconds | None = None
    keepalive: Seconds | None = 20.0
    encapsulation: Literal["auto", "forced"] = "auto"
    mobike: Annotated[
        MobikeFile | None, BeforeValidator(_mobike), WithJsonSchema({"type": ["boolean", "object"]})
    ] = None
    """Whether addresses may change (RFC 4555); the ends then have all their unprotected ones."""
    replay_window: Annotated[int, Field(ge=REPLAY_WINDOW_MIN, le=REPLAY_WINDOW_MAX)] = 64
    """Packets."""
    processing: ProcessingFile = ProcessingFile()
    manual: ManualFile | None = None
    """SPIs and keys by hand, in place of IKE."""
    start: Literal["at-once", "on-demand"] = "at-once"

    @property
    def connection_name(self) -> str:
        """Its name, or the two ends."""
        return self.name if self.name is not None else f"{self.initiator}-{self.responder}"


PayloadName = Literal[
    "SA", "KE", "IDI", "IDR", "CERT", "CERTREQ", "AUTH", "NONCE", "DELETE", "VENDOR", "TSI", "TSR",
    "CP", "EAP",
]  # fmt: skip


def _notify(value: object) -> object:
    if isinstance(value, int) and 0 <= value <= 0xFFFF:
        return value
    known = [item.name for item in NotifyType]
    if value not in known:
        raise ValueError(f"{value!r} is no Notify, {one_of(known, str(value))}")
    return int(NotifyType[str(value)])


def _octets(value: object) -> object:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{value!r} is not usable, expected octets like 00ff17") from None


def _group(value: object) -> object:
    found = transform_named(value) if isinstance(value, str) else None
    if found is None or found.type != TransformType.KE:
        raise ValueError(f"{value!r} is no group, expected one like x25519 or modp2048")
    return int(found.id)


def _listed_numbers(value: object) -> object:
    return [value] if isinstance(value, int) else value


Notify = Annotated[int, BeforeValidator(_notify), WithJsonSchema({"type": ["string", "integer"]})]
HexOctets = Annotated[bytes, BeforeValidator(_octets), WithJsonSchema({"type": "string"})]
Group = Annotated[int, BeforeValidator(_group), WithJsonSchema({"type": "string"})]
Nth = Annotated[
    list[Annotated[int, Field(ge=1)]],
    Field(min_length=1),
    BeforeValidator(_listed_numbers),
]


class FaultFile(_Strict):
    """A fault of one gateway: which of its messages it befalls, and what it does."""

    name: Name | None = None
    """By default what it does and its number: drop-0."""
    node: NodeName
    do: FaultName
    direction: Direction = "out"
    """Of what the node sends (out) or of what reaches it (in)."""
    traffic: Traffic = "ike"
    exchange: Exchange | None = None
    kind: MessageKind | None = None
    nth: Nth | None = None
    """Which of the messages meant, counted from 1; by default each."""
    delay: Seconds | None = None
    """For delay, answer_late, replay; how long block lasts."""
    after: Annotated[int, Field(ge=1, le=1000)] | None = None
    """For hold: how many later messages it waits for."""
    octet: int | None = None
    """For corrupt: which octet, negative from the end; by default a drawn one."""
    octets: Annotated[int, Field(ge=0)] | None = None
    """For truncate: how many are left."""
    payload: PayloadName | None = None
    """For omit, add, repeat."""
    type: Annotated[int, Field(ge=1, le=255)] | None = None
    """For add and critical: the number of a payload type."""
    notify: Notify | None = None
    """For omit, add, repeat: a Notify by its name or number."""
    data: HexOctets | None = None
    """For add and critical: what it holds, in hexadecimal."""
    group: Group | None = None
    """For ke_group."""
    version: Annotated[int, Field(ge=0, le=255)] | None = None
    """For version: the octet, 0x30 by default."""
    bits: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    """For key_length."""

    @model_validator(mode="after")
    def _fits(self) -> FaultFile:
        given = {key for key in _FAULT_KEYS if getattr(self, key) is not None}
        allowed = {*_FAULT_NEEDS.get(self.do, ()), *_FAULT_MAY.get(self.do, ())}
        for key in _FAULT_KEYS:
            if key in given - allowed:
                raise ValueError(f"{self.do} has no use for {key}, expected it left out")
        for key in _FAULT_NEEDS.get(self.do, ()):
            if key not in given:
                raise ValueError(f"{self.do} without {key}, expected it here")
        what = given & {"payload", "notify", "type"}
        if self.do in ("omit", "add", "repeat") and len(what) != 1:
            raise ValueError(f"{self.do} needs one thing, expected payload or notify")
        if self.do in CONTENT and (self.direction == "in" or self.traffic == "esp"):
            raise ValueError(f"{self.do} changes IKE that the node sends, expected out and ike")
        if self.traffic == "esp" and (self.exchange is not None or self.kind is not None):
            raise ValueError("ESP has no exchanges, expected no exchange and no kind")
        return self


Faults = Annotated[list[FaultFile], Field(max_length=MOST_FAULTS)]

_FAULT_KEYS = (
    "delay", "after", "octet", "octets", "payload", "type", "notify", "data", "group", "version",
    "bits",
)  # fmt: skip
"""Keys that only some faults have."""
_FAULT_NEEDS: dict[str, tuple[str, ...]] = {
    "delay": ("delay",),
    "answer_late": ("delay",),
    "replay": ("delay",),
    "truncate": ("octets",),
    "ke_group": ("group",),
}
_FAULT_MAY: dict[str, tuple[str, ...]] = {
    "block": ("delay",),
    "hold": ("after",),
    "corrupt": ("octet",),
    "omit": ("payload", "notify"),
    "repeat": ("payload", "notify"),
    "add": ("payload", "notify", "type", "data"),
    "critical": ("type", "data"),
    "version": ("version",),
    "key_length": ("bits",),
}


class TopologyFile(_Strict):
    """A lab: its nodes, links and connections."""

    name: Name | None = None
    """By default the file's stem."""
    description: str = ""
    nodes: Annotated[dict[NodeName, NodeFile], Field(min_length=1, max_length=MOST_NODES)]
    links: Annotated[list[LinkFile], Field(max_length=MOST_LINKS)] = []
    connections: Annotated[list[ConnectionFile], Field(max_length=MOST_CONNECTIONS)] = []
    faults: Faults = []
    """What goes wrong on purpose."""
    certificates: CertificatesFile = CertificatesFile()


def topology_schema() -> dict[str, Any]:
    """The JSON Schema of a topology file."""
    return TopologyFile.model_json_schema()
