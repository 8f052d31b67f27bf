"""A NAT as a process: `lab.nat` between the interfaces of its node.

The node's kernel has no addresses on those interfaces, so it neither answers nor forwards: every
packet is ours. Each link has one neighbour, so that the next hop's Ethernet address is the link's.
"""

from __future__ import annotations

import gc
import random
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ipseclab.emu import devices
from ipseclab.emu.process import Child, Control, PrecisePoll, be_punctual, start
from ipseclab.ike.config import IKE_PORT
from ipseclab.lab.impairment import derive
from ipseclab.lab.model import Interface, Node
from ipseclab.lab.nat import Nat, NatResult, NatSide
from ipseclab.lab.routes import Route
from ipseclab.lab.trace import Trace
from ipseclab.outputs import Notice
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import IPV4_HEADER_SIZE, build_ipv4, build_udp, checksum

BURST = 64
MOST_REMEMBERED = 4096
"""Destinations whose way out is remembered; when full, all are looked up anew."""
_HEADER = devices.ETHERNET_HEADER.size
_DESTINATION = slice(16, 20)
_TTL, _CHECKSUM = 8, slice(10, 12)


@dataclass(frozen=True, slots=True)
class NatSpec:
    """A NAT's node, its routing table, the seed of its port numbers, and where its trace goes."""

    node: Node
    routes: tuple[Route, ...]
    seed: int
    trace: Path


@dataclass(frozen=True, slots=True)
class Rebind:
    """Control: forget all mappings; with `address`, take that outside address from now on."""

    address: str | None = None


@dataclass(frozen=True, slots=True)
class AskOverruns:
    """Control: asks how many frames the kernel had no room for since this was last asked."""


def start_nat(spec: NatSpec, *, network: int, log: Path) -> Child:
    """Start a NAT's process in its node's network namespace; it says "ready"."""
    return start(
        f"nat {spec.node.name}",
        lambda control: NatBox(spec).run(control),
        network=network,
        log=log,
    )


class _Port:
    """An interface of the NAT: its socket, and the Ethernet header of all that leaves by it."""

    def __init__(self, interface: Interface) -> None:
        self.name = interface.name
        self.socket: socket.socket = devices.open_packet_socket(interface.name)
        self.header = devices.ETHERNET_HEADER.pack(
            bytes.fromhex(interface.peer_mac.replace(":", "")),
            bytes.fromhex(interface.mac.replace(":", "")),
            devices.ETH_P_IP,
        )


