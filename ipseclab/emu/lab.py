"""A topology brought up in namespaces: its nodes, links, NATs, gateways and recorders.

Everything runs in the sandbox that this process is in, and ends with it. Each process writes a
part of the trace with monotonic times; `finish` joins the parts.
"""

from __future__ import annotations

import math
import os
import platform
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from ipseclab.emu import devices, offloads, overruns, routing
from ipseclab.emu.attackbox import AskTallies, AttackerSpec, Begin, start_attacker
from ipseclab.emu.box import AskOverruns
from ipseclab.emu.capture import CaptureSpec, merge_captures, start_capture
from ipseclab.emu.driver import (
    AskStatus,
    ChangeAddresses,
    Command,
    GatewayDriver,
    GatewaySpec,
    Report,
    read_keys,
    start_gateway,
)
from ipseclab.emu.fastpath import FastDriver
from ipseclab.emu.folders import Folders
from ipseclab.emu.natbox import NatSpec, Rebind, start_nat
from ipseclab.emu.nodes import Nodes, build_nodes, relay_interface
from ipseclab.emu.peers.strongswan import KEYS_DETAIL, StrongswanSpec, start_strongswan
from ipseclab.emu.probe import Measured, probe_links
from ipseclab.emu.process import Child, PrecisePoll, ProcessFailed
from ipseclab.emu.relay import (
    Carried,
    RelaySpec,
    Restart,
    SetImpairment,
    start_relay,
)
from ipseclab.emu.relay import Report as RelayReport
from ipseclab.emu.warmup import warm_up
from ipseclab.errors import ConfigError
from ipseclab.gateway import GatewayConfig
from ipseclab.ike.config import IkeLimits
from ipseclab.ike.secrets import SECRET_SIZE
from ipseclab.ipsec.processing import SMALLEST_PATH_MTU
from ipseclab.lab.addresses import OutsideAddresses
from ipseclab.lab.attacks import Tally
from ipseclab.lab.credentials import make_keyring
from ipseclab.lab.gateways import gateway_config, protected_networks
from ipseclab.lab.impairment import LARGEST_PACKET, ImpairmentConfig
from ipseclab.lab.keys import Capture
from ipseclab.lab.link_set import with_settings
from ipseclab.lab.model import Direction, Interface, Link, Node, NodeKind, Stack
from ipseclab.lab.plan import Action, ArgumentValue
from ipseclab.lab.sides import (
    accepts_tcp,
    source_routed,
    tunnel_mtu,
    unprotected_interfaces,
    uses_tcp,
)
from ipseclab.lab.topology import Topology
from ipseclab.lab.trace import Trace, TraceRecord, merge, read_trace

SOCKETS_FOLDER = Path("/tmp/ipseclab")
"""The sandbox's own; not under /run, which each strongSwan daemon has another of."""
KEYS_SECONDS = 0.5
"""How often the key tables are brought up to date."""
BOXES = (NodeKind.NAT, NodeKind.ATTACKER)
"""Kinds of nodes whose forwarding is a process of ours, and nothing of the kernel's."""
READY_SECONDS = 60.0
"""Fifty gateways on two busy cores become ready one after the other."""


