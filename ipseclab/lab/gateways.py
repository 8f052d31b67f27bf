"""From a topology's connections to what each of its gateways is told.

A node's SPD: its connections in the file's order (PROTECT, or BYPASS where a connection is told to
have no IPsec), then ICMP of its own addresses, so that path MTU discovery works outside (RFC 4301
section 8); everything else is discarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_network
from itertools import chain

from ipseclab.gateway import GatewayConfig
from ipseclab.ike.config import (
    NULL_IDENTITY,
    ConnectionConfig,
    Identity,
    IkeConfig,
    IkeLimits,
    Mode,
    Ppk,
    PpkUse,
)
from ipseclab.ike.credentials import LAB_EPOCH
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.redirect.settings import Redirect
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.lab.access import (
    ANYWHERE,
    address_request,
    anywhere,
    pool_selectors,
    provision,
    shared_policies,
)
from ipseclab.lab.credentials import Keyring, make_keyring
from ipseclab.lab.identities import identity
from ipseclab.lab.manual import manual_sa
from ipseclab.lab.model import (
    AuthKind,
    Connection,
    IpNetwork,
    NetworkSelector,
    PpkPlan,
    Stack,
    Start,
)
from ipseclab.lab.secret_text import secret_octets
from ipseclab.lab.sides import unprotected_interfaces
from ipseclab.lab.topology import Topology
from ipseclab.registry import IpProtocol
from ipseclab.wire.selector import TrafficSelector

_ICMP = {4: IpProtocol.ICMP, 6: IpProtocol.ICMPV6}


def gateway_config(
    topology: Topology,
    node: str,
    *,
    ike_limits: IkeLimits | None = None,
    datapath: DatapathLimits | None = None,
    keyring: Keyring | None = None,
    wall_clock: datetime = LAB_EPOCH,
    secret: bytes = b"",
) -> GatewayConfig:
    """What the gateway, or the host with a stack, at `node` is told.

    Without a keyring the lab's keys are made anew, from seed 0; `wall_clock` is the time of day
    when the driver's clock shows 0; `secret` is what a restart does not take away."""
    connections = topology.connections_of(node)
    keys = keyring if keyring is not None else make_keyring(topology)
    shared = shared_policies([item for item in connections if item.responder == node])
    ike = IkeConfig(
        node,
        tuple(
            _connection(topology, item, node, keys, shared.get(item.name))
            for item in connections
            if _uses_ike(item)
        ),
        ike_limits if ike_limits is not None else topology.nodes[node].ike_limits,
        wall_clock,
        secret,
    )
    spd = topology.nodes[node].spd
    policies = [
        *spd.entries,
        *(
            _policy(item, node, [one for one in connections if shared.get(one.name) == item.name])
            for item in connections
            if shared.get(item.name, item.name) == item.name
        ),
    ]
    policies.append(_icmp_policy(topology, node))
    manual = tuple(
        manual_sa(
            item,
            node,
            _selectors(_near_networks(item, node)),
            _selectors(_far_networks(item, node)),
        )
        for item in connections
        if item.mode is not None and item.manual is not None
    )
    limits = datapath if datapath is not None else DatapathLimits()
    return GatewayConfig(
        ike,
        tuple(policies),
        limits,
        outbound_default=spd.outbound_default,
        inbound_default=spd.inbound_default,
        stateful_fragments=spd.stateful_fragments,
        icmp_errors=spd.icmp_errors,
        manual=manual,
    )


def _uses_ike(item: Connection) -> bool:
    return item.mode is not None and item.manual is None


def stack_nodes(topology: Topology) -> tuple[str, ...]:
    """The nodes that run our stack: each gets a `Gateway`."""
    return tuple(node.name for node in topology.with_stack(Stack.IPSECLAB))


def starting_connections(topology: Topology, node: str) -> tuple[str, ...]:
    """The connections that `node` initiates when the run starts."""
    return tuple(
        item.name
        for item in topology.connections_of(node)
        if item.initiator == node and _uses_ike(item) and item.start is Start.AT_ONCE
    )


def protected_networks(topology: Topology, node: str) -> tuple[IpNetwork, ...]:
    """The destinations that `node` hands to its stack: the far networks of its connections."""
    found: dict[IpNetwork, None] = {}
    for item in topology.connections_of(node):
        found.update(dict.fromkeys(one.network for one in _far_networks(item, node)))
    return tuple(found)


