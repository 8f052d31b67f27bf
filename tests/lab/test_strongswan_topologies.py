"""What a strongSwan node cannot do is said of the file, before anything runs."""

import pytest
from good_topology import GOOD, refused, without_nat

from ipseclab.lab.topology import parse_topology

STRONGSWAN = GOOD.replace("gw2: {kind: gateway}", "gw2: {kind: gateway, stack: strongswan}")


def test_strongswan_behind_a_nat_needs_nothing_more():
    assert parse_topology(STRONGSWAN).nodes["gw2"].stack.value == "strongswan"


def test_strongswan_without_a_nat_is_to_be_told_to_use_udp():
    assert refused(without_nat(STRONGSWAN)) == (
        "lab.yaml:23:5: connections[0].encapsulation: "
        "'auto' without a NAT between and with a strongswan end, expected forced"
    )
    forced = STRONGSWAN.replace("psk: secret", "psk: secret\n    encapsulation: forced")
    assert parse_topology(without_nat(forced)).connections[0].force_encapsulation


def test_strongswan_always_looks_for_nats():
    text = STRONGSWAN.replace("psk: secret", "psk: secret\n    encapsulation: never")
    assert refused(text) == (
        "lab.yaml:27:5: connections[0].encapsulation: "
        "'never' with a strongswan end, expected auto or forced"
    )


def test_strongswan_has_esp_alone():
    text = STRONGSWAN.replace("psk: secret", "psk: secret\n    protocol: ah")
    assert refused(text) == (
        "lab.yaml:27:5: connections[0].protocol: 'ah' with a strongswan end, expected esp"
    )


def test_strongswan_has_tunnel_mode_alone():
    text = STRONGSWAN.replace(
        "psk: secret",
        "psk: secret\n    mode: transport\n    local_ts: 10.9.0.2/32\n    remote_ts: 192.0.2.2/32",
    )
    assert refused(text) == (
        "lab.yaml:27:5: connections[0].mode: 'transport' with a strongswan end, expected tunnel"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("keepalive: 0.4s", "keepalive: 0.4 s with a strongswan end, expected whole seconds"),
        ("keepalive: 2.5s", "keepalive: 2.5 s with a strongswan end, expected whole seconds"),
        ("liveness: 300ms", "liveness: 0.3 s with a strongswan end, expected whole seconds"),
        (
            "retransmission: {limit: 0.5}",
            "retransmission.limit: 0.5 s with a strongswan end, expected whole seconds",
        ),
        (
            "retransmission: {jitter: 30%}",
            "retransmission.jitter: 0.3 with a strongswan end, expected whole per cents up to 20%",
        ),
    ],
)
def test_strongswan_cannot_count_every_time(line, problem):
    assert parse_topology(GOOD.replace("psk: secret", f"psk: secret\n    {line}"))
    assert problem in refused(STRONGSWAN.replace("psk: secret", f"psk: secret\n    {line}"))


TWO_OF_ONE = """
nodes: {a: {kind: host}, b: {kind: host}, r: {kind: router}, s: {kind: host, stack: strongswan}}
links:
  - {ends: [a, r], addresses: [10.1.0.1/24, 10.1.0.2/24]}
  - {ends: [b, r], addresses: [10.2.0.1/24, 10.2.0.2/24]}
  - {ends: [s, r], addresses: [10.3.0.1/24, 10.3.0.2/24]}
connections:
  - {initiator: a, responder: s, psk: secret, encapsulation: forced}
  - {initiator: b, responder: s, psk: secret, encapsulation: forced, %s}
"""


@pytest.mark.parametrize(("key", "value"), [("keepalive", "9s"), ("retransmission", "{tries: 2}")])
def test_a_strongswan_daemon_has_one_timer_for_all_its_connections(key, value):
    text = TWO_OF_ONE % f"{key}: {value}"
    assert parse_topology(text.replace(", stack: strongswan", ""))
    assert parse_topology(TWO_OF_ONE % "liveness: 9s")
    assert f"connections[1].{key}: not as in connections[0], expected the same: s runs" in refused(
        text
    )
