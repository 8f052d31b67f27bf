"""A link between two interfaces: each direction goes through `lab.impairment`, in virtual time.

The same code with the same seed runs in the emulator's relay, so the same packets are lost there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
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

Take = Callable[[bytes], None]
"""What a whole packet is handed to."""


class Attached(Protocol):
    """What an interface belongs to."""

    name: str

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`."""

    def too_big(self, packet: bytes, mtu: int) -> None:
        """A packet that this node sent is longer than the link carries."""


class Interface:
    """A node's end of a link.

    `send` puts a packet on the link and `receive` takes one that comes out of it. Both are bound
    when link or tap change, not looked up for each packet: most interfaces have no tap, and then
    they are the link's and the node's own functions.
    """

    __slots__ = ("_carry", "_entry", "_taps", "address", "name", "node", "receive", "send")

    def __init__(self, node: Attached, name: str, address: str) -> None:
        self.node = node
        self.name = name
        self.address = ip_address(address).packed
        self._taps: tuple[Take, ...] = ()
        self._entry = node.entry(self)
        self._carry: Take = _unplugged
        self.send: Take = self._carry
        self.receive: Take = self._entry

    def plug(self, carry: Take) -> None:
        """Join a link, which takes packets with `carry`."""
        self._carry = carry
        self._bind()

    def tap(self, look: Take) -> None:
        """Call `look` with each packet that is sent or received here."""
        self._taps = (*self._taps, look)
        self._bind()

    def _bind(self) -> None:
        tapped = bool(self._taps)
        self.send = partial(self._tapped, self._carry) if tapped else self._carry
        self.receive = partial(self._tapped, self._entry) if tapped else self._entry

    def _tapped(self, take: Take, packet: bytes) -> None:
        for look in self._taps:
            look(packet)
        take(packet)


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
        first, second = ends
        forward, backward = (
            Impairment(config, seed, name, direction)
            for config, direction in zip(configs, DIRECTIONS, strict=True)
        )
        self._ways = (
            _Way(self, FORWARD, forward, first, second, clock=clock, trace=trace),
            _Way(self, BACKWARD, backward, second, first, clock=clock, trace=trace),
        )

    @property
    def packets(self) -> int:
        """Packets offered to the link, both directions."""
        return sum(way.impairment.index for way in self._ways)

    @property
    def configs(self) -> tuple[ImpairmentConfig, ImpairmentConfig]:
        """What is in force forward and backward."""
        forward, backward = (way.impairment.config for way in self._ways)
        return forward, backward

    def reconfigure(self, forward: ImpairmentConfig, backward: ImpairmentConfig) -> None:
        """Take other settings from the next packet on."""
        for way, config in zip(self._ways, (forward, backward), strict=True):
            way.impairment.reconfigure(config)


class _Way:
    """One direction of a link."""

    __slots__ = (
        "_clock",
        "_direction",
        "_link",
        "_pass_unharmed",
        "_source",
        "_target",
        "_trace",
        "impairment",
    )

    def __init__(
        self,
        link: Link,
        direction: str,
        impairment: Impairment,
        source: Interface,
        target: Interface,
        *,
        clock: Clock,
        trace: Trace,
    ) -> None:
        self._link = link
        self._direction = direction
        self.impairment = impairment
        self._source, self._target = source, target
        self._clock = clock
        self._trace = trace
        self._pass_unharmed = impairment.pass_unharmed
        source.plug(self._carry)

    def _carry(self, packet: bytes) -> None:
        clock, target = self._clock, self._target
        now = clock.now
        at = self._pass_unharmed(len(packet), now)
        if at is not None:
            clock.call_at(at, target.receive, packet)
            return
        for fate in self.impairment.pass_packet(packet, now):
            if isinstance(fate, Transit):
                clock.call_at(fate.at, target.receive, fate.packet)
                if fate.corrupted or fate.duplicate:
                    self._record_altered(fate)
            else:
                self._record("link_dropped", fate.index, fate.reason.value, packet)
                if fate.reason is LinkDrop.TOO_BIG:
                    self._source.node.too_big(packet, self.impairment.config.mtu)

    def _record_altered(self, fate: Transit) -> None:
        event = "link_duplicated" if fate.duplicate else "link_corrupted"
        self._record(event, fate.index, event.removeprefix("link_"), fate.packet)

    def _record(self, event: str, index: int, reason: str, packet: bytes) -> None:
        self._trace.record(
            self._clock.now,
            self._link.name,
            event,
            direction=self._direction,
            index=index,
            reason=reason,
            octets=len(packet),
        )