def _connection(
    topology: Topology, item: Connection, node: str, keys: Keyring, policy: str | None
) -> ConnectionConfig:
    initiator = node == item.initiator
    peer = item.responder if initiator else item.initiator
    own_id, peer_id = (_identity(item, end) for end in (node, peer))
    by_psk = all([one.kind for one in rounds] == [AuthKind.PSK] for rounds in item.rounds)
    own_address = item.initiator_address if initiator else item.responder_address
    return ConnectionConfig(
        name=item.name,
        own_address=str(own_address),
        peer_address=_peer_address(item, initiator),
        own_id=own_id,
        peer_id=peer_id,
        psk=secret_octets(item.psk_of(node)),
        ike_proposals=tuple(parse_ike_proposal(text) for text in item.ike),
        esp_proposals=item.child_proposals,
        own_ts=_own_ts(item, node),
        peer_ts=_peer_ts(item, node),
        own_auth=() if by_psk else keys.own_auth(item, node),
        peer_auth=() if by_psk else keys.peer_auth(item, peer),
        ppks=_ppks(item.ppk, initiator),
        ppk_required=item.ppk is not None and item.ppk.required,
        ppk_use=item.ppk.use if item.ppk is not None else PpkUse.AUTH,
        ppk_rekeys=item.ppk is not None and item.ppk.rekeys,
        address_request=address_request(item.access) if initiator else None,
        provision=None if initiator else provision(item),
        policy=policy,
        resumption=item.resumption,
        crash_detection=item.crash_detection,
        reauthentication=item.reauthentication,
        break_before_make=item.break_before_make,
        mode=item.mode if item.mode is not None else Mode.TUNNEL,
        narrowing=item.narrowing,
        childless=item.childless,
        resources=item.resources,
        ike_lifetime=item.ike_lifetime,
        child_lifetime=item.child_lifetime,
        retransmission=item.retransmission,
        fragmentation=item.fragmentation,
        fragment_size=item.fragment_size,
        window=item.window,
        liveness=item.liveness,
        keepalive=item.keepalive,
        force_encapsulation=item.force_encapsulation,
        nat_traversal=item.nat_traversal,
        tcp=item.tcp,
        redirect=_redirect(topology, item, node),
        mobike=_mobike(topology, item, node),
        replay_window=item.replay_window,
        ipcomp=item.ipcomp,
        aggfrag=item.aggfrag,
    )


def _ppks(plan: PpkPlan | None, initiator: bool) -> tuple[Ppk, ...]:
    if plan is None:
        return ()
    return plan.initiator if initiator else plan.responder


def _mobike(topology: Topology, item: Connection, node: str) -> Mobike | None:
    """With all unprotected addresses of the two ends."""
    if item.mobike is None:
        return None
    peer = item.responder if node == item.initiator else item.initiator
    own, others = (
        tuple(str(interface.address) for interface in unprotected_interfaces(topology, end))
        for end in (node, peer)
    )
    return replace(item.mobike, own=own, peer=others)


def _redirect(topology: Topology, item: Connection, node: str) -> Redirect | None:
    """A responder's as the file says; an initiator follows wherever one of its gateways redirects,
    and knows all gateways that are named."""
    if node == item.responder:
        plan = item.redirect
        if plan is None:
            return None
        to = plan.name if plan.name is not None else plan.address
        return Redirect(to=to, when=plan.when, above=plan.above)
    plans = [one.redirect for one in topology.connections_of(node) if one.redirect is not None]
    if not plans:
        return None
    names = tuple((plan.name, plan.address) for plan in plans if plan.name is not None)
    return Redirect(follow=True, names=names)


def _identity(item: Connection, end: str) -> Identity:
    """Who that end is, for itself and for its peer."""
    first = item.rounds_of(end)[0]
    return NULL_IDENTITY if first.kind is AuthKind.ANONYMOUS else identity(first.identity)


def _peer_address(item: Connection, initiator: bool) -> str | None:
    """None for an initiator behind a NAT: its address is not known before it comes."""
    if initiator:
        return str(item.responder_address)
    return None if item.nats else str(item.initiator_address)


def _near_networks(item: Connection, node: str) -> tuple[NetworkSelector, ...]:
    return item.local_ts if node == item.initiator else item.remote_ts


def _far_networks(item: Connection, node: str) -> tuple[NetworkSelector, ...]:
    """The other side's networks as `node` has to name them.

    In transport mode through a NAT the responder sees the packets of the initiator come from the
    NAT's address (RFC 7296 section 2.23.1): its policy is about that one.
    """
    if node == item.initiator:
        return item.remote_ts
    if item.mode is Mode.TRANSPORT and item.nats:
        seen = ip_network(item.seen_address)
        return tuple(replace(selector, network=seen) for selector in item.local_ts)
    return item.local_ts


def _selectors(networks: tuple[NetworkSelector, ...]) -> tuple[TrafficSelector, ...]:
    return tuple(network.traffic_selector for network in networks)


def _own_ts(item: Connection, node: str) -> tuple[TrafficSelector, ...]:
    if node == item.initiator and item.access is not None and item.access.asks:
        return anywhere(item.access)
    return _selectors(_near_networks(item, node))


def _peer_ts(item: Connection, node: str) -> tuple[TrafficSelector, ...]:
    if node == item.responder and item.access is not None and item.access.asks:
        return pool_selectors(item.access)
    return _selectors(_far_networks(item, node))


def _policy(item: Connection, node: str, sharing: Sequence[Connection]) -> Policy:
    """The policy of a connection, and of others that have their clients from the same pool."""
    ends = [_own_ts(one, node) for one in (item, *sharing)]
    local, remote = tuple(dict.fromkeys(chain.from_iterable(ends))), _peer_ts(item, node)
    if item.mode is None:
        return Policy(item.name, Action.BYPASS, local, remote)
    processing = item.processing
    return Policy(item.name, Action.PROTECT, local, remote, item.name, processing=processing)


def _icmp_policy(topology: Topology, node: str) -> Policy:
    interfaces = topology.nodes[node].interfaces
    own = tuple(
        TrafficSelector.of_address(str(item.address), _ICMP[item.version]) for item in interfaces
    )
    versions = sorted({item.version for item in interfaces})
    everywhere = tuple(TrafficSelector.of_network(ANYWHERE[v], _ICMP[v]) for v in versions)
    return Policy("own-icmp", Action.BYPASS, own, everywhere)
