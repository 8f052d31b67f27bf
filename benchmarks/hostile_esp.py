"""Hostile packets: a million into inbound ESP and AH processing, and whether it still works.

An attacker without keys mutates, replays and invents packets between honest ones, for each kind of
SA. Ends with exit code 1 when a hostile packet got through, an honest one was lost, or a drop was
not counted; an exception ends it with its traceback.

    python benchmarks/hostile_esp.py --quick
    python benchmarks/hostile_esp.py --packets 10000000 --seed 3
"""

from __future__ import annotations

import sys
from time import perf_counter

from rich.progress import track
from table import Row, arguments, publish

from ipseclab.lab.esp_siege import TARGETS, EspSiege

PACKETS, QUICK_PACKETS = 1_000_000, 20_000
PIECE = 10_000
"""Hostile packets of one pair of SAs; then another seed has its turn."""


def attacked(name: str, packets: int, seed: int, reasons: dict[str, int]) -> tuple[Row, bool]:
    """The row of one kind of SA, and whether all was as it must be; adds to `reasons`."""
    hostile = honest = dropped = 0
    works = True
    before = perf_counter()
    for number in range(-(-packets // PIECE)):
        siege = EspSiege(TARGETS[name], seed * 1_000_003 + number)
        siege.attack(min(PIECE, packets - number * PIECE))
        hostile, honest = hostile + siege.hostile, honest + siege.honest
        dropped += siege.dropped
        works = works and siege.works and siege.dropped == sum(siege.drops.values())
        for reason, count in siege.drops.items():
            reasons[reason] = reasons.get(reason, 0) + count
    row: Row = {
        "target": name,
        "hostile": hostile,
        "dropped": dropped,
        "honest": honest,
        "hostile/s": hostile / (perf_counter() - before),
        "works": "yes" if works else "NO",
    }
    return row, works


def main() -> None:
    """The command."""
    parser = arguments(__doc__)
    parser.add_argument("--packets", type=int, default=None, help="hostile packets in all")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    packets = options.packets or (QUICK_PACKETS if options.quick else PACKETS)
    share = -(-packets // len(TARGETS))
    reasons: dict[str, int] = {}
    found = [
        attacked(name, share, options.seed, reasons)
        for name in track(tuple(TARGETS), "hostile packets", transient=True)
    ]
    tables: dict[str, list[Row]] = {
        "Hostile packets into ESP and AH": [row for row, _ in found],
        "Why they were dropped": [
            {"reason": reason, "packets": reasons[reason]} for reason in sorted(reasons)
        ],
    }
    publish("hostile_esp", tables, options)
    if not all(works for _, works in found):
        sys.exit("an SA stopped working, or a drop was not counted")


if __name__ == "__main__":
    main()
