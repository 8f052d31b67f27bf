"""What makes a topology whole: names that exist, addresses that fit, ends that can meet.

`check_structure` looks at the file alone, `check_connections` at the connections once nodes and
ways are known. The first thing wrong is raised as a `ConfigError` at its key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_network
from itertools import pairwise
from typing import NamedTuple

import networkx as nx

from ipseclab.ike.proposals import parse_child_proposal, parse_ike_proposal, weak_words
from ipseclab.lab.auth_checks import check_rounds
from ipseclab.lab.manual import manual_suite
from ipseclab.lab.model import Interface, IpAddress, IpNetwork, Node, NodeKind, Stack
from ipseclab.lab.routes import Routing
from ipseclab.lab.schema import TopologyFile
from ipseclab.lab.schema_connection import ConnectionFile
from ipseclab.lab.schema_faults import FaultFile
from ipseclab.lab.schema_network import LinkFile, NatFile
from ipseclab.lab.yaml_source import Key, YamlSource, one_of

MOST_CHARON_JITTER = 0.2
LARGEST_PREFIXES = {4: 31, 6: 127}
"""RFC 3021, RFC 6164: a link of two needs no more."""
SMALLEST_IPV6_MTU = 1280
"""RFC 8200 section 5."""


def check_structure(file: TopologyFile, source: YamlSource) -> None:
    """Nodes, links and addresses. Raises ConfigError."""
    _unique_names(source, "links", [link.link_name for link in file.links])
    _unique_names(source, "connections", [item.connection_name for item in file.connections])
    for index, link in enumerate(file.links):
        _check_link(link, index, file, source)
    _check_pairs(file, source)
    _check_addresses(file, source)
    for name, node in file.nodes.items():
        if isinstance(node, NatFile):
            _check_nat(name, node, file, source)
    _check_joined(file, source)


def check_faults(
    faults: Sequence[FaultFile], nodes: Mapping[str, Node], source: YamlSource
) -> None:
    """Each fault is that of a gateway of ours. Raises ConfigError."""
    names = [fault.name if fault.name is not None else "" for fault in faults]
    for index, fault in enumerate(faults):
        path = ("faults", index, "node")
        if fault.node not in nodes:
            problem = f"{fault.node!r} is not a node, {one_of(list(nodes), fault.node)}"
            raise source.error(path, problem)
        if nodes[fault.node].stack is not Stack.IPSECLAB:
            problem = f"{fault.node!r} does not run ipseclab, expected a node that does"
            raise source.error(path, problem)
        if names[index] and names.index(names[index]) != index:
            problem = f"the name {names[index]!r} is that of an earlier fault, expected another"
            raise source.error(("faults", index, "name"), problem)


def _unique_names(source: YamlSource, table: str, names: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if name in first:
            problem = f"the name {name!r} is that of {table}[{first[name]}], expected another name"
            raise source.error((table, index, "name"), problem)
        first[name] = index


def _check_link(link: LinkFile, index: int, file: TopologyFile, source: YamlSource) -> None:
    for end, name in enumerate(link.ends):
        if name not in file.nodes:
            problem = f"{name!r} is not a node, {one_of(list(file.nodes), name)}"
            raise source.error(("links", index, "ends", end), problem)
    if link.ends[0] == link.ends[1]:
        problem = f"both ends are {link.ends[0]!r}, expected two nodes"
        raise source.error(("links", index, "ends", 1), problem)


def _check_pairs(file: TopologyFile, source: YamlSource) -> None:
    joined: dict[frozenset[str], str] = {}
    for index, link in enumerate(file.links):
        pair = frozenset(link.ends)
        if pair in joined:
            problem = f"{joined[pair]!r} joins these two already, expected one link a pair"
            raise source.error(("links", index, "ends"), problem)
        joined[pair] = link.link_name


def _check_addresses(file: TopologyFile, source: YamlSource) -> None:
    owner: dict[IpAddress, str] = {}
    networks = _Networks()
    for index, link in enumerate(file.links):
        path = ("links", index, "addresses")
        first, second = link.addresses
        for end, interface in enumerate(link.addresses):
            problem = _address_problem(interface)
            if interface.ip in owner:
                problem = f"{interface.ip} is {owner[interface.ip]}'s, expected each address once"
            if problem is not None:
                raise source.error((*path, end), problem)
            owner[interface.ip] = link.ends[end]
        _check_version(link, index, file, source)
        if first.network != second.network:
            problem = f"{second} is not in {first.network}, expected one subnet a link"
            raise source.error((*path, 1), problem)
        other = networks.overlapping(first.network)
        if other is not None:
            problem = f"{first.network} overlaps {other}, expected separate subnets"
            raise source.error((*path, 0), problem)
        networks.add(first.network, link.link_name)


def _check_version(link: LinkFile, index: int, file: TopologyFile, source: YamlSource) -> None:
    """What IPv6 asks of a link, and what there is for IPv4 alone."""
    if link.addresses[0].version == 4:
        return
    path = ("links", index)
    for key, one in (("forward", link.forward), ("backward", link.backward), ("mtu", link)):
        if one is not None and one.mtu < SMALLEST_IPV6_MTU:
            where = (*path, key) if key == "mtu" else (*path, key, "mtu")
            problem = (
                f"{one.mtu} on a link of IPv6, expected {SMALLEST_IPV6_MTU} or more (RFC 8200)"
            )
            raise source.error(where, problem)
    for name in link.ends:
        if file.nodes[name].kind in ("nat", "attacker"):
            kind = file.nodes[name].kind
            problem = f"IPv6 at {name}, expected IPv4: the lab's {kind} knows no other"
            raise source.error((*path, "addresses"), problem)


def _address_problem(interface: IPv4Interface | IPv6Interface) -> str | None:
    network, largest = interface.network, LARGEST_PREFIXES[interface.version]
    if network.prefixlen > largest:
        return f"{interface} has no room for two, expected /{largest} or shorter"
    # An IPv6 address of the link alone would need its interface named with it (RFC 4007).
    if isinstance(interface, IPv6Interface) and (
        interface.ip.is_link_local or interface.ip.is_multicast or interface.ip.scope_id
    ):
        return f"{interface.ip} is not usable, expected a global or unique local address"
    reserved: tuple[IpAddress, ...] = (network.network_address, network.broadcast_address)
    if network.version == 6:
        # RFC 4291 section 2.6.1: the routers' anycast address; there is no broadcast.
        reserved = reserved[:1]
    if network.prefixlen < largest and interface.ip in reserved:
        return f"{interface.ip} is not a host's, expected one inside {network}"
    return None


class _Networks:
    """The subnets so far, found by what they lie in: no look at each of thousands for each."""

    def __init__(self) -> None:
        self._inside: dict[IpNetwork, str] = {}
        """Each network that one of them is, or lies in, to words about that one."""
        self._own: dict[IpNetwork, str] = {}

    def add(self, network: IpNetwork, link: str) -> None:
        words = f"{network} of {link!r}"
        self._own[network] = words
        for length in range(network.prefixlen + 1):
            self._inside.setdefault(network.supernet(new_prefix=length), words)

    def overlapping(self, network: IpNetwork) -> str | None:
        """Words about one that lies in `network`, or that `network` lies in."""
        wider = (network.supernet(new_prefix=length) for length in range(network.prefixlen + 1))
        found = (self._own[item] for item in wider if item in self._own)
        return self._inside.get(network) or next(found, None)


def _check_nat(name: str, nat: NatFile, file: TopologyFile, source: YamlSource) -> None:
    own = {link.link_name: link for link in file.links if name in link.ends}
    if nat.outside not in own:
        problem = f"{nat.outside!r} is not a link of {name}, {one_of(list(own), nat.outside)}"
        raise source.error(("nodes", name, "outside"), problem)
    if len(own) < 2:
        raise source.error(
            ("nodes", name), "only an outside link, expected at least one inside link"
        )
    if nat.ports[0] > nat.ports[1]:
        problem = f"{nat.ports[0]} is above {nat.ports[1]}, expected the first port, then the last"
        raise source.error(("nodes", name, "ports"), problem)
    used = {address.ip for link in file.links for address in link.addresses}
    network = own[nat.outside].addresses[0].network
    for index, address in enumerate(nat.pool):
        path = ("nodes", name, "pool", index)
        if address not in network:
            raise source.error(path, f"{address} is not in {network}, expected the outside subnet")
        if address in used:
            raise source.error(path, f"{address} is an interface's, expected an address not in use")
        used.add(address)


def _check_joined(file: TopologyFile, source: YamlSource) -> None:
    graph = nx.Graph()
    graph.add_nodes_from(file.nodes)
    graph.add_edges_from(link.ends for link in file.links)
    first = next(iter(file.nodes))
    joined = nx.node_connected_component(graph, first)
    for name in file.nodes:
        if name not in joined:
            raise source.error(
                ("nodes", name), f"no way to {first}, expected links that join all nodes"
            )


class Ends(NamedTuple):
    """The outer interfaces of a connection, and the NATs on the way from the initiator."""

    initiator: Interface
    responder: Interface
    nats: tuple[str, ...]


def resolve_ends(
    entry: ConnectionFile,
    index: int,
    nodes: Mapping[str, Node],
    routing: Routing,
    source: YamlSource,
) -> Ends:
    """The ends of a connection. Raises ConfigError when there is no way to the responder."""
    way = routing.path(entry.initiator, entry.responder)
    if way is None:
        problem = (
            f"{entry.initiator} has no way in to {entry.responder}, {_barrier(entry, routing)}"
        )
        raise source.error(("connections", index, "responder"), problem)
    first, last = nodes[way[0]].interface_to(way[1]), nodes[way[-1]].interface_to(way[-2])
    for near, far in pairwise(way):
        if nodes[near].interface_to(far).version != first.version:
            problem = (
                f"{entry.initiator} begins on a link of IPv{first.version} and {near}-{far} has "
                "another IP, expected one all the way"
            )
            raise source.error(("connections", index, "responder"), problem)
    return Ends(
        first,
        last,
        tuple(name for name in way if nodes[name].kind is NodeKind.NAT),
    )


def _barrier(entry: ConnectionFile, routing: Routing) -> str:
    between = nx.shortest_path(routing.graph, entry.initiator, entry.responder)[1:-1]
    nats = [name for name in between if routing.graph.nodes[name]["node"].kind is NodeKind.NAT]
    hosts = [name for name in between if routing.graph.nodes[name]["node"].kind is NodeKind.HOST]
    if nats:
        return f"expected no NAT with its inside there ({nats[-1]})"
    return f"expected no host between ({', '.join(hosts)})"


def check_connections(
    file: TopologyFile, nodes: Mapping[str, Node], routing: Routing, source: YamlSource
) -> None:
    """Every connection by itself. Raises ConfigError."""
    peers = peers_by_node(file)
    for index, entry in enumerate(file.connections):
        path = ("connections", index)
        for key, name in (("initiator", entry.initiator), ("responder", entry.responder)):
            _check_end(name, (*path, key), nodes, source)
        if entry.initiator == entry.responder:
            problem = f"{entry.responder!r} is the initiator too, expected two nodes"
            raise source.error((*path, "responder"), problem)
        ends = resolve_ends(entry, index, nodes, routing, source)
        _check_weak(entry, path, source)
        if entry.manual is not None:
            _check_manual(entry, path, ends, nodes, source)
        elif entry.mode != "none" and entry.psk is None and any("psk" in e for e in entry.auth):
            raise source.error((*path, "psk"), "missing, expected the pre-shared key as a text")
        if entry.responder_psk is not None and entry.psk is None:
            problem = "another key than psk, which is missing, expected both"
            raise source.error((*path, "responder_psk"), problem)
        check_rounds(entry, path, source)
        if entry.protocol == "ah" and entry.mode != "none":
            _check_ah(entry, path, source)
        if entry.mobike is not None:
            _check_mobike(entry, path, ends, source)
        _check_packing(entry, path, source)
        if entry.redirect is not None:
            _check_redirect(file, index, nodes, source)
        if entry.encapsulation in ("tcp", "auto-tcp"):
            _check_tcp(entry, path, nodes, source)
            if ends.initiator.version != 4:
                problem = (
                    f"{entry.encapsulation!r} over IPv6, expected IPv4 or another encapsulation"
                )
                raise source.error((*path, "encapsulation"), problem)
        if entry.encapsulation == "never":
            _check_never(entry, path, nodes, source)
        if entry.mode == "transport":
            _check_transport(entry, path, ends, source)
            _check_nothing_behind(entry, path, ends, peers, routing, source)
        if Stack.STRONGSWAN in (nodes[name].stack for name in (entry.initiator, entry.responder)):
            _check_strongswan(entry, path, ends, source)
            _check_timers(entry, path, source)
    _check_one_daemon(file, nodes, source)


def _check_ah(entry: ConnectionFile, path: tuple[Key, ...], source: YamlSource) -> None:
    """AH has no form in UDP (RFC 3948 section 1), and nothing of RFC 4303's own."""
    if entry.encapsulation != "auto":
        what = entry.encapsulation
        problem = f"{what!r} with protocol ah, expected auto: AH cannot go in UDP (RFC 3948)"
        raise source.error((*path, "encapsulation"), problem)
    for key in ("tfc_padding", "dummies"):
        if getattr(entry.processing, key):
            problem = f"{getattr(entry.processing, key):g} with protocol ah, expected esp"
            raise source.error((*path, "processing", key), problem)


