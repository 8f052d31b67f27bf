"""An experiment's expectations on the terminal: a table of verdicts, a line for each failure."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from ipseclab.measure.expect.judge import Judgement, Verdict, counted
from ipseclab.measure.expect.words import comparison_words, in_words, point_words
from ipseclab.measure.results import ResultsFolder

MOST_FAILURES = 20
"""Failures that are told one by one; the rest stands in expectations.json."""
_COLOURS = {Verdict.HELD: "green", Verdict.FAILED: "red", Verdict.NOT_JUDGED: "yellow"}


def expectations_table(judgements: Sequence[Judgement]) -> Table:
    """A line an expectation: at how many points it held, and the nearest call or the first
    failure."""
    table = Table(title="What was expected", title_justify="left")
    for name in ("expectation", "verdict", "points", "nearest", "where"):
        table.add_column(name, overflow="fold")
    for text, over, why in dict.fromkeys((j.expectation, j.over, j.why) for j in judgements):
        own = [j for j in judgements if (j.expectation, j.over, j.why) == (text, over, why)]
        counts = counted(own)
        told = _told(own)
        points = "all runs" if over == "all" else f"{counts['held']} of {len(own)}"
        table.add_row(
            escape(text),
            f"[{_COLOURS[told.verdict]}]{told.verdict}[/]",
            "-" if told.verdict is Verdict.NOT_JUDGED else points,
            escape(comparison_words(told) or told.reason),
            escape(point_words(told)) if len(own) > 1 else "",
        )
    return table


def failure_lines(judgements: Sequence[Judgement], folder: ResultsFolder) -> list[str]:
    """Which failed, where, measured against expected, and the run to look at."""
    failed = [one for one in judgements if one.verdict is Verdict.FAILED]
    lines = [_failure(one, folder) for one in failed[:MOST_FAILURES]]
    if len(failed) > MOST_FAILURES:
        lines.append(f"and {len(failed) - MOST_FAILURES} more in {folder.path}/expectations.json")
    return lines


def _failure(judgement: Judgement, folder: ResultsFolder) -> str:
    where = folder.run_path(judgement.run) if judgement.run else folder.path
    return (
        f"expectation failed: {judgement.expectation}: at {point_words(judgement)}: "
        f"{in_words(judgement)}: {where}"
    )


def _told(judgements: Sequence[Judgement]) -> Judgement:
    """The first that failed, else the one nearest to failing, as a share of what was expected."""
    for one in judgements:
        if one.verdict is Verdict.FAILED:
            return one
    return min(judgements, key=_nearness)


def _nearness(judgement: Judgement) -> float:
    measured, expected = judgement.measured, judgement.expected
    if measured is None or expected is None:
        return float("inf")
    return abs(measured - expected) / max(abs(expected), abs(measured), 1e-12)
