"""Expectations held against the runs of a sweep: which held, which failed, where and by how much.

A run without a value of a metric is never passed over: in a statistic it counts as the worst there
is (no handshake: an endless one), and where a metric is neither better high nor low, or no run has
a value, the expectation fails for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isnan
from statistics import fmean, median, stdev

from ipseclab.lab.topology import Topology
from ipseclab.measure.expect.evaluate import Compared, NoValue, Value, evaluate, holds
from ipseclab.measure.expect.names import COUNTS, Constant, MetricUse
from ipseclab.measure.expect.reading import Expectation
from ipseclab.measure.job import Job
from ipseclab.measure.metric import Better
from ipseclab.measure.metrics import better
from ipseclab.measure.results import Row, Scalar
from ipseclab.measure.statistics import percentile


class Verdict(StrEnum):
    """What came of an expectation."""

    HELD = "held"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Judgement:
    """One expectation at one point, or over all of them.

    `measured operator expected` is the comparison that decided; of an expectation about each run,
    that of `run`: the first that failed, else the one nearest to failing.
    """

    expectation: str
    verdict: Verdict
    point: Mapping[str, Scalar]
    over: str = "point"
    why: str = ""
    measured: float | None = None
    operator: str = ""
    expected: float | None = None
    unit: str = ""
    reason: str = ""
    run: str = ""
    runs: int = 0
    runs_failed: int = 0


def judge(
    expectations: Sequence[Expectation], jobs: Sequence[Job], rows: Sequence[Row]
) -> tuple[Judgement, ...]:
    """Every expectation at every point that it is about. A job without a row has no values."""
    by_run = {row.run: row for row in rows}
    points: dict[tuple[Scalar, ...], list[Job]] = {}
    for job in jobs:
        points.setdefault(tuple(job.parameters.values()), []).append(job)
    found: list[Judgement] = []
    for expectation in expectations:
        picked = [group for group in points.values() if expectation.picks(group[0].parameters)]
        own = jobs[0].world in expectation.worlds
        if not own or not picked:
            why_not = "no such point in this run" if own else f"not for {jobs[0].world}"
            found.append(_not_judged(expectation, why_not))
        elif expectation.over == "all":
            together = [job for group in picked for job in group]
            found.append(_Group(expectation, together, by_run).judgement({}))
        else:
            found += [
                _Group(expectation, group, by_run).judgement(group[0].parameters)
                for group in picked
            ]
    return tuple(found)


def counted(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many have each verdict."""
    return {verdict.value: sum(one.verdict is verdict for one in judgements) for verdict in Verdict}


