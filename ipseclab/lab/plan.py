"""What happens in one run, in no world in particular: flows of traffic and actions on a time line.

Times are seconds after the start of the run, sizes octets of payload (above UDP, TCP or the ICMP
header), rates packets a second. Both worlds carry out the same values; when a flow's packets leave
is worked out in `lab.traffic`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

ActionName = Literal[
    "initiate",
    "rekey_child",
    "rekey_ike",
    "delete_child",
    "delete_ike",
    "liveness",
    "keepalive",
    "reauthenticate",
    "redirect",
    "restart",
    "nat_rebind",
    "address_change",
    "link_set",
]
ACTION_NAMES: tuple[str, ...] = get_args(ActionName)
Congestion = Literal["cubic", "newreno"]

ArgumentValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Ping:
    """ICMP echo requests; the destination answers."""

    name: str
    source: str
    destination: str
    start: float = 0.0
    interval: float = 1.0
    count: int = 4
    size: int = 56


@dataclass(frozen=True, slots=True)
class Probe:
    """Numbered UDP datagrams at a constant rate, one way (`traffic.probe_payload`)."""

    name: str
    source: str
    destination: str
    start: float = 0.0
    duration: float = 1.0
    rate: float = 100.0
    size: int = 64


@dataclass(frozen=True, slots=True)
class Transfer:
    """One TCP connection whose source has always more to send, for a time or up to a size."""

    name: str
    source: str
    destination: str
    start: float = 0.0
    duration: float | None = None
    octets: int | None = None
    congestion: Congestion = "cubic"

    def __post_init__(self) -> None:
        if (self.duration is None) == (self.octets is None):
            raise ValueError(f"transfer {self.name}: either a duration or a number of octets")


TrafficFlow = Ping | Probe | Transfer


@dataclass(frozen=True, slots=True)
class Action:
    """Something done at a moment: to a connection at a node, to a NAT, or to a link.

    `node` is the gateway or NAT that acts; `link` a link's name for `link_set`. `arguments`:
    `connection` for the gateway's actions, `address` optional for `nat_rebind`,
    `link` and an optional `address` for `address_change`, impairment keys
    (`loss`, `delay`, ..., and `direction`: `forward` `backward` `both`) for `link_set`.
    """

    at: float
    action: ActionName
    node: str | None = None
    link: str | None = None
    arguments: Mapping[str, ArgumentValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.action == "link_set" and self.link is None:
            raise ValueError("link_set names a link")
        if self.action != "link_set" and self.node is None:
            raise ValueError(f"{self.action} names a node")

    @property
    def target(self) -> str:
        """The node or link that it is done to, as the trace names it."""
        return self.link if self.link is not None else str(self.node)


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Flows and actions of one run, which ends `duration` seconds after its start.

    Gateways initiate by themselves as each connection's `start` in the topology says.
    """

    flows: tuple[TrafficFlow, ...] = ()
    actions: tuple[Action, ...] = ()
    duration: float = 10.0

    def __post_init__(self) -> None:
        names = [flow.name for flow in self.flows]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"two flows of one name: {', '.join(doubled)}")

    def timeline(self) -> tuple[Action, ...]:
        """The actions in the order of their times; those of one moment in the order given."""
        return tuple(sorted(self.actions, key=lambda action: action.at))
