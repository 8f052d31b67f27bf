"""The little statistics that results need: a mean with its 95 % interval, percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

TWO_SIDED_95 = 0.975


def interval_95(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of Student's 95 % interval; half width 0 of a single value."""
    mean = fmean(values)
    if len(values) < 2:
        return mean, 0.0
    # Imported late: scipy takes longer to load than most runs take.
    from scipy.stats import t as student

    quantile = float(student.ppf(TWO_SIDED_95, len(values) - 1))
    return mean, quantile * stdev(values) / sqrt(len(values))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share (0 to 1) of them does not exceed, linear between neighbours; one
    neighbour may be infinite."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    part = place - below
    if not part or ordered[below] == ordered[below + 1]:
        return ordered[below]
    return ordered[below] + part * (ordered[below + 1] - ordered[below])
