"""Every order of two exchanges that overlap, for each pair of what two ends may want.

For each pair the number of orders, of different states on the way, and the distinct end states; the
tables of docs/explorer.md are what `--write` makes of them. Exit code 1 when an invariant is broken
in any order, which is then printed.

    python benchmarks/explore.py --quick
    python benchmarks/explore.py --seeds 4 --write docs/explorer.md
    python benchmarks/explore.py --seeds 4 --further --write docs/explorer.md
    python benchmarks/explore.py --pair rekey_child+create_child rekey_ike --losses 2 --window 4
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from multiprocessing import Pool
from pathlib import Path

from rich.progress import Progress, TimeRemainingColumn
from table import Row, arguments, publish

from ipseclab.lab.schedules.explore import JOINT, OPERATIONS, Budget, Found, explore
from ipseclab.lab.schedules.parties import Terms

SEEDS, QUICK_SEEDS = 4, 1
MARK = "<!-- tables: python benchmarks/explore.py --write docs/explorer.md -->"


def walk(budget: Budget, terms: Terms, task: tuple[str, str, int]) -> Found:
    """One pair with one set of nonces."""
    a, b, seed = task
    return explore(a, b, seed=seed, budget=budget, terms=terms)


def results(
    tasks: Sequence[tuple[str, str, int]], budget: Budget, terms: Terms, jobs: int
) -> Iterator[Found]:
    """What each walk found, in order."""
    work = partial(walk, budget, terms)
    if jobs == 1:
        yield from map(work, tasks)
        return
    with Pool(jobs) as pool:
        yield from pool.imap(work, tasks)


def rows(found: Sequence[Found]) -> list[Row]:
    """A line a pair: sums over its seeds, and every end state that was met."""
    pairs = dict.fromkeys((walk.a, walk.b) for walk in found)
    return [_row(a, b, [w for w in found if (w.a, w.b) == (a, b)]) for a, b in pairs]


def _row(a: str, b: str, walks: Sequence[Found]) -> Row:
    ends = sorted({end for walk in walks for end in walk.ends})
    return {
        "a": a,
        "b": b,
        "orders": sum(walk.orders for walk in walks),
        "states": sum(walk.states for walk in walks),
        "histories": sum(walk.histories for walk in walks),
        "ends": len(ends),
        "end_states": "; ".join(ends),
        "broken": sum(bool(walk.violation) for walk in walks),
    }


def write(path: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """Put the tables into a page, behind its mark, each in place of the one of its title."""
    text = path.read_text(encoding="utf-8")
    head, _, below = text.partition(MARK)
    sections = dict(part.split("\n", 1) for part in below.split("\n## ")[1:])
    for title, table in tables.items():
        cells = [list(table[0]), ["---"] * len(table[0])]
        cells += [[_cell(value) for value in row.values()] for row in table]
        lines = [f"| {' | '.join(line)} |" for line in cells]
        sections[title] = "\n" + "\n".join(lines) + "\n"
    parts = [f"\n## {title}\n{body}" for title, body in sections.items()]
    path.write_text(head + MARK + "\n" + "".join(parts), encoding="utf-8")


def _cell(value: str | int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, metavar="N", help=f"nonces, default {SEEDS}")
    parser.add_argument("--losses", type=int, default=1, metavar="N", help="in one order")
    parser.add_argument("--doubles", type=int, default=1, metavar="N", help="in one order")
    parser.add_argument(
        "--late", type=int, default=0, metavar="N", help="deadlines that messages miss"
    )
    parser.add_argument("--window", type=int, default=1, metavar="N", help="requests at once")
    parser.add_argument(
        "--further", action="store_true", help="each SA takes two key exchanges (RFC 9370)"
    )
    parser.add_argument("--pair", nargs=2, metavar="WHAT", help="operations, several with a +")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--write", metavar="PAGE", help="put the tables there too")
    options = parser.parse_args()
    for what in options.pair or ():
        if not set(what.split(JOINT)) <= set(OPERATIONS):
            parser.error(f"{what!r} is none of {', '.join(OPERATIONS)}")
    count = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)
    pairs = (
        [tuple(options.pair)] if options.pair else [(a, b) for a in OPERATIONS for b in OPERATIONS]
    )
    tasks = [(a, b, seed) for a, b in pairs for seed in range(1, count + 1)]
    budget = Budget(options.losses, options.doubles, options.late)
    terms = Terms(window=options.window, further=options.further)
    found: list[Found] = []
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("walks", total=len(tasks))
        for walked in results(tasks, budget, terms, options.jobs):
            found.append(walked)
            progress.advance(bar)
    title = f"Up to {_some(budget.losses, 'loss', 'es')}, {_some(budget.doubles, 'duplicate', 's')}"
    if budget.late:
        title += f", {_some(budget.late, 'missed deadline', 's')}"
    title += f", windows of {terms.window}" if terms.window > 1 else ""
    title += ", two key exchanges" if terms.further else ""
    tables = {f"{title}, {_some(count, 'set', 's')} of nonces": rows(found)}
    publish("explore", tables, options)
    if options.write is not None:
        write(Path(options.write), tables)
    broken = [walk for walk in found if walk.violation]
    for walked in broken:
        print(f"{walked.a} at a, {walked.b} at b, seed {walked.seed}: {walked.violation}")
        print(*(f"  {step}" for step in walked.story), sep="\n")
    sys.exit(1 if broken else 0)


def _some(count: int, what: str, plural: str) -> str:
    return f"{count} {what}{plural if count != 1 else ''}"


if __name__ == "__main__":
    main()
