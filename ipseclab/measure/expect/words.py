"""A judgement in words, one line."""

from __future__ import annotations

from ipseclab.measure.expect.judge import Judgement, Verdict


def in_words(judgement: Judgement) -> str:
    """What was measured against what was expected, and in which runs."""
    if judgement.verdict is Verdict.NOT_JUDGED:
        return judgement.reason
    words = "; ".join(filter(None, (comparison_words(judgement), judgement.reason)))
    if judgement.runs_failed:
        words += f", in {judgement.runs_failed} of {judgement.runs} runs"
    if judgement.verdict is Verdict.FAILED and judgement.why:
        words += f" ({judgement.why})"
    return words


def comparison_words(judgement: Judgement) -> str:
    """`0.1316 s, expected < 0.088 s`; empty where nothing could be compared."""
    if not judgement.operator:
        return ""
    unit = f" {judgement.unit}" if judgement.unit else ""
    measured, expected = (
        "no value" if value is None or abs(value) == float("inf") else f"{value:.6g}{unit}"
        for value in (judgement.measured, judgement.expected)
    )
    return f"{measured}, expected {judgement.operator} {expected}"


def point_words(judgement: Judgement) -> str:
    """Where: the point's parameters, or what the runs of all points have in common."""
    words = " ".join(f"{name}={value}" for name, value in judgement.point.items())
    if judgement.over == "all":
        return words or "all runs"
    return words or "the one point"
