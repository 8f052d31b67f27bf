"""The same line and the same application behind IPsec, OpenVPN, TLS and nothing: the part of
`ipsec_vs_ssl.py` in a sandbox. One system, one line, from its first packet on.

    h1 ----- g1 ===== r ----- g2 ----- h2      g1 === r: delay, rate and loss

Somebody at r writes down all that passes while the tunnel is set up and the application sends a
message, a file and small messages; then comes one TCP connection with as much as it takes, which
nobody watches. TLS has no tunnel: h1 speaks it to a proxy at g2, which talks to h2 in clear.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sandboxed import answer
from tunnels import OPENVPN, OPENVPN_TCP, End, certify, start_tunnel

from ipseclab.emu import devices, routing
from ipseclab.emu.lab import Lab
from ipseclab.emu.process import Child, Control, start
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.identities import identity
from ipseclab.lab.topology import Topology, parse_topology
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    ICMP_ECHO_HEADER,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    build_icmp_echo,
    decode_ipv4_header,
)

CLEAR, OURS, STRONGSWAN, TLS = "nothing", "IPsec, ipseclab", "IPsec, strongSwan", "TLS, one proxy"
SYSTEMS = (CLEAR, OURS, STRONGSWAN, OPENVPN, OPENVPN_TCP, TLS)
NAME = "plans.example.org"
MESSAGE = b"GET /plans HTTP/1.1\r\nHost: plans.example.org\r\n\r\n" + 40 * b"open sesame, open "
OTHER = b"another application of the same host" * 4
FILE_OCTETS, SMALL_OCTETS, SMALL_MESSAGES = 300_000, 100, 40
APP_PORT, TLS_PORT, OTHER_PORT = 5001, 443, 5003
CONGESTION = "reno"
"""Every kernel has it, and lets every namespace have it: OpenVPN cannot be told to use another."""
RATE, DELAY = "20Mbit/s", 0.02
QUEUE_PACKETS = 100
READY_SECONDS, SETTLE_SECONDS, ECHO_EVERY, PACE = 20.0, 0.4, 0.005, 0.01
CHUNK = 64 * 1024
IN_CLEAR = 16
"""So many octets in a row of a payload are no chance find."""
_ETHERTYPE_IPV4 = 0x0800
_SO_TIMESTAMPNS = 35
_TIME = struct.Struct("=qq")
_IDENTIFIER = 0x51C


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one system on one line."""

    set_up: float
    """Seconds from the first packet until the application's first octet may leave."""
    file_ratio: float
    """Octets of IP towards h2 for each octet of a file."""
    small_octets: float
    """Octets of IP towards h2 for each small message."""
    goodput: float
    seen: dict[str, bool | str]


@dataclass(slots=True)
class Watch:
    """What passed r towards h2 and back, with times of the clock."""

    towards: list[tuple[float, bytes]] = field(default_factory=list)
    back: list[tuple[float, bytes]] = field(default_factory=list)

    @property
    def octets(self) -> int:
        """Of IP, towards h2."""
        return sum(len(packet) for _, packet in self.towards)

    def packets(self) -> Iterator[bytes]:
        """All of them."""
        return (packet for _, packet in (*self.towards, *self.back))

    def shows(self, octets: bytes) -> bool:
        """Whether some of that stands in a packet as it is."""
        pieces = [octets[at : at + IN_CLEAR] for at in range(0, len(octets), IN_CLEAR)]
        whole = [piece for piece in pieces if len(piece) == IN_CLEAR or len(octets) < IN_CLEAR]
        return any(piece in packet for packet in self.packets() for piece in whole)

    def ends(self) -> str:
        """Protocols and ports, as the outermost headers have them."""
        found = dict.fromkeys(_protocol(packet) for _, packet in self.towards)
        return ", ".join(found)

    def addresses(self, inner: bytes) -> bool:
        """Whether a host's own address stands in an outermost header."""
        return any(inner in (packet[12:16], packet[16:20]) for packet in self.packets())


