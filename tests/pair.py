"""Two real gateways in virtual time, joined by a path that can lose, delay, duplicate and hold.

The harness of the protocol tests: what one end sends arrives at the other after `delay` seconds
unless a hook says otherwise. Nothing is faked inside the gateways.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import ConnectionConfig, Identity, IkeConfig, IkeLimits, Mode
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ike.sa import ChildState, IkeState
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.processing import PLAIN, Processing
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.outputs import (
    DeliverPacket,
    EspKeyLog,
    IkeKeyLog,
    Notice,
    Output,
    SendDatagram,
    SendPacket,
    UdpPath,
)
from ipseclab.registry import ExchangeType, IdType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import IkeHeader, decode_header
from ipseclab.wire.selector import TrafficSelector

CONNECTION = "site"
ADDRESSES = ("192.0.2.1", "198.51.100.1")
NETWORKS = ("10.1.0.0/24", "10.2.0.0/24")
PSK = b"correct horse battery staple"


@dataclass(frozen=True)
class Sent:
    """One thing on its way; `sender` is 0 or 1."""

    sender: int
    index: int
    at: float
    item: SendDatagram | SendPacket

    @property
    def header(self) -> IkeHeader | None:
        """The IKE header, None for ESP and keepalives."""
        if isinstance(self.item, SendPacket):
            return None
        data = self.item.data
        if self.item.path.local.port == 4500:
            if data[:4] != bytes(4):
                return None
            data = data[4:]
        return decode_header(data) if len(data) >= 28 else None

    def is_ike(self, exchange: ExchangeType, *, response: bool | None = None) -> bool:
        """True for a message of that exchange (and direction)."""
        header = self.header
        return (
            header is not None
            and header.exchange == exchange
            and response in (None, header.response)
        )


Fate = Sequence[float]
"""Extra delays, one for each copy that arrives; empty: lost."""


def connection(side: int, **changes: object) -> ConnectionConfig:
    """The connection as that end (0 initiator, 1 responder) has it."""
    identities = [Identity(IdType.ID_FQDN, name) for name in (b"a.example.org", b"b.example.org")]
    selectors = [(TrafficSelector.of_network(network),) for network in NETWORKS]
    base = ConnectionConfig(
        name=CONNECTION,
        own_address=ADDRESSES[side],
        peer_address=ADDRESSES[1 - side],
        own_id=identities[side],
        peer_id=identities[1 - side],
        psk=PSK,
        ike_proposals=(parse_ike_proposal("aes128gcm16-prfsha256-x25519"),),
        esp_proposals=(parse_esp_proposal("aes128gcm16"),),
        own_ts=selectors[side],
        peer_ts=selectors[1 - side],
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def gateway_config(
    connection: ConnectionConfig,
    *,
    limits: IkeLimits | None = None,
    datapath: DatapathLimits | None = None,
    name: str = "gw",
    processing: Processing = PLAIN,
) -> GatewayConfig:
    """A gateway with that one connection and a PROTECT policy for it."""
    policy = Policy(
        name=connection.name,
        action=Action.PROTECT,
        local=connection.own_ts,
        remote=connection.peer_ts,
        connection=connection.name,
        processing=processing,
    )
    return GatewayConfig(
        ike=IkeConfig(name, (connection,), limits if limits is not None else IkeLimits()),
        policies=(policy,),
        datapath=datapath if datapath is not None else DatapathLimits(),
    )


@dataclass
class Pair:
    """`a` is side 0, `b` side 1. `fate(sent)` decides what becomes of each thing that is sent."""

    configs: tuple[GatewayConfig, GatewayConfig]
    seed: int = 1
    delay: float = 0.01
    fate: Callable[[Sent], Fate] = lambda sent: (0.0,)
    now: float = 0.0
    gateways: list[Gateway] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    delivered: tuple[list[bytes], list[bytes]] = field(default_factory=lambda: ([], []))
    notices: list[tuple[float, int, Notice]] = field(default_factory=list)
    keys: list[IkeKeyLog | EspKeyLog] = field(default_factory=list)
    translate: Callable[[int, UdpPath], UdpPath | None] | None = None
    """A NAT between them: the receiver's path for what `sender` sent along a path of its own."""
    _queue: list[tuple[float, int, Sent]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        for side, config in enumerate(self.configs):
            self.gateways.append(Gateway(config, rng=random.Random(f"{self.seed}/{side}")))

    @property
    def a(self) -> Gateway:
        return self.gateways[0]

    @property
    def b(self) -> Gateway:
        return self.gateways[1]

    def do(self, side: int, method: str, *arguments: object) -> None:
        """Call a gateway's method at the present time and carry out what it returns."""
        outputs = getattr(self.gateways[side], method)(*arguments, self.now)
        self.carry_out(side, outputs)

    def carry_out(self, side: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case SendDatagram() | SendPacket():
                    self._send(side, output)
                case DeliverPacket():
                    self.delivered[side].append(output.packet)
                case Notice():
                    self.notices.append((self.now, side, output))
                case IkeKeyLog() | EspKeyLog():
                    self.keys.append(output)

    def _send(self, side: int, item: SendDatagram | SendPacket) -> None:
        sent = Sent(side, len(self.sent), self.now, item)
        self.sent.append(sent)
        for extra in self.fate(sent):
            self._enqueue(sent, self.now + self.delay + extra)

    def _enqueue(self, sent: Sent, at: float) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, sent))

    def release(self, sent: Sent) -> None:
        """Let something arrive now, whatever its fate was."""
        self._enqueue(sent, self.now)

    def run(self, duration: float) -> None:
        """Go on for that many seconds."""
        end = self.now + duration
        while True:
            events = [(self._queue[0][0], 0)] if self._queue else []
            for side, gateway in enumerate(self.gateways):
                deadline = gateway.next_deadline()
                if deadline is not None:
                    events.append((max(deadline.at, self.now), 1 + side))
            if not events or min(events)[0] > end:
                break
            at, what = min(events)
            self.now = max(self.now, at)
            if what == 0:
                self._arrive(heapq.heappop(self._queue)[2])
            else:
                self.carry_out(what - 1, self.gateways[what - 1].handle_timeout(self.now))
        self.now = end

    def _arrive(self, sent: Sent) -> None:
        receiver = 1 - sent.sender
        gateway = self.gateways[receiver]
        if isinstance(sent.item, SendPacket):
            self.carry_out(receiver, gateway.receive_packet(sent.item.packet, self.now))
            return
        path: UdpPath | None = UdpPath(sent.item.path.remote, sent.item.path.local)
        if self.translate is not None:
            path = self.translate(sent.sender, sent.item.path)
        if path is None:
            return
        self.carry_out(receiver, gateway.receive_datagram(path, sent.item.data, self.now))

    # What tests ask for.

    def connect(self, side: int = 0) -> None:
        """Set the connection up and let it come to rest."""
        self.do(side, "initiate", CONNECTION)
        self.run(1.0)

    def packet(self, side: int, number: int = 0, size: int = 64) -> bytes:
        """A UDP packet from that side's network to the other's."""
        ends = [IPv4Address(network.split("/")[0]) + 2 for network in NETWORKS]
        source, destination = ends[side].packed, ends[1 - side].packed
        data = number.to_bytes(4, "big").ljust(size, b".")
        datagram = build_udp(source, 4000, destination, 4001, data)
        return build_ipv4(source, destination, 17, datagram)

    def send(self, side: int, number: int = 0, size: int = 64) -> bytes:
        """Send such a packet; returns it."""
        packet = self.packet(side, number, size)
        self.do(side, "send_packet", packet)
        return packet

    def spis(self, side: int) -> set[tuple[bytes, bytes]]:
        """(SPI of a to b, SPI of b to a) of each CHILD_SA that side has."""
        children = self.gateways[side].ike.child_sas
        pairs = [(child.spi_out, child.spi_in) for child in children]
        return {pair if side == 0 else pair[::-1] for pair in pairs}

    def ike_spis(self, side: int) -> set[tuple[bytes, bytes]]:
        """SPIs of each established IKE_SA of that side."""
        sas = self.gateways[side].ike.ike_sas
        return {(sa.spi_i, sa.spi_r) for sa in sas}

    def events(self, name: str, side: int | None = None) -> list[Notice]:
        """Notices of that name."""
        return [
            notice
            for _, who, notice in self.notices
            if notice.event == name and side in (None, who)
        ]

    def agreed(self) -> None:
        """Both ends are at rest with the same one IKE_SA and the same one CHILD_SA, which works."""
        assert self.ike_spis(0) == self.ike_spis(1)
        assert len(self.ike_spis(0)) == 1
        assert self.spis(0) == self.spis(1)
        assert len(self.spis(0)) == 1
        for gateway in self.gateways:
            assert [sa.state for sa in gateway.ike.ike_sas] == [IkeState.ESTABLISHED]
            assert [c.state for c in gateway.ike.child_sas] == [ChildState.INSTALLED]
        self.fate = lambda sent: (0.0,)
        for side in (0, 1):
            packet = self.send(side, 0xFFFFFFFF)
            self.run(4 * self.delay)
            assert self.delivered[1 - side][-1:] == [packet]


def make_pair(
    *,
    both: dict[str, object] | None = None,
    a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
    processing: Processing = PLAIN,
    **options: object,
) -> Pair:
    """A pair whose connections differ from the standard one by `both`, `a` and `b`."""
    sides = [connection(i, **{**(both or {}), **(own or {})}) for i, own in enumerate((a, b))]
    first, second = (
        gateway_config(side, name=name, processing=processing)
        for side, name in zip(sides, "ab", strict=True)
    )
    configs = (first, second)
    return Pair(configs, **options)  # type: ignore[arg-type]


__all__ = ["ADDRESSES", "CONNECTION", "Mode", "Pair", "Sent", "connection", "make_pair"]