class Lab:
    """The lab of one topology.

    `relayed`: links that get a relay though nothing is set on them. `peer_detail`: how much
    strongSwan logs (`StrongswanSpec.detail`), `peer_settings`: what else it is told
    (`StrongswanSpec.settings`). `ike_limits`: those of our gateways.
    `fast_path`: let them move packets in trains, and leave bare links their offloads; by default
    where a capture can show what the packets of a train would be on a wire.
    `slow`: how many times as long our gateways take for what they do.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        seed: int,
        out: Path,
        relayed: Callable[[Link], bool] = lambda _link: False,
        peer_detail: int = KEYS_DETAIL,
        peer_settings: tuple[tuple[str, str], ...] = (),
        ike_limits: IkeLimits | None = None,
        fast_path: bool | None = None,
        slow: float = 1.0,
    ) -> None:
        self.topology = topology
        self.folders = Folders(out)
        self.start_time = 0.0
        self.end_time = math.inf
        """Monotonic; what happens after it, while the lab is taken down, belongs to no run."""
        self.children: list[Child] = []
        self.gateways: dict[str, Child] = {}
        self._seed = seed
        self._fast_path = offloads.captures_show_trains() if fast_path is None else fast_path
        self._slow = slow
        today = datetime.now(UTC)
        self._wall_clock = today - timedelta(seconds=time.monotonic())
        self._keyring = make_keyring(
            topology, generators=lambda _name: random.SystemRandom(), now=today
        )
        self._peer_detail = peer_detail
        self._peer_settings = peer_settings
        self._ike_limits = ike_limits
        self._relayed = {
            link.name for link in topology.links if _is_impaired(link) or relayed(link)
        }
        self._impairments = {link.name: (link.forward, link.backward) for link in topology.links}
        self._nodes: Nodes | None = None
        self._links: dict[str, Child] = {}
        self._nats: dict[str, Child] = {}
        self._attackers: dict[str, Child] = {}
        self._outside: dict[str, OutsideAddresses] = {}
        self._recorders: dict[str, Child] = {}
        self._captures: list[Path] = []
        self._key_files: list[BinaryIO] = []
        self._lost_before: dict[str, int] = {}
        self.events = Trace()
        self.folders.make_fresh()
        self.capture = Capture(out)

    # Up

    def pid(self, node: str) -> int:
        """The process whose network namespace is the node's."""
        assert self._nodes is not None, "the lab is up"
        return self._nodes.pid(node)

    def build(self) -> None:
        """Bring nodes and links up; then nothing runs yet but the links."""
        self._nodes = build_nodes(self.topology, self._relayed)
        for node in self.topology.nodes.values():
            self._set_up(node)
        for index, link in enumerate(self.topology.links):
            if link.name in self._relayed:
                self._links[link.name] = self._start_link(link, index)
        self._await_ready(self._links.values())

    def measure_links(self) -> Mapping[str, Mapping[Direction, Measured]]:
        """What each link does; raises LinkMismatch when it is not what it is set to."""
        return probe_links(self.topology, self.pid, self._seed, self.restart_links)

    def start_nodes(self) -> None:
        """Start the NATs, the attackers and the gateways."""
        warm_up(self.topology, self._keyring, *self.topology.nodes)
        for node in self.topology.of_kind(NodeKind.NAT):
            self._nats[node.name] = self._start_nat(node)
        for node in self.topology.of_kind(NodeKind.ATTACKER):
            self._attackers[node.name] = self._start_attacker(node)
        for node in self.topology.with_stack(Stack.IPSECLAB):
            self.gateways[node.name] = self._start_gateway(node)
        for node in self.topology.with_stack(Stack.STRONGSWAN):
            self.gateways[node.name] = self._start_strongswan(node)
        self._await_ready([*self._boxes().values(), *self.gateways.values()])
        for node in self.topology.with_stack(Stack.IPSECLAB):
            outside = unprotected_interfaces(self.topology, node.name)
            if outside:
                self._route_ipsec(node, outside)

    def _route_ipsec(self, node: Node, outside: Sequence[Interface]) -> None:
        """The kernel of `node` hands its packets to our stack, by rules for each IP that it has."""
        routes = self.topology.routes(node.name)
        moving = source_routed(self.topology, node.name)
        streams = uses_tcp(self.topology, node.name)
        with devices.in_network(self.pid(node.name)):
            for version in _versions(self.topology, node):
                rules = routing.ipsec_lines(node, outside, routes, version, streams=streams)
                lines = [*rules]
                for index, one in enumerate(outside):
                    if moving and one.version == version:
                        lines += routing.source_lines(one, index, one.address)
                routing.run_ip(lines, version)

    def start_captures(self) -> None:
        """Start to record at the unprotected interfaces of every IPsec node."""
        for name in self.gateways:
            if name not in self._recorders:
                self._recorders[name] = self._start_recorder(name)
        self._await_ready(self._recorders.values())

    def restart_links(self) -> None:
        """Have every relay begin again at packet 0 and write its trace; what was lost until now is
        not the run's."""
        for name, relay in self._links.items():
            relay.ask(Restart(self.folders.part(f"link-{name}")))
        for box in self._boxes().values():
            box.ask(AskOverruns())
        self._lost_before = self._kernel_losses()

    def adopt(self, child: Child) -> Child:
        """Take a process of a flow into the lab's care."""
        self.children.append(child)
        return child

    def _set_up(self, node: Node) -> None:
        """Addresses, neighbours and routes; a kernel whose forwarding is ours gets none of them."""
        mtus = [_mtu(self.topology.link(item.link), node.name) for item in node.interfaces]
        with devices.in_network(self.pid(node.name)):
            ipv6 = 6 in _versions(self.topology, node)
            for interface in node.interfaces:
                if ipv6:
                    devices.keep_quiet(interface.name)
            routing.set_kernel(forwards=_kernel_forwards(node), ipv6=ipv6)
            for interface in node.interfaces:
                if not self._keeps_offloads(interface):
                    devices.offloads_off(interface.name)
            if node.kind in BOXES:
                for interface, mtu in zip(node.interfaces, mtus, strict=True):
                    devices.set_mtu(interface.name, mtu)
                    devices.set_up(interface.name)
                return
            lines = [*routing.address_lines(node.interfaces, mtus)]
            for interface in node.interfaces:
                lines += routing.pool_lines(interface, self.topology.nodes[interface.peer])
            routing.run_ip([*lines, *routing.route_lines(self.topology.routes(node.name))])

    def _keeps_offloads(self, interface: Interface) -> bool:
        """Whether what leaves there may be larger than a packet, its checksums not filled in: not
        where a process of ours reads the frames."""
        peer = self.topology.nodes[interface.peer]
        relayed = interface.link in self._relayed
        return self._fast_path and not relayed and peer.kind not in BOXES

    def _start_link(self, link: Link, index: int) -> Child:
        ends = (relay_interface(index, 0), relay_interface(index, 1))
        version = link.ends[0].version
        spec = RelaySpec(link.name, ends, self._impairments[link.name], self._seed, version)
        return self.adopt(start_relay(spec, self.folders.log(f"link-{link.name}")))

    def _start_nat(self, node: Node) -> Child:
        trace = self.folders.part(f"nat-{node.name}")
        spec = NatSpec(node, self.topology.routes(node.name), self._seed, trace)
        log = self.folders.log(f"nat-{node.name}")
        return self.adopt(start_nat(spec, network=self.pid(node.name), log=log))

    def _start_attacker(self, node: Node) -> Child:
        trace = self.folders.part(f"attacker-{node.name}")
        routes = self.topology.routes(node.name)
        spec = AttackerSpec(node, routes, self.topology.attacks, self._seed, trace)
        log = self.folders.log(f"attacker-{node.name}")
        return self.adopt(start_attacker(spec, network=self.pid(node.name), log=log))

    def _boxes(self) -> dict[str, Child]:
        """The processes that are all of their nodes' forwarding."""
        return {**self._nats, **self._attackers}

    def _start_gateway(self, node: Node) -> Child:
        spec = GatewaySpec(
            self._gateway_config(node.name),
            tuple(str(i.address) for i in unprotected_interfaces(self.topology, node.name)),
            self._tun_mtu(node),
            self.folders.part(f"gateway-{node.name}"),
            self.folders.parts / f"keys-{node.name}",
            str(node.address),
            self.folders.of_node(node.name) / "resolv.conf",
            self.topology.faults,
            self._seed,
            source_routed(self.topology, node.name),
            uses_tcp(self.topology, node.name),
            accepts_tcp(self.topology, node.name),
            self._slow,
            self._outer_mtu(node),
        )
        spec.keys.touch()
        self._key_files.append(spec.keys.open("rb"))
        log = self.folders.log(f"gateway-{node.name}")
        return self.adopt(
            start_gateway(
                spec,
                network=self.pid(node.name),
                log=log,
                rehearse=lambda: warm_up(self.topology, self._keyring, node.name),
                drive=FastDriver if self._fast_path and node.fast_path else GatewayDriver,
            )
        )

    def _outer_mtu(self, node: Node) -> int:
        """The smallest of what the node's unprotected links carry from it."""
        outside = unprotected_interfaces(self.topology, node.name)
        mtus = (_mtu(self.topology.link(one.link), node.name) for one in outside)
        return min(mtus, default=LARGEST_PACKET)

    def _tun_mtu(self, node: Node) -> int:
        """Of the protected side's TUN device: Linux has no IPv6 where not 1,280 octets fit, and
        the gateway fragments what it makes of them."""
        mtu = tunnel_mtu(self.topology, node.name)
        ipv6 = any(one.version == 6 for one in protected_networks(self.topology, node.name))
        return max(mtu, SMALLEST_PATH_MTU[16]) if ipv6 else mtu

    def _gateway_config(self, node: str) -> GatewayConfig:
        return gateway_config(
            self.topology,
            node,
            ike_limits=self._ike_limits,
            keyring=self._keyring,
            wall_clock=self._wall_clock,
            secret=os.urandom(SECRET_SIZE),
        )

    def _start_strongswan(self, node: Node) -> Child:
        spec = StrongswanSpec(
            self._gateway_config(node.name),
            self.folders.logs / node.name,
            SOCKETS_FOLDER / f"{node.name}.vici",
            self.folders.part(f"gateway-{node.name}"),
            self._peer_detail,
            self._peer_settings,
        )
        log = self.folders.log(f"gateway-{node.name}")
        return self.adopt(start_strongswan(spec, network=self.pid(node.name), log=log))

    def _start_recorder(self, name: str) -> Child:
        interfaces = tuple(i.name for i in unprotected_interfaces(self.topology, name))
        spec = CaptureSpec(name, interfaces, self.folders.parts)
        self._captures += [path for path in spec.files if path not in self._captures]
        log = self.folders.log(f"capture-{name}")
        return self.adopt(start_capture(spec, network=self.pid(name), log=log))

    def _await_ready(self, children: Iterable[Child]) -> None:
        for child in children:
            child.await_ready(READY_SECONDS)

    # While it is up

    def begin(self, at: float) -> None:
        """The run starts at the monotonic time `at`."""
        self.start_time = at
        for attacker in self._attackers.values():
            attacker.ask(Begin(at))

    def attack_tallies(self) -> tuple[Tally, ...]:
        """What came of each attack so far."""
        found = [attacker.ask(AskTallies()) for attacker in self._attackers.values()]
        return tuple(tally for tallies in found for tally in tallies)

    def initiate(self, wanted: Mapping[str, tuple[str, ...]]) -> None:
        """Have each of these nodes initiate its connections, all at the same time."""
        for name, connections in wanted.items():
            for connection in connections:
                self.gateways[name].control.send(Command("initiate", connection))
        for name, connections in wanted.items():
            for _connection in connections:
                _expect_done(self.gateways[name].await_ready())

    def act(self, action: Action) -> None:
        """Do what a plan's action says, now. Raises ConfigError when that cannot be done."""
        now = time.monotonic() - self.start_time
        self.events.record(now, "lab", "action", action=action.action, target=action.target)
        match action.action:
            case "link_set":
                self.set_link(action.target, action.arguments)
            case "nat_rebind":
                address = action.arguments.get("address")
                self.rebind(action.target, None if address is None else str(address))
            case "address_change":
                address = action.arguments.get("address")
                link = str(action.arguments["link"])
                self.change_address(action.target, link, None if address is None else str(address))
            case _:
                self.command(
                    action.target, action.action, str(action.arguments.get("connection", ""))
                )

    def command(self, node: str, action: str, connection: str) -> None:
        """Have a gateway do something to one of its connections. Raises ConfigError."""
        gateway = self.gateways.get(node)
        if gateway is None:
            raise ConfigError(f"{action}: {node} is no gateway of the lab's")
        _expect_done(gateway.ask(Command(action, connection)))

    def rebind(self, node: str, address: str | None = None) -> None:
        """Have a NAT forget its mappings. Raises ConfigError."""
        nat = self._nats.get(node)
        if nat is None:
            raise ConfigError(f"nat_rebind: {node} is no NAT")
        _expect_done(nat.ask(Rebind(address)))

    def change_address(self, node: str, link: str, address: str | None) -> None:
        """Give a gateway another address at a link, or none. Raises ConfigError."""
        gateway = self.gateways.get(node)
        if gateway is None:
            raise ConfigError(f"address_change: {node} is no gateway of the lab's")
        ours = self.topology.nodes[node].stack is Stack.IPSECLAB
        outside = self._outside.setdefault(node, OutsideAddresses(self.topology, node))
        change = outside.change(link, address)
        interface = change.interface
        index = [i.link for i in unprotected_interfaces(self.topology, node)].index(link)
        if change.new is not None:
            peer = self.topology.nodes[interface.peer].interface_on(link)
            with devices.in_network(self.pid(interface.peer)):
                routing.run_ip([routing.neighbour_line(peer, change.new)])
        with devices.in_network(self.pid(node)):
            routes = self.topology.routes(node)
            own_table = index if ours else None
            routing.run_ip(routing.address_change_lines(change, own_table, routes))
        if not ours:  # strongSwan learns it from the kernel
            return
        _expect_done(gateway.ask(ChangeAddresses(outside.addresses)))

    def set_link(self, name: str, arguments: Mapping[str, ArgumentValue]) -> None:
        """Change what a link does. Raises ConfigError."""
        relay = self._links.get(name)
        if relay is None:
            known = ", ".join(self._links) or "none"
            raise ConfigError(
                f"link_set: no link {name!r} that can be set, expected one of {known}"
            )
        changed = with_settings(self._impairments[name], arguments)
        relay.ask(SetImpairment(changed))
        self._impairments[name] = changed

    def impairments(self, link: str) -> tuple[ImpairmentConfig, ImpairmentConfig]:
        """What a link does now, forward and backward."""
        return self._impairments[link]

    def report(self, node: str) -> Report:
        """How a gateway stands."""
        report: Report = self.gateways[node].ask(AskStatus())
        return report

    def take_keys(self) -> None:
        """Put the keys that gateways have written down into the run's key tables."""
        for stream in self._key_files:
            for keys in read_keys(stream):
                self.capture.keys(keys)

    def check_children(self) -> None:
        """Raises ProcessFailed when one has ended that should not have."""
        for child in self.children:
            if child.has_ended():
                raise ProcessFailed(f"{child.name} has ended: {child.last_words()}")

    def wait_until(self, at: float) -> None:
        """Let the lab run until the monotonic time `at`."""
        controls = [child.control.fileno() for child in self.children]
        poll = PrecisePoll(*controls)
        while (left := at - time.monotonic()) > 0.0:
            if poll.wait(min(left, KEYS_SECONDS)):
                self.check_children()
            self.take_keys()

    # Down

    def stop_captures(self) -> None:
        """End the recording and write `capture.pcapng`."""
        for recorder in self._recorders.values():
            self._finish_child(recorder)
        self._recorders.clear()
        merge_captures(self._captures, self.capture, self.start_time, self.end_time)
        self.capture.flush()

    def relay_work(self) -> dict[str, Carried]:
        """What each relay has done so far."""
        return {name: relay.ask(RelayReport()) for name, relay in self._links.items()}

    def lost_in_nodes(self) -> dict[str, int]:
        """Packets that each node's processes were too slow for, since the links were restarted."""
        lost = self._kernel_losses()
        before = {name: self._lost_before.get(name, 0) for name in lost}
        return {
            **{name: max(0, lost[name] - before[name]) for name in lost},
            # These processes take their frames past the kernel's own queues.
            **{name: box.ask(AskOverruns()) for name, box in self._boxes().items()},
        }

    def _kernel_losses(self) -> dict[str, int]:
        """What each node's kernel had no room for since the node is there."""
        return {name: overruns.losses(self.pid(name)) for name in self.topology.nodes}

    def facts(self) -> dict[str, Any]:
        """What the world can say at a run's end: counters, CPU seconds, packets not coped with."""
        reports = {name: self.report(name) for name in self.gateways}
        return {
            "kernel": platform.release(),
            "overruns": self.lost_in_nodes(),
            "relays": {name: asdict(done) for name, done in self.relay_work().items()},
            "gateways": {
                name: {"counters": report.counters, "cpu_seconds": report.cpu_seconds}
                for name, report in reports.items()
            },
        }

    def finish(self, trace: Trace) -> None:
        """End every process, and write all that happened from the start on into `trace`."""
        for child in list(self.children):
            self._finish_child(child)
        self.take_keys()
        self.capture.close()
        for stream in self._key_files:
            stream.close()
        files = sorted(self.folders.parts.glob("*.jsonl"))
        for record in merge(self.events.records, *(self._part(path) for path in files)):
            trace.write(record)
        trace.flush()
        self.folders.remove_parts()

    def _finish_child(self, child: Child) -> None:
        child.finish()
        self.children.remove(child)

    def _part(self, path: Path) -> Iterator[TraceRecord]:
        """A process's records on the run's time; those of before and after it are left out."""
        for record in read_trace(path):
            if self.start_time <= record.t <= self.end_time:
                at = round(record.t - self.start_time, 9)
                yield TraceRecord(at, record.node, record.event, record.fields)


def _is_impaired(link: Link) -> bool:
    """True when a link does more than carry packets of up to its MTU."""
    return any(
        config != ImpairmentConfig(mtu=config.mtu) for config in (link.forward, link.backward)
    )


def _versions(topology: Topology, node: Node) -> tuple[int, ...]:
    """The versions of IP that a node's kernel sees: those of its links, and of what it protects."""
    found = {interface.version for interface in node.interfaces}
    found |= {one.version for one in protected_networks(topology, node.name)}
    return tuple(sorted(found))


def _kernel_forwards(node: Node) -> bool:
    """A NAT's packets are all its process's; those for a host with our stack go by its TUN."""
    if node.kind in BOXES:
        return False
    return node.forwards or node.stack is Stack.IPSECLAB


def _mtu(link: Link, node: str) -> int:
    return link.impairment(link.direction_from(node)).mtu


def _expect_done(problem: object) -> None:
    if problem:
        raise ConfigError(str(problem))
