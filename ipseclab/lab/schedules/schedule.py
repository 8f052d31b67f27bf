"""A schedule: what gateways are told at which moment, and what befalls each message; drawn by seed.

`run` carries one out from a fresh set-up through a calm end to the closing of everything, under the
invariants. It depends on the schedule alone, so that one which fails fails again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ipseclab.lab.schedules.invariants import Violation, Watch, busy, check_agreement, check_empty
from ipseclab.lab.schedules.parties import (
    HALF_OPEN_TIMEOUT,
    LIVENESS,
    NAMES,
    Chain,
    Terms,
    chain,
    connection_between,
    links,
    packet,
)
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
MOST_CLOSINGS = 40

_WEIGHTS = {
    "rekey_child": 6,
    "rekey_ike": 6,
    "traffic": 4,
    "create_child": 3,
    "delete_child": 3,
    "check_liveness": 2,
    "initiate": 2,
    "delete_ike": 2,
    "restart": 1,
}
_MOVE = "move"
"""The address change: the first gateway's NAT forgets its mappings."""
_HARMLESS = ("rekey_child", "rekey_ike", "create_child", "check_liveness", "traffic", "initiate")
"""Actions after which no packet may be missing, as long as no packet is lost on the way."""


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
    actions: tuple[Action, ...]
    mishaps: tuple[Mishap, ...]

    def lines(self) -> list[str]:
        """For people: what is done, then what befalls messages."""
        where = ", a behind a NAT" if self.terms.nat else ""
        where += f", windows of {self.terms.window}" if self.terms.window > 1 else ""
        where += ", contrary groups" if self.terms.contrary else ""
        where += ", two key exchanges" if self.terms.further else ""
        start = "connected" if self.connected else "not connected"
        head = f"{self.gateways} gateways, {start}{where}, {self.delay * 1e3:g} ms one way"
        acts = [
            f"{act.at:>10.4f} s  {NAMES[act.gateway]} {act.what} (to {NAMES[act.peer]})"
            for act in self.actions
        ]
        return [head, *acts, *(_mishap_line(mishap) for mishap in self.mishaps)]


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
    count = 3 if rng.random() < 0.12 else 2
    nat = rng.random() < 0.2
    delay = rng.choice((0.001, 0.01, 0.05, 0.15))
    span = rng.choice((2.0 * delay, 8.0 * delay, 1.0, 8.0, 30.0))
    weights = {**_WEIGHTS, **({_MOVE: 3} if nat else {})}
    if rng.random() < 0.4:
        weights = {what: weights[what] for what in _HARMLESS}
    actions = tuple(
        sorted(_draw_action(rng, count, span, weights) for _ in range(rng.randint(2, 7)))
    )
    return Schedule(
        seed=seed,
        gateways=count,
        delay=delay,
        connected=rng.random() < 0.85,
        actions=actions,
        mishaps=_draw_mishaps(rng, count, delay),
        terms=Terms(
            nat=nat,
            window=rng.choice((1, 1, 1, 4)),
            contrary=rng.random() < 0.15,
            further=rng.random() < 0.15,
        ),
    )


def _draw_action(rng: random.Random, count: int, span: float, weights: dict[str, int]) -> Action:
    (what,) = rng.choices(list(weights), list(weights.values()))
    ends = rng.choice(links(count))
    side = rng.randrange(2)
    if what == _MOVE:
        ends, side = (0, 1), 0
    return Action(round(rng.uniform(0.0, span), 4), ends[side], ends[1 - side], what)


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
    """Carry a schedule out. Bugs show as exceptions, broken invariants in the outcome."""
    watch = Watch()
    runner = _Run(schedule, watch, trace)
    try:
        runner.all()
    except Violation as violation:
        return Outcome(schedule, violation.invariant, violation.problem, runner.messages)
    return Outcome(schedule, messages=runner.messages)


class _Run:
    """One schedule under way."""

    def __init__(self, schedule: Schedule, watch: Watch, trace: Trace | None) -> None:
        configs: Chain = chain(schedule.gateways, schedule.terms)
        self._schedule = schedule
        self._watch = watch
        self._world = World(
            configs,
            seed=schedule.seed,
            delay=schedule.delay,
            observer=watch,
            nat=schedule.terms.nat,
            trace=trace,
        )
        self._ends = links(schedule.gateways)
        self._mishaps = {(m.sender, m.kind, m.number): m.copies for m in schedule.mishaps}
        self._packets = 0
        self.messages = 0

    def all(self) -> None:
        """Set up, stir, rest, use, close."""
        if self._schedule.connected:
            for left, right in self._ends:
                self._world.do(left, "initiate", connection_between(left, right))
            # IKE_SA_INIT twice, a further key exchange, IKE_AUTH, SET_WINDOW_SIZE.
            self._world.run(12.0 * self._schedule.delay)
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
        lossless = all(m.kind == "ike" for m in self._schedule.mishaps)
        harmless = all(action.what in _HARMLESS for action in self._schedule.actions)
        self._all_must_arrive = self._schedule.connected and lossless and harmless

    def _fate(self, parcel: Parcel) -> Sequence[float]:
        self.messages += parcel.kind == "ike"
        return self._mishaps.get((parcel.sender, parcel.kind, parcel.number), (0.0,))

    def _act(self, action: Action) -> None:
        world = self._world
        if action.what == _MOVE:
            world.rebind()
        elif action.what == "restart":
            world.restart(action.gateway)
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
        self._settle()
        world.run(LIVENESS + GIVEN_UP + 10.0 * self._schedule.delay)
        self._settle()
        check_agreement(world.gateways)
        watch = self._watch
        if self._all_must_arrive and not watch.unusual_endings:
            lost = self._packets - len(watch.delivered_numbers)
            if lost:
                raise Violation("loss", f"{lost} of {self._packets} packets lost")

    def _settle(self) -> None:
        """Let time pass until nothing is under way. A liveness check may just be: look again."""
        world = self._world
        end = world.now + LONGEST_UNREST
        while what := busy(world.gateways):
            if world.now >= end:
                raise Violation("rest", f"after {LONGEST_UNREST:g} s of calm {what}")
            world.run(PATIENCE_STEP)
        if world.under_way("ike"):
            world.run(2.0 * self._schedule.delay)

    def _use(self) -> None:
        """Every connection works again, in both directions."""
        world = self._world
        for left, right in self._ends:
            for source, destination in ((left, right), (right, left)):
                number = self._send(source, destination)
                world.run(GIVEN_UP)
                if self._watch.delivered_numbers.get(number) != destination:
                    ends = f"{NAMES[source]} to {NAMES[destination]}"
                    raise Violation("recovery", f"a packet from {ends} does not arrive")
        self._settle()
        check_agreement(world.gateways)

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
