"""A gateway: IKE and the ESP datapath joined, the one object that every world drives.

RFC 4301 keeps key management and packet processing apart; here each one's wishes become the other's
inputs: `Acquire` starts a negotiation, `ChildSaReady` fills the SAD, an expiry starts a rekey. No
I/O: packets, datagrams and time go in, `Output` values come out.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ipseclab.errors import ConfigError
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT, IkeConfig, Lifetime, Mode
from ipseclab.ike.endpoint import IkeEndpoint
from ipseclab.ike.events import (
    ChildSaActive,
    ChildSaGone,
    ChildSaMoved,
    ChildSaReady,
    IkeOutput,
)
from ipseclab.ike.natt import KEEPALIVE, NON_ESP_MARKER
from ipseclab.ike.selectors import narrow
from ipseclab.ike.streams import Undeliverable
from ipseclab.ipsec.counters import DropReason
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.events import (
    Acquire,
    DatapathOutput,
    HardExpired,
    OwnDatagram,
    PeerSeen,
    SoftExpired,
)
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.sad import Aggregation, Compression, SaLimit, SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.outputs import (
    CloseStream,
    Deadline,
    DeliverPacket,
    InternalConfiguration,
    Notice,
    Output,
    SendDatagram,
    SendMessage,
    SendPacket,
    TcpPath,
    UdpPath,
)
from ipseclab.registry import EsnId, IpProtocol, ProtocolId, TransformType
from ipseclab.wire.ip import packed_address
from ipseclab.wire.selector import TrafficSelector


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """All that a gateway is told before it starts. `policies` in order, first match wins; the
    PROTECT policies name connections of `ike`."""

    ike: IkeConfig
    policies: tuple[Policy, ...]
    datapath: DatapathLimits = field(default_factory=DatapathLimits)
    outbound_default: Action = Action.DISCARD
    inbound_default: Action = Action.DISCARD
    """What becomes of packets that no policy matches: DISCARD, or BYPASS."""
    stateful_fragments: bool = False
    """Whether later fragments go by the ports of their first one (RFC 4301 section 7.3)."""
    icmp_errors: bool = False
    """Whether ICMP errors go the way of what they are about (RFC 4301 section 6.2)."""
    manual: tuple[SaParameters, ...] = ()
    """SAs keyed by hand, there from the start, without lifetimes in seconds (RFC 4301 section
    4.5.1). Their PROTECT policies name their connection in place of one of `ike`."""


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One CHILD_SA, for people to read."""

    connection: str
    spi_in: str
    spi_out: str
    mode: str
    state: str
    own_ts: str
    peer_ts: str


