"""An attacker as a simulated node: `lab.attacks` on all that it would forward."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ipseclab.lab.attacks import Attacker, AttackResult
from ipseclab.lab.trace import Trace
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.costs import CostTable
from ipseclab.sim.cpu import Cpu
from ipseclab.sim.link import Interface, Take
from ipseclab.sim.node import Node
from ipseclab.wire.ip import IPV4_HEADER_SIZE

IPV4 = 4
_TTL, _DESTINATION = 8, slice(16, 20)


class AttackBox(Node):
    """Forwards packets as its attacker lets it; like the emulator's, it is silent: it answers no
    packets itself. `links` says which link each of its interfaces is on."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        trace: Trace,
        attacker: Attacker,
        links: Mapping[str, str],
        costs: CostTable,
    ) -> None:
        super().__init__(name, clock=clock, trace=trace, forwards=True)
        self.attacker = attacker
        self._links = links
        self._timer = Timer(clock, self._release)
        self._forward = costs.for_forward()
        self._cpu = None if costs == CostTable.zero() else Cpu(costs)
        attacker.begin(clock.now)

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`, by its link."""
        return partial(self._take, self._links[interface.name])

    def too_big(self, packet: bytes, mtu: int) -> None:
        """The emulator's attacker says nothing either; the link has written it down."""

    def _take(self, link: str, packet: bytes) -> None:
        if len(packet) < IPV4_HEADER_SIZE or packet[0] >> 4 != IPV4:
            self._drop("malformed", packet)
        elif self.owns(packet[_DESTINATION]):
            self._drop("own_address", packet)
        elif packet[_TTL] <= 1:
            self._drop("ttl_expired", packet)
        elif (passed_on := self.count_hop(packet)) is not None:
            self._finish(self.attacker.receive(passed_on, link, self.clock.now))

    def _release(self, now: float) -> None:
        self._finish(self.attacker.release(now))

    def _finish(self, result: AttackResult) -> None:
        """Send what the attacker sends; write down what it did."""
        for notice in result.notices:
            self.trace.record(self.clock.now, self.name, notice.event, **notice.details)
        for packet in result.packets:
            out = self.route(packet[_DESTINATION])
            if out is None:
                self._drop("no_route", packet)
            else:
                self._send(out, packet)
        self._timer.set(self.attacker.next_deadline())

    def _send(self, out: Interface, packet: bytes) -> None:
        """Let the packet go once the box has done its work."""
        if self._cpu is None:
            out.send(packet)
            return
        done = self._cpu.work(self.clock.now, self._forward, woken=True)
        self.clock.call_at(done, out.send, packet)

    def _drop(self, reason: str, packet: bytes) -> None:
        self.trace.record(
            self.clock.now, self.name, "attacker_dropped", reason=reason, octets=len(packet)
        )
