"""The matrix's verdicts as files: CSV (a row a cell), JUnit XML, and what they were made on."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ipseclab.errors import ConfigError, Place
from ipseclab.measure.interop.verdicts import Cell, Verdict
from ipseclab.measure.junit import Case, Outcome, junit_xml
from ipseclab.measure.results import write_atomic

CSV_FILE, JSON_FILE, JUNIT_FILE = "interop.csv", "interop.json", "interop.xml"
COLUMNS = tuple(field.name for field in fields(Cell))
_OUTCOMES = {Verdict.PASSED: Outcome.PASSED, Verdict.FAILED: Outcome.FAILED}


@dataclass(frozen=True, slots=True)
class About:
    """What a matrix is of."""

    strongswan: str
    date: str
    seconds: float
    quick: bool
    filter: str
    machine: dict[str, str | int | None]


def store(folder: Path, cells: Sequence[Cell], about: About) -> None:
    """Write the three files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / CSV_FILE, to_csv(cells))
    write_atomic(folder / JUNIT_FILE, to_junit(cells))
    document = {**asdict(about), "verdicts": dict(sorted(counted(cells).items()))}
    write_atomic(folder / JSON_FILE, json.dumps(document, indent=1) + "\n")


def load(folder: Path) -> tuple[tuple[Cell, ...], About]:
    """What `store` wrote. Raises ConfigError."""
    try:
        document = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
        document.pop("verdicts")
        with (folder / CSV_FILE).open(encoding="utf-8", newline="") as stream:
            return tuple(_cell(row) for row in csv.DictReader(stream)), About(**document)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"no results of the matrix: {problem}", Place(str(folder))) from None


def counted(cells: Sequence[Cell]) -> Counter[Verdict]:
    """How many cells have each verdict."""
    return Counter(cell.verdict for cell in cells)


def by_tunnel(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """The cells of each tunnel, by topic and title, in order."""
    tunnels: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        tunnels.setdefault((cell.topic, cell.tunnel), []).append(cell)
    return tunnels


def to_csv(cells: Sequence[Cell]) -> str:
    """A row a cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(cell) for cell in cells)
    return text.getvalue()


def to_junit(cells: Sequence[Cell]) -> str:
    """A suite a tunnel; what strongSwan or we do not have is skipped, with the reason."""
    suites = {
        f"{topic}: {title}": [_case(cell) for cell in own]
        for (topic, title), own in by_tunnel(cells).items()
    }
    return junit_xml("ipseclab interop", suites)


def _case(cell: Cell) -> Case:
    outcome = _OUTCOMES.get(cell.verdict, Outcome.SKIPPED)
    message = cell.detail if outcome is Outcome.FAILED else f"{cell.verdict}: {cell.detail}"
    return Case(cell.cell, outcome, message, cell.seconds)


def _cell(row: dict[str, Any]) -> Cell:
    verdict, seconds = Verdict(row.pop("verdict")), float(row.pop("seconds"))
    return Cell(verdict=verdict, seconds=seconds, **row)


def topics(cells: Sequence[Cell]) -> Iterator[tuple[str, list[list[Cell]]]]:
    """Each topic with the cells of its tunnels."""
    found: dict[str, list[list[Cell]]] = {}
    for (topic, _title), own in by_tunnel(cells).items():
        found.setdefault(topic, []).append(own)
    yield from found.items()
