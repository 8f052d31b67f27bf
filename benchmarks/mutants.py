"""How soon random schedules find a core that was broken on purpose (`mutation.py`).

Seeds are tried from the first on until one breaks an invariant. Exit code 1 when a mutant lives
through all of them.

    python benchmarks/mutants.py --quick
    python benchmarks/mutants.py --most 5000 --jobs 2
    python benchmarks/mutants.py --only stale-outbound
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from mutation import MUTANTS, NOBODY, Hunt, Mutant
from table import Row, arguments, publish

MOST, QUICK_MOST = 5000, 300


def hunted(most: int, mutant: Mutant) -> Hunt:
    """What a process of its own finds."""
    script = Path(__file__).with_name("mutation.py")
    command = [sys.executable, str(script), str(most), mutant.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Hunt(**json.loads(done.stdout))


def rows(mutants: Sequence[Mutant], hunts: Sequence[Hunt]) -> list[Row]:
    """A line a mutant."""
    return [
        {
            "mutant": mutant.name,
            "what_is_broken": mutant.says,
            "seeds": found.seeds,
            "invariant": found.invariant,
        }
        for mutant, found in zip(mutants, hunts, strict=True)
    ]


def main() -> None:
    parser = arguments(__doc__)
    known = [mutant.name for mutant in MUTANTS]
    parser.add_argument("--most", type=int, metavar="N", help=f"seeds, default {MOST:,}")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help="these mutants")
    options = parser.parse_args()
    most = options.most if options.most is not None else QUICK_MOST if options.quick else MOST
    chosen = [mutant for mutant in MUTANTS if not options.only or mutant.name in options.only]
    with ThreadPool(options.jobs) as pool:
        hunts = pool.map(partial(hunted, most), chosen, chunksize=1)
    title = "Mutants of the core under random schedules"
    publish("mutants", {title: rows(chosen, hunts)}, options)
    for mutant, found in zip(chosen, hunts, strict=True):
        print(f"{mutant.name}: {found.problem}" if found.problem else f"{mutant.name}: not found")
    sys.exit(1 if any(found.invariant == NOBODY for found in hunts) else 0)


if __name__ == "__main__":
    main()
