"""A peer that no one here wrote: strongSwan in each role, with and without NAT, three suites.

Each case is one life of a tunnel (`measure.interop.life`): handshake, CHILD_SA and IKE_SA
rekey by each side, delete of the CHILD_SA and of the IKE_SA by each side, and traffic through what
stands after each.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from worlds import NETNS, run_in

from ipseclab.emu.sandbox import run_in_sandbox
from ipseclab.lab.keys import ESP_TABLE, IKE_TABLE, KEYS_FOLDER
from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.measure.interop.cells import NAT, SITES, End, Step, Tunnel
from ipseclab.measure.interop.life import ECHOES, LIFE_FILE, TRACE_FILE, write_order
from ipseclab.measure.interop.runs import LIFE_MODULE
from ipseclab.measure.view import pair_key

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

GROUNDS = {"no NAT": SITES, "NAT": NAT}
SUITES = {
    "AES-GCM, X25519": ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519"),
    "AES-CBC and HMAC, MODP-2048": ("aes256-sha256-prfsha256-modp2048", "aes256-sha256-modp2048"),
    "ChaCha20-Poly1305, ECP-384": (
        "chacha20poly1305-prfsha384-ecp384",
        "chacha20poly1305-ecp384",
    ),
}
STEPS = [
    ("initiate", "gw1"),
    ("rekey_child", "gw1"),
    ("rekey_child", "gw2"),
    ("rekey_ike", "gw1"),
    ("rekey_ike", "gw2"),
    ("delete_child", "gw1"),
    ("initiate", "gw1"),
    ("delete_child", "gw2"),
    ("initiate", "gw2"),
    ("delete_ike", "gw1"),
    ("initiate", "gw1"),
    ("delete_ike", "gw2"),
    ("initiate", "gw1"),
    ("rekey_child", "gw1"),
]
REFUSALS = ("malformed", "no_sa", "bad_icv", "replayed", "selector_mismatch", "no_policy")


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("nat", GROUNDS)
@pytest.mark.parametrize("initiator", End, ids=["ours", "strongSwan's"])
def test_strongswan_does_every_exchange_with_us(
    initiator: End, nat: str, suite: str, tmp_path: Path
) -> None:
    ike, esp = SUITES[suite]
    settings = (("connections.site.ike", ike), ("connections.site.esp", esp))
    tunnel = Tunnel("peer", suite, initiator, _steps(initiator), GROUNDS[nat], settings)
    ours, theirs = tunnel.node_of(End.WE), tunnel.node_of(End.IT)
    write_order(tmp_path, tunnel)
    code = run_in_sandbox(LIFE_MODULE, str(tmp_path), out=tmp_path)
    assert code == 0, _why(tmp_path)
    steps = json.loads((tmp_path / LIFE_FILE).read_text(encoding="utf-8"))["steps"]

    _check_steps(steps)
    records = list(read_trace(tmp_path / TRACE_FILE))
    _check_trace([record for record in records if record.node == ours], ike, esp)
    _check_agreement(records, ours, theirs)
    _check_keys(tmp_path, (tmp_path / "logs" / theirs / "charon.log").read_text(errors="replace"))


def _steps(initiator: End) -> tuple[Step, ...]:
    ends = {"gw1": initiator, "gw2": initiator.other}
    with_tcp = (0, len(STEPS) - 1)
    return tuple(
        Step(action, ends[node], transfers=index in with_tcp)
        for index, (action, node) in enumerate(STEPS)
    )


def _why(folder: Path) -> str:
    """What is known of a life that did not come to its end."""
    found = [path for path in (folder / "logs" / "worker.log", folder / LIFE_FILE) if path.exists()]
    return "\n".join(path.read_text(encoding="utf-8") for path in found)


def _check_steps(steps: list[dict[str, Any]]) -> None:
    """Each step settled with new SAs where it should, and the traffic after it came through."""
    assert [(step["what"], step["by"]) for step in steps] == STEPS
    for before, step in zip([None, *steps], steps, strict=False):
        where = f"{step['what']} by {step['by']}"
        assert step["settled"], where
        if step["what"].startswith("delete"):
            continue
        assert list(step["echoes"].values()) == [ECHOES, ECHOES], where
        assert all(step["transfers"].values()), where
        if before is None:
            continue
        old, new = before["standings"]["gw1"], step["standings"]["gw1"]
        if step["what"] == "rekey_ike":
            assert new["ikes"] != old["ikes"], where
            assert new["children"] == old["children"], where
        elif step["what"] == "rekey_child":
            assert new["ikes"] == old["ikes"], where
            assert new["children"] != old["children"], where
    assert len(steps[0]["transfers"]) == len(steps[-1]["transfers"]) == 2


def _check_trace(ours: list[TraceRecord], ike: str, esp: str) -> None:
    """What our end traced: each exchange once, the suites asked for, nothing refused."""
    counted = Counter(record.event for record in ours)
    assert counted["ike_established"] == 3
    assert counted["ike_rekeyed"] == 2
    assert counted["auth_failed"] == 0
    gone = Counter(r.fields["reason"] for r in ours if r.event in ("ike_gone", "child_gone"))
    assert gone["rekeyed"] == 2 + 3
    ready = [r for r in ours if r.event == "child_ready"]
    assert len(ready) == 3 + 3 + 2
    assert all(r.fields["encapsulated"] is True and r.fields["mode"] == "tunnel" for r in ready)
    assert {r.fields["proposal"] for r in ours if r.event == "ike_established"} == {ike}
    # Without its own key exchange only where IKE_AUTH made it (RFC 7296 section 1.2).
    assert {r.fields["proposal"] for r in ready} == {esp, esp.rpartition("-")[0]}
    dropped = Counter(r.fields["reason"] for r in ours if r.event == "packet_dropped")
    assert not [reason for reason in REFUSALS if dropped[reason]], dropped
    sent = [r for r in ours if r.event == "ike_sent"]
    assert not [r for r in sent if r.fields["retransmission"]]


def _check_keys(folder: Path, charon: str) -> None:
    """Its log is among the results, and says the same keys as our tables."""
    assert "strongSwan 5.9" in charon
    ike = [row for table in _rows(folder, IKE_TABLE) for row in (table[2], table[3])]
    esp = [row[5].removeprefix("0x") for row in _rows(folder, ESP_TABLE)]
    assert len(ike) == 2 * (3 + 2)
    assert sorted(ike) == sorted(_dumped(charon, r"Sk_e[ir] secret"))
    assert len(esp) == 2 * (3 + 3 + 2)
    assert sorted(esp) == sorted(_dumped(charon, r"encryption (?:initiator|responder) key"))


def _rows(folder: Path, table: str) -> list[list[str]]:
    lines = (folder / KEYS_FOLDER / table).read_text(encoding="ascii").splitlines()
    return list(csv.reader(line.removeprefix("# ") for line in lines))


def _dumped(log: str, what: str) -> list[str]:
    """The octets of each dump of that name, as hexadecimal digits."""
    dumps = re.findall(rf"\] {what} => \d+ bytes @ \S+\n((?:.*\]\s+\d+: .*\n)+)", log)
    lines = (re.findall(r"\]\s+\d+: ((?:[0-9A-F]{2} )+)", dump) for dump in dumps)
    return ["".join(line).replace(" ", "").lower() for line in lines]


def _check_agreement(records: list[TraceRecord], ours: str, theirs: str) -> None:
    """Both ends' traces name the same SAs."""

    def pairs(node: str) -> list[tuple[str, ...]]:
        found = [r for r in records if r.node == node and r.event == "child_ready"]
        return [pair_key(r) for r in found]

    assert sorted(pairs(ours)) == sorted(pairs(theirs))


