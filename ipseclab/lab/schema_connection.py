"""What a topology file says of connections and of the certificates that they need."""

from __future__ import annotations

from ipaddress import (
    IPv4Network,
    IPv6Network,
)
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    BeforeValidator,
    Field,
    WithJsonSchema,
    model_validator,
)

from ipseclab.ike.window import MAX_WINDOW
from ipseclab.ipsec.processing import (
    DSCP_LAST,
    LARGEST_TFC,
    SMALLEST_CONSTANT_SIZE,
    ConstantRate,
    DontFragment,
    Fragmentation,
    Processing,
)
from ipseclab.ipsec.replay import REPLAY_WINDOW_MAX, REPLAY_WINDOW_MIN
from ipseclab.lab.model import AuthKind, Round
from ipseclab.lab.schema_types import (
    LARGEST_MTU,
    LOWEST_SPI,
    MOST_AUTHORITIES,
    MOST_DAYS,
    MOST_ROUNDS,
    ONE_OR_LIST,
    SIGNATURE,
    SMALLEST_MTU,
    AhProposals,
    Domain,
    EspProposals,
    IdPair,
    IkeProposals,
    IpText,
    Name,
    NodeName,
    Octets,
    PoolNetwork,
    Probability,
    Rate,
    Seconds,
    Secret,
    Selectors,
    Strict,
    a_pair_of,
    both_in_lists,
)
from ipseclab.registry import ProtocolId


class IkeLifetimeFile(Strict):
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


class LifetimesFile(Strict):
    """Lifetimes of the IKE_SA and its CHILD_SAs."""

    ike: IkeLifetimeFile = IkeLifetimeFile(seconds=14400.0)
    child: LifetimeFile = LifetimeFile(seconds=3600.0)


class RetransmissionFile(Strict):
    """Request i is sent again `timeout * base**i` after its last sending, `tries` times."""

    timeout: Seconds = 4.0
    base: Annotated[float, Field(ge=1.0)] = 1.8
    tries: Annotated[int, Field(ge=0, le=100)] = 5
    jitter: Probability = 0.0
    limit: Seconds | None = None


class FragmentationFile(Strict):
    """IKE messages above `size` octets of IPv4 go in fragments, if both ends allow it."""

    enabled: bool = True
    size: Annotated[int, Field(ge=576, le=65535)] = 1280


KeyKind = Literal[
    "rsa-1024",
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


class _IssuedFile(Strict):
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
    trusted: bool = True
    """Of a root: false for one that no node trusts, so that what it issues is refused."""


class CertificateFile(_IssuedFile):
    """The certificate, or the raw key, of a node. By default it is of the last authority."""

    names: Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=16)] | None = None
    """Alternative names; by default the node's identities in its connections."""
    usage: Literal["ipsec", "server", "client", "any", "code-signing"] | None = "ipsec"
    """Extended key usage; null for none."""
    signs: bool = True
    """False: key usage without digitalSignature."""
    revoked_after: Seconds | None = None
    """From so many seconds after the start on a new list of its authority has it."""


class CertificatesFile(Strict):
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
_WORD = {"enum": list(get_args(Auth)), "type": "string"}
AuthRounds = Annotated[list[Auth], Field(min_length=1, max_length=MOST_ROUNDS)]
AuthPair = Annotated[
    list[AuthRounds],
    Field(min_length=2, max_length=2),
    BeforeValidator(both_in_lists),
    a_pair_of(_WORD, _WORD),
]


class ProcessingFile(Strict):
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


class IptfsFile(Strict):
    """IP traffic flow security: packets of one size at one rate (RFC 9347)."""

    size: Annotated[int, Field(ge=SMALLEST_CONSTANT_SIZE, le=LARGEST_TFC)]
    """Octets of an outer packet."""
    rate: Rate
    """Of all outer packets together, each way."""
    fragments: bool = True
    """false: each end takes only packets that are whole in the one that carries them."""

    def constant_rate(self) -> ConstantRate:
        """The rate that it describes."""
        return ConstantRate(self.size, self.rate)


class EapFile(Strict):
    """The initiator's EAP: a user with a password, or TLS."""

    identity: Annotated[str, Field(min_length=1, max_length=253)] | None = None
    """The user; by default the initiator's identity."""
    password: Annotated[str, Field(min_length=1)] | None = None
    ask_identity: bool = False
    """Whether the responder asks for an EAP-Identity."""
    versions: Annotated[list[Literal["1.2", "1.3"]], Field(min_length=1)] = ["1.2", "1.3"]
    """Of TLS."""


class PpkKeyFile(Strict):
    """A post-quantum preshared key."""

    id: Annotated[str, Field(min_length=1)]
    key: Secret


class PpkFile(Strict):
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


class ManualFile(Strict):
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


class MobikeFile(Strict):
    """How the ends of a connection may change their addresses; `mobike: true` for all defaults."""

    return_routability: bool = True
    """Whether ESP goes to a new address only after that has answered."""
    nats: bool = True
    """false: no NAT traversal, and a NAT on the way is taken for an attack."""
    allowed: Annotated[list[IPv4Network | IPv6Network], Field(max_length=64)] = []
    """Networks in which the initiator may be; by default anywhere."""


