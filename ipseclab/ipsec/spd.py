"""The security policy database: what is to happen to a packet, first match wins.

RFC 4301 section 4.4.1. The SPD is ordered and fails closed: a packet that no entry matches is
discarded unless told otherwise. What a PROTECT entry takes from the packet for its SA (populate
from packet) is its connection's `narrowing`; names as selectors are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ipseclab.errors import ConfigError
from ipseclab.ipsec.icmp_errors import flow_about
from ipseclab.ipsec.processing import PLAIN, Processing
from ipseclab.ipsec.spd_index import RuleIndex, index_of
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import ANY_PORTS, OPAQUE_PORTS, TrafficSelector

FLOW_CACHE_LIMIT = 4096
"""Flows a direction whose verdict is remembered; when full, the cache starts again empty."""

INDEX_FROM = 8
"""Policies of a direction above which an index is made: a few are asked faster one by one."""

_ICMP = (IpProtocol.ICMP, IpProtocol.ICMPV6)


class Action(Enum):
    """RFC 4301 section 4.4.1: the three ways of a packet."""

    DISCARD = "discard"
    BYPASS = "bypass"
    PROTECT = "protect"


class Direction(Enum):
    """Which way an entry looks: the SPD-O, the SPD-I, or both (RFC 4301 section 4.4.1)."""

    BOTH = "both"
    OUTBOUND = "outbound"
    INBOUND = "inbound"


@dataclass(frozen=True, slots=True)
class Policy:
    """One SPD entry: traffic between `local` and `remote`, and what becomes of it.

    PROTECT names the connection whose IKE endpoint makes the SAs, and holds both ways.
    """

    name: str
    action: Action
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    connection: str | None = None
    direction: Direction = Direction.BOTH
    processing: Processing = PLAIN
    """How PROTECT treats packets."""

    def __post_init__(self) -> None:
        if (self.action is Action.PROTECT) != (self.connection is not None):
            raise ConfigError(f"policy {self.name}: PROTECT, and only PROTECT, names a connection")
        if self.action is Action.PROTECT and self.direction is not Direction.BOTH:
            raise ConfigError(f"policy {self.name}: PROTECT holds both ways")


@dataclass(frozen=True, slots=True)
class SpdSettings:
    """What an SPD has beside the entries of connections."""

    entries: tuple[Policy, ...] = ()
    """BYPASS and DISCARD, before all of them."""
    outbound_default: Action = Action.DISCARD
    inbound_default: Action = Action.DISCARD
    stateful_fragments: bool = False
    """Whether later fragments go by the ports of their first one (RFC 4301 section 7.3)."""
    icmp_errors: bool = False
    """Whether ICMP errors go the way of what they are about (RFC 4301 section 6.2)."""


def covers_outbound(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow
) -> bool:
    """True when `flow` leaves from `local` for `remote`.

    RFC 4301 section 4.4.1.1: ICMP has type and code where others have ports, and they belong to
    the message, not to one of its ends; so both sides are asked about them. A later fragment shows
    no ports: only a selector for any port, or one for OPAQUE ones, contains it (section 7).
    """
    near, far = _ends(local, remote, flow)
    return near and far


def covers_inbound(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow
) -> bool:
    """True when `flow` comes from `remote` for `local`."""
    near, far = _ends(remote, local, flow)
    return near and far


def _ends(
    source: Sequence[TrafficSelector], destination: Sequence[TrafficSelector], flow: Flow
) -> tuple[bool, bool]:
    if flow.later_fragment:
        blind = (ANY_PORTS, OPAQUE_PORTS)
        source = [_any_port(ts) for ts in source if ts.ports in blind]
        destination = [_any_port(ts) for ts in destination if ts.ports in blind]
    protocol = flow.protocol
    far_port = flow.source_port if protocol in _ICMP else flow.destination_port
    return (
        any(ts.contains(flow.source, protocol, flow.source_port) for ts in source),
        any(ts.contains(flow.destination, protocol, far_port) for ts in destination),
    )


def _any_port(selector: TrafficSelector) -> TrafficSelector:
    return replace(selector, start_port=0, end_port=0xFFFF)


class Spd:
    """An ordered list of policies, with the verdict on recent flows remembered.

    A packet that none matches meets `outbound_default` or `inbound_default`: DISCARD, or BYPASS.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        outbound_default: Action = Action.DISCARD,
        inbound_default: Action = Action.DISCARD,
        stateful_fragments: bool = False,
        icmp_errors: bool = False,
    ) -> None:
        self.policies = tuple(policies)
        self.stateful_fragments = stateful_fragments
        """Whether later fragments go by the ports of their first one (RFC 4301 section 7.3)."""
        self.icmp_errors = icmp_errors
        """Whether ICMP errors go the way of what they are about (RFC 4301 section 6.2)."""
        self._processing = {policy.name: policy.processing for policy in policies}
        self._outbound: dict[Flow, Policy | None] = {}
        self._inbound: dict[Flow, Policy | None] = {}
        self._sends = _Side(
            [p for p in policies if p.direction is not Direction.INBOUND], outbound=True
        )
        self._receives = _Side(
            [p for p in policies if p.direction is not Direction.OUTBOUND], outbound=False
        )
        self._outbound_default = _default("outbound", outbound_default)
        self._inbound_default = _default("inbound", inbound_default)
        self._defaults = outbound_default, inbound_default

    def with_policies(self, policies: Sequence[Policy]) -> Spd:
        """The same with other policies."""
        outbound, inbound = self._defaults
        return Spd(
            policies,
            outbound_default=outbound,
            inbound_default=inbound,
            stateful_fragments=self.stateful_fragments,
            icmp_errors=self.icmp_errors,
        )

    def processing(self, name: str) -> Processing:
        """How the packets of the policy of that name are treated."""
        return self._processing.get(name, PLAIN)

    def outbound(self, flow: Flow) -> Policy | None:
        """The policy for a packet on its way out; None means DISCARD."""
        if flow in self._outbound:
            return self._outbound[flow]
        found = self._sends.first(flow)
        return _remember(
            self._outbound, flow, found if found is not None else self._outbound_default
        )

    def outbound_of(self, packet: bytes, flow: Flow) -> tuple[Policy | None, Flow]:
        """`outbound` for a packet of `flow`, and the flow that its SA is to cover: of an ICMP error
        that no entry names it may be the one that the error is about."""
        policy = self.outbound(flow)
        if not self.icmp_errors or policy is not self._outbound_default:
            return policy, flow
        about = flow_about(packet)
        returning = self.outbound(about) if about is not None else None
        if about is None or returning is None or returning.action is not Action.PROTECT:
            return policy, flow
        return returning, about

    def inbound(self, flow: Flow) -> Policy | None:
        """The policy for a packet that arrived without protection; None means DISCARD."""
        if flow in self._inbound:
            return self._inbound[flow]
        found = self._receives.first(flow)
        return _remember(self._inbound, flow, found if found is not None else self._inbound_default)


