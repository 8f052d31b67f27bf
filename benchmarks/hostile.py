"""Hostile input: a million mutated messages into two gateways, and whether they still work.

Attackers without keys mutate what they saw of a whole conversation (handshake, rekeys, liveness,
ESP); a smaller part comes from peers that passed their authentication and seal their nonsense
properly. Ends with exit code 1 when an SA stopped working or a table outgrew its limit; an
exception of a gateway ends it with its traceback and the seed.

    python benchmarks/hostile.py --quick
    python benchmarks/hostile.py --messages 1000000 --seed 3
"""

from __future__ import annotations

import random
import resource
import sys
from dataclasses import dataclass, field
from time import perf_counter

from rich.progress import Progress
from table import Row, arguments, publish

from ipseclab.lab.siege import LIMITS, Siege, bad_peers, forged

MESSAGES, QUICK_MESSAGES = 1_000_000, 20_000
SEALED_SHARE = 0.05
FORGED_PER_SIEGE = 10_000


@dataclass
class Tally:
    """What an attack came to."""

    messages: int = 0
    seconds: float = 0.0
    sieges: int = 0
    broken: int = 0
    largest: dict[str, int] = field(default_factory=dict)

    def add(self, siege: Siege, messages: int, works: bool) -> None:
        """Count what one pair of gateways went through."""
        self.messages += messages
        self.sieges += 1
        self.broken += not works
        for name, size in siege.table_sizes().items():
            self.largest[name] = max(size, self.largest.get(name, 0))

    @property
    def bounded(self) -> bool:
        """True when no table was ever larger than its limit."""
        return (
            self.largest["half_open"] <= LIMITS.half_open
            and self.largest["ike_sas"] <= LIMITS.ike_sas
        )

    def row(self, attacker: str) -> Row:
        """The line of the table; the sizes are the largest that were seen."""
        return {
            "attacker": attacker,
            "messages": self.messages,
            "messages/s": self.messages / self.seconds,
            "pairs": self.sieges,
            "broken": self.broken,
            "IKE_SAs": self.largest["ike_sas"],
            "half_open": self.largest["half_open"],
            "RSS_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def without_keys(rng: random.Random, count: int, progress: Progress) -> Tally:
    """Forged datagrams; after each ten thousand a packet must still pass both ways."""
    tally = Tally()
    task = progress.add_task("without keys", total=count)
    start = perf_counter()
    while tally.messages < count:
        siege = Siege(seed=rng.getrandbits(32))
        siege.establish()
        size = min(FORGED_PER_SIEGE, count - tally.messages)
        for _ in range(size):
            siege.fire(forged(siege, rng))
        tally.add(siege, size, siege.works())
        progress.advance(task, size)
    tally.seconds = perf_counter() - start
    return tally


def with_keys(rng: random.Random, count: int, progress: Progress) -> Tally:
    """Sealed nonsense; afterwards the connection must be able to start anew."""
    tally = Tally()
    task = progress.add_task("with keys", total=count)
    start = perf_counter()
    for siege, fired in bad_peers(rng, count):
        tally.add(siege, fired, siege.recovers())
        progress.advance(task, fired)
    tally.seconds = perf_counter() - start
    return tally


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int, metavar="N", help=f"default {MESSAGES:,}")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    options = parser.parse_args()
    default = QUICK_MESSAGES if options.quick else MESSAGES
    count = options.messages if options.messages is not None else default
    sealed = int(count * SEALED_SHARE)
    print(f"seed {options.seed}, {count:,} messages")
    with Progress(transient=True) as progress:
        tallies = {
            "without keys": without_keys(
                random.Random(f"{options.seed}/forged"), count - sealed, progress
            ),
            "with keys": with_keys(random.Random(f"{options.seed}/sealed"), sealed, progress),
        }
    rows = [tally.row(attacker) for attacker, tally in tallies.items()]
    publish("hostile", {"Mutated messages into two gateways": rows}, options)
    if any(tally.broken or not tally.bounded for tally in tallies.values()):
        sys.exit("an SA stopped working or a table outgrew its limit")


if __name__ == "__main__":
    main()
