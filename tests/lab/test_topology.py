import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import networkx as nx
import pytest

from ipseclab.errors import ConfigError
from ipseclab.ike.config import Lifetime, Mode, Retransmission
from ipseclab.lab.impairment import Bernoulli, GilbertElliott, NthPackets
from ipseclab.lab.library import TOPOLOGIES, names
from ipseclab.lab.model import NetworkSelector, NodeKind, Stack, Start
from ipseclab.lab.nat import NatBehaviour
from ipseclab.lab.topology import load_topology, parse_topology, topology_schema

OWN = names(TOPOLOGIES)
EXPECTED = {
    "double-nat",
    "host-to-host",
    "site-to-site",
    "site-to-site-nat",
    "strongswan-peer",
    "strongswan-peer-nat",
    "two-clients-one-nat",
}


def networks(*texts):
    return tuple(NetworkSelector(IPv4Network(text)) for text in texts)


def test_the_topologies_that_the_lab_promises_are_there():
    assert set(OWN) >= EXPECTED


@pytest.mark.parametrize("name", OWN)
def test_every_topology_of_the_lab_is_a_connected_graph(name):
    topology = load_topology(name)
    assert topology.name == name
    assert topology.description
    assert nx.is_connected(topology.graph)
    assert set(topology.graph) == set(topology.nodes)
    assert topology.graph.number_of_edges() == len(topology.links)
    assert topology.connections


@pytest.mark.parametrize("name", OWN)
def test_every_topology_has_comments_and_a_drawing(name):
    text = Path(load_topology(name).source.file).read_text()
    head = text[: text.index("\n\n")]
    assert all(line.startswith("#") for line in head.splitlines())
    assert re.search(r" (--+|==+) ", head)
    for node in load_topology(name).nodes:
        assert node in head + text.split("description:")[0]


def test_the_json_schema_closes_every_object_and_explains_quantities():
    schema = topology_schema()
    json.dumps(schema)
    for name, part in schema["$defs"].items():
        assert part["additionalProperties"] is False, name
        assert part["description"], name
    delay = schema["$defs"]["LinkFile"]["properties"]["delay"]
    pattern = delay["anyOf"][1]["pattern"]
    for text in ("20ms", "1.5 s", "3", "1e-3s"):
        assert re.search(pattern, text)
        assert parse_topology(HUB.replace("0.01", text)).links[1].forward.delay > 0
    for text in ("20parsec", "ms", "-1s"):
        assert not re.search(pattern, text)
    assert {kind["$ref"].rsplit("/")[-1] for kind in node_kinds(schema)} == {
        "HostFile",
        "GatewayFile",
        "RouterFile",
        "AttackerFile",
        "NatFile",
    }


def node_kinds(schema):
    (nodes,) = schema["properties"]["nodes"]["patternProperties"].values()
    return nodes["oneOf"]


def test_interfaces_are_named_as_mininet_does_and_have_fixed_macs():
    topology = load_topology("site-to-site")
    assert [
        (interface.name, str(interface.address), interface.mac)
        for node in topology.nodes.values()
        for interface in node.interfaces
    ] == [
        ("h1-eth0", "10.1.0.10", "02:1b:00:00:00:01"),
        ("gw1-eth0", "10.1.0.1", "02:1b:00:00:00:02"),
        ("gw1-eth1", "192.0.2.1", "02:1b:00:01:00:01"),
        ("r1-eth0", "192.0.2.254", "02:1b:00:01:00:02"),
        ("r1-eth1", "198.51.100.254", "02:1b:00:02:00:01"),
        ("gw2-eth0", "198.51.100.2", "02:1b:00:02:00:02"),
        ("gw2-eth1", "10.2.0.1", "02:1b:00:03:00:01"),
        ("h2-eth0", "10.2.0.10", "02:1b:00:03:00:02"),
    ]


@pytest.mark.parametrize("name", OWN)
def test_both_ends_of_a_link_know_each_other(name):
    topology = load_topology(name)
    for link in topology.links:
        first, second = link.ends
        assert (first.peer, first.peer_address, first.peer_mac) == (
            second.node,
            second.address,
            second.mac,
        )
        assert topology.nodes[first.node].interface_on(link.name) is first
        assert topology.nodes[first.node].interface_to(second.node) is first
        assert link.direction_from(first.node) == "forward"
        assert link.direction_from(second.node) == "backward"
        assert topology.owner(first.address) is topology.nodes[first.node]


