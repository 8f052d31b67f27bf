"""EAP between our stack and strongSwan's, each as the client and as the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipseclab.emu.peers.strongswan import PLUGIN_FOLDER
from ipseclab.lab.trace import read_trace

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

LAB = """
nodes:
  h1: {{kind: host}}
  gw1: {{kind: gateway, stack: {first}}}
  gw2: {{kind: gateway, stack: {second}}}
  h2: {{kind: host}}
links:
  - {{name: lan1, ends: [h1, gw1], addresses: [10.1.0.10/24, 10.1.0.1/24]}}
  - {{name: wan, ends: [gw1, gw2], addresses: [192.0.2.1/24, 192.0.2.2/24]}}
  - {{name: lan2, ends: [gw2, h2], addresses: [10.2.0.1/24, 10.2.0.10/24]}}
connections:
  - name: site
    initiator: gw1
    responder: gw2
    auth: [{method}, certificate]
    eap: {eap}
    ids: [alice@example.org, gate.example.org]
    encapsulation: forced
"""
RUN = """
    from ipseclab.emu import network
    from ipseclab.lab.plan import Ping, RunPlan
    from ipseclab.lab.topology import parse_topology
    from ipseclab.lab.trace import Trace
    plan = RunPlan((Ping("p", "h1", "h2", 1.0, 0.2, 5),), duration=3.0)
    with (OUT / "trace.jsonl").open("w") as sink:
        network.run(parse_topology({topology!r}), plan, seed=1, trace=Trace(sink), out=OUT)
"""
PPK = "ppk: {id: blue, key: 32 octets that nobody can guess!, use: either"
WAYS = [
    ("eap-mschapv2", "{password: wonderland}"),
    ("eap-mschapv2", "{password: wonderland, identity: alice, ask_identity: true}"),
    ("eap-md5", "{password: wonderland}"),
    ("eap-tls", "{}"),
]


@pytest.mark.parametrize("ours", ["client", "gateway"])
@pytest.mark.parametrize(("method", "eap"), WAYS)
def test_eap_with_strongswan(
    method: str, eap: str, ours: str, sandboxed: Callable[[str], Any], tmp_path: Path
) -> None:
    if not (PLUGIN_FOLDER / f"libstrongswan-{method}.so").exists():
        pytest.skip(f"strongSwan has no plugin {method}: apt-get install libcharon-extauth-plugins")
    stacks = ("ipseclab", "strongswan") if ours == "client" else ("strongswan", "ipseclab")
    lab = LAB.format(first=stacks[0], second=stacks[1], method=method, eap=eap)
    done = sandboxed(RUN.format(topology=lab))
    assert done.code == 0, done.log
    records = list(read_trace(tmp_path / "trace.jsonl"))
    up = {record.node for record in records if record.event == "ike_established"}
    assert up == {"gw1", "gw2"}, (tmp_path / "logs").as_posix()
    answered = [record for record in records if record.event == "ping_received"]
    assert len(answered) == 5


@pytest.mark.parametrize("ours", ["client", "gateway"])
@pytest.mark.parametrize(("auth", "required"), [("[eap-md5, certificate]", True), ("psk", False)])
def test_ppk_with_strongswan(
    auth: str, required: bool, ours: str, sandboxed: Callable[[str], Any], tmp_path: Path
) -> None:
    """RFC 8784: with EAP the PPK is named beside the AUTH that the method's key makes. strongSwan
    knows no RFC 9867, which `either` puts up with."""
    stacks = ("ipseclab", "strongswan") if ours == "client" else ("strongswan", "ipseclab")
    lab = LAB.format(first=stacks[0], second=stacks[1], method="eap-md5", eap="{password: x}")
    lab = lab.replace("auth: [eap-md5, certificate]", f"auth: {auth}")
    if auth == "psk":
        lab = lab.replace("eap: {password: x}", "psk: secret")
    lab += f"    {PPK}, required: {str(required).lower()}}}\n"
    done = sandboxed(RUN.format(topology=lab))
    assert done.code == 0, done.log
    records = list(read_trace(tmp_path / "trace.jsonl"))
    assert {r.node for r in records if r.event == "ike_established"} == {"gw1", "gw2"}
    assert sum(record.event == "ping_received" for record in records) == 5
    logs = [path for path in (tmp_path / "logs").rglob("*") if path.is_file()]
    assert any("using PPK" in path.read_text() for path in logs)
