import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from ipseclab.errors import ConfigError
from ipseclab.gateway import Gateway
from ipseclab.ike.config import Mode
from ipseclab.ipsec.processing import DontFragment
from ipseclab.ipsec.spd import Action, Spd
from ipseclab.lab.gateways import (
    gateway_config,
    identity,
    protected_networks,
    stack_nodes,
    starting_connections,
)
from ipseclab.lab.library import TOPOLOGIES, names
from ipseclab.lab.topology import load_topology
from ipseclab.registry import IdType
from ipseclab.wire.ip import Flow


def action(config, source, destination, protocol=17, ports=(1000, 2000)):
    """What the SPD says to a packet that leaves; DISCARD where nothing matches."""
    flow = Flow(IPv4Address(source).packed, IPv4Address(destination).packed, protocol, *ports)
    policy = Spd(config.policies).outbound(flow)
    return Action.DISCARD if policy is None else policy.action


def test_both_ends_mirror_each_other():
    topology = load_topology("site-to-site")
    (left,) = gateway_config(topology, "gw1").ike.connections
    (right,) = gateway_config(topology, "gw2").ike.connections
    assert (left.own_address, left.peer_address) == ("192.0.2.1", "198.51.100.2")
    assert (right.own_address, right.peer_address) == ("198.51.100.2", "192.0.2.1")
    assert (left.own_id, left.peer_id) == (right.peer_id, right.own_id)
    assert (left.own_ts, left.peer_ts) == (right.peer_ts, right.own_ts)
    assert [str(selector) for selector in left.own_ts] == ["10.1.0.0/24"]
    assert left.psk == right.psk == b"a shared secret of the lab"
    assert left.ike_proposals == right.ike_proposals
    assert left.mode is Mode.TUNNEL


def test_a_responder_does_not_know_where_one_behind_a_nat_is():
    topology = load_topology("site-to-site-nat")
    (right,) = gateway_config(topology, "gw2").ike.connections
    assert right.peer_address is None
    (left,) = gateway_config(topology, "gw1").ike.connections
    assert left.own_address == "10.9.0.2"


def test_the_spd_protects_the_networks_and_discards_the_rest():
    config = gateway_config(load_topology("site-to-site"), "gw1")
    assert action(config, "10.1.0.10", "10.2.0.10") is Action.PROTECT
    assert action(config, "10.1.0.10", "198.51.100.2") is Action.DISCARD
    assert action(config, "192.0.2.1", "198.51.100.2") is Action.DISCARD
    assert action(config, "192.0.2.1", "192.0.2.254", 1, (0x0800, 0)) is Action.BYPASS
    assert action(config, "10.1.0.10", "192.0.2.254", 1, (0x0800, 0)) is Action.DISCARD


def test_a_connection_without_ipsec_lets_its_networks_by():
    topology = load_topology("site-to-site").with_overrides({"connections.0.mode": "none"})
    config = gateway_config(topology, "gw1")
    assert config.ike.connections == ()
    assert action(config, "10.1.0.10", "10.2.0.10") is Action.BYPASS
    assert starting_connections(topology, "gw1") == ()


def test_transport_mode_through_a_nat_is_about_the_nats_address():
    topology = load_topology("site-to-site-nat").with_overrides(
        {
            "connections.0.mode": "transport",
            "connections.0.local_ts": "10.9.0.2/32",
            "connections.0.remote_ts": "198.51.100.2/32",
        }
    )
    (left,) = gateway_config(topology, "gw1").ike.connections
    (right,) = gateway_config(topology, "gw2").ike.connections
    assert [str(item) for item in left.own_ts] == ["10.9.0.2/32"]
    assert [str(item) for item in right.peer_ts] == ["192.0.2.1/32"]
    assert protected_networks(topology, "gw2") == (IPv4Network("192.0.2.1/32"),)


def test_a_gateway_of_two_clients_has_both():
    topology = load_topology("two-clients-one-nat")
    config = gateway_config(topology, "gw3")
    assert [item.name for item in config.ike.connections] == ["first", "second"]
    assert protected_networks(topology, "gw3") == (
        IPv4Network("10.1.0.0/24"),
        IPv4Network("10.2.0.0/24"),
    )
    assert starting_connections(topology, "gw3") == ()
    assert starting_connections(topology, "gw2") == ("second",)


def test_on_demand_connections_wait():
    topology = load_topology("site-to-site").with_overrides({"connections.0.start": "on-demand"})
    assert starting_connections(topology, "gw1") == ()


@pytest.mark.rfc("7296", "3.5", "SHOULD", "nai-mail")
@pytest.mark.parametrize(
    ("text", "kind", "data"),
    [
        ("gw1", IdType.ID_FQDN, b"gw1"),
        ("gw.example.org", IdType.ID_FQDN, b"gw.example.org"),
        ("left@example.org", IdType.ID_RFC822_ADDR, b"left@example.org"),
        ("192.0.2.9", IdType.ID_IPV4_ADDR, bytes([192, 0, 2, 9])),
        ("192.0.2.999", IdType.ID_FQDN, b"192.0.2.999"),
    ],
)
def test_identities(text, kind, data):
    assert (identity(text).id_type, identity(text).data) == (kind, data)


@pytest.mark.parametrize("name", names(TOPOLOGIES))
def test_every_stack_node_makes_a_gateway(name):
    topology = load_topology(name)
    assert stack_nodes(topology)
    for node in stack_nodes(topology):
        gateway = Gateway(gateway_config(topology, node), rng=random.Random(1))
        for connection in starting_connections(topology, node):
            assert gateway.initiate(connection, 0.0)


def test_processing_and_replay_window_reach_both_ends():
    changes = {"dont_fragment": "set", "dscp": 46, "path_mtu": 1400, "dummies": "100ms"}
    overrides = {f"connections.site.processing.{key}": value for key, value in changes.items()}
    topology = load_topology("site-to-site").with_overrides(
        {**overrides, "connections.site.replay_window": 4096}
    )
    for node in ("gw1", "gw2"):
        config = gateway_config(topology, node)
        processing = config.policies[0].processing
        assert processing.dont_fragment is DontFragment.SET
        assert (processing.dscp, processing.path_mtu) == (46, 1400)
        assert processing.dummy_interval == pytest.approx(0.1)
        assert config.ike.connections[0].replay_window == 4096


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("processing.dscp", 64, "63"),
        ("processing.fragmentation", "never", "before"),
        ("processing.path_mtu", 100, "576"),
        ("processing.dummies", "0s", "0"),
        ("replay_window", 31, "32"),
    ],
)
def test_processing_that_makes_no_sense_is_refused_at_its_key(key, value, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        load_topology("site-to-site").with_overrides({f"connections.site.{key}": value})
    assert key in str(caught.value)
