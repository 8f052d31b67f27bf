from ipaddress import IPv4Network

import pytest

from ipseclab.lab.library import TOPOLOGIES, names
from ipseclab.lab.model import NodeKind
from ipseclab.lab.routes import DEFAULT_ROUTES
from ipseclab.lab.topology import load_topology


def table(topology, node):
    return [
        (str(route.network), str(route.via), route.interface) for route in topology.routes(node)
    ]


def test_a_host_has_a_default_route():
    assert table(load_topology("site-to-site"), "h1") == [("0.0.0.0/0", "10.1.0.1", "h1-eth0")]


def test_a_router_knows_each_network():
    assert table(load_topology("site-to-site"), "r1") == [
        ("10.1.0.0/24", "192.0.2.1", "r1-eth0"),
        ("10.2.0.0/24", "198.51.100.2", "r1-eth1"),
    ]


def test_there_is_no_route_into_a_nats_inside():
    topology = load_topology("site-to-site-nat")
    assert table(topology, "r1") == [("10.2.0.0/24", "198.51.100.2", "r1-eth1")]
    assert table(topology, "nat1") == [
        ("10.1.0.0/24", "10.9.0.2", "nat1-eth0"),
        ("198.51.100.0/24", "192.0.2.254", "nat1-eth1"),
        ("10.2.0.0/24", "192.0.2.254", "nat1-eth1"),
    ]


def test_a_nat_knows_each_of_its_insides():
    routes = table(load_topology("two-clients-one-nat"), "nat1")
    assert ("10.1.0.0/24", "10.8.0.2", "nat1-eth0") in routes
    assert ("10.2.0.0/24", "10.9.0.2", "nat1-eth1") in routes


def test_an_inner_nat_is_behind_an_outer_one():
    topology = load_topology("double-nat")
    assert table(topology, "nat2") == [("0.0.0.0/0", "192.0.2.254", "nat2-eth1")]
    assert "10.9.0.0/24" not in [network for network, _via, _interface in table(topology, "nat2")]


def test_paths():
    routing = load_topology("double-nat").routing
    assert routing.path("h1", "h2") == ("h1", "gw1", "nat1", "nat2", "r1", "gw2", "h2")
    assert routing.path("gw2", "gw1") is None
    assert routing.path("gw2", "nat2") == ("gw2", "r1", "nat2")
    assert routing.path("gw2", "nat1") is None
    assert routing.path("h1", "h1") == ("h1",)


def follow(topology, source, destination):
    """The nodes that a packet passes by the routing tables; None when one knows no way."""
    node, passed = topology.nodes[source], [source]
    while not any(interface.address == destination for interface in node.interfaces):
        if len(passed) > len(topology.nodes):
            return ["a loop", *passed]
        direct = [item for item in node.interfaces if destination in item.network]
        if direct:
            node = topology.nodes[direct[0].peer]
        else:
            routes = [route for route in topology.routes(node.name) if destination in route.network]
            if not routes:
                return None
            best = max(routes, key=lambda route: route.network.prefixlen)
            node = topology.owner(best.via)
        passed.append(node.name)
    return passed


def _hidden(topology, interface, path):
    """An address inside a NAT, of a node that the path comes to on another side."""
    return topology.nodes[interface.peer].kind is NodeKind.NAT and interface.peer not in path


@pytest.mark.parametrize("name", names(TOPOLOGIES))
def test_the_tables_lead_where_a_path_leads(name):
    """Hop by hop to every address; into a NAT's inside there is no way from outside."""
    topology = load_topology(name)
    for source in topology.nodes:
        for target in topology.nodes.values():
            for interface in target.interfaces:
                way = follow(topology, source, interface.address)
                path = topology.routing.path(source, target.name)
                if path is None:
                    assert way is None
                elif way is None:
                    hidden = _hidden(topology, interface, path)
                    assert hidden or target.kind is NodeKind.NAT
                elif target.kind is not NodeKind.NAT:
                    assert way[-1] == target.name
                    assert "a loop" not in way


@pytest.mark.parametrize("name", names(TOPOLOGIES))
def test_a_route_goes_to_a_neighbour_and_is_there_once(name):
    topology = load_topology(name)
    for node in topology.nodes.values():
        routes = topology.routes(node.name)
        own = {interface.name: interface for interface in node.interfaces}
        assert len({route.network for route in routes}) == len(routes)
        for route in routes:
            assert own[route.interface].peer_address == route.via
            assert route.network not in [item.network for item in node.interfaces]
        defaults = [route for route in routes if route.network == DEFAULT_ROUTES[4]]
        assert not defaults or len(routes) == 1


def test_networks_behind():
    routing = load_topology("two-clients-one-nat").routing
    assert routing.networks_behind("gw1", ["gw3"]) == (IPv4Network("10.1.0.0/24"),)
    assert routing.networks_behind("gw3", ["gw1", "gw2"]) == (IPv4Network("10.3.0.0/24"),)
    assert routing.networks_behind("h1", ["gw1"]) == ()
