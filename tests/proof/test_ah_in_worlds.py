"""AH in both worlds: tunnel and transport mode, and why it passes no NAT (RFC 3715 section 2.1)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console
from worlds import NETNS, SIM, at, run_in

from ipseclab.crypto.cipher import NULL_CIPHER
from ipseclab.crypto.integrity import AH_INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.lab.plan import Ping, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology
from ipseclab.measure.overhead import OVERHEAD_PARTS, ah_overhead
from ipseclab.present.decode import decode_capture
from ipseclab.registry import IntegId

pytestmark = pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])

PROBE_OCTETS = 200


def _plan(**actions: float) -> RunPlan:
    return RunPlan(
        (
            Ping("ping", "h1", "h2", start=0.6, interval=0.1, count=5),
            Probe("probe", "h2", "h1", start=0.6, duration=1.5, rate=50, size=PROBE_OCTETS),
            Transfer("bulk", "h1", "h2", start=0.7, octets=300_000),
        ),
        duration=3.5,
    )


@pytest.mark.parametrize(
    ("name", "connection", "end", "tunnel"),
    [("site-to-site", "site", "gw1", True), ("host-to-host", "hosts", "h1", False)],
    ids=["tunnel", "transport"],
)
@pytest.mark.parametrize("integrity", ["sha256", "aes128gmac"])
def test_traffic_goes_in_ah_across_rekeys(
    world: str,
    name: str,
    connection: str,
    end: str,
    tunnel: bool,
    integrity: str,
    tmp_path: Path,
) -> None:
    topology = load_topology(name).with_overrides(
        {
            f"connections.{connection}.protocol": "ah",
            f"connections.{connection}.ah": f"{integrity}-x25519",
        }
    )
    plan = _plan()
    plan = RunPlan(plan.flows, (at(1.2, "rekey_child", end, connection),), plan.duration)
    run = run_in(world, topology, plan, tmp_path / "run")
    ready = run.events("child_ready")
    assert len(ready) == 4
    assert {r.fields["protocol"] for r in ready} == {"ah"}
    assert len(run.events("ping_received")) == 5
    assert run.metrics["probe_lost"] == run.metrics["rekey_lost"] == 0
    assert run.metrics["rekeys"] == 1
    (done,) = run.events("transfer_done")
    assert done.fields["octets"] == 300_000
    # Nothing but TCP's first segments, which learn the tunnel's MTU.
    assert {r.fields["reason"] for r in run.events("packet_dropped")} <= {"too_big"}
    # The octets on the wire are those of the formats.
    number = IntegId.AUTH_HMAC_SHA2_256_128 if integrity == "sha256" else IntegId.AUTH_AES_128_GMAC
    suite = Suite(NULL_CIPHER, AH_INTEGRITIES[number])
    expected = ah_overhead(suite, tunnel=tunnel, transport=8)
    for part in OVERHEAD_PARTS:
        assert run.metrics[f"overhead.{part}"] == getattr(expected, part), part
    # And `decode` shows what is inside, as AH hides nothing.
    with (tmp_path / "decoded.txt").open("w") as sink:
        decode_capture(run.folder / "capture.pcapng", None, Console(file=sink, width=100))
    text = (tmp_path / "decoded.txt").read_text()
    assert re.search(r"AH SPI [0-9a-f]{8} sequence 1 ", text)
    assert re.search(rf"IP protocol 51, .*ICV {expected.icv} octets", text)
    inner = "UDP 10.2.0.10 > 10.1.0.10 " if tunnel else "UDP "
    assert f"{inner}" in text
    assert "0 ESP packets" in text


def test_a_nat_knows_no_ports_in_ah(world: str, tmp_path: Path) -> None:
    """IKE gets through in UDP and agrees on AH; the NAT then has no place for protocol 51."""
    topology = load_topology("site-to-site-nat").with_overrides({"connections.site.protocol": "ah"})
    run = run_in(world, topology, _plan(), tmp_path / "run")
    assert len(run.events("child_ready")) == 2
    assert {r.fields["encapsulated"] for r in run.events("child_ready")} == {False}
    assert not run.events("ping_received", "probe_received", "transfer_octets")
    drops = run.events("nat_dropped")
    assert {(r.fields["reason"], r.fields["protocol"]) for r in drops} == {("protocol", "ah")}
    assert run.metrics["drops.nat_protocol"] == len(drops) > 5


def test_through_a_nat_that_passes_ah_the_icv_fails(world: str, tmp_path: Path) -> None:
    """The other NATs: they change the address alone, and the ICV covers it."""
    topology = load_topology("site-to-site-nat").with_overrides(
        {"connections.site.protocol": "ah", "nodes.nat1.ah_passthrough": True}
    )
    run = run_in(world, topology, _plan(), tmp_path / "run")
    assert not run.events("ping_received", "probe_received", "transfer_octets")
    # Each AH packet from inside reaches gw2, and fails there.
    failed = run.events("packet_dropped", node="gw2")
    assert {r.fields["reason"] for r in failed} == {"bad_icv"}
    assert len(failed) > len(run.events("ping_sent"))
    # What gw2 sends comes in once the NAT has seen gw1 send, and fails likewise.
    assert {r.fields["reason"] for r in run.events("packet_dropped", node="gw1")} == {"bad_icv"}
    assert run.metrics["drops.bad_icv"] == len(run.events("packet_dropped"))
    without = run.events("nat_dropped")
    assert {r.fields["reason"] for r in without} <= {"no_mapping"}