def _protocol(packet: bytes) -> str:
    header = decode_ipv4_header(packet)
    if header.protocol not in (IpProtocol.TCP, IpProtocol.UDP):
        return IpProtocol(header.protocol).name
    at = header.header_length + 2
    port = int.from_bytes(packet[at : at + 2], "big")
    return f"{IpProtocol(header.protocol).name} {port}"


def topology_text(system: str, loss: float) -> str:
    """The line drawn above, its gateways as the system needs them."""
    stack = {OURS: "ipseclab", STRONGSWAN: "strongswan"}.get(system)
    gateway = f"{{kind: gateway, stack: {stack}}}" if stack else "{kind: router}"
    lines = [
        f"nodes: {{h1: {{kind: host}}, g1: {gateway}, r: {{kind: router}}, g2: {gateway}, "
        "h2: {kind: host}}",
        "links:",
        "  - {ends: [h1, g1], addresses: [10.1.0.2/24, 10.1.0.1/24]}",
        "  - {name: wan, ends: [g1, r], addresses: [192.0.2.1/24, 192.0.2.254/24], "
        f"delay: {DELAY}, rate: {RATE}, queue_packets: {QUEUE_PACKETS}, loss: {loss}}}",
        "  - {ends: [r, g2], addresses: [198.51.100.254/24, 198.51.100.2/24]}",
        "  - {ends: [g2, h2], addresses: [10.2.0.1/24, 10.2.0.2/24]}",
    ]
    if stack:
        way = "forced" if system == STRONGSWAN else "auto"
        lines += [
            "connections:",
            "  - {initiator: g1, responder: g2, psk: a shared secret, "
            "ike: aes128gcm16-prfsha256-x25519, esp: aes128gcm16-x25519, "
            f"encapsulation: {way}}}",
        ]
    return "\n".join(lines) + "\n"


def inside(order: Any, folder: Path) -> dict[str, Any]:
    """One system on one line."""
    topology = parse_topology(topology_text(order["system"], order["loss"]))
    lab = Lab(topology, seed=order["seed"], out=folder / "lab", fast_path=False)
    lab.build()
    lab.start_nodes()
    for name in topology.nodes:
        with devices.in_network(lab.pid(name)):
            devices.set_sysctl("ipv4.tcp_congestion_control", CONGESTION)
    lab.start_time = time.monotonic()
    line = Line(lab, topology, order["system"], folder)
    return asdict(line.measure(order["seconds"]))


