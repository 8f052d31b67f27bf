"""The parts of a resolved topology: nodes, interfaces, links, connections, as frozen values."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Literal, Self

from ipseclab.ike.config import (
    Aggfrag,
    Childless,
    IkeLimits,
    Lifetime,
    Mode,
    Narrowing,
    Ppk,
    PpkUse,
    Retransmission,
    TcpUse,
)
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.ike.proposals import parse_child_proposal
from ipseclab.ike.redirect.settings import RedirectWhen
from ipseclab.ipsec.processing import PLAIN, Processing
from ipseclab.ipsec.spd import SpdSettings
from ipseclab.lab.impairment import ImpairmentConfig
from ipseclab.lab.nat import NatConfig
from ipseclab.registry import IpProtocol, ProtocolId
from ipseclab.wire.proposal import Proposal
from ipseclab.wire.selector import ANY_PORTS, TrafficSelector

IpAddress = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network

Direction = Literal["forward", "backward"]
FORWARD: Direction = "forward"
BACKWARD: Direction = "backward"
DIRECTIONS = (FORWARD, BACKWARD)


class NodeKind(Enum):
    """What a node is."""

    HOST = "host"
    GATEWAY = "gateway"
    ROUTER = "router"
    NAT = "nat"
    ATTACKER = "attacker"
    """In the path as a router is, and up to no good."""


class Stack(Enum):
    """Whose IPsec a node runs."""

    IPSECLAB = "ipseclab"
    STRONGSWAN = "strongswan"
    NONE = "none"


class Start(Enum):
    """When a connection's initiator begins."""

    AT_ONCE = "at-once"
    ON_DEMAND = "on-demand"


@dataclass(frozen=True, slots=True)
class Interface:
    """One end of a link. `name` is Mininet's way of naming: gw1-eth0."""

    name: str
    node: str
    link: str
    peer: str
    """The node at the link's other end."""
    address: IpAddress
    network: IpNetwork
    mac: str
    peer_address: IpAddress
    peer_mac: str

    @property
    def version(self) -> int:
        """Of IP: a link has one."""
        return self.address.version


@dataclass(frozen=True, slots=True)
class Node:
    """A node with its interfaces in the order of the file's links."""

    name: str
    kind: NodeKind
    stack: Stack
    interfaces: tuple[Interface, ...]
    nat: NatConfig | None = None
    outside: str | None = None
    """Of a NAT: the name of the interface on its outside link."""
    pool: tuple[IPv4Address, ...] = ()
    """Of a NAT: its outside addresses, the interface's own first."""
    ike_limits: IkeLimits = field(default_factory=IkeLimits)
    """Of a node with our stack."""
    fast_path: bool = True
    """Of a node with our stack: whether it may move packets in trains, in a world with a kernel."""
    spd: SpdSettings = field(default_factory=SpdSettings)
    """Of a node with our stack."""

    @property
    def forwards(self) -> bool:
        """True for a node that passes on packets of others."""
        return self.kind is not NodeKind.HOST

    @property
    def address(self) -> IpAddress:
        """The address of its first interface, where traffic to it goes."""
        return self.interfaces[0].address

    def interface_on(self, link: str) -> Interface:
        """The interface on that link. Raises KeyError."""
        for interface in self.interfaces:
            if interface.link == link:
                return interface
        raise KeyError(f"{self.name} is not on link {link}")

    def interface_to(self, peer: str) -> Interface:
        """The interface on the link to that neighbour. Raises KeyError."""
        for interface in self.interfaces:
            if interface.peer == peer:
                return interface
        raise KeyError(f"{self.name} has no link to {peer}")


@dataclass(frozen=True, slots=True)
class Link:
    """A link; `forward` is what happens to packets from the first end to the second."""

    name: str
    ends: tuple[Interface, Interface]
    forward: ImpairmentConfig
    backward: ImpairmentConfig
    hidden_mtu: bool = False
    """Whether nobody is told its MTU beforehand."""

    def direction_from(self, node: str) -> Direction:
        """The direction in which `node` sends. Raises KeyError."""
        for interface, direction in zip(self.ends, DIRECTIONS, strict=True):
            if interface.node == node:
                return direction
        raise KeyError(f"{node} is not on link {self.name}")

    def impairment(self, direction: Direction) -> ImpairmentConfig:
        """What happens to packets in that direction."""
        return self.forward if direction == FORWARD else self.backward


