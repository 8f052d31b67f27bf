"""A NAT as a simulated node: `lab.nat` between its inside links and its outside link."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address

from ipseclab.lab.nat import Nat, NatResult, NatSide
from ipseclab.lab.trace import Trace
from ipseclab.sim.box import Box
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.costs import CostTable
from ipseclab.sim.link import Interface, Take

_DESTINATION = slice(16, 20)


class NatBox(Box):
    """Moves packets between its sides, each through the NAT."""

    dropped_event = "nat_dropped"

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
        super().__init__(name, clock=clock, trace=trace, costs=costs)
        self.nat = nat
        self._outside = outside
        self._pool = tuple(address.packed for address in pool)
        self._timer = Timer(clock, self._expire)

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
        self.note(self.nat.rebind(self.clock.now, wanted))
        self._timer.set(self.nat.next_deadline())

    def _receive_inside(self, packet: bytes) -> None:
        destination = packet[_DESTINATION]
        out = self.route(destination)
        if self.owns(destination) and destination not in self._pool:
            self.drop("own_address", packet)
        elif destination in self._pool or (out is not None and out.name == self._outside):
            self._finish(self.nat.outbound(packet, self.clock.now))
        elif out is None:
            self.drop("no_route", packet)
        elif packet[8] <= 1:
            self.drop("ttl_expired", packet)
        elif (passed_on := self.count_hop(packet)) is not None:
            self.send_on(out, passed_on)

    def _finish(self, result: NatResult) -> None:
        """Send what the NAT lets through; write down what it says."""
        self.note(result.notices)
        if result.packet is None:
            return
        if result.to is NatSide.OUTSIDE:
            self.send_on(self.interfaces[self._outside], result.packet)
            return
        out = self.route(result.packet[_DESTINATION])
        if out is not None:
            self.send_on(out, result.packet)
        else:
            self.drop("no_route", result.packet)

    def _expire(self, now: float) -> None:
        self.note(self.nat.expire(now))
        self._timer.set(self.nat.next_deadline())