def _not_judged(expectation: Expectation, reason: str) -> Judgement:
    return Judgement(
        expectation.text,
        Verdict.NOT_JUDGED,
        {name: values[0] for name, values in expectation.where.items() if len(values) == 1},
        expectation.over,
        expectation.why,
        reason=reason,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one evaluation: of one run, or of all of a group."""

    compared: tuple[Compared, ...]
    """None where it could not be judged, which is a failure."""
    reason: str = ""
    run: str = ""

    @property
    def held(self) -> bool:
        return bool(self.compared) and holds(self.compared)

    @property
    def decisive(self) -> Compared | None:
        """The one that failed, else the one nearest to failing."""
        failed = [one for one in self.compared if not one.held]
        return failed[0] if failed else min(self.compared, key=_margin, default=None)


class _Group:
    """An expectation and the runs that it is judged over."""

    def __init__(
        self, expectation: Expectation, jobs: Sequence[Job], rows: Mapping[str, Row]
    ) -> None:
        self._expectation = expectation
        self._jobs = jobs
        self._rows = rows
        self._uses = {_name(use): use for use in expectation.uses}
        self._topology: Topology | None = None

    def judgement(self, point: Mapping[str, Scalar]) -> Judgement:
        expectation = self._expectation
        if expectation.per_run:
            outcomes = [self._outcome((job,), job.run) for job in self._jobs]
        else:
            outcomes = [self._outcome(self._jobs, "")]
        failed = [outcome for outcome in outcomes if not outcome.held]
        told = failed[0] if failed else min(outcomes, key=_nearness)
        decisive = told.decisive
        return Judgement(
            expectation.text,
            Verdict.FAILED if failed else Verdict.HELD,
            point,
            expectation.over,
            expectation.why,
            measured=None if decisive is None else decisive.measured,
            operator="" if decisive is None else decisive.operator,
            expected=None if decisive is None else decisive.expected,
            unit="" if decisive is None else decisive.unit,
            reason=told.reason,
            run=told.run,
            runs=len(self._jobs),
            runs_failed=len(failed) if expectation.per_run else 0,
        )

    def _outcome(self, jobs: Sequence[Job], run: str) -> _Outcome:
        def look(name: str) -> Value:
            use = self._uses[name]
            if isinstance(use, Constant):
                return Value.of(self._constant(use.name), use.unit)
            # A statistic beside a metric of each run is of the whole group.
            own = jobs if use.statistic is None else self._jobs
            values = [self._value(use.metric, job) for job in own]
            if use.statistic not in COUNTS and None in values:
                lacking.setdefault(_lacks(use.metric, values))
            return Value.of(_statistic(use, values), use.unit)

        lacking: dict[str, None] = {}

        def measures(name: str) -> bool:
            return isinstance(self._uses[name], MetricUse)

        try:
            compared = evaluate(self._expectation.tree, look, measures)
        except NoValue as problem:
            return _Outcome((), str(problem), run)
        return _Outcome(compared, "; ".join(lacking), run)

    def _value(self, metric: str, job: Job) -> float | None:
        row = self._rows.get(job.run)
        if row is None:
            return None
        # What nobody dropped has no column (results.cell).
        return row.metrics.get(metric, 0.0 if metric.startswith("drops.") else None)

    def _constant(self, name: str) -> float:
        """A parameter or a fact of the points; the same at all of them."""
        found = {float(self._fact(name, job)) for job in self._first_of_each_point()}
        if len(found) > 1:
            raise NoValue(f"{name} differs between the points, expected over: point")
        return found.pop()

    def _first_of_each_point(self) -> Sequence[Job]:
        points = {tuple(job.parameters.values()): job for job in self._jobs}
        return list(points.values())

    def _fact(self, name: str, job: Job) -> float:
        if name in job.parameters:
            return float(job.parameters[name] or 0)
        if name == "duration":
            return job.plan.duration
        section, owner, key = name.split(".")
        if section == "links":
            if self._topology is None or self._expectation.over == "all":
                self._topology = job.resolved()
            impairment = self._topology.link(owner).forward
            found = impairment.mean_loss if key == "loss" else getattr(impairment, key)
        else:
            flow = next(flow for flow in job.plan.flows if flow.name == owner)
            found = getattr(flow, key, None)
        if found is None:
            raise NoValue(f"{name} is not set")
        return float(found)


def _name(use: MetricUse | Constant) -> str:
    if isinstance(use, Constant):
        return use.name
    return use.metric if use.statistic is None else f"{use.metric}.{use.statistic}"


def _margin(compared: Compared) -> float:
    return compared.margin


def _nearness(outcome: _Outcome) -> float:
    return outcome.decisive.margin if outcome.decisive is not None else inf


_OVER: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": fmean,
    "median": median,
    "min": min,
    "max": max,
    "sum": sum,
    "stdev": stdev,
}


def _statistic(use: MetricUse, found: Sequence[float | None]) -> float:
    """A metric over runs, or of the only one. Raises NoValue."""
    there = [value for value in found if value is not None]
    if use.statistic in COUNTS:
        return len(there) / (len(found) if use.statistic == "share" else 1)
    if not there:
        raise NoValue(f"no values of {use.metric}" if use.statistic else f"no {use.metric}")
    if use.statistic is None:
        return there[0]
    lacking = len(found) - len(there)
    worst = {Better.LOWER: inf, Better.HIGHER: -inf}.get(better(use.metric))
    if lacking and worst is None:
        raise NoValue(_lacks(use.metric, found))
    values = [*there, *([worst] * lacking if worst is not None else [])]
    if use.statistic == "stdev" and (len(values) < 2 or lacking):
        raise NoValue(f"{use.metric} of {len(there)} of {len(found)} runs has no stdev")
    compute = _OVER.get(use.statistic)
    if compute is not None:
        result = float(compute(values))
    else:
        result = percentile(values, int(use.statistic[1:]) / 100)
    if isnan(result):
        raise NoValue(_lacks(use.metric, found))
    return result


def _lacks(metric: str, found: Sequence[float | None]) -> str:
    return f"no {metric} in {found.count(None)} of {len(found)} runs"