def test_site_to_site():
    (site,) = load_topology("site-to-site").connections
    assert (site.mode, site.ends, site.nats) == (Mode.TUNNEL, ("gw1", "gw2"), ())
    assert (site.local_ts, site.remote_ts) == (networks("10.1.0.0/24"), networks("10.2.0.0/24"))
    assert (str(site.initiator_address), str(site.responder_address)) == (
        "192.0.2.1",
        "198.51.100.2",
    )
    assert site.seen_address == site.initiator_address
    assert site.ids == ("gw1", "gw2")


def test_behind_a_nat_the_responder_sees_its_outside():
    topology = load_topology("site-to-site-nat")
    (site,) = topology.connections
    assert site.nats == ("nat1",)
    assert str(site.initiator_address) == "10.9.0.2"
    assert str(site.seen_address) == "192.0.2.1"
    nat = topology.nodes["nat1"]
    assert (nat.kind, nat.outside) == (NodeKind.NAT, "nat1-eth1")
    assert [str(address) for address in nat.pool] == ["192.0.2.1", "192.0.2.7"]
    assert topology.owner(IPv4Address("192.0.2.7")) is nat
    assert topology.owner(IPv4Address("192.0.2.8")) is None
    assert nat.nat is not None
    assert nat.nat.filtering is NatBehaviour.ADDRESS_AND_PORT_DEPENDENT


def test_behind_two_nats_the_outer_one_is_seen():
    (site,) = load_topology("double-nat").connections
    assert site.nats == ("nat1", "nat2")
    assert str(site.seen_address) == "192.0.2.1"


def test_two_clients_have_each_their_own_networks():
    first, second = load_topology("two-clients-one-nat").connections
    assert (first.local_ts, second.local_ts) == (networks("10.1.0.0/24"), networks("10.2.0.0/24"))
    assert first.remote_ts == second.remote_ts == networks("10.3.0.0/24")


def test_hosts_have_their_own_address_for_selectors():
    (hosts,) = load_topology("host-to-host").connections
    assert hosts.mode is Mode.TRANSPORT
    assert (hosts.local_ts, hosts.remote_ts) == (
        networks("192.0.2.1/32"),
        networks("198.51.100.2/32"),
    )


HUB = """
nodes:
  h0: {kind: host}
  hub: {kind: gateway}
  gw1: {kind: gateway}
  h1: {kind: host}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {ends: [h0, hub], addresses: [10.0.0.10/24, 10.0.0.1/24]}
  - {ends: [gw1, hub], addresses: [192.0.2.0/31, 192.0.2.1/31], delay: 0.01, backward: {loss: 2%}}
  - {ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}
  - {ends: [gw2, hub], addresses: [192.0.2.2/31, 192.0.2.3/31]}
  - {ends: [h2, gw2], addresses: [10.2.0.10/24, 10.2.0.1/24]}
connections:
  - {initiator: gw1, responder: hub, psk: one}
  - {initiator: gw2, responder: hub, psk: two, local_ts: [10.2.0.0/25, 10.2.0.128/25]}
"""


def test_what_is_behind_a_hub_is_not_its_other_peers():
    topology = parse_topology(HUB)
    first, second = topology.connections
    assert first.remote_ts == second.remote_ts == networks("10.0.0.0/24")
    assert first.local_ts == networks("10.1.0.0/24")
    assert second.local_ts == networks("10.2.0.0/25", "10.2.0.128/25")


def test_names_that_the_file_leaves_out():
    topology = parse_topology(HUB, "some/hub.yaml")
    assert topology.name == "hub"
    assert [link.name for link in topology.links][:2] == ["h0-hub", "gw1-hub"]
    assert topology.connection("gw2-hub").psk == "two"
    assert topology.link("h1-gw1").ends[0].node == "h1"
    for look_up in (topology.link, topology.connection):
        with pytest.raises(KeyError, match="x"):
            look_up("x")


