"""The map of the lab: nodes where networkx puts them, with counters that follow the slider.

A narrow lab is drawn in columns by distance from its first node, a wide one by springs with a fixed
seed: the same topology gives the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
from markupsafe import Markup

from ipseclab.lab.model import Connection, Link, Node, NodeKind
from ipseclab.lab.topology import Topology
from ipseclab.present.report.material import CounterKey, Counters, Material
from ipseclab.present.report.svg import element, joined

MOST_NODES = 150
MOST_IN_COLUMN = 6
MOST_COLUMNS = 9
MOST_LINES = 3
"""Counters below a node; the table beside the map has all."""
COLUMN, ROW = 165.0, 120.0
EDGE = 70.0
MOST_BEND = 90.0
SPRING_SEED = 1
ROUND, SQUARE = 20.0, 36.0

SHOWN: Mapping[NodeKind, tuple[str, ...]] = {
    NodeKind.GATEWAY: ("CHILD_SAs", "IKE sent", "ESP sent", "AH sent", "dropped"),
    NodeKind.HOST: (
        "probes sent", "probes received", "pings sent", "pings answered", "TCP octets",
        "CHILD_SAs", "IKE sent", "ESP sent",
    ),
    NodeKind.NAT: ("mappings", "rebindings", "dropped"),
    NodeKind.ROUTER: ("dropped",),
    NodeKind.ATTACKER: ("dropped",),
}  # fmt: skip
"""The counters of a node that stand on the map, the most telling first."""


@dataclass(frozen=True, slots=True)
class LabMap:
    """The picture, the counters in the order of their numbers in it, and what was left out."""

    svg: Markup
    counters: tuple[CounterKey, ...]
    note: str = ""


def lab_map(material: Material) -> LabMap:
    """The map of a run's lab."""
    topology, counters = material.topology, material.counters
    numbers = {key: number for number, key in enumerate(counters.known())}
    graph = _drawn_graph(topology)
    places = positions(graph)
    width = max(x for x, _ in places.values()) + EDGE
    height = max(y for _, y in places.values()) + EDGE
    parts: list[Markup] = []
    for link in topology.links:
        if all(end.node in places for end in link.ends):
            parts.append(_link(link, places, counters, numbers))
    for connection in topology.connections:
        if connection.mode is not None and all(end in places for end in connection.ends):
            parts.append(_tunnel(connection, places, numbers, counters))
    for name in places:
        parts.append(_node(topology.nodes[name], places[name], counters, numbers))
    svg = element(
        "svg",
        joined((element("title", "Map of the lab"), *parts)),
        class_="map",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label="Map of the lab",
    )
    left_out = len(topology.nodes) - len(places)
    note = f"{len(places)} nodes are drawn, {left_out} more are left out." if left_out else ""
    return LabMap(svg, counters.known(), note)


def positions(graph: nx.Graph) -> dict[str, tuple[float, float]]:
    """Where each node goes, in the picture's own units."""
    first = next(iter(graph))
    layers: dict[int, list[str]] = {}
    for name, distance in nx.single_source_shortest_path_length(graph, first).items():
        layers.setdefault(distance, []).append(name)
    narrow = len(layers) <= MOST_COLUMNS and max(map(len, layers.values())) <= MOST_IN_COLUMN
    if narrow and sum(map(len, layers.values())) == len(graph):
        for number, names in layers.items():
            for name in names:
                graph.nodes[name]["subset"] = number
        raw = nx.multipartite_layout(graph, align="vertical")
        size = COLUMN * max(len(layers) - 1, 1), ROW * (max(map(len, layers.values())) - 1)
    else:
        raw = nx.spring_layout(graph, seed=SPRING_SEED, iterations=200)
        side = COLUMN * max(len(graph) ** 0.5, 2.0)
        size = side, 0.75 * side
    return _scaled({name: (float(x), float(y)) for name, (x, y) in raw.items()}, size)


