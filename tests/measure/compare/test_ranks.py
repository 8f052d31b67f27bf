"""Rank statistics against scipy and against counting by hand."""

import itertools
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ipseclab.measure.compare.ranks import (
    EXACT,
    adjusted,
    cliffs_delta,
    least_p,
    rank_test,
    relative,
    shift,
)

SMALL = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=5)


def counted_out(baseline, run):
    """The permutation test as its definition says: every way to deal the values out."""
    ranks = stats.rankdata([*baseline, *run])
    middle = ranks.sum() * len(run) / len(ranks)
    observed = abs(ranks[len(baseline) :].sum() - middle)
    deals = [
        abs(sum(deal) - middle) >= observed - 1e-9
        for deal in itertools.combinations(ranks, len(run))
    ]
    return sum(deals) / len(deals)


@given(SMALL, SMALL)
def test_with_ties_p_is_what_counting_gives(baseline, run):
    assert rank_test(baseline, run) == pytest.approx(counted_out(baseline, run))


@given(st.sets(st.floats(-1e6, 1e6), min_size=4, max_size=24), st.data())
def test_without_ties_p_is_scipys_exact_one(values, data):
    ordered = data.draw(st.permutations(sorted(values)))
    size = data.draw(st.integers(1, len(ordered) - 1))
    baseline, run = ordered[:size], ordered[size:]
    exact = stats.mannwhitneyu(run, baseline, method="exact").pvalue
    assert rank_test(baseline, run) == pytest.approx(exact)


def test_of_many_values_p_is_scipys_asymptotic_one():
    rng = np.random.default_rng(7)
    baseline, run = rng.normal(0, 1, 40), rng.normal(0.3, 1, 40)
    assert len(baseline) + len(run) > EXACT
    ours = rank_test(baseline, run)
    assert ours == pytest.approx(stats.mannwhitneyu(run, baseline).pvalue)


@pytest.mark.parametrize("size", [3, 60])
def test_all_equal_is_no_difference(size):
    assert rank_test([0.04] * size, [0.04] * size) == 1.0
    assert cliffs_delta([0.04] * size, [0.04] * size) == 0.0
    assert shift([0.04] * size, [0.04] * size) == 0.0


@pytest.mark.parametrize("size", [5, 60])
def test_a_run_without_a_value_is_worse_than_any(size):
    baseline, run = [0.1] * size, [inf] * size
    assert rank_test(baseline, run) <= least_p(5, 5)
    assert (cliffs_delta(baseline, run), shift(baseline, run)) == (1.0, inf)
    assert (cliffs_delta(run, baseline), shift(run, baseline)) == (-1.0, -inf)
    assert shift(run, run) == 0.0


def test_least_p_is_what_groups_apart_have():
    for ours, theirs in ((3, 3), (4, 7), (5, 5)):
        baseline, run = list(range(ours)), list(range(100, 100 + theirs))
        assert rank_test(baseline, run) == pytest.approx(least_p(ours, theirs))
    assert least_p(1, 1) == 1.0


@given(SMALL, SMALL)
def test_the_effect_turns_with_the_groups(baseline, run):
    assert cliffs_delta(baseline, run) == -cliffs_delta(run, baseline)
    assert shift(baseline, run) == -shift(run, baseline)
    by_hand = np.mean([np.sign(b - a) for a in baseline for b in run])
    assert cliffs_delta(baseline, run) == pytest.approx(by_hand)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_correction_is_scipys(p_values):
    assert adjusted(p_values) == pytest.approx(stats.false_discovery_control(p_values))


def test_relative_to_zero_is_without_end():
    assert relative(0.0, 0.0) == 0.0
    assert relative(3.0, 0.0) == inf
    assert relative(-1.0, 4.0) == -0.25
    assert relative(-inf, inf) == -inf
