"""SAs keyed by hand: from the topology to packets that arrive, without any IKE."""

import random
from ipaddress import ip_address

import pytest

from ipseclab.errors import ConfigError
from ipseclab.gateway import Gateway
from ipseclab.lab.gateways import gateway_config, starting_connections
from ipseclab.lab.topology import load_topology
from ipseclab.outputs import DeliverPacket, SendDatagram, SendPacket, UdpPath
from ipseclab.wire.ip import build_ipv4, build_udp

SITE = "connections.site"
GCM = {f"{SITE}.manual": {"spis": [0x1001, 0x2002], "keys": ["00" * 20, "11" * 20]}}
CBC = {
    f"{SITE}.esp": "aes256-sha512-esn",
    f"{SITE}.manual": {"spis": [0x1001, 0x1001], "keys": ["ab" * 96, "cd" * 96]},
}


def topology(changes, name="site-to-site"):
    return load_topology(name).with_overrides(changes)


def packet(source, destination):
    ends = ip_address(source).packed, ip_address(destination).packed
    return build_ipv4(*ends, 17, build_udp(ends[0], 1, ends[1], 2, b"by hand"))


AH = {
    f"{SITE}.protocol": "ah",
    f"{SITE}.ah": "sha256",
    f"{SITE}.manual": {"spis": [0x1001, 0x2002], "keys": ["12" * 32, "34" * 32]},
}


@pytest.mark.parametrize("changes", [GCM, CBC, AH, {**GCM, f"{SITE}.encapsulation": "forced"}])
def test_packets_arrive_both_ways_without_ike(changes):
    lab = topology(changes)
    assert starting_connections(lab, "gw1") == ()
    gateways = [Gateway(gateway_config(lab, node), rng=random.Random(1)) for node in ("gw1", "gw2")]
    there = packet("10.1.0.10", "10.2.0.10")
    back = packet("10.2.0.10", "10.1.0.10")
    for sender, receiver, one in ((0, 1, there), (1, 0, back)):
        (output,) = gateways[sender].send_packet(one, 1.0)
        if isinstance(output, SendDatagram):
            path = UdpPath(output.path.remote, output.path.local)
            arrived = gateways[receiver].receive_datagram(path, output.data, 1.0)
        else:
            assert isinstance(output, SendPacket)
            arrived = gateways[receiver].receive_packet(output.packet, 1.0)
        assert [o.packet for o in arrived if isinstance(o, DeliverPacket)] == [one]
    assert gateways[0].status().ike_sas == ()


@pytest.mark.parametrize(
    ("changes", "key", "expected"),
    [
        ({f"{SITE}.manual": {"spis": [1, 300], "keys": ["", ""]}}, "spis", "256"),
        ({f"{SITE}.manual": {"spis": [256, 300], "keys": ["0", ""]}}, "keys", "manual"),
        ({f"{SITE}.manual": {"spis": [256, 300], "keys": ["00", "00"]}}, "keys", "expected 20"),
        ({**GCM, f"{SITE}.esp": "aes128gcm16-aes256gcm16"}, "esp", "leaves a choice"),
        ({**GCM, f"{SITE}.protocol": "ah"}, "keys", "20 octets, expected 32 for sha256-x25519"),
        ({**AH, f"{SITE}.ah": "sha256-sha512"}, "ah", "leaves a choice"),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_key(changes, key, expected):
    with pytest.raises(ConfigError, match=expected) as caught:
        topology(changes)
    assert key in str(caught.value)


def test_a_nat_between_is_refused():
    with pytest.raises(ConfigError, match="the NAT"):
        topology(GCM, "site-to-site-nat")
