"""The datapath's deadlines: the earliest first, whatever was set, moved or cancelled before."""

from hypothesis import given
from hypothesis import strategies as st

from ipseclab.ipsec.timers import TimerKind
from ipseclab.outputs import Deadline
from ipseclab.timers import Timers

SOFT, HARD, PARK = TimerKind.SOFT_LIFETIME, TimerKind.HARD_LIFETIME, TimerKind.PARK

steps = st.lists(
    st.tuples(
        st.sampled_from(["arm", "arm", "arm", "cancel", "due"]),
        st.sampled_from([SOFT, HARD]),
        st.sampled_from([b"a", b"b", b"c"]),
        st.integers(0, 20),
    ),
    max_size=200,
)


def taken_until(timers, now):
    """(kind, subject) of each deadline that has come, in order."""
    taken = []
    while (key := timers.take_due(now)) is not None:
        taken.append((key.kind, key.subject))
    return taken


@given(steps=steps)
def test_timers_agree_with_a_plain_dictionary(steps):
    timers, model = Timers(), {}
    for what, kind, subject, at in steps:
        if what == "arm":
            timers.set(subject, kind, float(at))
            model[kind, subject] = float(at)
        elif what == "cancel":
            timers.cancel(subject, kind)
            model.pop((kind, subject), None)
        else:
            taken = taken_until(timers, float(at))
            assert [model[key] for key in taken] == sorted(t for t in model.values() if t <= at)
            for key in taken:
                del model[key]
        deadline = timers.next_deadline()
        assert (deadline.at if deadline is not None else None) == min(model.values(), default=None)


def test_deadlines_at_one_moment_come_in_the_order_in_which_they_were_set():
    timers = Timers()
    keys = [(SOFT, b"z"), (PARK, "policy"), (HARD, b"a")]
    for kind, subject in keys:
        timers.set(subject, kind, 1.0)
    assert timers.next_deadline() == Deadline(1.0, "esp_soft_lifetime")
    assert taken_until(timers, 1.0) == keys


def test_cancelled_deadlines_do_not_pile_up():
    timers = Timers()
    for number in range(10_000):
        timers.set(number.to_bytes(4, "big"), HARD, 3600.0 + number)
        timers.cancel(number.to_bytes(4, "big"), HARD)
    assert len(timers._heap) < 100
    assert timers.next_deadline() is None
