"""A process that is all of a node's forwarding: frames between its interfaces, each packet its own.

The node's kernel has no addresses on those interfaces, so it neither answers nor forwards. Each
link has one neighbour, so that the next hop's Ethernet address is the link's. What becomes of a
packet is for a subclass to say: a NAT, an attacker.
"""

from __future__ import annotations

import gc
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from ipseclab.emu import devices
from ipseclab.emu.process import Control, PrecisePoll, be_punctual
from ipseclab.lab.model import Interface, Node
from ipseclab.lab.routes import Route
from ipseclab.lab.trace import Trace
from ipseclab.outputs import Notice
from ipseclab.wire.ip import IPV4_HEADER_SIZE, checksum

BURST = 64
MOST_REMEMBERED = 4096
"""Destinations whose way out is remembered; when full, all are looked up anew."""
DESTINATION = slice(16, 20)
TTL = 8
_HEADER = devices.ETHERNET_HEADER.size
_CHECKSUM = slice(10, 12)


@dataclass(frozen=True, slots=True)
class AskOverruns:
    """Control: asks how many frames the kernel had no room for since this was last asked."""


class Port:
    """An interface of the box: its socket, and the Ethernet header of all that leaves by it."""

    def __init__(self, interface: Interface) -> None:
        self.name = interface.name
        self.link = interface.link
        self.socket: socket.socket = devices.open_packet_socket(interface.name)
        self.header = devices.ETHERNET_HEADER.pack(
            bytes.fromhex(interface.peer_mac.replace(":", "")),
            bytes.fromhex(interface.mac.replace(":", "")),
            devices.ETH_P_IP,
        )


class Box(ABC):
    """The ports of a node, its routing table and its trace; what it drops is a `dropped` event."""

    dropped = "box_dropped"

    def __init__(self, node: Node, routes: Sequence[Route], trace: Path) -> None:
        self._name = node.name
        self._trace = Trace(trace.open("a", buffering=1, encoding="utf-8"), keep=False)
        self._ports = {item.name: Port(item) for item in node.interfaces}
        self._table = _forwarding_table(node, routes)
        self._out: dict[bytes, Port | None] = {}

    # For a subclass to say

    @abstractmethod
    def next_deadline(self) -> float | None:
        """When `expire` may have something to do."""

    @abstractmethod
    def expire(self, now: float) -> None:
        """Do what is due."""

    @abstractmethod
    def rehearse(self) -> None:
        """Do once what will be done for every packet: a process's first time after its fork is
        slow."""

    @abstractmethod
    def take(self, port: Port, packet: bytes, now: float) -> None:
        """A packet, with a whole IPv4 header at least, has come in at a port."""

    @abstractmethod
    def obey(self, message: object, control: Control) -> bool:
        """Carry out one control message; False when it is none of its kind."""

    # What they have in common

    def run(self, control: Control) -> None:
        """Forward until told to end."""
        be_punctual()
        gc.disable()
        self.rehearse()
        ports = {port.socket.fileno(): port for port in self._ports.values()}
        poll = PrecisePoll(*ports, control.fileno())
        control.send("ready")
        while True:
            due = self.next_deadline()
            ready = poll.wait(None if due is None else max(0.0, due - time.monotonic()))
            for descriptor in ready:
                port = ports.get(descriptor)
                if port is not None:
                    self._take_burst(port)
                elif not self._hear(control):
                    return
            now = time.monotonic()
            if due is not None and (not ready or due <= now):
                self.expire(max(now, due))

    def route(self, destination: bytes) -> Port | None:
        """The port that packets for `destination` leave by."""
        if destination not in self._out:
            if len(self._out) >= MOST_REMEMBERED:
                self._out.clear()
            address = IPv4Address(destination)
            self._out[destination] = next(
                (self._ports[name] for network, name in self._table if address in network), None
            )
        return self._out[destination]

    def send(self, port: Port, packet: bytes, now: float) -> None:
        """Put a packet on a port's link."""
        try:
            port.socket.send(port.header + packet)
        except OSError:
            self.drop("not_sent", packet, now)

    def note(self, notices: Iterable[Notice], now: float) -> None:
        """Write down what there is to say."""
        for notice in notices:
            self._trace.record(now, self._name, notice.event, **notice.details)

    def drop(self, reason: str, packet: bytes, now: float) -> None:
        """Write down that a packet ends here."""
        self._trace.record(now, self._name, self.dropped, reason=reason, octets=len(packet))

    def _take_burst(self, port: Port) -> None:
        """Take what has come to a port, up to a burst."""
        for _ in range(BURST):
            try:
                frame = port.socket.recv(devices.LARGEST_FRAME)
            except BlockingIOError:
                return
            packet, now = frame[_HEADER:], time.monotonic()
            if len(packet) < IPV4_HEADER_SIZE:
                self.drop("malformed", packet, now)
            else:
                self.take(port, packet, now)

    def _hear(self, control: Control) -> bool:
        """Carry out one control message; False when it is the last."""
        message = control.receive()
        if isinstance(message, AskOverruns):
            control.send(devices.queue_losses(*(p.socket for p in self._ports.values())))
            return True
        return self.obey(message, control)


def one_hop_less(packet: bytes) -> bytes:
    """The packet as a router passes it on (RFC 1812 section 5.3.1)."""
    changed = bytearray(packet)
    length = (changed[0] & 0x0F) * 4
    changed[TTL] -= 1
    changed[_CHECKSUM] = b"\0\0"
    changed[_CHECKSUM] = checksum(bytes(changed[:length])).to_bytes(2, "big")
    return bytes(changed)


def _forwarding_table(node: Node, routes: Sequence[Route]) -> tuple[tuple[IPv4Network, str], ...]:
    """Networks and the interface for each, the longest prefix first."""
    entries = [(item.network, item.name) for item in node.interfaces]
    entries += [(route.network, route.interface) for route in routes]
    own = ((network, name) for network, name in entries if isinstance(network, IPv4Network))
    return tuple(sorted(own, key=lambda entry: -entry[0].prefixlen))
