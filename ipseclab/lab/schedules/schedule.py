"""A schedule: what gateways are told at which moment, and what befalls each message; drawn by seed.

`run` carries one out from a fresh set-up through a calm end to the closing of everything, under the
invariants. It depends on the schedule alone, so that one which fails fails again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ipseclab.lab.schedules.invariants import Violation, Watch, busy, check_agreement, check_empty
from ipseclab.lab.schedules.parties import (
    HALF_OPEN_TIMEOUT,
    LIVENESS,
    NAMES,
    RETRANSMISSION,
    Limits,
    Terms,
    chain,
    connection_between,
    links,
    packet,
)
from ipseclab.lab.schedules.prepared import Prepared
from ipseclab.lab.schedules.world import Parcel, World
from ipseclab.lab.trace import Trace

GIVEN_UP = 13.5
"""A little more than `parties.RETRANSMISSION` takes to give up."""
LONGEST_UNREST = 400.0
"""Seconds of calm after which nothing may be under way any more: TEMPORARY_FAILURE is put up with
for minutes."""
PATIENCE_STEP = 5.0
BURST = 4
"""Packets of one traffic action."""
RENEWED = 16.0
"""Seconds of calm after which every SA with a lifetime was rekeyed in time: a CHILD_SA's."""
MOST_CLOSINGS = 40
SET_UP_SEED = 1
"""Of what there is before anything happens: the same for all schedules."""
MOST_PREPARED = 2000
"""Set-ups that are kept, some 20 KB each."""

_WEIGHTS = {
    "rekey_child": 6,
    "rekey_ike": 6,
    "traffic": 3,
    "create_child": 3,
    "delete_child": 3,
    "reauthenticate": 2,
    "check_liveness": 2,
    "initiate": 2,
    "delete_ike": 2,
    "restart": 1,
}
_PACKET = "packet"
"""A single one, on its way while something else happens."""
_MOVE = "move"
"""The address change: the first gateway's NAT forgets its mappings."""
_ROAM = "roam"
"""The other address change, of an end with MOBIKE: by the initiator or the responder."""
_HARMLESS = (
    *("rekey_child", "rekey_ike", "create_child", "reauthenticate", "check_liveness"),
    *("traffic", "initiate", _PACKET),
)
"""Actions after which no packet may be missing, as long as no packet is lost on the way."""
_UNPREDICTABLE = ("restart", _MOVE, _ROAM)
"""Actions after which a peer may be given up although few messages were lost."""
_BEGINNING = ("initiate", "reauthenticate", "traffic", _PACKET)
"""Actions that set up an IKE_SA, those with packets where there is none."""
LINGER = 4.0
"""Seconds that a packet may be late although its SA has been rekeyed: a little less than
`ConnectionConfig.rekey_linger`."""
LATE = 0.4
"""Seconds from which on a message may be asked for again: the first time that a request is sent is
as good as lost."""
LIKELY, SELDOM = 0.3, 0.12
"""Chances of what a schedule may have beyond the plain case."""


class Action(NamedTuple):
    """`gateway` is told to do `what` with the connection to `peer`, `at` seconds from the start."""

    at: float
    gateway: int
    peer: int
    what: str


class Mishap(NamedTuple):
    """What befalls the message `number` of that kind from that sender: the extra delay of each copy
    that arrives."""

    sender: int
    kind: str
    number: int
    copies: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that decides what happens."""

    seed: int
    gateways: int
    terms: Terms
    delay: float
    connected: bool
    """Whether the connections stand at the start."""
    children: int
    """CHILD_SAs of each connection then."""
    actions: tuple[Action, ...]
    mishaps: tuple[Mishap, ...]

    def lines(self) -> list[str]:
        """For people: what is done, then what befalls messages."""
        where = "".join(f", {what}" for what in _described(self.terms, self.children))
        start = "connected" if self.connected else "not connected"
        head = f"{self.gateways} gateways, {start}{where}, {self.delay * 1e3:g} ms one way"
        acts = [
            f"{act.at:>10.4f} s  {NAMES[act.gateway]} {act.what} (to {NAMES[act.peer]})"
            for act in self.actions
        ]
        return [head, *acts, *(_mishap_line(mishap) for mishap in self.mishaps)]


def _described(terms: Terms, children: int) -> list[str]:
    """What is not as it mostly is."""
    return [
        text
        for there, text in (
            (children > 1, f"{children} CHILD_SAs"),
            (terms.nat, "a behind a NAT"),
            (terms.mobike, "MOBIKE"),
            (terms.window > 1, f"windows of {terms.window}"),
            (terms.contrary, "contrary groups"),
            (terms.further, "two key exchanges"),
            (terms.limits is not Limits.NONE, f"limits in {terms.limits.name.lower()}"),
            (terms.fragments, "fragments"),
            (terms.resumption, "resumption"),
            (not terms.initial_contact, "no INITIAL_CONTACT"),
        )
        if there
    ]


def _mishap_line(mishap: Mishap) -> str:
    which = f"{mishap.kind} message {mishap.number} of {NAMES[mishap.sender]}"
    if not mishap.copies:
        return f"{which} is lost"
    times = " and ".join(f"{extra:.4f} s" for extra in mishap.copies)
    return f"{which} comes {times} late"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a schedule: `problem` is empty when all was well."""

    schedule: Schedule
    invariant: str = ""
    problem: str = ""
    messages: int = 0


