"""Ten thousand random schedules of two or three gateways, under the invariants.

`benchmarks/schedules.py` runs a million; what they found has a test of its own in tests/ike.
"""

import pytest

from ipseclab.lab.schedules.invariants import (
    MOST_ENTRIES,
    Violation,
    Watch,
    check_empty,
    check_memory,
)
from ipseclab.lab.schedules.parties import Limits, Terms, chain
from ipseclab.lab.schedules.schedule import Action, Mishap, Schedule, draw, run
from ipseclab.lab.schedules.world import World
from ipseclab.lab.trace import Trace
from ipseclab.outputs import Notice
from ipseclab.present.ladder import ladder

SCHEDULES = 10_000
BLOCK = 500


@pytest.mark.parametrize("first", range(0, SCHEDULES, BLOCK))
def test_schedules_break_no_invariant(first):
    problems = []
    for seed in range(first, first + BLOCK):
        outcome = run(draw(seed))
        if outcome.invariant:
            problems.append(f"seed {seed}: {outcome.invariant}: {outcome.problem}")
    assert problems == []


def test_seeds_draw_all_that_there_is():
    drawn = [draw(seed) for seed in range(400)]
    assert {action.what for schedule in drawn for action in schedule.actions} == {
        *("rekey_child", "rekey_ike", "create_child", "delete_child", "delete_ike"),
        *("check_liveness", "initiate", "traffic", "restart", "move"),
        *("reauthenticate", "packet", "roam"),
    }
    for name, plain in zip(Terms._fields, Terms(), strict=True):
        values = {getattr(schedule.terms, name) for schedule in drawn}
        assert plain in values
        assert len(values) > 1 or name == "liveness"
    assert {schedule.terms.limits for schedule in drawn} == set(Limits)
    assert {schedule.children for schedule in drawn} == {1, 2, 3}
    assert {schedule.gateways for schedule in drawn} == {2, 3}
    fates = {len(mishap.copies) for schedule in drawn for mishap in schedule.mishaps}
    assert fates == {0, 1, 2}
    assert {mishap.kind for schedule in drawn for mishap in schedule.mishaps} == {"ike", "esp"}


def test_same_schedule_same_trace():
    for seed in (3, 17, 40):
        traces = [Trace(), Trace()]
        outcomes = [run(draw(seed), trace=trace) for trace in traces]
        assert outcomes[0] == outcomes[1]
        assert traces[0].records == traces[1].records


def test_schedule_begins_as_if_it_had_set_up_by_itself():
    """What was prepared by another schedule is no other world than the one that is made anew."""
    for seed in range(60):
        assert run(draw(seed)) == run(draw(seed), trace=Trace())
        assert run(draw(seed)) == run(draw(seed))


def schedule(*actions, mishaps=(), **changes):
    base = {
        "seed": 1,
        "children": 1,
        "gateways": 2,
        "terms": Terms(),
        "delay": 0.01,
        "connected": True,
    }
    return Schedule(**{**base, **changes}, actions=actions, mishaps=mishaps)


def test_mishaps_befall_the_messages_that_they_name():
    lost = Mishap(0, "ike", 0, ())
    twice = Mishap(1, "ike", 0, (0.0, 0.2))
    trace = Trace()
    outcome = run(schedule(Action(0.0, 0, 1, "rekey_ike"), mishaps=(lost, twice)), trace=trace)
    assert not outcome.invariant
    lines = ladder(trace.records)
    start = lines.index("I --x R  CREATE_CHILD_SA request 2")
    assert lines[start : start + 5] == [
        "I --x R  CREATE_CHILD_SA request 2",
        "I --> R  CREATE_CHILD_SA request 2 (again)",
        "I <-- R  CREATE_CHILD_SA response 2",
        "I --> R  INFORMATIONAL request 3",
        "I <-- R  INFORMATIONAL response 3",
    ]


def test_lines_tell_a_schedule_to_people():
    late = Mishap(1, "esp", 3, (0.0, 0.25))
    told = schedule(
        Action(0.5, 1, 0, "delete_child"),
        mishaps=(Mishap(0, "ike", 2, ()), late),
        terms=Terms(nat=True, window=4, contrary=True),
    )
    assert told.lines() == [
        "2 gateways, connected, a behind a NAT, windows of 4, contrary groups, 10 ms one way",
        "    0.5000 s  b delete_child (to a)",
        "ike message 2 of a is lost",
        "esp message 3 of b comes 0.0000 s and 0.2500 s late",
    ]


# That an invariant is not kept must be found out.


class Blind:
    """Looks at nothing."""

    def sent(self, world, parcel): ...

    def delivered(self, world, receiver, packet): ...

    def noticed(self, world, node, notice): ...

    def stepped(self, world, node): ...


def connected():
    world = World(chain(2, Terms()), seed=1, delay=0.01, observer=Blind())
    world.do(0, "initiate", "ab")
    world.run(0.1)
    return world


def test_what_is_left_when_all_should_be_closed_is_a_leak():
    world = connected()
    with pytest.raises(Violation, match=r"leak: a still has .*'ike ike_sas': 1"):
        check_empty(world.gateways)


def test_table_that_grows_is_found_out():
    world = connected()
    for _ in range(MOST_ENTRIES):
        world.do(0, "create_child", "ab")
        world.run(0.1)
    with pytest.raises(Violation, match=r"memory: a has tables of .*'child_sas': 16[01]"):
        check_memory("a", world.gateways[0])


def expired(watch, world, *, given_up=""):
    """When `watch` has last seen a CHILD_SA come to its end, which a's oldest does now."""
    watch.given_up = given_up
    oldest = next(iter(world.gateways[0].ike.child_sas))
    watch.noticed(world, 0, Notice("hard_expired", {"spi_in": oldest.spi_in.hex()}))
    return watch.expired_at


def watched():
    watch = Watch()
    world = World(chain(2, Terms()), seed=1, delay=0.01, observer=watch)
    world.do(0, "initiate", "ab")
    world.run(0.1)
    return watch, world


def test_end_of_a_child_sa_counts_while_its_peer_could_rekey_it():
    watch, world = watched()
    assert expired(watch, world, given_up="c") == world.now
    watch, world = watched()
    world.restart(1)
    assert expired(watch, world) == world.now


def test_end_of_a_child_sa_whose_peer_has_given_up_counts_for_nothing():
    """Seed 267911: there is nobody to rekey it with."""
    watch, world = watched()
    world.restart(1)
    assert expired(watch, world, given_up="b") == 0.0


def test_end_of_a_child_sa_that_has_a_replacement_counts_for_nothing():
    """Seed 760504: only its DELETE is still to come."""
    watch, world = watched()
    world.do(0, "rekey_child", "ab")
    world.run(0.025)
    assert len(world.gateways[0].ike.child_sas) == 2
    assert expired(watch, world) == 0.0
