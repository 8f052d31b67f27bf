"""Every order of two exchanges that overlap: what can come of it, and whether the invariants hold.

Each end is told something, either first, and the other at any later moment while messages are under
way, or when all has been delivered. Each message under way may be the next to arrive; one may be
lost, one may arrive twice. When none is under way, time moves to the next deadline; so often as
`late` says it does so although some are, which are late then. That is a graph, walked through
whole.

A gateway depends on what it was given alone, and when. So each state of the walk is a pair of
histories and what is under way, and two orders that give both gateways the same histories are one.
What a gateway does with one more input is found by executing it from its start along its history,
and is remembered.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from ipseclab.gateway import Gateway
from ipseclab.lab.schedules.invariants import (
    Holdings,
    MessageIds,
    Violation,
    busy,
    check_datapath,
    check_memory,
    check_sealed,
    compare,
    holdings,
    ike_message,
)
from ipseclab.lab.schedules.parties import NAMES, Chain, Terms, chain, connection_between, packet
from ipseclab.outputs import DeliverPacket, SendDatagram, SendPacket, UdpPath
from ipseclab.registry import ExchangeType

OPERATIONS = ("rekey_child", "rekey_ike", "create_child", "delete_child", "delete_ike")
CONNECTION = connection_between(0, 1)
LONGEST = 3600.0
"""Seconds after which nothing may be due any more."""
MOST_INPUTS = 400
"""Of one gateway in one order."""
START = 10.0
"""When the first operation begins: the first set-up is over and forgotten what can be."""
FIRST = "first"
JOINT = "+"


class Letter(NamedTuple):
    """A message under way, as its receiver will see it."""

    receiver: int
    path: UdpPath
    octets: bytes


class Input(NamedTuple):
    """One thing given to a gateway: a letter, a wish (`method`), or else its deadline."""

    at: float
    letter: Letter | None = None
    method: str = ""


@dataclass(frozen=True, slots=True)
class Rest:
    """What a gateway has when nothing is due any more."""

    held: Holdings
    busy: str
    text: str


@dataclass(slots=True)
class Life:
    """A gateway after one history: what the last input made it send, and when it is due."""

    parent: Life | None
    last: Input | None
    number: int
    depth: int = 0
    sent: tuple[Letter, ...] = ()
    deadline: float = inf
    rest: Rest | None = None
    following: dict[Input, Life] = field(default_factory=dict)

    def inputs(self) -> list[Input]:
        """The whole history."""
        found: list[Input] = []
        here: Life | None = self
        while here is not None and here.last is not None:
            found.append(here.last)
            here = here.parent
        return found[::-1]


class Player:
    """All lives of one of the two gateways."""

    def __init__(self, index: int, configs: Chain, seed: int) -> None:
        self.index = index
        self.executions = 0
        """How often a gateway was begun anew."""
        self._config = configs[index]
        self._seed = seed
        self._lives = 0
        self._first: tuple[bytes, ...] = ()
        self.origin = self._life(None, None)
        self._begin()

    def _life(self, parent: Life | None, last: Input | None) -> Life:
        self._lives += 1
        return Life(parent, last, self._lives, parent.depth + 1 if parent is not None else 0)

    @property
    def lives(self) -> int:
        """How many different histories were met."""
        return self._lives

    def give(self, life: Life, item: Input) -> Life:
        """The life after one more input. Raises Violation."""
        found = life.following.get(item)
        if found is None:
            if life.depth > MOST_INPUTS:
                raise Violation("rest", f"{NAMES[self.index]} has had {MOST_INPUTS} inputs")
            gateway = self.gateway(life)
            found = self._life(life, item)
            found.sent = self._execute(gateway, item)
            deadline = gateway.next_deadline()
            if deadline is not None:
                found.deadline = max(deadline.at, item.at)
            else:
                found.rest = self._rest(gateway)
            life.following[item] = found
            self._live = found
        return found

    def gateway(self, life: Life) -> Gateway:
        """A gateway that has lived that life: the one at hand, or one begun anew."""
        if self._live is not life:
            self._begin()
            for item in life.inputs():
                self._execute(self._gateway, item)
            self._live = life
        return self._gateway

    def spoil(self) -> None:
        """The gateway at hand was given something beside: the next one is begun anew."""
        self._begin()

    def _begin(self) -> None:
        self.executions += 1
        rng = random.Random(f"{self._seed}/{self.index}")
        self._gateway = Gateway(self._config, rng=rng)
        self._ids = MessageIds(NAMES[self.index])
        self._live = self.origin

    def _execute(self, gateway: Gateway, item: Input) -> tuple[Letter, ...]:
        if item.letter is not None:
            outputs = gateway.receive_datagram(item.letter.path, item.letter.octets, item.at)
        elif item.method:
            outputs = getattr(gateway, item.method)(CONNECTION, item.at)
        else:
            outputs = gateway.handle_timeout(item.at)
        letters: list[Letter] = []
        for output in outputs:
            if isinstance(output, SendDatagram):
                path = UdpPath(output.path.remote, output.path.local)
                letters.append(Letter(1 - self.index, path, output.data))
                self._ids.check(ike_message(path, output.data))
            elif isinstance(output, SendPacket):
                check_sealed(NAMES[self.index], output.packet)
        check_memory(NAMES[self.index], gateway)
        return tuple(letters)

    def _rest(self, gateway: Gateway) -> Rest:
        check_datapath(NAMES[self.index], gateway)
        return Rest(holdings(gateway, CONNECTION), busy([gateway]), self._text(gateway))

    def _text(self, gateway: Gateway) -> str:
        """What there is, said by who began the exchange that made it."""
        own, peer = NAMES[self.index], NAMES[1 - self.index]
        first = self._first
        sas = [
            FIRST if sa.own_spi in first else own if sa.initiator else peer
            for sa in gateway.ike.ike_sas
        ]
        children = [
            FIRST if child.spi_in in first else peer if child.made_by_peer else own
            for child in gateway.ike.child_sas
        ]
        return f"IKE_SA {_counted(sas)}, CHILD_SA {_counted(children)}"

    def remember_first(self, life: Life) -> None:
        """What there is in `life` is what the first set-up made."""
        ike = self.gateway(life).ike
        self._first = (
            *(sa.own_spi for sa in ike.ike_sas),
            *(child.spi_in for child in ike.child_sas),
        )


def _counted(makers: list[str]) -> str:
    counts = Counter(makers)
    words = [f"{n} x {who}" if n > 1 else who for who, n in sorted(counts.items())]
    return " + ".join(words) if words else "none"


class Budget(NamedTuple):
    """What may still happen to messages in one order."""

    losses: int = 1
    doubles: int = 1
    late: int = 0
    """How often a deadline passes although messages are under way."""


class State(NamedTuple):
    """Where a walk stands. Lives are known by their numbers."""

    a: int
    b: int
    held: tuple[int, ...]
    """Numbers of the letters under way, in order of the numbers."""
    wishes: tuple[int, ...]
    """The ends that have still to be told what they are to do."""
    left: Budget
    now: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk found. `orders` counts every path; `states` what was different."""

    a: str
    b: str
    seed: int
    orders: int
    states: int
    histories: int
    executions: int
    ends: tuple[str, ...]
    """The distinct end states, in words."""
    violation: str = ""
    story: tuple[str, ...] = ()
    """Of the first violation: the order that led to it."""


