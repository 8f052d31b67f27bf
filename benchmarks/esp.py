"""ESP: packets/s and bit/s through the core by transform and size; then through two gateways of
ours and two of strongSwan's in the same run.

The core: two datapaths in one process, one core, no I/O; each packet goes through SPD, SAD and ESP,
sealed by one and opened by the other. A gateway that forwards does one of the two for each packet.

The gateways: processes in namespaces on bare links, ESP in UDP, AES-128-GCM, ours with the fast
path (`emu.fastpath`); each run is a lab of
its own in which every system has its turn, and figures are medians over the runs. Where namespaces
or strongSwan are missing, that part is left out and said to be.

    python benchmarks/esp.py --quick --out results/benchmarks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from gateways import CLEAR, LARGE, OURS, SMALL, STRONGSWAN
from rich.progress import track
from sandboxed import call_in_sandbox
from table import Row, arguments, publish

from ipseclab.emu.peers import strongswan
from ipseclab.emu.sandbox import sandbox_kind
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.calibrate import Effort, esp_seconds
from ipseclab.measure.workload import esp_suites

SIZES = (64, 512, 1400)
QUICK_SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512")
FULL, QUICK = Effort(seconds=1.0, repetitions=10), Effort(seconds=0.1, repetitions=3)
FULL_RUNS, QUICK_RUNS = 7, 5
FULL_TURN = {"tcp_seconds": 4.0, "udp_seconds": 1.5, "echoes": 200}
QUICK_TURN = {"tcp_seconds": 1.5, "udp_seconds": 0.5, "echoes": 60}
SYSTEMS = (OURS, STRONGSWAN, CLEAR)
RATIO = "ours/strongswan"

Found = Mapping[str, float]
"""A `gateways.Found`, as it comes out of the sandbox."""
Run = Mapping[str, Found]
"""By system."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row is of, how it comes from what was found, and whether ours by theirs says
    something."""

    workload: str
    metric: str
    of: Callable[[Found], float]
    compared: bool = True


TCP = Figure("TCP", "Mbit/s", lambda found: found["tcp_bits"] / 1e6)
FIGURES = (
    TCP,
    Figure("TCP", "CPU s/GB", lambda found: found["cpu_per_bit"] * 8e9),
    Figure(f"UDP {LARGE}", "Mbit/s", lambda found: found["large_packets"] * LARGE * 8 / 1e6),
    Figure(f"UDP {LARGE}", "lost %", lambda found: 100 * found["large_lost"], False),
    Figure(f"UDP {SMALL}", "packets/s", lambda found: found["small_packets"]),
    Figure(f"UDP {SMALL}", "lost %", lambda found: 100 * found["small_lost"], False),
    Figure("ping", "p50 ms", lambda found: found["ping_median"] * 1e3),
    Figure("ping", "p99 ms", lambda found: found["ping_p99"] * 1e3),
)


def core_rows(quick: bool) -> list[Row]:
    """Each suite and packet size through the core."""
    effort = QUICK if quick else FULL
    suites = esp_suites()
    cases = [(name, size) for name in (QUICK_SUITES if quick else suites) for size in SIZES]
    rows: list[Row] = []
    for name, size in track(cases, "ESP, core", transient=True):
        sealing, opening = esp_seconds(suites[name], size, effort)
        rows.append(
            {
                "suite": name,
                "inner_octets": size,
                "sealed_packets/s": 1 / sealing,
                "opened_packets/s": 1 / opening,
                "sealed_Mbit/s": size * 8 / sealing / 1e6,
                "opened_Mbit/s": size * 8 / opening / 1e6,
            }
        )
    return rows


def gateway_runs(quick: bool) -> list[Run]:
    """Every system in every run; who comes first changes."""
    runs = []
    count = QUICK_RUNS if quick else FULL_RUNS
    for number in track(range(count), "ESP, gateways", transient=True):
        by_turns = SYSTEMS if number % 2 == 0 else SYSTEMS[::-1]
        order = {"effort": QUICK_TURN if quick else FULL_TURN, "systems": by_turns}
        runs.append(call_in_sandbox("gateways", order))
    return runs


def gateway_rows(runs: Sequence[Run]) -> list[Row]:
    """Each figure of each system, the median of the runs; and of its ratio to strongSwan's in the
    same run, where that says something."""
    return [
        {
            "system": system,
            "workload": figure.workload,
            "metric": figure.metric,
            "value": median(figure.of(run[system]) for run in runs),
            "ratio_to_strongswan": median(ratios(runs, figure, system)) if figure.compared else "",
        }
        for figure in FIGURES
        for system in SYSTEMS
    ]


def ratios(runs: Sequence[Run], figure: Figure, system: str = OURS) -> list[float]:
    """A system's by strongSwan's, in each run; infinite where a gateway took no time at all."""
    pairs = ((figure.of(run[system]), figure.of(run[STRONGSWAN])) for run in runs)
    return [own / theirs if theirs else inf for own, theirs in pairs]


def ratio_lines(runs: Sequence[Run]) -> list[str]:
    """Each ratio that counts, on a line of its own."""
    lines = []
    for figure in FIGURES:
        if figure.compared:
            found = sorted(ratios(runs, figure))
            lines.append(
                f"{figure.workload} {figure.metric}, {RATIO}: {median(found):.2f} "
                f"(median of {len(runs)} runs, {found[0]:.2f} to {found[-1]:.2f})"
            )
    return lines


def main() -> None:
    options = arguments(__doc__).parse_args()
    core = {"ESP through the core, tunnel mode, inner packets": core_rows(options.quick)}
    publish("esp_core", core, options)
    try:
        sandbox_kind()
        version = strongswan.version()
    except EnvironmentLacks as lack:
        print(f"no comparison of gateways: {lack}")
        return
    runs = gateway_runs(options.quick)
    title = f"Two gateways, ESP in UDP, aes128gcm16; strongSwan {version}"
    publish("esp", {title: gateway_rows(runs)}, options, ratio_lines(runs))


if __name__ == "__main__":
    main()
