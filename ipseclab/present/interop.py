"""The interop matrix for people: a page of HTML, and the page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ipseclab.measure.interop.table import About, counted, topics
from ipseclab.measure.interop.verdicts import Cell, Verdict
from ipseclab.measure.results import write_atomic

HTML_FILE, PAGE_FILE = "interop.html", "interop.md"
MARKS = {
    Verdict.PASSED: "✓",
    Verdict.FAILED: "✗",
    Verdict.UNSUPPORTED: "–",
    Verdict.NOT_OURS: "○",
}
MEANINGS = {
    Verdict.PASSED: "passed",
    Verdict.FAILED: "failed",
    Verdict.UNSUPPORTED: "strongSwan does not support it",
    Verdict.NOT_OURS: "strongSwan has it and we have not",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A topic's table: a row a tunnel, a column a cell title; None where a tunnel has none."""

    topic: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    notes: tuple[Cell, ...]
    """The cells whose verdict has a reason."""


def grids(cells: Sequence[Cell]) -> tuple[Grid, ...]:
    """A table for each topic."""
    return tuple(_grid(topic, tunnels) for topic, tunnels in topics(cells))


def _grid(topic: str, tunnels: Sequence[Sequence[Cell]]) -> Grid:
    columns = tuple(dict.fromkeys(cell.cell for own in tunnels for cell in own))
    rows = []
    for own in tunnels:
        named = {cell.cell: cell for cell in own}
        rows.append((own[0].tunnel, tuple(named.get(column) for column in columns)))
    notes = tuple(cell for own in tunnels for cell in own if cell.detail)
    return Grid(topic, columns, tuple(rows), notes)


def write_pages(folder: Path, cells: Sequence[Cell], about: About) -> None:
    """The page for a browser, and the one of the documentation, into a results folder."""
    write_atomic(folder / HTML_FILE, _rendered("interop.html.j2", cells, about))
    write_atomic(folder / PAGE_FILE, page(cells, about))


def page(cells: Sequence[Cell], about: About) -> str:
    """docs/interop.md."""
    return _rendered("interop.md.j2", cells, about)


def _rendered(template: str, cells: Sequence[Cell], about: About) -> str:
    environment = Environment(
        loader=PackageLoader("ipseclab.present"),
        undefined=StrictUndefined,
        autoescape=template.endswith(".html.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    counts = counted(cells)
    return environment.get_template(template).render(
        about=about,
        grids=grids(cells),
        marks=MARKS,
        legend=[(MARKS[v], MEANINGS[v], counts[v], v) for v in Verdict],
        tunnels=len({(c.topic, c.tunnel) for c in cells if c.verdict is not Verdict.NOT_OURS}),
    )