class Walk:
    """All orders of `a` at one end and `b` at the other."""

    def __init__(self, a: str, b: str, *, seed: int, budget: Budget, terms: Terms) -> None:
        self._a, self._b, self._seed = a, b, seed
        self._budget = budget
        configs = chain(2, terms)
        self._players = [Player(index, configs, seed) for index in (0, 1)]
        self._letters: list[Letter] = []
        self._letter_numbers: dict[Letter, int] = {}
        self._lives: list[dict[int, Life]] = [{}, {}]
        self._orders: dict[State, int] = {}
        self._ends: dict[str, tuple[Life, Life]] = {}
        self._story: list[str] = []

    def all(self) -> Found:
        """Walk through all of it."""
        violation, orders = "", 0
        try:
            orders = self._from(self._begin())
            for lives in self._ends.values():
                self._use(*lives)
        except Violation as broken:
            violation = str(broken)
        return Found(
            a=self._a,
            b=self._b,
            seed=self._seed,
            orders=orders,
            states=len(self._orders),
            histories=sum(player.lives for player in self._players),
            executions=sum(player.executions for player in self._players),
            ends=tuple(sorted(self._ends)),
            violation=violation,
            story=tuple(self._story) if violation else (),
        )

    def _begin(self) -> State:
        """The connection is up, and nothing is under way."""
        lives = [player.origin for player in self._players]
        waiting = [self._tell(lives, 0, "initiate", 0.0)]
        while waiting:
            for letter in waiting.pop(0):
                to = letter.receiver
                lives[to] = self._players[to].give(lives[to], Input(0.0, letter))
                waiting.append(lives[to].sent)
        for player, life in zip(self._players, lives, strict=True):
            player.remember_first(life)
        for known, life in zip(self._lives, lives, strict=True):
            known[life.number] = life
        return State(lives[0].number, lives[1].number, (), (0, 1), self._budget, START)

    def _tell(self, lives: list[Life], who: int, method: str, at: float) -> tuple[Letter, ...]:
        lives[who] = self._players[who].give(lives[who], Input(at, None, method))
        return lives[who].sent

    def _number(self, letter: Letter) -> int:
        number = self._letter_numbers.setdefault(letter, len(self._letters))
        if number == len(self._letters):
            self._letters.append(letter)
        return number

    def _from(self, state: State) -> int:
        """How many orders there are from `state` on, each of them walked."""
        known = self._orders.get(state)
        if known is not None:
            return known
        count = 0
        for what, following in self._steps(state):
            self._story.append(what)
            count += self._from(following)
            self._story.pop()
        if not count:
            self._end(state)
            count = 1
        self._orders[state] = count
        return count

    def _steps(self, state: State) -> Iterator[tuple[str, State]]:
        left = state.left
        for who in state.wishes:
            what = (self._a, self._b)[who]
            yield f"{NAMES[who]} is told to {what}", self._told(state, who, what)
        if left.late if state.held else not state.wishes:
            following = self._wait(state)
            if following is not None:
                if state.held:
                    following = following._replace(left=left._replace(late=left.late - 1))
                yield f"time passes to {following.now:g} s", following
        for number in dict.fromkeys(state.held):
            name = self._name(number)
            rest = list(state.held)
            rest.remove(number)
            yield f"{name} arrives", self._deliver(state, number, rest)
            if left.losses:
                spent = left._replace(losses=left.losses - 1)
                yield f"{name} is lost", state._replace(held=tuple(rest), left=spent)
            if left.doubles:
                spent = left._replace(doubles=left.doubles - 1)
                kept = self._deliver(state, number, list(state.held))
                yield f"{name} arrives, and will again", kept._replace(left=spent)

    def _told(self, state: State, who: int, what: str) -> State:
        wishes = tuple(other for other in state.wishes if other != who)
        for method in what.split(JOINT):
            wish = Input(state.now, None, method)
            state = self._after(state, who, wish, list(state.held))
        return state._replace(wishes=wishes)

    def _deliver(self, state: State, number: int, held: list[int]) -> State:
        letter = self._letters[number]
        return self._after(state, letter.receiver, Input(state.now, letter), held)

    def _wait(self, state: State) -> State | None:
        """At the next deadline, a's before b's; None when there is none."""
        lives = self._lives[0][state.a], self._lives[1][state.b]
        at, who = min((life.deadline, index) for index, life in enumerate(lives))
        if at == inf:
            return None
        if at > LONGEST:
            raise Violation("rest", f"{NAMES[who]} has something due at {at:g} s")
        return self._after(state._replace(now=at), who, Input(at), list(state.held))

    def _after(self, state: State, who: int, item: Input, held: list[int]) -> State:
        numbers = [state.a, state.b]
        life = self._players[who].give(self._lives[who][numbers[who]], item)
        self._lives[who][life.number] = life
        numbers[who] = life.number
        held = [*held, *(self._number(letter) for letter in life.sent)]
        return state._replace(a=numbers[0], b=numbers[1], held=tuple(sorted(held)))

    def _name(self, number: int) -> str:
        letter = self._letters[number]
        octets = ike_message(letter.path, letter.octets)
        kind = "response" if octets[19] & 0x20 else "request"
        message_id = int.from_bytes(octets[20:24], "big")
        exchange = ExchangeType(octets[18]).name
        return f"{NAMES[1 - letter.receiver]}'s {exchange} {kind} {message_id}"

    def _end(self, state: State) -> None:
        """Nothing is under way or due."""
        a, b = self._lives[0][state.a], self._lives[1][state.b]
        assert a.rest is not None
        assert b.rest is not None
        for rest in (a.rest, b.rest):
            if rest.busy:
                raise Violation("rest", rest.busy)
        compare(CONNECTION, a.rest.held, b.rest.held)
        if a.rest.text != b.rest.text:
            raise Violation("agreement", f"a: {a.rest.text}; b: {b.rest.text}")
        self._ends.setdefault(a.rest.text, (a, b))

    def _use(self, *lives: Life) -> None:
        """Packets pass both ways after one of the orders that end so, if need be over a new SA."""
        for sender in (0, 1):
            now = LONGEST
            gateways = [p.gateway(life) for p, life in zip(self._players, lives, strict=True)]
            sent = packet(sender, 1 - sender, 1)
            waiting = [(sender, gateways[sender].send_packet(sent, now))]
            arrived = False
            while waiting:
                who, outputs = waiting.pop(0)
                for output in outputs:
                    match output:
                        case SendDatagram(path, data):
                            back = UdpPath(path.remote, path.local)
                            answer = gateways[1 - who].receive_datagram(back, data, now)
                            waiting.append((1 - who, answer))
                        case SendPacket(octets):
                            answer = gateways[1 - who].receive_packet(octets, now)
                            waiting.append((1 - who, answer))
                        case DeliverPacket(inner):
                            arrived = arrived or inner == sent
                        case _:
                            pass
            for player in self._players:
                player.spoil()
            if not arrived:
                raise Violation("recovery", f"a packet of {NAMES[sender]} does not arrive")


def explore(
    a: str, b: str, *, seed: int = 1, budget: Budget | None = None, terms: Terms | None = None
) -> Found:
    """All orders of `a` at the first gateway and `b` at the second; each may be several operations
    that are asked for at once, with a + between them."""
    budget = budget if budget is not None else Budget()
    terms = terms if terms is not None else Terms()
    # What a clock alone sets going would have no end.
    return Walk(a, b, seed=seed, budget=budget, terms=terms._replace(liveness=None)).all()
