"""Both ends rekey at once while messages are delayed, doubled, overtaken and lost: one try a seed.

What `run(seed)` does is drawn from the seed alone, so that a seed that fails fails again. At the
end the two gateways must be at rest with the same one IKE_SA and the same one CHILD_SA, nothing may
have left in clear text, and no probe may be missing.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from pair import CONNECTION, Fate, Pair, Sent, make_pair

from ipseclab.ike.config import Lifetime, Retransmission
from ipseclab.outputs import SendDatagram, SendPacket
from ipseclab.registry import IpProtocol

OPERATIONS = ("rekey_child", "rekey_ike")
PATIENT = Retransmission(timeout=0.5, base=1.4, tries=60, limit=2.0)
"""Tried so often that none gives up: at 40 % loss each way 61 tries all fail once in 1e11."""
NO_END = Lifetime()
REST = 400.0
"""Seconds after which even a forgotten candidate has timed out: more than two patiences."""
PROBE_INTERVAL = 0.02
PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is done when, and how bad the path is."""

    seed: int
    operations: tuple[tuple[float, int, str], ...]
    """(time, side, what), both ends within a few round trips."""
    loss: float
    doubled: float
    late: float
    """Fractions of the IKE messages that are lost, doubled, or seconds late."""
    latest: float
    delay: float

    @property
    def kind(self) -> str:
        """child, ike or mixed."""
        kinds = {what.removeprefix("rekey_") for _, _, what in self.operations}
        return kinds.pop() if len(kinds) == 1 else "mixed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a schedule; `problem` is empty when all was well."""

    schedule: Schedule
    problem: str
    ike_messages: int
    probes_sent: int
    probes_lost: int
    collided: bool


def draw(seed: int) -> Schedule:
    """The schedule of that seed: child, IKE_SA and mixed rekeys in turn, half of them lossless."""
    rng = random.Random(f"schedule {seed}")
    delay = rng.choice((0.001, 0.01, 0.05, 0.15))
    kinds = (("rekey_child",), ("rekey_ike",), OPERATIONS)[seed % 3]
    first = [(0.0, side, rng.choice(kinds)) for side in (0, 1)]
    if len(kinds) == 2:
        first[1] = (0.0, 1, kinds[first[0][2] == kinds[0]])
    spread = rng.choice((0.0, 0.5, 1.0, 4.0)) * delay
    later = [
        (rng.uniform(0.0, 6.0 * delay), rng.randrange(2), rng.choice(kinds))
        for _ in range(rng.choice((0, 0, 1, 2)))
    ]
    jittered = [(at + rng.uniform(0.0, spread), side, what) for at, side, what in first]
    lossless = seed % 2 == 0
    return Schedule(
        seed=seed,
        operations=tuple(sorted(jittered + later)),
        loss=0.0 if lossless else rng.choice((0.05, 0.2, 0.4)),
        doubled=rng.choice((0.0, 0.1, 0.5)),
        late=rng.choice((0.0, 0.2, 0.6)),
        latest=rng.choice((2.0 * delay, 0.5, 5.0, 40.0)),
        delay=delay,
    )


class Weather:
    """The fate of each message under a schedule. ESP is spared, so that a missing probe is ours."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._rng = random.Random(f"weather {schedule.seed}")

    def __call__(self, sent: Sent) -> Fate:
        if isinstance(sent.item, SendPacket):
            return (self._rng.uniform(0.0, self._schedule.delay),)
        copies = 1 + (self._rng.random() < self._schedule.doubled)
        return [self._extra() for _ in range(copies) if self._rng.random() >= self._schedule.loss]

    def _extra(self) -> float:
        if self._rng.random() < self._schedule.late:
            return self._rng.uniform(0.0, self._schedule.latest)
        return self._rng.uniform(0.0, 0.5 * self._schedule.delay)


def run(seed: int) -> Outcome:
    """One schedule, from a fresh connection to rest."""
    schedule = draw(seed)
    options = {
        "retransmission": PATIENT,
        "ike_lifetime": NO_END,
        "child_lifetime": NO_END,
    }
    pair = make_pair(both=options, seed=seed, delay=schedule.delay)
    pair.connect()
    before = (pair.spis(0), pair.ike_spis(0))
    pair.sent.clear()
    pair.notices.clear()
    pair.fate = Weather(schedule)
    probes = _probe(pair, schedule)
    pair.run(REST)
    messages = sum(isinstance(sent.item, SendDatagram) for sent in pair.sent)
    lost = probes - sum(map(len, pair.delivered))
    problem = _problem(pair, schedule, before, lost)
    starts = Counter(side for _, side, notice in pair.notices if notice.event == "rekey_started")
    return Outcome(schedule, problem, messages, probes, lost, len(starts) == 2)


def _probe(pair: Pair, schedule: Schedule) -> int:
    """Carry out the operations under a probe in both directions; how many packets were sent."""
    start, waiting, number = pair.now, list(schedule.operations), 0
    for step in range(int(PROBE_SECONDS / PROBE_INTERVAL)):
        at = start + step * PROBE_INTERVAL
        while waiting and start + waiting[0][0] <= at:
            due, side, what = waiting.pop(0)
            pair.run(max(0.0, start + due - pair.now))
            pair.do(side, what, CONNECTION)
        pair.run(max(0.0, at - pair.now))
        for side in (0, 1):
            pair.send(side, number)
            number += 1
    assert not waiting
    return number


def _problem(
    pair: Pair,
    schedule: Schedule,
    before: tuple[set[tuple[bytes, bytes]], set[tuple[bytes, bytes]]],
    lost: int,
) -> str:
    if in_clear(pair):
        return "a packet left in clear"
    if lost:
        return f"{lost} probes lost"
    after = (pair.spis(0), pair.ike_spis(0))
    if schedule.kind == "child" and after[0] == before[0]:
        return "the CHILD_SA was not rekeyed"
    if schedule.kind == "ike" and after[1] == before[1]:
        return "the IKE_SA was not rekeyed"
    try:
        pair.agreed()
    except AssertionError as error:
        return "the ends do not agree: " + " ".join(str(error).split())
    return ""


def in_clear(pair: Pair) -> list[Sent]:
    """What was sent as a plain packet, neither ESP nor IKE."""
    return [
        sent
        for sent in pair.sent
        if isinstance(sent.item, SendPacket) and sent.item.packet[9] != IpProtocol.ESP
    ]
