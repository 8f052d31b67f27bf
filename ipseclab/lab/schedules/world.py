"""The world of a schedule: gateways, virtual time, and a post that obeys.

Whatever a gateway sends arrives after `delay` seconds, unless `fate` says otherwise: for each thing
sent, the extra delays of the copies that arrive (none: lost). An address of the first gateway may
be translated, and its NAT may forget what it knew. Gateways may change their addresses: what goes
to or comes from one that they have not is lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol, assert_never

from ipseclab.gateway import Gateway
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.lab.schedules.parties import (
    ADDRESSES,
    NAMES,
    NAT_ADDRESS,
    SECOND_ADDRESSES,
    Chain,
)
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
from ipseclab.wire.ip import packed_address

NAT_PORTS = 100
"""How far apart the outside ports of one mapping and the next are."""

_OWNERS = {
    address: index
    for addresses in (ADDRESSES, SECOND_ADDRESSES)
    for index, address in enumerate(addresses)
}
_PACKED = {packed_address(address): address for address in _OWNERS}
_STAYS = ((0, 1), (1,), (0,), (1, 0))
"""Which of its two addresses a gateway has, the best first, each time that it roams; then anew."""


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
        self._rngs = [random.Random() for _ in configs]
        self._delay = delay
        self.observer = observer
        self._nat = nat
        self._mapping = 0
        self._roamed = [0] * len(configs)
        self.trace = trace
        self._queue: list[tuple[float, int, Parcel]] = []
        self._posted = 0
        self._sent: dict[tuple[int, str], int] = {}
        self.gateways = [self._fresh(index) for index in range(len(configs))]

    def do(self, index: int, method: str, *arguments: object) -> None:
        """Call a gateway's method now and carry out what it returns."""
        self._carry_out(index, getattr(self.gateways[index], method)(*arguments, self.now))

    def reseed(self, seed: int) -> None:
        """What is drawn from now on follows from `seed`, whatever was drawn before."""
        self._seed = seed
        for index, rng in enumerate(self._rngs):
            rng.seed(self._seed_of(index))

    def restart(self, index: int) -> None:
        """The gateway loses all that it knew."""
        self.restarts[index] += 1
        self.gateways[index] = self._fresh(index)

        if self._roamed[index]:
            self._carry_out(
                index, self.gateways[index].change_addresses(self._own(index), self.now)
            )

    def roam(self, index: int) -> None:
        """The gateway has other addresses from now on (RFC 4555)."""
        self._roamed[index] += 1
        self._carry_out(index, self.gateways[index].change_addresses(self._own(index), self.now))

    def _own(self, index: int) -> list[str]:
        both = ADDRESSES[index], SECOND_ADDRESSES[index]
        return [both[which] for which in _STAYS[self._roamed[index] % len(_STAYS)]]

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

    @property
    def last_arrival(self) -> float:
        """When all that is under way has arrived."""
        return max((at for at, _, _ in self._queue), default=self.now)

    def under_way(self, kind: str) -> bool:
        """True while something of that kind has still to arrive."""
        return any(parcel.kind == kind for _, _, parcel in self._queue)

    def _fresh(self, index: int) -> Gateway:
        self._rngs[index] = random.Random(self._seed_of(index))
        return Gateway(self._configs[index], rng=self._rngs[index])

    def _seed_of(self, index: int) -> str:
        return f"{self._seed}/{index}/{self.restarts[index]}"

    def _carry_out(self, index: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case SendDatagram() | SendPacket():
                    self._post(index, output)
                case DeliverPacket(packet):
                    self.observer.delivered(self, index, packet)
                case Notice(event, details):
                    if self.trace is not None:
                        self.trace.record(self.now, NAMES[index], event, **details)
                    self.observer.noticed(self, index, output)
                case IkeKeyLog() | EspKeyLog() | InternalConfiguration():
                    pass
                case OpenStream() | SendStream() | CloseStream():
                    raise AssertionError("a schedule's connections are none in TCP")
                case _:
                    assert_never(output)
        self.observer.stepped(self, index)

    def _post(self, sender: int, item: SendDatagram | SendPacket) -> None:
        parcel, arrives = self._addressed(sender, item)
        self.observer.sent(self, parcel)
        for extra in self.fate(parcel) if arrives else ():
            self._posted += 1
            heappush(self._queue, (self.now + self._delay + extra, self._posted, parcel))

    def _addressed(self, sender: int, item: SendDatagram | SendPacket) -> tuple[Parcel, bool]:
        """The parcel that `item` becomes, and whether its address leads anywhere."""
        if isinstance(item, SendPacket):
            source, destination = _PACKED[item.packet[12:16]], _PACKED[item.packet[16:20]]
            receiver = _OWNERS[destination]
            arrives = self._has(sender, source) and self._has(receiver, destination)
            return self._numbered(sender, receiver, "esp", item.packet, None), arrives
        local, remote = item.path
        arrives = self._has(sender, local.address)
        if self._nat and sender == 0:
            local = UdpEndpoint(NAT_ADDRESS, self._outside(local.port))
        if remote.address != NAT_ADDRESS:
            receiver = _OWNERS[remote.address]
            arrives = arrives and self._has(receiver, remote.address)
        else:
            inside = [port for port in (500, NAT_T_PORT) if self._outside(port) == remote.port]
            arrives = bool(inside)
            receiver, remote = 0, UdpEndpoint(ADDRESSES[0], item.path.local.port)
        path, data, kind = UdpPath(remote, local), item.data, "ike"
        if path.local.port == NAT_T_PORT and not data.startswith(NON_ESP_MARKER):
            kind = "esp"
        return self._numbered(sender, receiver, kind, data, path), arrives

    def _has(self, index: int, address: str) -> bool:
        return not self._roamed[index] or address in self._own(index)

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
        if not self._has(parcel.receiver, _destination(parcel)):
            return
        if parcel.path is None:
            outputs = gateway.receive_packet(parcel.octets, self.now)
        else:
            outputs = gateway.receive_datagram(parcel.path, parcel.octets, self.now)
        self._carry_out(parcel.receiver, outputs)


def _destination(parcel: Parcel) -> str:
    if parcel.path is not None:
        return parcel.path.local.address
    return _PACKED[parcel.octets[16:20]]