@dataclass(frozen=True, slots=True)
class IkeStatus:
    """One IKE_SA, for people to read."""

    connection: str
    spi_i: str
    spi_r: str
    role: str
    state: str
    peer: str
    encapsulated: bool
    children: tuple[ChildStatus, ...]


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What a gateway has now."""

    name: str
    ike_sas: tuple[IkeStatus, ...]
    counters: Mapping[str, int]


_Anything = IkeOutput | DatapathOutput
_PACKETS = (SendPacket, SendDatagram, DeliverPacket)


class Gateway:
    """One node's IPsec. Times are seconds on the driver's monotonic clock.

    Raises ConfigError when connections and PROTECT policies do not name each other.
    """

    def __init__(self, config: GatewayConfig, *, rng: random.Random) -> None:
        _check(config)
        self.config = config
        self._rng = rng
        self._policy_of = {p.connection: p.name for p in config.policies if p.connection}
        shared = {c.name: c.policy for c in config.ike.connections if c.policy is not None}
        self._policy_of.update(shared)
        self._by_hand = tuple(sa.connection for sa in config.manual)
        self._begin(0.0)

    def _begin(self, now: float) -> None:
        """Both halves as the configuration alone makes them."""
        config, rng = self.config, self._rng
        spd = Spd(
            config.policies,
            outbound_default=config.outbound_default,
            inbound_default=config.inbound_default,
            stateful_fragments=config.stateful_fragments,
            icmp_errors=config.icmp_errors,
        )
        own = {packed_address(connection.own_address) for connection in config.ike.connections}
        self.datapath = Datapath(
            spd,
            rng=rng,
            limits=config.datapath,
            own=[(address, port) for address in own for port in (IKE_PORT, NAT_T_PORT)],
        )
        self.ike = IkeEndpoint(config.ike, rng=rng, activity=self.datapath)
        for parameters in config.manual:
            self.datapath.add_sa(parameters, now)

    # What a user wants.

    def initiate(self, connection: str, now: float) -> list[Output]:
        """Set the connection up, or what of it is missing. Raises KeyError for an unknown name."""
        return self._settle(self.ike.initiate(connection, now), now)

    def create_child(self, connection: str, now: float) -> list[Output]:
        """One more CHILD_SA beside those there are."""
        return self._settle(self.ike.create_child(connection, now), now)

    def rekey_child(self, connection: str, now: float) -> list[Output]:
        """Rekey the connection's CHILD_SAs."""
        return self._settle(self.ike.rekey_child(connection, now), now)

    def rekey_ike(self, connection: str, now: float) -> list[Output]:
        """Rekey the connection's IKE_SA."""
        return self._settle(self.ike.rekey_ike(connection, now), now)

    def reauthenticate(self, connection: str, now: float) -> list[Output]:
        """Authenticate the connection's IKE_SA anew, by another one in its place."""
        return self._settle(self.ike.reauthenticate(connection, now), now)

    def delete_child(self, connection: str, now: float) -> list[Output]:
        """Close the connection's CHILD_SAs."""
        return self._settle(self.ike.delete_child(connection, now), now)

    def delete_ike(self, connection: str, now: float) -> list[Output]:
        """Close the connection's IKE_SA."""
        return self._settle(self.ike.delete_ike(connection, now), now)

    def check_liveness(self, connection: str, now: float) -> list[Output]:
        """Ask the connection's peer for a sign of life."""
        return self._settle(self.ike.check_liveness(connection, now), now)

    def restart(self, now: float) -> list[Output]:
        """Lose all SAs and whatever else was learnt, as a machine does that crashes; its
        configuration, and the secret in it, stays."""
        given = [
            InternalConfiguration(sa.connection.name)
            for sa in self.ike.ike_sas
            if sa.session.assigned is not None
        ]
        gone = [CloseStream(stream.path, abort=True) for stream in self.ike.streams]
        self._begin(now)
        return [Notice("restarted"), *gone, *dict.fromkeys(given)]

    def send_keepalive(self, connection: str, now: float) -> list[Output]:
        """A NAT keepalive now, where ESP goes in UDP."""
        return self._settle(self.ike.send_keepalive(connection, now), now)

    def redirect(self, connection: str, now: float) -> list[Output]:
        """Send the connection's clients to the gateway that it names (RFC 5685)."""
        return self._settle(self.ike.redirect(connection, now), now)

    def change_addresses(self, addresses: Sequence[str], now: float) -> list[Output]:
        """The node has these unprotected addresses from now on, the best first; IKE_SAs with MOBIKE
        move (RFC 4555)."""
        return self._settle(self.ike.change_addresses(addresses, now), now)

    # What comes in.

    def send_packet(self, packet: bytes, now: float) -> list[Output]:
        """A plain IPv4 packet from the protected side, or from the host's own stack."""
        return self._settle(self.datapath.send_packet(packet, now), now)

    def receive_packet(self, packet: bytes, now: float) -> list[Output]:
        """An IPv4 packet from the unprotected side: ESP, or a plain one; IKE only in fragments, by
        which a driver cannot know it."""
        return self._settle(self.datapath.receive_packet(packet, now), now)

    def receive_datagram(self, path: UdpPath, data: bytes, now: float) -> list[Output]:
        """The payload of a UDP datagram on port 500 or 4500 (RFC 3948 section 2), or a message of
        a TCP connection."""
        return self._settle(self._take_datagram(path, data, now), now)

    def _take_datagram(self, path: UdpPath, data: bytes, now: float) -> Sequence[_Anything]:
        if path.local.port != NAT_T_PORT and not isinstance(path, TcpPath):
            return self.ike.receive(path, data, now)
        if data == KEEPALIVE:
            return [Notice("keepalive_received", {"source": str(path.remote)})]
        if data.startswith(NON_ESP_MARKER):
            return self.ike.receive(path, data[len(NON_ESP_MARKER) :], now)
        return self.datapath.receive_esp(data, path, now)

    # TCP connections to and from port 4500 (RFC 9329): what becomes of them a driver tells here.

    def stream_accepted(self, path: TcpPath, now: float) -> list[Output]:
        """A peer has opened a connection."""
        return self._settle(self.ike.stream_accepted(path, now), now)

    def stream_opened(self, path: TcpPath, now: float) -> list[Output]:
        """A connection that this end asked for is there."""
        return self._settle(self.ike.stream_opened(path, now), now)

    def stream_sent(self, path: TcpPath, octets: int, now: float) -> list[Output]:
        """TCP has taken so many octets of what was to be sent on a connection."""
        stream = self.ike.streams.get(path)
        return [] if stream is None else [*stream.sent(octets)]

    def stream_closed(self, path: TcpPath, reason: str, now: float) -> list[Output]:
        """A connection is gone: the peer has closed it, or it broke, or could not be opened."""
        return self._settle(self.ike.stream_closed(path, reason, now), now)

    def receive_stream(self, path: TcpPath, octets: bytes, now: float) -> list[Output]:
        """Octets of a connection, in their order."""
        outputs: list[Output] = []
        for message in self.ike.streams.take(path, octets):
            if self.ike.streams.get(path) is None:
                break  # it was closed by what came before
            answer = self.receive_datagram(path, message, now)
            outputs += answer
            outputs += self._settle(self.ike.judge(path, now, good=not _is_bad(answer)), now)
        if fault := self.ike.streams.fault(path):
            outputs += self._settle(self.ike.stream_corrupt(path, fault, now), now)
        return outputs

    def next_deadline(self) -> Deadline | None:
        """When `handle_timeout` wants to be called."""
        # After every packet: written for speed.
        ike, esp = self.ike.next_deadline(), self.datapath.next_deadline()
        if ike is None or esp is None:
            return esp if ike is None else ike
        return ike if ike.at <= esp.at else esp

    def handle_timeout(self, now: float) -> list[Output]:
        """Do all that is due at `now`."""
        due: list[_Anything] = [*self.datapath.handle_timeout(now)]
        return self._settle(due, now) + self._settle(self.ike.handle_timeout(now), now)

    # What there is.

    @property
    def counters(self) -> dict[str, int]:
        """Packets and drops of the datapath, messages dropped and refused by IKE."""
        return {**self.datapath.counters.as_dict(), **self.ike.counters}

    def status(self) -> GatewayStatus:
        """IKE_SAs with their CHILD_SAs."""
        sas = tuple(
            IkeStatus(
                connection=sa.connection.name,
                spi_i=sa.spi_i.hex(),
                spi_r=sa.spi_r.hex(),
                role="initiator" if sa.initiator else "responder",
                state=sa.state.value,
                peer=str(sa.path.remote),
                encapsulated=sa.encapsulated,
                children=tuple(
                    ChildStatus(
                        connection=child.connection.name,
                        spi_in=child.spi_in.hex(),
                        spi_out=child.spi_out.hex(),
                        mode=child.mode.value,
                        state=child.state.value,
                        own_ts=" ".join(map(str, child.own_ts)),
                        peer_ts=" ".join(map(str, child.peer_ts)),
                    )
                    for child in sa.children.values()
                ),
            )
            for sa in self.ike.ike_sas
        )
        return GatewayStatus(self.config.ike.name, sas, self.counters)

    # Between the two.

    def settle(self, events: Sequence[DatapathOutput], now: float) -> list[Output]:
        """What follows from what the datapath said to a driver that moves packets in trains."""
        return self._settle(events, now)

    def _settle(self, events: Sequence[_Anything], now: float) -> list[Output]:
        """Turn what one half says into the other's inputs until only outputs are left, in order."""
        if len(events) == 1 and isinstance(events[0], _PACKETS):
            # Nearly every packet: one comes in, one goes out, and nobody else needs to know.
            return [events[0]] if not isinstance(events, list) else events
        outputs: list[Output] = []
        waiting: deque[_Anything] = deque(events)
        while waiting:
            event = waiting.popleft()
            consequences: Sequence[_Anything]
            match event:
                case ChildSaReady():
                    consequences = self._install(event, now)
                case ChildSaActive():
                    consequences = self.datapath.use_outbound(event.spi_in, now)
                case ChildSaGone():
                    consequences = self.datapath.remove_sa(event.spi_in, now, linger=event.linger)
                case ChildSaMoved():
                    self.datapath.move(event.spi_in, event.path, in_udp=event.encapsulate)
                    consequences = ()
                case Acquire():
                    details = {"connection": event.connection, "flow": str(event.flow)}
                    outputs.append(Notice("acquire", details))
                    keyed = event.connection in self._by_hand
                    consequences = (
                        () if keyed else self.ike.acquire(event.connection, event.flow, now)
                    )
                case SoftExpired():
                    outputs.append(_expiry("soft_expired", event))
                    consequences = self.ike.child_soft_expired(event.spi_in, now)
                case HardExpired():
                    outputs.append(_expiry("hard_expired", event))
                    consequences = self.ike.child_hard_expired(event.spi_in, now)
                case InternalConfiguration():
                    self._take_addresses(event)
                    outputs.append(event)
                    continue
                case OwnDatagram():
                    consequences = self._take_datagram(event.path, event.data, now)
                case SendMessage():
                    outputs += self._put_in_stream(event, now)
                    continue
                case PeerSeen():
                    consequences = self.ike.peer_seen(event.spi_in, event.path, now)
                case _:
                    outputs.append(event)
                    continue
            waiting.extendleft(reversed(consequences))
        return outputs

    def _put_in_stream(self, message: SendMessage, now: float) -> list[Output]:
        """Its octets as they go into the stream, or a counted drop."""
        try:
            return [*self.ike.streams.send(message)]
        except Undeliverable as drop:
            octets = len(message.data)
            if message.data.startswith(NON_ESP_MARKER):
                self.ike.count(f"ike.{drop.reason}")
                return [Notice("ike_dropped", {"reason": drop.reason})]
            return [self.datapath.drop_sent(DropReason(drop.reason), octets)]

    def _install(self, child: ChildSaReady, now: float) -> Sequence[DatapathOutput]:
        lifetime = child.connection.child_lifetime
        parameters = SaParameters(
            connection=child.connection.name,
            policy=self._policy_of[child.connection.name],
            tunnel=child.mode is Mode.TUNNEL,
            spi_in=child.spi_in,
            spi_out=child.spi_out,
            local=packed_address(child.path.local.address),
            remote=packed_address(child.path.remote.address),
            own_ts=child.own_ts,
            peer_ts=child.peer_ts,
            suite=child.suite,
            encr_key_in=child.encr_key_in,
            integ_key_in=child.integ_key_in,
            encr_key_out=child.encr_key_out,
            integ_key_out=child.integ_key_out,
            path=child.path if child.encapsulate else None,
            soft=self._soft_limit(lifetime),
            hard=SaLimit(lifetime.seconds, lifetime.octets, lifetime.packets),
            replay_window=child.connection.replay_window,
            esn=_chose_esn(child),
            resource=child.resource,
            mobile=child.mobile,
            protocol=_IP_PROTOCOLS[child.proposal.protocol],
            compression=_compression(child),
            aggregation=_aggregation(child),
        )
        return self.datapath.add_sa(
            parameters, now, use_outbound=child.use_outbound, hold=child.hold
        )

    def _take_addresses(self, given: InternalConfiguration) -> None:
        """The policy of a connection whose peer gives this end its addresses is about those alone,
        and about all that the configuration says when it has none."""
        addresses = tuple(TrafficSelector.of_address(address) for address in given.addresses)
        policies = list(self.datapath.spd.policies)
        for index, configured in enumerate(self.config.policies):
            if configured.connection == given.connection:
                local = narrow(configured.local, addresses) if addresses else configured.local
                policies[index] = replace(configured, local=local)
        self.datapath.replace_policies(policies)

    def _soft_limit(self, lifetime: Lifetime) -> SaLimit:
        """Where a rekey starts, drawn anew for each SA (`ike.config.Lifetime`)."""
        early = lifetime.margin * (1.0 + lifetime.jitter * self._rng.random())
        left = max(0.0, 1.0 - early)
        return SaLimit(
            seconds=lifetime.seconds * left if lifetime.seconds is not None else None,
            octets=int(lifetime.octets * left) if lifetime.octets is not None else None,
            packets=int(lifetime.packets * left) if lifetime.packets is not None else None,
        )


