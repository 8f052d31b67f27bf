"""IPv6 in topologies: what links, connections and routes make of it, and what is refused."""

from __future__ import annotations

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.sides import tunnel_mtu
from ipseclab.lab.topology import load_topology


def test_a_lan_is_the_selector_and_everything_has_a_way() -> None:
    topology = load_topology("site-to-site-ipv6")
    (connection,) = topology.connections
    assert (str(connection.local_ts[0]), str(connection.remote_ts[0])) == (
        "2001:db8:1::/64",
        "2001:db8:2::/64",
    )
    assert [str(route.network) for route in topology.routes("h1")] == ["::/0"]
    networks = {str(route.network): str(route.via) for route in topology.routes("r1")}
    assert networks == {"2001:db8:1::/64": "2001:db8:a::1", "2001:db8:2::/64": "2001:db8:b::2"}
    # 40 and 20 octets more for the outer header than over IPv4, and so much less inside.
    assert tunnel_mtu(topology, "gw1") == 1426


def test_routers_know_no_way_to_the_other_ip() -> None:
    topology = load_topology("site-to-site-ipv6").with_overrides(
        {
            "links.lan1.addresses": ["10.1.0.10/24", "10.1.0.1/24"],
            "links.lan2.addresses": ["10.2.0.1/24", "10.2.0.10/24"],
        }
    )
    assert topology.routes("r1") == ()
    assert [str(route.network) for route in topology.routes("h1")] == ["0.0.0.0/0"]
    config = gateway_config(topology, "gw1")
    assert config.ike.connections[0].own_address == "2001:db8:a::1"
    # ICMP of its own addresses passes in either IP.
    assert [str(one) for one in config.policies[-1].local] == [
        "10.1.0.1/32[icmp]",
        "2001:db8:a::1/128[icmpv6]",
    ]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (
            "site-to-site-ipv6",
            {"links.wan.mtu": 1279},
            "1279 on a link of IPv6, expected 1280 or more (RFC 8200)",
        ),
        (
            "site-to-site-ipv6",
            {"links.wan.addresses": ["fe80::1/64", "fe80::2/64"]},
            "fe80::1 is not usable, expected a global or unique local address",
        ),
        (
            "site-to-site-ipv6",
            {"links.wan.addresses": ["2001:db8:a::/64", "2001:db8:a::2/64"]},
            "2001:db8:a:: is not a host's, expected one inside 2001:db8:a::/64",
        ),
        (
            "site-to-site-ipv6",
            {"links.wan.addresses": ["2001:db8:a::1/128", "2001:db8:a::2/128"]},
            "2001:db8:a::1/128 has no room for two, expected /127 or shorter",
        ),
        (
            "site-to-site-ipv6",
            {"links.wan.addresses": ["192.0.2.1/24", "192.0.2.2/24"]},
            "gw1 begins on a link of IPv4 and r1-gw2 has another IP, expected one all the way",
        ),
        (
            "site-to-site-ipv6",
            {"links.lan1.addresses": ["10.1.0.10/24", "10.1.0.1/24"]},
            "10.1.0.0/24 on one side and 2001:db8:2::/64 on the other, "
            "expected the same IP on both",
        ),
        (
            "site-to-site-nat",
            {"links.wan.addresses": ["2001:db8:a::1/64", "2001:db8:a::254/64"]},
            "IPv6 at nat1, expected IPv4: the lab's nat knows no other",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    name: str, changes: dict[str, object], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_topology(name).with_overrides(changes)
    assert str(caught.value).endswith(f": {expected}")
    assert "\n" not in str(caught.value)