def test_a_direction_has_what_both_have_and_its_own():
    link = parse_topology(HUB).link("gw1-hub")
    assert (link.forward.delay, link.forward.loss) == (0.01, None)
    assert link.backward == replace(link.forward, loss=Bernoulli(0.02))
    assert link.impairment("forward") is link.forward
    assert link.impairment("backward") is link.backward


def test_a_host_that_ends_a_connection_runs_our_stack():
    text = HUB.replace("initiator: gw1", "initiator: h1")
    topology = parse_topology(text)
    assert topology.nodes["h1"].stack is Stack.IPSECLAB
    assert topology.nodes["h2"].stack is Stack.NONE
    assert topology.connections[0].local_ts == networks("10.1.0.10/32")
    assert [node.name for node in topology.with_stack(Stack.IPSECLAB)] == [
        "hub",
        "gw1",
        "h1",
        "gw2",
    ]


def test_a_connection_without_ipsec_needs_no_key():
    topology = load_topology("site-to-site").with_overrides(
        {"connections.site.mode": "none", "connections.site.psk": None}
    )
    assert topology.connections[0].mode is None


ALL_SETTINGS = {
    "links.wan": {
        "name": "wan",
        "ends": ["nat1", "r1"],
        "addresses": ["192.0.2.1/24", "192.0.2.254/24"],
        "delay": "20ms",
        "jitter": "500us",
        "jitter_distribution": "normal",
        "loss": {"p": "1%", "r": 0.5, "h": 0.1, "k": 0.99},
        "reorder": "2%",
        "reorder_delay": "3ms",
        "duplicate": 0.25,
        "corrupt": 1e-3,
        "rate": "10Mbit/s",
        "queue_packets": 7,
        "queue_octets": "64KiB",
        "mtu": 1400,
        "forward": {"loss": {"packets": [1, 2], "every": 9}},
    },
    "nodes.nat1.inbound_refresh": True,
    "nodes.nat1.udp_timeout": "30s",
    "nodes.nat1.tcp_timeout": "2h",
    "nodes.nat1.ports": [2000, 3000],
    "connections.site.ids": ["left@example.org", "192.0.2.9"],
    "connections.site.lifetimes": {
        "ike": {"seconds": "1h"},
        "child": {"seconds": None, "octets": "1MB", "packets": 1000, "margin": "20%", "jitter": 0},
    },
    "connections.site.retransmission": {"timeout": "500ms", "base": 2, "tries": 3, "limit": "4s"},
    "connections.site.liveness": "30s",
    "connections.site.keepalive": None,
    "connections.site.encapsulation": "forced",
    "connections.site.start": "on-demand",
}


def test_every_setting_arrives():
    topology = load_topology("site-to-site-nat").with_overrides(ALL_SETTINGS)
    wan = topology.link("wan").backward
    assert (wan.delay, wan.jitter, wan.jitter_distribution) == (0.02, 0.0005, "normal")
    assert wan.loss == GilbertElliott(0.01, 0.5, 0.1, 0.99)
    assert topology.link("wan").forward.loss == NthPackets((1, 2), 9)
    assert (wan.reorder, wan.reorder_delay, wan.duplicate, wan.corrupt) == (0.02, 0.003, 0.25, 1e-3)
    assert (wan.rate, wan.queue_packets, wan.queue_octets, wan.mtu) == (1e7, 7, 65536, 1400)
    nat = topology.nodes["nat1"].nat
    assert (nat.inbound_refresh, nat.udp_timeout, nat.tcp_timeout) == (True, 30.0, 7200.0)
    assert (nat.first_port, nat.last_port) == (2000, 3000)
    (site,) = topology.connections
    assert site.ids == ("left@example.org", "192.0.2.9")
    assert site.ike_lifetime == Lifetime(seconds=3600.0)
    assert site.child_lifetime == Lifetime(None, 1_000_000, 1000, 0.2, 0.0)
    assert site.retransmission == Retransmission(0.5, 2.0, 3, 0.0, 4.0)
    assert (site.liveness, site.keepalive, site.force_encapsulation) == (30.0, None, True)
    assert site.start is Start.ON_DEMAND


