"""strongSwan known by certificates and raw keys, in each role: it verifies ours, we verify its.

One handshake each way with traffic through it; what is beyond authentication is
`test_strongswan_peer`'s.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, Run, run_in

from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import Topology, load_topology

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

PINGS = 3
PLAN = RunPlan((Ping("ping", "h1", "h2", start=0.8, interval=0.1, count=PINGS),), (), duration=1.3)
KEYS = {
    "RSA-PSS": ("rsa-2048", "certificate", "rsa-pss-sha256"),
    "ECDSA P-256": ("ecdsa-p256", "certificate", ""),
    "Ed25519": ("ed25519", "certificate", ""),
    "raw Ed25519": ("ed25519", "raw-key", ""),
}


def _topology(ours: str, key: str, auth: str, scheme: str) -> Topology:
    theirs = {"gw1": "gw2", "gw2": "gw1"}[ours]
    overrides: dict[str, object] = {
        f"nodes.{theirs}.stack": "strongswan",
        "connections.site.encapsulation": "forced",
        "connections.site.auth": auth,
        "certificates.authorities.sites.key": key,
        "certificates.nodes.gw1.key": key,
        "certificates.nodes.gw2.key": key,
    }
    if scheme:
        overrides["connections.site.signatures"] = scheme
    return load_topology("site-to-site-certificates").with_overrides(overrides)


def _why(run: Run) -> str:
    """What both ends said of it."""
    log = "".join(
        path.read_text(errors="replace")[-6000:] for path in run.folder.glob("logs/*/charon.log")
    )
    failures = run.events("auth_failed", "ike_error_sent", "exchange_failed")
    return f"{[record.fields for record in failures]}\n{log}"


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("ours", ["gw1", "gw2"], ids=["we initiate", "it initiates"])
def test_strongswan_and_we_believe_each_other(ours: str, kind: str, tmp_path: Path) -> None:
    run = run_in(NETNS, _topology(ours, *KEYS[kind]), PLAN, tmp_path / "run")
    assert len(run.events("ping_received")) == PINGS, _why(run)
    assert run.events("ike_established", node="gw1")
    assert run.events("ike_established", node="gw2")
    (log,) = run.folder.glob("logs/*/charon.log")
    said = log.read_text(errors="replace")
    if KEYS[kind][1] == "certificate":
        assert "certificate status is good" in said


def test_strongswans_revoked_certificate_is_refused(tmp_path: Path) -> None:
    ours, theirs = "gw2", "gw1"
    topology = _topology(ours, "ecdsa-p256", "certificate", "").with_overrides(
        {f"certificates.nodes.{theirs}.revoked": True}
    )
    run = run_in(NETNS, topology, PLAN, tmp_path / "run")
    assert not run.events("ping_received")
    refusals = run.events("auth_failed", "ike_error_sent", node=ours)
    assert any("was revoked at" in str(r.fields["reason"]) for r in refusals), _why(run)