def _scaled(
    raw: Mapping[str, tuple[float, float]], size: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    lows = [min(place[axis] for place in raw.values()) for axis in (0, 1)]
    widths = [max(place[axis] for place in raw.values()) - lows[axis] for axis in (0, 1)]
    return {
        name: (
            round(EDGE + size[0] * ((x - lows[0]) / widths[0] if widths[0] else 0.5)),
            round(EDGE + size[1] * ((y - lows[1]) / widths[1] if widths[1] else 0.5)),
        )
        for name, (x, y) in raw.items()
    }


def _drawn_graph(topology: Topology) -> nx.Graph:
    """The lab's graph; of a large lab the nodes nearest to the first connection's initiator."""
    whole = topology.routing.graph
    graph = nx.Graph()
    names = list(topology.nodes)
    if len(names) > MOST_NODES:
        start = topology.connections[0].initiator if topology.connections else names[0]
        near = list(nx.single_source_shortest_path_length(whole, start))[:MOST_NODES]
        names = [name for name in names if name in set(near)]
    graph.add_nodes_from(names)
    graph.add_edges_from(
        (first, second) for first, second in whole.edges if {first, second} <= set(names)
    )
    return graph


def _link(
    link: Link,
    places: Mapping[str, tuple[float, float]],
    counters: Counters,
    numbers: Mapping[CounterKey, int],
) -> Markup:
    (x1, y1), (x2, y2) = (places[end.node] for end in link.ends)
    lines = [_line(link.name, (x1 + x2) / 2, (y1 + y2) / 2 - 8, "link-name")]
    impairment = ", ".join(_impairment_words(link))
    if impairment:
        lines.append(_line(impairment, (x1 + x2) / 2, (y1 + y2) / 2 + 14, "link-name"))
    for name in ("dropped", "corrupted", "duplicated"):
        key = link.name, name
        if key in numbers:
            at = (y1 + y2) / 2 + 14 * len(lines) + (0 if impairment else 14)
            lines.append(_counter(key, (x1 + x2) / 2, at, counters, numbers, "lost"))
    path = element("path", class_="link", d=f"M{x1:.0f} {y1:.0f}L{x2:.0f} {y2:.0f}")
    return joined((path, *lines))


def _impairment_words(link: Link) -> list[str]:
    words = []
    if link.forward.delay:
        words.append(f"{link.forward.delay * 1e3:g} ms")
    if link.forward.rate:
        words.append(f"{link.forward.rate / 1e6:g} Mbit/s")
    if link.forward.mean_loss:
        words.append(f"{link.forward.mean_loss:.1%} loss")
    return words


def _tunnel(
    connection: Connection,
    places: Mapping[str, tuple[float, float]],
    numbers: Mapping[CounterKey, int],
    counters: Counters,
) -> Markup:
    """An arc between a connection's ends, solid while both have a CHILD_SA."""
    (x1, y1), (x2, y2) = (places[end] for end in connection.ends)
    if (x1, y1) == (x2, y2):
        return Markup()
    bend = min(0.25 * abs(x2 - x1) + 18, MOST_BEND)
    start, end = f"{x1:.0f} {y1 - 12:.0f}", f"{x2:.0f} {y2 - 12:.0f}"
    path = f"M{start}Q{(x1 + x2) / 2:.0f} {(y1 + y2) / 2 - bend:.0f} {end}"
    keys = [(end, "CHILD_SAs") for end in connection.ends]
    known = [numbers[key] for key in keys if key in numbers]
    up = bool(known) and all(counters.last(key) > 0 for key in keys if key in numbers)
    about = f"{connection.name}: {connection.mode.value if connection.mode else ''}"
    return element(
        "path",
        element("title", about),
        class_="tunnel up" if up else "tunnel",
        d=path,
        data_counts=" ".join(map(str, known)),
    )


def _node(
    node: Node,
    place: tuple[float, float],
    counters: Counters,
    numbers: Mapping[CounterKey, int],
) -> Markup:
    x, y = place
    kind = node.kind.value
    if node.kind is NodeKind.HOST:
        shape = element("circle", class_=f"node {kind}", cx=x, cy=y, r=ROUND - 4)
    else:
        shape = element(
            "rect", class_=f"node {kind}", x=x - SQUARE / 2, y=y - SQUARE / 2, width=SQUARE,
            height=SQUARE, rx=18.0 if node.kind is NodeKind.ROUTER else 4.0,
        )  # fmt: skip
    about = ", ".join(f"{i.address} on {i.link}" for i in node.interfaces)
    parts = [
        element("title", f"{node.name}, {kind}: {about}"),
        shape,
        _line(node.name, x, y + 4, "node-name"),
    ]
    keys = [(node.name, name) for name in SHOWN[node.kind] if (node.name, name) in numbers]
    for line, key in enumerate(keys[:MOST_LINES]):
        parts.append(_counter(key, x, y + 34 + 15 * line, counters, numbers, "count"))
    return element("g", joined(parts))


def _line(words: str, x: float, y: float, kind: str) -> Markup:
    return element("text", words, class_=kind, x=x, y=y)


def _counter(
    key: CounterKey,
    x: float,
    y: float,
    counters: Counters,
    numbers: Mapping[CounterKey, int],
    kind: str,
) -> Markup:
    value = element("tspan", f"{counters.last(key):,}", data_count=numbers[key])
    return element("text", joined((Markup.escape(f"{key[1]} "), value)), class_=kind, x=x, y=y)


def counter_rows(counters: Counters) -> Sequence[tuple[str, str, int, int]]:
    """Each counter's node, name, number and last value, for the table beside the map."""
    return [(*key, number, counters.last(key)) for number, key in enumerate(counters.known())]
