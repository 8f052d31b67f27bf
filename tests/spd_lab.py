"""A lab for what a node's SPD has beside its connections, and what passes in it, in any world."""

from __future__ import annotations

import json
from collections.abc import Iterable

from ipseclab.lab.plan import Probe, RunPlan, Transfer
from ipseclab.lab.trace import TraceRecord

#   h1 - gw1 - r1 - gw2 - h2
#               |
#              h3
TOPOLOGY = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway, spd: GW1}
  r1: {kind: router}
  h3: {kind: host}
  gw2: {kind: gateway, spd: GW2}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}
  - {name: wan1, ends: [gw1, r1], addresses: [192.0.2.1/24, 192.0.2.2/24]}
  - {name: side, ends: [r1, h3], addresses: [203.0.113.1/24, 203.0.113.3/24]}
  - {name: wan2, ends: [r1, gw2], addresses: [198.51.100.2/24, 198.51.100.1/24]}
  - {name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24]}
connections:
  - name: site
    initiator: gw1
    responder: gw2
    psk: secret
    local_ts: ["10.1.0.0/24[udp/4712-4800]"]
    remote_ts: ["10.2.0.0/24[udp/4711]"]
"""
PLAN = RunPlan(
    (
        Probe("protected", "h1", "h2", 1.0, 0.5, 20.0, 64),
        Probe("in-fragments", "h1", "h2", 1.0, 0.5, 20.0, 2_500),
        Probe("out", "h1", "h3", 1.0, 0.5, 20.0, 64),
        Probe("in", "h3", "h1", 1.0, 0.5, 20.0, 64),
    ),
    duration=2.5,
)
PROBES = 10
"""Of each flow."""

#   h1 - gw1 === gw2 - r2 - r3 - h2: r2 says of the small MTU behind it, from an address of its own
NARROW = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway, spd: GW1}
  gw2: {kind: gateway, spd: GW2}
  r2: {kind: router}
  r3: {kind: router}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}
  - {name: wan, ends: [gw1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24]}
  - {name: between, ends: [gw2, r2], addresses: [10.3.0.1/24, 10.3.0.2/24]}
  - {name: narrow, ends: [r2, r3], addresses: [10.4.0.1/24, 10.4.0.2/24], mtu: 900}
  - {name: lan2, ends: [r3, h2], addresses: [10.2.0.1/24, 10.2.0.10/24]}
connections:
  - name: site
    initiator: gw1
    responder: gw2
    psk: secret
    local_ts: 10.1.0.0/24
    remote_ts: 10.2.0.0/24
"""
NARROW_PLAN = RunPlan((Transfer("bulk", "h1", "h2", 1.0, octets=60_000),), duration=4.0)
ERRORS = {"icmp_errors": True}

# What gw1 and gw2 are told, and whether TCP learns the path MTU from the router's ICMP message.
ICMP_CASES: dict[str, tuple[dict[str, object], dict[str, object], bool]] = {
    "at both": (ERRORS, ERRORS, True),
    "at the sender of errors": ({}, ERRORS, False),
    "at none": ({}, {}, False),
}

STATEFUL = {"stateful_fragments": True}
FROM_H3 = {"action": "bypass", "direction": "inbound", "remote": "203.0.113.3/32[udp/4711-4800]"}
TO_H2 = {"action": "discard", "local": "10.1.0.0/24", "remote": ["10.2.0.10/32[udp]"]}

# What gw1 and gw2 are told, and the flows that arrive then: all others are dropped to the last.
CASES: dict[str, tuple[dict[str, object], dict[str, object], set[str]]] = {
    "nothing": ({}, {}, {"protected"}),
    "outbound": ({"outbound_default": "bypass"}, {}, {"protected", "out"}),
    "inbound": ({"inbound_default": "bypass"}, {}, {"protected", "in"}),
    "entry": ({"entries": [FROM_H3]}, {}, {"protected", "in"}),
    "entry before connections": ({"entries": [TO_H2]}, {}, set()),
    "fragments at both": (STATEFUL, STATEFUL, {"protected", "in-fragments"}),
    "fragments at one": (STATEFUL, {}, {"protected"}),
    "all": (
        {"entries": [FROM_H3], "outbound_default": "bypass", **STATEFUL},
        STATEFUL,
        {"protected", "in-fragments", "out", "in"},
    ),
}


def text(gw1: dict[str, object], gw2: dict[str, object], topology: str = TOPOLOGY) -> str:
    """The topology, the two told that."""
    return topology.replace("GW1", json.dumps(gw1)).replace("GW2", json.dumps(gw2))


def arrived(records: Iterable[TraceRecord]) -> dict[str, int]:
    """How many probes of each flow came, flows without any left out."""
    found: dict[str, int] = {}
    for record in records:
        if record.event == "probe_received":
            name = str(record.fields["flow"])
            found[name] = found.get(name, 0) + 1
    return found


def transferred(records: Iterable[TraceRecord]) -> bool:
    """Whether the transfer came to its end."""
    return any(record.event == "transfer_done" for record in records)
