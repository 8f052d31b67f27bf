"""What a topology file says of a node's SPD beyond its connections (RFC 4301 section 4.4.1)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ipseclab.ipsec.spd import Action, Direction, Policy, SpdSettings
from ipseclab.lab.access import ANYWHERE
from ipseclab.lab.model import NetworkSelector
from ipseclab.lab.schema_types import Selectors, Strict
from ipseclab.wire.selector import TrafficSelector

MOST_ENTRIES = 10_000
"""The SPD's index is made for as many."""


class EntryFile(Strict):
    """An entry that protects nothing: traffic between `local` and `remote`, by default any."""

    action: Literal["bypass", "discard"]
    direction: Literal["both", "outbound", "inbound"] = "both"
    """SPD-O, SPD-I, or both; inbound it is about packets that came without protection."""
    local: Selectors | None = None
    remote: Selectors | None = None

    @model_validator(mode="after")
    def _one_ip(self) -> Self:
        versions = [
            {one.network.version for one in ends} for ends in (self.local, self.remote) if ends
        ]
        if len(versions) == 2 and not versions[0] & versions[1]:
            raise ValueError("local and remote have no IP in common, expected the same of both")
        return self


class SpdFile(Strict):
    """Of a node with our stack: entries before those of its connections, and what is by default."""

    entries: Annotated[list[EntryFile], Field(max_length=MOST_ENTRIES)] = []
    outbound_default: Literal["bypass", "discard"] = "discard"
    """What becomes of a packet to the unprotected side that no entry matches."""
    inbound_default: Literal["bypass", "discard"] = "discard"
    """The same for packets that come from there without protection."""
    stateful_fragments: bool = False
    """Whether later fragments go by the ports of their first one (RFC 4301 section 7.3)."""
    icmp_errors: bool = False
    """Whether ICMP errors go the way of what they are about (RFC 4301 section 6.2)."""

    def settings(self) -> SpdSettings:
        """What the stack is told."""
        return SpdSettings(
            entries=tuple(_policy(index, entry) for index, entry in enumerate(self.entries)),
            outbound_default=Action(self.outbound_default),
            inbound_default=Action(self.inbound_default),
            stateful_fragments=self.stateful_fragments,
            icmp_errors=self.icmp_errors,
        )


def _policy(index: int, entry: EntryFile) -> Policy:
    """No connection has a name like that, so that it cannot be taken for one's."""
    local, remote = _selectors(entry.local), _selectors(entry.remote)
    direction = Direction(entry.direction)
    return Policy(f"spd.entries[{index}]", Action(entry.action), local, remote, direction=direction)


def _selectors(stated: list[NetworkSelector] | None) -> tuple[TrafficSelector, ...]:
    if stated is None:
        return tuple(TrafficSelector.of_network(network) for network in ANYWHERE.values())
    return tuple(one.traffic_selector for one in stated)
