"""A whole simulated lab: nodes, links and gateways of a topology, the flows and actions of a plan.

`run` carries out a plan from start to end; `Network` is the same lab to be stepped by hand. Keys,
SPIs and nonces come from generators derived from the seed and the node's name, so that one seed is
one trace, octet for octet.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial

from ipseclab.errors import ConfigError, EnvironmentLacks
from ipseclab.ike.credentials import LAB_EPOCH
from ipseclab.ike.secrets import SECRET_SIZE
from ipseclab.lab.addresses import OutsideAddresses
from ipseclab.lab.attacks import Attacker, Tally, require_attacks
from ipseclab.lab.credentials import make_keyring
from ipseclab.lab.faults import gateway_with
from ipseclab.lab.gateways import gateway_config, starting_connections
from ipseclab.lab.impairment import derive
from ipseclab.lab.keys import Capture
from ipseclab.lab.link_set import with_settings
from ipseclab.lab.model import Link as LinkModel
from ipseclab.lab.model import Node as NodeModel
from ipseclab.lab.model import NodeKind, Stack
from ipseclab.lab.nat import Nat
from ipseclab.lab.plan import (
    Action,
    Ping,
    Probe,
    RunPlan,
    TrafficFlow,
    Transfer,
)
from ipseclab.lab.sides import (
    accepts_tcp,
    source_routed,
    tunnel_mtu,
    unprotected_interfaces,
    uses_tcp,
)
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import Trace
from ipseclab.lab.traffic import flow_ids
from ipseclab.lab.ways import probe_receivers
from ipseclab.sim.attackbox import AttackBox
from ipseclab.sim.clock import Clock
from ipseclab.sim.costs import CostTable
from ipseclab.sim.driver import GatewayDriver
from ipseclab.sim.host import Pinger, ProbeReceiver, ProbeSender, TransferSink, TransferSource
from ipseclab.sim.ipsec_node import IpsecNode
from ipseclab.sim.link import Interface, Link
from ipseclab.sim.natbox import NatBox
from ipseclab.sim.node import Node
from ipseclab.sim.sockets import TcpStack
from ipseclab.sim.streams import StreamSockets

PROGRESS_STEPS = 100
YOUNG_OBJECTS = 50_000
"""Objects made and not freed after which Python looks for cycles while time passes."""


def run(
    topology: Topology,
    plan: RunPlan,
    *,
    seed: int,
    trace: Trace,
    capture: Capture | None = None,
    costs: CostTable | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> None:
    """Do one run of `plan` in a fresh lab; `on_progress` is told the share of it that is over.

    Raises EnvironmentLacks where the topology needs more than the simulator has, NothingAttacked at
    the end where an attack befell no packet.
    """
    network = Network(topology, seed=seed, trace=trace, capture=capture, costs=costs)
    network.start_connections()
    network.schedule(plan)
    if on_progress is None:
        network.run_until(plan.duration)
    else:
        for step in range(1, PROGRESS_STEPS + 1):
            network.run_until(plan.duration * step / PROGRESS_STEPS)
            on_progress(step / PROGRESS_STEPS)
    trace.flush()
    if capture is not None:
        capture.flush()
    require_attacks(network.attack_tallies())


class Network:
    """A lab in virtual time: `run_until` lets time pass, `act` does what a plan's action does."""

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int,
        trace: Trace,
        capture: Capture | None = None,
        costs: CostTable | None = None,
    ) -> None:
        _refuse_foreign_stacks(topology)
        self.topology = topology
        self.clock = Clock()
        self.nodes: dict[str, Node] = {}
        self.drivers: dict[str, GatewayDriver] = {}
        self.links: dict[str, Link] = {}
        self._seed = seed
        self._keyring = make_keyring(
            topology, generators=lambda name: derive(seed, "pki", name), now=LAB_EPOCH
        )
        self._trace = trace
        self._capture = capture
        self._costs = costs if costs is not None else CostTable.zero()
        self._tcp: dict[str, TcpStack] = {}
        self._outside: dict[str, OutsideAddresses] = {}
        for model in topology.nodes.values():
            self.nodes[model.name] = self._make_node(model)
        for link in topology.links:
            self.links[link.name] = self._make_link(link)
        for name, node in self.nodes.items():
            for route in topology.routes(name):
                node.add_route(route)

    def schedule(self, plan: RunPlan) -> None:
        """Put a plan's flows and actions on the clock."""
        numbers = flow_ids(plan)
        for destination, flows in probe_receivers(self.topology, plan).items():
            ProbeReceiver(self.nodes[destination], flows)
        for flow in plan.flows:
            self._start_flow(flow, numbers[flow.name])
        for action in plan.timeline():
            self.clock.call_at(action.at, self.act, action)

    def start_connections(self) -> None:
        """Have each connection's initiator begin now, where the topology says so."""
        for name, driver in self.drivers.items():
            for connection in starting_connections(self.topology, name):
                self.clock.call_at(self.clock.now, driver.act, "initiate", connection)

    def run_until(self, at: float) -> None:
        """Let time pass up to `at`, what is due then included."""
        before = gc.get_threshold()
        # Packets make no cycles, but each of the many that are under way counts as new.
        gc.set_threshold(max(before[0], YOUNG_OBJECTS), *before[1:])
        try:
            self.clock.run_through(at)
        finally:
            gc.set_threshold(*before)

    def act(self, action: Action) -> None:
        """Do what a plan's action says, now. Raises ConfigError when that cannot be done."""
        self._trace.record(
            self.clock.now, "lab", "action", action=action.action, target=action.target
        )
        match action.action:
            case "link_set":
                self._set_link(action)
            case "nat_rebind":
                self._rebind(action)
            case "address_change":
                self._change_address(action)
            case _:
                self._act_at_gateway(action)

    @property
    def packet_hops(self) -> int:
        """Packets offered to links so far: what the simulator's speed is measured in."""
        return sum(link.packets for link in self.links.values())

    def attack_tallies(self) -> tuple[Tally, ...]:
        """What came of each attack so far."""
        boxes = (node for node in self.nodes.values() if isinstance(node, AttackBox))
        return tuple(tally for box in boxes for tally in box.attacker.tallies())

    # Building

    def _make_node(self, model: NodeModel) -> Node:
        node: Node
        if model.kind is NodeKind.NAT:
            node = self._make_nat(model)
        elif model.kind is NodeKind.ATTACKER:
            node = self._make_attacker(model)
        elif model.stack is Stack.IPSECLAB:
            node = self._make_ipsec_node(model)
        else:
            node = Node(model.name, clock=self.clock, trace=self._trace, forwards=model.forwards)
        for interface in model.interfaces:
            link = self.topology.link(interface.link)
            mtu = link.impairment(link.direction_from(model.name)).mtu
            node.add_interface(interface.name, str(interface.address), interface.network, mtu=mtu)
        if isinstance(node, IpsecNode):
            self._tap(node, model)
        return node

    def _make_nat(self, model: NodeModel) -> NatBox:
        assert model.nat is not None, f"{model.name}: a NAT of a checked topology has settings"
        assert model.outside is not None, f"{model.name}: a NAT of a checked topology has a side"
        rng = derive(self._seed, "nat", model.name)
        return NatBox(
            model.name,
            clock=self.clock,
            trace=self._trace,
            nat=Nat(model.nat, outside=model.pool, rng=rng),
            outside=model.outside,
            pool=model.pool,
            costs=self._costs,
        )

    def _make_attacker(self, model: NodeModel) -> AttackBox:
        return AttackBox(
            model.name,
            clock=self.clock,
            trace=self._trace,
            attacker=Attacker(model.name, self.topology.attacks, seed=self._seed),
            links={interface.name: interface.link for interface in model.interfaces},
            costs=self._costs,
        )

    def _make_ipsec_node(self, model: NodeModel) -> IpsecNode:
        outside = unprotected_interfaces(self.topology, model.name)
        node = IpsecNode(
            model.name,
            clock=self.clock,
            trace=self._trace,
            forwards=model.forwards,
            outside=[interface.name for interface in outside],
            tunnel_mtu=tunnel_mtu(self.topology, model.name),
            source_routed=source_routed(self.topology, model.name),
        )
        gateway = gateway_with(
            gateway_config(
                self.topology,
                model.name,
                keyring=self._keyring,
                secret=derive(self._seed, model.name, "secret").randbytes(SECRET_SIZE),
            ),
            self.topology.faults,
            rng=derive(self._seed, model.name),
            seed=self._seed,
        )
        node.driver = self.drivers[model.name] = GatewayDriver(
            gateway,
            name=model.name,
            clock=self.clock,
            trace=self._trace,
            ports=node,
            costs=self._costs,
            capture=self._capture,
        )
        if uses_tcp(self.topology, model.name):
            streams = StreamSockets(
                node,
                node.driver,
                send=node.send_unprotected,
                rng=derive(self._seed, model.name, "streams"),
                listens=accepts_tcp(self.topology, model.name),
            )
            node.carry_streams(streams)
        return node

    def _tap(self, node: IpsecNode, model: NodeModel) -> None:
        """Capture what passes the node's interfaces on the unprotected side."""
        if self._capture is None:
            return
        for outside in unprotected_interfaces(self.topology, model.name):
            interface = node.interfaces[outside.name]
            interface.tap(partial(self._capture_packet, self._capture, interface))

    def _capture_packet(self, capture: Capture, interface: Interface, packet: bytes) -> None:
        capture.packet(interface.name, self.clock.now, packet)

    def _make_link(self, model: LinkModel) -> Link:
        first, second = (self.nodes[end.node].interfaces[end.name] for end in model.ends)
        return Link(
            model.name,
            (first, second),
            (model.forward, model.backward),
            clock=self.clock,
            trace=self._trace,
            seed=self._seed,
        )

    # Flows and actions

    def _start_flow(self, flow: TrafficFlow, number: int) -> None:
        source = self.nodes[flow.source]
        destination = self.topology.nodes[flow.destination].address.packed
        match flow:
            case Ping():
                Pinger(source, flow, number, destination)
            case Probe():
                ProbeSender(source, flow, number, destination)
            case Transfer():
                target = self.nodes[flow.destination]
                TransferSink(target, self.tcp(target), flow, number)
                TransferSource(source, self.tcp(source), flow, number, destination)

    def tcp(self, node: Node) -> TcpStack:
        """The TCP of a node."""
        if node.name not in self._tcp:
            self._tcp[node.name] = TcpStack(node, rng=derive(self._seed, node.name, "tcp"))
        return self._tcp[node.name]

    def _act_at_gateway(self, action: Action) -> None:
        driver = self.drivers.get(action.target)
        if driver is None:
            raise ConfigError(f"{action.action}: {action.target} is no gateway of ours")
        connection = str(action.arguments.get("connection", ""))
        known = [item.name for item in self.topology.connections_of(action.target)]
        if connection not in known and action.action != "restart":
            problem = f"no connection {connection!r}, {action.target} has {', '.join(known)}"
            raise ConfigError(f"{action.action} at {action.target}: {problem}")
        driver.act(action.action, connection)

    def _set_link(self, action: Action) -> None:
        link = self.links.get(action.target)
        if link is None:
            raise ConfigError(f"link_set: no link {action.target!r}")
        link.reconfigure(*with_settings(link.configs, action.arguments))

    def _change_address(self, action: Action) -> None:
        driver, name = self.drivers.get(action.target), action.target
        if driver is None:
            raise ConfigError(f"address_change: {name} is no gateway of ours")
        outside = self._outside.setdefault(name, OutsideAddresses(self.topology, name))
        address = action.arguments.get("address")
        change = outside.change(
            str(action.arguments["link"]), None if address is None else str(address)
        )
        new = None if change.new is None else str(change.new)
        self.nodes[name].set_address(change.interface.name, new)
        driver.change_addresses(outside.addresses)

    def _rebind(self, action: Action) -> None:
        node = self.nodes.get(action.target)
        if not isinstance(node, NatBox):
            raise ConfigError(f"nat_rebind: {action.target} is no NAT")
        address = action.arguments.get("address")
        try:
            node.rebind(str(address) if address is not None else None)
        except ValueError as problem:
            raise ConfigError(f"nat_rebind at {action.target}: {problem}") from problem


def _refuse_foreign_stacks(topology: Topology) -> None:
    for node in topology.with_stack(Stack.STRONGSWAN):
        raise EnvironmentLacks(
            f"the simulator has no strongSwan for {node.name}", "run with --world netns"
        )