# Drawing.


def draw(seed: int) -> Schedule:
    """The schedule of that seed."""
    rng = random.Random(f"schedule {seed}")
    count = 3 if rng.random() < SELDOM else 2
    terms = _draw_terms(rng)
    delay = rng.choice((0.001, 0.01, 0.05, 0.15))
    weights = dict(_WEIGHTS)
    if rng.random() < 0.4:
        weights = {what: weight for what, weight in weights.items() if what in _HARMLESS}
    elif terms.nat:
        weights[_MOVE] = 5
    elif terms.mobike:
        weights[_ROAM] = 8
    return Schedule(
        seed=seed,
        gateways=count,
        delay=delay,
        connected=rng.random() < 0.9,
        children=rng.choice((2, 3)) if rng.random() < SELDOM else 1,
        actions=_draw_actions(rng, count, delay, weights),
        mishaps=_draw_mishaps(rng, count, delay),
        terms=terms,
    )


def _draw_terms(rng: random.Random) -> Terms:
    """Mostly plain, else with a few of all that connections may have."""
    if rng.random() < LIKELY:
        return Terms()
    return Terms(
        nat=rng.random() < 0.15,
        window=4 if rng.random() < 0.25 else 1,
        contrary=rng.random() < SELDOM,
        further=rng.random() < SELDOM,
        limits=rng.choice(list(Limits)) if rng.random() < SELDOM else Limits.NONE,
        fragments=rng.random() < SELDOM,
        mobike=rng.random() < 0.25,
        resumption=rng.random() < 0.2,
        initial_contact=rng.random() >= 0.2,
    )


def _draw_actions(
    rng: random.Random, count: int, delay: float, weights: dict[str, int]
) -> tuple[Action, ...]:
    """Mostly within a round trip of each other, as what goes wrong is what overlaps; a part of them
    at both ends of a connection, a part with packets all the while."""
    span = rng.choice((2.0 * delay, 8.0 * delay, 8.0 * delay, 1.0, 6.0, 20.0))
    moments = [rng.uniform(0.0, span) for _ in range(rng.choice((1, 1, 2)))]
    dense = rng.random() < 0.6
    found: list[Action] = []
    for _ in range(rng.randint(2, 6)):
        at = rng.choice(moments) if dense else rng.uniform(0.0, span)
        action = _draw_action(rng, count, at + rng.uniform(0.0, 2.5 * delay), weights)
        found.append(action)
        if rng.random() < 0.25:
            again = round(action.at + rng.uniform(0.0, 2.0 * delay), 4)
            found.append(Action(again, action.peer, action.gateway, action.what))
    if rng.random() < LIKELY:
        for _ in range(rng.randint(4, 14)):
            at = rng.choice(found).at + rng.uniform(0.0, 7.0 * delay)
            left, right = rng.choice(links(count))
            ends = (left, right) if rng.random() < 0.5 else (right, left)
            found.append(Action(round(at, 4), *ends, _PACKET))
    return tuple(sorted(found))


def _draw_action(rng: random.Random, count: int, at: float, weights: dict[str, int]) -> Action:
    (what,) = rng.choices(list(weights), list(weights.values()))
    ends = rng.choice(links(count))
    side = rng.randrange(2)
    if what == _MOVE:
        ends, side = (0, 1), 0
    return Action(round(at, 4), ends[side], ends[1 - side], what)


def _draw_mishaps(rng: random.Random, count: int, delay: float) -> tuple[Mishap, ...]:
    """For each of a sender's first messages whether it is lost, late, or doubled."""
    rate = rng.choice((0.0, 0.08, 0.2, 0.4))
    latest = rng.choice((2.0 * delay, 4.0 * delay, 0.6, 3.0, 12.0))
    harmed = ("ike",) if rng.random() < 0.6 else ("ike", "esp")
    found: list[Mishap] = []
    for sender in range(count):
        for kind in harmed:
            for number in range(24):
                if rng.random() < rate:
                    found.append(Mishap(sender, kind, number, _draw_copies(rng, latest)))
    return tuple(found)