def _check_packing(entry: ConnectionFile, path: tuple[Key, ...], source: YamlSource) -> None:
    """IPComp and AGGFRAG payloads are agreed on by IKE, and exclude each other; padding is for what
    has a length of its own."""
    for key in ("ipcomp", "iptfs"):
        if not getattr(entry, key):
            continue
        where = (*path, key)
        if entry.mode == "none" or entry.manual is not None:
            what = "manual keys" if entry.manual is not None else "mode none"
            raise source.error(where, f"{key} with {what}, expected IKE to agree on it")
        for other in ("tfc_padding", "dummies"):
            if getattr(entry.processing, other) and (key, other) != ("ipcomp", "dummies"):
                raise source.error((*path, "processing", other), f"with {key}, expected none")
    if entry.iptfs is not None:
        where = (*path, "iptfs")
        if entry.ipcomp:
            raise source.error((*path, "ipcomp"), "with iptfs, expected one of the two")
        if entry.mode != "tunnel" or entry.protocol != "esp":
            what = f"mode {entry.mode}" if entry.mode != "tunnel" else f"protocol {entry.protocol}"
            raise source.error(where, f"iptfs with {what}, expected tunnel and esp (RFC 9347)")


def _check_mobike(
    entry: ConnectionFile, path: tuple[Key, ...], ends: Ends, source: YamlSource
) -> None:
    """RFC 4555 section 1.2: of tunnel mode alone; and by IKE."""
    where = (*path, "mobike")
    if entry.mode != "tunnel" or entry.manual is not None:
        what = "manual keys" if entry.manual is not None else f"mode {entry.mode}"
        raise source.error(where, f"addresses cannot change with {what}, expected mode tunnel")
    if entry.mobike is not None and not entry.mobike.nats:
        if ends.nats:
            problem = f"no NATs allowed, and {ends.nats[0]} is on the way, expected nats: true"
            raise source.error((*where, "nats"), problem)
        if entry.encapsulation == "forced":
            problem = "no NATs allowed with encapsulation forced, expected nats: true"
            raise source.error((*where, "nats"), problem)


