"""Two worlds' rows held against each other."""

import pytest

from ipseclab.measure.agreement import (
    EQUAL,
    TIMES,
    Tolerance,
    compare,
    points_of_one,
    verdict,
    worth_showing,
)
from ipseclab.measure.results import Row


def row(world, point, repetition=0, **metrics):
    return Row(f"{repetition}", world, 1, repetition, {"size": point}, metrics)


def judged(found):
    return {agreement.metric: agreement.agrees for agreement in found}


def test_times_may_differ_by_two_percent_and_two_milliseconds():
    near = compare([row("sim", 1, handshake_time=0.4)], [row("netns", 1, handshake_time=0.4099)])
    far = compare([row("sim", 1, handshake_time=0.4)], [row("netns", 1, handshake_time=0.4105)])
    assert judged(near) == {"handshake_time": True}
    assert judged(far) == {"handshake_time": False}
    assert near[0].difference == pytest.approx(0.0099)
    assert str(TIMES) == "2% + 2 ms"


def test_overhead_must_be_equal_with_all_its_parts():
    sim = [row("sim", 1, overhead=92.0, **{"overhead.iv": 8.0})]
    netns = [row("netns", 1, overhead=92.0, **{"overhead.iv": 16.0})]
    assert judged(compare(sim, netns)) == {"overhead": True, "overhead.iv": False}
    assert not verdict(compare(sim, netns))
    assert str(EQUAL) == "equal"


def test_equal_parts_and_unjudged_metrics_are_not_worth_showing():
    more = {"overhead.iv": 8.0, "goodput": 1.0}
    found = compare(
        [row("sim", 1, overhead=92.0, **more)], [row("netns", 1, overhead=92.0, **more)]
    )
    assert judged(worth_showing(found)) == {"overhead": True}


def test_other_metrics_are_shown_and_not_judged():
    found = compare([row("sim", 1, goodput=1e6)], [row("netns", 1, goodput=9e6)])
    assert judged(found) == {"goodput": None}
    assert not verdict(found)


def test_repetitions_are_compared_by_their_means():
    sim = [row("sim", 1, 0, overhead=1.0), row("sim", 1, 1, overhead=3.0)]
    assert judged(compare(sim, [row("netns", 1, overhead=2.0)])) == {"overhead": True}


def test_points_and_metrics_of_one_world_alone_are_left_out():
    sim = [row("sim", 1, overhead=1.0, goodput=None), row("sim", 2, overhead=1.0)]
    netns = [row("netns", 1, overhead=1.0, goodput=1.0), row("netns", 3, overhead=1.0)]
    assert [dict(found.point) for found in compare(sim, netns)] == [{"size": 1}]


def test_points_of_one_world_alone_are_named():
    sim = [row("sim", 1), row("sim", 2), row("sim", 2, 1), row("sim", 4)]
    netns = [row("netns", 1), row("netns", 3)]
    assert points_of_one(sim, netns) == {"sim": ("size=2", "size=4"), "netns": ("size=3",)}
    assert points_of_one(sim[:1], netns[:1]) == {"sim": (), "netns": ()}


def test_a_judged_metric_that_one_world_lacks_disagrees():
    """The handshake never ended in one of them."""
    sim = [row("sim", 1, overhead=92.0, handshake_time=0.4)]
    netns = [row("netns", 1, overhead=92.0, handshake_time=None)]
    for found in (compare(sim, netns), compare(netns, sim)):
        assert judged(found) == {"overhead": True, "handshake_time": False}
        assert not verdict(found)


def test_a_tolerance_of_nothing_allows_nothing_but_rounding():
    assert Tolerance().allows(0.1 + 0.2, 0.3)
    assert not Tolerance().allows(1.0, 2.0)
