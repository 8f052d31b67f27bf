"""A figure that is a table: one parameter down, one across, in each cell a metric's mean.

What is more than nothing (or what is nothing, where that is the bad news) stands out by colour and
by weight, so that a grey print still reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.metrics import unit_of
from ipseclab.measure.results import Manifest, ResultsFolder, Row
from ipseclab.measure.series import readable

CALM, STRIKING, NO_RUN = "#DCEBF5", "#F4C7AE", "#FFFFFF"
"""Tints of Okabe and Ito's blue and vermilion."""

Cells = dict[tuple[str, str], tuple[str, float]]
"""By row and column: the metric that is shown and its mean."""


def matrix(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """A table of the metrics in `spec.cells`, each cell the first of them that has a value there;
    down the series' parameters, across the parameter x."""
    del folder
    cells = matrix_cells(rows, spec)
    if not cells:
        return None
    down = list(dict.fromkeys(row for row, _ in cells))
    across = list(dict.fromkeys(column for _, column in cells))
    width, height = 2.4 + 1.9 * len(across), 1.0 + 0.4 * (len(down) + 1)
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.set_axis_off()
    table = axis.table(
        cellText=[[_words(cells.get((row, column))) for column in across] for row in down],
        cellColours=[[_colour(cells.get((row, col)), spec.bad) for col in across] for row in down],
        rowLabels=down,
        colLabels=across,
        cellLoc="center",
        bbox=Bbox.unit(),
    )
    for (line, column), cell in table.get_celld().items():
        cell.set_edgecolor("#888888")
        heading = line == 0
        if heading or (column >= 0 and _is_striking(cells, down[line - 1], across[column], spec)):
            cell.get_text().set_fontweight("bold")
    title = spec.title or f"{manifest.experiment}: {', '.join(spec.cells)}"
    figure.suptitle(f"{title}\n{manifest.world}", fontsize="medium")
    return figure


def matrix_cells(rows: Sequence[Row], spec: PlotSpec) -> Cells:
    """What stands in each cell; a cell without any of the metrics is left out."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if all(row.parameters.get(key) == value for key, value in spec.where.items()):
            down = ", ".join(str(row.parameters.get(key)) for key in spec.series)
            groups.setdefault((down, str(row.parameters.get(spec.x))), []).append(row)
    cells: Cells = {}
    for place, group in groups.items():
        for metric in spec.cells:
            values = [found for row in group if (found := row.metrics.get(metric)) is not None]
            if values:
                cells[place] = metric, fmean(values)
                break
    return cells


def _is_striking(cells: Cells, row: str, column: str, spec: PlotSpec) -> bool:
    return _colour(cells.get((row, column)), spec.bad) == STRIKING


def _words(cell: tuple[str, float] | None) -> str:
    if cell is None:
        return "–"
    metric, value = cell
    unit = unit_of(metric)
    if unit == "s":
        scale, unit = readable(unit, value)
        return f"{value * scale:.3g} {unit}"
    return f"{value:,.6g}{f' {unit}' if unit not in ('', '1') else ''}"


def _colour(cell: tuple[str, float] | None, bad: str) -> str:
    if bad == "nothing":
        return CALM if cell is not None and cell[1] else STRIKING
    if cell is None:
        return NO_RUN
    return STRIKING if cell[1] else CALM
