from __future__ import annotations

import pytest

from ipseclab.ike.proposals import (
    child_suite_of,
    parse_ah_proposal,
    parse_esp_proposal,
    suite_of,
)
from ipseclab.lab.sides import tunnel_mtu, unprotected_interfaces
from ipseclab.lab.topology import load_topology
from ipseclab.measure.overhead import ah_overhead, overhead

PROPOSALS = (
    "aes128gcm16",
    "aes256gcm16-x25519",
    "chacha20poly1305",
    "aes128-sha256",
    "aes256-sha512",
)
MTUS = (1280, 1283, 1286, 1289, 1292, 1295, 1500, 9000)


@pytest.mark.parametrize("esp", PROPOSALS)
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
@pytest.mark.parametrize("encapsulation", ["auto", "forced"])
@pytest.mark.parametrize("mtu", MTUS)
def test_the_longest_packet_fits_and_one_octet_more_does_not(
    esp: str, mode: str, encapsulation: str, mtu: int
) -> None:
    topology = load_topology("host-to-host").with_overrides(
        {
            "links.wan.mtu": mtu,
            "links.wan2.mtu": 9000,
            "connections.hosts.esp": esp,
            "connections.hosts.mode": mode,
            "connections.hosts.encapsulation": encapsulation,
        }
    )
    longest = tunnel_mtu(topology, "h1")
    assert longest == tunnel_mtu(topology, "h2")
    suite = suite_of(
        item for item in parse_esp_proposal(esp).transforms if item.type.name in ("ENCR", "INTEG")
    )

    def outer(inner: int) -> int:
        payload = inner - 20
        added = overhead(
            suite,
            tunnel=mode == "tunnel",
            encapsulated=encapsulation == "forced",
            payload_octets=payload,
        )
        return payload + added.total

    assert outer(longest) <= mtu < outer(longest + 1)


@pytest.mark.parametrize("ah", ["sha1", "sha256-x25519", "sha512", "aes128gmac"])
@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_the_longest_packet_fits_with_ah_too(ah: str, mode: str) -> None:
    topology = load_topology("host-to-host").with_overrides(
        {
            "connections.hosts.protocol": "ah",
            "connections.hosts.ah": ah,
            "connections.hosts.mode": mode,
        }
    )
    suite = child_suite_of(parse_ah_proposal(ah))
    added = ah_overhead(suite, tunnel=mode == "tunnel").total - 20
    assert tunnel_mtu(topology, "h1") == tunnel_mtu(topology, "h2") == 1500 - added


def test_a_nat_on_the_way_makes_room_for_udp() -> None:
    plain = tunnel_mtu(load_topology("site-to-site"), "gw1")
    nat = tunnel_mtu(load_topology("site-to-site-nat"), "gw1")
    assert (plain, nat) == (1446, 1438)


def test_without_ipsec_and_without_connections_nothing_is_taken_away() -> None:
    topology = load_topology("site-to-site")
    assert tunnel_mtu(topology, "h1") == 65535
    clear = topology.with_overrides({"connections.site.mode": "none"})
    assert tunnel_mtu(clear, "gw1") == 1500


def test_the_strictest_of_several_proposals_counts() -> None:
    topology = load_topology("site-to-site")
    both = topology.with_overrides({"connections.site.esp": ["aes128gcm16", "aes256-sha512"]})
    one = topology.with_overrides({"connections.site.esp": "aes256-sha512"})
    assert tunnel_mtu(both, "gw1") == tunnel_mtu(one, "gw1") < tunnel_mtu(topology, "gw1")


def test_the_unprotected_side_is_where_the_connections_are() -> None:
    topology = load_topology("site-to-site-nat")
    assert [item.peer for item in unprotected_interfaces(topology, "gw1")] == ["nat1"]
    assert [item.peer for item in unprotected_interfaces(topology, "gw2")] == ["r1"]
    assert unprotected_interfaces(topology, "h1") == ()
