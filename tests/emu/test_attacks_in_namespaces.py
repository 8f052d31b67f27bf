"""An attacker between two gateways in namespaces: what it did against what the receiver counted,
and against what the simulator says of the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ipseclab.lab.plan import Probe, RunPlan
from ipseclab.lab.topology import parse_topology
from ipseclab.lab.trace import Trace, TraceRecord, read_trace
from ipseclab.sim import network as simulator

pytestmark = pytest.mark.netns

#   h1 - gw1 - mal - gw2 - h2
ATTACKED = """
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  mal: {kind: attacker}
  gw2: {kind: gateway}
  h2: {kind: host}
links:
  - {name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}
  - {name: left, ends: [gw1, mal], addresses: [192.0.2.1/24, 192.0.2.2/24]}
  - {name: right, ends: [mal, gw2], addresses: [198.51.100.2/24, 198.51.100.1/24]}
  - {name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24]}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret, SETTINGS}
attacks:
  - {node: mal, name: spy, do: read, DATA}
  - {node: mal, name: bits, do: alter, DATA, field: payload, nth: [10, 11, 12]}
  - {node: mal, name: again, do: replay, DATA, nth: [20, 40], times: 3, delay: 30ms}
  - {node: mal, name: near, do: reorder, DATA, nth: 50, after: 30}
  - {node: mal, name: far, do: reorder, DATA, nth: 60, after: 64}
  - {node: mal, name: guess, do: forge, DATA, nth: 130, times: 5}
  - {node: mal, name: in, do: insert, DATA, nth: 140, times: 4, sender: h1, receiver: h2}
  - {node: mal, name: copy, do: spoof, DATA, nth: 150, sender: 10.1.0.66}
  - {node: mal, name: gone, do: drop, DATA, nth: [160, 161]}
  - {node: mal, name: late, do: delay, DATA, nth: 165, delay: 30ms}
"""
STRUCK = {
    "spy": 200,
    "bits": 3,
    "again": 6,
    "near": 1,
    "far": 1,
    "guess": 5,
    "in": 4,
    "copy": 1,
    "gone": 2,
    "late": 1,
}
PLAN = RunPlan((Probe("probe", "h1", "h2", 1.0, 2.0, 100.0, 200),), (), 4.0)
RUN = """
    from ipseclab.emu import network
    from ipseclab.lab.plan import Probe, RunPlan
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    with (OUT / "trace.jsonl").open("w") as sink:
        network.run(parse_topology({text!r}), {plan!r}, seed=3, trace=Trace(sink), out=OUT)
"""


def topology_text(settings: str) -> str:
    return ATTACKED.replace("SETTINGS", settings).replace("DATA", "traffic: data, link: left")


@pytest.fixture
def both(sandboxed: Callable[[str], Any], tmp_path: Path) -> Callable[[str], Any]:
    """The run in namespaces, and the same in the simulator."""

    def one(settings: str) -> tuple[Sequence[TraceRecord], Sequence[TraceRecord]]:
        text = topology_text(settings)
        done = sandboxed(RUN.format(text=text, plan=PLAN))
        assert done.code == 0, done.log
        trace = Trace()
        simulator.run(parse_topology(text), PLAN, seed=3, trace=trace)
        return list(read_trace(tmp_path / "trace.jsonl")), trace.records

    return one


def counted(records: Sequence[TraceRecord]) -> dict[tuple[Any, ...], int]:
    """What was done, read, dropped and delivered, without times."""
    seen: Counter[tuple[Any, ...]] = Counter()
    for record in records:
        fields = record.fields
        match record.event:
            case "attack":
                seen["attack", fields["attack"], fields["traffic"]] += 1
                seen["clear",] += int(fields.get("clear") or 0)
            case "packet_dropped" | "attacker_dropped":
                seen[record.node, record.event, fields["reason"]] += 1
            case "probe_received":
                seen["delivered", fields.get("source")] += 1
            case "probe_damaged" | "probe_forged":
                seen[record.event,] += 1
    return {key: count for key, count in seen.items() if count}


def test_the_receivers_counters_are_what_the_attacker_did(both: Callable[[str], Any]) -> None:
    emulated, simulated = (counted(records) for records in both("encapsulation: auto"))
    assert emulated == {
        **{("attack", name, "esp"): count for name, count in STRUCK.items()},
        ("gw2", "packet_dropped", "bad_icv"): 3 + 5,
        ("gw2", "packet_dropped", "replayed"): 6 + 1 + 1,
        ("gw2", "packet_dropped", "not_encapsulated"): 4,
        ("delivered", None): 200 - 3 - 1 - 2,
    }
    assert emulated == simulated


def test_without_ipsec_it_all_goes_through(both: Callable[[str], Any]) -> None:
    emulated, simulated = (counted(records) for records in both("mode: none"))
    assert emulated == {
        **{("attack", name, "plain"): count for name, count in STRUCK.items()},
        ("clear",): 200 * 200,
        ("delivered", None): 200 - 3 - 2 + 6,
        ("delivered", "10.1.0.66"): 1,
        ("probe_damaged",): 3,
        ("probe_forged",): 5 + 4,
    }
    assert emulated == simulated


IDLE = """
    from ipseclab.emu import network
    from ipseclab.lab.attacks import NothingAttacked
    from ipseclab.lab.plan import RunPlan
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    try:
        network.run(parse_topology({text!r}), RunPlan(duration=0.2), seed=3, trace=Trace(), out=OUT)
    except NothingAttacked as problem:
        (OUT / "said").write_text(str(problem))
"""


def test_an_attack_that_befalls_nothing_ends_the_run(
    sandboxed: Callable[[str], Any], tmp_path: Path
) -> None:
    done = sandboxed(IDLE.format(text=topology_text("mode: none")))
    assert done.code == 0, done.log
    assert "attack 'spy' at mal befell no packet (0 crossed" in (tmp_path / "said").read_text()
