"""The rank statistics behind a comparison: Mann and Whitney's test, its effect size, the shift.

Nothing here supposes a distribution: times of a lab have long tails, and in the simulator many
values are equal. With so many ties the usual normal approximation is too bold for a handful of
runs, so up to `EXACT` values the distribution of the rank sum is counted out, ties and all.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, inf, isinf, nan
from statistics import median

import numpy as np
from numpy.typing import NDArray

EXACT = 50
"""Values in both groups together up to which p is exact: comb(50, 25) is still a whole float."""
MOST_PAIRS = 4_000_000
"""Pairs whose differences are looked at for the shift; beyond them, the medians' difference."""


def rank_test(baseline: Sequence[float], run: Sequence[float]) -> float:
    """Mann and Whitney's two-sided p: how often so great a difference in ranks, or a greater one,
    would come about if both groups were drawn from one and the same. Values may be infinite."""
    together = np.concatenate([_array(baseline), _array(run)])
    if len(together) > EXACT:
        from scipy.stats import mannwhitneyu

        if len(np.unique(together)) == 1:
            return 1.0
        return float(mannwhitneyu(_finite(run, together), _finite(baseline, together)).pvalue)
    ranks = _doubled_ranks(together)
    sums, counts = _rank_sums(tuple(sorted(ranks)), len(run))
    middle = sum(ranks) * len(run) / len(ranks)
    # A rank sum in doubled ranks is whole, its mean perhaps not: a little less counts as equal.
    far = np.abs(sums - middle) >= abs(sum(ranks[len(baseline) :]) - middle) - 1e-9
    return float(counts[far].sum() / counts.sum())


def least_p(baseline: int, run: int) -> float:
    """The smallest p that so many values can give."""
    return min(1.0, 2 / comb(baseline + run, run))


def cliffs_delta(baseline: Sequence[float], run: Sequence[float]) -> float:
    """From -1 (every value of the run below every one of the baseline) over 0 to 1."""
    ordered = np.sort(_array(baseline))
    below = np.searchsorted(ordered, run, side="left").sum()
    above = len(ordered) * len(run) - np.searchsorted(ordered, run, side="right").sum()
    return float((below - above) / (len(ordered) * len(run)))


def shift(baseline: Sequence[float], run: Sequence[float]) -> float:
    """Hodges and Lehmann's estimate of how much greater the run's values are: the median of all
    differences. Two values that are both infinite differ by nothing."""
    if len(baseline) * len(run) > MOST_PAIRS:
        return _difference(median(run), median(baseline))
    ours, theirs = _array(run)[:, None], _array(baseline)[None, :]
    with np.errstate(invalid="ignore"):
        differences = np.where(ours == theirs, 0.0, ours - theirs)
    return percentile_50(differences.ravel())


def percentile_50(values: NDArray[np.float64]) -> float:
    """The median, also where the two middle values are infinities of different sign (then 0)."""
    ordered = np.sort(values)
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    if low == high:
        return float(low)
    return 0.0 if isinf(low) and isinf(high) else float((low + high) / 2)


def relative(difference: float, base: float) -> float:
    """A difference as a share of what it started from; infinite from zero."""
    if difference == 0:
        return 0.0
    if isinf(difference) or base == 0:
        return inf if difference > 0 else -inf
    return nan if isinf(base) else difference / abs(base)


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p: with all below a level called different, the expected
    share of false ones among them is at most that level."""
    many = len(p_values)
    order = sorted(range(many), key=p_values.__getitem__)
    found = [1.0] * many
    least = 1.0
    for rank in range(many, 0, -1):
        place = order[rank - 1]
        least = min(least, p_values[place] * many / rank)
        found[place] = least
    return found


def _difference(one: float, other: float) -> float:
    return 0.0 if one == other else one - other


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)


def _finite(values: Sequence[float], every: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in the same order without infinities, as their places among all distinct ones."""
    return np.searchsorted(np.unique(every), _array(values)).astype(np.float64)


def _doubled_ranks(values: NDArray[np.float64]) -> list[int]:
    """Each value's rank times two, equal ones sharing theirs: whole numbers also then."""
    ordered = np.sort(values)
    first = np.searchsorted(ordered, values, side="left")
    last = np.searchsorted(ordered, values, side="right")
    return [int(low + high + 1) for low, high in zip(first, last, strict=True)]


@lru_cache(maxsize=1024)
def _rank_sums(
    ranks: tuple[int, ...], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Every sum that `size` of these ranks can have, and in how many ways."""
    greatest = sum(ranks[-size:])
    ways = np.zeros((size + 1, greatest + 1))
    ways[0, 0] = 1.0
    for rank in ranks:
        # From above: each rank is taken once.
        for taken in range(size, 0, -1):
            ways[taken, rank:] += ways[taken - 1, : greatest + 1 - rank]
    sums = np.flatnonzero(ways[size])
    return sums.astype(np.float64), ways[size][sums]
