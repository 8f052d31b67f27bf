"""A comparison as files for a CI service: JUnit XML, Markdown for a step's summary, and the two
JSON files that github-action-benchmark keeps a history of (customSmallerIsBetter and
customBiggerIsBetter)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from math import isfinite, isinf, isnan
from pathlib import Path
from typing import Any

from ipseclab.measure.compare.comparison import ALPHA, Change, Compared, Finished, counted
from ipseclab.measure.junit import Case, Outcome, junit_xml
from ipseclab.measure.metric import Better
from ipseclab.measure.results import Scalar, write_atomic
from ipseclab.measure.statistics import interval_95

JSON_FILE = "compare.json"
JUNIT_FILE = "compare.xml"
MARKDOWN_FILE = "compare.md"
SMALLER_FILE = "benchmark-smaller.json"
BIGGER_FILE = "benchmark-bigger.json"
MOST_LINES = 200
"""Of a Markdown table: a step's summary may be 1 MiB long."""
_SPECIAL = re.compile(r"[\\|`*_\[\]]")
_OUTCOMES = {Change.SLOWER: Outcome.FAILED, Change.TOO_FEW: Outcome.SKIPPED}
_MARKS = {Change.SLOWER: "🔴", Change.FASTER: "🟢", Change.SAME: "", Change.TOO_FEW: "⚪"}


def write_files(
    folder: Path,
    baseline: Finished,
    run: Finished,
    found: Sequence[Compared],
    threshold: float,
) -> None:
    """Write all of them; the folder is made."""
    title = f"{run.manifest.experiment}, world {run.manifest.world}"
    documents = {
        JSON_FILE: _json(_document(baseline, run, found, threshold)),
        JUNIT_FILE: to_junit(title, found),
        MARKDOWN_FILE: to_markdown(title, found, threshold),
        SMALLER_FILE: _json(to_benchmark(run, found, Better.LOWER)),
        BIGGER_FILE: _json(to_benchmark(run, found, Better.HIGHER)),
    }
    for name, text in documents.items():
        write_atomic(folder / name, text)


def in_words(one: Compared) -> str:
    """What was, what is, and how sure that is."""
    unit = f" {one.unit}" if one.unit not in ("", "1") else ""
    return (
        f"{value_text(one.baseline)} -> {value_text(one.median)}{unit}, {change_text(one.change)}, "
        f"effect {one.delta:+.2f}, q {q_text(one.q)}, {one.baseline_runs} and {one.runs} runs"
    )


def value_text(value: float) -> str:
    """A median with four digits; what no run had is none."""
    return "none" if isinf(value) else f"{value:.4g}"


def change_text(change: float) -> str:
    """A share with its sign in per cent."""
    if isnan(change) or isinf(change):
        return "more" if change > 0 else "less"
    return f"{change:+.1%}"


def q_text(q: float | None) -> str:
    """The corrected p; a dash where there was nothing to test."""
    return "-" if q is None else f"{q:.2g}"


def point_words(point: Mapping[str, Scalar]) -> str:
    """A point of the sweep on one line."""
    return " ".join(f"{name}={value}" for name, value in point.items())


def summary(found: Sequence[Compared], threshold: float) -> str:
    """How many of each verdict, and by which measure."""
    counts = ", ".join(f"{count} {change}" for change, count in counted(found).items())
    return (
        f"{len(found)} comparisons: {counts} (threshold {threshold:.3g}, "
        f"false discovery rate {ALPHA:g})"
    )


def to_junit(title: str, found: Sequence[Compared]) -> str:
    """A suite a metric, a case a point; slower is a failure, too few runs are skipped."""
    suites: dict[str, list[Case]] = {}
    for one in found:
        case = Case(
            point_words(one.point) or "the one point",
            _OUTCOMES.get(one.verdict, Outcome.PASSED),
            f"{one.verdict}: {in_words(one)}",
        )
        suites.setdefault(one.metric, []).append(case)
    return junit_xml(f"ipseclab compare: {title}", suites)


def to_markdown(title: str, found: Sequence[Compared], threshold: float) -> str:
    """What changed in a table, all of it below, folded."""
    changed = [one for one in found if one.verdict in (Change.SLOWER, Change.FASTER)]
    slower = any(one.verdict is Change.SLOWER for one in changed)
    lines = [
        f"### {'🔴' if slower else '🟢'} {_markdown(title)}",
        "",
        summary(found, threshold),
        "",
        *(_table(changed) if changed else []),
        "<details><summary>Everything compared</summary>",
        "",
        *_table(found),
        "</details>",
    ]
    return "\n".join(lines) + "\n"


def _table(found: Sequence[Compared]) -> list[str]:
    lines = [
        "| | metric | point | baseline | now | unit | change | effect | q | runs |",
        "|---|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for one in found[:MOST_LINES]:
        cells = (
            f"{_MARKS[one.verdict]} {one.verdict}",
            f"`{one.metric}`",
            _markdown(point_words(one.point)),
            value_text(one.baseline),
            value_text(one.median),
            one.unit,
            change_text(one.change),
            f"{one.delta:+.2f}",
            q_text(one.q),
            f"{one.baseline_runs} / {one.runs}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if len(found) > MOST_LINES:
        lines += ["", f"and {len(found) - MOST_LINES} more in {JSON_FILE}"]
    return [*lines, ""]


def _markdown(text: str) -> str:
    """Text that stays text in a cell of a Markdown table."""
    return _SPECIAL.sub(r"\\\g<0>", escape(text, quote=False))


def to_benchmark(run: Finished, found: Sequence[Compared], better: Better) -> list[dict[str, Any]]:
    """The run's medians as a benchmark each: the metrics that are better that way."""
    place = f"{run.manifest.experiment} {run.manifest.world}"
    entries = []
    for one in found:
        if one.better is not better or not isfinite(one.median):
            continue
        values = [
            value
            for row in run.rows
            if dict(row.parameters) == dict(one.point)
            and (value := row.metrics.get(one.metric)) is not None
        ]
        point = point_words(one.point)
        entries.append(
            {
                "name": f"{place}: {one.metric}" + (f" ({point})" if point else ""),
                "unit": one.unit,
                "value": one.median,
                "range": f"± {interval_95(values)[1]:.3g}",
                "extra": f"median of {one.runs} runs; {one.verdict}, {in_words(one)}",
            }
        )
    return entries


def _document(
    baseline: Finished, run: Finished, found: Sequence[Compared], threshold: float
) -> dict[str, Any]:
    return {
        "experiment": run.manifest.experiment,
        "world": run.manifest.world,
        "threshold": threshold,
        "alpha": ALPHA,
        "baseline": _side(baseline),
        "run": _side(run),
        "verdicts": {change.value: count for change, count in counted(found).items()},
        "comparisons": [_plain(one) for one in found],
    }


def _side(side: Finished) -> dict[str, Any]:
    names = ("version", "commit")
    program = {name: side.manifest.machine.get(name) for name in names}
    return {"seed": side.manifest.seed, "sources": side.manifest.sources, **program}


def _plain(one: Compared) -> dict[str, Any]:
    """As JSON holds it: a value that is not finite stands as none."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in asdict(one).items()
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=1, allow_nan=False) + "\n"
