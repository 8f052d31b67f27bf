"""Remote access in a topology: addresses and name servers that a responder gives an initiator.

`pool`, `virtual_address`, `dns` and `domains` of a connection (RFC 7296 section 2.19, RFC 8598).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

from ipseclab.ike.config import Mode
from ipseclab.ike.configuration import AddressPool, AddressRequest, Provision
from ipseclab.lab.model import AccessPlan, Connection, NetworkSelector
from ipseclab.lab.yaml_source import Key, YamlSource
from ipseclab.wire.selector import TrafficSelector

if TYPE_CHECKING:
    from ipseclab.lab.schema_connection import ConnectionFile
    from ipseclab.lab.schema_network import LinkFile

ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
Network = IPv4Network | IPv6Network


def check_access(
    entries: Sequence[ConnectionFile], links: Sequence[LinkFile], source: YamlSource
) -> None:
    """Pools that can be given from, and nothing without one. Raises ConfigError."""
    used: dict[Network, str] = {
        link.addresses[0].network: f"the subnet of {link.link_name!r}" for link in links
    }
    for index, entry in enumerate(entries):
        path: tuple[Key, ...] = ("connections", index)
        _check_keys(entry, path, source)
        for place, network in enumerate(entry.pool):
            for other, words in used.items():
                if other.version == network.version and other.overlaps(network):
                    problem = f"{network} overlaps {other}, {words}, expected one of its own"
                    if other != network or "pool" not in words:
                        raise source.error((*path, "pool", place), problem)
        # Connections to one gateway may share a pool, as they then share its leases.
        words = f"the pool of {entry.connection_name!r}"
        used.update(dict.fromkeys(entry.pool, words))


def _check_keys(entry: ConnectionFile, path: tuple[Key, ...], source: YamlSource) -> None:
    if not entry.pool:
        for key in ("virtual_address", "dns", "domains"):
            if key in entry.model_fields_set and getattr(entry, key):
                raise source.error((*path, key), "without a pool, expected pool: 10.9.0.0/24 too")
        return
    if not any(network.version == 4 for network in entry.pool):
        problem = "no IPv4 network, expected one: the lab's links carry IPv4"
        raise source.error((*path, "pool"), problem)
    if entry.mode != "tunnel":
        problem = f"a pool in mode {entry.mode}, expected mode: tunnel"
        raise source.error((*path, "pool"), problem)
    if entry.manual is not None:
        raise source.error((*path, "pool"), "a pool with manual keys, expected one of both")
    if entry.local_ts is not None and entry.virtual_address:
        problem = "networks of an initiator that asks for an address, expected one of both"
        raise source.error((*path, "local_ts"), problem)
    if entry.start == "on-demand" and entry.virtual_address:
        problem = "on-demand, and no packet has the address before it starts, expected at-once"
        raise source.error((*path, "start"), problem)
    if entry.domains and not entry.dns:
        raise source.error((*path, "domains"), "domains without dns, expected a name server too")


def access_plan(entry: ConnectionFile) -> AccessPlan | None:
    """What the connection gives and asks for; None without a pool."""
    if not entry.pool:
        return None
    return AccessPlan(
        pools=tuple(map(str, entry.pool)),
        dns=tuple(map(str, entry.dns)),
        domains=tuple(entry.domains),
        asks=entry.virtual_address,
    )


def initiators_side(plan: AccessPlan) -> tuple[NetworkSelector, ...]:
    """The initiator's networks as the file's selectors have them: where its address will be."""
    networks = (ip_network(text) for text in plan.pools)
    return tuple(NetworkSelector(one) for one in networks if isinstance(one, IPv4Network))


def address_request(plan: AccessPlan | None) -> AddressRequest | None:
    """What the initiator asks for."""
    if plan is None or not plan.asks:
        return None
    return AddressRequest(ip6=_has_ip6(plan), dns=bool(plan.dns))


def provision(item: Connection) -> Provision | None:
    """What the responder has to give; a client that asks for nothing is refused."""
    plan = item.access
    if plan is None:
        return None
    return Provision(
        pools=tuple(map(AddressPool.of_network, plan.pools)),
        dns=plan.dns,
        domains=plan.domains,
        subnets=tuple(str(selector.network) for selector in item.remote_ts),
        required=True,
    )


def anywhere(plan: AccessPlan) -> tuple[TrafficSelector, ...]:
    """An initiator's selectors before it has an address: any that it may get."""
    families = (4, 6) if _has_ip6(plan) else (4,)
    return tuple(TrafficSelector.of_network(ANYWHERE[family]) for family in families)


def pool_selectors(plan: AccessPlan) -> tuple[TrafficSelector, ...]:
    """A responder's selectors of all clients of the pool."""
    return tuple(TrafficSelector.of_network(text) for text in plan.pools)


def shared_policies(items: Sequence[Connection]) -> Mapping[str, str]:
    """By connection of a responder the connection whose policy it shares: the first of its pool, or
    of those that are about the same packets, as hosts behind one NAT in transport mode are."""
    first: dict[tuple[object, ...], str] = {}
    shared: dict[str, str] = {}
    for item in items:
        key: tuple[object, ...] = ()
        if item.access is not None and item.access.asks:
            key = item.access.pools
        elif item.mode is Mode.TRANSPORT and item.nats and item.manual is None:
            ports = tuple((one.protocol, one.ports) for one in item.local_ts)
            key = (item.seen_address, ports, item.remote_ts, item.protocol, item.processing)
        if key:
            shared[item.name] = first.setdefault(key, item.name)
    return shared


def _has_ip6(plan: AccessPlan) -> bool:
    return any(":" in text for text in plan.pools)