def _check_never(
    entry: ConnectionFile, path: tuple[Key, ...], nodes: Mapping[str, Node], source: YamlSource
) -> None:
    """Who does not look for NATs cannot have them come and go, and strongSwan always looks."""
    stacks = (nodes[name].stack for name in (entry.initiator, entry.responder))
    what = "a strongswan end" if Stack.STRONGSWAN in stacks else "mobike"
    if what != "mobike" or entry.mobike is not None:
        raise source.error(
            (*path, "encapsulation"), f"'never' with {what}, expected auto or forced"
        )


def _check_redirect(
    file: TopologyFile, index: int, nodes: Mapping[str, Node], source: YamlSource
) -> None:
    """The other gateway takes the same client, and both ends are ours."""
    entry, where = file.connections[index], ("connections", index, "redirect")
    assert entry.redirect is not None
    for name in (entry.initiator, entry.responder):
        if nodes[name].stack is not Stack.IPSECLAB:
            raise source.error(where, f"{name} does not run ipseclab, expected ends that do")
    to = entry.redirect.to
    choices = [
        one.responder
        for one in file.connections
        if one.initiator == entry.initiator and one.responder != entry.responder
    ]
    if to not in choices:
        problem = f"{to!r} is no responder of another connection of {entry.initiator}, "
        raise source.error((*where, "to"), problem + one_of(choices, to))


