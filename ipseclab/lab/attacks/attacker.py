"""The attacker: packets in, packets out, by the rules of its attacks; without I/O, as a NAT is.

The world hands in each packet that it would forward, and forwards what comes back. A packet goes
through the attacks in their order, each judging it as it came in; what an attack adds is not
subject to the others. What is random is drawn from (seed, attacker, attack), a number for each
packet that an attack picks, so that it is the same in every world.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from heapq import heappop, heappush
from typing import NamedTuple

from ipseclab.errors import IpsecLabError, WireError
from ipseclab.lab.attacks.attack import Attack
from ipseclab.lab.attacks.rule import Overtaken, Rule, Tally
from ipseclab.lab.attacks.sight import Sight, clear_octets, look
from ipseclab.outputs import Notice

MOST_HELD = 4096
"""Packets of one attacker that wait for their time or for later ones; more are lost."""


class AttackerDrop(Enum):
    """Why an attacker did not pass a packet on though no attack stopped it; the reason in
    `attacker_dropped`. All but the first two are for the world to find."""

    MALFORMED = "malformed"
    HELD_FULL = "held_full"
    TTL_EXPIRED = "ttl_expired"
    OWN_ADDRESS = "own_address"
    NO_ROUTE = "no_route"
    NOT_SENT = "not_sent"


class AttackResult(NamedTuple):
    """What the world forwards, in this order, and what it writes into the trace."""

    packets: tuple[bytes, ...] = ()
    notices: tuple[Notice, ...] = ()


class _Held(NamedTuple):
    """A packet for later, and the notice for when it goes."""

    at: float
    order: int
    packet: bytes
    notice: Notice


@dataclass(slots=True)
class _Passage:
    """A packet on its way through the attacks: what it has become (None: it goes no further now),
    what goes with it, and what there is to say."""

    packet: bytes | None
    added: list[bytes] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


class Attacker:
    """One attacker; of `attacks`, those of all, it does its own."""

    def __init__(self, name: str, attacks: Iterable[Attack], *, seed: int) -> None:
        self.name = name
        self._rules = tuple(Rule(attack, seed) for attack in attacks if attack.node == name)
        self._began: float | None = None
        self._heap: list[_Held] = []
        self._order = 0

    def begin(self, now: float) -> None:
        """The run starts now; until then everything passes."""
        self._began = now

    def tallies(self) -> tuple[Tally, ...]:
        """What came of each attack so far."""
        return tuple(rule.tally() for rule in self._rules)

    def next_deadline(self) -> float | None:
        """When `release` has something to do."""
        return self._heap[0].at if self._heap else None

    def receive(self, packet: bytes, link: str, now: float) -> AttackResult:
        """A packet has come by `link`."""
        if self._began is None:
            return AttackResult((packet,))
        try:
            sight = look(packet)
        except WireError:
            return AttackResult((), (_lost(AttackerDrop.MALFORMED, packet),))
        elapsed = now - self._began
        passage, freed = _Passage(packet), list[Overtaken]()
        about = [rule for rule in self._rules if rule.about(packet, sight, link, elapsed)]
        for rule in about:
            # In order: what an earlier attack has stopped does not come to the later ones.
            if passage.packet is not None and rule.picks():
                self._strike(rule, passage.packet, passage, sight, now)
        if passage.packet is None:
            return AttackResult(tuple(passage.added), tuple(passage.notices))
        for rule in about:
            freed += rule.overtake()
        notices = (*passage.notices, *(held.notice for held in freed))
        packets = (passage.packet, *(held.packet for held in freed), *passage.added)
        return AttackResult(packets, notices)

    def release(self, now: float) -> AttackResult:
        """What was held back until now."""
        due: list[_Held] = []
        while self._heap and self._heap[0].at <= now:
            due.append(heappop(self._heap))
        packets = tuple(held.packet for held in due)
        return AttackResult(packets, tuple(held.notice for held in due))

    def _strike(
        self, rule: Rule, packet: bytes, passage: _Passage, sight: Sight, now: float
    ) -> None:
        """Do an attack to a packet."""
        attack = rule.attack
        match attack.do:
            case "read":
                clear = clear_octets(packet)
                passage.notices.append(rule.notice(packet, sight, clear=clear))
            case "drop":
                passage.packet = None
                passage.notices.append(rule.notice(packet, sight))
            case "alter" | "downgrade":
                passage.packet = rule.changed(packet, _seen_again(packet, sight))
                passage.notices.append(rule.notice(packet, sight))
            case "delay":
                passage.packet = None
                self._hold(now + attack.delay, packet, rule, passage, sight)
            case "replay":
                for number in range(1, attack.times + 1):
                    self._hold(now + number * attack.delay, packet, rule, passage, sight)
            case "reorder":
                passage.packet = None
                if self._has_room(packet, passage):
                    notice = rule.notice(packet, sight)
                    rule.overtaken.append(Overtaken(attack.after, packet, notice))
            case "spoof" | "forge" | "insert":
                for _ in range(attack.times):
                    made = rule.made(packet, _seen_again(packet, sight))
                    passage.added.append(made)
                    passage.notices.append(rule.notice(made, sight))

    def _hold(self, at: float, packet: bytes, rule: Rule, passage: _Passage, sight: Sight) -> None:
        """Keep a packet until `at`."""
        if self._has_room(packet, passage):
            self._order += 1
            heappush(self._heap, _Held(at, self._order, packet, rule.notice(packet, sight)))

    def _has_room(self, packet: bytes, passage: _Passage) -> bool:
        held = len(self._heap) + sum(len(rule.overtaken) for rule in self._rules)
        if held >= MOST_HELD:
            passage.notices.append(_lost(AttackerDrop.HELD_FULL, packet))
        return held < MOST_HELD


class NothingAttacked(IpsecLabError):
    """Attacks that befell no packet: what the run measured is not what was asked for."""

    def __init__(self, idle: Sequence[Tally]) -> None:
        said = "; ".join(
            f"attack {one.attack!r} at {one.node} befell no packet "
            f"({one.met} crossed that it is about)"
            for one in idle
        )
        super().__init__(f"{said}: expected at least one each, or the attack left out")


def require_attacks(tallies: Iterable[Tally]) -> None:
    """Raise NothingAttacked when an attack has picked no packet in the whole run."""
    idle = [tally for tally in tallies if not tally.picked]
    if idle:
        raise NothingAttacked(idle)


def _seen_again(packet: bytes, sight: Sight) -> Sight:
    """A packet as an earlier attack has left it, which may be shorter; as it came where it cannot
    be read any more."""
    try:
        return look(packet)
    except WireError:
        return sight


def _lost(reason: AttackerDrop, packet: bytes) -> Notice:
    return Notice("attacker_dropped", {"reason": reason.value, "octets": len(packet)})
