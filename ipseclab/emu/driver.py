"""A gateway's process: `gateway.Gateway` between a TUN device, raw sockets and UDP sockets.

Packets from the protected side (and of the node itself) come in through one TUN device, plain
packets from the unprotected side through another, so that each meets the SPD (RFC 4301 section 5);
`emu.routing` makes the kernel send them there. ESP and AH come through raw sockets of protocols 50
and 51, IKE and ESP in UDP through ports 500 and 4500. One thread, one poll, one timer.
"""

from __future__ import annotations

import os
import pickle
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from errno import EMSGSIZE
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import BinaryIO, assert_never

from ipseclab.emu import devices
from ipseclab.emu.devices import PROTECTED_TUN, UNPROTECTED_TUN
from ipseclab.emu.inside import InsideAddresses
from ipseclab.emu.process import Child, Control, PrecisePoll, be_quick, start
from ipseclab.emu.streams import StreamSockets
from ipseclab.errors import IpsecLabError
from ipseclab.gateway import GatewayConfig
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ipsec.counters import INBOUND, OUTBOUND
from ipseclab.ipsec.fragments import fragments_of, is_fragment
from ipseclab.lab.faults import Fault, gateway_with
from ipseclab.lab.trace import Trace
from ipseclab.outputs import (
    CloseStream,
    DeliverPacket,
    EspKeyLog,
    IkeKeyLog,
    InternalConfiguration,
    Notice,
    OpenStream,
    Output,
    SendDatagram,
    SendPacket,
    SendStream,
    TcpPath,
    UdpEndpoint,
    UdpPath,
)
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import DONT_FRAGMENT

BURST = 32
"""Packets taken from one descriptor before the others and the timer are looked at."""
LARGEST_PACKET = 65_536
LARGEST_TUN_MTU = 65_535
LONG_SLEEP = 2e-3
"""Seconds without anything to do after which a gateway is idle."""
VIGIL = 300e-6
"""Seconds that a gateway looks for more without sleeping, once something woke it from idleness. An
answer comes so soon, mostly, and to wake costs as much time as to handle it. A busy gateway does
not."""
ARRIVALS = ("ike_received", "keepalive_received")
_PROTOCOL = 9
_PROTECTED = (IpProtocol.ESP, IpProtocol.AH)
_SOURCE, _DESTINATION = 0, 1
_ADDRESSES = {4: (slice(12, 16), slice(16, 20)), 6: (slice(8, 24), slice(24, 40))}
"""By version of IP."""


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """A gateway's node: its configuration, its own unprotected addresses, and the TUN's MTU."""

    config: GatewayConfig
    addresses: tuple[str, ...]
    mtu: int
    trace: Path
    keys: Path
    """Gets the key logs, pickled one after the other (`read_keys`)."""
    own_address: str
    """Where the node's own packets come from, as long as no peer gives it another address."""
    resolver: Path
    """Gets the name servers that a peer names, in the form of resolv.conf(5)."""
    faults: tuple[Fault, ...] = ()
    seed: int = 0
    """Of what the faults draw."""
    source_routed: bool = False
    """Whether what it sends leaves by the link of its source address (MOBIKE)."""
    streams: bool = False
    """Whether IKE and ESP may go in TCP (RFC 9329)."""
    accepts_streams: bool = False
    """Whether peers may open TCP connections to it."""
    slow: float = 1.0
    """How many times as long the gateway is to take for everything, to see what that does."""
    outer_mtu: int = LARGEST_TUN_MTU
    """The smallest of its unprotected links'."""

    @property
    def name(self) -> str:
        """The node's name."""
        return self.config.ike.name


@dataclass(frozen=True, slots=True)
class Command:
    """Control: do `action` (a method of Gateway) to a connection now."""

    action: str
    connection: str


@dataclass(frozen=True, slots=True)
class ChangeAddresses:
    """Control: the node has these unprotected addresses now."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AskStatus:
    """Control: asks for the gateway's `Report`."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a gateway stands: its status as lines of text, its counters, and CPU seconds used."""

    status: object
    counters: dict[str, int]
    cpu_seconds: float


def start_gateway(
    spec: GatewaySpec,
    *,
    network: int,
    log: Path,
    rehearse: Callable[[], None],
    drive: Callable[[GatewaySpec], GatewayDriver],
) -> Child:
    """Start the process of a gateway in the network namespace of `network`.

    `drive` makes its driver.

    It says "ready" when its devices and sockets are there, and it has rehearsed: a process just
    forked is slow at what it does for the first time.
    """

    def live(control: Control) -> None:
        driver = drive(spec)
        rehearse()
        driver.run(control)

    return start(f"gateway {spec.name}", live, network=network, log=log)