_IP_PROTOCOLS = {ProtocolId.ESP: IpProtocol.ESP, ProtocolId.AH: IpProtocol.AH}


_OF_NO_SA = ("malformed", "bad_icv", "no_ike_sa", "no_sa", "version")


def _is_bad(outputs: Sequence[Output]) -> bool:
    """Whether what came was found to be no message of an SA of ours, nor to begin one."""
    return any(
        isinstance(output, Notice)
        and output.event in ("ike_dropped", "packet_dropped")
        and output.details.get("reason") in _OF_NO_SA
        for output in outputs
    )


def _chose_esn(child: ChildSaReady) -> bool:
    chosen = child.proposal.of_type(TransformType.ESN)
    return any(transform.id == EsnId.ESN for transform in chosen)


def _compression(child: ChildSaReady) -> Compression | None:
    options = child.options
    if not options.cpi_out:
        return None
    return Compression(options.cpi_in, options.cpi_out)


def _aggregation(child: ChildSaReady) -> Aggregation | None:
    options = child.options
    return Aggregation(fragments=not options.whole_blocks) if options.aggfrag else None


def _check(config: GatewayConfig) -> None:
    """Each connection has its PROTECT policy, and each such policy a connection."""
    names = [connection.name for connection in config.ike.connections]
    for name, count in Counter(names).items():
        if count > 1:
            raise ConfigError(f"{config.ike.name}: {count} connections are named {name!r}")
    protecting = {p.connection: p.name for p in config.policies if p.action is Action.PROTECT}
    policies = list(protecting.values())
    for connection in config.ike.connections:
        name, shared = connection.name, connection.policy
        if name not in protecting if shared is None else shared not in policies:
            raise ConfigError(f"{config.ike.name}: no PROTECT policy for connection {name!r}")
    rates = {p.name: p.processing.constant_rate for p in config.policies}
    for connection in config.ike.connections:
        policy = connection.policy if connection.policy is not None else protecting[connection.name]
        if (connection.aggfrag is None) != (rates[policy] is None):
            problem = "AGGFRAG and a constant rate, or neither, expected"
            raise ConfigError(f"{config.ike.name}: connection {connection.name!r}: {problem}")
    by_hand = [sa.connection for sa in config.manual]
    for name in by_hand:
        if name not in protecting or name in names:
            raise ConfigError(f"{config.ike.name}: {name!r} by hand, no PROTECT policy of its own")
    spis = [sa.spi_in for sa in config.manual]
    if len(set(spis)) != len(spis):
        raise ConfigError(f"{config.ike.name}: two SAs by hand with one inbound SPI")
    for wanted, policy in protecting.items():
        if wanted not in names and wanted not in by_hand:
            raise ConfigError(f"{config.ike.name}: policy {policy!r}: no connection {wanted!r}")


def _expiry(name: str, event: SoftExpired | HardExpired) -> Notice:
    return Notice(name, {"spi_in": event.spi_in.hex(), "why": event.why})
