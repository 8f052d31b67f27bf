"""A comparison of two runs as a table: what changed first, what is the same last."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from ipseclab.measure.compare.comparison import Change, Compared
from ipseclab.measure.compare.files import change_text, q_text
from ipseclab.present.tables import number_text, point_text

MOST_ROWS = 40
"""Lines of the table; the rest stands in compare.json."""
_COLOURS = {Change.SLOWER: "red", Change.FASTER: "green", Change.TOO_FEW: "yellow"}


def comparison_table(found: Sequence[Compared], title: str) -> Table:
    """A line a metric and point."""
    order = list(Change)
    ordered = sorted(found, key=lambda one: order.index(one.verdict))
    table = Table(title=escape(title), title_justify="left")
    for name in ("verdict", "metric", "point", "unit"):
        table.add_column(name, overflow="fold")
    for name in ("baseline", "now", "change", "effect", "q", "runs"):
        table.add_column(name, justify="right")
    for one in ordered[:MOST_ROWS]:
        colour = _COLOURS.get(one.verdict, "default")
        table.add_row(
            f"[{colour}]{one.verdict}[/]",
            one.metric,
            escape(point_text(one.point)),
            one.unit if one.unit != "1" else "",
            number_text(_finite(one.baseline)),
            number_text(_finite(one.median)),
            change_text(one.change),
            f"{one.delta:+.2f}",
            q_text(one.q),
            f"{one.baseline_runs} / {one.runs}",
        )
    if len(ordered) > MOST_ROWS:
        table.caption = f"{len(ordered) - MOST_ROWS} more in compare.json"
    return table


def _finite(value: float) -> float | None:
    """None for the stand-in of runs without a value."""
    return None if abs(value) == float("inf") else value
