"""The committed benchmark results as Markdown tables: every CSV file of a folder, with the machine
that it is of.

    python benchmarks/report.py results/benchmarks > docs/benchmarks-tables.md
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from table import DEFAULT_FOLDER, TABLE_COLUMN, Row, Value, shown

INTRODUCTION = """\
# Benchmark results

Made by `python benchmarks/report.py`; do not edit. What each benchmark measures, and how to read
its columns, is in [benchmarks.md](benchmarks.md)."""


MOST_ROWS = 200
"""Of a table that people would read."""


def left_out(path: Path, rows: Sequence[Row]) -> str:
    """Where a table is that is too long to be read."""
    return f"{len(rows):,} rows, in `{path.name}`."


def report(folder: Path) -> Iterator[str]:
    """The document, block by block."""
    yield INTRODUCTION
    for path in sorted(folder.glob("*.csv")):
        yield f"## {path.stem}"
        beside = path.with_suffix(".json")
        if beside.exists():
            yield circumstances(json.loads(beside.read_text(encoding="utf-8")))
        else:
            yield f"No {beside.name} says what these figures were made on."
        for title, rows in read_tables(path).items():
            if title:
                yield f"### {title}"
            yield markdown(rows) if len(rows) <= MOST_ROWS else left_out(path, rows)


def circumstances(document: Mapping[str, Value | Mapping[str, Value]]) -> str:
    """One sentence on where and when the figures were made."""
    machine = document["machine"]
    options = document["options"]
    assert isinstance(machine, Mapping)
    assert isinstance(options, Mapping)
    given = [f"--{name} {value}" for name, value in options.items() if value not in (None, False)]
    return (
        f"{str(document['started'])[:10]}, {machine['cpus']} cores ({machine['architecture']}), "
        f"{machine['kernel']}, Python {machine['python']}, "
        f"commit {str(machine['commit'])[:12]}, load average "
        f"{document['load_average_at_start']} before"
        + (f"; options: {' '.join(given).replace(' True', '')}" if given else "")
        + "."
    )


def read_tables(path: Path) -> dict[str, list[Row]]:
    """The tables of a CSV file by title ("" when it has no column for that), each with the columns
    that it has."""
    tables: dict[str, list[Row]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            title = line.pop(TABLE_COLUMN, "")
            row = {column: _value(text) for column, text in line.items()}
            tables.setdefault(title, []).append(row)
    return {title: _without_empty(rows) for title, rows in tables.items()}


def _value(text: str) -> Value:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _without_empty(rows: Sequence[Row]) -> list[Row]:
    used = [column for column in rows[0] if any(row[column] != "" for row in rows)]
    return [{column: row[column] for column in used} for row in rows]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, numbers to the right."""
    columns = list(rows[0])
    ends = ["---" if isinstance(rows[0][column], str) else "---:" for column in columns]
    lines = [[column.replace("_", " ") for column in columns], ends]
    lines += [[shown(row[column]) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_FOLDER)
    folder = parser.parse_args().folder
    if not any(folder.glob("*.csv")):
        print(f"{folder}: no CSV files, expected what the benchmarks wrote", file=sys.stderr)
        sys.exit(2)
    print("\n\n".join(report(folder)))


if __name__ == "__main__":
    main()
