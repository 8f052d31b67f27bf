"""Pairs of gateways in the same lab and by turns, ours and others: the part of `esp.py` in a
sandbox.

    h1 -- g1 --+     +-- g2 -- h2      a pair for each system: ipseclab (three ways), strongSwan,
    h3 -- g3 --+- r -+-- g4 -- h4      OpenVPN, wireguard-go, and plain routers without IPsec
      ...      |     |     ...

Bare links, AES-128-GCM (wireguard-go: ChaCha20-Poly1305). What is measured is the kernel's own TCP,
UDP and ICMP between the hosts; links keep their segmentation offloads, so that every system gets
what it can use.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from line import Flood, Line
from profiled import children_of, profile
from sandboxed import answer
from tunnels import OPENVPN, WIREGUARD, End, start_tunnel

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.emu.process import Child, Control, PrecisePoll, be_quick, cpu_seconds, start
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

OURS, OURS_50 = "ipseclab", "ipseclab, protocol 50"
OURS_SINGLY = "ipseclab, packet by packet"
STRONGSWAN, CLEAR = "strongSwan", "no IPsec"
PROPOSALS = "ike: aes128gcm16-prfsha256-x25519, esp: aes128gcm16-x25519"
LARGE, SMALL = 1300, 64
"""Octets of UDP payload."""
WINDOWS = (32, 64, 128, 256)
"""Datagrams under way: what is best for a system depends on its queues."""
BEARABLE = 0.01
"""The share of datagrams that may be lost on the way."""
WARM_SECONDS = 0.5
"""TCP has left its slow start by then."""
PING_PACE = 0.005
TUNNEL_SECONDS, ANSWER_SECONDS = 15.0, 1.0
TCP_PORT, UDP_PORT = 5001, 5002
CHUNK = 256 * 1024
_IDENTIFIER = 0x1B5


@dataclass(frozen=True, slots=True)
class System:
    """What stands at both ends of a pair: the nodes as a topology has them, and either the
    settings of their connection, the tunnel's name (`tunnels.py`), or nothing."""

    node: str
    connection: str = ""
    tunnel: str = ""


_OURS = "kind: gateway, stack: ipseclab"
SYSTEMS: Mapping[str, System] = {
    OURS: System(_OURS, "encapsulation: forced"),
    OURS_50: System(_OURS, "encapsulation: auto"),
    OURS_SINGLY: System(f"{_OURS}, fast_path: false", "encapsulation: forced"),
    STRONGSWAN: System("kind: gateway, stack: strongswan", "encapsulation: forced"),
    OPENVPN: System("kind: router", tunnel=OPENVPN),
    WIREGUARD: System("kind: router", tunnel=WIREGUARD),
    CLEAR: System("kind: router"),
}


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds of TCP and of each UDP flood, how many echoes, and whether to look at where the CPU
    time goes meanwhile."""

    tcp_seconds: float
    udp_seconds: float
    echoes: int
    profiled: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One run through one pair of gateways. Lost: the share of datagrams."""

    tcp_bits: float
    """A second, of payload that has arrived."""
    cpu_near: float
    """Seconds of the sending gateway's process for each octet of it; `cpu_far` the other's."""
    cpu_far: float
    large_packets: float
    large_lost: float
    small_packets: float
    small_lost: float
    ping_median: float
    ping_p99: float
    ping_beside_tcp: float
    """The median while one TCP connection sends as much as it can."""
    profile_near: dict[str, float]
    """The shares of libraries in the sending gateway's CPU time; `profile_far` the other's."""
    profile_far: dict[str, float]


def pairs_of(systems: Sequence[str]) -> str:
    """The topology drawn above, with a pair for each of these systems."""
    nodes, links, connections = ["  r: {kind: router}"], [], []
    for index, name in enumerate(systems):
        system = SYSTEMS[name]
        for number in (2 * index + 1, 2 * index + 2):
            nodes += [f"  h{number}: {{kind: host}}", f"  g{number}: {{{system.node}}}"]
            lan, wan = f"10.{number}.0", f"192.0.{number}"
            links += [
                f"  - {{ends: [h{number}, g{number}], addresses: [{lan}.2/24, {lan}.1/24]}}",
                f"  - {{ends: [g{number}, r], addresses: [{wan}.1/24, {wan}.2/24]}}",
            ]
        if system.connection:
            ends = f"initiator: g{2 * index + 1}, responder: g{2 * index + 2}"
            connections.append(f"  - {{{ends}, psk: benchmark, {PROPOSALS}, {system.connection}}}")
    parts = ["nodes:", *nodes, "links:", *links]
    if connections:
        parts += ["connections:", *connections]
    return "\n".join(parts) + "\n"


def inside(order: Any, folder: Path) -> dict[str, Any]:
    """One run through each pair, in the order that is asked for."""
    effort, systems = Effort(**order["effort"]), order["systems"]
    topology = parse_topology(pairs_of(systems))
    lab = Lab(topology, seed=1, out=folder / "lab", fast_path=True)
    lab.build()
    lab.start_nodes()
    lab.start_time = time.monotonic()
    lab.initiate({name: starting_connections(topology, name) for name in lab.gateways})
    be_quick()
    pairs = {
        name: Pair(lab, topology, index, _tunnel(lab, topology, index, name, folder))
        for index, name in enumerate(systems)
    }
    for pair in pairs.values():
        pair.await_tunnel()
    return {name: asdict(pair.measure(effort)) for name, pair in pairs.items()}


