"""Hostile input: a million mutated messages into two gateways, and whether they still work.

Attackers without keys mutate what they saw of a whole conversation (handshake, rekeys, liveness,
ESP); a smaller part comes from peers that passed their authentication and seal their nonsense
properly, or that do so while the IKE_SA is being made. The gateways speak a drawn kit of extensions
(`lab/siege_kits.py`), so that every exchange is attacked. Ends with exit code 1 when an SA stopped
working or a table outgrew its limit; an exception of a gateway ends it with its traceback and the
seed.

    python benchmarks/hostile.py --quick
    python benchmarks/hostile.py --messages 10000000 --jobs 8 --seed 3

The attack is cut into pieces with seeds of their own: any number of processes does the same.
"""

from __future__ import annotations

import random
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

from rich.progress import Progress, TimeElapsedColumn
from table import Row, arguments, publish

from ipseclab.lab.siege import Siege, bad_handshakes, bad_peers, forged
from ipseclab.lab.siege_kits import LIMITS, draw

MESSAGES, QUICK_MESSAGES = 1_000_000, 20_000
BadPeers = Callable[[random.Random, int], Iterator[tuple[Siege, int]]]

SEALED_SHARE = 0.05
HANDSHAKE_SHARE = 0.01


@dataclass
class Tally:
    """What an attack came to."""

    messages: int = 0
    seconds: float = 0.0
    sieges: int = 0
    broken: int = 0
    rss: float = 0.0
    """MiB of the largest process."""
    largest: dict[str, int] = field(default_factory=dict)

    def add(self, siege: Siege, messages: int, works: bool) -> None:
        """Count what one pair of gateways went through."""
        self.messages += messages
        self.sieges += 1
        self.broken += not works
        self.rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        for name, size in siege.table_sizes().items():
            self.largest[name] = max(size, self.largest.get(name, 0))

    def join(self, other: Tally) -> None:
        """Count what another process has counted; seconds are those of all processes."""
        self.messages += other.messages
        self.seconds += other.seconds
        self.sieges += other.sieges
        self.broken += other.broken
        self.rss = max(self.rss, other.rss)
        for name, size in other.largest.items():
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
            "RSS_MiB": self.rss,
        }


def without_keys(rng: random.Random, count: int) -> Tally:
    """Forged datagrams; after them a packet must still pass both ways."""
    tally = Tally()
    start = perf_counter()
    siege = Siege(seed=rng.getrandbits(32), kit=draw(rng))
    siege.establish()
    for _ in range(count):
        siege.fire(forged(siege, rng))
    tally.add(siege, count, siege.works())
    tally.seconds = perf_counter() - start
    return tally


def by_peers(bad: BadPeers, rng: random.Random, count: int) -> Tally:
    """Sealed nonsense; after each peer the connection must be able to start anew."""
    tally = Tally()
    start = perf_counter()
    for siege, fired in bad(rng, count):
        tally.add(siege, fired, siege.recovers())
    tally.seconds = perf_counter() - start
    return tally


ATTACKERS = {
    "without keys": (without_keys, 10_000),
    "with keys": (partial(by_peers, bad_peers), 1_000),
    "in handshakes": (partial(by_peers, bad_handshakes), 1_000),
}
"""How each attacks, and how many messages of it are one piece of work."""


@dataclass(frozen=True)
class Piece:
    """A part of an attack with a seed of its own: the same whoever does it."""

    attacker: str
    seed: str
    count: int

    def run(self) -> Tally:
        """Do it; an exception of a gateway names the seed."""
        attack, _ = ATTACKERS[self.attacker]
        try:
            return attack(random.Random(self.seed), self.count)
        except BaseException as problem:
            problem.add_note(f"{self.attacker}, seed {self.seed!r}, {self.count} messages")
            raise


def pieces(attacker: str, seed: int, count: int) -> list[Piece]:
    """The attack cut into pieces."""
    size = ATTACKERS[attacker][1]
    return [
        Piece(attacker, f"{seed}/{attacker}/{at}", min(size, count - at))
        for at in range(0, count, size)
    ]


def attack(work: list[Piece], jobs: int, progress: Progress) -> dict[str, Tally]:
    """All pieces by so many processes; the tallies by attacker."""
    tallies = {piece.attacker: Tally() for piece in work}
    bars = {
        name: progress.add_task(name, total=sum(p.count for p in work if p.attacker == name))
        for name in tallies
    }
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(piece.run): piece for piece in work}
        for done in as_completed(running):
            piece = running.pop(done)
            tallies[piece.attacker].join(done.result())
            progress.advance(bars[piece.attacker], piece.count)
    return tallies


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--messages", type=int, metavar="N", help=f"default {MESSAGES:,}")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    options = parser.parse_args()
    default = QUICK_MESSAGES if options.quick else MESSAGES
    count = options.messages if options.messages is not None else default
    sealed, early = int(count * SEALED_SHARE), int(count * HANDSHAKE_SHARE)
    print(f"seed {options.seed}, {count:,} messages")
    work = [
        *pieces("without keys", options.seed, count - sealed - early),
        *pieces("with keys", options.seed, sealed),
        *pieces("in handshakes", options.seed, early),
    ]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        tallies = attack(work, options.jobs, progress)
    rows = [tally.row(attacker) for attacker, tally in tallies.items()]
    publish("hostile", {"Mutated messages into two gateways": rows}, options)
    if any(tally.broken or not tally.bounded for tally in tallies.values()):
        sys.exit("an SA stopped working or a table outgrew its limit")


if __name__ == "__main__":
    main()
