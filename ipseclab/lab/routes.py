"""Which way packets go: paths and routing tables by the fewest hops, with NATs as one-way doors.

A NAT passes packets from its inside to anywhere; from its outside there is no way in to an inside
address (what comes back goes to the NAT's own address). Hosts do not forward. Ties go to the link
that stands first in the file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network

import networkx as nx

from ipseclab.lab.model import Interface, IpAddress, IpNetwork, Link, Node, NodeKind

DEFAULT_ROUTES = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
"""By version of IP."""

# A node as a packet meets it: by name, and the way in.
_State = tuple[str, str]
_ORIGIN, _INSIDE, _OUTSIDE = "origin", "inside", "outside"


@dataclass(frozen=True, slots=True)
class Route:
    """Packets for `network` go to the neighbour `via` out of `interface`."""

    network: IpNetwork
    via: IpAddress
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
    """Answers about the ways through one topology; each is worked out once."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        links: Iterable[Link],
        pools: Mapping[str, tuple[IpNetwork, ...]] | None = None,
    ) -> None:
        """`pools`: networks whose way is through a node that gives their addresses to its peers."""
        self._nodes = nodes
        self._pools = pools if pools is not None else {}
        self._links = tuple(links)
        self.graph = topology_graph(nodes, self._links)
        self._steps = _steps(nodes)
        self._states = _states_by_neighbour(self._steps)
        self._order = {link.name: number for number, link in enumerate(self._links)}
        self._paths: dict[tuple[str, str], tuple[str, ...] | None] = {}
        self._behind: dict[tuple[str, tuple[str, ...]], tuple[IpNetwork, ...]] = {}

    def path(self, source: str, destination: str) -> tuple[str, ...] | None:
        """The nodes from `source` to `destination`, both included; None when there is no way."""
        key = source, destination
        if key not in self._paths:
            self._paths[key] = self._find_path(source, destination)
        return self._paths[key]

    def routes(self, name: str) -> tuple[Route, ...]:
        """The routing table of a node, without its own subnets.

        Where all goes to one neighbour it is a single default route; but a router knows what it
        knows, so that a packet for nowhere ends there and does not go round.
        """
        found = self._specific_routes(name)
        if self._nodes[name].kind not in (NodeKind.ROUTER, NodeKind.ATTACKER):
            first = next(found, None)
            if first is None:
                return ()
            # With one way on, all goes there: in a lab of thousands nobody has to look at it all.
            ways_on = sum(role == _INSIDE for (_, role), _out in self._steps[name, _ORIGIN])
            rest = tuple(found) if ways_on > 1 else ()
            if all((route.via, route.interface) == (first.via, first.interface) for route in rest):
                default = DEFAULT_ROUTES[first.via.version]
                return (Route(default, first.via, first.interface),)
            return first, *rest
        return tuple(found)

    def networks_behind(self, name: str, peers: Iterable[str]) -> tuple[IpNetwork, ...]:
        """The subnets that only `name` joins to its `peers`: what a gateway has behind it."""
        key = name, tuple(peers)
        if key not in self._behind:
            inside = self._reached_beside(*key)
            numbers = {
                self._order[interface.link]
                for node in (name, *inside)
                for interface in self._nodes[node].interfaces
                if node in inside or interface.peer in inside
            }
            self._behind[key] = tuple(
                self._links[number].ends[0].network for number in sorted(numbers)
            )
        return self._behind[key]

    def _reached_beside(self, name: str, peers: tuple[str, ...]) -> dict[str, None]:
        """The nodes that `name` joins to `peers`: without it there would be no link to them.

        The search goes from each neighbour, and stops at the peers or at a neighbour that lies on
        the way to one: a gateway's own side is small, however large the rest is.
        """
        outside = set(peers)
        for peer in peers:
            way = self.path(name, peer)
            if way is None and (back := self.path(peer, name)) is not None:
                way = tuple(reversed(back))
            if way is not None:
                outside.add(way[1])
        inside: dict[str, None] = {}
        for interface in self._nodes[name].interfaces:
            if interface.peer not in outside and interface.peer not in inside:
                inside.update(self._joined_to(interface.peer, name, outside))
        return inside

    def _joined_to(self, start: str, barred: str, outside: set[str]) -> dict[str, None]:
        """The nodes that links join to `start` without `barred`; none when `outside` is met."""
        reached, waiting = {start: None}, [start]
        while waiting:
            for interface in self._nodes[waiting.pop()].interfaces:
                if interface.peer in outside:
                    return {}
                if interface.peer != barred and interface.peer not in reached:
                    reached[interface.peer] = None
                    waiting.append(interface.peer)
        return reached

    def _find_path(self, source: str, destination: str) -> tuple[str, ...] | None:
        """A breadth-first search that sees the destination from the node before it: it does not
        walk through the thousands of neighbours that a router may have."""
        origin: _State = (source, _ORIGIN)
        if source == destination:
            return (source,)
        came_from: dict[_State, _State | None] = {origin: None}
        waiting = deque([origin])
        while waiting:
            state = waiting.popleft()
            if destination in self._states[state]:
                way, at = [destination], state
                while (before := came_from[at]) is not None:
                    way.append(at[0])
                    at = before
                return source, *reversed(way)
            for following, _out in self._steps[state]:
                if following not in came_from:
                    came_from[following] = state
                    waiting.append(following)
        return None

    def _nearest_first(
        self, origin: _State
    ) -> Iterator[tuple[_State, _State | None, Interface | None]]:
        """Each state that can be reached, the state before it, and the first interface on the way
        there (None at the origin): a breadth-first search."""
        yield origin, None, None
        seen = {origin}
        waiting: deque[tuple[_State, Interface | None]] = deque([(origin, None)])
        while waiting:
            state, first = waiting.popleft()
            for following, out in self._steps[state]:
                if following not in seen:
                    seen.add(following)
                    own_first = first if first is not None else out
                    waiting.append((following, own_first))
                    yield following, state, own_first

    def _specific_routes(self, name: str) -> Iterator[Route]:
        known = {interface.network for interface in self._nodes[name].interfaces}
        for (last, role), _previous, out in self._nearest_first((name, _ORIGIN)):
            if role != _INSIDE or out is None:
                continue
            for interface in self._nodes[last].interfaces:
                # Where IP of another version goes on, only what protects the packet gets on.
                if interface.network not in known and interface.version == out.version:
                    known.add(interface.network)
                    yield Route(interface.network, out.peer_address, out.name)
            for pool in self._pools.get(last, ()):
                if pool.version != out.version:
                    continue
                yield Route(pool, out.peer_address, out.name)


