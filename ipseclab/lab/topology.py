"""A topology file resolved: nodes with interfaces, links, connections, defaults filled in.

`load_topology` reads and checks; whatever is wrong is a `ConfigError` that names the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, ip_network
from pathlib import Path

import networkx as nx

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
from ipseclab.ike.redirect.settings import RedirectWhen
from ipseclab.ipsec.processing import Processing
from ipseclab.ipsec.spd import SpdSettings
from ipseclab.lab.access import access_plan, check_access, initiators_side
from ipseclab.lab.attack_plans import attack_plans, check_attacks
from ipseclab.lab.attacks.attack import Attack
from ipseclab.lab.certificate_plans import certificate_plans, order_authorities
from ipseclab.lab.checks import (
    Ends,
    check_connections,
    check_faults,
    check_structure,
    peers_by_node,
    resolve_ends,
)
from ipseclab.lab.faults.fault import Fault
from ipseclab.lab.impairment import ImpairmentConfig
from ipseclab.lab.library import TOPOLOGIES, find_file
from ipseclab.lab.model import (
    AuthorityPlan,
    CertificatePlan,
    Connection,
    EapPlan,
    Interface,
    IpAddress,
    IpNetwork,
    Link,
    Manual,
    NetworkSelector,
    Node,
    NodeKind,
    PpkPlan,
    RedirectPlan,
    Stack,
    Start,
)
from ipseclab.lab.nat import NatBehaviour, NatConfig
from ipseclab.lab.repeat import expand, of_templates
from ipseclab.lab.routes import Route, Routing
from ipseclab.lab.schema import TopologyFile, topology_schema
from ipseclab.lab.schema_connection import (
    ConnectionFile,
    EapFile,
    IkeLifetimeFile,
    PpkFile,
    PpkKeyFile,
)
from ipseclab.lab.schema_faults import FaultFile
from ipseclab.lab.schema_network import (
    GatewayFile,
    HostFile,
    ImpairmentFile,
    LinkFile,
    NatFile,
    NodeFile,
)
from ipseclab.lab.secret_text import secret_octets
from ipseclab.lab.yaml_source import YamlSource, check, parse_yaml, read_yaml
from ipseclab.registry import PayloadType

__all__ = [
    "Connection",
    "Interface",
    "Link",
    "Node",
    "NodeKind",
    "Stack",
    "Start",
    "Topology",
    "load_topology",
    "parse_topology",
    "topology_schema",
]

TICKET_LIFETIME = 3600.0
"""Seconds for which a ticket resumes an IKE_SA."""
MAC_PREFIX = "02:1b"
"""Locally administered (IEEE 802), then this lab's own."""

_TCP_USES = {"tcp": TcpUse.ALWAYS, "auto-tcp": TcpUse.FALLBACK}
_MODES = {"tunnel": Mode.TUNNEL, "transport": Mode.TRANSPORT, "none": None}


