"""The fast path in namespaces: TCP, UDP and pings, rekeys in mid-transfer, both encapsulations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipseclab.ike.config import NAT_T_PORT
from ipseclab.lab.pcapng import read_pcapng
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.trace import read_trace
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import checksum, decode_ipv4_header, pseudo_header_checksum

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
OCTETS = 8_000_000
"""More than any of these machines carries in the time from a transfer's start to its rekey."""
LEAD = 0.03
WIRE_MTU = 1500
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
    duration=9.0,
)
RUN = """
    from ipseclab.emu import network
    from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    with (OUT / "trace.jsonl").open("w") as sink:
        network.run(
            parse_topology({topology!r}), {plan!r}, seed=1, trace=Trace(sink), out=OUT
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
    assert bool(counters["g2"]["trains_in"]) is trains
    assert_capture_shows_packets(tmp_path, {n: c["packets_out"] for n, c in counters.items()})


def assert_capture_shows_packets(folder: Path, sent: dict[str, int]) -> None:
    """Every packet as it would be on a wire, and no more of them than the gateways have sent; a
    busy machine's recorder may miss some."""
    seen = dict.fromkeys(sent, 0)
    with (folder / "capture.pcapng").open("rb") as stream:
        for found in read_pcapng(stream):
            packet = found.packet
            assert len(packet) <= WIRE_MTU
            header = decode_ipv4_header(packet)
            assert header.total_length == len(packet)
            assert checksum(packet[: header.header_length]) == 0
            payload = packet[header.header_length :]
            if header.protocol == IpProtocol.UDP and payload[6:8] != b"\0\0":
                ends = packet[12:16], packet[16:20]
                assert pseudo_header_checksum(*ends, IpProtocol.UDP, payload) == 0
            own = f"g{packet[15]}"
            if found.interface.startswith(own) and is_esp(header.protocol, payload):
                seen[own] += 1
    assert all(0.9 * sent[name] < seen[name] <= sent[name] for name in sent), (seen, sent)


def is_esp(protocol: int, payload: bytes) -> bool:
    """True for protocol 50, and for ESP in UDP."""
    if protocol == IpProtocol.ESP:
        return True
    return payload[:2] == NAT_T_PORT.to_bytes(2, "big") and payload[8:12] not in (bytes(4), b"\xff")


NEVER_IN_TRAINS = """
    from ipseclab.emu.lab import Lab
    from ipseclab.lab.topology import parse_topology
    lab = Lab(parse_topology({topology!r}), seed=1, out=OUT)
    lab.build()
    lab.start_nodes()
    found = {{name: "trains_out" in lab.report(name).counters for name in lab.gateways}}
    print(found, lab._keeps_offloads(lab.topology.nodes["h1"].interfaces[0]))
"""


def test_a_node_that_wants_no_trains_has_none(sandboxed: Callable[[str], Any]) -> None:
    topology = TOPOLOGY.format(esp="aes128gcm16", encapsulation="auto").replace(
        "g1: {kind: gateway}", "g1: {kind: gateway, fast_path: false}"
    )
    done = sandboxed(NEVER_IN_TRAINS.format(topology=topology))
    assert done.code == 0, done.log
    assert "{'g1': False, 'g2': True} True" in done.log


def test_boxes_get_frames_as_they_are_on_a_wire(sandboxed: Callable[[str], Any]) -> None:
    topology = """
nodes:
  h1: {kind: host}
  n: {kind: nat, outside: wan}
  h2: {kind: host}
links:
  - {name: lan, ends: [h1, n], addresses: [10.1.0.2/24, 10.1.0.1/24]}
  - {name: wan, ends: [n, h2], addresses: [192.0.2.1/24, 192.0.2.2/24]}
"""
    done = sandboxed(NEVER_IN_TRAINS.format(topology=topology))
    assert done.code == 0, done.log
    assert "{} False" in done.log
