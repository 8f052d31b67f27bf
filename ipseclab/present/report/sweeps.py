"""The report's charts over a sweep: means with their 95 % intervals, and the closed form beside
them where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.metrics import METRICS, definition_of, unit_of
from ipseclab.measure.results import Manifest, Row, Scalar
from ipseclab.measure.series import (
    Point,
    chosen_rows,
    labels_of,
    overhead_stacks,
    plot_specs,
    readable,
    sweep_series,
)
from ipseclab.present.report.packets import Layout, layout_svg
from ipseclab.present.report.svg import Axis, Chart, style_of
from ipseclab.present.report.time_charts import Drawn

MOST_CHARTS = 24
MOST_SERIES = 14
MOST_UNASKED = 6
"""Metrics drawn of a sweep whose experiment asks for no figure of it."""


def sweep_charts(
    manifest: Manifest, rows: Sequence[Row], paper: Mapping[str, Mapping[str, float]]
) -> list[Drawn]:
    """A chart for each sweep that the experiment asks for (or of its first metrics); `paper` has
    what the closed forms say, by run and metric."""
    drawn: list[Drawn] = []
    for spec in _specs(manifest, rows):
        chart = _stacks(manifest, rows, spec) if spec.kind == "overhead" else None
        if spec.kind == "sweep":
            chart = _sweep(manifest, rows, spec, paper)
        if chart is not None:
            drawn.append(chart)
    if len(drawn) > MOST_CHARTS:
        note = f"{len(drawn) - MOST_CHARTS} more figures are in the folder figures."
        last = drawn[MOST_CHARTS - 1]
        return [*drawn[: MOST_CHARTS - 1], replace(last, note=f"{last.note} {note}".strip())]
    return drawn


def _specs(manifest: Manifest, rows: Sequence[Row]) -> tuple[PlotSpec, ...]:
    asked = tuple(
        spec
        for spec in plot_specs(manifest)
        if spec.kind == "sweep" or (spec.kind == "overhead" and (spec.series or spec.x))
    )
    parameters = list(rows[0].parameters) if rows else []
    if asked or not parameters:
        return asked
    wanted = manifest.details.get("metrics")
    names = wanted if isinstance(wanted, list) and wanted else list(METRICS)
    x, *others = parameters
    return tuple(
        PlotSpec("sweep", str(name), y=str(name), x=x, series=tuple(others))
        for name in names[:MOST_UNASKED]
    )


def _sweep(
    manifest: Manifest,
    rows: Sequence[Row],
    spec: PlotSpec,
    paper: Mapping[str, Mapping[str, float]],
) -> Drawn | None:
    chosen = chosen_rows(rows, spec)
    series = sweep_series(chosen, spec)
    if not series:
        return None
    worked_out = sweep_series(_on_paper(chosen, spec.y, paper), spec)
    shown = dict(list(series.items())[:MOST_SERIES])
    peak = max(mean + width for points in shown.values() for _, mean, width in points)
    peak = max([peak, *(mean for points in worked_out.values() for _, mean, _ in points)])
    scale, unit = readable(unit_of(spec.y), peak)
    x_axis, places = _x_axis(manifest, shown, spec)
    label = f"{spec.y} ({unit})" if unit else spec.y
    title = spec.title or f"{spec.y}: {definition_of(spec.y)}"
    chart = Chart(title, x_axis, _y_axis(shown, scale, peak, label, spec), height=260)
    for number, (name, points) in enumerate(shown.items()):
        drawn = [(places(x), mean * scale, width * scale) for x, mean, width in points]
        _draw(chart, drawn, number, name, words=bool(x_axis.ticks))
        for x, mean, _ in worked_out.get(name, ()):
            chart.marker(places(x), mean * scale, number, f"closed form: {mean * scale:.6g} {unit}")
        if name in worked_out:
            line = [(places(x), mean * scale) for x, mean, _ in worked_out[name]]
            chart.line(line, number, extra="paper")
        if name:
            chart.legend(name, f"line {style_of(number)}")
    if worked_out:
        chart.legend("closed form", "line paper s0")
    return Drawn(title, chart.svg(), _note(manifest, chosen, spec, len(series)))


def _on_paper(
    rows: Sequence[Row], metric: str, paper: Mapping[str, Mapping[str, float]]
) -> list[Row]:
    """The rows with the closed form's value in the place of the measured one, where there is one
    to stand beside."""
    return [
        replace(row, metrics={metric: paper[row.run][metric]})
        for row in rows
        if metric in paper.get(row.run, {}) and row.metrics.get(metric) is not None
    ]


def _draw(
    chart: Chart, points: list[tuple[float, float, float]], number: int, name: str, *, words: bool
) -> None:
    if not words:
        chart.line([(x, mean) for x, mean, _ in points], number)
    for x, mean, width in points:
        if width:
            chart.error_bar(x, max(mean - width, chart.y.low), mean + width, number)
        interval = f" ± {width:.4g}" if width else ""
        chart.marker(x, mean, number, f"{name}: {mean:.6g}{interval}".removeprefix(": "))


class _Places:
    """Where a value of the parameter is: itself, or a word's number."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = {word: float(number) for number, word in enumerate(words)}

    def __call__(self, value: float | str) -> float:
        return self._words[value] if isinstance(value, str) else value