class Line:
    """The lab with its application, from the set-up on."""

    def __init__(self, lab: Lab, topology: Topology, system: str, folder: Path) -> None:
        self._lab, self._topology = lab, topology
        self._system, self._folder = system, folder
        self._host = str(topology.nodes["h2"].address)
        self._proxy = str(topology.nodes["g2"].interface_to("r").address)
        self._trust = ""

    def measure(self, seconds: float) -> Found:
        """Set up, watched; a message, a file, small messages, watched; then as much as it takes."""
        sink = self._process("application", "h2", _sink)
        if self._system == TLS:
            self._trust = str(self._folder / "tls" / "ca.crt")
            certify(self._folder / "tls", {"proxy": (identity(NAME),)})
            self._process("proxy", "g2", self._serve)
        with self._tap() as tap:
            usable = self._set_up()
            first = self._watched(tap)
            with self._stream() as stream:
                stream.sendall(MESSAGE)
                self._await(sink, len(MESSAGE))
                self._say_beside()
                said = self._watched(tap)
                stream.sendall(bytes(FILE_OCTETS))
                self._await(sink, len(MESSAGE) + FILE_OCTETS)
                file = self._watched(tap)
                for _ in range(SMALL_MESSAGES):
                    stream.sendall(bytes(SMALL_OCTETS))
                    time.sleep(PACE)
                small = self._watched(tap)
        # r is that far from g1, from where the first packet came.
        opening = min(at for at, _ in (*first.towards, *said.towards)) - DELAY
        everything = Watch([*first.towards, *said.towards], [*first.back, *said.back])
        return Found(
            set_up=(usable if usable is not None else self._opened) - opening,
            file_ratio=file.octets / FILE_OCTETS,
            small_octets=small.octets / SMALL_MESSAGES,
            goodput=self._goodput(sink, seconds),
            seen=self._seen(everything),
        )

    def _seen(self, watch: Watch) -> dict[str, bool | str]:
        inner = self._topology.nodes["h1"].address.packed
        return {
            "payload": watch.shows(MESSAGE),
            "name": NAME.encode() in b"".join(watch.packets()),
            "hosts": watch.addresses(inner),
            "other": watch.shows(OTHER),
            "ends": watch.ends(),
        }

    # The tunnel.

    def _set_up(self) -> float | None:
        """Put up what protects; when the first echo was answered, less its way there and back.
        None where there is nothing to put up before the application speaks."""
        if self._system in (CLEAR, TLS):
            return None
        with devices.in_network(self._lab.pid("g1")):
            # Not all systems keep back what comes before the tunnel stands.
            routing.run_ip(["route replace blackhole 10.2.0.0/24"])
        if self._system in (OPENVPN, OPENVPN_TCP):
            start_tunnel(self._system, self._ends(), self._folder / "tunnel")
        else:
            lab = self._lab
            lab.initiate(
                {name: starting_connections(self._topology, name) for name in lab.gateways}
            )
        return self._first_echo()

    def _ends(self) -> Sequence[End]:
        beyond = {"g1": "10.2.0.0/24", "g2": "10.1.0.0/24"}
        return [
            End(
                self._lab.pid(name),
                str(self._topology.nodes[name].interface_to("r").address),
                networks,
            )
            for name, networks in beyond.items()
        ]

    def _first_echo(self) -> float:
        with self._socket("h1", socket.SOCK_RAW, IpProtocol.ICMP) as opened:
            opened.settimeout(ECHO_EVERY)
            until = time.time() + READY_SECONDS
            echo = build_icmp_echo(ICMP_ECHO_REQUEST, _IDENTIFIER, 0, bytes(8))
            while time.time() < until:
                with contextlib.suppress(OSError):  # no way yet, or no answer
                    opened.sendto(echo, (self._host, 0))
                    if _is_answer(opened.recv(2048)):
                        return time.time() - 2 * DELAY
        raise TimeoutError(f"{self._system}: no answer in {READY_SECONDS:.0f} s")

    # The application.

    @contextlib.contextmanager
    def _stream(self) -> Iterator[socket.socket]:
        """One connection of the application's, over TLS where that is what protects it."""
        with self._socket("h1", socket.SOCK_STREAM) as opened:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            opened.settimeout(READY_SECONDS)
            if self._system != TLS:
                opened.connect((self._host, APP_PORT))
                self._opened = time.time()
                yield opened
                return
            opened.connect((self._proxy, TLS_PORT))
            context = ssl.create_default_context(cafile=self._trust)
            with context.wrap_socket(opened, server_hostname=NAME) as wrapped:
                self._opened = time.time()
                yield wrapped

    def _say_beside(self) -> None:
        """What another application of h1 says to h2, over UDP."""
        with self._socket("h1", socket.SOCK_DGRAM) as opened:
            for _ in range(5):
                opened.sendto(OTHER, (self._host, OTHER_PORT))

    def _goodput(self, sink: Child, seconds: float) -> float:
        """Bits a second of payload that arrived, from the first second on."""
        chunk = bytes(CHUNK)
        marks: list[tuple[float, int]] = []
        with self._stream() as stream:
            begun = time.monotonic()
            stream.settimeout(0.25)
            while (now := time.monotonic()) < begun + seconds:
                if not marks and now >= begun + 1.0:
                    marks.append(sink.ask("octets"))
                with contextlib.suppress(TimeoutError, ssl.SSLWantWriteError):
                    stream.send(chunk)
            marks.append(sink.ask("octets"))
        (start_at, before), (end, after) = marks[0], marks[-1]
        return (after - before) * 8 / (end - start_at)

    def _await(self, sink: Child, octets: int) -> None:
        until = time.monotonic() + READY_SECONDS
        while sink.ask("octets")[1] < octets:
            if time.monotonic() > until:
                raise TimeoutError(f"{self._system}: {octets} octets did not arrive")
            time.sleep(PACE)

    def _serve(self, control: Control) -> None:
        """The reverse proxy: TLS on one side, the application in clear on the other."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        folder = self._folder / "tls"
        context.load_cert_chain(str(folder / "proxy.crt"), str(folder / "proxy.key"))
        with socket.create_server((self._proxy, TLS_PORT)) as listener:
            control.send("ready")
            while True:
                opened, _peer = listener.accept()
                with (
                    context.wrap_socket(opened, server_side=True) as client,
                    socket.create_connection((self._host, APP_PORT)) as behind,
                ):
                    behind.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    _pump(client, behind)

    # Looking on.

    @contextlib.contextmanager
    def _tap(self) -> Iterator[socket.socket]:
        """All that passes r on the line, as IP packets."""
        interface = self._topology.nodes["r"].interface_to("g1").name
        with devices.in_network(self._lab.pid("r")):
            kind = socket.SOCK_DGRAM
            opened = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETHERTYPE_IPV4))
            opened.bind((interface, _ETHERTYPE_IPV4))
        with opened:
            devices.enlarge_buffers(opened)
            opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            opened.setblocking(False)
            yield opened

    def _watched(self, tap: socket.socket) -> Watch:
        """What has passed since the last call, once the line has come to rest."""
        time.sleep(SETTLE_SECONDS)
        watch = Watch()
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, ancillary, _flags, where = tap.recvmsg(CHUNK, 256)
                seconds, nanoseconds = _TIME.unpack(ancillary[0][2][: _TIME.size])
                side = watch.back if where[2] == socket.PACKET_OUTGOING else watch.towards
                side.append((seconds + nanoseconds / 1e9, packet))
        return watch

    def _process(self, name: str, node: str, live: Callable[[Control], None]) -> Child:
        log = self._lab.folders.log(name)
        child = start(name, live, network=self._lab.pid(node), log=log)
        child.await_ready()
        return child

    @contextlib.contextmanager
    def _socket(self, node: str, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
        with devices.in_network(self._lab.pid(node)):
            opened = socket.socket(socket.AF_INET, kind, protocol)
        with opened:
            yield opened


def _is_answer(packet: bytes) -> bool:
    header = decode_ipv4_header(packet).header_length
    kind, _code, _sum, identifier, _number = ICMP_ECHO_HEADER.unpack_from(packet, header)
    return (kind, identifier) == (ICMP_ECHO_REPLY, _IDENTIFIER)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """From one to the other, until one of them ends."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := source.recv(CHUNK):
            sink.sendall(data)


def _sink(control: Control) -> None:
    """The application at h2: takes what comes, and says how much when it is asked."""
    octets = 0
    with socket.create_server(("", APP_PORT)) as listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)
        ready.register(control, selectors.EVENT_READ)
        control.send("ready")
        while True:
            for key, _events in ready.select():
                if key.fileobj is control:
                    if control.receive() is None:
                        return
                    control.send((time.monotonic(), octets))
                elif key.fileobj is listener:
                    opened, _peer = listener.accept()
                    ready.register(opened, selectors.EVENT_READ)
                else:
                    taken = _take(key.fileobj)
                    octets += taken
                    if not taken:
                        ready.unregister(key.fileobj)


def _take(opened: Any) -> int:
    """Octets that were there; none of a connection that has ended."""
    try:
        return len(opened.recv(CHUNK))
    except ConnectionError:
        return 0


if __name__ == "__main__":
    answer(inside)
