"""Tables for the terminal: the metrics of an experiment, a machine's findings, two worlds'
figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from ipseclab.measure.agreement import Agreement
from ipseclab.measure.interop.table import counted, topics
from ipseclab.measure.interop.verdicts import Cell, Verdict
from ipseclab.measure.metrics import METRICS, unit_of
from ipseclab.measure.results import Row, Scalar
from ipseclab.measure.statistics import interval_95
from ipseclab.present.doctor import Finding

MOST_ROWS = 40
"""Points that a table shows; the rest stands in runs.csv."""
MOST_COLUMNS = 6


def metrics_table(rows: Sequence[Row], metrics: Sequence[str], title: str) -> Table:
    """One point: a line a metric. More points: a line a point with the experiment's metrics."""
    points = group_points(rows)
    if len(points) == 1:
        return _single(next(iter(points.values())), metrics, title)
    parameters = list(next(iter(points.values()))[0].parameters)
    measured = {name for row in rows for name, value in row.metrics.items() if value is not None}
    shown = [name for name in metrics or METRICS if name in measured][:MOST_COLUMNS]
    table = Table(title=title, title_justify="left", padding=(0, 0), collapse_padding=True)
    for name in parameters:
        table.add_column(name, no_wrap=True)
    table.add_column("runs", justify="right", no_wrap=True)
    for name in shown:
        unit = unit_of(name)
        heading = name.replace("_", "\n", 1)
        table.add_column(f"{heading}\n{unit if unit != '1' else ''}", justify="right")
    for group in list(points.values())[:MOST_ROWS]:
        values = [number_text(value) for value in group[0].parameters.values()]
        table.add_row(*values, str(len(group)), *(summary(group, name) for name in shown))
    if len(points) > MOST_ROWS:
        table.caption = f"{len(points) - MOST_ROWS} more points in runs.csv"
    return table


def _single(group: Sequence[Row], metrics: Sequence[str], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("unit")
    present = list(dict.fromkeys(name for row in group for name in row.metrics))
    drops = [name for name in present if name.startswith("drops.")]
    for name in [*(metrics or present), *(drops if metrics else [])]:
        if any(row.metrics.get(name) is not None for row in group):
            table.add_row(name, summary(group, name), unit_of(name))
    return table


def group_points(rows: Sequence[Row]) -> dict[tuple[Scalar, ...], list[Row]]:
    """The runs of each point of the sweep."""
    points: dict[tuple[Scalar, ...], list[Row]] = {}
    for row in rows:
        points.setdefault(tuple(row.parameters.values()), []).append(row)
    return points


def summary(rows: Sequence[Row], metric: str) -> str:
    """Mean and half width of the 95 % interval over the runs that have the metric."""
    values = [value for row in rows if (value := row.metrics.get(metric)) is not None]
    if not values:
        return "-"
    mean, width = interval_95(values)
    return number_text(mean) if len(values) < 2 else f"{number_text(mean)} ± {number_text(width)}"


def number_text(value: Scalar) -> str:
    """Four digits that matter; large numbers in groups of three."""
    if value is None or value != value:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """`ipseclab doctor`'s table."""
    table = Table(title="This machine", title_justify="left")
    for name in ("", "what", "found", "needed for", "remedy"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        mark = "[green]yes[/]" if finding.ok else "[red]no[/]"
        remedy = "" if finding.ok else finding.remedy
        table.add_row(
            mark, finding.name, escape(finding.detail), finding.needed_for, escape(remedy)
        )
    return table


def agreement_table(agreements: Sequence[Agreement], title: str) -> Table:
    """The comparison of the two worlds, metric by metric."""
    table = Table(title=title, title_justify="left")
    for name in ("point", "metric", "unit"):
        table.add_column(name)
    for name in ("sim", "netns", "difference", "tolerance"):
        table.add_column(name, justify="right")
    table.add_column("agree")
    for found in agreements:
        verdict = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}[found.agrees]
        table.add_row(
            point_text(found.point),
            found.metric,
            unit_of(found.metric),
            number_text(found.sim),
            number_text(found.netns),
            number_text(found.difference),
            found.tolerance,
            verdict,
        )
    return table


def point_text(point: Mapping[str, Scalar]) -> str:
    """A point of the sweep in a word or two."""
    return ", ".join(f"{key} {number_text(value)}" for key, value in point.items()) or "-"


def interop_table(cells: Sequence[Cell]) -> Table:
    """How many cells of each topic have each verdict."""
    table = Table(title="Against strongSwan", title_justify="left")
    table.add_column("topic")
    table.add_column("tunnels", justify="right")
    for verdict in Verdict:
        table.add_column(verdict.value, justify="right")
    for topic, tunnels in topics(cells):
        counts = counted([cell for own in tunnels for cell in own])
        table.add_row(
            topic, str(len(tunnels)), *(str(counts[verdict] or "-") for verdict in Verdict)
        )
    return table
