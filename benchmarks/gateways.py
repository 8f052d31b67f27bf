"""Two gateways of ours against two of strongSwan's, in the same lab and by turns: the part of
`esp.py` in a sandbox.

    h1 -- g1 --+     +-- g2 -- h2      ipseclab
    h3 -- g3 --+- r -+-- g4 -- h4      strongSwan (charon, its ESP in user space)
    h5 -- g5 --+     +-- g6 -- h6      no IPsec: routers

Bare links, ESP in UDP, AES-128-GCM. What is measured is the kernel's own TCP, UDP and ICMP between
the hosts; links keep their segmentation offloads, so that every system gets what it can use.
"""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from line import Line
from sandboxed import answer

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.emu.process import Control, PrecisePoll, be_quick, start
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.topology import Topology, parse_topology
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    ICMP_ECHO_HEADER,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    build_icmp_echo,
    decode_ipv4_header,
)

OURS, STRONGSWAN, CLEAR = "ipseclab", "strongSwan", "no IPsec"
KINDS = {
    OURS: "{kind: gateway, stack: ipseclab}",
    STRONGSWAN: "{kind: gateway, stack: strongswan}",
    CLEAR: "{kind: router}",
}
PROPOSALS = "ike: aes128gcm16-prfsha256-x25519, esp: aes128gcm16-x25519"
LARGE, SMALL = 1300, 64
"""Octets of UDP payload."""
WINDOW = 64
"""Datagrams under way: as many of either size as the smallest receive queue on the way holds."""
WARM_SECONDS = 0.5
"""TCP has left its slow start by then."""
PING_PACE = 0.005
TUNNEL_SECONDS, ANSWER_SECONDS = 15.0, 1.0
TCP_PORT, UDP_PORT = 5001, 5002
CHUNK = 256 * 1024
_IDENTIFIER = 0x1B5


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of TCP and of each UDP flood, and how many echoes."""

    tcp_seconds: float
    udp_seconds: float
    echoes: int


@dataclass(frozen=True, slots=True)
class Found:
    """One run through one pair of gateways. Lost: the share of datagrams."""

    tcp_bits: float
    """A second, of payload that has arrived."""
    cpu_per_bit: float
    """Seconds of both gateways' processes, during the transfer."""
    large_packets: float
    large_lost: float
    small_packets: float
    small_lost: float
    ping_median: float
    ping_p99: float


def three_pairs() -> str:
    """The topology drawn above."""
    nodes, links, connections = ["  r: {kind: router}"], [], []
    for index, kind in enumerate(KINDS.values()):
        for number in (2 * index + 1, 2 * index + 2):
            nodes += [f"  h{number}: {{kind: host}}", f"  g{number}: {kind}"]
            lan, wan = f"10.{number}.0", f"192.0.{number}"
            links += [
                f"  - {{ends: [h{number}, g{number}], addresses: [{lan}.2/24, {lan}.1/24]}}",
                f"  - {{ends: [g{number}, r], addresses: [{wan}.1/24, {wan}.2/24]}}",
            ]
        if kind != KINDS[CLEAR]:
            ends = f"initiator: g{2 * index + 1}, responder: g{2 * index + 2}"
            connections.append(
                f"  - {{{ends}, psk: benchmark, {PROPOSALS}, encapsulation: forced}}"
            )
    parts = ["nodes:", *nodes, "links:", *links, "connections:", *connections]
    return "\n".join(parts) + "\n"


def inside(order: Any, folder: Path) -> dict[str, Any]:
    """One run through each pair, in the order that is asked for."""
    effort = Effort(**order["effort"])
    topology = parse_topology(three_pairs())
    lab = Lab(topology, seed=1, out=folder / "lab", fast_path=True)
    lab.build()
    lab.start_nodes()
    lab.start_time = time.monotonic()
    lab.initiate({name: starting_connections(topology, name) for name in lab.gateways})
    be_quick()
    pairs = {name: Pair(lab, topology, index) for index, name in enumerate(KINDS)}
    for pair in pairs.values():
        pair.await_tunnel()
    return {name: asdict(pairs[name].measure(effort)) for name in order["systems"]}


