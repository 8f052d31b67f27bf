"""The key `spd` of a node: entries, defaults and fragments (RFC 4301 sections 4.4.1 and 7.3)."""

import json

import pytest
import spd_lab

from ipseclab.errors import ConfigError
from ipseclab.ipsec.spd import Action, Direction, SpdSettings
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim import network


def with_node(**node):
    data = json.loads(json.dumps(load_topology("site-to-site").source.data))
    data["nodes"]["gw2"] = {**data["nodes"]["gw2"], **node}
    return parse_topology(json.dumps(data, indent=1))


@pytest.mark.parametrize(("gw1", "gw2", "flows"), spd_lab.CASES.values(), ids=spd_lab.CASES)
def test_what_passes_is_what_the_file_says(gw1, gw2, flows):
    trace = Trace()
    lab = parse_topology(spd_lab.text(gw1, gw2))
    network.run(lab, spd_lab.PLAN, seed=1, trace=trace)
    assert spd_lab.arrived(trace.records) == dict.fromkeys(flows, spd_lab.PROBES)


@pytest.mark.parametrize(
    ("gw1", "gw2", "ends"), spd_lab.ICMP_CASES.values(), ids=spd_lab.ICMP_CASES
)
def test_a_small_mtu_behind_a_gateway_is_no_black_hole_with_icmp_errors(gw1, gw2, ends):
    trace = Trace()
    lab = parse_topology(spd_lab.text(gw1, gw2, spd_lab.NARROW))
    network.run(lab, spd_lab.NARROW_PLAN, seed=1, trace=trace)
    assert spd_lab.transferred(trace.records) is ends


def test_entries_stand_before_those_of_connections_in_their_order():
    entries = [{"action": "discard"}, {"action": "bypass", "direction": "outbound"}]
    config = gateway_config(with_node(spd={"entries": entries}), "gw2")
    names = [policy.name for policy in config.policies]
    assert names[:2] == ["spd.entries[0]", "spd.entries[1]"]
    assert config.policies[0].action is Action.DISCARD
    assert config.policies[1].direction is Direction.OUTBOUND
    assert "spd.entries[0]" not in names[2:]


def test_without_the_key_all_is_as_it_was():
    assert with_node().nodes["gw2"].spd == SpdSettings()


@pytest.mark.parametrize(
    ("spd", "problem"),
    [
        (
            {"outbound_default": "protect"},
            "spd.outbound_default: 'protect' is unknown, expected one of ",
        ),
        ({"inbound": "bypass"}, "spd.inbound: unknown key, did you mean "),
        ({"entries": [{}]}, "spd.entries[0]"),
        (
            {"entries": [{"action": "protect"}]},
            "spd.entries[0].action: 'protect' is unknown, expected one of ",
        ),
        ({"entries": [{"action": "discard", "local": "10/8"}]}, "spd.entries[0].local"),
        (
            {"entries": [{"action": "discard", "local": "10.0.0.0/8", "remote": "2001:db8::/32"}]},
            "local and remote have no IP in common",
        ),
        ({"stateful_fragments": "often"}, "spd.stateful_fragments"),
    ],
)
def test_a_bad_entry_is_told_at_its_place(spd, problem):
    with pytest.raises(ConfigError) as refused:
        with_node(spd=spd)
    line = str(refused.value)
    assert problem in line
    assert "nodes.gw2" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"stack": "strongswan"}, "spd: of a node with stack strongswan, expected ipseclab"),
        ({"kind": "router"}, "spd: unknown key"),
    ],
)
def test_it_is_of_our_stack_alone(node, problem):
    with pytest.raises(ConfigError, match=problem):
        with_node(spd={}, **node)