class _Side:
    """The policies of one direction: asked one by one while they are few, indexed beyond."""

    def __init__(self, policies: list[Policy], *, outbound: bool) -> None:
        self._policies = policies
        self._outbound = outbound
        self._index: dict[int, RuleIndex] | None = None
        if len(policies) > INDEX_FROM:
            self._index = index_of(
                [(p.local, p.remote) if outbound else (p.remote, p.local) for p in policies]
            )

    def first(self, flow: Flow) -> Policy | None:
        if self._index is None:
            covers = covers_outbound if self._outbound else covers_inbound
            return next((p for p in self._policies if covers(p.local, p.remote, flow)), None)
        near, far = flow.source_port, flow.destination_port
        place = self._index[len(flow.source)].first(
            flow.source,
            flow.destination,
            flow.protocol,
            None if flow.later_fragment else near,
            None if flow.later_fragment else (near if flow.protocol in _ICMP else far),
        )
        return self._policies[place] if place is not None else None


def _default(name: str, action: Action) -> Policy | None:
    if action is Action.PROTECT:
        raise ConfigError(f"the {name} default: PROTECT names a connection, expected another")
    return Policy(f"{name}-default", action, (), ()) if action is Action.BYPASS else None


def _remember(cache: dict[Flow, Policy | None], flow: Flow, policy: Policy | None) -> Policy | None:
    if len(cache) >= FLOW_CACHE_LIMIT:
        cache.clear()
    cache[flow] = policy
    return policy
