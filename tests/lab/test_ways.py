"""The links that a flow crosses."""

import pytest

from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.ways import link_ways

FORWARD, BACKWARD = "forward", "backward"


@pytest.mark.parametrize("name", ["site-to-site", "site-to-site-nat", "double-nat", "host-to-host"])
def test_there_and_back_are_the_same_links_in_the_other_direction(name):
    """Also where a NAT lets nobody in who was not asked."""
    topology = load_topology(name)
    there, back = link_ways(topology, "h1", "h2"), link_ways(topology, "h2", "h1")
    assert len(there) == len(set(there)) == len(topology.links)
    other = {FORWARD: BACKWARD, BACKWARD: FORWARD}
    assert back == tuple((link, other[direction]) for link, direction in reversed(there))


def test_directions_are_those_of_the_file():
    assert link_ways(load_topology("site-to-site"), "h1", "h2") == (
        ("lan1", FORWARD),
        ("wan", FORWARD),
        ("wan2", FORWARD),
        ("lan2", FORWARD),
    )


DETOUR = """
nodes:
  h1: {kind: host}
  s1: {kind: router}
  gw1: {kind: gateway}
  gw2: {kind: gateway}
  s2: {kind: router}
  h2: {kind: host}
links:
  - {name: a, ends: [h1, s1], addresses: [10.1.0.1/24, 10.1.0.2/24]}
  - {name: short, ends: [s1, s2], addresses: [10.9.0.1/24, 10.9.0.2/24]}
  - {name: b, ends: [s1, gw1], addresses: [10.2.0.1/24, 10.2.0.2/24]}
  - {name: wan, ends: [gw2, gw1], addresses: [192.0.2.2/24, 192.0.2.1/24]}
  - {name: c, ends: [gw2, s2], addresses: [10.3.0.1/24, 10.3.0.2/24]}
  - {name: d, ends: [s2, h2], addresses: [10.4.0.1/24, 10.4.0.2/24]}
connections:
  - {initiator: gw1, responder: gw2, psk: secret secret, local_ts: [10.1.0.0/24],
     remote_ts: [10.4.0.0/24]}
"""


def test_what_is_protected_goes_by_its_gateways():
    topology = parse_topology(DETOUR)
    there = link_ways(topology, "h1", "h2")
    assert [link for link, _ in there] == ["a", "b", "wan", "c", "d"]
    assert dict(there)["wan"] == BACKWARD
    assert [link for link, _ in link_ways(topology, "h2", "h1")] == ["d", "c", "wan", "b", "a"]
    assert [link for link, _ in link_ways(topology, "s1", "s2")] == ["short"]
