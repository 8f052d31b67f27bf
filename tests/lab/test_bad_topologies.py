"""Each kind of bad topology: one line with file, line, column, key, problem, expectation."""

import pytest
from good_topology import GOOD, refused, without_nat
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.crypto.names import KEYWORDS
from ipseclab.errors import ConfigError
from ipseclab.lab.topology import load_topology, parse_topology
from ipseclab.lab.yaml_read import LARGEST_DEPTH, MOST_VALUES
from ipseclab.lab.yaml_source import LARGEST_FILE, parse_yaml

KINDS = "expected one of "
TIME = "expected seconds as a number, or a text like 20ms, 1.5s, 10min"
SHARE = "expected a number from 0 to 1, or a text like 1%"

# What is replaced in the good file, by what, and the error.
BAD = {
    "not YAML": (
        "description: A good one",
        "description: [",
        "3:5: not YAML: expected ',' or ']', but got ':'",
    ),
    "a tab": (
        "  h1: {kind: host}",
        "\th1: {kind: host}",
        "3:1: not YAML: found character '\\t' that cannot start any token",
    ),
    "a key twice": (
        "  h2: {kind: host}",
        "  h1: {kind: host}",
        "7:3: nodes: this key stands here already, expected it once",
    ),
    "unknown key at the top": (
        "connections:",
        "conections:",
        "22:1: conections: unknown key, did you mean 'connections'?",
    ),
    "unknown key of a link": (
        "    delay: 20ms",
        "    delya: 20ms",
        "18:5: links[2].delya: unknown key, did you mean 'delay'?",
    ),
    "unknown key of a direction": (
        "    delay: 20ms",
        "    forward: {los: 1%}",
        "18:15: links[2].forward.los: unknown key, did you mean 'loss'?",
    ),
    "unknown key of a kind of node": (
        "{kind: gateway}\n  nat1",
        "{kind: gateway, mapping: x}\n  nat1",
        "4:24: nodes.gw1.mapping: unknown key, expected one of fast_path, kind, limits, spd, stack",
    ),
    "a NAT's key misspelt": (
        "outside: wan}",
        "outside: wan, filterin: x}",
        "5:35: nodes.nat1.filterin: unknown key, did you mean 'filtering'?",
    ),
    "an IKE_SA's lifetime in octets": (
        "psk: secret",
        "psk: secret\n    lifetimes: {ike: {octets: 9}}",
        "27:23: connections[0].lifetimes.ike.octets: unknown key, expected one of jitter, margin, "
        "seconds",
    ),
    "unknown kind of node": (
        "h1: {kind: host}",
        "h1: {kind: hots}",
        "3:8: nodes.h1.kind: 'hots' is unknown, did you mean 'host'?",
    ),
    "no kind": (
        "h1: {kind: host}",
        "h1: {}",
        "3:3: nodes.h1.kind: missing, expected it here",
    ),
    "a name too long for an interface": (
        "  h1: {kind: host}",
        "  averylongname: {kind: host}",
        "3:3: nodes.averylongname: 'averylongname', expected a text of at most 9 characters",
    ),
    "a name that is none": (
        "  h1: {kind: host}",
        "  1h: {kind: host}",
        "3:3: nodes.1h: '1h', expected a text that matches ^[A-Za-z][A-Za-z0-9_]*$",
    ),
    "a key that is a number": (
        "  h1: {kind: host}",
        "  1: {kind: host}",
        "3:3: nodes: key 1 is not a text, expected one",
    ),
    "unknown stack": (
        "gw1: {kind: gateway}",
        "gw1: {kind: gateway, stack: strongsw}",
        "4:24: nodes.gw1.stack: 'strongsw' is unknown, did you mean 'strongswan'?",
    ),
    "a key of two lines": (
        "description: A good one",
        '"two\\nlines": A good one',
        "1:1: 'two\\nlines': unknown key, "
        "expected one of attacks, certificates, connections, description, faults, links, name, "
        "nodes, repeat",
    ),
    "a list where keys belong": (
        "h1: {kind: host}",
        "h1: [host]",
        "3:3: nodes.h1: a list here, expected keys with values",
    ),
    "nothing where a list belongs": (
        "links:\n  - name: lan1\n",
        "links: {}\nx:\n  - name: lan1\n",
        "8:1: links: keys with values here, expected a list",
    ),
    "unknown node in a link": (
        "ends: [gw1, nat1]",
        "ends: [gw1, nat2]",
        "13:17: links[1].ends[1]: 'nat2' is not a node, did you mean 'nat1'?",
    ),
    "a link to itself": (
        "ends: [gw1, nat1]",
        "ends: [gw1, gw1]",
        "13:17: links[1].ends[1]: both ends are 'gw1', expected two nodes",
    ),
    "three ends": (
        "ends: [gw1, nat1]",
        "ends: [gw1, nat1, gw2]",
        "13:5: links[1].ends: a list here, expected at most 2 items",
    ),
    "one address": (
        "addresses: [10.9.0.2/24, 10.9.0.1/24]",
        "addresses: [10.9.0.2/24]",
        "14:5: links[1].addresses: a list here, expected at least 2 items",
    ),
    "no addresses": (
        "    addresses: [10.9.0.2/24, 10.9.0.1/24]\n",
        "",
        "12:5: links[1].addresses: missing, expected it here",
    ),
    "two links of one name": (
        "name: access",
        "name: lan1",
        "12:5: links[1].name: the name 'lan1' is that of links[0], expected another name",
    ),
    "two links between the same two": (
        "ends: [nat1, gw2]",
        "ends: [nat1, gw1]",
        "16:5: links[2].ends: 'access' joins these two already, expected one link a pair",
    ),
    "a bad address": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.2/24, 10.9.0.256/24",
        "14:30: links[1].addresses[1]: '10.9.0.256/24' is not usable, "
        "expected an IP address with prefix length like 192.0.2.1/24 or 2001:db8::1/64",
    ),
    "an address without its prefix length": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.2, 10.9.0.1/24",
        "14:17: links[1].addresses[0]: '10.9.0.2' is not usable, "
        "expected an IP address with prefix length like 192.0.2.1/24 or 2001:db8::1/64",
    ),
    "an address twice": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.2/24, 10.9.0.2/24",
        "14:30: links[1].addresses[1]: 10.9.0.2 is gw1's, expected each address once",
    ),
    "an address of another link": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.1.0.1/24, 10.9.0.1/24",
        "14:17: links[1].addresses[0]: 10.1.0.1 is gw1's, expected each address once",
    ),
    "an address outside the link's subnet": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.2/24, 10.8.0.1/24",
        "14:30: links[1].addresses[1]: 10.8.0.1/24 is not in 10.9.0.0/24, "
        "expected one subnet a link",
    ),
    "a subnet within another": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.1.0.77/25, 10.1.0.78/25",
        "14:17: links[1].addresses[0]: 10.1.0.0/25 overlaps 10.1.0.0/24 of 'lan1', "
        "expected separate subnets",
    ),
    "a broadcast address": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.255/24, 10.9.0.1/24",
        "14:17: links[1].addresses[0]: 10.9.0.255 is not a host's, expected one inside 10.9.0.0/24",
    ),
    "a subnet of one": (
        "10.9.0.2/24, 10.9.0.1/24",
        "10.9.0.2/32, 10.9.0.1/32",
        "14:17: links[1].addresses[0]: 10.9.0.2/32 has no room for two, expected /31 or shorter",
    ),
    "a time of an unknown unit": (
        "delay: 20ms",
        "delay: 20parsec",
        f"18:5: links[2].delay: '20parsec' is not a time, {TIME}",
    ),
    "a negative time": (
        "delay: 20ms",
        "delay: -0.02",
        f"18:5: links[2].delay: -0.02 is out of range, {TIME}",
    ),
    "a time that is no number": (
        "delay: 20ms",
        "delay: .nan",
        f"18:5: links[2].delay: nan is out of range, {TIME}",
    ),
    "a loss above one": (
        "delay: 20ms",
        "loss: 5",
        f"18:5: links[2].loss: 5 is out of range, {SHARE}",
    ),
    "two loss models": (
        "delay: 20ms",
        "loss: {probability: 0.1, every: 3}",
        "18:5: links[2].loss: not one loss model, expected probability, or p and r, or packets",
    ),
    "half a Gilbert-Elliott model": (
        "delay: 20ms",
        "loss: {p: 0.1}",
        "18:5: links[2].loss: half a Gilbert-Elliott model, expected both p and r",
    ),
    "a rate of nothing": (
        "delay: 20ms",
        "rate: 0",
        "18:5: links[2].rate: 0.0, expected a number above 0.0",
    ),
    "a rate in octets": (
        "delay: 20ms",
        "rate: 10MB",
        "18:5: links[2].rate: '10MB' is not a rate, "
        "expected bit/s as a number, or a text like 10Mbit/s, 1Gbit/s",
    ),
    "half an octet": (
        "delay: 20ms",
        "queue_octets: 1.5",
        "18:5: links[2].queue_octets: 1.5 is not a whole number, "
        "expected octets as a whole number, or a text like 64KiB, 1MB",
    ),
    "an MTU too small": (
        "delay: 20ms",
        "mtu: 100",
        "18:5: links[2].mtu: 100, expected a number from 576",
    ),
    "a node without a link": (
        "  h2: {kind: host}\n",
        "  h2: {kind: host}\n  h3: {kind: host}\n",
        "8:3: nodes.h3: no way to h1, expected links that join all nodes",
    ),
    "a NAT's outside link that is not there": (
        "outside: wan}",
        "outside: wam}",
        "5:21: nodes.nat1.outside: 'wam' is not a link of nat1, did you mean 'wan'?",
    ),
    "a NAT's outside link that is another's": (
        "outside: wan}",
        "outside: lan2}",
        "5:21: nodes.nat1.outside: 'lan2' is not a link of nat1, expected one of access, wan",
    ),
    "a NAT without an inside": (
        "  - name: access\n    ends: [gw1, nat1]",
        "  - name: access\n    ends: [gw1, gw2]",
        "5:3: nodes.nat1: only an outside link, expected at least one inside link",
    ),
    "a NAT's ports the wrong way round": (
        "outside: wan}",
        "outside: wan, ports: [2000, 1999]}",
        "5:35: nodes.nat1.ports: 2000 is above 1999, expected the first port, then the last",
    ),
    "a pool address of another subnet": (
        "outside: wan}",
        "outside: wan, pool: [192.0.3.1]}",
        "5:42: nodes.nat1.pool[0]: 192.0.3.1 is not in 192.0.2.0/24, expected the outside subnet",
    ),
    "a pool address in use": (
        "outside: wan}",
        "outside: wan, pool: [192.0.2.2]}",
        "5:42: nodes.nat1.pool[0]: 192.0.2.2 is an interface's, expected an address not in use",
    ),
    "an unknown end of a connection": (
        "initiator: gw1",
        "initiator: gw7",
        "24:5: connections[0].initiator: 'gw7' is not a node, did you mean 'gw2'?",
    ),
    "a NAT as an end": (
        "initiator: gw1",
        "initiator: nat1",
        "24:5: connections[0].initiator: 'nat1' is a nat, expected a gateway or a host",
    ),
    "an end without a stack": (
        "gw1: {kind: gateway}",
        "gw1: {kind: gateway, stack: none}",
        "24:5: connections[0].initiator: 'gw1' has stack none, expected ipseclab or strongswan",
    ),
    "a connection with itself": (
        "responder: gw2",
        "responder: gw1",
        "25:5: connections[0].responder: 'gw1' is the initiator too, expected two nodes",
    ),
    "a responder behind a NAT": (
        "initiator: gw1\n    responder: gw2",
        "initiator: gw2\n    responder: gw1",
        "25:5: connections[0].responder: gw2 has no way in to gw1, "
        "expected no NAT with its inside there (nat1)",
    ),
    "no pre-shared key": (
        "    psk: secret\n",
        "",
        "23:5: connections[0].psk: missing, expected the pre-shared key as a text",
    ),
    "another key of the responder alone": (
        "    psk: secret\n",
        "    responder_psk: secret\n    mode: none\n",
        "26:5: connections[0].responder_psk: another key than psk, which is missing, expected both",
    ),
    "a pre-shared key that is a number": (
        "psk: secret",
        "psk: 12345",
        "26:5: connections[0].psk: 12345, expected a text (in quotes where it looks like a number)",
    ),
    "a pre-shared key that is no hexadecimal": (
        "psk: secret",
        "psk: '0xabc'",
        "26:5: connections[0].psk: a secret that begins with 0x, "
        "expected pairs of hexadecimal digits",
    ),
    "an empty pre-shared key": (
        "psk: secret",
        "psk: ''",
        "26:5: connections[0].psk: '', expected a text of 1 or more characters",
    ),
    "an unknown mode": (
        "psk: secret",
        "psk: secret\n    mode: tunel",
        "27:5: connections[0].mode: 'tunel' is unknown, did you mean 'tunnel'?",
    ),
    "an unknown cipher": (
        "psk: secret",
        "psk: secret\n    ike: aes128gcm61-prfsha256-x25519",
        '27:5: connections[0].ike: proposal "aes128gcm61-prfsha256-x25519": unknown keyword '
        f'"aes128gcm61", known are {" ".join(KEYWORDS)}',
    ),
    "a weak group": (
        "psk: secret",
        "psk: secret\n    ike: aes128gcm16-prfsha256-modp1024",
        '27:5: connections[0].ike[0]: "modp1024" is weak (RFC 8247), expected another or '
        "allow_weak: true",
    ),
    "an ESP proposal with a PRF": (
        "psk: secret",
        "psk: secret\n    esp: [aes128gcm16, aes128gcm16-prfsha256]",
        '27:24: connections[0].esp[1]: proposal "aes128gcm16-prfsha256": '
        'ESP takes no PRF transform, found "prfsha256"',
    ),
    "a cipher in AH": (
        "psk: secret",
        "psk: secret\n    protocol: ah\n    ah: aes128gcm16",
        '28:5: connections[0].ah: proposal "aes128gcm16": needs an integrity algorithm (sha256)',
    ),
    "a weak group in AH": (
        "psk: secret",
        "psk: secret\n    protocol: ah\n    ah: sha256-modp1024",
        '28:5: connections[0].ah[0]: "modp1024" is weak (RFC 8247), expected another or '
        "allow_weak: true",
    ),
    "AH in UDP": (
        "psk: secret",
        "psk: secret\n    protocol: ah\n    encapsulation: forced",
        "28:5: connections[0].encapsulation: 'forced' with protocol ah, expected auto: "
        "AH cannot go in UDP (RFC 3948)",
    ),
    "mobike without looking for NATs": (
        "psk: secret",
        "psk: secret\n    mobike: true\n    encapsulation: never",
        "28:5: connections[0].encapsulation: 'never' with mobike, expected auto or forced",
    ),
    "padding of ESP's in AH": (
        "psk: secret",
        "psk: secret\n    protocol: ah\n    processing: {tfc_padding: 500}",
        "28:18: connections[0].processing.tfc_padding: 500 with protocol ah, expected esp",
    ),
    "a bad network": (
        "psk: secret",
        "psk: secret\n    local_ts: [10.1.0.0/24, 10.1.0.1/24]",
        "27:29: connections[0].local_ts[1]: '10.1.0.1/24' is not usable, "
        "expected a network like 10.1.0.0/24, 10.1.0.0/24[tcp/80] or 2001:db8:1::/64",
    ),
    "ports of a protocol that has none": (
        "psk: secret",
        "psk: secret\n    local_ts: '10.1.0.0/24[gre/80]'",
        "27:5: connections[0].local_ts: '10.1.0.0/24[gre/80]' is not usable, "
        "expected a network like 10.1.0.0/24, 10.1.0.0/24[tcp/80] or 2001:db8:1::/64",
    ),
    "a narrowing that is none": (
        "psk: secret",
        "psk: secret\n    narrowing: all",
        "27:5: connections[0].narrowing: 'all' is unknown, expected one of policy, packet, pair",
    ),
    "moving without IKE's tunnel mode": (
        "psk: secret",
        "psk: secret\n    mode: none\n    mobike: true",
        "28:5: connections[0].mobike: addresses cannot change with mode none, expected mode tunnel",
    ),
    "no NATs allowed, and one there": (
        "psk: secret",
        "psk: secret\n    mobike: {nats: false}",
        "27:14: connections[0].mobike.nats: no NATs allowed, and nat1 is on the way, "
        "expected nats: true",
    ),
    "transport mode with networks behind": (
        "psk: secret",
        "psk: secret\n    mode: transport",
        "27:5: connections[0].mode: 'transport' with 10.1.0.0/24 behind gw1, expected tunnel",
    ),
    "transport mode with a network": (
        "psk: secret",
        "psk: secret\n    mode: transport\n    local_ts: 10.1.0.0/24",
        "28:5: connections[0].local_ts: 10.1.0.0/24 in transport mode, "
        "expected gw1's own address 10.9.0.2/32",
    ),
    "a lifetime of no packets": (
        "psk: secret",
        "psk: secret\n    lifetimes: {child: {packets: 0}}",
        "27:25: connections[0].lifetimes.child.packets: 0, expected a number from 1",
    ),
    "a back-off that shrinks": (
        "psk: secret",
        "psk: secret\n    retransmission: {base: 0.5}",
        "27:22: connections[0].retransmission.base: 0.5, expected a number from 1.0",
    ),
}


