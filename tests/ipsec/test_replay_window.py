"""RFC 4303 section 3.4.3: the window against a model that remembers every number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.ipsec.replay import ReplayWindow


class NaiveWindow:
    def __init__(self, size):
        self.size, self.seen = size, set()

    def accept(self, sequence):
        top = max(self.seen, default=0)
        fresh = sequence > 0 and sequence > top - self.size and sequence not in self.seen
        if fresh:
            self.seen.add(sequence)
        return fresh


@given(
    size=st.sampled_from([32, 33, 64, 1024, 4096]),
    steps=st.lists(
        st.one_of(
            st.integers(-5, 5),
            st.integers(-70, 70),
            st.integers(-4200, 4200),
            st.just(2**31),
        ),
        max_size=200,
    ),
)
def test_window_decides_as_a_model_that_remembers_everything(size, steps):
    window, model = ReplayWindow(size), NaiveWindow(size)
    for step in steps:
        sequence = max(0, window.top + step)
        accepted = window.check(sequence)
        if accepted:
            newest = window.mark(sequence)
            assert newest == (sequence > max(model.seen, default=0))
        assert accepted == model.accept(sequence)


def test_zero_is_never_accepted():
    assert not ReplayWindow(64).check(0)


def test_number_at_the_left_edge_is_accepted_and_one_further_left_is_not():
    window = ReplayWindow(64)
    window.mark(100)
    assert window.check(37)
    assert not window.check(36)


def test_check_alone_records_nothing():
    window = ReplayWindow(64)
    assert window.check(5)
    assert window.check(5)
    assert window.top == 0


def test_jump_over_the_whole_window_forgets_what_was_in_it():
    window = ReplayWindow(32)
    window.mark(1)
    window.mark(0xFFFF_FFFF)
    assert not window.check(0xFFFF_FFFF)
    assert window.check(0xFFFF_FFFE)
    assert not window.check(1)


@pytest.mark.parametrize("size", [0, 31, 4097])
def test_window_size_outside_its_limits_is_refused(size):
    with pytest.raises(ValueError, match="from 32 to 4096 expected"):
        ReplayWindow(size)


@given(
    size=st.sampled_from([32, 64, 100, 1024, 4096]),
    top=st.integers(0, 2**35),
    runs=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 5000)), max_size=8),
)
def test_a_run_is_so_many_marks(size, top, runs):
    one, other = ReplayWindow(size), ReplayWindow(size)
    for window in (one, other):
        if top:
            window.mark(top)
    for gap, count in runs:
        first = one.top + gap
        one.mark_run(first, count)
        for sequence in range(max(first, first + count - size), first + count):
            other.mark(sequence)
    assert one.top == other.top
    for sequence in range(max(0, one.top - size - 5), one.top + 1):
        assert one.check(sequence) == other.check(sequence)


@given(
    size=st.sampled_from([32, 64, 1024, 4096]),
    top=st.one_of(st.integers(0, 2**40), st.integers(-5000, 5000).map(lambda n: (5 << 32) + n)),
    step=st.one_of(st.integers(-4095, 4095), st.integers(-(2**31), 2**31)),
)
def test_higher_half_is_found_within_the_window_and_half_a_subspace_above(size, top, step):
    """RFC 4303 appendix A2.2: right for whatever lies in the window, or not too far above."""
    window = ReplayWindow(size)
    window.top = top
    sequence = top + max(step, 1 - size)
    if sequence >= 0:
        assert window.extended(sequence & 0xFFFF_FFFF) == sequence


def test_left_of_the_window_means_the_next_subspace():
    window = ReplayWindow(64)
    window.top = (1 << 32) + 1000
    assert window.extended(1000 - 63) == (1 << 32) + 937
    assert window.extended(1000 - 64) == (2 << 32) + 936
    window.top = (1 << 32) + 10
    assert window.extended(0xFFFF_FFFF) == 0xFFFF_FFFF
    assert window.extended(2**32 - 54) == 2**32 - 54 + (1 << 32)
    window.top = 10  # there is nothing before the first subspace
    assert window.extended(0xFFFF_FFFF) == 0xFFFF_FFFF