def _draw_copies(rng: random.Random, latest: float) -> tuple[float, ...]:
    fate = rng.random()
    if fate < 0.4:
        return ()
    if fate < 0.75:
        return (round(rng.uniform(0.0, latest), 4),)
    return (0.0, round(rng.uniform(0.0, latest), 4))


# Running.


def run(schedule: Schedule, *, trace: Trace | None = None) -> Outcome:
    """Carry a schedule out. Bugs show as exceptions, broken invariants in the outcome.

    With a `trace` it has the set-up in it; without, the set-up is that of an earlier schedule.
    """
    start = _Start(schedule.gateways, schedule.terms, schedule.delay, _children(schedule))
    world = set_up(start, trace) if trace is not None else _prepared(start).copy()
    world.reseed(schedule.seed)
    runner = _Run(schedule, world)
    try:
        runner.all()
    except Violation as violation:
        return Outcome(schedule, violation.invariant, violation.problem, runner.messages)
    return Outcome(schedule, messages=runner.messages)


def _children(schedule: Schedule) -> int:
    return schedule.children if schedule.connected else 0


class _Start(NamedTuple):
    """What a set-up depends on."""

    gateways: int
    terms: Terms
    delay: float
    children: int
    """CHILD_SAs of each connection; 0: no IKE_SA either."""


@lru_cache(MOST_PREPARED)
def _prepared(start: _Start) -> Prepared:
    return Prepared(set_up(start))


def set_up(start: _Start, trace: Trace | None = None) -> World:
    """Gateways before anything happens."""
    world = World(
        chain(start.gateways, start.terms),
        seed=SET_UP_SEED,
        delay=start.delay,
        observer=Watch(start.terms.window),
        nat=start.terms.nat,
        trace=trace,
    )
    ends = links(start.gateways)
    if start.children:
        for left, right in ends:
            world.do(left, "initiate", connection_between(left, right))
        # IKE_SA_INIT twice, a further key exchange, IKE_AUTH, SET_WINDOW_SIZE.
        world.run(12.0 * start.delay)
    for _ in range(1, start.children):
        for left, right in ends:
            world.do(left, "create_child", connection_between(left, right))
        world.run(6.0 * start.delay)
    return world