def _x_axis(
    manifest: Manifest, series: Mapping[str, Sequence[Point]], spec: PlotSpec
) -> tuple[Axis, _Places]:
    values = [x for points in series.values() for x, _, _ in points]
    words = list(dict.fromkeys(str(x) for x in values if isinstance(x, str)))
    label = labels_of(manifest, (spec.x,))
    if words:
        ticks = tuple((float(place), word) for place, word in enumerate(words))
        return Axis(-0.5, len(words) - 0.5, label, ticks=ticks), _Places(words)
    plain = [float(x) for x in values]
    low, high = min(plain), max(plain)
    if spec.log_x and low > 0 and high > low:
        return Axis(low / 1.2, high * 1.2, label, log=True), _Places(())
    margin = 0.04 * (high - low) or 1.0
    return Axis(low - margin, high + margin, label), _Places(())


def _y_axis(
    series: Mapping[str, Sequence[Point]], scale: float, peak: float, label: str, spec: PlotSpec
) -> Axis:
    least = min(mean * scale for points in series.values() for _, mean, _ in points)
    if spec.log_y and least > 0:
        return Axis(least / 1.5, peak * scale * 1.5, label, log=True)
    highest = peak * scale
    lowest = min(least, spec.from_y * scale)
    return Axis(lowest, highest + 0.06 * (highest - lowest) if highest > lowest else 1.0, label)


def _note(manifest: Manifest, rows: Sequence[Row], spec: PlotSpec, series: int) -> str:
    repeats = max((row.repetition for row in rows), default=0) + 1
    words = [f"Mean and 95 % interval of {repeats} runs a point."] if repeats > 1 else []
    if spec.series:
        words.append(f"Lines: {labels_of(manifest, spec.series)}.")
    if spec.where:
        words.append(f"Only {', '.join(f'{key} {value}' for key, value in spec.where.items())}.")
    if series > MOST_SERIES:
        words.append(f"The first {MOST_SERIES} of {series} lines; runs.csv has all.")
    return " ".join(words)


def _stacks(manifest: Manifest, rows: Sequence[Row], spec: PlotSpec) -> Drawn | None:
    stacks = overhead_stacks(rows, spec)
    if not stacks:
        return None
    layouts = [
        Layout(name.replace("\n", ", "), parts, None) for name, parts in stacks[:MOST_SERIES]
    ]
    title = spec.title or f"{manifest.experiment}: octets of a packet beside its payload"
    left_out = len(stacks) - len(layouts)
    note = f"The first {MOST_SERIES} of {len(stacks)} packets." if left_out else ""
    return Drawn(title, layout_svg(layouts), note)


def point_name(parameters: Mapping[str, Scalar]) -> str:
    """A point of the sweep in words; empty where there is but one."""
    return ", ".join(f"{key} {value}" for key, value in parameters.items())
