"""IKE_SA_INIT requests from spoofed addresses at a gateway with live tunnels (RFC 8019).

Each rate is a row: what share of the tunnels' packets came through, the most half-open IKE_SAs that
there ever were, whether a real client got in. Virtual time, CPU costs by the default table.

    python benchmarks/flood.py --quick
    python benchmarks/flood.py
"""

from __future__ import annotations

import sys
from time import perf_counter

from table import Row, arguments, publish

from ipseclab.ike.config import IkeLimits
from ipseclab.sim.flood import FloodResult, run_flood

MESSAGES, QUICK_MESSAGES = 100_000, 5_000
TUNNELS, QUICK_TUNNELS = 100, 20
RATES = (125.0, 250.0, 500.0)
"""Requests a second; a gateway of the default table is busy with some 800."""
WANTED_GOODPUT = 0.9


def main() -> None:
    options = arguments(__doc__).parse_args()
    limits = IkeLimits()
    rows: list[Row] = []
    good = True
    for rate in RATES:
        start = perf_counter()
        result = run_flood(
            tunnels=QUICK_TUNNELS if options.quick else TUNNELS,
            messages=QUICK_MESSAGES if options.quick else MESSAGES,
            rate=rate,
            packets=2.0,
            limits=limits,
        )
        good = good and _good(result, limits)
        rows.append(_row(rate, result, perf_counter() - start))
    publish("flood", {"IKE_SA_INIT from spoofed addresses": rows}, options)
    if not good:
        sys.exit(
            "the tunnels lost more than a tenth, memory outgrew its limit, or no client got in"
        )


def _good(result: FloodResult, limits: IkeLimits) -> bool:
    bounded = result.most_half_open <= limits.half_open
    return result.goodput >= WANTED_GOODPUT and bounded and result.client_got_in


def _row(rate: float, result: FloodResult, seconds: float) -> Row:
    return {
        "requests/s": rate,
        "requests": result.flooded,
        "goodput": result.goodput,
        "packets": result.offered,
        "half_open": result.most_half_open,
        "IKE_SAs": result.most_ike_sas,
        "demanded": result.demanded,
        "client_in": "yes" if result.client_got_in else "no",
        "wall_s": seconds,
    }


if __name__ == "__main__":
    main()
