"""From an experiment file's traffic and actions to the plan of one run, checked against a
topology."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from ipseclab.errors import ConfigError
from ipseclab.lab.addresses import OutsideAddresses
from ipseclab.lab.model import DIRECTIONS, NodeKind
from ipseclab.lab.plan import Action, ArgumentValue, Ping, Probe, RunPlan, TrafficFlow, Transfer
from ipseclab.lab.schema_network import ImpairmentFile
from ipseclab.lab.sides import unprotected_interfaces
from ipseclab.lab.topology import Topology
from ipseclab.lab.yaml_source import KeyPath, YamlSource, one_of
from ipseclab.measure.experiment_file import (
    MOST_ACTIONS,
    ActionFile,
    ExperimentFile,
    FlowFile,
    PingFile,
    ProbeFile,
)

SETTABLE = (
    "delay",
    "jitter",
    "loss",
    "reorder",
    "reorder_delay",
    "duplicate",
    "corrupt",
    "rate",
    "block",
)
"""What link_set may change while packets are under way."""


def make_plan(file: ExperimentFile, topology: Topology) -> RunPlan:
    """The plan of a checked experiment; `check_plan` comes first."""
    flows = tuple(_flow(flow) for flow in file.traffic)
    actions = tuple(action for item in file.actions for action in _actions(item, topology))
    return RunPlan(flows, tuple(sorted(actions, key=lambda action: action.at)), file.duration)


def _flow(flow: FlowFile) -> TrafficFlow:
    ends = (flow.name, flow.source, flow.destination, flow.start)
    if isinstance(flow, PingFile):
        return Ping(*ends, flow.interval, flow.count, flow.size)
    if isinstance(flow, ProbeFile):
        return Probe(*ends, flow.duration, flow.rate, flow.size)
    return Transfer(*ends, flow.duration, flow.octets, flow.congestion)


def _actions(item: ActionFile, topology: Topology) -> Iterator[Action]:
    arguments: dict[str, ArgumentValue] = {}
    if item.do == "link_set":
        arguments = link_arguments(item.set)
    elif item.do == "nat_rebind":
        arguments = {"address": item.address} if item.address is not None else {}
    elif item.do == "address_change":
        arguments = {"link": str(item.link)}
        arguments |= {"address": item.address} if item.address is not None else {}
    else:
        name = item.connection
        if name is None and item.node is not None:
            name = connections_of(topology, item.node)[0]
        arguments = {"connection": str(name)}
    for index in range(item.times):
        at = item.at + index * (item.every if item.every is not None else 0.0)
        link = None if item.do == "address_change" else item.link
        yield Action(round(at, 9), item.do, item.node, link, arguments)


def link_arguments(settings: dict[str, object]) -> dict[str, ArgumentValue]:
    """A link_set's settings in plain numbers. Raises ValueError that says what was expected."""
    arguments: dict[str, ArgumentValue] = {}
    for key, value in settings.items():
        if key == "direction":
            choices = (*DIRECTIONS, "both")
            if value not in choices:
                raise ValueError(f"direction {value!r}, {one_of(choices, str(value))}")
            arguments[key] = str(value)
        elif key in SETTABLE:
            arguments[key] = _plain(key, value)
        else:
            raise ValueError(f"cannot set {key!r}, {one_of((*SETTABLE, 'direction'), key)}")
    return arguments


