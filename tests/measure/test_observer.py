"""What shows without keys: lengths and times of protected packets, and of nothing else."""

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.measure.observer import Sightings, is_protected, read_sightings
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.ipv6 import build_ipv6

A, B = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"


def esp(octets, source=A, destination=B):
    return build_ipv4(source, destination, IpProtocol.ESP, bytes(octets - 20))


def udp(port, data):
    return build_ipv4(A, B, IpProtocol.UDP, build_udp(A, port, B, port, data))


@pytest.mark.parametrize(
    ("packet", "protected"),
    [
        (esp(100), True),
        (build_ipv4(A, B, IpProtocol.AH, bytes(60)), True),
        (build_ipv6(A6, B6, IpProtocol.ESP, bytes(60)), True),
        (udp(4500, b"\1\2\3\4" + bytes(40)), True),
        (udp(4500, bytes(4) + bytes(40)), False),
        (udp(4500, b"\xff"), False),
        (udp(500, bytes(40)), False),
        (udp(7000, b"\1" * 40), False),
        (b"", False),
        (b"\x45\0", False),
    ],
)
def test_ike_keepalives_and_plain_packets_say_nothing_of_protected_ones(packet, protected):
    assert is_protected(packet) is protected


def test_lengths_and_times_are_those_of_the_first_interface_by_sender():
    seen = Sightings()
    assert (seen.sizes, seen.variation) == (None, None)
    for number in range(100):
        seen.add("gw1", number * 0.02, esp(100))
        seen.add("gw1", number * 0.02, esp(200 + number % 3, B, A))
        seen.add("gw2", number * 0.02, esp(300 + number))
    assert list(seen.by_source) == ["192.0.2.1", "198.51.100.2"]
    assert seen.sizes == 3
    assert seen.variation < 0.2


def test_bursts_vary_and_a_constant_rate_does_not():
    steady, bursts = Sightings(), Sightings()
    for number in range(1000):
        steady.add("gw1", 0.004 * number, esp(1000))
        bursts.add("gw1", number // 100 * 0.5 + number % 100 * 1e-4, esp(1000))
    assert steady.variation < 0.05
    assert bursts.variation > 1.5


def test_a_capture_is_read_for_a_figure(tmp_path):
    capture = tmp_path / "capture.pcapng"
    with capture.open("wb") as stream:
        writer = PcapngWriter(stream, ["gw1", "gw2"])
        writer.write(0, 0.5, esp(100))
        writer.write(1, 0.6, esp(100))
        writer.write(0, 0.7, udp(500, bytes(40)))
    (packets,) = read_sightings(capture).values()
    assert packets == [(pytest.approx(0.5), 100)]
    with pytest.raises(ConfigError):
        read_sightings(tmp_path / "none.pcapng")
