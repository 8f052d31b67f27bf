"""ESP: packets/s and bit/s through the core by transform and size; then through pairs of gateways,
ours beside strongSwan's, OpenVPN and wireguard-go in the same run.

The core: two datapaths in one process, one core, no I/O; each packet goes through SPD, SAD and ESP,
sealed by one and opened by the other. A gateway that forwards does one of the two for each packet.

The gateways: processes in namespaces on bare links, AES-128-GCM. Ours in UDP, as protocol 50, and
in UDP without the fast path (`emu.fastpath`); each run is a lab of its own in which every system
has its turn, and figures are medians over the runs. Without namespaces or strongSwan that part is
left out, without one of the others that one is, and a line says so.

    python benchmarks/esp.py --quick --out results/benchmarks
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import mean, median
from typing import Any

import profiled
from gateways import LARGE, OURS, OURS_50, SMALL, STRONGSWAN, SYSTEMS
from rich.progress import track
from sandboxed import call_in_sandbox
from table import Row, arguments, met, publish
from tunnels import OPENVPN, SOFTWARE, WIREGUARD, missing

from ipseclab.emu.peers import strongswan
from ipseclab.emu.sandbox import sandbox_kind
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.calibrate import Effort, cipher_seconds, esp_seconds
from ipseclab.measure.workload import esp_suites

SIZES = (64, 512, 1400)
QUICK_SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128-sha256", "aes256-sha512")
FULL, QUICK = Effort(seconds=1.0, repetitions=10), Effort(seconds=0.1, repetitions=3)
FULL_RUNS, QUICK_RUNS = 7, 5
FULL_TURN = {"tcp_seconds": 4.0, "udp_seconds": 2.0, "echoes": 200}
QUICK_TURN = {"tcp_seconds": 1.0, "udp_seconds": 0.6, "echoes": 60}
ALONE, ALONE_SUITE, ALONE_SIZE = "the cipher alone", "aes128gcm16", 1400

Found = Mapping[str, Any]
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
LARGE_UDP = Figure(f"UDP {LARGE}", "Mbit/s", lambda found: found["large_packets"] * LARGE * 8 / 1e6)
SMALL_UDP = Figure(f"UDP {SMALL}", "packets/s", lambda found: found["small_packets"])
PING = Figure("ping", "p50 ms", lambda found: found["ping_median"] * 1e3)
PING_P99 = Figure("ping", "p99 ms", lambda found: found["ping_p99"] * 1e3)
PING_BESIDE = Figure("ping beside TCP", "p50 ms", lambda found: found["ping_beside_tcp"] * 1e3)
FIGURES = (
    TCP,
    Figure("TCP", "CPU s/GB sender", lambda found: found["cpu_near"] * 1e9),
    Figure("TCP", "CPU s/GB receiver", lambda found: found["cpu_far"] * 1e9),
    LARGE_UDP,
    Figure(f"UDP {LARGE}", "lost %", lambda found: 100 * found["large_lost"], False),
    SMALL_UDP,
    Figure(f"UDP {SMALL}", "lost %", lambda found: 100 * found["small_lost"], False),
    PING,
    PING_P99,
    PING_BESIDE,
)


@dataclass(frozen=True, slots=True)
class Target:
    """A ratio that is wanted: of a figure of ours to one of another system's, `at_least` or at
    most so much."""

    figure: Figure
    ours: str
    other: str
    bound: float
    at_least: bool = True
    against: Figure | None = None
    """What of the other's, if not the same figure."""

    def ratios(self, runs: Sequence[Run]) -> list[float]:
        """The ratio in each run, smallest first."""
        against = self.against if self.against is not None else self.figure
        pairs = [(self.figure.of(run[self.ours]), against.of(run[self.other])) for run in runs]
        return sorted(own / theirs if theirs else inf for own, theirs in pairs)

    def line(self, runs: Sequence[Run]) -> str:
        """The ratio, and whether it is as wanted."""
        found = self.ratios(runs)
        middle = median(found)
        reached = middle >= self.bound if self.at_least else middle <= self.bound
        against = f"'s {self.against.metric}" if self.against is not None else ""
        return (
            f"{self.figure.workload} {self.figure.metric}, {self.ours}/{self.other}{against}: "
            f"{middle:.2f} (median of {len(runs)} runs, {found[0]:.2f} to {found[-1]:.2f}); "
            f"wanted: at {'least' if self.at_least else 'most'} {self.bound}: {met(reached)}"
        )