class Pair:
    """Two hosts with two gateways between them."""

    def __init__(self, lab: Lab, topology: Topology, index: int) -> None:
        self._lab = lab
        self._near, self._far = f"h{2 * index + 1}", f"h{2 * index + 2}"
        self._gateways = [
            name for name in (f"g{2 * index + 1}", f"g{2 * index + 2}") if name in lab.gateways
        ]
        self._address: IPv4Address = topology.nodes[self._far].address

    def await_tunnel(self) -> None:
        """Wait until an echo comes back. Raises TimeoutError."""
        until = time.monotonic() + TUNNEL_SECONDS
        while not self.echo_times(1):
            if time.monotonic() > until:
                raise TimeoutError(f"no answer from {self._far} in {TUNNEL_SECONDS:.0f} s")

    def measure(self, effort: Effort) -> Found:
        """Echoes while nothing else is under way, then UDP; TCP last, as it leaves queues full."""
        times = sorted(self.echo_times(effort.echoes))
        floods = {size: self._flood(size, effort.udp_seconds) for size in (LARGE, SMALL)}
        before = self._cpu_seconds()
        octets = self.tcp_octets(effort.tcp_seconds)
        seconds = self._cpu_seconds() - before
        return Found(
            tcp_bits=octets[1] * 8 / effort.tcp_seconds,
            cpu_per_bit=seconds / (sum(octets) * 8),
            large_packets=floods[LARGE].rate,
            large_lost=floods[LARGE].lost,
            small_packets=floods[SMALL].rate,
            small_lost=floods[SMALL].lost,
            ping_median=statistics.median(times),
            ping_p99=times[int(len(times) * 0.99)],
        )

    def echo_times(self, count: int) -> list[float]:
        """Round-trip times of paced echoes; those without an answer are not in it."""
        with self._socket(self._near, socket.SOCK_RAW, IpProtocol.ICMP) as opened:
            opened.connect((str(self._address), 0))
            poll, nothing = PrecisePoll(opened.fileno()), PrecisePoll()
            times = []
            for sequence in range(count):
                sent = time.monotonic()
                opened.send(build_icmp_echo(ICMP_ECHO_REQUEST, _IDENTIFIER, sequence, bytes(56)))
                while (left := sent + ANSWER_SECONDS - time.monotonic()) > 0.0:
                    if poll.wait(left) and _is_answer(opened.recv(2048), sequence):
                        times.append(time.monotonic() - sent)
                        break
                nothing.wait(PING_PACE)
            return times

    def tcp_octets(self, seconds: float) -> tuple[int, int]:
        """Octets of one connection that have arrived: while it warmed up, and in the time after."""
        with self._socket(self._far, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", TCP_PORT))
            listener.listen()
            source = start(
                "source",
                self._pour,
                network=self._lab.pid(self._near),
                log=self._lab.folders.log("source"),
            )
            select.select([listener], [], [], TUNNEL_SECONDS)
            opened, _peer = listener.accept()
        with opened:
            octets = _taken(opened, WARM_SECONDS), _taken(opened, seconds)
        source.finish()
        return octets

    def _pour(self, _control: Control) -> None:
        """The sending process: as much as TCP takes, until the other end closes."""
        chunk = bytes(CHUNK)
        with (
            socket.create_connection((str(self._address), TCP_PORT)) as opened,
            contextlib.suppress(ConnectionError),
        ):
            while True:
                opened.send(chunk)

    def _flood(self, size: int, seconds: float) -> Any:
        with (
            self._socket(self._near, socket.SOCK_DGRAM) as near,
            self._socket(self._far, socket.SOCK_DGRAM) as far,
        ):
            far.bind(("", UDP_PORT))
            near.connect((str(self._address), UDP_PORT))
            return Line(near, far, bytes(size), 0).flood(seconds, WINDOW)

    @contextlib.contextmanager
    def _socket(self, node: str, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
        """A non-blocking socket of a node's."""
        with devices.in_network(self._lab.pid(node)):
            opened = socket.socket(socket.AF_INET, kind, protocol)
        with opened:
            opened.setblocking(False)
            if kind == socket.SOCK_DGRAM:
                devices.enlarge_buffers(opened)
            yield opened

    def _cpu_seconds(self) -> float:
        return sum(self._lab.report(name).cpu_seconds for name in self._gateways)


def _is_answer(packet: bytes, sequence: int) -> bool:
    header = decode_ipv4_header(packet).header_length
    kind, _code, _sum, identifier, number = ICMP_ECHO_HEADER.unpack_from(packet, header)
    return (kind, identifier, number) == (ICMP_ECHO_REPLY, _IDENTIFIER, sequence)


def _taken(opened: socket.socket, seconds: float) -> int:
    """Octets that come within that time."""
    opened.setblocking(False)
    poll, buffer = PrecisePoll(opened.fileno()), bytearray(CHUNK)
    octets, until = 0, time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0.0:
        if poll.wait(left):
            octets += opened.recv_into(buffer)
    return octets


if __name__ == "__main__":
    answer(inside)