@pytest.mark.parametrize("theirs", ["gw1", "gw2"], ids=["it initiates", "we initiate"])
def test_times_of_what_strongswan_begins_by_itself(theirs: str, tmp_path: Path) -> None:
    """Its handshake, and rekeys by its own timers, while ours are kept from any."""
    ours = {"gw1": "gw2", "gw2": "gw1"}[theirs]
    short = {"seconds": 4, "margin": 0.5, "jitter": 0}
    overrides: dict[str, object] = {
        f"nodes.{theirs}.stack": "strongswan",
        "connections.site.encapsulation": "forced",
        "connections.site.lifetimes.child": short,
        "links.wan.delay": "10ms",
        "faults": [{"node": ours, "do": "ignore_soft_expiry"}],
    }
    topology = load_topology("site-to-site").with_overrides(overrides)
    plan = RunPlan((Ping("ping", "h1", "h2", start=0.8, interval=0.1, count=30),), (), duration=5.0)
    run = run_in(NETNS, topology, plan, tmp_path / "run")
    assert len(run.events("ping_received")) == 30
    started = run.events("ike_started", node=theirs)
    assert len(started) == (theirs == "gw1")
    time = run.metrics["handshake_time"]
    # Two exchanges of 20 ms each at least; what more is the machine's.
    assert isinstance(time, float)
    assert 0.04 <= time < 1.0
    begun = run.events("rekey_started", node=theirs)
    olds = {record.fields["spi_in"] for record in run.events("child_ready", node=theirs)}
    assert begun
    assert {record.fields["old"] for record in begun} <= olds
    assert run.metrics["rekeys"] == float(len(begun))
    length = run.metrics["rekey_time"]
    assert isinstance(length, float)
    assert 0.02 <= length < 2.0