TARGETS = (
    Target(TCP, OURS, STRONGSWAN, 5.0),
    Target(TCP, OURS, OPENVPN, 2.5),
    Target(TCP, OURS, WIREGUARD, 2.5),
    Target(TCP, OURS_50, STRONGSWAN, 1.5),
    Target(LARGE_UDP, OURS, STRONGSWAN, 1.6),
    Target(SMALL_UDP, OURS, STRONGSWAN, 2.0),
    Target(PING, OURS, STRONGSWAN, 1.0, at_least=False),
    Target(PING_P99, OURS, STRONGSWAN, 2.0, at_least=False, against=PING),
    Target(PING_BESIDE, OURS, STRONGSWAN, 1.0, at_least=False),
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


def gateway_runs(quick: bool, systems: Sequence[str], *, profiled: bool = False) -> list[Run]:
    """Every system in every run; who comes first changes. The last one is looked into, where that
    is wanted."""
    runs = []
    count = QUICK_RUNS if quick else FULL_RUNS
    for number in track(range(count), "ESP, gateways", transient=True):
        turn = number % len(systems)
        by_turns = [*systems[turn:], *systems[:turn]]
        effort = {
            **(QUICK_TURN if quick else FULL_TURN),
            "profiled": profiled and number == count - 1,
        }
        order = {"effort": effort, "systems": by_turns}
        runs.append(call_in_sandbox("gateways", order))
    return runs


def gateway_rows(runs: Sequence[Run], systems: Sequence[str]) -> list[Row]:
    """Each figure of each system, the median of the runs; and of its ratio to strongSwan's in the
    same run, where that says something."""
    return [
        {
            "system": system,
            "workload": figure.workload,
            "metric": figure.metric,
            "value": median(figure.of(run[system]) for run in runs),
            "ratio_to_strongswan": (
                median(Target(figure, system, STRONGSWAN, 1.0).ratios(runs))
                if figure.compared
                else ""
            ),
        }
        for figure in FIGURES
        for system in systems
    ]


def cipher_row(quick: bool) -> Row:
    """What the cipher costs by itself: no gateway can take less."""
    seconds = cipher_seconds(esp_suites()[ALONE_SUITE], ALONE_SIZE, QUICK if quick else FULL)
    return {
        "system": ALONE,
        "workload": f"{ALONE_SUITE}, {ALONE_SIZE} octets",
        "metric": "CPU s/GB",
        "value": seconds / ALONE_SIZE * 1e9,
        "ratio_to_strongswan": "",
    }


def profile_rows(runs: Sequence[Run], systems: Sequence[str]) -> list[Row]:
    """Where each system's gateways spend their time while TCP is under way: the mean of the runs'
    shares of each library."""
    rows: list[Row] = []
    for system in systems:
        for gateway, key in (("sender", "profile_near"), ("receiver", "profile_far")):
            shares = [run[system][key] for run in runs]
            libraries = dict.fromkeys(name for found in shares for name in found)
            rows += [
                {
                    "system": system,
                    "gateway": gateway,
                    "library": name,
                    "share_%": 100 * mean(found.get(name, 0.0) for found in shares),
                }
                for name in libraries
            ]
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="where the gateways' CPU time goes, by library"
    )
    options = parser.parse_args()
    core = {"ESP through the core, tunnel mode, inner packets": core_rows(options.quick)}
    publish("esp_core", core, options)
    try:
        sandbox_kind()
        version = strongswan.version()
    except EnvironmentLacks as lack:
        print(f"no comparison of gateways: {lack}")
        return
    lacking = {name: lack for name in SOFTWARE if (lack := missing(name)) is not None}
    for name, lack in lacking.items():
        print(f"without {name}: {lack}")
    systems = [name for name in SYSTEMS if name not in lacking]
    lack = profiled.missing() if options.profile else None
    if lack is not None:
        print(f"no profile: {lack}")
    runs = gateway_runs(options.quick, systems, profiled=options.profile and lack is None)
    title = f"Pairs of gateways; strongSwan {version}"
    rows = [*gateway_rows(runs, systems), cipher_row(options.quick)]
    lines = [target.line(runs) for target in TARGETS if target.other in systems]
    publish("esp", {title: rows}, options, lines)
    if profiles := profile_rows(runs[-1:], systems):
        publish("esp_profile", {"CPU time by library, TCP": profiles}, options)


if __name__ == "__main__":
    main()