class _Run:
    """One schedule under way."""

    def __init__(self, schedule: Schedule, world: World) -> None:
        assert isinstance(world.observer, Watch)
        self._schedule = schedule
        self._world = world
        self._watch = world.observer
        self._ends = links(schedule.gateways)
        self._mishaps = {(m.sender, m.kind, m.number): m.copies for m in schedule.mishaps}
        self._packets = 0
        self.messages = 0

    def all(self) -> None:
        """Stir, rest, use, close."""
        self._stir()
        self._rest()
        self._use()
        self._close()

    def _stir(self) -> None:
        world = self._world
        world.count_anew()
        world.fate = self._fate
        start = world.now
        for action in self._schedule.actions:
            world.run_until(start + action.at)
            self._act(action)
        last = max((max(m.copies, default=0.0) for m in self._schedule.mishaps), default=0.0)
        world.run(last + 20.0 * self._schedule.delay)

    def _must_all_arrive(self) -> bool:
        """Whether every packet has to come out."""
        schedule = self._schedule
        lossless = all(
            m.kind == "ike" or min(m.copies, default=LINGER) < LINGER for m in schedule.mishaps
        )
        harmless = all(action.what in _HARMLESS for action in schedule.actions)
        if not (schedule.connected and lossless and harmless):
            return False
        return schedule.terms.limits is Limits.NONE and not self._watch.unusual_endings

    def _may_give_up(self) -> bool:
        """Whether a request may have stayed without an answer for all its repetitions."""
        schedule = self._schedule
        harmed = [
            m for m in schedule.mishaps if m.kind == "ike" and min(m.copies, default=9) > LATE
        ]
        done = {action.what for action in schedule.actions}
        if not done.isdisjoint(_UNPREDICTABLE):
            return True
        if "delete_ike" in done and not done.isdisjoint(_BEGINNING):
            # INITIAL_CONTACT of the next IKE_SA ends what waits for the answer to its DELETE.
            return True
        return len(harmed) > RETRANSMISSION.tries

    def _fate(self, parcel: Parcel) -> Sequence[float]:
        self.messages += parcel.kind == "ike"
        return self._mishaps.get((parcel.sender, parcel.kind, parcel.number), (0.0,))

    def _act(self, action: Action) -> None:
        world = self._world
        if action.what == _MOVE:
            world.rebind()
        elif action.what == _ROAM:
            world.roam(action.gateway)
        elif action.what == "restart":
            world.restart(action.gateway)
        elif action.what == _PACKET:
            self._send(action.gateway, action.peer)
        elif action.what == "traffic":
            for _ in range(BURST):
                self._send(action.gateway, action.peer)
        else:
            name = connection_between(action.gateway, action.peer)
            world.do(action.gateway, action.what, name)

    def _send(self, source: int, destination: int) -> int:
        number = self._packets
        self._packets += 1
        self._world.do(source, "send_packet", packet(source, destination, number))
        return number

    def _rest(self) -> None:
        """The network is calm from now on: everything comes to rest, also what only a liveness
        check finds out."""
        world = self._world
        world.fate = lambda parcel: (0.0,)
        calm = world.now
        world.run_until(world.last_arrival)
        self._settle()
        if self._is_stale():
            world.run(LIVENESS + GIVEN_UP + 10.0 * self._schedule.delay)
            self._settle()
        self._watch.check_rest(world)
        watch = self._watch
        if watch.given_up and not self._may_give_up():
            raise Violation("given up", f"{watch.given_up} has given its peer up after few losses")
        self._check_survival()
        if watch.expired_at > calm + RENEWED:
            raise Violation("expired", "a CHILD_SA was not rekeyed before its end")
        if self._must_all_arrive():
            lost = self._packets - len(watch.delivered_numbers)
            if lost:
                raise Violation("loss", f"{lost} of {self._packets} packets lost")

    def _check_survival(self) -> None:
        """Where nobody wanted an end, and hardly a message was lost, the connections stand. A burst
        of packets may take an SA past a limit of packets or octets before it can be rekeyed."""
        if self._schedule.terms.limits in (Limits.PACKETS, Limits.OCTETS):
            return
        harmless = all(action.what in _HARMLESS for action in self._schedule.actions)
        if not (self._schedule.connected and harmless) or self._may_give_up():
            return
        for ends in self._ends:
            for end in ends:
                ike = self._world.gateways[end].ike
                name = connection_between(*ends)
                if not any(child.connection.name == name for child in ike.child_sas):
                    raise Violation("survival", f"{NAMES[end]} has nothing left of {name}")

    def _is_stale(self) -> bool:
        """Whether the ends differ in what a liveness check would show: an SA or an address."""
        try:
            check_agreement(self._world.gateways)
        except Violation:
            return True
        limited = self._schedule.terms.limits is not Limits.NONE
        return limited or any(act.what in _UNPREDICTABLE for act in self._schedule.actions)

    def _settle(self) -> None:
        """Let time pass until nothing is under way. A liveness check may just be: look again."""
        world = self._world
        end = world.now + LONGEST_UNREST
        while (what := busy(world.gateways)) or world.under_way("ike"):
            if world.now >= end:
                raise Violation("rest", f"after {LONGEST_UNREST:g} s of calm {what}")
            world.run(PATIENCE_STEP if what else 2.0 * self._schedule.delay)

    def _use(self) -> None:
        """Every connection works again, in both directions."""
        world = self._world
        for left, right in self._ends:
            for source, destination in ((left, right), (right, left)):
                self._pass(source, destination)
        self._settle()
        self._watch.check_rest(world)

    def _pass(self, source: int, destination: int) -> None:
        """A packet arrives, soon where there are SAs. Where there are none a second one may be
        needed, as the first may have asked for an SA just when there was no having one."""
        world, delivered = self._world, self._watch.delivered_numbers
        for patience in (1.5 * self._schedule.delay, GIVEN_UP, GIVEN_UP):
            number = self._send(source, destination)
            world.run(patience)
            if delivered.get(number) == destination:
                return
        ends = f"{NAMES[source]} to {NAMES[destination]}"
        raise Violation("recovery", f"a packet from {ends} does not arrive")

    def _close(self) -> None:
        """Close all that there is, from either end; nothing may be left."""
        world = self._world
        closer: Callable[[tuple[int, int]], int] = max if self._schedule.seed % 2 else min
        for _ in range(MOST_CLOSINGS):
            open_ends = [ends for ends in self._ends if world.gateways[closer(ends)].ike.ike_sas]
            if not open_ends:
                break
            for ends in open_ends:
                world.do(closer(ends), "delete_ike", connection_between(*ends))
            world.run(5.0 * self._schedule.delay)
        world.run(GIVEN_UP + HALF_OPEN_TIMEOUT)
        check_empty(world.gateways)
