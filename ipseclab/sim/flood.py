"""A gateway with live tunnels under a flood of IKE_SA_INIT requests from addresses that nobody has.

RFC 7296 section 2.6 and RFC 8019. A real gateway is called for each message and packet in virtual
time; its CPU is the simulator's, one thing after another, with a queue of bounded length in front.
The peers of its tunnels are real gateways too, whose own time is not counted.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import IKE_PORT, ConnectionConfig, Identity, IkeConfig, IkeLimits
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.outputs import DeliverPacket, Output, SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import IdType, IpProtocol
from ipseclab.sim.costs import CostTable
from ipseclab.sim.cpu import Cpu
from ipseclab.sim.driver import Processing
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NoncePayload
from ipseclab.wire.selector import TrafficSelector

HUB = "192.0.2.1"
HUB_NETWORK = "10.0.0.0/24"
LATE = "late"
NONCE_SIZE = 32
QUEUE = 0.1
"""Seconds of work that may wait for the CPU; what comes when there is more is dropped."""
HANDSHAKE_MESSAGES = 12
"""More than a handshake with a cookie and a puzzle has."""


@dataclass(frozen=True, slots=True)
class FloodResult:
    """What a flood came to: packets of the tunnels, half-open IKE_SAs, the late client."""

    flooded: int
    offered: int
    delivered: int
    most_half_open: int
    most_ike_sas: int
    demanded: int
    client_got_in: bool

    @property
    def goodput(self) -> float:
        """The share of the tunnels' packets that came through."""
        return self.delivered / self.offered


class Hub:
    """A gateway, the peers of its tunnels, and its CPU."""

    def __init__(self, tunnels: int, *, seed: int, costs: CostTable, limits: IkeLimits) -> None:
        self._rng = random.Random(f"{seed}/flood")
        numbers = range(tunnels + 1)
        pairs = [_connections(number, late=number == tunnels) for number in numbers]
        self.gateway = Gateway(
            _config([own for own, _ in pairs], limits), rng=random.Random(f"{seed}/hub")
        )
        self.peers = [
            Gateway(_config([peer], IkeLimits()), rng=random.Random(f"{seed}/{number}"))
            for number, (_, peer) in enumerate(pairs)
        ]
        self._cpu = Cpu(costs)
        self._processing = Processing(costs)
        self._done = 0.0
        for number in range(tunnels):
            if not self.connect(number, 0.0):
                raise AssertionError(f"tunnel {number} does not come up before the flood")

    def connect(self, number: int, now: float) -> bool:
        """Set up a peer's connection; True when the peer has a CHILD_SA afterwards."""
        peer = self.peers[number]
        outputs = peer.initiate(peer.config.ike.connections[0].name, now)
        for _ in range(HANDSHAKE_MESSAGES):
            answers: list[Output] = []
            for datagram in _datagrams(outputs):
                answers += self._receive(datagram, now)
            outputs = [
                output
                for answer in _datagrams(answers)
                for output in peer.receive_datagram(_turned(answer.path), answer.data, now)
            ]
        return bool(peer.ike.child_sas)

    def _receive(self, datagram: SendDatagram, now: float) -> list[Output]:
        path = _turned(datagram.path)
        outputs = self.gateway.receive_datagram(path, datagram.data, now)
        self._work(outputs, datagram.data, now)
        return outputs

    def flood(self, octets: bytes, source: UdpEndpoint, now: float) -> None:
        """One request from nowhere, unless the queue is full."""
        if self._done - now <= QUEUE:
            path = UdpPath(UdpEndpoint(HUB, IKE_PORT), source)
            self._work(self.gateway.receive_datagram(path, octets, now), octets, now)

    def carry(self, number: int, size: int, now: float) -> bool:
        """A packet through a tunnel to the hub's network; True when it was delivered in time."""
        packet = _inner_packet(number, size)
        sealed = [
            o for o in self.peers[number].send_packet(packet, now) if isinstance(o, SendPacket)
        ]
        if self._done - now > QUEUE or not sealed:
            return False
        outputs = self.gateway.receive_packet(sealed[0].packet, now)
        self._work(outputs, b"", now, esp=sealed[0].packet)
        return any(isinstance(output, DeliverPacket) for output in outputs)

    def let_time_pass(self, now: float) -> None:
        """What the hub has to do by then."""
        while (due := self.gateway.next_deadline()) is not None and due.at <= now:
            self.gateway.handle_timeout(max(now, due.at))

    def _work(self, outputs: Sequence[Output], ike: bytes, now: float, *, esp: bytes = b"") -> None:
        seconds = self._processing.seconds(outputs, ike if ike else esp, ike if ike else None)
        self._done = self._cpu.work(now, seconds, woken=True)