def _check_tcp(
    entry: ConnectionFile, path: tuple[Key, ...], nodes: Mapping[str, Node], source: YamlSource
) -> None:
    """TCP carries IKE, so there has to be IKE; strongSwan has none (RFC 9329)."""
    where = (*path, "encapsulation")
    if entry.manual is not None or entry.mode == "none":
        what = "SAs by hand" if entry.manual is not None else "mode none"
        raise source.error(where, f"{entry.encapsulation!r} with {what}, expected auto or forced")
    for name in (entry.initiator, entry.responder):
        if nodes[name].stack is Stack.STRONGSWAN:
            problem = f"{entry.encapsulation!r} with {name}, which runs strongswan, expected forced"
            raise source.error(where, problem)


def _check_manual(
    entry: ConnectionFile,
    path: tuple[Key, ...],
    ends: Ends,
    nodes: Mapping[str, Node],
    source: YamlSource,
) -> None:
    """SAs by hand: one suite, keys of its sizes, and nobody between who changes addresses."""
    assert entry.manual is not None
    stacks = [nodes[name].stack for name in (entry.initiator, entry.responder)]
    if ends.nats or Stack.STRONGSWAN in stacks:
        who = f"the NAT {ends.nats[0]!r} between" if ends.nats else "a strongswan end"
        raise source.error((*path, "manual"), f"SAs by hand with {who}, expected IKE")
    try:
        suite, _esn = manual_suite(entry.child[0], entry.protocol_id)
    except ValueError as problem:
        raise source.error((*path, entry.protocol), str(problem)) from problem
    wanted = suite.encr_key_size + suite.integ_key_size
    for index, key in enumerate(entry.manual.keys):
        if len(key) != 2 * wanted:
            problem_text = f"{len(key) // 2} octets, expected {wanted} for {entry.child[0]}"
            raise source.error((*path, "manual", "keys", index), problem_text)