def read_keys(stream: BinaryIO) -> Iterator[IkeKeyLog | EspKeyLog]:
    """The key logs written since the last reading; a half-written one is left for the next."""
    while True:
        start = stream.tell()
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):
            stream.seek(start)
            return


def _address_in(packet: bytes, which: int) -> IPv4Address | IPv6Address:
    return ip_address(packet[_ADDRESSES[packet[0] >> 4][which]])


def _is_not_esp(path: UdpPath, data: bytes) -> bool:
    """False for ESP, which shares port 4500 with IKE."""
    return path.local.port != NAT_T_PORT or data.startswith(NON_ESP_MARKER)


def _take_longer(since: float, times: float) -> None:
    """Be busy for so many times as long as it took since then, as a slower gateway would be."""
    now = time.monotonic()
    until = now + times * (now - since)
    while time.monotonic() < until:
        continue


class GatewayDriver:
    """Carries out what the gateway wants done, and tells it what has happened."""

    def __init__(self, spec: GatewaySpec) -> None:
        # The system's generator: keys on a real network must not come from a seed.
        self._gateway = gateway_with(
            spec.config, spec.faults, rng=random.SystemRandom(), seed=spec.seed
        )
        self._name = spec.name
        self._longer = spec.slow - 1.0
        self._keys = spec.keys.open("ab", buffering=0)
        self._trace = Trace(spec.trace.open("a", encoding="utf-8"), keep=False)
        self._protected = self._open_protected(PROTECTED_TUN)
        self._unprotected = devices.open_tun(UNPROTECTED_TUN)
        devices.set_mtu(PROTECTED_TUN, spec.mtu)
        self._raw, self._raw_ah = (devices.open_ip_socket(item) for item in _PROTECTED)
        self._outer_mtu = spec.outer_mtu
        self._identification = 0
        self._ipv6: socket.socket | None = None
        """Sends packets of IPv6, where the node has such links outside."""
        if any(":" in address for address in spec.addresses):
            self._ipv6 = devices.open_ipv6_sender()
            # What comes for it takes this way, ESP and AH too.
            devices.set_mtu(UNPROTECTED_TUN, LARGEST_TUN_MTU)
        self._source_routed = spec.source_routed
        self._udp: dict[UdpEndpoint, socket.socket] = {}
        self._checked: dict[UdpEndpoint, bool] = {}
        self._senders: dict[str, socket.socket] = {}
        """By source: the kernel's routing does not see it in a packet that is sent as it is."""
        self._streams = StreamSockets(self, listens=spec.accepts_streams) if spec.streams else None
        self._take_addresses(spec.addresses)
        self._moved = False
        self._vigil_until = 0.0
        self._inside = InsideAddresses(spec.own_address, spec.resolver)

    def _take_addresses(self, addresses: Sequence[str]) -> None:
        """Open what these addresses need, and close what belongs to others."""
        wanted = [UdpEndpoint(a, port) for a in addresses for port in (IKE_PORT, NAT_T_PORT)]
        for gone in [local for local in self._udp if local not in wanted]:
            self._udp.pop(gone).close()
            del self._checked[gone]
        for local in wanted:
            if local not in self._udp:
                self._udp[local] = devices.open_udp_socket(local.address, local.port)
                self._checked[local] = True
        if self._streams is not None:
            self._streams.take_addresses(addresses)
        if self._source_routed:
            for left in [one for one in self._senders if one not in addresses]:
                self._senders.pop(left).close()
            for address in addresses:
                if address not in self._senders:
                    self._senders[address] = devices.open_sender(address)

    def _readers(self) -> dict[int, Callable[[], None]]:
        readers: dict[int, Callable[[], None]] = {
            self._protected: self._read_protected,
            self._unprotected: self._read_unprotected,
            self._raw.fileno(): self._raw_reader(self._raw),
            self._raw_ah.fileno(): self._raw_reader(self._raw_ah),
        }
        for local, opened in self._udp.items():
            readers[opened.fileno()] = self._udp_reader(local, opened)
        if self._streams is not None:
            readers[self._streams.fileno()] = self._streams.handle
        return readers

    def _open_protected(self, name: str) -> int:
        return devices.open_tun(name)

    def run(self, control: Control) -> None:
        """Be a gateway until told to end."""
        readers = self._readers()
        poll = PrecisePoll(*readers, control.fileno())
        for name in (PROTECTED_TUN, UNPROTECTED_TUN):
            devices.keep_quiet(name)
            devices.set_up(name)
        be_quick()
        control.send("ready")
        while True:
            for descriptor in self._wait(poll):
                reader = readers.get(descriptor)
                if reader is not None:
                    reader()
                elif not self._obey(control):
                    return
            self._keep_time()
            if self._streams is not None:
                self._streams.report()
            if self._moved:
                self._moved = False
                readers = self._readers()
                poll = PrecisePoll(*readers, control.fileno())

    def _wait(self, poll: PrecisePoll) -> list[int]:
        """The descriptors that are readable, at the latest when the timer is due."""
        seconds = self._seconds_left()
        now = time.monotonic()
        while now < self._vigil_until and (seconds is None or seconds > VIGIL):
            ready = poll.wait(0.0)
            if ready:
                return ready
            now = time.monotonic()
        ready = poll.wait(seconds)
        if seconds != 0.0:
            woken = time.monotonic()
            self._vigil_until = woken + VIGIL if ready and woken - now >= LONG_SLEEP else 0.0
        return ready

    def _seconds_left(self) -> float | None:
        deadline = self._gateway.next_deadline()
        return None if deadline is None else max(0.0, deadline.at - time.monotonic())

    def _keep_time(self) -> None:
        """Call the gateway's timer when it is due."""
        deadline = self._gateway.next_deadline()
        now = time.monotonic()
        if deadline is not None and deadline.at <= now:
            self._carry_out(self._gateway.handle_timeout(now), now)

    def _read_protected(self) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(self._protected, LARGEST_PACKET)
            except BlockingIOError:
                return
            now = time.monotonic()
            self._carry_out(self._gateway.send_packet(packet, now), now)

    def _read_unprotected(self) -> None:
        for _ in range(BURST):
            try:
                packet = os.read(self._unprotected, LARGEST_PACKET)
            except BlockingIOError:
                return
            now = time.monotonic()
            if self._source_routed and packet[0] >> 4 == 4 and packet[_PROTOCOL] in _PROTECTED:
                # ESP or AH for an address of ours comes by the raw socket: this one is gone.
                self._dropped("no_address", INBOUND, packet, now)
                continue
            self._carry_out(self._gateway.receive_packet(packet, now), now)

    def _raw_reader(self, opened: socket.socket) -> Callable[[], None]:
        def read() -> None:
            for _ in range(BURST):
                try:
                    packet = opened.recv(LARGEST_PACKET)
                except BlockingIOError:
                    return
                now = time.monotonic()
                self._carry_out(self._gateway.receive_packet(packet, now), now)

        return read

    def _udp_reader(self, local: UdpEndpoint, opened: socket.socket) -> Callable[[], None]:
        receive = self._gateway.receive_datagram

        def read() -> None:
            for _ in range(BURST):
                try:
                    data, remote = opened.recvfrom(LARGEST_PACKET)
                except BlockingIOError:
                    return
                except ConnectionRefusedError:  # an ICMP error for an earlier datagram
                    continue
                now = time.monotonic()
                path = UdpPath(local, UdpEndpoint(*remote[:2]))
                self._carry_out(receive(path, data, now), now)

        return read

    # What the TCP sockets tell.

    def stream_accepted(self, path: TcpPath) -> None:
        """A peer has opened a connection."""
        now = time.monotonic()
        self._carry_out(self._gateway.stream_accepted(path, now), now)

    def stream_opened(self, path: TcpPath) -> None:
        """A connection that the gateway wanted is there."""
        now = time.monotonic()
        self._carry_out(self._gateway.stream_opened(path, now), now)

    def stream_sent(self, path: TcpPath, octets: int) -> None:
        """The kernel has taken so many octets more."""
        now = time.monotonic()
        self._carry_out(self._gateway.stream_sent(path, octets, now), now)

    def stream_closed(self, path: TcpPath, reason: str) -> None:
        """A connection is gone."""
        now = time.monotonic()
        self._carry_out(self._gateway.stream_closed(path, reason, now), now)

    def receive_stream(self, path: TcpPath, octets: bytes) -> None:
        """Octets of a connection."""
        now = time.monotonic()
        self._carry_out(self._gateway.receive_stream(path, octets, now), now)

    def _carry_out(self, outputs: Sequence[Output], now: float) -> None:
        """Packets first, in their order; what there is to write down about them can wait."""
        if self._longer:
            _take_longer(now, self._longer)
        happened = time.monotonic()
        notes: list[Notice | IkeKeyLog | EspKeyLog] = []
        for output in outputs:
            match output:
                case SendDatagram(path, data):
                    remote = (path.remote.address, path.remote.port)
                    opened = self._udp.get(path.local)
                    if opened is None:
                        self._dropped("no_address", OUTBOUND, data, now)
                        continue
                    self._check_sums(path.local, not_esp=_is_not_esp(path, data))
                    self._send(opened, data, remote, now)
                case SendPacket(packet):
                    sender = self._sender_of(packet)
                    if sender is None:
                        self._dropped("no_address", OUTBOUND, packet, now)
                        continue
                    remote = (str(_address_in(packet, _DESTINATION)), 0)
                    for piece in self._fitting(packet):
                        self._send(sender, piece, remote, now)
                case DeliverPacket(packet):
                    self._deliver(packet, now)
                case OpenStream() | SendStream() | CloseStream():
                    self._use_stream(output)
                case Notice() | IkeKeyLog() | EspKeyLog():
                    notes.append(output)
                case InternalConfiguration():
                    self._inside.take(output)
                case _:
                    assert_never(output)
        if notes:
            for note in notes:
                self._write_down(note, now, happened)
            # At once: a killed run leaves what happened up to then.
            self._trace.flush()

    def _use_stream(self, output: OpenStream | SendStream | CloseStream) -> None:
        assert self._streams is not None, f"{self._name}: no connection of it may go in TCP"
        match output:
            case SendStream(path, octets):
                self._streams.send(path, octets)
            case OpenStream(path):
                self._streams.open(path)
            case CloseStream(path, abort):
                self._streams.close(path, abort=abort)

    def _fitting(self, packet: bytes) -> list[bytes]:
        """The packet, or its fragments where the link is too short and a source may cut it: the
        kernel does that to no packet that it was given whole."""
        whole = packet[0] >> 4 == 4 and packet[6] << 8 & DONT_FRAGMENT
        if len(packet) <= self._outer_mtu or whole or is_fragment(packet):
            return [packet]
        self._identification += 1
        return fragments_of(packet, self._outer_mtu, self._identification)

    def _sender_of(self, packet: bytes) -> socket.socket | None:
        if self._source_routed:
            return self._senders.get(str(_address_in(packet, _SOURCE)))
        return self._raw if packet[0] >> 4 == 4 else self._ipv6

    def _write_down(
        self, note: Notice | IkeKeyLog | EspKeyLog, arrived: float, happened: float
    ) -> None:
        if isinstance(note, Notice):
            # What arrived, arrived before it was processed.
            at = arrived if note.event in ARRIVALS else happened
            self._trace.record(at, self._name, note.event, **note.details)
        else:
            self._keys.write(pickle.dumps(note))

    def _check_sums(self, local: UdpEndpoint, *, not_esp: bool) -> None:
        """ESP in UDP has a checksum of zero (RFC 3948 section 2.1), IKE a real one: the socket is
        told when what it sends changes, which is seldom."""
        if self._checked[local] is not not_esp:
            self._checked[local] = not_esp
            devices.set_udp_checksum(self._udp[local], not_esp)

    def _send(
        self, opened: socket.socket, octets: bytes, remote: tuple[str, int], now: float
    ) -> None:
        try:
            opened.sendto(octets, remote)
        except OSError as error:
            reason = "too_big" if error.errno == EMSGSIZE else "not_sent"
            self._dropped(reason, OUTBOUND, octets, now)

    def _deliver(self, packet: bytes, now: float) -> None:
        try:
            os.write(self._protected, packet)
        except OSError:
            self._dropped("not_delivered", INBOUND, packet, now)

    def _dropped(self, reason: str, direction: str, octets: bytes, now: float) -> None:
        """A packet that the kernel refused to take."""
        self._trace.record(
            now,
            self._name,
            "packet_dropped",
            reason=reason,
            direction=direction,
            octets=len(octets),
        )
        self._trace.flush()

    def _obey(self, control: Control) -> bool:
        """Carry out one control message; False when it is the last."""
        now = time.monotonic()
        match control.receive():
            case Command(action, connection):
                try:
                    self._carry_out(self._action(action)(connection, now), now)
                except (IpsecLabError, KeyError) as error:
                    control.send(str(error))
                else:
                    control.send("")
            case ChangeAddresses(addresses):
                self._take_addresses(addresses)
                self._moved = True
                self._carry_out(self._gateway.change_addresses(addresses, now), now)
                control.send("")
            case AskStatus():
                control.send(self._report())
            case _:
                return False
        return True

    def _action(self, name: str) -> Callable[[str, float], Sequence[Output]]:
        """The gateway's method of that name in a plan."""
        gateway = self._gateway
        return {
            "initiate": gateway.initiate,
            "rekey_child": gateway.rekey_child,
            "rekey_ike": gateway.rekey_ike,
            "delete_child": gateway.delete_child,
            "delete_ike": gateway.delete_ike,
            "liveness": gateway.check_liveness,
            "keepalive": gateway.send_keepalive,
            "reauthenticate": gateway.reauthenticate,
            "redirect": gateway.redirect,
            "restart": lambda _connection, now: gateway.restart(now),
        }[name]

    def _report(self) -> Report:
        used = resource.getrusage(resource.RUSAGE_SELF)
        counters = dict(self._gateway.counters)
        return Report(self._gateway.status(), counters, used.ru_utime + used.ru_stime)