def test_the_good_one_is_good():
    assert list(parse_topology(GOOD).nodes) == ["h1", "gw1", "nat1", "gw2", "h2"]


@pytest.mark.parametrize(("old", "new", "expected"), BAD.values(), ids=BAD.keys())
def test_a_bad_topology_is_told_in_one_line(old, new, expected):
    assert GOOD.count(old) == 1
    found = refused(GOOD.replace(old, new))
    assert found == f"lab.yaml:{expected}"


@pytest.mark.parametrize("kind", ["ike", "child"])
def test_a_lifetime_that_is_over_at_once_is_refused(kind):
    line = "lifetimes: {%s: {seconds: 60, margin: %s, jitter: %s}}"
    good = GOOD.replace("psk: secret", f"psk: secret\n    {line % (kind, 0.6, 0.6)}")
    assert parse_topology(good)
    bad = GOOD.replace("psk: secret", f"psk: secret\n    {line % (kind, 0.8, 0.25)}")
    assert (
        f"connections[0].lifetimes.{kind}: an SA that may be rekeyed as soon as it is made ("
        in (refused(bad))
    )


def test_a_host_between_does_not_forward():
    text = without_nat(GOOD).replace("nat1: {kind: router}", "nat1: {kind: host}")
    assert refused(text) == (
        "lab.yaml:25:5: connections[0].responder: gw1 has no way in to gw2, "
        "expected no host between (nat1)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "lab.yaml:1:1: holds nothing, expected keys with values"),
        ("- a\n- b\n", "lab.yaml:1:1: holds a list, expected keys with values"),
        ("just words", "lab.yaml:1:1: holds a text, expected keys with values"),
        ("nodes: {}\n", "lab.yaml:1:1: nodes: keys with values here, expected at least 1 items"),
        ("links: []\n", "lab.yaml:1:1: nodes: missing, expected it here"),
        ("nodes:\n", "lab.yaml:1:1: nodes: nothing here, expected keys with values"),
    ],
)
def test_files_that_are_hardly_any(text, expected):
    assert refused(text) == expected


