"""Two results folders of one experiment, metric by metric and point by point.

Each metric at each point is one test (`ranks.rank_test`); as there are many, their p are corrected
by Benjamini and Hochberg's procedure. Where nothing changed at all, it calls anything different
with a probability of at most `ALPHA`, as Bonferroni or Holm would: an unchanged program stays
green. Where something did change it finds far more of it than they, which matters with the five or
ten runs a point that a CI job can afford.

A run without a value (no handshake came about) counts as the worst there is. A metric that is
better neither high nor low is not compared.

A test whose values are all the same cannot find a difference, and is none of the many (Tarone): in
the simulator, where octets and losses repeat exactly, most are such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from math import inf, isnan
from statistics import median

from ipseclab.errors import ConfigError, Place
from ipseclab.measure.compare.ranks import (
    adjusted,
    cliffs_delta,
    least_p,
    rank_test,
    relative,
    shift,
)
from ipseclab.measure.metric import Better
from ipseclab.measure.metrics import METRICS, better, unit_of
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.results import Manifest, ResultsFolder, Row, Scalar

ALPHA = 0.01
"""The share of false alarms that is put up with: of a hundred comparisons of a program with itself
at most one has a significant difference anywhere, and that must exceed the threshold as well."""
THRESHOLD = 0.1
"""How much worse is slower, as a share of the baseline."""
SAME = ("schema", "experiment", "digest", "world", "quick", "costs")
"""What of two manifests must be equal; seeds, repetitions and the program may differ."""

Point = tuple[tuple[str, Scalar], ...]


class Change(StrEnum):
    """What became of a metric at a point."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    TOO_FEW = "too few runs"


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric at one point in both folders.

    `shift` is Hodges and Lehmann's, `change` it as a share of the baseline's median (infinite from
    zero), `delta` Cliff's effect size, `q` p after correction. Positive is greater, not better.
    """

    metric: str
    point: Mapping[str, Scalar]
    baseline_runs: int
    runs: int
    baseline: float
    median: float
    shift: float
    change: float
    delta: float
    p: float
    q: float | None
    """None where all values are the same."""
    verdict: Change

    @property
    def unit(self) -> str:
        """The metric's."""
        return unit_of(self.metric)

    @property
    def better(self) -> Better:
        """Which way the metric is better."""
        return better(self.metric)


@dataclass(frozen=True, slots=True)
class Finished:
    """A results folder of which every run is there."""

    folder: ResultsFolder
    manifest: Manifest
    rows: tuple[Row, ...]


def finished(folder: ResultsFolder) -> Finished:
    """Read a folder. Raises ConfigError when it is none, or not whole."""
    manifest, rows = folder.present_manifest(), folder.rows()
    if manifest.status != "done" or len(rows) != manifest.runs:
        raise ConfigError(
            f"holds {len(rows)} of {manifest.runs} runs ({manifest.status}), expected finished "
            "results: go on with the command that its manifest.json names",
            Place(str(folder.path)),
        )
    return Finished(folder, manifest, rows)


def check_comparable(baseline: Finished, run: Finished) -> None:
    """See that both are of the same experiment with the same parameters. Raises ConfigError."""
    for name in SAME:
        old, new = getattr(baseline.manifest, name), getattr(run.manifest, name)
        if old != new:
            what = _WORDS.get(name, "results with {name} {old}, not {new}")
            words = what.format(name=name, old=old or "none", new=new or "none")
            raise ConfigError(
                f"holds {words} as {run.folder.path}, expected both of the same command: run one "
                "of them again as the other's manifest.json says",
                Place(str(baseline.folder.path)),
            )


_WORDS = {
    "experiment": "results of experiment {old}, not of {new}",
    "digest": "results with other parameters: the experiment's file or its topology is not the "
    "same ({old}, not {new})",
    "quick": "results with --quick {old}, not {new}",
    "costs": "results with another cost table: {old}, not {new}",
}


