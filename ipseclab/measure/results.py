"""A results folder: manifest, one folder a run, and the tidy table of all runs.

    DIR/manifest.json             what was asked, of what, on what; written first, completed last
    DIR/runs/<id>/row.json        a finished run's parameters and metrics: there or not, never half
    DIR/runs/<id>/trace.jsonl ... what the run did
    DIR/runs.csv, DIR/runs.parquet
    DIR/expectations.json, .xml, .parquet    where the experiment expects something
    DIR/figures/

A run is done when its row stands. Whatever ends a sweep early, running it again with the same
`--out` does the runs that have no row.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import ipseclab
from ipseclab.errors import ConfigError, Place
from ipseclab.measure.metric import MetricValue
from ipseclab.measure.metrics import definition_of, known, unit_of

SCHEMA = 1
ROW_FILE = "row.json"
IDENTITY = (
    "schema",
    "experiment",
    "digest",
    "world",
    "seed",
    "repetitions",
    "quick",
    "costs",
    "slow",
    "sources",
)
"""What must be equal for a sweep to go on in a folder that holds results already."""
TABLES = ("units", "machine", "packages", "details")
"""What of a manifest is an object."""
PACKAGES = ("cryptography", "simpy", "mininet", "numpy", "matplotlib", "pydantic")
SOURCES_DIGITS = 16
LEADING = ("run", "world", "seed", "repetition")

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Row:
    """One finished run: what was set, what came of it, and the seconds of real time that it
    took."""

    run: str
    world: str
    seed: int
    repetition: int
    parameters: Mapping[str, Scalar]
    metrics: Mapping[str, MetricValue]
    wall_time: float = 0.0

    def to_json(self) -> str:
        """The row as `row.json` holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, document: str) -> Row:
        """The row in a `row.json`. Raises ValueError, KeyError or TypeError when it is none."""
        return cls(**json.loads(document, object_hook=_with_shared_names))


