"""A failing schedule is made as short as can be, and goes on failing."""

from dataclasses import replace

from ipseclab.lab.schedules.parties import Terms
from ipseclab.lab.schedules.schedule import Outcome, draw, run
from ipseclab.lab.schedules.shrink import shrink


def first_with(condition):
    return next(schedule for schedule in map(draw, range(1000)) if condition(schedule))


def fails_when(condition):
    """A stand-in for `run` whose defect is known."""

    def runner(schedule):
        return Outcome(schedule, "known", "so it is") if condition(schedule) else Outcome(schedule)

    return runner


def test_only_what_matters_is_left():
    def defect(schedule):
        what = [action.what for action in schedule.actions]
        lost = any(m.sender == 1 and not m.copies for m in schedule.mishaps)
        return "rekey_ike" in what and "delete_child" in what and lost

    start = first_with(lambda s: defect(s) and s.gateways == 3 and len(s.mishaps) > 20)
    found = shrink(start, fails_when(defect))
    assert found.invariant == "known"
    kinds = sorted(action.what for action in found.schedule.actions)
    assert kinds == ["delete_child", "rekey_ike"]
    assert [(m.sender, m.copies) for m in found.schedule.mishaps] == [(1, ())]


def test_order_of_actions_that_matters_is_kept():
    def defect(schedule):
        what = [action.what for action in schedule.actions]
        return "restart" in what and "traffic" in what[what.index("restart") :]

    found = shrink(first_with(defect), fails_when(defect))
    assert [action.what for action in found.schedule.actions] == ["restart", "traffic"]
    assert all(action.at == round(action.at, 3) for action in found.schedule.actions)


def test_gateways_nat_and_start_become_plain_where_they_do_not_matter():
    start = replace(
        draw(1), terms=Terms(True, 4, True, True), gateways=3, children=3, connected=False
    )
    found = shrink(start, fails_when(lambda s: len(s.actions) >= 1))
    assert (found.schedule.terms, found.schedule.connected) == (Terms(), True)
    assert found.schedule.mishaps == ()


def test_another_failure_is_not_taken_for_the_same():
    def runner(schedule):
        full = len(schedule.actions) > 2
        return Outcome(schedule, "first" if full else "second", "")

    start = first_with(lambda s: len(s.actions) > 4)
    assert len(shrink(start, runner).schedule.actions) == 3


def test_schedule_that_does_not_fail_is_returned_as_it_is():
    start = draw(1)
    assert shrink(start).schedule == start
    assert run(replace(start, mishaps=())).invariant == ""
