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
        sequence = min(max(0, window.top + step), 0xFFFF_FFFF)
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