def _check_weak(entry: ConnectionFile, path: tuple[Key, ...], source: YamlSource) -> None:
    if entry.allow_weak:
        return
    proposals = {
        "ike": [parse_ike_proposal(text) for text in entry.ike],
        entry.protocol: [parse_child_proposal(text, entry.protocol_id) for text in entry.child],
    }
    for key, parsed in proposals.items():
        for index, proposal in enumerate(parsed):
            for word in weak_words(proposal):
                problem = f'"{word}" is weak (RFC 8247), expected another or allow_weak: true'
                raise source.error((*path, key, index), problem)


def _check_end(
    name: str, path: tuple[Key, ...], nodes: Mapping[str, Node], source: YamlSource
) -> None:
    if name not in nodes:
        choices = [node.name for node in nodes.values() if _can_end(node)]
        raise source.error(path, f"{name!r} is not a node, {one_of(choices, name)}")
    if not _can_end(nodes[name]):
        problem = f"{name!r} is a {nodes[name].kind.value}, expected a gateway or a host"
        raise source.error(path, problem)
    if nodes[name].stack is Stack.NONE:
        raise source.error(path, f"{name!r} has stack none, expected ipseclab or strongswan")


def _can_end(node: Node) -> bool:
    return node.kind in (NodeKind.GATEWAY, NodeKind.HOST)


def _check_transport(
    entry: ConnectionFile, path: tuple[Key, ...], ends: Ends, source: YamlSource
) -> None:
    """RFC 4301 section 4.1: in transport mode the packets' own ends are the SA's ends."""
    for key, stated, interface in (
        ("local_ts", entry.local_ts, ends.initiator),
        ("remote_ts", entry.remote_ts, ends.responder),
    ):
        own = ip_network(interface.address)
        for selector in stated if stated is not None else ():
            if selector.network != own:
                problem = (
                    f"{selector} in transport mode, expected {interface.node}'s own address {own}"
                )
                raise source.error((*path, key), problem)


