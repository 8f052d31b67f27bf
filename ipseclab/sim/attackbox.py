"""An attacker as a simulated node: `lab.attacks` on all that it would forward."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ipseclab.lab.attacks import Attacker, AttackResult
from ipseclab.lab.trace import Trace
from ipseclab.sim.box import Box
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.costs import CostTable
from ipseclab.sim.link import Interface, Take
from ipseclab.wire.ip import IPV4_HEADER_SIZE

IPV4 = 4
_TTL, _DESTINATION = 8, slice(16, 20)


class AttackBox(Box):
    """Forwards packets as its attacker lets it. `links` says which link each of its interfaces is
    on."""

    dropped_event = "attacker_dropped"

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
        super().__init__(name, clock=clock, trace=trace, costs=costs)
        self.attacker = attacker
        self._links = links
        self._timer = Timer(clock, self._release)
        attacker.begin(clock.now)

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`, by its link."""
        return partial(self._take, self._links[interface.name])

    def _take(self, link: str, packet: bytes) -> None:
        if len(packet) < IPV4_HEADER_SIZE or packet[0] >> 4 != IPV4:
            self.drop("malformed", packet)
        elif self.owns(packet[_DESTINATION]):
            self.drop("own_address", packet)
        elif packet[_TTL] <= 1:
            self.drop("ttl_expired", packet)
        elif (passed_on := self.count_hop(packet)) is not None:
            self._finish(self.attacker.receive(passed_on, link, self.clock.now))

    def _release(self, now: float) -> None:
        self._finish(self.attacker.release(now))

    def _finish(self, result: AttackResult) -> None:
        """Send what the attacker sends; write down what it did."""
        self.note(result.notices)
        for packet in result.packets:
            out = self.route(packet[_DESTINATION])
            if out is None:
                self.drop("no_route", packet)
            else:
                self.send_on(out, packet)
        self._timer.set(self.attacker.next_deadline())
