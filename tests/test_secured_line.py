"""What benchmarks/ipsec_vs_ssl.py makes of the packets that passed somebody on the line."""

from pathlib import Path

import pytest

from ipseclab.wire.ip import build_ipv4, build_udp

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
HOST, GATEWAY, OTHER = bytes([10, 1, 0, 2]), bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])


@pytest.fixture
def secured(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import secured

    return secured


def watch(secured, *packets):
    return secured.Watch([(0.0, packet) for packet in packets])


def packet(protocol, payload, source=GATEWAY):
    return build_ipv4(source, OTHER, protocol, payload)


def test_a_payload_is_seen_wherever_it_was_cut(secured):
    message = secured.MESSAGE
    ends = GATEWAY, 1, OTHER, 2
    cut = [packet(17, build_udp(*ends, part)) for part in (message[:50], message[50:])]
    assert watch(secured, *cut).shows(message)
    sealed = bytes(octet ^ 0x5A for octet in message)
    assert not watch(secured, packet(50, sealed)).shows(message)


def test_hosts_are_seen_in_outermost_headers_alone(secured):
    inner = packet(17, bytes(8), source=HOST)
    assert watch(secured, inner).addresses(HOST)
    assert not watch(secured, packet(4, inner)).addresses(HOST)


def test_protocols_and_ports_are_named_once(secured):
    datagram = packet(17, build_udp(GATEWAY, 500, OTHER, 500, b"x"))
    assert watch(secured, datagram, datagram, packet(50, bytes(16))).ends() == "UDP 500, ESP"


@pytest.mark.parametrize("index", range(6))
def test_every_line_is_a_topology(secured, index):
    text = secured.topology_text(secured.SYSTEMS[index], 0.01)
    topology = secured.parse_topology(text)
    assert topology.link("wan").forward.delay == secured.DELAY
    assert bool(topology.connections) == secured.SYSTEMS[index].startswith("IPsec")
