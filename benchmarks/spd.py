"""The SPD: seconds a packet finds its entry in, by how many entries there are.

Flows that are new each time (each is looked up) and flows that come again (the SPD's cache); every
entry is another pair of networks, and the one that matches is the last. The last column is by how
much an SPD of that size costs more than one of a single entry.

    python benchmarks/spd.py --quick --out results/benchmarks
"""

from __future__ import annotations

import random
from time import perf_counter

from table import Row, arguments, publish

from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import TrafficSelector

SIZES = (1, 10, 100, 1_000, 10_000)
FULL, QUICK = 15, 5
FLOWS = 2_000
"""Less than the SPD's cache holds."""


def spd_of(size: int) -> Spd:
    """An SPD of so many entries; the last one covers 10.255.255.0/24."""
    places = [*range(size - 1), 0xFFFF]
    return Spd(
        [
            Policy(
                f"p{place}",
                Action.BYPASS,
                (TrafficSelector.of_network(f"172.{16 + (place >> 12)}.{place >> 4 & 0xFF}.0/24"),),
                (TrafficSelector.of_network(f"10.{place >> 8}.{place & 0xFF}.0/24"),),
            )
            for place in places
        ]
    )


def flows_of(seed: int) -> list[Flow]:
    """Flows that the last entry matches."""
    rng = random.Random(seed)
    last = 0xFFFF
    source = bytes([172, 16 + (last >> 12), last >> 4 & 0xFF, 5])
    return [
        Flow(
            source,
            bytes([10, 255, 255, rng.randrange(256)]),
            IpProtocol.UDP,
            rng.getrandbits(16),
            n,
        )
        for n in range(FLOWS)
    ]


def seconds(spd: Spd, flows: list[Flow]) -> float:
    """Seconds a flow."""
    before = perf_counter()
    for flow in flows:
        assert spd.outbound(flow) is not None
    return (perf_counter() - before) / len(flows)


def measure(rounds: int) -> list[Row]:
    """The least of so many rounds, each size in turn."""
    spds = {size: spd_of(size) for size in SIZES}
    new = dict.fromkeys(SIZES, float("inf"))
    again = dict.fromkeys(SIZES, float("inf"))
    for number in range(rounds):
        flows = flows_of(number)
        for size, spd in spds.items():
            spd._outbound.clear()
            new[size] = min(new[size], seconds(spd, flows))
            again[size] = min(again[size], seconds(spd, flows))
    return [
        {
            "entries": size,
            "new_flow_ns": new[size] * 1e9,
            "known_flow_ns": again[size] * 1e9,
            "new_flow_ratio": new[size] / new[SIZES[0]],
            "known_flow_ratio": again[size] / again[SIZES[0]],
        }
        for size in SIZES
    ]


def main() -> None:
    """The command."""
    options = arguments(__doc__).parse_args()
    publish("spd", {"The SPD's look-up": measure(QUICK if options.quick else FULL)}, options)


if __name__ == "__main__":
    main()