def run_flood(
    *,
    tunnels: int = 100,
    messages: int = 100_000,
    rate: float = 500.0,
    packets: float = 20.0,
    size: int = 512,
    seed: int = 1,
    limits: IkeLimits | None = None,
    costs: CostTable | None = None,
) -> FloodResult:
    """`messages` requests at `rate` a second, while each tunnel carries `packets` a second of
    `size` octets; halfway a client that has no IKE_SA yet wants in."""
    limits = limits if limits is not None else IkeLimits()
    costs = costs if costs is not None else CostTable.default()
    hub = Hub(tunnels, seed=seed, costs=costs, limits=limits)
    rng = random.Random(f"{seed}/attacker")
    template = _template(hub.peers[tunnels])
    events: list[tuple[float, int]] = []
    start = 1.0
    for tunnel in range(tunnels):
        heapq.heappush(events, (start + rng.random() / packets, tunnel))
    fired = offered = delivered = half_open = sas = 0
    got_in = False
    while fired < messages:
        now = start + fired / rate
        while events and events[0][0] <= now:
            at, tunnel = heapq.heappop(events)
            offered += 1
            delivered += hub.carry(tunnel, size, at)
            heapq.heappush(events, (at + 1.0 / packets, tunnel))
        hub.let_time_pass(now)
        hub.flood(_spoofed(template, rng), _stranger(rng), now)
        fired += 1
        if not got_in and fired >= messages // 2:
            got_in = hub.connect(tunnels, now)
        half_open = max(half_open, hub.gateway.ike.half_open)
        sas = max(sas, hub.gateway.ike.table_sizes["ike_sas"])
    counters = hub.gateway.counters
    demanded = counters.get("ike.cookie_demanded", 0) + counters.get("ike.puzzle_demanded", 0)
    return FloodResult(fired, offered, delivered, half_open, sas, demanded, got_in)


def _datagrams(outputs: Sequence[Output]) -> deque[SendDatagram]:
    return deque(output for output in outputs if isinstance(output, SendDatagram))


def _turned(path: UdpPath) -> UdpPath:
    return UdpPath(path.remote, path.local)


def _template(peer: Gateway) -> Message:
    """A good request: what the late client would send."""
    twin = Gateway(peer.config, rng=random.Random("template"))
    (datagram,) = _datagrams(twin.initiate(LATE, 0.0))
    return decode_message(datagram.data)


def _spoofed(template: Message, rng: random.Random) -> bytes:
    payloads = tuple(
        NoncePayload(rng.randbytes(NONCE_SIZE)) if isinstance(p, NoncePayload) else p
        for p in template.payloads
    )
    return Message(rng.randbytes(8), bytes(8), template.exchange, True, False, 0, payloads).encode()


def _stranger(rng: random.Random) -> UdpEndpoint:
    return UdpEndpoint(str(IPv4Address(rng.getrandbits(32))), rng.randrange(1024, 65536))


def _inner_packet(number: int, size: int) -> bytes:
    source = IPv4Address(_network(number).partition("/")[0]) + 1
    destination = IPv4Address(HUB_NETWORK.partition("/")[0]) + 1
    datagram = build_udp(source.packed, 7000, destination.packed, 7000, bytes(size))
    return build_ipv4(source.packed, destination.packed, IpProtocol.UDP, datagram)


def _network(number: int) -> str:
    return f"10.{1 + number // 250}.{number % 250}.0/24"


def _connections(number: int, *, late: bool) -> tuple[ConnectionConfig, ConnectionConfig]:
    """The hub's and the peer's side of one connection; the late client's address is not known."""
    address = f"198.51.{100 + number // 250}.{number % 250 + 1}"
    name = LATE if late else f"peer{number}"
    ids = Identity(IdType.ID_FQDN, b"hub"), Identity(IdType.ID_FQDN, name.encode())
    networks = [(TrafficSelector.of_network(text),) for text in (HUB_NETWORK, _network(number))]
    sides = []
    for own, peer in ((0, 1), (1, 0)):
        ends = (HUB, address)
        sides.append(
            ConnectionConfig(
                name=name,
                own_address=ends[own],
                peer_address=None if late and own == 0 else ends[peer],
                own_id=ids[own],
                peer_id=ids[peer],
                psk=b"known to hub and peer",
                ike_proposals=(parse_ike_proposal("aes128gcm16-prfsha256-x25519"),),
                esp_proposals=(parse_esp_proposal("aes128gcm16"),),
                own_ts=networks[own],
                peer_ts=networks[peer],
            )
        )
    return sides[0], sides[1]


def _config(connections: Sequence[ConnectionConfig], limits: IkeLimits) -> GatewayConfig:
    policies = tuple(
        Policy(c.name, Action.PROTECT, c.own_ts, c.peer_ts, connection=c.name) for c in connections
    )
    return GatewayConfig(IkeConfig("hub", tuple(connections), limits), policies)
