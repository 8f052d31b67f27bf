"""Case 29: two clients with the same private address, each behind a NAT of its own (RFC 3948
section 5.1). A pool tells them apart; without one, only one of them can be what that address
means."""

import random
from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest
from pair import ADDRESSES, Mode, connection, gateway_config

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import ConnectionConfig, Identity, IkeConfig
from ipseclab.ike.configuration import AddressPool, AddressRequest, Provision
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.outputs import DeliverPacket, Notice, Output, SendDatagram, UdpEndpoint, UdpPath
from ipseclab.registry import IdType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

HOME = "192.168.1.2"
"""Of both clients."""
SERVER = "10.2.0.2"
CLIENTS = ("alice", "bob")
OUTSIDE = {"alice": "198.51.100.20", "bob": "203.0.113.30"}
GATE = ADDRESSES[1]
"""Where the responder is."""


def client_connection(name: str, *, pool: bool, transport: bool = False) -> ConnectionConfig:
    """As the client has it."""
    mine = replace(
        connection(0, name=name),
        own_address=HOME,
        own_id=Identity(IdType.ID_FQDN, name.encode()),
        own_ts=(TrafficSelector.of_network("0.0.0.0/0" if pool else f"{HOME}/32"),),
        peer_address=GATE,
        address_request=AddressRequest() if pool else None,
    )
    if not transport:
        return mine
    return replace(mine, mode=Mode.TRANSPORT, peer_ts=(TrafficSelector.of_address(GATE),))


def gate_config(*, pool: bool, transport: bool) -> GatewayConfig:
    """The responder, which knows both clients by their names."""
    provision = Provision(pools=(AddressPool.of_network("10.9.0.0/24"),)) if pool else None
    behind = TrafficSelector.of_network("10.9.0.0/24" if pool else f"{HOME}/32")
    connections = tuple(
        replace(
            connection(1, name=name),
            peer_address=None,
            peer_id=Identity(IdType.ID_FQDN, name.encode()),
            peer_ts=(behind,),
            provision=provision,
            policy="clients",
        )
        for name in CLIENTS
    )
    if transport:
        ends = {"own_ts": (TrafficSelector.of_address(GATE),), "mode": Mode.TRANSPORT}
        connections = tuple(replace(one, **ends) for one in connections)
    own_ts = connections[0].own_ts
    policy = Policy("clients", Action.PROTECT, own_ts, (behind,), connection=CLIENTS[0])
    return GatewayConfig(IkeConfig("gate", connections), (policy,))


@dataclass
class World:
    """Two clients, their NATs, the gateway; what is sent arrives at once. In transport mode there
    is one NAT, that knows them by their ports."""

    pool: bool
    transport: bool = False
    now: float = 0.0
    delivered: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    notices: list[tuple[str, Notice]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gateways = {
            "gate": Gateway(
                gate_config(pool=self.pool, transport=self.transport), rng=random.Random("gate")
            )
        }
        for name in CLIENTS:
            config = gateway_config(
                client_connection(name, pool=self.pool, transport=self.transport), name=name
            )
            self.gateways[name] = Gateway(config, rng=random.Random(name))

    def carry_out(self, name: str, outputs: list[Output]) -> None:
        """Everything that follows from outputs."""
        for output in outputs:
            match output:
                case SendDatagram():
                    there, path = self._across(name, output.path)
                    answer = self.gateways[there].receive_datagram(path, output.data, self.now)
                    self.carry_out(there, answer)
                case DeliverPacket():
                    self.delivered[name].append(output.packet)
                case Notice():
                    self.notices.append((name, output))

    def _outside(self, name: str, port: int) -> UdpEndpoint:
        """What a client's port is outside of its NAT."""
        if not self.transport:
            return UdpEndpoint(OUTSIDE[name], port)
        return UdpEndpoint(OUTSIDE["alice"], port + 10_000 * CLIENTS.index(name))

    def _across(self, name: str, path: UdpPath) -> tuple[str, UdpPath]:
        """Whom the NATs bring it to, and between which ends as that one sees it."""
        if name != "gate":
            return "gate", UdpPath(path.remote, self._outside(name, path.local.port))
        inside = ((who, port) for who in CLIENTS for port in (500, 4500))
        there, port = next(one for one in inside if self._outside(*one) == path.remote)
        return there, UdpPath(UdpEndpoint(HOME, port), path.local)

    def events(self, name: str, who: str) -> list[Notice]:
        """That gateway's notices of that name."""
        return [
            notice for gateway, notice in self.notices if (gateway, notice.event) == (who, name)
        ]

    def initiate(self, name: str) -> None:
        """The client sets its connection up."""
        self.carry_out(name, self.gateways[name].initiate(name, self.now))

    def send(self, name: str, source: str, destination: str) -> bytes:
        """One of its packets."""
        ends = [bytes(map(int, one.split("."))) for one in (source, destination)]
        packet = build_ipv4(*ends, 17, build_udp(ends[0], 1, ends[1], 2, name.encode()))
        self.carry_out(name, self.gateways[name].send_packet(packet, self.now))
        return packet


def test_case_29_same_inner_address_with_a_pool_each_gets_its_own_packets():
    world = World(pool=True)
    for number, name in enumerate(CLIENTS, 1):
        world.initiate(name)
        address = f"10.9.0.{number}"
        there = world.send(name, address, SERVER)
        back = world.send("gate", SERVER, address)
        assert (world.delivered["gate"][-1], world.delivered[name]) == (there, [back])


@pytest.mark.rfc("3948", "5.1", "MUST", "same-inner-address")
def test_case_29_same_inner_address_without_a_pool_the_second_is_refused_until_the_first_is_gone():
    world = World(pool=False)
    for name in CLIENTS:
        world.initiate(name)
    assert [child.connection.name for child in world.gateways["gate"].ike.child_sas] == ["alice"]
    (at_gate,), (at_client,) = (world.events("child_failed", who) for who in ("gate", "bob"))
    assert at_gate.details["reason"] == f"{HOME}/32 behind a NAT is what alice has already"
    assert at_client.details["reason"] == "TS_UNACCEPTABLE"
    back = world.send("gate", SERVER, HOME)
    assert dict(world.delivered) == {"alice": [back]}
    world.carry_out("alice", world.gateways["alice"].delete_ike("alice", world.now))
    world.initiate("bob")
    back = world.send("gate", SERVER, HOME)
    assert world.delivered["bob"] == [back]


def test_case_29_same_inner_address_is_no_clash_of_a_client_with_itself():
    """One that has lost its memory comes back."""
    world = World(pool=False)
    world.initiate("alice")
    config = gateway_config(client_connection("alice", pool=False), name="alice")
    world.gateways["alice"] = Gateway(config, rng=random.Random("anew"))
    world.initiate("alice")
    back = world.send("gate", SERVER, HOME)
    assert world.delivered["alice"] == [back]


@pytest.mark.rfc("3948", "5.2", "MUST", "same-transport-address")
def test_case_29_transport_mode_two_clients_behind_one_nat_the_second_is_refused():
    """Both would be the NAT's address to the gateway."""
    world = World(pool=False, transport=True)
    for name in CLIENTS:
        world.initiate(name)
        world.send(name, HOME, GATE)
    assert len(world.delivered["gate"]) == 1
    (at_gate,), (_, *_) = (world.events("child_failed", who) for who in ("gate", "bob"))
    held = f"{OUTSIDE['alice']}/32 behind a NAT is what alice has already"
    assert at_gate.details["reason"] == held