@dataclass(frozen=True, slots=True)
class Topology:
    """A whole lab. `nodes` in the file's order, each under its name."""

    name: str
    description: str
    nodes: Mapping[str, Node]
    links: tuple[Link, ...]
    connections: tuple[Connection, ...]
    faults: tuple[Fault, ...]
    attacks: tuple[Attack, ...]
    authorities: tuple[AuthorityPlan, ...]
    """Each behind its issuer."""
    certificates: Mapping[str, CertificatePlan]
    """By node, those that the connections need."""
    routing: Routing = field(compare=False, repr=False)
    by_end: Mapping[str, tuple[Connection, ...]] = field(compare=False, repr=False)
    """The connections that end at each node."""
    link_names: Mapping[str, Link] = field(compare=False, repr=False)
    source: YamlSource = field(compare=False, repr=False)

    @property
    def graph(self) -> nx.Graph:
        """The undirected graph: nodes carry `node`, edges `link`."""
        return self.routing.graph

    def link(self, name: str) -> Link:
        """The link of that name. Raises KeyError."""
        return self.link_names[name]

    def connection(self, name: str) -> Connection:
        """The connection of that name. Raises KeyError."""
        return {connection.name: connection for connection in self.connections}[name]

    def connections_of(self, node: str) -> tuple[Connection, ...]:
        """The connections that end at that node, those without IPsec too."""
        return self.by_end.get(node, ())

    def of_kind(self, kind: NodeKind) -> tuple[Node, ...]:
        """The nodes of that kind."""
        return tuple(node for node in self.nodes.values() if node.kind is kind)

    def with_stack(self, stack: Stack) -> tuple[Node, ...]:
        """The nodes that run that stack."""
        return tuple(node for node in self.nodes.values() if node.stack is stack)

    def certificate_of(self, node: str) -> CertificatePlan:
        """What the certificate or raw key of that node is like. Raises KeyError."""
        return self.certificates[node]

    def routes(self, node: str) -> tuple[Route, ...]:
        """The routing table of a node, without its own subnets."""
        return self.routing.routes(node)

    def owner(self, address: IpAddress) -> Node | None:
        """The node that has that address; a NAT also has those of its pool."""
        for node in self.nodes.values():
            if address in node.pool or any(own.address == address for own in node.interfaces):
                return node
        return None

    def with_overrides(self, overrides: Mapping[str, object]) -> Topology:
        """The topology with other values under dotted keys such as `links.wan.loss`, checked again.

        An item of a list goes by its index or its name. Raises ConfigError, naming the override.
        """
        source = self.source
        for key in sorted(overrides, key=lambda key: not of_templates(key)):
            source = source if of_templates(key) else expand(source)
            source = source.with_override(key, overrides[key])
        return resolve(source)


def load_topology(path_or_name: str | Path) -> Topology:
    """The topology in a file, or of that name among ipseclab's own. Raises ConfigError."""
    source = read_yaml(find_file(path_or_name, TOPOLOGIES))
    refuse_other(source, "topology", "nodes", f"an experiment, use: ipseclab run {path_or_name}")
    return resolve(source)


def refuse_other(source: YamlSource, has: str, lacks: str, what: str) -> None:
    """Raise ConfigError for a file that has the one key and lacks the other: it is something else,
    and none of its keys would be known."""
    if has in source.data and lacks not in source.data:
        raise source.error((has,), f"this looks like {what}")


def parse_topology(text: str, file: str = "<text>") -> Topology:
    """The topology that `text` holds. Raises ConfigError."""
    return resolve(parse_yaml(text, file))


def resolve(source: YamlSource) -> Topology:
    """The topology of a YAML source. Raises ConfigError."""
    written, source = source, expand(source)
    file = check(TopologyFile, source)
    check_structure(file, source)
    check_access(file.connections, file.links, source)
    links = _links(file)
    nodes = _nodes(file, links)
    routing = Routing(nodes, links, _pools(file))
    check_connections(file, nodes, routing, source)
    peers = peers_by_node(file)
    connections = tuple(
        _connection(entry, index, peers, nodes, routing, source)
        for index, entry in enumerate(file.connections)
    )
    check_faults(file.faults, nodes, source)
    faults = tuple(_fault(entry, index) for index, entry in enumerate(file.faults))
    check_attacks(file.attacks, nodes, source)
    authorities = order_authorities(file, source)
    by_end: dict[str, tuple[Connection, ...]] = {}
    for item in connections:
        for end in dict.fromkeys(item.ends):
            by_end[end] = (*by_end.get(end, ()), item)
    return Topology(
        name=file.name if file.name is not None else Path(source.file).stem,
        description=file.description,
        nodes=nodes,
        links=links,
        connections=connections,
        faults=faults,
        attacks=attack_plans(file.attacks, nodes),
        authorities=authorities,
        certificates=certificate_plans(file, authorities, connections, source),
        routing=routing,
        by_end=by_end,
        link_names={link.name: link for link in links},
        source=written,
    )


