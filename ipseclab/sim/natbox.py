"""A NAT as a simulated node: `lab.nat` between its inside links and its outside link."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address

from ipseclab.lab.nat import Nat, NatResult, NatSide
from ipseclab.lab.trace import Trace
from ipseclab.outputs import Notice
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.costs import CostTable
from ipseclab.sim.cpu import Cpu
from ipseclab.sim.link import Interface, Take
from ipseclab.sim.node import Node

_DESTINATION = slice(16, 20)


class NatBox(Node):
    """Moves packets between its sides, each through the NAT; like the emulator's, it is silent: it
    answers no packets itself."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        trace: Trace,
        nat: Nat,
        outside: str,
        pool: Collection[IPv4Address],
        costs: CostTable,
    ) -> None:
        super().__init__(name, clock=clock, trace=trace, forwards=True)
        self.nat = nat
        self._outside = outside
        self._pool = tuple(address.packed for address in pool)
        self._timer = Timer(clock, self._expire)
        self._forward = costs.for_forward()
        self._cpu = None if costs == CostTable.zero() else Cpu(costs)

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`, by the side that it is on."""
        return self._receive_outside if interface.name == self._outside else self.receive

    def receive(self, packet: bytes) -> None:
        """A packet has come in from inside."""
        self._receive_inside(packet)
        self._timer.set(self.nat.next_deadline())

    def _receive_outside(self, packet: bytes) -> None:
        self._finish(self.nat.inbound(packet, self.clock.now))
        self._timer.set(self.nat.next_deadline())

    def rebind(self, address: str | None = None) -> None:
        """Forget all mappings; with `address`, take that outside address from now on.

        Raises ValueError when it is none of the NAT's.
        """
        wanted = IPv4Address(address) if address is not None else None
        self._note(self.nat.rebind(self.clock.now, wanted))
        self._timer.set(self.nat.next_deadline())

    def too_big(self, packet: bytes, mtu: int) -> None:
        """The emulator's NAT says nothing either; the link has written it down."""

    def _receive_inside(self, packet: bytes) -> None:
        destination = packet[_DESTINATION]
        out = self.route(destination)
        if self.owns(destination) and destination not in self._pool:
            self._drop("own_address", packet)
        elif destination in self._pool or (out is not None and out.name == self._outside):
            self._finish(self.nat.outbound(packet, self.clock.now))
        elif out is None:
            self._drop("no_route", packet)
        elif packet[8] <= 1:
            self._drop("ttl_expired", packet)
        elif (passed_on := self.count_hop(packet)) is not None:
            self._send(out, passed_on)

    def _finish(self, result: NatResult) -> None:
        """Send what the NAT lets through; write down what it says."""
        self._note(result.notices)
        if result.packet is None:
            return
        if result.to is NatSide.OUTSIDE:
            self._send(self.interfaces[self._outside], result.packet)
            return
        out = self.route(result.packet[_DESTINATION])
        if out is not None:
            self._send(out, result.packet)
        else:
            self._drop("no_route", result.packet)

    def _send(self, out: Interface, packet: bytes) -> None:
        """Let the packet go once the box has done its work."""
        if self._cpu is None:
            out.send(packet)
            return
        done = self._cpu.work(self.clock.now, self._forward, woken=True)
        self.clock.call_at(done, out.send, packet)

    def _expire(self, now: float) -> None:
        self._note(self.nat.expire(now))
        self._timer.set(self.nat.next_deadline())

    def _note(self, notices: Sequence[Notice]) -> None:
        for notice in notices:
            self.trace.record(self.clock.now, self.name, notice.event, **notice.details)

    def _drop(self, reason: str, packet: bytes) -> None:
        self.trace.record(
            self.clock.now, self.name, "nat_dropped", reason=reason, octets=len(packet)
        )