def _check_nothing_behind(
    entry: ConnectionFile,
    path: tuple[Key, ...],
    ends: Ends,
    peers: Mapping[str, list[str]],
    routing: Routing,
    source: YamlSource,
) -> None:
    """A gateway in transport mode leaves the packets of those behind it alone: surely not meant."""
    for stated, interface in ((entry.local_ts, ends.initiator), (entry.remote_ts, ends.responder)):
        behind = routing.networks_behind(interface.node, peers[interface.node])
        if stated is None and behind:
            problem = f"'transport' with {behind[0]} behind {interface.node}, expected tunnel"
            raise source.error((*path, "mode"), problem)


def peers_by_node(file: TopologyFile) -> dict[str, list[str]]:
    """For each node the other ends of the connections that end there, in the file's order."""
    peers: dict[str, list[str]] = {name: [] for name in file.nodes}
    for entry in file.connections:
        ends = entry.initiator, entry.responder
        if ends[0] != ends[1] and ends[0] in peers and ends[1] in peers:
            peers[ends[0]].append(ends[1])
            peers[ends[1]].append(ends[0])
    return peers


def _check_strongswan(
    entry: ConnectionFile, path: tuple[Key, ...], ends: Ends, source: YamlSource
) -> None:
    """strongSwan's ESP in user space (kernel-libipsec) has tunnel mode in UDP and nothing else."""
    if entry.mode != "tunnel":
        problem = f"{entry.mode!r} with a strongswan end, expected tunnel"
        raise source.error((*path, "mode"), problem)
    if entry.protocol != "esp":
        problem = f"{entry.protocol!r} with a strongswan end, expected esp"
        raise source.error((*path, "protocol"), problem)
    if entry.narrowing != "policy":
        problem = f"{entry.narrowing!r} with a strongswan end, expected policy"
        raise source.error((*path, "narrowing"), problem)
    if entry.iptfs is not None:
        raise source.error((*path, "iptfs"), "iptfs with a strongswan end, expected none")
    if entry.resources != 1:
        problem = f"{entry.resources} with a strongswan end, expected 1"
        raise source.error((*path, "resources"), problem)
    if entry.encapsulation != "forced" and not ends.nats:
        problem = "'auto' without a NAT between and with a strongswan end, expected forced"
        raise source.error((*path, "encapsulation"), problem)


def _check_timers(entry: ConnectionFile, path: tuple[Key, ...], source: YamlSource) -> None:
    """charon counts these in whole seconds (0 is never), its jitter in per cent up to 20."""
    limit = entry.retransmission.limit
    for keys, seconds in (
        (("keepalive",), entry.keepalive),
        (("liveness",), entry.liveness),
        (("retransmission", "limit"), limit),
    ):
        if seconds is not None and (seconds < 1.0 or seconds != int(seconds)):
            problem = f"{seconds:g} s with a strongswan end, expected whole seconds, from 1 on"
            raise source.error((*path, *keys), problem)
    jitter = entry.retransmission.jitter
    if jitter > MOST_CHARON_JITTER or abs(jitter * 100 - round(jitter * 100)) > 1e-9:
        problem = f"{jitter:g} with a strongswan end, expected whole per cents up to 20%"
        raise source.error((*path, "retransmission", "jitter"), problem)


def _check_one_daemon(file: TopologyFile, nodes: Mapping[str, Node], source: YamlSource) -> None:
    """A strongSwan daemon has one setting of these for all its connections."""
    first: dict[tuple[str, str], int] = {}
    for index, entry in enumerate(file.connections):
        ends = (entry.initiator, entry.responder)
        for name in (end for end in ends if nodes[end].stack is Stack.STRONGSWAN):
            for key in ("retransmission", "keepalive", "fragmentation"):
                other = first.setdefault((name, key), index)
                if getattr(entry, key) != getattr(file.connections[other], key):
                    problem = (
                        f"not as in connections[{other}], expected the same: {name} runs "
                        "strongSwan, which has one for all its connections"
                    )
                    raise source.error(("connections", index, key), problem)
