"""What a metric is: a row of the table in `measure.metrics`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ipseclab.measure.view import RunView

MetricValue = float | None
"""None: the run did nothing of the kind."""


class Better(Enum):
    """Which way a metric is better; NEITHER says what happened, not how well."""

    LOWER = "lower"
    HIGHER = "higher"
    NEITHER = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name and unit as they stand in the results, how it is computed, and which way it
    is better."""

    name: str
    unit: str
    definition: str
    compute: Callable[[RunView], MetricValue]
    better: Better