def _plain(key: str, value: object) -> ArgumentValue:
    try:
        impairment = ImpairmentFile.model_validate({key: value})
    except ValidationError as problem:
        text = str(problem.errors()[0]["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{key}: {text}") from None
    if key == "block":
        return " ".join(str(rule) for rule in impairment.block) or "none"
    if key == "loss":
        if impairment.loss is None or impairment.loss.probability is None:
            raise ValueError(f"loss: {value!r}, expected a probability")
        return impairment.loss.probability
    return float(getattr(impairment, key))


def connections_of(topology: Topology, node: str) -> list[str]:
    """The names of the connections that a node is an end of; those without IPsec left out."""
    return [
        connection.name
        for connection in topology.connections
        if node in connection.ends and connection.mode is not None
    ]


def check_plan(file: ExperimentFile, source: YamlSource, topology: Topology) -> None:
    """Flows between hosts of the topology, actions of nodes that can do them, all within the run.

    Raises ConfigError.
    """
    for index, flow in enumerate(file.traffic):
        path: KeyPath = ("traffic", index)
        _check_flow(flow, path, source, topology)
        if flow.start >= file.duration:
            raise source.error(
                (*path, "start"),
                f"{flow.start:g} s is after the run, expected less than {file.duration:g} s",
            )
    if sum(item.times for item in file.actions) > MOST_ACTIONS:
        raise source.error(("actions",), f"too many, expected at most {MOST_ACTIONS}")
    for index, item in enumerate(file.actions):
        _check_action(file, item, ("actions", index), source, topology)


def _check_flow(flow: FlowFile, path: KeyPath, source: YamlSource, topology: Topology) -> None:
    hosts = [node.name for node in topology.nodes.values() if node.kind is NodeKind.HOST]
    for key in ("source", "destination"):
        name = getattr(flow, key)
        if name not in topology.nodes:
            raise source.error((*path, key), f"no node {name!r}, {one_of(hosts, name)}")
        if topology.nodes[name].kind is not NodeKind.HOST:
            kind = topology.nodes[name].kind.value
            raise source.error((*path, key), f"{name!r} is a {kind}, {one_of(hosts, name)}")
    if flow.source == flow.destination:
        raise source.error((*path, "destination"), "the source itself, expected another host")
    own, peer = (topology.nodes[name].address.version for name in (flow.source, flow.destination))
    if own != peer:
        problem = f"{flow.destination!r} has IPv{peer}, expected IPv{own} as the source"
        raise source.error((*path, "destination"), problem)
    if isinstance(flow, ProbeFile) and flow.duration * flow.rate < 1:
        raise source.error((*path, "duration"), "no packet at that rate, expected a longer time")


def _check_action(
    file: ExperimentFile, item: ActionFile, path: KeyPath, source: YamlSource, topology: Topology
) -> None:
    last = item.at + (item.times - 1) * (item.every if item.every is not None else 0.0)
    if last > file.duration:
        raise source.error(
            (*path, "at"), f"{last:g} s is after the run, expected at most {file.duration:g} s"
        )
    if item.do == "link_set":
        links = [link.name for link in topology.links]
        if item.link not in links:
            raise source.error(
                (*path, "link"), f"no link {item.link!r}, {one_of(links, str(item.link))}"
            )
        try:
            link_arguments(item.set)
        except ValueError as problem:
            raise source.error((*path, "set"), str(problem)) from None
    else:
        _check_actor(item, path, source, topology)


def _check_actor(item: ActionFile, path: KeyPath, source: YamlSource, topology: Topology) -> None:
    """The node exists and is a NAT for nat_rebind, else an end of the connection."""
    name = str(item.node)
    if item.do == "nat_rebind":
        able = [node.name for node in topology.nodes.values() if node.kind is NodeKind.NAT]
    else:
        able = sorted({end for c in topology.connections if c.mode is not None for end in c.ends})
    if name not in able:
        what = "no such node" if name not in topology.nodes else f"cannot do {item.do}"
        raise source.error((*path, "node"), f"{name!r}: {what}, {one_of(able, name)}")
    if item.do == "nat_rebind":
        pool = [str(address) for address in topology.nodes[name].pool]
        if item.address is not None and item.address not in pool:
            raise source.error(
                (*path, "address"),
                f"{item.address!r} is not {name}'s, {one_of(pool, item.address)}",
            )
        return
    if item.do == "address_change":
        try:
            OutsideAddresses(topology, name).change(str(item.link), item.address)
        except ConfigError as problem:
            key = "link" if item.link not in _outside_links(topology, name) else "address"
            raise source.error((*path, key), problem.problem) from None
        return
    own = connections_of(topology, name)
    if item.connection is not None and item.connection not in own:
        raise source.error(
            (*path, "connection"),
            f"{name} has no connection {item.connection!r}, {one_of(own, item.connection)}",
        )
    if item.connection is None and len(own) > 1 and item.do != "restart":
        raise source.error(path, f"which connection, {one_of(own, '')}")


def _outside_links(topology: Topology, node: str) -> list[str]:
    return [interface.link for interface in unprotected_interfaces(topology, node)]


def nodes_inside(topology: Topology) -> tuple[str, ...]:
    """The hosts and gateways behind a NAT: those that its outside link does not cut off from it."""
    inside: set[str] = set()
    for node in topology.nodes.values():
        if node.kind is NodeKind.NAT:
            inside |= _reachable(topology, node.name)
    return tuple(sorted(inside))


def _reachable(topology: Topology, nat: str) -> set[str]:
    """What is reached from a NAT's inside interfaces without going through its outside one."""
    node = topology.nodes[nat]
    waiting = [i.peer for i in node.interfaces if i.name != node.outside]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name != nat and name not in seen:
            seen.add(name)
            waiting.extend(interface.peer for interface in topology.nodes[name].interfaces)
    return seen