def _steps(nodes: Mapping[str, Node]) -> dict[_State, tuple[tuple[_State, Interface], ...]]:
    """From each state the next ones, with the interface that a packet leaves by."""
    steps: dict[_State, tuple[tuple[_State, Interface], ...]] = {}
    for node in nodes.values():
        following = tuple((_entry(nodes[out.peer], out), out) for out in node.interfaces)
        steps[node.name, _ORIGIN] = following
        steps[node.name, _INSIDE] = following if node.forwards else ()
        steps[node.name, _OUTSIDE] = ()
    return steps


def _states_by_neighbour(
    steps: Mapping[_State, tuple[tuple[_State, Interface], ...]],
) -> dict[_State, frozenset[str]]:
    """From each state the names of the nodes that are one step away."""
    by_node: dict[tuple[str, bool], frozenset[str]] = {}
    found: dict[_State, frozenset[str]] = {}
    for state, following in steps.items():
        key = state[0], bool(following)
        if key not in by_node:
            by_node[key] = frozenset(name for (name, _role), _out in following)
        found[state] = by_node[key]
    return found


def _entry(node: Node, arriving_by: Interface) -> _State:
    """The state in which `node` gets what its neighbour sent out of `arriving_by`: where a packet
    is at its end (a host, a NAT's outside) or can go on."""
    if node.kind is NodeKind.HOST:
        return node.name, _OUTSIDE
    if node.outside is None:
        return node.name, _INSIDE
    from_outside = node.interface_on(arriving_by.link).name == node.outside
    return node.name, _OUTSIDE if from_outside else _INSIDE
