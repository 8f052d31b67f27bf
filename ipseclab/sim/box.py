"""What a NAT and an attacker have in common as simulated nodes: silent, and slow at will."""

from __future__ import annotations

from collections.abc import Iterable

from ipseclab.lab.trace import Trace
from ipseclab.outputs import Notice
from ipseclab.sim.clock import Clock
from ipseclab.sim.costs import CostTable
from ipseclab.sim.cpu import Cpu
from ipseclab.sim.link import Interface
from ipseclab.sim.node import Node


class Box(Node):
    """A node that forwards and, like the emulator's boxes, answers no packets itself; what it drops
    is a `dropped_event`."""

    dropped_event = "box_dropped"

    def __init__(self, name: str, *, clock: Clock, trace: Trace, costs: CostTable) -> None:
        super().__init__(name, clock=clock, trace=trace, forwards=True)
        self._forward = costs.for_forward()
        self._cpu = None if costs == CostTable.zero() else Cpu(costs)

    def too_big(self, packet: bytes, mtu: int) -> None:
        """The emulator's boxes say nothing either; the link has written it down."""

    def send_on(self, out: Interface, packet: bytes) -> None:
        """Let the packet go once the box has done its work."""
        if self._cpu is None:
            out.send(packet)
            return
        done = self._cpu.work(self.clock.now, self._forward, woken=True)
        self.clock.call_at(done, out.send, packet)

    def note(self, notices: Iterable[Notice]) -> None:
        """Write down what there is to say."""
        for notice in notices:
            self.trace.record(self.clock.now, self.name, notice.event, **notice.details)

    def drop(self, reason: str, packet: bytes) -> None:
        """Write down that a packet ends here."""
        self.trace.record(
            self.clock.now, self.name, self.dropped_event, reason=reason, octets=len(packet)
        )
