"""The world of a schedule: gateways, virtual time, and a post that obeys.

Whatever a gateway sends arrives after `delay` seconds, unless `fate` says otherwise: for each thing
sent, the extra delays of the copies that arrive (none: lost). An address of the first gateway may
be translated, and its NAT may forget what it knew.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol, assert_never

from ipseclab.gateway import Gateway
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.lab.schedules.parties import ADDRESSES, NAMES, NAT_ADDRESS, Chain
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
    UdpEndpoint,
    UdpPath,
)

NAT_PORTS = 100
"""How far apart the outside ports of one mapping and the next are."""

_OWNERS = {address: index for index, address in enumerate(ADDRESSES)}
_PACKED_OWNERS = {
    bytes(int(part) for part in address.split(".")): index for address, index in _OWNERS.items()
}


class Parcel(NamedTuple):
    """One thing on its way. `number` counts what this sender sent of this kind."""

    sender: int
    receiver: int
    kind: str
    """ike or esp."""
    number: int
    octets: bytes
    """An IKE message without a marker, ESP from its SPI on, or a whole plain packet."""
    path: UdpPath | None
    """As the receiver sees it; None for what came without UDP."""


class Observer(Protocol):
    """Who looks on, and may raise."""

    def sent(self, world: World, parcel: Parcel) -> None:
        """Something has been sent."""

    def delivered(self, world: World, receiver: int, packet: bytes) -> None:
        """A packet came out at the protected side."""

    def noticed(self, world: World, node: int, notice: Notice) -> None:
        """A gateway said something."""

    def stepped(self, world: World, node: int) -> None:
        """A gateway has processed one input."""


Fate = Callable[[Parcel], Sequence[float]]


def on_time(parcel: Parcel) -> Sequence[float]:
    """Everything arrives once, undelayed."""
    return (0.0,)


class World:
    """Gateways that talk to each other under a clock that only `run` moves."""

    def __init__(
        self,
        configs: Chain,
        *,
        seed: int,
        delay: float,
        observer: Observer,
        nat: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self.now = 0.0
        self.fate: Fate = on_time
        self.gateways: list[Gateway] = []
        self.restarts = [0] * len(configs)
        self._configs = configs
        self._seed = seed
        self._delay = delay
        self._observer = observer
        self._nat = nat
        self._mapping = 0
        self._trace = trace
        self._queue: list[tuple[float, int, Parcel]] = []
        self._posted = 0
        self._sent: dict[tuple[int, str], int] = {}
        self.gateways = [self._fresh(index) for index in range(len(configs))]

    def do(self, index: int, method: str, *arguments: object) -> None:
        """Call a gateway's method now and carry out what it returns."""
        self._carry_out(index, getattr(self.gateways[index], method)(*arguments, self.now))

    def restart(self, index: int) -> None:
        """The gateway loses all that it knew."""
        self.restarts[index] += 1
        self.gateways[index] = self._fresh(index)

    def rebind(self) -> None:
        """The NAT forgets its mappings: new ones get other ports, the old ones lead nowhere."""
        self._mapping += 1

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        self.run_until(self.now + seconds)

    def run_until(self, end: float) -> None:
        """Let time pass until `end`."""
        queue = self._queue
        while True:
            at, who = queue[0][0] if queue else end + 1.0, -1
            for index, gateway in enumerate(self.gateways):
                deadline = gateway.next_deadline()
                if deadline is not None and deadline.at < at:
                    at, who = deadline.at, index
            if at > end:
                break
            self.now = max(self.now, at)
            if who < 0:
                self._arrive(heappop(queue)[2])
            else:
                self._carry_out(who, self.gateways[who].handle_timeout(self.now))
        self.now = max(self.now, end)

    def under_way(self, kind: str) -> bool:
        """True while something of that kind has still to arrive."""
        return any(parcel.kind == kind for _, _, parcel in self._queue)

    def _fresh(self, index: int) -> Gateway:
        seed = f"{self._seed}/{index}/{self.restarts[index]}"
        return Gateway(self._configs[index], rng=random.Random(seed))

    def _carry_out(self, index: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case SendDatagram() | SendPacket():
                    self._post(index, output)
                case DeliverPacket(packet):
                    self._observer.delivered(self, index, packet)
                case Notice(event, details):
                    if self._trace is not None:
                        self._trace.record(self.now, NAMES[index], event, **details)
                    self._observer.noticed(self, index, output)
                case IkeKeyLog() | EspKeyLog() | InternalConfiguration():
                    pass
                case OpenStream() | SendStream() | CloseStream():
                    raise AssertionError("a schedule's connections are none in TCP")
                case _:
                    assert_never(output)
        self._observer.stepped(self, index)

    def _post(self, sender: int, item: SendDatagram | SendPacket) -> None:
        parcel, arrives = self._addressed(sender, item)
        self._observer.sent(self, parcel)
        for extra in self.fate(parcel) if arrives else ():
            self._posted += 1
            heappush(self._queue, (self.now + self._delay + extra, self._posted, parcel))

    def _addressed(self, sender: int, item: SendDatagram | SendPacket) -> tuple[Parcel, bool]:
        """The parcel that `item` becomes, and whether its address leads anywhere."""
        arrives = True
        if isinstance(item, SendPacket):
            receiver = _PACKED_OWNERS[item.packet[16:20]]
            return self._numbered(sender, receiver, "esp", item.packet, None), arrives
        local, remote = item.path
        if self._nat and sender == 0:
            local = UdpEndpoint(NAT_ADDRESS, self._outside(local.port))
        if remote.address != NAT_ADDRESS:
            receiver = _OWNERS[remote.address]
        else:
            inside = [port for port in (500, NAT_T_PORT) if self._outside(port) == remote.port]
            arrives = bool(inside)
            receiver, remote = 0, UdpEndpoint(ADDRESSES[0], item.path.local.port)
        path, data, kind = UdpPath(remote, local), item.data, "ike"
        if path.local.port == NAT_T_PORT and not data.startswith(NON_ESP_MARKER):
            kind = "esp"
        return self._numbered(sender, receiver, kind, data, path), arrives

    def _outside(self, port: int) -> int:
        return port + 20_000 + NAT_PORTS * self._mapping

    def _numbered(
        self, sender: int, receiver: int, kind: str, octets: bytes, path: UdpPath | None
    ) -> Parcel:
        number = self._sent.get((sender, kind), 0)
        self._sent[sender, kind] = number + 1
        return Parcel(sender, receiver, kind, number, octets, path)

    def count_anew(self) -> None:
        """Number what is sent from 0 again."""
        self._sent.clear()

    def _arrive(self, parcel: Parcel) -> None:
        gateway = self.gateways[parcel.receiver]
        if parcel.path is None:
            outputs = gateway.receive_packet(parcel.octets, self.now)
        else:
            outputs = gateway.receive_datagram(parcel.path, parcel.octets, self.now)
        self._carry_out(parcel.receiver, outputs)