def _fault(entry: FaultFile, index: int) -> Fault:
    numbers = (entry.group, entry.version, entry.bits)
    kind = PayloadType[entry.payload] if entry.payload is not None else entry.type
    return Fault(
        name=entry.name if entry.name is not None else f"{entry.do}-{index}",
        node=entry.node,
        do=entry.do,
        direction=entry.direction,
        traffic=entry.traffic,
        exchange=entry.exchange,
        kind=entry.kind,
        nth=tuple(entry.nth) if entry.nth is not None else (),
        delay=entry.delay if entry.delay is not None else 0.0,
        after=entry.after if entry.after is not None else 1,
        octet=entry.octet,
        octets=entry.octets if entry.octets is not None else 0,
        payload=int(kind) if kind is not None else None,
        notify=entry.notify,
        data=entry.data if entry.data is not None else b"",
        value=next((number for number in numbers if number is not None), None),
    )


def _redirect(
    entry: ConnectionFile, nodes: Mapping[str, Node], routing: Routing
) -> RedirectPlan | None:
    file = entry.redirect
    if file is None:
        return None
    way = routing.path(entry.initiator, file.to)
    assert way is not None, f"{entry.connection_name}: no way to {file.to} of a checked topology"
    address = nodes[file.to].interface_to(way[-2]).address
    return RedirectPlan(str(address), RedirectWhen(file.when), file.above, file.name)


def _processing(entry: ConnectionFile) -> Processing:
    found = entry.processing.processing()
    if entry.iptfs is None:
        return found
    return replace(found, constant_rate=entry.iptfs.constant_rate())


def _mobike(entry: ConnectionFile) -> Mobike | None:
    file = entry.mobike
    if file is None:
        return None
    allowed = tuple(str(network) for network in file.allowed)
    return Mobike(allowed=allowed, return_routability=file.return_routability, nats=file.nats)


def _pools(file: TopologyFile) -> dict[str, tuple[IpNetwork, ...]]:
    """Where the addresses of the pools are: with the gateways that give them."""
    pools: dict[str, tuple[IpNetwork, ...]] = {}
    for entry in file.connections:
        own = (network for network in entry.pool if network.version == 4)
        known = pools.get(entry.responder, ())
        pools[entry.responder] = tuple(dict.fromkeys((*known, *own)))
    return pools


def _links(file: TopologyFile) -> tuple[Link, ...]:
    used = dict.fromkeys(file.nodes, 0)
    links = []
    for index, entry in enumerate(file.links):
        numbers = []
        for end in entry.ends:
            numbers.append(used[end])
            used[end] += 1
        links.append(_link(entry, index, numbers))
    return tuple(links)


def _link(entry: LinkFile, index: int, numbers: list[int]) -> Link:
    name = entry.link_name
    macs = [f"{MAC_PREFIX}:{index >> 8:02x}:{index & 0xFF:02x}:00:{end:02x}" for end in (1, 2)]
    ends = tuple(
        Interface(
            name=f"{entry.ends[own]}-eth{numbers[own]}",
            node=entry.ends[own],
            link=name,
            peer=entry.ends[1 - own],
            address=entry.addresses[own].ip,
            network=entry.addresses[own].network,
            mac=macs[own],
            peer_address=entry.addresses[1 - own].ip,
            peer_mac=macs[1 - own],
        )
        for own in (0, 1)
    )
    return Link(
        name,
        (ends[0], ends[1]),
        _impairment(entry, entry.forward),
        _impairment(entry, entry.backward),
        entry.hidden_mtu,
    )


def _impairment(both: LinkFile, one: ImpairmentFile | None) -> ImpairmentConfig:
    """What holds for both directions, with what the file says otherwise for one of them."""
    keys = set(ImpairmentFile.model_fields)
    settings = {key: getattr(both, key) for key in keys}
    if one is not None:
        settings |= {key: getattr(one, key) for key in one.model_fields_set}
    if settings["loss"] is not None:
        settings["loss"] = settings["loss"].model()
    return ImpairmentConfig(**settings)


