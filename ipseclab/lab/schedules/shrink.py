"""The shortest schedule that still fails: what does not matter is taken away, piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from ipseclab.lab.schedules.parties import Terms
from ipseclab.lab.schedules.schedule import Outcome, Schedule, run

_BELONGS = {"move": "nat", "roam": "mobike"}
MOST_RUNS = 3000
"""Of one shrinking; what is left then is short enough."""
ROUND_TIMES = (0, 1, 2, 3)
"""Decimals that times are tried to be rounded to."""


def shrink(schedule: Schedule, runner: Callable[[Schedule], Outcome] = run) -> Outcome:
    """The outcome of the smallest schedule found that breaks the same invariant as `schedule`.

    Taking any one action or mishap away from it makes the failure go away, unless MOST_RUNS was
    reached. One that does not fail is returned as it is.
    """
    best = runner(schedule)
    runs = 0
    smaller = True
    while best.invariant and smaller:
        smaller = False
        for candidate in _simpler(best.schedule):
            runs += 1
            if runs > MOST_RUNS:
                return best
            outcome = runner(candidate)
            if outcome.invariant == best.invariant:
                best, smaller = outcome, True
                break
    return best


def _simpler(schedule: Schedule) -> Iterator[Schedule]:
    """Schedules that are a little less than this one, the greatest step first."""
    mishaps, actions = schedule.mishaps, schedule.actions
    half = len(mishaps) // 2
    if half:
        yield replace(schedule, mishaps=mishaps[:half])
        yield replace(schedule, mishaps=mishaps[half:])
    for index in range(len(actions)):
        yield replace(schedule, actions=actions[:index] + actions[index + 1 :])
    for index in range(len(mishaps)):
        yield replace(schedule, mishaps=mishaps[:index] + mishaps[index + 1 :])
    ends = {end for action in actions for end in (action.gateway, action.peer)}
    if schedule.gateways == 3 and 2 not in ends:
        kept = tuple(mishap for mishap in mishaps if mishap.sender != 2)
        yield replace(schedule, gateways=2, mishaps=kept)
    if schedule.children > 1:
        yield replace(schedule, children=schedule.children - 1)
    terms, plain = schedule.terms, Terms()
    for name in Terms._fields:
        if getattr(terms, name) != getattr(plain, name) and not _needs(schedule, name):
            yield replace(schedule, terms=terms._replace(**{name: getattr(plain, name)}))
    if not schedule.connected:
        yield replace(schedule, connected=True)
    yield from _rounder(schedule)


def _needs(schedule: Schedule, name: str) -> bool:
    """Whether an action makes no sense without that term."""
    return any(_BELONGS.get(action.what) == name for action in schedule.actions)


def _rounder(schedule: Schedule) -> Iterator[Schedule]:
    """With times that are easier to read."""
    for index, action in enumerate(schedule.actions):
        for digits in ROUND_TIMES:
            at = round(action.at, digits)
            if len(f"{at:g}") < len(f"{action.at:g}"):
                moved = (*schedule.actions[:index], action._replace(at=at))
                rest = schedule.actions[index + 1 :]
                yield replace(schedule, actions=tuple(sorted(moved + rest)))
    for index, mishap in enumerate(schedule.mishaps):
        for digits in ROUND_TIMES:
            copies = tuple(round(extra, digits) for extra in mishap.copies)
            if len(str(copies)) < len(str(mishap.copies)):
                rounder = (mishap._replace(copies=copies),)
                rest_of = schedule.mishaps[index + 1 :]
                yield replace(schedule, mishaps=schedule.mishaps[:index] + rounder + rest_of)
