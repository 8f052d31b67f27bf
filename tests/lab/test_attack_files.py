"""Attacks as a topology file says them: read, or refused with line, column, what was expected."""

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.attack_plans import check_attacks
from ipseclab.lab.attacks import Attack
from ipseclab.lab.attacks.attack import ATTACK_NAMES
from ipseclab.lab.schema_attacks import AttackFile
from ipseclab.lab.topology import parse_topology, topology_schema
from ipseclab.registry import EncrId, NotifyType, TransformType

GUIDE = (Path(__file__).parents[2] / "docs" / "topology.md").read_text()
BASE = """\
nodes:
  h1: {kind: host}
  gw1: {kind: gateway}
  mal: {kind: attacker}
  gw2: {kind: gateway}
links:
  - {name: lan, ends: [h1, gw1], addresses: [10.1.0.2/24, 10.1.0.1/24]}
  - {name: left, ends: [gw1, mal], addresses: [192.0.2.1/24, 192.0.2.2/24]}
  - {name: right, ends: [mal, gw2], addresses: [198.51.100.1/24, 198.51.100.2/24]}
connections:
  - {name: site, initiator: gw1, responder: gw2, psk: secret}
attacks:
"""


def attacks(*lines):
    return parse_topology(BASE + "".join(f"  - {line}\n" for line in lines), "lab.yaml").attacks


def test_no_attacks_unless_there_are_some():
    assert parse_topology(BASE.removesuffix("attacks:\n")).attacks == ()


def test_an_attacker_is_on_the_way_as_a_router_is():
    topology = parse_topology(BASE.removesuffix("attacks:\n"))
    assert topology.routing.path("h1", "gw2") == ("h1", "gw1", "mal", "gw2")
    assert topology.connections[0].nats == ()


def test_attacks_are_read():
    found = attacks(
        "{node: mal, do: read}",
        "{node: mal, do: alter, traffic: esp, link: left, field: icv, mask: ff00, every: 5}",
        "{node: mal, do: alter, octet: -1, repair: false, nth: 3, spi: 0a0b0c0d}",
        "{node: mal, do: replay, delay: 20ms, times: 2, protocol: udp, port: 4500, start: 1s}",
        "{node: mal, do: spoof, sender: 203.0.113.9, source: 192.0.2.0/24, probability: 10%}",
        "{node: mal, do: insert, sender: gw2, receiver: h1, octets: 100, name: in}",
        "{node: mal, do: downgrade, strip: aes256gcm16, notify: [COOKIE], end: 3s}",
    )
    key = (int(TransformType.ENCR), int(EncrId.ENCR_AES_GCM_16), 256)
    ends = (IPv4Address("198.51.100.2"), IPv4Address("10.1.0.2"))
    assert found == (
        Attack("read-0", "mal", "read"),
        Attack("alter-1", "mal", "alter", "esp", "left", every=5, field="icv", mask=b"\xff\0"),
        Attack("alter-2", "mal", "alter", nth=(3,), octet=-1, repair=False, spi=b"\n\x0b\x0c\r"),
        Attack("replay-3", "mal", "replay", protocol=17, port=4500, start=1.0, delay=0.02, times=2),
        Attack(
            "spoof-4",
            "mal",
            "spoof",
            source=IPv4Network("192.0.2.0/24"),
            probability=0.1,
            address=IPv4Address("203.0.113.9"),
        ),
        Attack("in", "mal", "insert", address=ends[0], receiver="h1", ends=ends, octets=100),
        Attack(
            "downgrade-6",
            "mal",
            "downgrade",
            end=3.0,
            strip=(key,),
            notifies=(int(NotifyType.COOKIE),),
        ),
    )


def test_overrides_reach_an_attack_by_its_name_or_set_them_all():
    topology = parse_topology(BASE + "  - {node: mal, do: drop, name: lost, nth: 1}\n")
    assert topology.with_overrides({"attacks.lost.nth": 4}).attacks[0].nth == (4,)
    changed = topology.with_overrides({"attacks": [{"node": "mal", "do": "read"}]})
    assert changed.attacks == (Attack("read-0", "mal", "read"),)


