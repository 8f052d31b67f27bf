"""What every benchmark prints and writes: a table on the terminal, and the same rows as CSV."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

Value = str | int | float
Row = Mapping[str, Value]

DEFAULT_FOLDER = Path("results/benchmarks")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help=f"where the CSV file goes (default {DEFAULT_FOLDER})",
    )
    return parser


def publish(name: str, title: str, rows: Sequence[Row], folder: Path) -> Path:
    """Print the rows, and write them to `folder`/`name`.csv; the columns are the first row's."""
    columns = list(rows[0])
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        numeric = not isinstance(rows[0][column], str)
        table.add_column(
            column.replace("_", " "), justify="right" if numeric else "left", no_wrap=not numeric
        )
    for row in rows:
        table.add_row(*(_shown(row[column]) for column in columns))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
    console = Console()
    console.print(table)
    console.print(f"written to {path}", highlight=False)
    return path


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
