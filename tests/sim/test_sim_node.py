from __future__ import annotations

import random
from ipaddress import IPv4Network

import pytest
from scapy.layers.inet import ICMP, IP

from ipseclab.lab.impairment import ImpairmentConfig, NthPackets
from ipseclab.lab.routes import DEFAULT_ROUTES, Route
from ipseclab.lab.trace import Trace
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Clock
from ipseclab.sim.icmp import IcmpError, Trouble, build_error, decode_error, may_be_answered
from ipseclab.sim.link import Link
from ipseclab.sim.node import Node
from ipseclab.sim.sockets import Socket, TcpStack
from ipseclab.sim.tcp import PatternStream, TcpState
from ipseclab.wire.ip import (
    ICMP_ECHO_REQUEST,
    build_icmp_echo,
    build_ipv4,
    build_udp,
)

H1, H2 = bytes((10, 1, 0, 10)), bytes((10, 2, 0, 10))


class Chain:
    """h1 - r1 - h2, 10 ms a link."""

    def __init__(self, *, mtu: int = 1500, loss: NthPackets | None = None) -> None:
        self.clock, self.trace = Clock(), Trace()
        self.h1 = Node("h1", clock=self.clock, trace=self.trace, forwards=False)
        self.r1 = Node("r1", clock=self.clock, trace=self.trace, forwards=True)
        self.h2 = Node("h2", clock=self.clock, trace=self.trace, forwards=False)
        self._join("lan1", (self.h1, self.r1), "10.1.0", ("10", "1"), ImpairmentConfig(delay=0.01))
        far = ImpairmentConfig(delay=0.01, mtu=mtu, loss=loss)
        self._join("lan2", (self.r1, self.h2), "10.2.0", ("1", "10"), far)
        for node in (self.h1, self.h2):
            name = next(iter(node.interfaces))
            node.add_route(Route(DEFAULT_ROUTES[4], next(iter(DEFAULT_ROUTES[4].hosts())), name))
        self.errors: list[IcmpError] = []
        self.h1.listen_errors(self.errors.append)

    def _join(
        self,
        name: str,
        nodes: tuple[Node, Node],
        prefix: str,
        hosts: tuple[str, str],
        config: ImpairmentConfig,
    ) -> None:
        network = IPv4Network(f"{prefix}.0/24")
        ends = [
            node.add_interface(f"{node.name}-{name}", f"{prefix}.{host}", network, mtu=1500)
            for node, host in zip(nodes, hosts, strict=True)
        ]
        configs = (config, config)
        Link(name, (ends[0], ends[1]), configs, clock=self.clock, trace=self.trace, seed=1)

    def send_udp(self, port: int, data: bytes = b"x", *, ttl: int = 64) -> None:
        segment = build_udp(H1, 1000, H2, port, data)
        self.h1.send_own(build_ipv4(H1, H2, IpProtocol.UDP, segment, ttl=ttl))


def test_an_echo_request_comes_back_after_the_round_trip() -> None:
    chain = Chain()
    answers: list[tuple[float, int, bytes]] = []
    chain.h1.listen_echo(
        5, lambda sequence, data: answers.append((chain.clock.now, sequence, data))
    )
    echo = build_icmp_echo(ICMP_ECHO_REQUEST, 5, 77, b"abc")
    chain.h1.originate(IpProtocol.ICMP, H1, H2, echo)
    chain.clock.run_through(1.0)
    assert answers == [(pytest.approx(0.04), 77, b"abc")]


def test_udp_goes_to_its_port_or_is_answered_as_unreachable() -> None:
    chain = Chain()
    got: list[tuple[bytes, int, bytes]] = []
    chain.h2.listen_udp(7, lambda *datagram: got.append(datagram))
    chain.send_udp(7, b"hello")
    chain.send_udp(8)
    chain.clock.run_through(1.0)
    assert got == [(H1, 1000, b"hello")]
    assert [error.trouble for error in chain.errors] == [Trouble.NO_PORT]


def test_a_router_counts_hops_down_with_a_right_checksum() -> None:
    chain = Chain()
    seen: list[bytes] = []
    next(iter(chain.h2.interfaces.values())).tap(seen.append)
    for ttl in range(2, 256):
        chain.send_udp(7, ttl=ttl)
    chain.clock.run_through(1.0)
    arrived = [octets for octets in seen if IP(octets).dst == "10.2.0.10"]
    assert [octets[8] for octets in arrived] == list(range(1, 255))
    for octets in arrived:
        again = IP(octets)
        del again.chksum
        assert bytes(again) == octets