WRONG = {
    "{node: mall, do: drop}": "13:6: attacks[0].node: 'mall' is not a node, did you mean 'mal'?",
    "{node: gw1, do: drop}": (
        "13:6: attacks[0].node: 'gw1' is a gateway, expected one of mal of kind attacker"
    ),
    "{node: mal, do: raed}": "13:17: attacks[0].do: 'raed' is unknown, did you mean 'read'?",
    "{node: mal, do: drop, lnk: left}": (
        "13:27: attacks[0].lnk: unknown key, did you mean 'link'?"
    ),
    "{node: mal, do: drop, link: lan}": (
        "13:27: attacks[0].link: 'lan' is not a link of mal, expected one of left, right"
    ),
    "{node: mal}": "13:5: attacks[0].do: missing, expected it here",
    "{node: mal, do: delay}": "13:5: attacks[0]: delay without delay, expected it here",
    "{node: mal, do: drop, delay: 1s}": (
        "13:5: attacks[0]: drop has no use for delay, expected it left out"
    ),
    "{node: mal, do: alter}": ("13:5: attacks[0]: alter changes nothing, expected field or octet"),
    "{node: mal, do: alter, field: icv, octet: 1}": (
        "13:5: attacks[0]: alter at two places, expected field or octet"
    ),
    "{node: mal, do: alter, octet: 1, mask: '00'}": (
        "13:5: attacks[0]: mask without a bit, expected one like 01 or ff00"
    ),
    "{node: mal, do: downgrade}": (
        "13:5: attacks[0]: downgrade changes nothing, expected strip or notify"
    ),
    "{node: mal, do: downgrade, strip: rot13}": (
        "13:32: attacks[0].strip: 'rot13' is no algorithm, expected one like aes256gcm16 or x25519"
    ),
    "{node: mal, do: drop, spi: '0102'}": "13:5: attacks[0]: spi of 2 octets, expected 4",
    "{node: mal, do: alter, octet: 1, mask: 01}": (
        "13:38: attacks[0].mask: 1 is not usable, expected hexadecimal digits in quotes like '00ff'"
    ),
    "{node: mal, do: drop, protocol: ddp9}": (
        "13:27: attacks[0].protocol: 'ddp9' is no protocol, expected udp, tcp, icmp or a number"
    ),
    "{node: mal, do: drop, source: 10.1.0.7/24}": (
        "13:27: attacks[0].source: '10.1.0.7/24' is not usable, "
        "expected an IPv4 network like 10.1.0.0/24"
    ),
    "{node: mal, do: drop, start: 2s, end: 1s}": (
        "13:5: attacks[0]: end: 1 s, expected it after start (2 s)"
    ),
    "{node: mal, do: drop, nth: 2, every: 3}": (
        "13:5: attacks[0]: nth and every, expected one of them"
    ),
    "{node: mal, do: spoof, sender: h9}": (
        "13:28: attacks[0].sender: 'h9' is not a node, expected one of h1, gw1, mal, gw2"
    ),
    "{node: mal, do: spoof, sender: 10.1.0}": (
        "13:28: attacks[0].sender: '10.1.0' is not usable, expected a node or an address"
    ),
    "{node: mal, do: insert, sender: h1, receiver: gw1}": (
        "13:41: attacks[0].receiver: 'gw1' is not a host, expected one of h1"
    ),
    "{node: mal, do: drop, probability: 2}": (
        "13:27: attacks[0].probability: 2 is out of range, expected a number from 0 to 1, "
        "or a text like 1%"
    ),
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_attacks_are_named(line):
    with pytest.raises(ConfigError) as caught:
        attacks(line)
    assert str(caught.value) == f"lab.yaml:{WRONG[line]}"


def test_two_attacks_of_one_name():
    with pytest.raises(ConfigError, match=r"14:\d+: attacks\[1\].name: the name 'a' is that of an"):
        attacks("{node: mal, do: drop, name: a}", "{node: mal, do: read, name: a}")


def test_an_attacker_reads_no_ipv6():
    topology = parse_topology(BASE.removesuffix("attacks:\n"), "lab.yaml")
    mal = topology.nodes["mal"]
    second = replace(mal.interfaces[1], address=ip_address("2001:db8::1"))
    nodes = {"mal": replace(mal, interfaces=(mal.interfaces[0], second))}
    with pytest.raises(ConfigError) as caught:
        check_attacks((), nodes, topology.source)
    assert str(caught.value) == (
        "lab.yaml:4:3: nodes.mal: link 'right' has IPv6, expected an attacker on IPv4 alone"
    )


def test_schema_and_guide_know_every_attack():
    schema = topology_schema()["$defs"]["AttackFile"]["properties"]
    assert tuple(schema["do"]["enum"]) == ATTACK_NAMES
    words = set(re.findall(r"[a-z_]+", GUIDE))
    assert [name for name in (*ATTACK_NAMES, *AttackFile.model_fields) if name not in words] == []
