"""What topologies say of TCP encapsulation and redirection, and what is refused."""

from __future__ import annotations

import pytest

from ipseclab.errors import ConfigError
from ipseclab.ike.config import TcpUse
from ipseclab.ike.redirect.settings import Redirect, RedirectWhen
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.sides import accepts_tcp, tunnel_mtu, uses_tcp
from ipseclab.lab.topology import Topology, load_topology


def tcp(word: str) -> Topology:
    return load_topology("tcp-encapsulation").with_overrides(
        {"connections.site.encapsulation": word}
    )


@pytest.mark.parametrize(
    ("word", "use"),
    [
        ("auto", TcpUse.NEVER),
        ("forced", TcpUse.NEVER),
        ("auto-tcp", TcpUse.FALLBACK),
        ("tcp", TcpUse.ALWAYS),
    ],
)
def test_both_ends_are_told(word: str, use: TcpUse) -> None:
    topology = tcp(word)
    for node in ("gw1", "gw2"):
        (connection,) = gateway_config(topology, node).ike.connections
        assert connection.tcp is use
        assert uses_tcp(topology, node) is (use is not TcpUse.NEVER)
    assert not accepts_tcp(topology, "gw1")
    assert accepts_tcp(topology, "gw2") is uses_tcp(topology, "gw2")


def test_a_packet_from_inside_fits_a_segment() -> None:
    # 1500 less IPv4, TCP with timestamps, length, SPI, sequence, IV, ICV; a whole number of words.
    assert tunnel_mtu(tcp("tcp"), "gw1") == (1500 - 20 - 32 - 2 - 8 - 8 - 16) // 4 * 4 - 2


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        (
            "tcp-encapsulation",
            {"connections.site.mode": "none"},
            "connections.site.encapsulation: 'auto-tcp' with mode none, expected auto or forced",
        ),
        (
            "tcp-encapsulation",
            {"nodes.gw2.stack": "strongswan"},
            "'auto-tcp' with gw2, which runs strongswan, expected forced",
        ),
        (
            "redirect",
            {"connections.first.redirect.to": "vpn1"},
            "'vpn1' is no responder of another connection of client, did you mean 'vpn2'?",
        ),
        ("redirect", {"connections.first.redirect.when": "never"}, "connections.first.redirect"),
    ],
)
def test_what_cannot_be_is_refused(name: str, overrides: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_topology(name).with_overrides(overrides)
    assert problem.split(": ")[-1] in str(error.value)


def test_client_follows_and_gateway_sends() -> None:
    topology = load_topology("redirect").with_overrides(
        {"connections.first.redirect": {"to": "vpn2", "when": "auth", "name": "b.example.org"}}
    )
    client = gateway_config(topology, "client").ike.connections
    names = (("b.example.org", "203.0.113.2"),)
    assert {one.redirect for one in client} == {Redirect(follow=True, names=names)}
    (first,) = gateway_config(topology, "vpn1").ike.connections
    assert first.redirect == Redirect(to="b.example.org", when=RedirectWhen.AUTH)
    (second,) = gateway_config(topology, "vpn2").ike.connections
    assert second.redirect is None
