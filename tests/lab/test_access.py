"""`pool`, `virtual_address`, `dns`, `domains` of a connection: what gateways are told, and what is
refused, with its place."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.topology import load_topology
from ipseclab.lab.ways import link_ways


def changed(**changes):
    overrides = {key.replace("__", "."): value for key, value in changes.items()}
    return load_topology("remote-access-pool").with_overrides(overrides)


def test_client_offers_anything_and_the_gateway_its_pool():
    topology = changed(connections__0__pool=["10.9.0.0/24", "2001:db8:9::/64"])
    (client,) = gateway_config(topology, "alice").ike.connections
    assert [str(ts) for ts in client.own_ts] == ["0.0.0.0/0", "::/0"]
    assert client.address_request.ip6
    assert client.provision is None
    gateway = gateway_config(topology, "gate").ike.connections[0]
    assert [str(ts) for ts in gateway.peer_ts] == ["10.9.0.0/24", "2001:db8:9::/64"]
    assert gateway.provision.required
    assert gateway.provision.subnets == ("10.2.0.0/24",)


def test_clients_of_one_pool_share_a_policy_and_others_do_not():
    config = gateway_config(load_topology("remote-access-pool"), "gate")
    assert [policy.name for policy in config.policies] == ["alice", "own-icmp"]
    assert [connection.policy for connection in config.ike.connections] == ["alice", "alice"]
    config = gateway_config(changed(connections__1__pool="10.8.0.0/24"), "gate")
    assert [policy.name for policy in config.policies] == ["alice", "bob", "own-icmp"]


def test_client_that_does_not_ask_speaks_for_itself():
    topology = changed(connections__0__virtual_address=False)
    (client,) = gateway_config(topology, "alice").ike.connections
    assert client.address_request is None
    assert [str(ts) for ts in client.own_ts] == ["198.51.100.2/32"]


def test_packets_of_a_client_go_by_its_own_gateway_and_nobody_elses():
    topology = load_topology("remote-access-pool")
    assert [link for link, _ in link_ways(topology, "bob", "server")] == ["hotel", "core", "lan"]
    assert [link for link, _ in link_ways(topology, "server", "alice")] == ["lan", "core", "home"]


def test_router_behind_the_gateway_knows_where_the_pool_is():
    topology = load_topology("remote-access-pool")
    assert [str(route.network) for route in topology.routes("server")] == ["0.0.0.0/0"]
    assert "10.9.0.0/24" in [str(route.network) for route in topology.routes("inet")]


BAD = {
    "no room": ({"pool": "10.9.0.1/32"}, "pool", "expected a network with room for hosts"),
    "no network": ({"pool": "ten"}, "pool", "'ten' is not usable"),
    "a subnet": ({"pool": "10.2.0.0/25"}, "pool", "overlaps 10.2.0.0/24, the subnet of 'lan'"),
    "IPv6 alone": ({"pool": "2001:db8::/64"}, "pool", "no IPv4 network"),
    "transport": ({"mode": "transport"}, "pool", "expected mode: tunnel"),
    "selectors": ({"local_ts": "10.1.0.0/24"}, "local_ts", "expected one of both"),
    "on demand": ({"start": "on-demand"}, "start", "expected at-once"),
    "no server": ({"dns": []}, "domains", "expected a name server too"),
    "a domain": ({"domains": "a b"}, "domains", "expected a domain like corp.example.org"),
    "a server": ({"dns": "ns.example.org"}, "dns", "expected an IP address like 10.2.0.53"),
    "no pool": ({"pool": []}, "dns", "without a pool"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_is_told_with_its_place(what):
    changes, key, problem = BAD[what]
    with pytest.raises(ConfigError) as caught:
        changed(**{f"connections__alice__{name}": value for name, value in changes.items()})
    assert key in str(caught.value.place)
    assert problem in str(caught.value)


def test_place_is_a_line_and_a_column():
    topology = load_topology("remote-access-pool")
    assert "remote-access-pool.yaml" in topology.source.file
    with pytest.raises(ConfigError) as caught:
        changed(connections__bob__pool="10.9.0.0/25")
    assert "overlaps 10.9.0.0/24, the pool of 'alice'" in str(caught.value)


def test_session_keys_reach_both_ends():
    keys = {"resumption": True, "crash_detection": True, "reauthentication": "1h",
            "break_before_make": True}  # fmt: skip
    topology = changed(**{f"connections__0__{key}": value for key, value in keys.items()})
    for node in ("alice", "gate"):
        config = gateway_config(topology, node, secret=b"s" * 32)
        found = config.ike.connections[0]
        assert (found.resumption, found.crash_detection) == (3600.0, True)
        assert (found.reauthentication, found.break_before_make) == (3600.0, True)
        assert config.ike.secret == b"s" * 32
