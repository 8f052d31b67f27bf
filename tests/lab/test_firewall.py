"""What a link blocks: rules read, packets stopped, settings changed while the lab is up."""

from __future__ import annotations

import pytest
from sim_lab import SITES, events, run, topology

from ipseclab.errors import ConfigError
from ipseclab.lab.firewall import Blocked, parse_rules
from ipseclab.lab.impairment import Bernoulli, Impairment, ImpairmentConfig
from ipseclab.lab.link_set import with_settings
from ipseclab.lab.plan import Action, Ping
from ipseclab.wire.ip import build_ipv4, build_udp

SOURCE, TARGET = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))


def udp(source: int, destination: int, *, flags: int = 0) -> bytes:
    segment = build_udp(SOURCE, source, TARGET, destination, b"data")
    return build_ipv4(SOURCE, TARGET, 17, segment, flags_fragment=flags)


@pytest.mark.parametrize(
    ("rule", "packet", "stopped"),
    [
        ("udp", udp(1, 2), True),
        ("17", udp(1, 2), True),
        ("tcp", udp(1, 2), False),
        ("udp/4500", udp(1, 4500), True),
        ("udp/4500", udp(4500, 1), True),
        ("udp/4500", udp(500, 500), False),
        ("udp/500-4500", udp(9, 4499), True),
        ("udp/500-4500", udp(9, 4501), False),
        ("udp/1", udp(1, 1, flags=5), False),  # a later fragment has no ports
        ("udp", udp(1, 1, flags=5), True),
        ("esp", build_ipv4(SOURCE, TARGET, 50, bytes(40)), True),
    ],
)
def test_rule_stops_its_packets(rule, packet, stopped):
    assert Blocked.parse(rule).stops(packet) is stopped
    way = Impairment(ImpairmentConfig(block=(Blocked.parse(rule),)), 1, "link", "forward")
    (fate,) = way.pass_packet(packet, 0.0)
    assert getattr(fate, "reason", None) is None or fate.reason.value == "blocked"
    assert hasattr(fate, "reason") is stopped


def test_blocked_packets_take_their_draws():
    rule = (Blocked.parse("udp/4500"),)
    config = ImpairmentConfig(loss=Bernoulli(0.5))
    plain = Impairment(config, 3, "link", "forward")
    walled = Impairment(ImpairmentConfig(loss=config.loss, block=rule), 3, "link", "forward")
    for number in range(60):
        free, blocked = udp(1, 1), udp(1, 4500)
        wanted = plain.pass_packet(free, float(number))
        found = walled.pass_packet(blocked if number % 3 == 0 else free, float(number))
        if number % 3:
            assert found == wanted


@pytest.mark.parametrize("value", ["udp/4500 tcp", ["udp/4500", "tcp"], "udp/4500, tcp"])
def test_rules_are_a_list_or_a_text(value):
    assert parse_rules(value) == (Blocked(17, (4500, 4500)), Blocked(6))


def test_none_blocks_nothing():
    assert parse_rules("none") == parse_rules([]) == ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("quic", "'quic' is no protocol, expected udp, tcp, esp, ..."),
        ("esp/500", "'esp/500' has no ports that there could be, expected udp/500-4500"),
        ("udp/9-4", "'udp/9-4' has no ports that there could be, expected udp/500-4500"),
        ("udp:4500", "'udp:4500' is no rule, expected a protocol, or one with ports: udp/500"),
        ("300", "protocol 300, expected 1 to 255"),
        (7, "7 is no rule, expected a list such as [udp, tcp/22]"),
    ],
)
def test_bad_rule_is_an_error_at_its_place(value, problem):
    with pytest.raises(ConfigError) as error:
        topology(SITES, links__wan__block=value)
    assert f"links.wan.block: {problem}" in str(error.value)


def test_link_set_blocks_and_opens_again():
    config = ImpairmentConfig()
    forward, backward = with_settings((config, config), {"block": "udp", "direction": "forward"})
    assert forward.block == (Blocked(17),)
    assert backward.block == ()
    forward, _ = with_settings((forward, backward), {"block": "none"})
    assert forward.block == ()


def test_link_stops_and_the_trace_says_so():
    ping = Ping("ping", "h1", "h2", start=1.0, interval=0.1, count=40)
    wall = Action(2.0, "link_set", link="wan", arguments={"block": "esp"})
    open_again = Action(3.0, "link_set", link="wan", arguments={"block": "none"})
    records = run(topology(), ping, actions=[wall, open_again], duration=6.0)
    stopped = events(records, "link_dropped", reason="blocked")
    assert len(stopped) == 10
    assert len(events(records, "ping_received")) == 30