# Overrides.


def test_an_override_changes_nothing_but_its_key():
    before = load_topology("site-to-site-nat")
    after = before.with_overrides({"links.wan.delay": "50ms"})
    assert after.link("wan").forward.delay == 0.05
    assert before.link("wan").forward.delay == 0.02
    assert after.nodes == before.nodes
    assert after.connections == before.connections


def test_overrides_by_index_by_name_and_below_what_is_not_there_yet():
    topology = load_topology("site-to-site").with_overrides(
        {
            "links.1.delay": 0.3,
            "links.wan2.backward.loss": "5%",
            "nodes.h1": {"kind": "host", "stack": "none"},
            "connections.0.lifetimes.child.seconds": 7,
            "description": "changed",
        }
    )
    assert topology.links[1].forward.delay == 0.3
    assert topology.link("wan2").backward.loss == Bernoulli(0.05)
    assert topology.link("wan2").forward.loss is None
    assert topology.connections[0].child_lifetime.seconds == 7.0
    assert topology.description == "changed"


def test_an_override_by_the_name_that_comes_from_the_ends():
    assert parse_topology(HUB).with_overrides({"links.gw1-hub.mtu": 1280}).links[1].forward.mtu == (
        1280
    )
    changed = parse_topology(HUB).with_overrides({"connections.gw2-hub.start": "on-demand"})
    assert changed.connections[1].start is Start.ON_DEMAND


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("links.wan.delya", 1, "links.wan.delya: unknown key, did you mean 'delay'?"),
        ("links.wam.delay", 1, "links.wam.delay: no item 'wam', did you mean 'wan'?"),
        ("links.9.delay", 1, "links.9.delay: no item '9', expected one of lan1, wan, wan2, lan2"),
        ("links.wan.delay.x", 1, "links.wan.delay.x: nothing can stand below it at 'x', "
         "expected a shorter key"),
        ("links..delay", 1, "links..delay: an empty part, "
         "expected names with single dots between them"),
        ("node.gw1.stack", "none", "node: unknown key, did you mean 'nodes'?"),
        ("nodes.gw7.stack", "none", "nodes.gw7.kind: missing, expected it here"),
        ("links.wan.loss", {"probability": 2}, "links.wan.loss.probability: 2 is out of range, "
         "expected a number from 0 to 1, or a text like 1%"),
        ("links.wan.addresses", ["10.1.0.1/24", "10.1.0.2/24"],
         "links.wan.addresses.[0]: 10.1.0.1 is gw1's, expected each address once"),
        ("connections.site.mode", "transport", "connections.site.mode: 'transport' with "
         "10.1.0.0/24 behind gw1, expected tunnel"),
    ],
)  # fmt: skip
def test_a_bad_override_is_named(key, value, problem):
    topology = load_topology("site-to-site")
    with pytest.raises(ConfigError) as caught:
        topology.with_overrides({"description": "x", key: value})
    assert str(caught.value) == f"{topology.source.file}: override: {problem}"


@pytest.mark.parametrize(
    ("text", "protocol", "ports"),
    [
        ("10.1.0.0/24", 0, (0, 65535)),
        ("10.1.0.0/24[tcp]", 6, (0, 65535)),
        ("10.1.0.0/24[udp/53]", 17, (53, 53)),
        ("10.1.0.0/24[17/5000-5010]", 17, (5000, 5010)),
        ("10.1.0.0/24[47]", 47, (0, 65535)),
    ],
)
def test_part_of_a_networks_traffic(text, protocol, ports):
    selector = NetworkSelector.parse(text)
    assert (selector.protocol, selector.ports) == (protocol, ports)
    assert selector.traffic_selector.protocol == protocol
    assert NetworkSelector.parse(str(selector)) == selector


@pytest.mark.parametrize(
    "rest", ["[", "[tcp/80", "[tcp/9-8]", "[256]", "[0]", "[what]", "[udp/65536]"]
)
def test_what_is_no_part_of_a_networks_traffic(rest):
    with pytest.raises(ValueError, match=r"10\.1\.0\.0/24|protocol|'what'"):
        NetworkSelector.parse(f"10.1.0.0/24{rest}")