class AuthKind(Enum):
    """How an end of a connection proves who it is."""

    PSK = "psk"
    CERTIFICATE = "certificate"
    RAW_KEY = "raw-key"
    ANONYMOUS = "anonymous"
    EAP_MSCHAPV2 = "eap-mschapv2"
    EAP_MD5 = "eap-md5"
    EAP_TLS = "eap-tls"
    EAP_ONLY = "eap-only"
    """A responder, by the initiator's EAP method alone (RFC 5998)."""

    @property
    def by_password(self) -> bool:
        """True for the EAP methods that want one."""
        return self in (AuthKind.EAP_MSCHAPV2, AuthKind.EAP_MD5)

    @property
    def by_eap(self) -> bool:
        """True for an initiator's EAP methods."""
        return self.by_password or self is AuthKind.EAP_TLS


@dataclass(frozen=True, slots=True)
class Round:
    """One authentication of an end: how, and as whom. RFC 4739 has several of an end."""

    kind: AuthKind
    identity: str


@dataclass(frozen=True, slots=True)
class EapPlan:
    """What an initiator's EAP method needs beside certificates."""

    identity: str | None = None
    """The user; None: the identity of the round."""
    password: str = field(default="", repr=False)
    ask_identity: bool = False
    versions: tuple[str, ...] = ("1.2", "1.3")


@dataclass(frozen=True, slots=True)
class AccessPlan:
    """What a responder gives its initiator: an address of `pools`, and how to find names. `asks`:
    whether the initiator wants one."""

    pools: tuple[str, ...]
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    asks: bool = True


@dataclass(frozen=True, slots=True)
class RedirectPlan:
    """To which gateway a responder sends its initiator (RFC 5685)."""

    address: str
    when: RedirectWhen
    above: int = 0
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PpkPlan:
    """Post-quantum preshared keys of a connection (RFC 8784, RFC 9867)."""

    initiator: tuple[Ppk, ...]
    responder: tuple[Ppk, ...]
    required: bool = False
    use: PpkUse = PpkUse.AUTH
    rekeys: bool = False


@dataclass(frozen=True, slots=True)
class AuthorityPlan:
    """A certification authority that the lab makes; without an `issuer` a root."""

    name: str
    key: str
    issuer: str
    valid: tuple[float, float]
    """First and last day, from the start of the run."""
    revoked: bool
    path_length: int | None
    trusted: bool = True
    """Of a root: whether the nodes trust it."""


@dataclass(frozen=True, slots=True)
class CertificatePlan:
    """What the certificate of a node says; a raw key is of that kind, too."""

    node: str
    key: str
    issuer: str
    names: tuple[str, ...]
    valid: tuple[float, float] = (-1.0, 365.0)
    revoked: bool = False
    usage: str | None = "ipsec"
    signs: bool = True
    revoked_after: float | None = None
    """Seconds after the start of the run."""


@dataclass(frozen=True, slots=True)
class NetworkSelector:
    """Part of a network's traffic: of one IP protocol (0: all) and of a range of ports.

    Written as strongSwan does: ``10.1.0.0/24``, ``10.1.0.0/24[tcp]``, ``10.1.0.0/24[udp/53]``,
    ``10.1.0.0/24[17/5000-5010]``, ``2001:db8:1::/64``.
    """

    network: IpNetwork
    protocol: int = 0
    ports: tuple[int, int] = ANY_PORTS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        match = _SELECTOR.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no selector")
        network = ip_network(match["network"])
        if match["protocol"] is None:
            return cls(network)
        first, last = match["first"], match["last"]
        ports = ANY_PORTS if first is None else (int(first), int(last or first))
        protocol = protocol_number(match["protocol"])
        with_ports = protocol in (IpProtocol.TCP, IpProtocol.UDP)
        if not (ports == ANY_PORTS or (with_ports and ports[0] <= ports[1] <= ANY_PORTS[1])):
            raise ValueError(f"{text!r} has no ports that protocol {protocol} could have")
        return cls(network, protocol, ports)

    @property
    def traffic_selector(self) -> TrafficSelector:
        """The same in IKE's form."""
        return TrafficSelector.of_network(str(self.network), self.protocol, self.ports)

    def __str__(self) -> str:
        return str(self.traffic_selector)


_SELECTOR = re.compile(
    r"(?P<network>[^\[\]]+)"
    r"(\[(?P<protocol>[a-z]+|[0-9]{1,3})(/(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?)?\])?"
)


def protocol_number(text: str) -> int:
    """An IP protocol by its name in any case or its number. Raises ValueError."""
    try:
        number = int(text) if text.isdecimal() else IpProtocol[text.upper()].value
    except KeyError:
        raise ValueError(f"{text!r} is no protocol") from None
    if not 0 < number < 256:
        raise ValueError(f"protocol {number}, expected 1 to 255")
    return number


