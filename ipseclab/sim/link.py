"""A link between two interfaces: each direction goes through `lab.impairment`, in virtual time.

The same code with the same seed runs in the emulator's relay, so the same packets are lost there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address
from typing import Protocol

from ipseclab.lab.impairment import (
    Impairment,
    ImpairmentConfig,
    LinkDrop,
    Transit,
)
from ipseclab.lab.model import BACKWARD, DIRECTIONS, FORWARD
from ipseclab.lab.trace import Trace
from ipseclab.sim.clock import Clock


class Attached(Protocol):
    """What an interface belongs to."""

    name: str

    def receive(self, packet: bytes, interface: Interface) -> None:
        """A packet has come in at `interface`."""

    def too_big(self, packet: bytes, mtu: int) -> None:
        """A packet that this node sent is longer than the link carries."""


class Interface:
    """A node's end of a link."""

    __slots__ = ("address", "name", "node", "taps", "transmit")

    def __init__(self, node: Attached, name: str, address: str) -> None:
        self.node = node
        self.name = name
        self.address = IPv4Address(address).packed
        self.taps: list[Callable[[bytes], None]] = []
        """Called with each packet that is sent or received here."""
        self.transmit: Callable[[bytes], None] = _unplugged

    def send(self, packet: bytes) -> None:
        """Put a packet on the link."""
        for tap in self.taps:
            tap(packet)
        self.transmit(packet)

    def receive(self, packet: bytes) -> None:
        """A packet comes out of the link."""
        for tap in self.taps:
            tap(packet)
        self.node.receive(packet, self)


def _unplugged(packet: bytes) -> None:
    """An interface without a link lets packets go, as a cable that hangs loose does."""


class Link:
    """Two interfaces and an impairment for each direction (forward, backward)."""

    def __init__(
        self,
        name: str,
        ends: tuple[Interface, Interface],
        configs: tuple[ImpairmentConfig, ImpairmentConfig],
        *,
        clock: Clock,
        trace: Trace,
        seed: int,
    ) -> None:
        self.name = name
        self.packets = 0
        """Packets offered to the link, both directions."""
        self._clock = clock
        self._trace = trace
        first, second = ends
        ways = ((FORWARD, first, second), (BACKWARD, second, first))
        self._impairments = dict[str, Impairment]()
        for (direction, source, target), config in zip(ways, configs, strict=True):
            impairment = Impairment(config, seed, name, direction)
            self._impairments[direction] = impairment
            source.transmit = partial(self._carry, direction, impairment, source, target)

    @property
    def configs(self) -> tuple[ImpairmentConfig, ImpairmentConfig]:
        """What is in force forward and backward."""
        forward, backward = (self._impairments[direction].config for direction in DIRECTIONS)
        return forward, backward

    def reconfigure(self, forward: ImpairmentConfig, backward: ImpairmentConfig) -> None:
        """Take other settings from the next packet on."""
        self._impairments[FORWARD].reconfigure(forward)
        self._impairments[BACKWARD].reconfigure(backward)

    def _carry(
        self,
        direction: str,
        impairment: Impairment,
        source: Interface,
        target: Interface,
        packet: bytes,
    ) -> None:
        self.packets += 1
        clock = self._clock
        for fate in impairment.pass_packet(packet, clock.now):
            if isinstance(fate, Transit):
                clock.call_at(fate.at, partial(target.receive, fate.packet))
                if fate.corrupted or fate.duplicate:
                    self._record_altered(direction, fate)
            else:
                reason = fate.reason.value
                self._record("link_dropped", direction, fate.index, reason, packet)
                if fate.reason is LinkDrop.TOO_BIG:
                    source.node.too_big(packet, impairment.config.mtu)

    def _record_altered(self, direction: str, fate: Transit) -> None:
        event = "link_duplicated" if fate.duplicate else "link_corrupted"
        reason = event.removeprefix("link_")
        self._record(event, direction, fate.index, reason, fate.packet)

    def _record(self, event: str, direction: str, index: int, reason: str, packet: bytes) -> None:
        self._trace.record(
            self._clock.now,
            self.name,
            event,
            direction=direction,
            index=index,
            reason=reason,
            octets=len(packet),
        )
