"""What the dearest messages cost a gateway: CPU time of each, against that of the honest message of
the same exchange.

At each moment of a conversation (each exchange, request and response) the message that is about to
arrive is made as dear as can be, in each way that `lab/costly.py` knows, whole and in fragments;
and it is mutated many times, in all the ways of `lab/mutate.py`. Every one arrives at a pair of
gateways of its own. CPU time is the least of several, so that a busy machine matters little. Ends
with exit code 1 when an input costs more than ten times the honest one.

    python benchmarks/message_cost.py --quick
    python benchmarks/message_cost.py --out results/benchmarks
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from functools import partial
from time import thread_time

from rich.progress import track
from table import Row, arguments, publish

from ipseclab.lab.costly import LARGEST, Moment, burdened, burdens, in_fragments, moments, mutated
from ipseclab.lab.siege import Shot, Siege

WANTED = 10.0
"""Times the honest message of the same exchange."""
REPEATS, QUICK_REPEATS = 5, 3
MUTATIONS, QUICK_MUTATIONS = 400, 40
FRAGMENTS = 200
AGAIN = 0.5
"""Of what is wanted: from there on a ratio is measured once more, with more repeats."""

Change = Callable[[Siege, Shot], Shot | None]


def cost(moment: Moment, change: Change, repeats: int) -> float | None:
    """CPU seconds that the changed message takes, the least of several; None where there is no such
    message."""
    taken = []
    for _ in range(repeats):
        siege, shot = moment.reach()
        changed = change(siege, shot)
        if changed is None:
            return None
        taken.append(received(siege, changed))
    return min(taken)


def received(siege: Siege, shot: Shot) -> float:
    """CPU seconds of the victim for one datagram."""
    receive = siege.gateways[shot.victim].receive_datagram
    before = thread_time()
    receive(shot.path, shot.data, siege.now)
    return thread_time() - before


def burden_costs(moment: Moment, repeats: int) -> dict[str, float]:
    """What each burden costs, by its name."""
    costs: dict[str, float] = {}
    for name, burden in burdens().items():
        taken = cost(moment, partial(burdened, burden=burden, rng=random.Random(0)), repeats)
        if taken is not None:
            costs[name] = taken
    return costs


def fragment_cost(moment: Moment, repeats: int) -> float | None:
    """The dearest of the fragments of the largest message."""
    largest = burdens()[LARGEST]
    taken = []
    for _ in range(repeats):
        siege, shot = moment.reach()
        shots = in_fragments(siege, shot, largest, FRAGMENTS, random.Random(0))
        if not shots:
            return None
        taken.append(max(received(siege, one) for one in shots))
    return min(taken)


def mutation_cost(moment: Moment, count: int, limit: float, repeats: int) -> float:
    """The dearest of so many mutations; those above `limit` seconds are measured again."""
    worst = 0.0
    for seed in range(count):
        taken = cost(moment, partial(mutated, rng=random.Random(seed)), 1)
        assert taken is not None
        for _ in range(repeats if taken > limit else 0):
            again = cost(moment, partial(mutated, rng=random.Random(seed)), 1)
            assert again is not None
            taken = min(taken, again)
        worst = max(worst, taken)
    return worst


def row(moment: Moment, repeats: int, mutations: int) -> Row:
    """A moment's line: the honest message, the dearest one, mutations, fragments."""
    costs = burden_costs(moment, repeats)
    honest = costs.pop("honest")
    name = max(costs, key=costs.__getitem__)
    fragment = fragment_cost(moment, repeats)
    mutation = mutation_cost(moment, mutations, AGAIN * WANTED * honest, 2 * repeats)
    return {
        "message": moment.name,
        "honest_us": honest * 1e6,
        "dearest": name,
        "dearest_us": costs[name] * 1e6,
        "ratio": costs[name] / honest,
        "mutation_ratio": mutation / honest,
        "fragment_ratio": fragment / honest if fragment is not None else "",
        "at_most": WANTED,
    }


def dear(moment: Moment, costs: dict[str, float]) -> list[Row]:
    """For a closer look: every burden of a moment, the dearest first."""
    honest = costs["honest"]
    found = sorted(costs.items(), key=lambda item: -item[1])
    return [
        {"message": moment.name, "burden": name, "us": taken * 1e6, "ratio": taken / honest}
        for name, taken in found
    ]


def _ratios(found: Row) -> list[float]:
    named = (found[key] for key in ("ratio", "mutation_ratio", "fragment_ratio"))
    return [float(ratio) for ratio in named if ratio != ""]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--message", metavar="NAME", help="each burden of the messages so named")
    options = parser.parse_args()
    repeats = QUICK_REPEATS if options.quick else REPEATS
    mutations = QUICK_MUTATIONS if options.quick else MUTATIONS
    gc.disable()  # what others left behind is not this message's
    if options.message is not None:
        chosen = [moment for moment in moments() if options.message in moment.name]
        rows = [line for one in chosen for line in dear(one, burden_costs(one, repeats))]
        publish("message_cost_each", {"Each burden": rows}, options)
        return
    rows = []
    for moment in track(moments(), "messages", transient=True):
        rows.append(row(moment, repeats, mutations))
        gc.collect()
    publish("message_cost", {"CPU of the dearest messages": rows}, options)
    if any(ratio > WANTED for found in rows for ratio in _ratios(found)):
        sys.exit(f"a message costs more than {WANTED:.0f} times the honest one")


if __name__ == "__main__":
    main()
