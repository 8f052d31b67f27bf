"""What a cell of the interop matrix is: a tunnel's life, its steps, and what must show in it.

A tunnel is one lab with one connection between our gateway and strongSwan's. Each of its steps is a
cell with a verdict of its own, and so is each proof: something that the trace, or strongSwan's log,
must say of the feature that the tunnel is there for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache

from ipseclab.lab.topology import Topology, load_topology


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a tunnel is laid: a topology, the connection and its ends, the hosts behind them."""

    topology: str
    connection: str
    initiator: str
    responder: str
    hosts: tuple[str, str]
    both_ways: bool = True
    """Whether the second host reaches the first by the address that the topology has for it."""


SITES = Ground("strongswan-peer", "site", "gw1", "gw2", ("h1", "h2"))
NAT = Ground("strongswan-peer-nat", "site", "gw1", "gw2", ("h1", "h2"))
POOL = Ground("remote-access-pool", "bob", "bob", "gate", ("bob", "server"), both_ways=False)
"""The initiator has its inner address from the responder."""
ROAMING = Ground("roaming", "site", "gw1", "gw2", ("h1", "h2"))
"""The initiator has two links to the Internet, `wifi` and `mobile`."""


class End(StrEnum):
    """Whose gateway."""

    WE = "us"
    IT = "it"

    @property
    def other(self) -> End:
        """The other one."""
        return End.IT if self is End.WE else End.WE


class Outcome(Enum):
    """What both ends must have after a step."""

    PAIR = "one IKE_SA with one CHILD_SA"
    NO_CHILD = "one IKE_SA without a CHILD_SA"
    NOTHING = "nothing"
    UNFINISHED = "whatever it is"
    """Of a step that only prepares the next."""


class Change(Enum):
    """What a step does to an SA that was there before it."""

    NEW = "a new one"
    KEPT = "the same one"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a kind of step leads to."""

    outcome: Outcome
    ike: Change = Change.ANY
    child: Change = Change.ANY
    moved: bool = False
    """Whether one end must see another address of the other."""


EFFECTS: Mapping[str, Effect] = {
    "initiate": Effect(Outcome.PAIR),
    "rekey_child": Effect(Outcome.PAIR, Change.KEPT, Change.NEW),
    "rekey_ike": Effect(Outcome.PAIR, Change.NEW, Change.KEPT),
    "reauthenticate": Effect(Outcome.PAIR, Change.NEW, Change.NEW),
    "delete_child": Effect(Outcome.NO_CHILD, Change.KEPT),
    "delete_ike": Effect(Outcome.NOTHING),
    "liveness": Effect(Outcome.PAIR, Change.KEPT, Change.KEPT),
    "move": Effect(Outcome.PAIR, Change.KEPT, Change.NEW, moved=True),
    "prepare": Effect(Outcome.UNFINISHED),
}
"""By action. kernel-libipsec cannot move an SA, so charon rekeys it after a move; `prepare` begins
a connection whose end does not matter."""

TITLES: Mapping[str, str] = {
    "initiate": "set-up",
    "rekey_child": "CHILD_SA rekey",
    "rekey_ike": "IKE_SA rekey",
    "reauthenticate": "reauthentication",
    "delete_child": "CHILD_SA delete",
    "delete_ike": "IKE_SA delete",
    "liveness": "liveness check",
    "move": "change of address",
    "prepare": "preparation",
}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that one end is told to do. `transfers`: TCP both ways after it, not pings alone.

    `again`: what its title says of it, where the action and who does it are not enough.
    """

    action: str
    by: End
    connection: str = ""
    """By default the tunnel's."""
    transfers: bool = False
    again: str = ""
    link: str = ""
    """Of a move: where the address changes ..."""
    address: str | None = None
    """... and to what; None: it goes."""

    @property
    def effect(self) -> Effect:
        """What it leads to."""
        return EFFECTS[self.action]

    @property
    def title(self) -> str:
        """In the table."""
        if self.again or self.action == "initiate":
            return f"{TITLES[self.action]}{self.again}"
        return f"{TITLES[self.action]} by {self.by}"


@dataclass(frozen=True, slots=True)
class Traced:
    """A proof: our gateway's trace has such an event (with more of `more_than` in one field)."""

    title: str
    event: str
    fields: tuple[tuple[str, object], ...] = ()
    more_than: tuple[str, int] | None = None
    """A field, and what it must exceed."""


@dataclass(frozen=True, slots=True)
class Logged:
    """A proof: strongSwan's log has a line with that pattern."""

    title: str
    pattern: str

    def found(self, log: str) -> str | None:
        """The first such line."""
        match = re.search(rf"^.*(?:{self.pattern}).*$", log, re.MULTILINE)
        return match[0].strip() if match is not None else None


Proof = Traced | Logged


@dataclass(frozen=True, slots=True)
class Lacking:
    """strongSwan cannot do it: why, and how that is established.

    With `log` the tunnel is run all the same, and must fail with such a line in strongSwan's log.
    Otherwise `why` is what its documentation says.
    """

    why: str
    log: str = ""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One life of a tunnel: what is set in it, who begins, what is done in it."""

    topic: str
    name: str
    initiator: End
    steps: tuple[Step, ...]
    ground: Ground = SITES
    settings: tuple[tuple[str, object], ...] = ()
    """Overrides of the topology."""
    daemon: tuple[tuple[str, str], ...] = ()
    """Settings of strongswan.conf's section charon."""
    cookies: bool = False
    """Whether our gateway demands a COOKIE of everyone."""
    proofs: tuple[Proof, ...] = ()
    lacking: Lacking | None = None
    algorithms: tuple[tuple[str, str], ...] = ()
    """What strongSwan must have for it: kinds and names of `swanctl --list-algs`."""
    quick: bool = False

    @property
    def title(self) -> str:
        """Unique in the matrix."""
        begins = "we initiate" if self.initiator is End.WE else "it initiates"
        return f"{self.name}, {begins}{', NAT' if self.ground is NAT else ''}"

    @property
    def identifier(self) -> str:
        """A name for a folder."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.topic} {self.title}".lower()).strip("-")

    @property
    def cells(self) -> tuple[str, ...]:
        """The titles of its cells, in order."""
        return (*(step.title for step in self.steps), *(proof.title for proof in self.proofs))

    def node_of(self, end: End) -> str:
        """The gateway of that end."""
        ground = self.ground
        return ground.initiator if end is self.initiator else ground.responder

    def topology(self) -> Topology:
        """The lab of it. Raises ConfigError for settings that the topology does not take."""
        stacks = {
            f"nodes.{self.node_of(End.WE)}.stack": "ipseclab",
            f"nodes.{self.node_of(End.IT)}.stack": "strongswan",
        }
        return _base(self.ground.topology).with_overrides({**stacks, **dict(self.settings)})


@cache
def _base(name: str) -> Topology:
    return load_topology(name)
