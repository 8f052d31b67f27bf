"""The key `fast_path` of a node with our stack."""

import json

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.topology import load_topology, parse_topology


def with_node(**node):
    data = json.loads(json.dumps(load_topology("site-to-site").source.data))
    data["nodes"]["gw2"] = {**data["nodes"]["gw2"], **node}
    return parse_topology(json.dumps(data, indent=1))


@pytest.mark.parametrize(("node", "expected"), [({}, True), ({"fast_path": False}, False)])
def test_trains_are_for_who_does_not_turn_them_off(node, expected):
    assert with_node(**node).nodes["gw2"].fast_path is expected
    assert with_node(**node).nodes["gw1"].fast_path


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({"fast_path": "perhaps"}, r":\d+:\d+: nodes\.gw2\.fast_path"),
        ({"fast_path": True, "stack": "strongswan"}, r"fast_path: of a node with stack strongswan"),
        ({"kind": "router", "fast_path": True}, r"fast_path: unknown key"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(node, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        with_node(**node)
    assert "\n" not in str(refused.value)
