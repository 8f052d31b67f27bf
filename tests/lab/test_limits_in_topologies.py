"""Limits of a node's stack in topology files: cookies and puzzles at its thresholds."""

import json

import pytest

from ipseclab.errors import ConfigError
from ipseclab.ike.config import IkeLimits
from ipseclab.lab.plan import RunPlan
from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim import network


def limited(limits, **node):
    data = json.loads(json.dumps(load_topology("site-to-site").source.data))
    data["nodes"]["gw2"] = {**data["nodes"]["gw2"], **node, "limits": limits}
    return parse_topology(json.dumps(data, indent=1))


def told(limits):
    """What gw1 is told by gw2, and the difficulty of the puzzles that it solves."""
    trace = Trace()
    network.run(limited(limits), RunPlan(duration=5.0), seed=1, trace=trace)
    assert sum(record.event == "ike_established" for record in trace.records) == 2
    retried = [r.fields["reason"] for r in trace.records if r.event == "ike_init_retried"]
    return retried, [r.fields["difficulty"] for r in trace.records if r.event == "puzzle_solved"]


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ([], [])),
        ({"cookie_threshold": 0}, (["COOKIE"], [])),
        ({"cookie_threshold": 0, "puzzle_threshold": 0}, (["COOKIE"], [8])),
        ({"cookie_threshold": 1, "puzzle_threshold": 1, "half_open": 2}, ([], [])),
        ({"auth_puzzle_threshold": 0}, ([], [8])),
        ({"auth_puzzle_threshold": 1}, ([], [])),
        (
            {"cookie_threshold": 0, "puzzle_threshold": 0, "auth_puzzle_threshold": 0},
            (["COOKIE"], [8, 8]),
        ),
    ],
)
def test_cookies_and_puzzles_at_their_thresholds(limits, expected):
    assert told(limits) == expected


def test_what_is_not_said_is_as_usual():
    assert limited({}).nodes["gw2"].ike_limits == IkeLimits()
    assert limited({"half_open": 7, "cookie_threshold": 3}).nodes["gw2"].ike_limits == IkeLimits(
        half_open=7, cookie_threshold=3
    )


@pytest.mark.parametrize(
    ("limits", "node", "problem"),
    [
        ({"half_open": 0}, {}, r"nodes\.gw2\.limits\.half_open"),
        ({"cookie_threshold": -1}, {}, r"nodes\.gw2\.limits\.cookie_threshold"),
        ({"puzzle_threshold": 5}, {}, r"puzzle_threshold: 5, expected it from cookie_threshold"),
        ({"puzzle_threshold": 1024}, {}, r"below half_open \(1024\)"),
        ({"auth_puzzle_threshold": 1024}, {}, r"auth_puzzle_threshold: 1024, expected it below"),
        ({"auth_puzzle_threshold": -1}, {}, r"nodes\.gw2\.limits\.auth_puzzle_threshold"),
        ({"pause": 1}, {}, r"limits\.pause: unknown key"),
        ({}, {"stack": "strongswan"}, r"limits: of a node with stack strongswan"),
        ({}, {"stack": "none"}, r"limits: of a node with stack none"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(limits, node, problem):
    with pytest.raises(ConfigError, match=problem) as refused:
        limited(limits, **node)
    assert "\n" not in str(refused.value)
