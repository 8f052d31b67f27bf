"""Sim held against netns, metric by metric, with the tolerance that the project promises.

Both worlds ran the same points with the same seeds. `overhead` and its parts must be equal to the
octet; times may differ by what a real scheduler and real sockets add. What one world alone has a
value of disagrees too. Metrics without a tolerance are shown, not judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from statistics import median

from ipseclab.measure.metrics import METRICS
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.results import Row, Scalar

Point = tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two worlds may be: a share of the netns value plus a fixed part."""

    share: float = 0.0
    fixed: float = 0.0

    def allows(self, sim: float, netns: float) -> bool:
        """True when the difference is within bounds (and a rounding error of them)."""
        limit = self.share * abs(netns) + self.fixed
        return abs(sim - netns) <= limit + 1e-9

    def __str__(self) -> str:
        if not self.share and not self.fixed:
            return "equal"
        return f"{self.share:.0%} + {self.fixed * 1e3:g} ms"


EQUAL = Tolerance()
TIMES = Tolerance(share=0.02, fixed=0.002)
TOLERANCES: Mapping[str, Tolerance] = {
    "overhead": EQUAL,
    "handshake_time": TIMES,
    "resume_time": TIMES,
    "rekey_lost": EQUAL,
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """One metric at one point in both worlds; `agrees` None where no tolerance is promised. A world
    that has no value has a NaN."""

    point: Mapping[str, Scalar]
    metric: str
    sim: float
    netns: float
    tolerance: str
    agrees: bool | None

    @property
    def difference(self) -> float:
        """netns less sim."""
        return self.netns - self.sim


def compare(sim: Sequence[Row], netns: Sequence[Row]) -> tuple[Agreement, ...]:
    """Every metric that both worlds have, at every point that both have run; and those with a
    tolerance that one of the worlds lacks there, as a handshake that came to nothing has no time.

    Of repetitions the median: a busy machine only ever adds to a time, and seldom to every one.
    """
    ours, theirs = _medians(sim), _medians(netns)
    return tuple(
        _agreement(
            dict(point), metric, ours[point].get(metric, nan), theirs[point].get(metric, nan)
        )
        for point in ours
        if point in theirs
        for metric in _order({**ours[point], **theirs[point]})
        if _is_judged(metric) or (metric in ours[point] and metric in theirs[point])
    )


def points_of_one(sim: Sequence[Row], netns: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """The points that one world alone has run, in words, by the world that has them."""
    ours, theirs = (dict.fromkeys(_point(row) for row in rows) for rows in (sim, netns))
    return {
        "sim": tuple(_in_words(point) for point in ours if point not in theirs),
        "netns": tuple(_in_words(point) for point in theirs if point not in ours),
    }


def _in_words(point: Point) -> str:
    return " ".join(f"{name}={value}" for name, value in point) or "the one point"


def worth_showing(found: Sequence[Agreement]) -> tuple[Agreement, ...]:
    """What was judged; the parts of an overhead only where they differ."""
    return tuple(
        agreement
        for agreement in found
        if agreement.agrees is not None
        and not (agreement.agrees and agreement.metric.startswith("overhead."))
    )


def verdict(found: Sequence[Agreement]) -> bool:
    """True when something was judged and nothing is out of bounds."""
    judged = [agreement.agrees for agreement in found if agreement.agrees is not None]
    return bool(judged) and all(judged)


def _tolerance(metric: str) -> Tolerance | None:
    return EQUAL if metric.startswith("overhead.") else TOLERANCES.get(metric)


def _is_judged(metric: str) -> bool:
    return _tolerance(metric) is not None


def _agreement(point: Mapping[str, Scalar], metric: str, sim: float, netns: float) -> Agreement:
    tolerance = _tolerance(metric)
    if tolerance is None:
        return Agreement(point, metric, sim, netns, "-", None)
    return Agreement(point, metric, sim, netns, str(tolerance), tolerance.allows(sim, netns))


def _point(row: Row) -> Point:
    return tuple(row.parameters.items())


def _medians(rows: Sequence[Row]) -> dict[Point, dict[str, float]]:
    values: dict[Point, dict[str, list[float]]] = {}
    for row in rows:
        point = values.setdefault(_point(row), {})
        for metric, value in row.metrics.items():
            if value is not None:
                point.setdefault(metric, []).append(value)
    return {
        point: {metric: median(found) for metric, found in metrics.items()}
        for point, metrics in values.items()
    }


def _order(metrics: Mapping[str, float]) -> list[str]:
    names = [*METRICS, *(f"overhead.{part}" for part in OVERHEAD_PARTS)]
    return [name for name in names if name in metrics]
