"""From what a file says of attacks to the attacks, once the topology's nodes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

from ipseclab.crypto.names import transform_named
from ipseclab.lab.attacks.attack import Attack
from ipseclab.lab.model import Node, NodeKind
from ipseclab.lab.schema_attacks import AttackFile
from ipseclab.lab.yaml_source import YamlSource, one_of

IPV4 = 4


def attack_plans(entries: Sequence[AttackFile], nodes: Mapping[str, Node]) -> tuple[Attack, ...]:
    """The attacks of a file that `check_attacks` has passed."""
    return tuple(_attack(entry, index, nodes) for index, entry in enumerate(entries))


def check_attacks(
    entries: Sequence[AttackFile], nodes: Mapping[str, Node], source: YamlSource
) -> None:
    """Attackers are on links that they can read; each attack is that of one of them, by one of its
    links, between nodes that there are. Raises ConfigError."""
    attackers = [node.name for node in nodes.values() if node.kind is NodeKind.ATTACKER]
    for name in attackers:
        for interface in nodes[name].interfaces:
            if interface.address.version != IPV4:
                problem = f"link {interface.link!r} has IPv6, expected an attacker on IPv4 alone"
                raise source.error(("nodes", name), problem)
    names = [_name(entry, index) for index, entry in enumerate(entries)]
    for index, entry in enumerate(entries):
        path = ("attacks", index)
        if entry.node not in nodes:
            problem = f"{entry.node!r} is not a node, {one_of(list(nodes), entry.node)}"
            raise source.error((*path, "node"), problem)
        if entry.node not in attackers:
            kind = nodes[entry.node].kind.value
            problem = f"{entry.node!r} is a {kind}, {one_of(attackers, '')} of kind attacker"
            raise source.error((*path, "node"), problem)
        links = [interface.link for interface in nodes[entry.node].interfaces]
        if entry.link is not None and entry.link not in links:
            problem = f"{entry.link!r} is not a link of {entry.node}, {one_of(links, entry.link)}"
            raise source.error((*path, "link"), problem)
        if names.index(names[index]) != index:
            problem = f"the name {names[index]!r} is that of an earlier attack, expected another"
            raise source.error((*path, "name"), problem)
        _check_ends(entry, index, nodes, source)


def _check_ends(
    entry: AttackFile, index: int, nodes: Mapping[str, Node], source: YamlSource
) -> None:
    path = ("attacks", index)
    if isinstance(entry.sender, str) and entry.sender not in nodes:
        problem = f"{entry.sender!r} is not a node, {one_of(list(nodes), entry.sender)}"
        raise source.error((*path, "sender"), problem)
    hosts = [node.name for node in nodes.values() if node.kind is NodeKind.HOST]
    for key, name in (("sender", entry.sender), ("receiver", entry.receiver)):
        if name in nodes and not isinstance(nodes[str(name)].address, IPv4Address):
            problem = f"{name!r} has an IPv6 address, expected a node with IPv4"
            raise source.error((*path, key), problem)
    if entry.receiver is not None and entry.receiver not in hosts:
        problem = f"{entry.receiver!r} is not a host, {one_of(hosts, entry.receiver)}"
        raise source.error((*path, "receiver"), problem)


def _name(entry: AttackFile, index: int) -> str:
    return entry.name if entry.name is not None else f"{entry.do}-{index}"


def _attack(entry: AttackFile, index: int, nodes: Mapping[str, Node]) -> Attack:
    sender = _address(entry.sender, nodes)
    receiver = _address(entry.receiver, nodes)
    return Attack(
        name=_name(entry, index),
        node=entry.node,
        do=entry.do,
        traffic=entry.traffic,
        link=entry.link,
        exchange=entry.exchange,
        kind=entry.kind,
        protocol=entry.protocol,
        port=entry.port,
        source=entry.source,
        destination=entry.destination,
        spi=entry.spi,
        start=entry.start,
        end=entry.end if entry.end is not None else math.inf,
        nth=tuple(entry.nth) if entry.nth is not None else (),
        every=entry.every if entry.every is not None else 1,
        probability=entry.probability,
        delay=entry.delay if entry.delay is not None else 0.0,
        times=entry.times if entry.times is not None else 1,
        after=entry.after if entry.after is not None else 1,
        field=entry.field,
        octet=entry.octet,
        mask=entry.mask if entry.mask is not None else b"\x01",
        repair=entry.repair is not False,
        address=sender,
        receiver=entry.receiver,
        ends=None if sender is None or receiver is None else (sender, receiver),
        ahead=entry.ahead if entry.ahead is not None else 1,
        octets=entry.octets,
        strip=tuple(_transform(word) for word in entry.strip or ()),
        notifies=tuple(entry.notify or ()),
    )


def _address(sender: IPv4Address | str | None, nodes: Mapping[str, Node]) -> IPv4Address | None:
    address = nodes[sender].address if isinstance(sender, str) else sender
    assert address is None or isinstance(address, IPv4Address), "an attacker knows no other"
    return address


def _transform(word: str) -> tuple[int, int, int | None]:
    named = transform_named(word)
    assert named is not None, f"{word} was checked when the file was read"
    return int(named.type), int(named.id), named.key_bits
