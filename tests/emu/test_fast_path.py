"""The fast path in namespaces: TCP, UDP and pings, rekeys in mid-transfer, both encapsulations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.trace import read_trace

pytestmark = pytest.mark.netns

TOPOLOGY = """
nodes: {{h1: {{kind: host}}, h2: {{kind: host}}, g1: {{kind: gateway}}, g2: {{kind: gateway}}}}
links:
  - {{name: lan1, ends: [h1, g1], addresses: [10.1.0.2/24, 10.1.0.1/24]}}
  - {{name: wan, ends: [g1, g2], addresses: [192.0.2.1/24, 192.0.2.2/24]}}
  - {{name: lan2, ends: [g2, h2], addresses: [10.2.0.1/24, 10.2.0.2/24]}}
connections:
  - {{name: site, initiator: g1, responder: g2, psk: secret, ike: aes128gcm16-prfsha256-x25519,
     esp: {esp}, encapsulation: {encapsulation}}}
"""
OCTETS = 15_000_000
"""More than any of these machines carries in the time from a transfer's start to its rekey."""
LEAD = 0.05
REKEYS = (0.6, "rekey_child", "g1"), (0.9, "rekey_ike", "g2"), (1.2, "rekey_child", "g2")
PLAN = RunPlan(
    (
        *(
            Transfer(f"tcp{number}", "h1", "h2", start=at - LEAD, octets=OCTETS)
            for number, (at, _, _) in enumerate(REKEYS)
        ),
        Probe("udp", "h2", "h1", start=0.4, duration=2.0, rate=200, size=300),
        Ping("ping", "h1", "h2", start=0.4, count=20, interval=0.1),
    ),
    tuple(
        Action(at, action, node, arguments={"connection": "site"}) for at, action, node in REKEYS
    ),
    duration=7.0,
)
RUN = """
    from ipseclab.emu import network
    from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    with (OUT / "trace.jsonl").open("w") as sink:
        network.run(
            parse_topology({topology!r}), {plan!r}, seed=1, trace=Trace(sink), out=OUT,
            capture=False, fast_path=True,
        )
"""


@pytest.mark.parametrize(
    ("esp", "encapsulation", "trains"),
    [
        ("aes128gcm16-x25519", "forced", True),
        ("aes128gcm16-esn-x25519", "auto", True),
        ("aes128-sha256-x25519", "forced", False),
    ],
    ids=["udp", "protocol-50-esn", "a-suite-without-trains"],
)
def test_rekeys_in_mid_transfer_lose_nothing(
    sandboxed: Callable[[str], Any], tmp_path: Path, esp: str, encapsulation: str, trains: bool
) -> None:
    topology = TOPOLOGY.format(esp=esp, encapsulation=encapsulation)
    done = sandboxed(RUN.format(topology=topology, plan=PLAN))
    assert done.code == 0, done.log
    records = list(read_trace(tmp_path / "trace.jsonl"))
    by_event = {
        name: [r for r in records if r.event == name] for name in {r.event for r in records}
    }
    transferred = by_event["transfer_done"]
    assert [record.fields["octets"] for record in transferred] == [OCTETS] * len(REKEYS)
    ends = {record.fields["flow"]: record.t for record in transferred}
    assert all(ends[f"tcp{number}"] > at for number, (at, _, _) in enumerate(REKEYS))
    assert len(by_event["rekey_done"]) >= len(REKEYS)
    world = json.loads((tmp_path / "world.json").read_text())
    # What a busy machine's queues had no room for is none of the gateways' doing.
    spared = sum(world["overruns"].values())
    for sent, received in (("probe_sent", "probe_received"), ("ping_sent", "ping_received")):
        assert len(by_event[sent]) - len(by_event[received]) <= spared, received
    assert "packet_dropped" not in by_event
    counters = {name: gateway["counters"] for name, gateway in world["gateways"].items()}
    assert bool(counters["g1"]["trains_out"]) is trains
    if encapsulation == "forced":
        assert bool(counters["g2"]["trains_in"]) is trains