def test_aliases_cannot_fill_the_memory():
    """Ten levels of ten aliases each would be ten thousand million values."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        names = ", ".join([f"*a{level - 1}"] * 10)
        levels.append(f"a{level}: &a{level} [{names}]")
    found = refused("\n".join(levels))
    assert found.endswith(f"more than {MOST_VALUES} values or deeper than {LARGEST_DEPTH}")


def test_a_value_cannot_contain_itself():
    found = refused("nodes: &loop\n  again: *loop\n")
    assert found.endswith(f"more than {MOST_VALUES} values or deeper than {LARGEST_DEPTH}")


@pytest.mark.parametrize("depth", [LARGEST_DEPTH, 100_000])
def test_a_file_cannot_be_nested_too_deep(depth):
    found = refused("nodes: " + "[" * depth + "]" * depth)
    column = len("nodes: ") + LARGEST_DEPTH
    assert found == f"lab.yaml:1:{column}: nested deeper than {LARGEST_DEPTH}, expected less"


def test_a_file_that_cannot_be_read(tmp_path):
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"description: caf\xe9\n")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST_FILE + 1))
    for path, problem in (
        (tmp_path / "none.yaml", "no such file, expected a path or a name in topologies/"),
        (folder, "no such file, expected a path or a name in topologies/"),
        (latin, "octet 16 is not UTF-8, expected text"),
        (large, f"file of more than {LARGEST_FILE} octets"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_topology(path)
        assert str(caught.value) == f"{path}: {problem}"


def test_a_name_that_is_unknown():
    with pytest.raises(ConfigError) as refused:
        load_topology("site-to-sit")
    said = "site-to-sit: unknown, did you mean 'site-to-site'? (or a file, with its .yaml)"
    assert str(refused.value) == said


PIECES = [*"[]{}:'#%é|1\n\t", "- ", "  ", "? ", "&a ", "*a", "<<: ", "[a, b]: ", "-1", "null"]
PIECES += [".nan", "1e999", "0x", "!!int ", "10.1.0.1/24", "gw1", "nat1"]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30), st.sampled_from(PIECES)),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_done_to_a_file_it_is_good_or_told_in_one_line(edits):
    text = GOOD
    for at, size, piece in edits:
        text = text[:at] + piece + text[at + size :]
    try:
        told = parse_topology(text, "lab.yaml").name
    except ConfigError as problem:
        told = str(problem)
    assert told.startswith("lab")
    assert "\n" not in told


def test_scalars_are_those_of_yaml_1_2():
    data = parse_yaml("""
a: [1, -1_000, 0x1F, 0o17, 010, 1.5, 1e3, .inf, true, False, null, ~, no, "1", 1:30, 2024-01-01]
b: &shared {x: 1, y: 2}
c: {<<: *shared, y: 3}
d: !!binary aGk=
e: !local [1]
f: !!int twelve
""").data
    assert data["a"] == [1, -1000, 31, 15, 10, 1.5, 1000.0, float("inf"), True, False, None, None,
                         "no", "1", "1:30", "2024-01-01"]  # fmt: skip
    assert data["c"] == {"x": 1, "y": 3}
    assert (data["d"], data["e"], data["f"]) == ("aGk=", [1], "twelve")


def test_a_merge_key_with_something_else():
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a:\n  <<: [1]\n", "lab.yaml")
    assert str(caught.value) == "lab.yaml:2:7: a: << with a list, expected keys with values"