def _nodes(file: TopologyFile, links: tuple[Link, ...]) -> dict[str, Node]:
    interfaces: dict[str, list[Interface]] = {name: [] for name in file.nodes}
    for link in links:
        for end in link.ends:
            interfaces[end.node].append(end)
    ends = {end for entry in file.connections for end in (entry.initiator, entry.responder)}
    return {
        name: _node(name, entry, tuple(interfaces[name]), name in ends)
        for name, entry in file.nodes.items()
    }


def _node(
    name: str, entry: NodeFile, interfaces: tuple[Interface, ...], ends_connection: bool
) -> Node:
    kind = NodeKind(entry.kind)
    if isinstance(entry, NatFile):
        outside = next(item for item in interfaces if item.link == entry.outside)
        assert isinstance(outside.address, IPv4Address), "the checks have no NAT of IPv6"
        pool = (outside.address, *entry.pool)
        return Node(name, kind, Stack.NONE, interfaces, _nat(entry), outside.name, pool)
    stack = getattr(entry, "stack", "none")
    if stack is None:
        stack = "ipseclab" if ends_connection else "none"
    limits = entry.limits if isinstance(entry, HostFile | GatewayFile) else None
    spd = entry.spd if isinstance(entry, HostFile | GatewayFile) else None
    return Node(
        name,
        kind,
        Stack(stack),
        interfaces,
        ike_limits=limits.limits() if limits is not None else IkeLimits(),
        fast_path=getattr(entry, "fast_path", None) is not False,
        spd=spd.settings() if spd is not None else SpdSettings(),
    )


def _nat(entry: NatFile) -> NatConfig:
    return NatConfig(
        mapping=NatBehaviour(entry.mapping),
        filtering=NatBehaviour(entry.filtering),
        port_preservation=entry.port_preservation,
        hairpinning=entry.hairpinning,
        udp_timeout=entry.udp_timeout,
        inbound_refresh=entry.inbound_refresh,
        tcp_timeout=entry.tcp_timeout,
        tcp_transitory_timeout=entry.tcp_transitory_timeout,
        icmp_timeout=entry.icmp_timeout,
        first_port=entry.ports[0],
        last_port=entry.ports[1],
        mappings=entry.mappings,
        esp_passthrough=entry.esp_passthrough,
        ah_passthrough=entry.ah_passthrough,
    )


def _connection(
    entry: ConnectionFile,
    index: int,
    peers: Mapping[str, list[str]],
    nodes: Mapping[str, Node],
    routing: Routing,
    source: YamlSource,
) -> Connection:
    ends = resolve_ends(entry, index, nodes, routing, source)
    psk = entry.psk if entry.psk is not None else ""
    local_ts, remote_ts = _selectors(entry, index, ends, peers, routing, source)
    return Connection(
        name=entry.connection_name,
        initiator=entry.initiator,
        responder=entry.responder,
        mode=_MODES[entry.mode],
        narrowing=Narrowing(entry.narrowing),
        childless=Childless(entry.childless),
        resources=entry.resources,
        initiator_address=ends.initiator.address,
        responder_address=ends.responder.address,
        seen_address=_seen_address(ends, nodes),
        nats=ends.nats,
        rounds=entry.rounds,
        psk=psk,
        responder_psk=entry.responder_psk if entry.responder_psk is not None else psk,
        ike=tuple(entry.ike),
        child=tuple(entry.child),
        local_ts=local_ts,
        remote_ts=remote_ts,
        ike_lifetime=_lifetime(entry.lifetimes.ike),
        child_lifetime=_lifetime(entry.lifetimes.child),
        retransmission=Retransmission(**entry.retransmission.model_dump()),
        fragmentation=entry.fragmentation.enabled,
        fragment_size=entry.fragmentation.size,
        window=entry.window,
        liveness=entry.liveness,
        keepalive=entry.keepalive,
        force_encapsulation=entry.encapsulation == "forced",
        nat_traversal=entry.encapsulation != "never",
        mobike=_mobike(entry),
        tcp=_TCP_USES.get(entry.encapsulation, TcpUse.NEVER),
        redirect=_redirect(entry, nodes, routing),
        start=Start(entry.start),
        protocol=entry.protocol_id,
        replay_window=entry.replay_window,
        processing=_processing(entry),
        ipcomp=entry.ipcomp,
        aggfrag=Aggfrag(entry.iptfs.fragments) if entry.iptfs is not None else None,
        manual=_manual(entry),
        eap=_eap(entry.eap),
        ppk=_ppk(entry.ppk),
        access=access_plan(entry),
        resumption=TICKET_LIFETIME if entry.resumption else None,
        crash_detection=entry.crash_detection,
        reauthentication=entry.reauthentication,
        break_before_make=entry.break_before_make,
        revocation=entry.revocation,
        signatures=tuple(entry.signatures),
    )


