"""The security policy database: what is to happen to a packet, first match wins.

RFC 4301 section 4.4.1. The SPD is ordered and fails closed: a packet that no entry matches is
discarded. Names as selectors, and populate-from-packet flags, are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ipseclab.errors import ConfigError
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import TrafficSelector

FLOW_CACHE_LIMIT = 4096
"""Flows a direction whose verdict is remembered; when full, the cache starts again empty."""


_ICMP = (IpProtocol.ICMP, IpProtocol.ICMPV6)


class Action(Enum):
    """RFC 4301 section 4.4.1: the three ways of a packet."""

    DISCARD = "discard"
    BYPASS = "bypass"
    PROTECT = "protect"


@dataclass(frozen=True, slots=True)
class Policy:
    """One SPD entry: traffic between `local` and `remote`, and what becomes of it.

    PROTECT names the connection whose IKE endpoint makes the SAs.
    """

    name: str
    action: Action
    local: tuple[TrafficSelector, ...]
    remote: tuple[TrafficSelector, ...]
    connection: str | None = None

    def __post_init__(self) -> None:
        if (self.action is Action.PROTECT) != (self.connection is not None):
            raise ConfigError(f"policy {self.name}: PROTECT, and only PROTECT, names a connection")


def covers_outbound(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow
) -> bool:
    """True when `flow` leaves from `local` for `remote`.

    RFC 4301 section 4.4.1.1: ICMP has type and code where others have ports, and they belong to
    the message, not to one of its ends; so both sides are asked about them. A later fragment has
    port 0, which only a selector for any port contains (section 7).
    """
    protocol = flow.protocol
    far_port = flow.source_port if protocol in _ICMP else flow.destination_port
    return any(ts.contains(flow.source, protocol, flow.source_port) for ts in local) and any(
        ts.contains(flow.destination, protocol, far_port) for ts in remote
    )


def covers_inbound(
    local: Sequence[TrafficSelector], remote: Sequence[TrafficSelector], flow: Flow
) -> bool:
    """True when `flow` comes from `remote` for `local`."""
    protocol = flow.protocol
    near_port = flow.source_port if protocol in _ICMP else flow.destination_port
    return any(ts.contains(flow.source, protocol, flow.source_port) for ts in remote) and any(
        ts.contains(flow.destination, protocol, near_port) for ts in local
    )


class Spd:
    """An ordered list of policies, with the verdict on recent flows remembered."""

    def __init__(self, policies: Sequence[Policy]) -> None:
        self.policies = tuple(policies)
        self._outbound: dict[Flow, Policy | None] = {}
        self._inbound: dict[Flow, Policy | None] = {}

    def outbound(self, flow: Flow) -> Policy | None:
        """The policy for a packet on its way out; None means DISCARD."""
        if flow in self._outbound:
            return self._outbound[flow]
        matches = (p for p in self.policies if covers_outbound(p.local, p.remote, flow))
        return _remember(self._outbound, flow, next(matches, None))

    def inbound(self, flow: Flow) -> Policy | None:
        """The policy for a packet that arrived without protection; None means DISCARD."""
        if flow in self._inbound:
            return self._inbound[flow]
        matches = (p for p in self.policies if covers_inbound(p.local, p.remote, flow))
        return _remember(self._inbound, flow, next(matches, None))


def _remember(cache: dict[Flow, Policy | None], flow: Flow, policy: Policy | None) -> Policy | None:
    if len(cache) >= FLOW_CACHE_LIMIT:
        cache.clear()
    cache[flow] = policy
    return policy
