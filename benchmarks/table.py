"""What every benchmark prints and writes: tables on the terminal, the same rows as CSV, and beside
the CSV a JSON file with the machine that the figures are of."""

from __future__ import annotations

import argparse
import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ipseclab.measure.results import machine_facts, now_text, package_versions

Value = str | int | float
Row = Mapping[str, Value]

DEFAULT_FOLDER = Path("results/benchmarks")
CONSOLE, NARROW = 80, 10
"""Columns that numbers are never cut to, and that a text may be folded to."""
TABLE_COLUMN = "table"
"""The CSV column with the title of a row's table, where there are several in one file."""
_STARTED = now_text()
_LOAD_AT_START = os.getloadavg()


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help=f"where the CSV and JSON files go (default {DEFAULT_FOLDER})",
    )
    return parser


def publish(
    name: str,
    tables: Mapping[str, Sequence[Row]],
    options: argparse.Namespace,
    lines: Sequence[str] = (),
) -> None:
    """Print the tables by title, then the lines; write `name`.csv and `name`.json.

    With more than one table in the CSV, it has their titles in its first column, and each row's
    cells are empty where its table has no such column.
    """
    console = Console()
    for title, rows in tables.items():
        console.print(_shown_table(title, rows))
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"written to {store(name, tables, options)}", highlight=False)


def store(name: str, tables: Mapping[str, Sequence[Row]], options: argparse.Namespace) -> Path:
    """Write `name`.csv and `name`.json without a word; returns the first."""
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / f"{name}.csv"
    _write_csv(path, tables)
    _write_circumstances(path.with_suffix(".json"), name, options)
    return path


def _shown_table(title: str, rows: Sequence[Row]) -> Table:
    """The columns are the first row's."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for column, value in rows[0].items():
        text = isinstance(value, str)
        words = (word for row in rows for word in shown(row[column]).split())
        table.add_column(
            column.replace("_", " "),
            justify="left" if text else "right",
            min_width=min(NARROW if text else CONSOLE, max(map(len, words), default=1)),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(shown(row[column]) for column in rows[0]))
    return table


def _write_csv(path: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    first = {TABLE_COLUMN: None} if len(tables) > 1 else {}
    columns = dict.fromkeys(column for rows in tables.values() for column in rows[0])
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*first, *columns])
        writer.writeheader()
        for title, rows in tables.items():
            named = dict.fromkeys(first, title)
            writer.writerows({**named, **row} for row in rows)


def _write_circumstances(path: Path, name: str, options: argparse.Namespace) -> None:
    """On what, when, and how busy the machine was: a figure means nothing without."""
    machine = {key: value for key, value in machine_facts().items() if key != "host"}
    document = {
        "benchmark": name,
        "options": {key: value for key, value in vars(options).items() if key != "out"},
        "started": _STARTED,
        "finished": now_text(),
        "load_average_at_start": round(_LOAD_AT_START[0], 2),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "machine": machine,
        "packages": package_versions(),
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def met(reached: bool) -> str:
    """A verdict on a target."""
    return "met" if reached else "NOT met"


def shown(value: Value) -> str:
    """A cell for people: four digits that count, thousands apart."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else value
