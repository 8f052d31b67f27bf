"""What an experiment's figures show, as numbers: series over a parameter, octets by part, and
the words and units beside them.

The figures and the report draw the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipseclab.errors import ConfigError
from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.results import Manifest, Row
from ipseclab.measure.statistics import interval_95

SECONDS_SCALE = ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"))
PART_NAMES: Mapping[str, str] = {
    "outer_ip": "outer IP",
    "udp": "UDP",
    "ah_length": "AH length, RESERVED",
    "spi": "SPI",
    "iv": "IV",
    "inner_ip": "inner IP",
    "transport": "transport header",
    "icv": "ICV",
}
"""Of the parts that are not called as they read."""


def plot_specs(manifest: Manifest) -> tuple[PlotSpec, ...]:
    """The figures that the experiment asked for when it ran."""
    asked = manifest.details.get("plots")
    try:
        return tuple(PlotSpec(**item) for item in asked) if isinstance(asked, list) else ()
    except TypeError as problem:
        raise ConfigError(f"manifest.json asks for a figure that is none: {problem}") from None


def chosen_run(rows: Sequence[Row], spec: PlotSpec) -> Row | None:
    """The first run whose parameters are those that the figure names."""
    for row in rows:
        if all(row.parameters.get(key) == value for key, value in spec.where.items()):
            return row
    return None


Point = tuple[float | str, float, float]


def chosen_rows(rows: Sequence[Row], spec: PlotSpec) -> list[Row]:
    """The runs whose parameters are those that the figure names."""
    return [r for r in rows if all(r.parameters.get(k) == v for k, v in spec.where.items())]


def sweep_series(rows: Sequence[Row], spec: PlotSpec) -> dict[str, list[Point]]:
    """For each value of the series parameter the points (x, mean, half width of the interval)."""
    groups: dict[str, dict[float | str, list[float]]] = {}
    for row in rows:
        x, y = row.parameters.get(spec.x), row.metrics.get(spec.y)
        if x is None or y is None:
            continue
        name = ", ".join(str(row.parameters.get(key)) for key in spec.series)
        place = float(x) if isinstance(x, int | float) and not isinstance(x, bool) else str(x)
        groups.setdefault(name, {}).setdefault(place, []).append(y)
    series: dict[str, list[Point]] = {}
    for name, points in groups.items():
        done = [(x, *interval_95(values)) for x, values in points.items()]
        if all(isinstance(point[0], float) for point in done):
            done.sort(key=lambda point: float(point[0]))
        series[name] = done
    return series


def overhead_stacks(rows: Sequence[Row], spec: PlotSpec) -> list[tuple[str, dict[str, float]]]:
    """For each combination of the series' parameters (and x) its label and the parts' octets."""
    keys = [key for key in (*spec.series, spec.x) if key]
    stacks: dict[str, dict[str, float]] = {}
    for row in rows:
        if any(row.parameters.get(key) != value for key, value in spec.where.items()):
            continue
        parts = {part: row.metrics.get(f"overhead.{part}") for part in OVERHEAD_PARTS}
        if all(value is None for value in parts.values()):
            continue
        label = "\n".join(str(row.parameters.get(key)) for key in keys) or row.world
        stacks.setdefault(label, {part: value or 0.0 for part, value in parts.items()})
    return list(stacks.items())


def labels_of(manifest: Manifest, parameters: Sequence[str]) -> str:
    """The parameters' labels with their units, for an axis or a legend."""
    labels = manifest.details.get("labels", {})
    label_of = labels if isinstance(labels, Mapping) else {}
    units = {key: f" ({unit})" for key in parameters if (unit := manifest.units.get(key))}
    return "; ".join(f"{label_of.get(key, key)}{units.get(key, '')}" for key in parameters)


def readable(unit: str, peak: float) -> tuple[float, str]:
    """A factor and unit in which the largest value reads well."""
    if unit == "s":
        for limit, factor, name in SECONDS_SCALE:
            if 0 < peak < limit:
                return factor, name
        return 1.0, "s"
    if unit == "bit/s":
        return 1e-6, "Mbit/s"
    return 1.0, "" if unit == "1" else unit
