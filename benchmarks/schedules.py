"""Random schedules by seed: rekeys, deletes, restarts, moves and traffic under a bad post.

Each seed is a schedule of its own (`ipseclab/lab/schedules`), run under the invariants. What was
done is noted chunk by chunk in DIR/schedules_chunks.csv, so that an interrupted run goes on where
it was when the same command is given again; findings are in DIR/schedules_findings.csv. A schedule
that breaks an invariant is shrunk to the shortest that still does, and printed with its ladder.
Exit code 1 when one was found.

    python benchmarks/schedules.py --quick
    python benchmarks/schedules.py --schedules 1000000 --jobs 2
    python benchmarks/schedules.py --show 4711
"""

from __future__ import annotations

import argparse
import csv
import gc
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from time import process_time
from typing import Any

from rich.progress import Progress, TimeRemainingColumn
from table import Row, arguments, publish

from ipseclab.lab.schedules.schedule import Outcome, draw, run
from ipseclab.lab.schedules.shrink import shrink
from ipseclab.lab.trace import Trace
from ipseclab.measure.results import source_commit
from ipseclab.present.ladder import ladder

SCHEDULES, QUICK_SCHEDULES = 1_000_000, 1_000
CHUNK = 500
COLLECT_EVERY = (50_000, 20, 100)
"""Objects made, then collections of one generation before one of the next."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of seeds that was run."""

    first_seed: int
    schedules: int
    messages: int
    findings: int
    process_seconds: float
    commit: str
    """Of the program that ran it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A schedule that broke an invariant, and the shortest one that does."""

    seed: int
    invariant: str
    problem: str
    shortest: str


def work(seeds: range) -> tuple[Chunk, list[Finding]]:
    """Run those seeds."""
    start, messages = process_time(), 0
    findings: list[Finding] = []
    for seed in seeds:
        outcome = run(draw(seed))
        messages += outcome.messages
        if outcome.invariant:
            shortest = shrink(outcome.schedule)
            lines = "; ".join(" ".join(line.split()) for line in shortest.schedule.lines())
            findings.append(Finding(seed, outcome.invariant, outcome.problem, lines))
    seconds = round(process_time() - start, 3)
    commit = _commit()
    return Chunk(seeds.start, len(seeds), messages, len(findings), seconds, commit), findings


@cache
def _commit() -> str:
    return (source_commit() or "none")[:12]


def _begin_worker() -> None:
    """Prepared worlds stay for good, and what a schedule leaves behind is little: a look at all
    that there is for cycles is seldom worth it."""
    gc.set_threshold(*COLLECT_EVERY)


def chunks(first: int, count: int, done: Sequence[Chunk]) -> list[range]:
    """The ranges of seeds that are still to be run."""
    over = {seed for chunk in done for seed in range(chunk.first_seed, _end(chunk), CHUNK)}
    starts = range(first, first + count, CHUNK)
    return [range(at, min(at + CHUNK, first + count)) for at in starts if at not in over]


def _end(chunk: Chunk) -> int:
    return chunk.first_seed + chunk.schedules


def results(todo: Sequence[range], jobs: int) -> Iterator[tuple[Chunk, list[Finding]]]:
    """What came of each range, in no particular order."""
    if jobs == 1:
        yield from map(work, todo)
        return
    with Pool(jobs, initializer=_begin_worker) as pool:
        yield from pool.imap_unordered(work, todo)


def read(path: Path, kind: type[Any]) -> list[Any]:
    """The rows that an earlier run has left; a line that was cut off is left out."""
    if not path.exists():
        return []
    types = {"int": int, "float": float, "str": str}
    fields = {name: types[str(f.type)] for name, f in kind.__dataclass_fields__.items()}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if None not in row.values()]
    return [kind(**{name: made(row[name]) for name, made in fields.items()}) for row in rows]


def append(path: Path, rows: Sequence[Chunk | Finding]) -> None:
    """Add rows, under a header when the file is new."""
    if not rows:
        return
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        if new:
            writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def show(outcome: Outcome) -> None:
    """A schedule, what broke, and the messages."""
    trace = Trace()
    again = run(outcome.schedule, trace=trace)
    print(f"seed {again.schedule.seed}: {again.invariant or 'all is well'} {again.problem}")
    print(*again.schedule.lines(), sep="\n")
    print(*ladder(trace.records, times=True), sep="\n")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--schedules", type=int, metavar="N", help=f"default {SCHEDULES:,}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--show", type=int, metavar="SEED", help="one schedule, as a ladder")
    options = parser.parse_args()
    if options.show is not None:
        outcome = run(draw(options.show))
        show(outcome if not outcome.invariant else shrink(outcome.schedule))
        sys.exit(1 if outcome.invariant else 0)
    default = QUICK_SCHEDULES if options.quick else SCHEDULES
    count = options.schedules if options.schedules is not None else default
    sys.exit(1 if run_all(options, options.seed, count) else 0)


def run_all(options: argparse.Namespace, first: int, count: int) -> int:
    """Run all seeds that have not been run; how many findings there are."""
    options.out.mkdir(parents=True, exist_ok=True)
    chunk_file = options.out / "schedules_chunks.csv"
    finding_file = options.out / "schedules_findings.csv"
    earlier = read(chunk_file, Chunk)
    todo = chunks(first, count, earlier)
    if len(todo) * CHUNK < count:
        print(f"{count - sum(map(len, todo)):,} schedules were run before")
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("schedules", total=sum(map(len, todo)))
        for chunk, findings in results(todo, options.jobs):
            append(finding_file, findings)
            append(chunk_file, [chunk])
            progress.advance(task, chunk.schedules)
    return report(options, first, count, chunk_file, finding_file)


def report(
    options: argparse.Namespace, first: int, count: int, chunk_file: Path, finding_file: Path
) -> int:
    """The table of all that lies within the seeds asked for, and each finding as a ladder."""
    asked = range(first, first + count)
    done = [chunk for chunk in read(chunk_file, Chunk) if chunk.first_seed in asked]
    found = [finding for finding in read(finding_file, Finding) if finding.seed in asked]
    commits = dict.fromkeys(chunk.commit for chunk in done)
    rows = [_row([chunk for chunk in done if chunk.commit == commit]) for commit in commits]
    if not rows:
        return 0
    publish("schedules", {"Random schedules, by the commit that ran them": rows}, options)
    for finding in sorted(found, key=lambda finding: finding.seed):
        show(shrink(draw(finding.seed)))
    return len(found)


def _row(done: Sequence[Chunk]) -> Row:
    """What one commit has run."""
    schedules, seconds = sum(c.schedules for c in done), sum(c.process_seconds for c in done)
    return {
        "commit": done[0].commit,
        "schedules": schedules,
        "seeds": _ranges(done),
        "messages": sum(chunk.messages for chunk in done),
        "findings": sum(chunk.findings for chunk in done),
        "process_seconds": seconds,
        "schedules/s": schedules / seconds if seconds else 0.0,
    }


def _ranges(done: Sequence[Chunk]) -> str:
    """The seeds of those chunks."""
    found: list[list[int]] = []
    for chunk in sorted(done, key=lambda chunk: chunk.first_seed):
        if found and found[-1][1] == chunk.first_seed:
            found[-1][1] = _end(chunk)
        else:
            found.append([chunk.first_seed, _end(chunk)])
    return " ".join(f"{first}-{end - 1}" for first, end in found)


if __name__ == "__main__":
    main()
