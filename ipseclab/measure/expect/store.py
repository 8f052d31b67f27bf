"""Judgements as files of a results folder: JSON, Parquet (a row a judgement) and JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from ipseclab.errors import ConfigError, Place
from ipseclab.measure.expect.judge import Judgement, Verdict, counted
from ipseclab.measure.expect.words import in_words, point_words
from ipseclab.measure.junit import Case, Outcome, junit_xml
from ipseclab.measure.results import write_atomic

JSON_FILE = "expectations.json"
PARQUET_FILE = "expectations.parquet"
JUNIT_FILE = "expectations.xml"
_OUTCOMES = {Verdict.HELD: Outcome.PASSED, Verdict.FAILED: Outcome.FAILED}


def store_judgements(folder: Path, experiment: str, judgements: Sequence[Judgement]) -> None:
    """Write the three files."""
    documents = [_document(one) for one in judgements]
    whole = {"experiment": experiment, "verdicts": counted(judgements), "judgements": documents}
    write_atomic(folder / JSON_FILE, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    _write_parquet(folder / PARQUET_FILE, documents)
    write_atomic(folder / JUNIT_FILE, to_junit(experiment, judgements))


def forget_judgements(folder: Path) -> None:
    """Remove what was judged before: runs are about to be added."""
    for name in (JSON_FILE, PARQUET_FILE, JUNIT_FILE):
        (folder / name).unlink(missing_ok=True)


def read_judgements(folder: Path) -> tuple[Judgement, ...]:
    """What a folder's expectations came to; none where there are none. Raises ConfigError."""
    path = folder / JSON_FILE
    try:
        documents = json.loads(path.read_text(encoding="utf-8"))["judgements"]
        return tuple(
            Judgement(**{**document, "verdict": Verdict(document["verdict"])})
            for document in documents
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ConfigError(f"not what run stored: {problem}", Place(str(path))) from None


def to_junit(experiment: str, judgements: Sequence[Judgement]) -> str:
    """A suite an expectation, a case a point."""
    suites: dict[str, list[Case]] = {}
    for one in judgements:
        case = Case(point_words(one), _OUTCOMES.get(one.verdict, Outcome.SKIPPED), in_words(one))
        suites.setdefault(one.expectation, []).append(case)
    return junit_xml(f"ipseclab {experiment}", suites)


def _document(judgement: Judgement) -> dict[str, Any]:
    """As JSON holds it: what is infinite (a run without a value) is told by the reason alone."""
    document = asdict(judgement)
    for name in ("measured", "expected"):
        value = document[name]
        document[name] = value if value is not None and isfinite(value) else None
    return document


def _write_parquet(path: Path, documents: Sequence[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{**document, "point": json.dumps(document["point"])} for document in documents]
    kinds = {"measured": pa.float64(), "expected": pa.float64()}
    kinds |= {"runs": pa.int64(), "runs_failed": pa.int64()}
    names = list(Judgement.__dataclass_fields__)
    columns = [
        pa.array([row[name] for row in rows], type=kinds.get(name, pa.string())) for name in names
    ]
    beside = path.with_name(path.name + ".part")
    parquet.write_table(pa.Table.from_arrays(columns, names=names), beside)
    beside.replace(path)