class NatBox:
    """Moves packets between the ports, each through the NAT."""

    def __init__(self, spec: NatSpec) -> None:
        node = spec.node
        if node.nat is None:
            raise ValueError(f"{node.name} is not a NAT")
        self._name = node.name
        self._node = node
        self._nat = Nat(node.nat, outside=node.pool, rng=derive(spec.seed, "nat", node.name))
        self._trace = Trace(spec.trace.open("a", buffering=1, encoding="utf-8"), keep=False)
        self._ports = {item.name: _Port(item) for item in node.interfaces}
        self._outside = next(p for p in self._ports.values() if p.name == node.outside)
        self._own = {item.address.packed for item in node.interfaces if item.name != node.outside}
        self._pool = {address.packed for address in node.pool}
        self._table = _forwarding_table(node, spec.routes)
        self._out: dict[bytes, _Port | None] = {}

    def run(self, control: Control) -> None:
        """Be a NAT until told to end."""
        be_punctual()
        gc.disable()
        self._rehearse()
        ports = {port.socket.fileno(): port for port in self._ports.values()}
        poll = PrecisePoll(*ports, control.fileno())
        control.send("ready")
        while True:
            due = self._nat.next_deadline()
            ready = poll.wait(None if due is None else max(0.0, due - time.monotonic()))
            for descriptor in ready:
                port = ports.get(descriptor)
                if port is not None:
                    self._take(port)
                elif not self._obey(control):
                    return
            if not ready:
                now = time.monotonic()
                self._note(self._nat.expire(max(now, due if due is not None else now)), now)

    def _rehearse(self) -> None:
        """Pass two packets through a NAT like this one: what a process does for the first time
        after its fork is slow."""
        config = self._node.nat
        assert config is not None, "checked when the box was made"
        outside = next(iter(self._node.pool)).packed
        inside, remote = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
        trial, now = Nat(config, outside=self._node.pool, rng=random.Random(0)), time.monotonic()
        for source, target, receive in (
            (inside, remote, trial.outbound),
            (remote, outside, trial.inbound),
        ):
            segment = build_udp(source, IKE_PORT, target, IKE_PORT, bytes(8))
            receive(build_ipv4(source, target, IpProtocol.UDP, segment), now)

    def _take(self, port: _Port) -> None:
        """Pass on what has come to a port, up to a burst."""
        for _ in range(BURST):
            try:
                frame = port.socket.recv(devices.LARGEST_FRAME)
            except BlockingIOError:
                return
            packet, now = frame[_HEADER:], time.monotonic()
            if len(packet) < IPV4_HEADER_SIZE:
                self._drop("malformed", packet, now)
            elif port is self._outside:
                self._finish(self._nat.inbound(packet, now), now)
            else:
                self._from_inside(packet, now)

    def _from_inside(self, packet: bytes, now: float) -> None:
        destination = packet[_DESTINATION]
        out = self._route(destination)
        if destination in self._own:
            self._drop("own_address", packet, now)
        elif destination in self._pool or out is self._outside:
            self._finish(self._nat.outbound(packet, now), now)
        elif out is None:
            self._drop("no_route", packet, now)
        elif packet[_TTL] <= 1:
            self._drop("ttl_expired", packet, now)
        else:
            self._send(out, _one_hop_less(packet), now)

    def _finish(self, result: NatResult, now: float) -> None:
        """Send what the NAT lets through; write down what it says."""
        self._note(result.notices, now)
        if result.packet is None:
            return
        if result.to is NatSide.OUTSIDE:
            self._send(self._outside, result.packet, now)
            return
        out = self._route(result.packet[_DESTINATION])
        if out is None:
            self._drop("no_route", result.packet, now)
        else:
            self._send(out, result.packet, now)

    def _route(self, destination: bytes) -> _Port | None:
        """The port that packets for `destination` leave by."""
        if destination not in self._out:
            if len(self._out) >= MOST_REMEMBERED:
                self._out.clear()
            address = IPv4Address(destination)
            self._out[destination] = next(
                (self._ports[name] for network, name in self._table if address in network), None
            )
        return self._out[destination]

    def _send(self, port: _Port, packet: bytes, now: float) -> None:
        try:
            port.socket.send(port.header + packet)
        except OSError:
            self._drop("not_sent", packet, now)

    def _obey(self, control: Control) -> bool:
        """Carry out one control message; False when it is the last."""
        now = time.monotonic()
        match control.receive():
            case Rebind(address):
                try:
                    notices = self._nat.rebind(
                        now, None if address is None else IPv4Address(address)
                    )
                except ValueError as error:
                    control.send(str(error))
                else:
                    self._note(notices, now)
                    control.send("")
            case AskOverruns():
                control.send(devices.queue_losses(*(p.socket for p in self._ports.values())))
            case _:
                return False
        return True

    def _note(self, notices: Iterable[Notice], now: float) -> None:
        for notice in notices:
            self._trace.record(now, self._name, notice.event, **notice.details)

    def _drop(self, reason: str, packet: bytes, now: float) -> None:
        self._trace.record(now, self._name, "nat_dropped", reason=reason, octets=len(packet))


def _forwarding_table(node: Node, routes: Sequence[Route]) -> tuple[tuple[IPv4Network, str], ...]:
    """Networks and the interface for each, the longest prefix first."""
    entries = [(item.network, item.name) for item in node.interfaces]
    entries += [(route.network, route.interface) for route in routes]
    return tuple(sorted(entries, key=lambda entry: -entry[0].prefixlen))


def _one_hop_less(packet: bytes) -> bytes:
    """The packet as a router passes it on (RFC 1812 section 5.3.1)."""
    changed = bytearray(packet)
    length = (changed[0] & 0x0F) * 4
    changed[_TTL] -= 1
    changed[_CHECKSUM] = b"\0\0"
    changed[_CHECKSUM] = checksum(bytes(changed[:length])).to_bytes(2, "big")
    return bytes(changed)
