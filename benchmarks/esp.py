"""ESP: packets/s and bit/s through the core by transform and size; then through two gateways of
ours and two of strongSwan's in the same run.

The core: two datapaths in one process, one core, no I/O; each packet goes through SPD, SAD and ESP,
sealed by one and opened by the other. A gateway that forwards does one of the two for each packet.

The gateways: processes in namespaces on bare links, ESP in UDP, AES-128-GCM; each run is a lab of
its own in which every system has its turn, and figures are medians over the runs. Where namespaces
or strongSwan are missing, that part is left out and said to be.

    python benchmarks/esp.py --quick --out results/benchmarks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
FULL_RUNS, QUICK_RUNS = 7, 3
FULL_TURN = {"tcp_seconds": 4.0, "udp_seconds": 1.5, "echoes": 200}
QUICK_TURN = {"tcp_seconds": 1.5, "udp_seconds": 0.5, "echoes": 60}
SYSTEMS = (OURS, STRONGSWAN, CLEAR)
RATIO = f"{OURS}/{STRONGSWAN}"

Found = Mapping[str, float]
"""A `gateways.Found`, as it comes out of the sandbox."""
Run = Mapping[str, Found]
"""By system."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A row: how it comes from what was found, and whether ours by theirs says something."""

    of: Callable[[Found], float]
    compared: bool = True


TCP = "TCP_Mbit/s"
FIGURES = {
    TCP: Figure(lambda found: found["tcp_bits"] / 1e6),
    "CPU_s/Gbit": Figure(lambda found: found["cpu_per_bit"] * 1e9),
    f"UDP_{LARGE}_Mbit/s": Figure(lambda found: found["large_packets"] * LARGE * 8 / 1e6),
    f"UDP_{SMALL}_packets/s": Figure(lambda found: found["small_packets"]),
    "UDP_lost_%": Figure(lambda found: 100 * max(found["large_lost"], found["small_lost"]), False),
    "ping_p50_ms": Figure(lambda found: found["ping_median"] * 1e3),
    "ping_p99_ms": Figure(lambda found: found["ping_p99"] * 1e3),
}


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
    """Each figure's median of each system, and of ours by strongSwan's of the same run."""
    rows: list[Row] = []
    for name, figure in FIGURES.items():
        medians = {
            system.replace(" ", "_"): median(figure.of(run[system]) for run in runs)
            for system in SYSTEMS
        }
        compared = median(ratios(runs, figure)) if figure.compared else ""
        rows.append({"figure": name, **medians, RATIO: compared})
    return rows


def ratios(runs: Sequence[Run], figure: Figure) -> list[float]:
    """Ours by strongSwan's, in each run."""
    return [figure.of(run[OURS]) / figure.of(run[STRONGSWAN]) for run in runs]


def ratio_line(runs: Sequence[Run]) -> str:
    """The ratio that counts, on a line of its own."""
    found = sorted(ratios(runs, FIGURES[TCP]))
    return (
        f"TCP goodput, {RATIO}: {median(found):.2f} (median of {len(runs)} runs, "
        f"{found[0]:.2f} to {found[-1]:.2f})"
    )


def main() -> None:
    options = arguments(__doc__).parse_args()
    tables = {"ESP through the core, tunnel mode, inner packets": core_rows(options.quick)}
    try:
        sandbox_kind()
        version = strongswan.version()
    except EnvironmentLacks as lack:
        line = f"no comparison of gateways: {lack}"
    else:
        runs = gateway_runs(options.quick)
        tables[f"Two gateways, ESP in UDP, aes128gcm16; strongSwan {version}"] = gateway_rows(runs)
        line = ratio_line(runs)
    publish("esp", tables, options, [line])


if __name__ == "__main__":
    main()