def compare(
    baseline: Finished, run: Finished, *, threshold: float = THRESHOLD, every: bool = False
) -> tuple[Compared, ...]:
    """Each metric at each point: those of the experiment's table, or `every` one that has a
    direction. Raises ConfigError when there is nothing to compare."""
    check_comparable(baseline, run)
    before, after = _by_point(baseline.rows), _by_point(run.rows)
    names = _metrics(run.manifest, every)
    tests = [
        (metric, point, *values)
        for point in after
        for metric in names
        if (values := _values(metric, before.get(point, []), after[point])) is not None
    ]
    if not tests:
        raise ConfigError(
            "nothing to compare: no metric that is better high or low has a value",
            Place(str(run.folder.path)),
        )
    p_values = [rank_test(old, new) for _, _, old, new in tests]
    able = [index for index, (_, _, old, new) in enumerate(tests) if len({*old, *new}) > 1]
    q_values = dict(zip(able, adjusted([p_values[index] for index in able]), strict=True))
    return tuple(
        _compared(metric, dict(point), old, new, p_values[index], q_values.get(index), threshold)
        for index, (metric, point, old, new) in enumerate(tests)
    )


def enough(found: Sequence[Compared]) -> int:
    """Runs on both sides with which one difference could be told from an accident among so many
    tests."""
    tests = max(1, sum(one.q is not None for one in found))
    return next(runs for runs in count(1) if least_p(runs, runs) * tests <= ALPHA)


def counted(found: Sequence[Compared]) -> dict[Change, int]:
    """How many have each verdict."""
    return {change: sum(one.verdict is change for one in found) for change in Change}


def _metrics(manifest: Manifest, every: bool) -> list[str]:
    chosen = manifest.details.get("metrics")
    names = [*METRICS, *(f"overhead.{part}" for part in OVERHEAD_PARTS)]
    if not every and isinstance(chosen, list) and chosen:
        names = [name for name in names if name in chosen]
    return [name for name in names if better(name) is not Better.NEITHER]


def _by_point(rows: Sequence[Row]) -> dict[Point, list[Row]]:
    points: dict[Point, list[Row]] = {}
    for row in rows:
        points.setdefault(tuple(row.parameters.items()), []).append(row)
    return points


def _values(
    metric: str, before: Sequence[Row], after: Sequence[Row]
) -> tuple[list[float], list[float]] | None:
    """Both groups' values; None where neither has any, or one folder lacks the point."""
    worst = inf if better(metric) is Better.LOWER else -inf
    groups = [[row.metrics.get(metric) for row in rows] for rows in (before, after)]
    if not before or all(value is None for group in groups for value in group):
        return None
    old, new = ([worst if value is None else value for value in group] for group in groups)
    return old, new


def _compared(
    metric: str,
    point: Mapping[str, Scalar],
    old: Sequence[float],
    new: Sequence[float],
    p: float,
    q: float | None,
    threshold: float,
) -> Compared:
    middle = median(old)
    difference = shift(old, new)
    change = relative(difference, middle)
    delta = cliffs_delta(old, new)
    return Compared(
        metric=metric,
        point=point,
        baseline_runs=len(old),
        runs=len(new),
        baseline=middle,
        median=median(new),
        shift=difference,
        change=change,
        delta=delta,
        p=p,
        q=q,
        verdict=_verdict(better(metric), len(old), len(new), change, delta, q, threshold),
    )


def _verdict(
    direction: Better,
    baseline_runs: int,
    runs: int,
    change: float,
    delta: float,
    q: float | None,
    threshold: float,
) -> Change:
    """Slower or faster: a difference beyond the threshold that is no accident. Where even groups
    that do not overlap at all are too few to say so, they are too few."""
    if least_p(baseline_runs, runs) > ALPHA:
        return Change.TOO_FEW
    if q is None or isnan(change) or abs(change) <= threshold:
        return Change.SAME
    if q > ALPHA:
        return Change.TOO_FEW if abs(delta) == 1.0 else Change.SAME
    worse = (change > 0) is (direction is Better.LOWER)
    return Change.SLOWER if worse else Change.FASTER
