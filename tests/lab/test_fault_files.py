"""Faults as a topology file says them: read, or refused with line, column, what was expected."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.faults import Fault
from ipseclab.lab.topology import parse_topology, topology_schema
from ipseclab.registry import KeMethod, NotifyType, PayloadType

BASE = """\
nodes:
  gw1: {kind: gateway}
  r1: {kind: router}
  gw2: {kind: gateway}
links:
  - {name: wan, ends: [gw1, r1], addresses: [192.0.2.1/24, 192.0.2.2/24]}
  - {name: wan2, ends: [r1, gw2], addresses: [198.51.100.1/24, 198.51.100.2/24]}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret}
faults:
"""


def faults(*lines):
    return parse_topology(BASE + "".join(f"  - {line}\n" for line in lines), "lab.yaml").faults


def test_no_faults_unless_there_are_some():
    assert parse_topology(BASE.removesuffix("faults:\n")).faults == ()


def test_faults_are_read():
    found = faults(
        "{node: gw1, do: drop, exchange: IKE_AUTH, kind: request, nth: 2}",
        "{node: gw2, do: delay, traffic: esp, direction: in, delay: 20ms, nth: [1, 3], name: slow}",
        "{node: gw1, do: omit, notify: COOKIE}",
        "{node: gw1, do: add, type: 200, data: 00ff}",
        "{node: gw1, do: ke_group, group: modp2048}",
        "{node: gw1, do: repeat, payload: NONCE}",
    )
    assert found == (
        Fault("drop-0", "gw1", "drop", exchange="IKE_AUTH", kind="request", nth=(2,)),
        Fault("slow", "gw2", "delay", "in", "esp", nth=(1, 3), delay=0.02),
        Fault("omit-2", "gw1", "omit", notify=int(NotifyType.COOKIE)),
        Fault("add-3", "gw1", "add", payload=200, data=b"\0\xff"),
        Fault("ke_group-4", "gw1", "ke_group", value=int(KeMethod.MODP_2048)),
        Fault("repeat-5", "gw1", "repeat", payload=int(PayloadType.NONCE)),
    )


def test_overrides_reach_a_fault_by_its_name():
    text = BASE + "  - {node: gw1, do: drop, name: lost, nth: 1}\n"
    changed = parse_topology(text).with_overrides({"faults.lost.nth": 4})
    assert changed.faults[0].nth == (4,)


WRONG = {
    "{node: gw3, do: drop}": "11:6: faults[0].node: 'gw3' is not a node, did you mean 'gw2'?",
    "{node: r1, do: drop}": (
        "11:6: faults[0].node: 'r1' does not run ipseclab, expected a node that does"
    ),
    "{node: gw1, do: dorp}": "11:17: faults[0].do: 'dorp' is unknown, did you mean 'drop'?",
    "{node: gw1, do: drop, delya: 1}": (
        "11:27: faults[0].delya: unknown key, did you mean 'delay'?"
    ),
    "{node: gw1}": "11:5: faults[0].do: missing, expected it here",
    "{node: gw1, do: delay}": "11:5: faults[0]: delay without delay, expected it here",
    "{node: gw1, do: drop, delay: 1s}": (
        "11:5: faults[0]: drop has no use for delay, expected it left out"
    ),
    "{node: gw1, do: omit}": ("11:5: faults[0]: omit needs one thing, expected payload or notify"),
    "{node: gw1, do: omit, notify: COOKEI}": (
        "11:27: faults[0].notify: 'COOKEI' is no Notify, did you mean 'COOKIE'?"
    ),
    "{node: gw1, do: add, type: 200, data: xyz}": (
        "11:37: faults[0].data: 'xyz' is not usable, expected octets like 00ff17"
    ),
    "{node: gw1, do: ke_group, group: sha256}": (
        "11:31: faults[0].group: 'sha256' is no group, expected one like x25519 or modp2048"
    ),
    "{node: gw1, do: drop, nth: 0}": "11:27: faults[0].nth: 0, expected a number from 1",
    "{node: gw1, do: ke_zero, direction: in}": (
        "11:5: faults[0]: ke_zero changes IKE that the node sends, expected out and ike"
    ),
    "{node: gw1, do: drop, traffic: esp, kind: request}": (
        "11:5: faults[0]: ESP has no exchanges, expected no exchange and no kind"
    ),
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_fault_is_one_line(line):
    with pytest.raises(ConfigError) as caught:
        faults(line)
    assert str(caught.value) == f"lab.yaml:{WRONG[line]}"


def test_two_faults_of_one_name_are_refused():
    line = "{node: gw1, do: drop, name: lost}"
    with pytest.raises(ConfigError, match=r"lab.yaml:12:27: faults\[1\].name: the name 'lost' is"):
        faults(line, line)


def test_schema_lists_faults_for_editors():
    assert "faults" in topology_schema()["properties"]