@dataclass(frozen=True, slots=True)
class Manual:
    """SPIs and keys of a pair of SAs, initiator to responder first."""

    spis: tuple[bytes, bytes]
    keys: tuple[bytes, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection with everything that its two ends have to know, defaults filled in.

    `mode` None means no IPsec: the same traffic in the clear.
    """

    name: str
    initiator: str
    responder: str
    mode: Mode | None
    narrowing: Narrowing
    childless: Childless
    resources: int
    initiator_address: IpAddress
    responder_address: IpAddress
    seen_address: IpAddress
    """The initiator's address as the responder sees it: a NAT's where there is one between."""
    nats: tuple[str, ...]
    """The NATs on the way, from the initiator on."""
    rounds: tuple[tuple[Round, ...], tuple[Round, ...]]
    """Of initiator and responder: how each authenticates, in order; at least one."""
    psk: str
    responder_psk: str
    """The same, unless the two ends are not to agree."""
    ike: tuple[str, ...]
    child: tuple[str, ...]
    """What is proposed for CHILD_SAs, in the words of `protocol`."""
    local_ts: tuple[NetworkSelector, ...]
    """The initiator's side."""
    remote_ts: tuple[NetworkSelector, ...]
    """The responder's side."""
    ike_lifetime: Lifetime
    child_lifetime: Lifetime
    retransmission: Retransmission
    fragmentation: bool
    fragment_size: int
    window: int
    liveness: float | None
    keepalive: float | None
    force_encapsulation: bool
    mobike: Mobike | None
    """Without addresses: those are the nodes'."""
    start: Start
    protocol: ProtocolId = ProtocolId.ESP
    """Of its CHILD_SAs: ESP or AH."""
    nat_traversal: bool = True
    """Whether NATs are looked for; without, ESP goes in UDP for nobody."""
    tcp: TcpUse = TcpUse.NEVER
    redirect: RedirectPlan | None = None
    replay_window: int = 64
    processing: Processing = PLAIN
    ipcomp: bool = False
    aggfrag: Aggfrag | None = None
    """Its size and rate are `processing.constant_rate`."""
    manual: Manual | None = None
    """None: IKE makes the SAs."""
    revocation: str = "none"
    signatures: tuple[str, ...] = ()
    eap: EapPlan = EapPlan()
    ppk: PpkPlan | None = None
    access: AccessPlan | None = None
    resumption: float | None = None
    crash_detection: bool = False
    reauthentication: float | None = None
    break_before_make: bool = False

    @property
    def ids(self) -> tuple[str, str]:
        """Who initiator and responder are in their first rounds."""
        own, peer = self.rounds
        return own[0].identity, peer[0].identity

    def rounds_of(self, node: str) -> tuple[Round, ...]:
        """How that end proves who it is."""
        return self.rounds[0] if node == self.initiator else self.rounds[1]

    def certified_names(self, node: str) -> tuple[str, ...]:
        """The identities for which that end needs a certificate: to sign AUTH with, or in EAP-TLS,
        which is for both; none where it needs none."""
        kinds = (AuthKind.CERTIFICATE, AuthKind.EAP_TLS)
        names = [one.identity for one in self.rounds_of(node) if one.kind in kinds]
        if node == self.responder and any(one.kind is AuthKind.EAP_TLS for one in self.rounds[0]):
            names.append(self.ids[1])
        return tuple(dict.fromkeys(names))

    def raw_key_names(self, node: str) -> tuple[str, ...]:
        """The identities for which that end needs a raw key."""
        found = (one.identity for one in self.rounds_of(node) if one.kind is AuthKind.RAW_KEY)
        return tuple(found)

    @property
    def child_proposals(self) -> tuple[Proposal, ...]:
        """What is proposed for CHILD_SAs: all of ESP, or all of AH."""
        return tuple(parse_child_proposal(text, self.protocol) for text in self.child)

    @property
    def in_udp(self) -> bool:
        """Whether its ESP goes in UDP, once NATs have been looked for."""
        return self.force_encapsulation or (bool(self.nats) and self.nat_traversal)

    @property
    def ends(self) -> tuple[str, str]:
        """Initiator and responder."""
        return self.initiator, self.responder

    def psk_of(self, node: str) -> str:
        """The pre-shared key that this end holds."""
        return self.psk if node == self.initiator else self.responder_psk
