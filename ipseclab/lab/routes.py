"""Which way packets go: paths and routing tables by the fewest hops, with NATs as one-way doors.

A NAT passes packets from its inside to anywhere; from its outside there is no way in to an inside
address (what comes back goes to the NAT's own address). Hosts do not forward. Ties go to the link
that stands first in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import networkx as nx

from ipseclab.lab.model import Interface, Link, Node, NodeKind

DEFAULT_ROUTE = IPv4Network("0.0.0.0/0")

# A node as a packet meets it: by name, and the way in.
_State = tuple[str, str]
_ORIGIN, _INSIDE, _OUTSIDE = "origin", "inside", "outside"


@dataclass(frozen=True, slots=True)
class Route:
    """Packets for `network` go to the neighbour `via` out of `interface`."""

    network: IPv4Network
    via: IPv4Address
    interface: str


def topology_graph(nodes: Mapping[str, Node], links: Iterable[Link]) -> nx.Graph:
    """The undirected graph: nodes carry `node`, edges `link`."""
    graph = nx.Graph()
    for node in nodes.values():
        graph.add_node(node.name, node=node)
    for link in links:
        first, second = link.ends
        graph.add_edge(first.node, second.node, link=link)
    return graph


class Routing:
    """Answers about the ways through one topology."""

    def __init__(self, nodes: Mapping[str, Node], links: Iterable[Link]) -> None:
        self._nodes = nodes
        self._links = tuple(links)
        self.graph = topology_graph(nodes, self._links)
        self._forwarding = _forwarding_graph(nodes)

    def path(self, source: str, destination: str) -> tuple[str, ...] | None:
        """The nodes from `source` to `destination`, both included; None when there is no way."""
        for states in self._ways(source):
            if states[-1][0] == destination:
                return tuple(name for name, _role in states)
        return None

    def routes(self, name: str) -> tuple[Route, ...]:
        """The routing table of a node, without its own subnets.

        Where all goes to one neighbour it is a single default route; but a router knows what it
        knows, so that a packet for nowhere ends there and does not go round.
        """
        found = tuple(self._specific_routes(name))
        router = self._nodes[name].kind is NodeKind.ROUTER
        if not router and len({(route.via, route.interface) for route in found}) == 1:
            return (Route(DEFAULT_ROUTE, found[0].via, found[0].interface),)
        return found

    def networks_behind(self, name: str, peers: Iterable[str]) -> tuple[IPv4Network, ...]:
        """The subnets that only `name` joins to its `peers`: what a gateway has behind it."""
        rest = nx.restricted_view(self.graph, [name], [])
        outside: set[str] = set()
        for peer in peers:
            outside |= nx.node_connected_component(rest, peer)
        return tuple(
            link.ends[0].network
            for link in self._links
            if not any(interface.node in outside for interface in link.ends)
        )

    def _ways(self, source: str) -> Iterator[Sequence[_State]]:
        """The shortest way to each state that can be reached, the nearest first."""
        ways = nx.single_source_shortest_path(self._forwarding, (source, _ORIGIN))
        yield from ways.values()

    def _specific_routes(self, name: str) -> Iterator[Route]:
        known = {interface.network: None for interface in self._nodes[name].interfaces}
        for states in self._ways(name):
            last, role = states[-1]
            if role != _INSIDE:
                continue
            out: Interface = self._forwarding.edges[states[0], states[1]]["out"]
            for interface in self._nodes[last].interfaces:
                if interface.network not in known:
                    known[interface.network] = None
                    yield Route(interface.network, out.peer_address, out.name)


def _forwarding_graph(nodes: Mapping[str, Node]) -> nx.DiGraph:
    """States and the steps between them; each step knows the interface that it leaves by."""
    graph = nx.DiGraph()
    for node in nodes.values():
        roles = (_ORIGIN, _INSIDE) if node.forwards else (_ORIGIN,)
        graph.add_nodes_from((node.name, role) for role in (_ORIGIN, _OUTSIDE))
        for role in roles:
            for out in node.interfaces:
                graph.add_edge((node.name, role), _entry(nodes[out.peer], out), out=out)
    return graph


def _entry(node: Node, arriving_by: Interface) -> _State:
    """The state in which `node` gets what its neighbour sent out of `arriving_by`: where a packet
    is at its end (a host, a NAT's outside) or can go on."""
    if node.kind is NodeKind.HOST:
        return node.name, _OUTSIDE
    from_outside = node.interface_on(arriving_by.link).name == node.outside
    return node.name, _OUTSIDE if from_outside else _INSIDE