def _tunnel(lab: Lab, topology: Topology, index: int, name: str, folder: Path) -> tuple[int, ...]:
    """Put up what is no IPsec; its processes."""
    system = SYSTEMS[name]
    if not system.tunnel:
        return ()
    near, far = 2 * index + 1, 2 * index + 2
    ends = [
        End(
            lab.pid(f"g{own}"),
            str(topology.nodes[f"g{own}"].interfaces[1].address),
            f"10.{other}.0.0/24",
        )
        for own, other in ((near, far), (far, near))
    ]
    return start_tunnel(system.tunnel, ends, folder / system.tunnel)


class Pair:
    """Two hosts with two gateways between them."""

    def __init__(
        self, lab: Lab, topology: Topology, index: int, processes: Sequence[int] = ()
    ) -> None:
        self._lab = lab
        self._processes = processes
        """Of gateways that the lab does not know."""
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
        floods = {size: self._best_flood(size, effort.udp_seconds) for size in (LARGE, SMALL)}
        with self._stream() as sink:
            time.sleep(WARM_SECONDS)
            cpu_before, (begin, before) = self._cpu_seconds(), sink.ask("octets")
            time.sleep(effort.tcp_seconds)
            cpu_after, (end, after) = self._cpu_seconds(), sink.ask("octets")
            beside = self.echo_times(effort.echoes)
            shares = self._profiles(effort.tcp_seconds) if effort.profiled else [{}, {}]
        near, far = (now - then for then, now in zip(cpu_before, cpu_after, strict=True))
        return Found(
            tcp_bits=(after - before) * 8 / (end - begin),
            cpu_near=near / (after - before),
            cpu_far=far / (after - before),
            large_packets=floods[LARGE].rate,
            large_lost=floods[LARGE].lost,
            small_packets=floods[SMALL].rate,
            small_lost=floods[SMALL].lost,
            ping_median=statistics.median(times),
            ping_p99=times[int(len(times) * 0.99)],
            ping_beside_tcp=statistics.median(beside),
            profile_near=shares[0],
            profile_far=shares[1],
        )

    def _profiles(self, seconds: float) -> list[dict[str, float]]:
        """Of both gateways; of strongSwan's the daemon, which our process has started."""
        own = [self._lab.gateways[name].pid for name in self._gateways]
        processes = [next(iter(children_of(pid)), pid) for pid in own] or self._processes
        if not processes:
            return [{}, {}]
        return profile(processes, seconds, self._lab.folders.logs / "profiles")

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

    @contextlib.contextmanager
    def _stream(self) -> Iterator[Child]:
        """One TCP connection between the hosts, with as much in it as it takes. The process that
        receives answers any message with the time and the octets that have arrived by then."""
        log = self._lab.folders.log
        far, near = self._lab.pid(self._far), self._lab.pid(self._near)
        sink = start("sink", _sink, network=far, log=log("sink"))
        sink.await_ready()
        source = start("source", self._pour, network=near, log=log("source"))
        try:
            yield sink
        finally:
            sink.finish()
            source.finish()

    def _pour(self, _control: Control) -> None:
        """The sending process: as much as TCP takes, until the other end closes."""
        chunk = bytes(CHUNK)
        with (
            socket.create_connection((str(self._address), TCP_PORT)) as opened,
            contextlib.suppress(ConnectionError),
        ):
            while True:
                opened.send(chunk)

    def _best_flood(self, size: int, seconds: float) -> Flood:
        """The fastest that loses little, over the numbers of datagrams under way."""
        floods = [self._flood(size, seconds / len(WINDOWS), window) for window in WINDOWS]
        good = [flood for flood in floods if flood.lost < BEARABLE]
        return max(good, key=lambda flood: flood.rate) if good else Flood(0.0, floods[0].lost)

    def _flood(self, size: int, seconds: float, window: int) -> Flood:
        with (
            self._socket(self._near, socket.SOCK_DGRAM) as near,
            self._socket(self._far, socket.SOCK_DGRAM) as far,
        ):
            far.bind(("", UDP_PORT))
            near.connect((str(self._address), UDP_PORT))
            return Line(near, far, bytes(size), 0).flood(seconds, window)

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

    def _cpu_seconds(self) -> tuple[float, float]:
        """Of the near gateway's process and of the far one's; the kernel's own has none."""
        if self._gateways:
            near, far = (self._lab.report(name).cpu_seconds for name in self._gateways)
        elif self._processes:
            near, far = (cpu_seconds(pid) for pid in self._processes)
        else:
            near = far = 0.0
        return near, far


def _is_answer(packet: bytes, sequence: int) -> bool:
    header = decode_ipv4_header(packet).header_length
    kind, _code, _sum, identifier, number = ICMP_ECHO_HEADER.unpack_from(packet, header)
    return (kind, identifier, number) == (ICMP_ECHO_REPLY, _IDENTIFIER, sequence)


def _sink(control: Control) -> None:
    """The receiving process."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", TCP_PORT))
        listener.listen()
        control.send("ready")
        opened, _peer = listener.accept()
    with opened:
        opened.setblocking(False)
        poll, buffer = PrecisePoll(opened.fileno(), control.fileno()), bytearray(CHUNK)
        octets = 0
        while True:
            ready = poll.wait(None)
            if opened.fileno() in ready:
                octets += opened.recv_into(buffer)
            if control.fileno() in ready:
                if control.receive() is None:
                    return
                control.send((time.monotonic(), octets))


if __name__ == "__main__":
    answer(inside)
