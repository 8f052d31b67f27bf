from __future__ import annotations

import random
from collections.abc import Generator

from hypothesis import given
from hypothesis import strategies as st
from simpy.events import Event

from ipseclab.sim.clock import Clock, Timer


def test_calls_come_in_order_of_time_then_of_asking() -> None:
    clock, seen = Clock(), list[tuple[float, str]]()
    for at, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (0.0, "first")):
        clock.call_at(at, lambda name=name: seen.append((clock.now, name)))
    clock.run_through(1.0)
    assert seen == [(0.0, "first"), (1.0, "a"), (1.0, "b")]
    assert clock.now == 1.0
    clock.run_through(5.0)
    assert seen[-1] == (2.0, "c")
    assert clock.now == 5.0


def test_a_time_is_kept_to_the_last_bit() -> None:
    clock, seen = Clock(), list[float]()
    draw = random.Random(1).random
    times = sorted(draw() * 1e5 for _ in range(1000))
    for at in times:
        clock.call_at(at, lambda: seen.append(clock.now))
    clock.run_through(1e5)
    assert seen == times


def test_a_time_in_the_past_means_now() -> None:
    clock, seen = Clock(), list[float]()
    clock.call_at(3.0, lambda: clock.call_at(1.0, lambda: seen.append(clock.now)))
    clock.run_through(3.0)
    assert seen == [3.0]


def test_processes_of_simpy_run_beside_the_calls() -> None:
    clock, seen = Clock(), list[tuple[str, float]]()

    def process() -> Generator[Event, None, None]:
        for _ in range(3):
            yield clock.timeout(1.0)
            seen.append(("process", clock.now))

    clock.process(process())
    clock.call_at(2.5, lambda: seen.append(("call", clock.now)))
    clock.run_through(2.7)
    assert seen == [("process", 1.0), ("process", 2.0), ("call", 2.5)]
    clock.run(until=4.0)
    assert seen[-1] == ("process", 3.0)


SETTINGS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.none() | st.floats(0.0, 5.0)), min_size=1, max_size=40
)


@given(SETTINGS)
def test_a_timer_fires_at_the_time_last_set_and_at_no_other(
    settings: list[tuple[float, float | None]],
) -> None:
    clock, fired = Clock(), list[float]()
    timer = Timer(clock, fired.append)
    expected: list[float] = []
    due: float | None = None
    at = 0.0
    for gap, ahead in settings:
        at += gap
        clock.run_through(at)
        if due is not None and due <= at:
            expected.append(due)
            due = None
        due = None if ahead is None else at + ahead
        timer.set(due)
    clock.run_through(1000.0)
    if due is not None:
        expected.append(due)
    assert fired == expected
    assert timer.pending == 0


def test_a_timer_moved_to_later_ten_thousand_times_leaves_nothing_in_the_queue() -> None:
    clock, fired = Clock(), list[float]()
    timer = Timer(clock, fired.append)
    deepest = 0
    for step in range(10_000):
        clock.run_through(step * 0.001)
        # An RTO of 1 s and a delayed ACK of 40 ms in turn.
        timer.set(clock.now + (0.04 if step % 2 else 1.0))
        deepest = max(deepest, timer.pending)
    assert deepest <= 3
    assert not fired