def test_the_last_hop_of_a_packet_is_told_to_its_sender() -> None:
    chain = Chain()
    chain.send_udp(7, ttl=1)
    chain.clock.run_through(1.0)
    assert [error.trouble for error in chain.errors] == [Trouble.EXPIRED]
    assert chain.errors[0].quoted[12:20] == H1 + H2
    assert [record.fields["reason"] for record in chain.trace.records] == ["ttl_expired"]


def test_a_packet_for_nowhere_is_told_to_its_sender() -> None:
    chain = Chain()
    nowhere = bytes((10, 9, 0, 1))
    chain.h1.send_own(build_ipv4(H1, nowhere, IpProtocol.UDP, build_udp(H1, 1, nowhere, 2, b"x")))
    chain.clock.run_through(1.0)
    assert [error.trouble for error in chain.errors] == [Trouble.NO_ROUTE]


def test_a_damaged_datagram_is_dropped() -> None:
    chain = Chain()
    got: list[bytes] = []
    chain.h2.listen_udp(7, lambda _address, _port, data: got.append(data))
    segment = bytearray(build_udp(H1, 1000, H2, 7, b"hello"))
    segment[-1] ^= 1
    chain.h1.send_own(build_ipv4(H1, H2, IpProtocol.UDP, bytes(segment)))
    chain.clock.run_through(1.0)
    assert not got
    assert [record.fields["reason"] for record in chain.trace.records] == ["malformed"]


def test_icmp_errors_are_as_scapy_reads_them_and_quote_the_packet() -> None:
    packet = build_ipv4(H1, H2, IpProtocol.UDP, build_udp(H1, 1, H2, 2, b"x" * 1000))
    message = build_error(Trouble.TOO_BIG, packet, source=H2, mtu=1400)
    scapy = ICMP(message)
    assert (scapy.type, scapy.code, scapy.nexthopmtu) == (3, 4, 1400)
    assert len(message) + 20 == 576
    error = decode_error(message)
    assert error is not None
    assert (error.mtu, error.quoted) == (1400, packet[: 576 - 28])
    assert decode_error(build_icmp_echo(8, 1, 2, bytes(30))) is None


def test_errors_are_never_answered_with_errors() -> None:
    packet = build_ipv4(H1, H2, IpProtocol.UDP, build_udp(H1, 1, H2, 2, b"x"))
    error = build_ipv4(H1, H2, IpProtocol.ICMP, build_error(Trouble.NO_PORT, packet, source=H2))
    echo = build_ipv4(H1, H2, IpProtocol.ICMP, build_icmp_echo(8, 1, 2, b""))
    fragment = build_ipv4(H1, H2, IpProtocol.UDP, b"x" * 8, flags_fragment=5)
    assert [may_be_answered(one) for one in (packet, error, echo, fragment)] == [
        True,
        False,
        True,
        False,
    ]


def test_tcp_takes_up_the_mtu_of_the_path_and_remembers_it() -> None:
    chain = Chain(mtu=1300)
    got = bytearray()
    done: list[Socket] = []

    def take(socket: Socket, octets: bytes) -> None:
        got.extend(octets)
        if socket.connection.receiver.fin_received:
            done.append(socket)

    near, far = (TcpStack(node, rng=random.Random(1)) for node in (chain.h1, chain.h2))
    far.listen(80, take)
    first = near.connect(H2, 80, stream=PatternStream(100_000), congestion="cubic")
    chain.clock.run_through(10.0)
    assert bytes(got) == PatternStream().read(0, 100_000)
    assert done
    assert first.connection.sender.mss == 1300 - 52
    second = near.connect(H2, 80, stream=PatternStream(10), congestion="cubic")
    assert second.connection.config.mss == 1260


def test_a_connection_to_a_closed_port_is_reset_and_forgotten() -> None:
    chain = Chain()
    near = TcpStack(chain.h1, rng=random.Random(1))
    TcpStack(chain.h2, rng=random.Random(2))
    socket = near.connect(H2, 81, stream=PatternStream(10), congestion="cubic")
    chain.clock.run_through(5.0)
    assert socket.connection.state is TcpState.CLOSED
    assert socket.connection.closed_because == "connection refused"
    assert not near._sockets
