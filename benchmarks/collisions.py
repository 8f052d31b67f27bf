"""Rekeys that collide: both ends start at once while messages are delayed, doubled and lost.

Each schedule is drawn from a seed: what is rekeyed (the CHILD_SA, the IKE_SA, or one by one end and
the other by the other), when, and how bad the path is. At rest exactly one IKE_SA and one CHILD_SA
must be left, the same at both ends, nothing may have left in clear, and no probe may be missing.
Seeds that fail are printed, and the exit code is 1.

    python benchmarks/collisions.py --schedules 10000
    python benchmarks/collisions.py --seed 4711 --schedules 1
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from multiprocessing import Pool
from pathlib import Path

from rich.progress import Progress, TimeRemainingColumn
from table import Row, arguments, publish

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from rekey_schedule import Outcome, run

SCHEDULES, QUICK_SCHEDULES = 10_000, 600
CHUNK = 20


def outcomes(seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    """The outcome of every seed, in no particular order."""
    if jobs == 1:
        yield from map(run, seeds)
        return
    with Pool(jobs) as pool:
        yield from pool.imap_unordered(run, seeds, CHUNK)


def row(kind: str, loss: float, found: Sequence[Outcome]) -> Row:
    """A line of the table: all schedules of a kind at one loss."""
    return {
        "rekeyed": kind,
        "loss": loss,
        "schedules": len(found),
        "collided": sum(outcome.collided for outcome in found),
        "ike_messages": sum(outcome.ike_messages for outcome in found),
        "probes": sum(outcome.probes_sent for outcome in found),
        "probes_lost": sum(outcome.probes_lost for outcome in found),
        "failed": sum(bool(outcome.problem) for outcome in found),
    }


def rows(found: Sequence[Outcome]) -> list[Row]:
    """The table: by what was rekeyed and by loss."""
    groups: dict[tuple[str, float], list[Outcome]] = {}
    for outcome in found:
        groups.setdefault((outcome.schedule.kind, outcome.schedule.loss), []).append(outcome)
    return [row(kind, loss, group) for (kind, loss), group in sorted(groups.items())]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--schedules", type=int, metavar="N", help=f"default {SCHEDULES:,}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args()
    default = QUICK_SCHEDULES if options.quick else SCHEDULES
    count = options.schedules if options.schedules is not None else default
    seeds = range(options.seed, options.seed + count)
    found: list[Outcome] = []
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("schedules", total=count)
        for outcome in outcomes(seeds, options.jobs):
            found.append(outcome)
            progress.advance(task)
    publish("collisions", {f"{count:,} colliding rekeys": rows(found)}, options)
    failed = sorted((o for o in found if o.problem), key=lambda o: o.schedule.seed)
    for outcome in failed:
        print(f"seed {outcome.schedule.seed} ({outcome.schedule.kind}): {outcome.problem}")
    if failed:
        sys.exit(f"{len(failed)} of {count:,} schedules failed")


if __name__ == "__main__":
    main()
