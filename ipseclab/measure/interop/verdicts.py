"""From what a tunnel's life left behind to a verdict for each of its cells."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.measure.interop.cells import End, Logged, Outcome, Proof, Step, Traced, Tunnel
from ipseclab.measure.interop.life import ECHOES, LIFE_FILE, SETTLE_SECONDS, TRACE_FILE

LOST_REASONS = ("malformed", "no_sa", "bad_icv", "replayed", "selector_mismatch", "no_policy")
"""Why our gateway may not have dropped anything from an honest peer."""


class Verdict(StrEnum):
    """Of one cell."""

    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    """By strongSwan; how that was established is the cell's detail."""
    NOT_OURS = "not ours"
    """strongSwan has it and we do not."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of the results."""

    topic: str
    tunnel: str
    cell: str
    verdict: Verdict
    detail: str = ""
    seconds: float = 0.0


def judge(tunnel: Tunnel, folder: Path, code: int) -> tuple[Cell, ...]:
    """The verdicts of a tunnel whose life is over; `code` is how the sandbox ended."""
    life = _life(folder)
    done: Sequence[Mapping[str, Any]] = life["steps"]
    ended = "" if code == 0 else f"the lab ended with {code}"
    problem = str(life["problem"]) or ended
    cells = []
    for index, step in enumerate(tunnel.steps):
        if index < len(done):
            why, seconds = _step_problem(step, done[index]), float(done[index]["seconds"])
        else:
            why, seconds = f"not reached: {problem or 'the step before failed'}", 0.0
        cells.append(_cell(tunnel, step.title, why, seconds))
    ours = _records(folder, tunnel.node_of(End.WE))
    log = peer_log(folder)
    for proof in tunnel.proofs:
        cells.append(_cell(tunnel, proof.title, _proof_problem(proof, ours, log)))
    unclean = _unclean(ours) or (ended if len(done) == len(tunnel.steps) else "")
    if unclean:
        cells.append(_cell(tunnel, "nothing lost", unclean))
    return tuple(cells)


def as_lacking(tunnel: Tunnel, cells: Iterable[Cell], log: str) -> tuple[Cell, ...]:
    """The cells of a tunnel that strongSwan is said not to support, after it was tried: only what
    failed, with the line in its log that says so, counts as that."""
    lacking = tunnel.lacking
    assert lacking is not None, "only such tunnels"
    line = Logged("", lacking.log).found(log)
    found = []
    for cell in cells:
        if cell.verdict is Verdict.FAILED and line is not None:
            detail = f"{lacking.why}; its log: {line}"
            cell = replace(cell, verdict=Verdict.UNSUPPORTED, detail=detail)
        found.append(cell)
    return tuple(found)


def all_cells(tunnel: Tunnel, verdict: Verdict, detail: str) -> tuple[Cell, ...]:
    """The same verdict for each cell of a tunnel that was not tried."""
    return tuple(Cell(tunnel.topic, tunnel.title, title, verdict, detail) for title in tunnel.cells)


def peer_log(folder: Path) -> str:
    """What strongSwan wrote of a tunnel."""
    logs = sorted(folder.glob("logs/*/charon.log"))
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)


def _cell(tunnel: Tunnel, title: str, problem: str, seconds: float = 0.0) -> Cell:
    verdict = Verdict.FAILED if problem else Verdict.PASSED
    return Cell(tunnel.topic, tunnel.title, title, verdict, problem, seconds)


def _life(folder: Path) -> Mapping[str, Any]:
    try:
        life: Mapping[str, Any] = json.loads((folder / LIFE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"steps": [], "problem": "the lab did not come up"}
    return life


def _records(folder: Path, node: str) -> tuple[TraceRecord, ...]:
    path = folder / TRACE_FILE
    if not path.is_file():
        return ()
    return tuple(record for record in read_trace(path) if record.node == node)


def _step_problem(step: Step, done: Mapping[str, Any]) -> str:
    """What is wrong with a step; empty when nothing is."""
    if not done["settled"]:
        wanted = step.effect.outcome.value
        return f"no agreement on {wanted} within {SETTLE_SECONDS:.0f} s: {done['standings']}"
    if step.effect.outcome is not Outcome.PAIR:
        return ""
    for way, count in done["echoes"].items():
        if count != ECHOES:
            return f"{count} of {ECHOES} pings answered from {way.replace(' ', ' to ')}"
    for way, came in done["transfers"].items():
        if not came:
            return f"TCP from {way.replace(' ', ' to ')} did not bring what was sent"
    return ""


def _proof_problem(proof: Proof, ours: Sequence[TraceRecord], log: str) -> str:
    match proof:
        case Logged():
            return "" if proof.found(log) else f"strongSwan's log has no line {proof.pattern!r}"
        case Traced():
            fits = any(_fits(proof, record) for record in ours)
            return "" if fits else f"our trace has no {proof.event} with {dict(proof.fields)}"


def _fits(proof: Traced, record: TraceRecord) -> bool:
    if record.event != proof.event:
        return False
    if any(record.fields.get(key) != value for key, value in proof.fields):
        return False
    if proof.more_than is None:
        return True
    field, limit = proof.more_than
    number = record.fields.get(field)
    return isinstance(number, int) and number > limit


def _unclean(ours: Sequence[TraceRecord]) -> str:
    """What our gateway refused of an honest peer's packets."""
    lost: dict[str, int] = {}
    for record in ours:
        reason = record.fields.get("reason")
        if record.event == "packet_dropped" and reason in LOST_REASONS:
            lost[str(reason)] = lost.get(str(reason), 0) + 1
    return ", ".join(f"{count} packets dropped: {reason}" for reason, count in lost.items())