def _with_shared_names(found: dict[str, Any]) -> dict[str, Any]:
    """An object of a row, the names in it one object each among all rows: of ten thousand rows they
    would be most of the memory."""
    return {sys.intern(name): value for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: its name, unit and definition, and whether an empty cell means
    zero."""

    name: str
    unit: str = ""
    definition: str = ""
    zero: bool = False


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder's results are of; `finished` is None and `status` not `done` until the last
    run."""

    experiment: str
    digest: str
    world: str
    seed: int
    quick: bool
    runs: int
    repetitions: int = 1
    costs: str = "zero"
    slow: float = 1.0
    """How many times as long our stack took, on purpose (`run --slow`)."""
    sources: str = ""
    """A digest of the program (`sources_digest`): its commit alone says nothing of changes."""
    command: tuple[str, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)
    status: str = "running"
    runs_done: int = 0
    started: str = ""
    finished: str | None = None
    schema: int = SCHEMA
    machine: Mapping[str, str | int | None] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What a reader of these results has to know, a line each."""
    expectations: Mapping[str, int] = field(default_factory=dict)
    """How many of the experiment's expectations have each verdict; expectations.json says which."""


def same_run(before: Manifest, now: Manifest) -> bool:
    """True when results of the one are results of the other."""
    return all(getattr(before, name) == getattr(now, name) for name in IDENTITY)


class ResultsFolder:
    """The files of one results folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest_path = path / "manifest.json"

    @property
    def figures(self) -> Path:
        """Where figures go."""
        return self.path / "figures"

    def run_path(self, run: str) -> Path:
        """The folder of one run."""
        return self.path / "runs" / run

    def manifest(self) -> Manifest | None:
        """The manifest, or None where there is none. Raises ConfigError for one that cannot be
        read."""
        try:
            document = json.loads(self.manifest_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as problem:
            raise ConfigError(
                f"not a manifest: {problem}", Place(str(self.manifest_path))
            ) from None
        names = Manifest.__dataclass_fields__
        try:
            known_items = {key: value for key, value in document.items() if key in names}
            found = Manifest(**known_items)
        except (AttributeError, TypeError):
            found = None
        if found is None or not all(isinstance(getattr(found, name), dict) for name in TABLES):
            raise ConfigError(
                "not a manifest: an object with experiment, digest, world, seed expected",
                Place(str(self.manifest_path)),
            )
        return found

    def present_manifest(self) -> Manifest:
        """The manifest. Raises ConfigError for one that cannot be read, and where there is none."""
        manifest = self.manifest()
        if manifest is None:
            raise ConfigError("holds no results: no manifest.json", Place(str(self.path)))
        return manifest

    def begin(self, manifest: Manifest) -> None:
        """Make the folder for these runs, or check that it is theirs to go on in."""
        before = self.manifest()
        if before is not None:
            self.check_same(before, manifest)
        elif self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise ConfigError(
                "holds something else than results; a new or empty folder expected",
                Place(str(self.path)),
            )
        try:
            (self.path / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise ConfigError(
                f"cannot be made: {problem.strerror}", Place(str(self.path))
            ) from None
        self.write_manifest(manifest)

    def check_same(self, before: Manifest, now: Manifest) -> None:
        """See that the folder's results are of the run that is wanted now. Raises ConfigError."""
        for name in IDENTITY:
            old, new = getattr(before, name), getattr(now, name)
            if old != new and name == "sources":
                raise ConfigError(
                    f"holds results of another program: {_program(before)}, this is "
                    f"{_program(now)}; give another --out, or go on with the former",
                    Place(str(self.path)),
                )
            if old != new:
                raise ConfigError(
                    f"holds results with {name} {old}, not {new}; give another --out, or the same "
                    "parameters to go on",
                    Place(str(self.path)),
                )

    def write_manifest(self, manifest: Manifest) -> None:
        """Write it whole or not at all."""
        write_atomic(
            self.manifest_path, json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n"
        )

    def store(self, row: Row) -> None:
        """Mark a run as done; its other files must stand by now."""
        write_atomic(self.run_path(row.run) / ROW_FILE, row.to_json())

    def row(self, run: str) -> Row | None:
        """A run's row, or None when the run is not done."""
        try:
            return Row.from_json((self.run_path(run) / ROW_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def rows(self) -> tuple[Row, ...]:
        """The rows of all runs that are done, by their names."""
        folder = self.path / "runs"
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        found = (self.row(name) for name in names)
        return tuple(row for row in found if row is not None)

    def finished_rows(self) -> tuple[Row, ...]:
        """The same. Raises ConfigError when there are none."""
        rows = self.rows()
        if not rows:
            raise ConfigError("holds no finished run", Place(str(self.path)))
        return rows

    def clear_run(self, run: str) -> Path:
        """An empty folder for a run: what an interrupted try left is removed."""
        path = self.run_path(run)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write_tables(self, rows: Sequence[Row], units: Mapping[str, str]) -> None:
        """`runs.csv` and `runs.parquet`, both whole."""
        columns = table_columns(rows, units)
        write_atomic(self.path / "runs.csv", to_csv(rows, columns))
        write_parquet(self.path / "runs.parquet", rows, columns)


def warnings_of(rows: Sequence[Row]) -> tuple[str, ...]:
    """What is wrong with runs that have results, a line each: the lab lost packets of its own, so
    that what they measured is partly the machine's doing."""
    return tuple(
        f"run {row.run}: the lab itself lost {lost:.0f} packets, this machine being too slow "
        "(metric overruns)"
        for row in rows
        if (lost := row.metrics.get("overruns"))
    )


def table_columns(rows: Sequence[Row], units: Mapping[str, str]) -> tuple[Column, ...]:
    """Parameters in the experiment's order, metrics in the table's order, drops by name,
    wall_time."""
    parameters = list(dict.fromkeys(name for row in rows for name in row.parameters))
    measured = list(dict.fromkeys(name for row in rows for name in row.metrics))
    ordered = [name for name in measured if not name.startswith("drops.")]
    ordered += sorted(name for name in measured if name.startswith("drops."))
    return (
        *(Column(name) for name in LEADING),
        *(Column(name, units.get(name, "")) for name in parameters),
        *(
            Column(
                name,
                unit_of(name),
                definition_of(name),
                zero=name.startswith("drops."),
            )
            for name in ordered
            if known(name)
        ),
        Column("wall_time", "s", "real time that the run took"),
    )


def cell(row: Row, column: Column) -> Scalar:
    """What a row has in a column; None for an empty cell."""
    if column.name in LEADING or column.name == "wall_time":
        value: Scalar = getattr(row, column.name)
        return value
    if column.name in row.parameters:
        return row.parameters[column.name]
    found = row.metrics.get(column.name)
    return 0.0 if found is None and column.zero else found


def to_csv(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    """The table as CSV (RFC 4180 with bare newlines); floats so that they read back the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        cells = [cell(row, column) for column in columns]
        writer.writerow(["" if value is None else value for value in cells])
    return text.getvalue()


def write_parquet(path: Path, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """The table as Parquet; each column's `unit` and `definition` stand in its field's metadata."""
    import pyarrow as pa
    from pyarrow import parquet

    arrays, fields = [], []
    for column in columns:
        values = [cell(row, column) for row in rows]
        kind = _arrow_kind(column, values)
        if kind == "string":
            values = [None if value is None else str(value) for value in values]
        arrow = pa.type_for_alias(kind)
        arrays.append(pa.array(values, type=arrow))
        note = {"unit": column.unit, "definition": column.definition}
        fields.append(pa.field(column.name, arrow, metadata={k: v for k, v in note.items() if v}))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    beside = path.with_suffix(".parquet.part")
    parquet.write_table(table, beside)
    beside.replace(path)


def _arrow_kind(column: Column, values: Sequence[Scalar]) -> str:
    """The narrowest type that holds a column; a metric is a float even where every cell is
    empty."""
    if known(column.name) or column.name == "wall_time":
        return "float64"
    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return "bool"
    if kinds == {int}:
        return "int64"
    return "float64" if kinds and kinds <= {int, float} else "string"


def write_atomic(path: Path, text: str) -> None:
    """Write beside and rename, so that a reader or a crash never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def machine_facts() -> dict[str, str | int | None]:
    """What the results were made on."""
    return {
        "host": platform.node(),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "python": sys.version.split()[0],
        "version": metadata.version("ipseclab"),
        "commit": source_commit(),
    }


def package_versions() -> dict[str, str]:
    """The installed versions of what results depend on."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def source_commit() -> str | None:
    """The commit that the package's own sources are at, `+` when they were changed since; None
    outside a clone."""
    root = Path(ipseclab.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        # A clone of another user's (a container, CI) is read as well: nothing in it is run.
        git = ["git", "-c", f"safe.directory={root}", "-C", str(root)]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@cache
def sources_digest() -> str:
    """The first octets of a digest over the package's own source files, wherever they came from: a
    clone at any commit, changed or not, or an installed package."""
    root = Path(ipseclab.__file__).resolve().parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:SOURCES_DIGITS]


def _program(manifest: Manifest) -> str:
    """Which ipseclab a manifest is of, for people; `+` says that it was not the commit's alone."""
    version, commit = (manifest.machine.get(name) for name in ("version", "commit"))
    at = f" at {str(commit)[:12]}{'+' * str(commit).endswith('+')}" if commit else ""
    return f"ipseclab {version or '?'}{at} (sources {manifest.sources or 'unknown'})"


def now_text() -> str:
    """The wall-clock time for a manifest."""
    return datetime.now(UTC).isoformat(timespec="seconds")