class RedirectFile(Strict):
    """To which other gateway the responder sends its client (RFC 5685)."""

    to: NodeName
    """A node that is the responder of another connection of the same initiator."""
    when: Literal["init", "auth", "asked"] = "asked"
    """In answer to IKE_SA_INIT, when the client is authenticated, or by the action `redirect`."""
    above: Annotated[int, Field(ge=0)] = 0
    """IKE_SAs that the responder keeps before it sends more of them away."""
    name: Domain | None = None
    """By this name, which the client knows the address of; by default by the address."""


def _mobike(value: object) -> object:
    """true: as it comes; false: not at all."""
    if isinstance(value, bool):
        return MobikeFile() if value else None
    return value


class ConnectionFile(Strict):
    """A connection between two nodes: who starts, how it is authenticated, what it protects."""

    name: Name | None = None
    """By default the two ends: gw1-gw2."""
    initiator: NodeName
    responder: NodeName
    mode: Literal["tunnel", "transport", "none"] = "tunnel"
    """none: no IPsec, the same traffic in the clear."""
    ike: IkeProposals = ["aes128gcm16-prfsha256-x25519"]
    protocol: Literal["esp", "ah"] = "esp"
    """What protects packets: ESP (RFC 4303), or AH (RFC 4302), which hides nothing."""
    esp: EspProposals = ["aes128gcm16-x25519"]
    """What is proposed with `protocol: esp`."""
    ah: AhProposals = ["sha256-x25519"]
    """What is proposed with `protocol: ah`."""
    allow_weak: bool = False
    """Whether `ike`, `esp` and `ah` may name what RFC 8247 advises against, as modp1024."""
    auth: AuthPair = [["psk"], ["psk"]]
    """How the initiator and the responder prove who they are: one word for both, or for each end a
    word or a list of them, which is several rounds (RFC 4739)."""
    psk: Secret | None = None
    """The pre-shared key: a text, or 0x and hexadecimal."""
    responder_psk: Secret | None = None
    """What the responder holds in its place, where it is to be the wrong one."""
    eap: EapFile = EapFile()
    ppk: PpkFile | None = None
    ids: IdPair | None = None
    """Identities of initiator and responder, or lists of them by round; by default the nodes'
    names."""
    revocation: Literal["none", "crl", "ocsp"] = "none"
    """What must say that a peer's certificate is good."""
    signatures: Annotated[list[Annotated[str, SIGNATURE]], ONE_OR_LIST] = []
    """Signature schemes, the best first; by default what fits the key."""
    local_ts: Selectors | None = None
    """The initiator's networks; by default those behind it, or its own address."""
    remote_ts: Selectors | None = None
    """The responder's networks; by default those behind it, or its own address."""
    pool: Annotated[list[PoolNetwork], ONE_OR_LIST] = []
    """Addresses that the responder gives the initiator (RFC 7296 section 2.19)."""
    virtual_address: bool = True
    """With a pool: whether the initiator asks for one; it then speaks for that address alone."""
    dns: Annotated[list[IpText], ONE_OR_LIST] = []
    """Name servers that the initiator is told of."""
    domains: Annotated[list[Domain], ONE_OR_LIST] = []
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
    encapsulation: Literal["auto", "forced", "never", "tcp", "auto-tcp"] = "auto"
    """ESP in UDP where there is a NAT, or always, or never; IKE and ESP in TCP, or
    where nothing comes back in UDP (RFC 9329)."""
    mobike: Annotated[
        MobikeFile | None, BeforeValidator(_mobike), WithJsonSchema({"type": ["boolean", "object"]})
    ] = None
    """Whether addresses may change (RFC 4555); the ends then have all their unprotected ones."""
    redirect: RedirectFile | None = None
    """Where the responder sends the initiator; initiators follow (RFC 5685)."""
    replay_window: Annotated[int, Field(ge=REPLAY_WINDOW_MIN, le=REPLAY_WINDOW_MAX)] = 64
    """Packets."""
    processing: ProcessingFile = ProcessingFile()
    ipcomp: bool = False
    """Whether packets are compressed (RFC 3173), where that makes them shorter."""
    iptfs: IptfsFile | None = None
    """Whether packets of one size leave at one rate, whatever there is to send (RFC 9347)."""
    manual: ManualFile | None = None
    """SPIs and keys by hand, in place of IKE."""
    start: Literal["at-once", "on-demand"] = "at-once"

    @property
    def connection_name(self) -> str:
        """Its name, or the two ends."""
        return self.name if self.name is not None else f"{self.initiator}-{self.responder}"

    @property
    def names(self) -> list[list[str]]:
        """The identities of both ends: one, or one a round."""
        return self.ids if self.ids is not None else [[self.initiator], [self.responder]]

    @property
    def rounds(self) -> tuple[tuple[Round, ...], tuple[Round, ...]]:
        """How both ends authenticate, and as whom."""
        first, second = (
            tuple(
                Round(AuthKind(word), names[min(number, len(names) - 1)])
                for number, word in enumerate(words)
            )
            for words, names in zip(self.auth, self.names, strict=True)
        )
        return first, second

    @property
    def child(self) -> list[str]:
        """What is proposed for CHILD_SAs: of `esp` or `ah`, as `protocol` says."""
        return self.ah if self.protocol == "ah" else self.esp

    @property
    def protocol_id(self) -> ProtocolId:
        """`protocol` as IKE names it."""
        return ProtocolId[self.protocol.upper()]