def _seen_address(ends: Ends, nodes: Mapping[str, Node]) -> IpAddress:
    """Where the responder sees the initiator: behind NATs, at the last one's address."""
    return nodes[ends.nats[-1]].pool[0] if ends.nats else ends.initiator.address


def _check_same_ip(
    local: tuple[NetworkSelector, ...],
    remote: tuple[NetworkSelector, ...],
    index: int,
    source: YamlSource,
) -> None:
    """See that some packet can go from one side to the other. Raises ConfigError."""
    if not {one.network.version for one in local} & {one.network.version for one in remote}:
        sides = f"{local[0]} on one side and {remote[0]} on the other"
        problem = f"{sides}, expected the same IP on both"
        raise source.error(("connections", index), problem)


def _eap(entry: EapFile) -> EapPlan:
    password = entry.password if entry.password is not None else ""
    return EapPlan(entry.identity, password, entry.ask_identity, tuple(entry.versions))


def _ppk(entry: PpkFile | None) -> PpkPlan | None:
    if entry is None:
        return None
    own, peer = _keys_of(entry.initiator), _keys_of(entry.responder)
    if entry.id is not None and entry.key is not None:
        own = peer = (Ppk(entry.id.encode(), secret_octets(entry.key)),)
    return PpkPlan(own, peer, entry.required, PpkUse(entry.use), entry.rekeys)


def _keys_of(entries: Iterable[PpkKeyFile]) -> tuple[Ppk, ...]:
    return tuple(Ppk(entry.id.encode(), secret_octets(entry.key)) for entry in entries)


def _selectors(
    entry: ConnectionFile,
    index: int,
    ends: Ends,
    peers: Mapping[str, list[str]],
    routing: Routing,
    source: YamlSource,
) -> tuple[tuple[NetworkSelector, ...], tuple[NetworkSelector, ...]]:
    """The initiator's side's, and the responder's. Raises ConfigError where no packet can go from
    one to the other."""
    local = _selectors_of(entry, ends.initiator, entry.local_ts, peers, routing)
    remote = _selectors_of(entry, ends.responder, entry.remote_ts, peers, routing)
    _check_same_ip(local, remote, index, source)
    return local, remote


def _selectors_of(
    entry: ConnectionFile,
    own: Interface,
    stated: list[NetworkSelector] | None,
    peers: Mapping[str, list[str]],
    routing: Routing,
) -> tuple[NetworkSelector, ...]:
    """The networks stated, or those behind the node, or its own address."""
    if stated is not None:
        return tuple(stated)
    plan = access_plan(entry)
    if plan is not None and plan.asks and own.node == entry.initiator:
        return initiators_side(plan)
    networks: tuple[IpNetwork, ...] = ()
    if entry.mode != "transport":
        networks = routing.networks_behind(own.node, peers[own.node])
    return tuple(NetworkSelector(one) for one in networks or (ip_network(own.address),))


def _manual(entry: ConnectionFile) -> Manual | None:
    if entry.manual is None:
        return None
    first, second = (spi.to_bytes(4, "big") for spi in entry.manual.spis)
    keys = [bytes.fromhex(key) for key in entry.manual.keys]
    return Manual((first, second), (keys[0], keys[1]))


def _lifetime(entry: IkeLifetimeFile) -> Lifetime:
    return Lifetime(**entry.model_dump())
