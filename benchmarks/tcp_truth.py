"""The simulator's TCP against Linux's: goodput over the same links, lost packet for lost packet.

Each run is made in both worlds from one seed. In namespaces the traffic is the kernel's own TCP
over the relays; in the simulator it is `ipseclab.sim.tcp`. A link's losses are drawn by packet
index, so a pair of runs differs in the two TCPs and in the machine's own delays, in nothing else.

`ratio` is the geometric mean of simulator / Linux over the seeds, `from` and `to` its 95 % interval
(Student's, of the logarithms). A point `agrees` when the ratio is within 10 %; it is `open` when
only the interval reaches into that band, so that more seeds have to decide.

What is stored under the results folder is not done again: interrupted, the command goes on.

    python benchmarks/tcp_truth.py --quick --out results/benchmarks
    python benchmarks/tcp_truth.py --set mode=none --set rate=10Mbit/s --repetitions 4
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp, log
from pathlib import Path
from statistics import median

from rich.progress import Progress
from sandboxed import require_sandbox
from table import Row, arguments, met, publish

from ipseclab.errors import ConfigError, EnvironmentLacks
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.ledger import Reporter
from ipseclab.measure.results import ResultsFolder
from ipseclab.measure.results import Row as RunRow
from ipseclab.measure.statistics import interval_95
from ipseclab.measure.sweep import Asked, Sweep, lay_out_sweep, run_sweep
from ipseclab.sim.costs import CostTable

EXPERIMENT = Path(__file__).with_suffix(".yaml")
TOLERANCE = 0.10
PATIENCE = 20
"""Times that the sweep goes on after a link was not what it is set to."""
WORLDS = ("sim", "netns")
PARAMETERS = ("mode", "congestion", "rate", "rtt", "loss")
Point = tuple[str, ...]
Goodputs = Mapping[tuple[Point, int], float]
"""By point and seed."""


class Bar(Reporter):
    """A progress bar over one world's runs."""

    def __init__(self, progress: Progress, world: str, runs: int) -> None:
        self._progress = progress
        self._task = progress.add_task(f"TCP, {world}", total=runs)

    def done(self, row: RunRow) -> None:
        """A run is stored."""
        self._progress.advance(self._task)


def goodputs(rows: Iterable[RunRow]) -> Goodputs:
    """What the rows of a world's results say, in bit/s."""
    return {
        (tuple(str(row.parameters[name]) for name in PARAMETERS), row.seed): float(goodput)
        for row in rows
        if (goodput := row.metrics.get("goodput")) is not None
    }


def compare(sim: Goodputs, linux: Goodputs) -> list[Row]:
    """A row for each point that both worlds have been at."""
    pairs: dict[Point, list[tuple[float, float]]] = {}
    for (point, seed), value in sim.items():
        other = linux.get((point, seed))
        if other is not None and value > 0 and other > 0:
            pairs.setdefault(point, []).append((value, other))
    return [compared(point, found) for point, found in pairs.items()]


def compared(point: Point, found: Sequence[tuple[float, float]]) -> Row:
    """The ratio at one point, from each seed's pair of goodputs."""
    mean, half = interval_95([log(sim / linux) for sim, linux in found])
    low, high = exp(mean - half), exp(mean + half)
    return {
        **dict(zip(PARAMETERS, point, strict=True)),
        "pairs": len(found),
        "sim_Mbit/s": median(sim for sim, _ in found) / 1e6,
        "Linux_Mbit/s": median(linux for _, linux in found) / 1e6,
        "ratio": exp(mean),
        "from": low,
        "to": high,
        "verdict": verdict(low, exp(mean), high),
    }


def verdict(low: float, ratio: float, high: float) -> str:
    """Whether the ratio is within the tolerance, either way round, and how sure that is."""
    if 1 / (1 + TOLERANCE) <= ratio <= 1 + TOLERANCE:
        return "agrees"
    # The interval reaches into the band: more seeds have to decide.
    return "open" if low <= 1 + TOLERANCE and high >= 1 / (1 + TOLERANCE) else "differs"


def chosen(sweep: Sweep, settings: Mapping[str, str]) -> Sweep:
    """The runs at the points that were asked for."""
    jobs = tuple(
        job
        for job in sweep.jobs
        if all(str(job.parameters[name]) == value for name, value in settings.items())
    )
    return replace(sweep, jobs=jobs)


def measure(options: argparse.Namespace) -> tuple[dict[str, Goodputs], list[str]]:
    """Run what is missing of each world's sweep; the goodputs, and what went wrong."""
    experiment = load_experiment(EXPERIMENT)
    found: dict[str, Goodputs] = {}
    problems: list[str] = []
    with Progress(transient=True) as progress:
        for world in WORLDS:
            asked = Asked(
                world=world,
                seed=1,
                quick=options.quick,
                costs=CostTable.default().to_json() if world == "sim" else "",
                costs_name="default" if world == "sim" else "",
                repetitions=options.repetitions,
            )
            sweep = chosen(lay_out_sweep(experiment, asked), options.settings)
            folder = ResultsFolder(options.out / "tcp_truth" / world)
            bar = Bar(progress, world, len(sweep.missing(folder)))
            # Runs in namespaces share the processors with what they measure: one at a time.
            workers = options.jobs if world == "sim" else 1
            found[world] = goodputs(stubbornly(sweep, folder, bar, problems, workers))
    return found, problems


def stubbornly(
    sweep: Sweep, folder: ResultsFolder, bar: Bar, problems: list[str], workers: int
) -> Iterable[RunRow]:
    """The rows of a sweep; a link that a busy machine kept from being what it is set to is tried
    again, since what is stored stays."""
    for _ in range(PATIENCE):
        try:
            rows, failures = run_sweep(sweep, folder, workers=workers, reporter=bar)
        except EnvironmentLacks as lack:
            problems.append(f"tried again: {lack}")
            continue
        problems += [f"{failure.run}: {failure.why}" for failure in failures]
        return rows
    return folder.rows()


def setting(text: str) -> tuple[str, str]:
    """One `--set`."""
    name, _, value = text.partition("=")
    if name not in PARAMETERS or not value:
        raise argparse.ArgumentTypeError(f"{text!r}, expected one of {', '.join(PARAMETERS)}=VALUE")
    return name, value


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repetitions", type=int, metavar="N", help="seeds a point (default 10)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="simulated runs at a time (default 1)"
    )
    parser.add_argument(
        "--set",
        dest="settings",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="run only the points with this parameter; more than once for several",
    )
    options = parser.parse_args()
    options.settings = dict(options.settings)
    require_sandbox()
    try:
        found, problems = measure(options)
    except ConfigError as problem:
        parser.exit(2, f"{problem}\n")
    rows = compare(found["sim"], found["netns"])
    if not rows:
        parser.exit(1, "\n".join([*problems, "no point has a run in both worlds"]) + "\n")
    good = sum(row["verdict"] == "agrees" for row in rows)
    line = f"target: within 10 % at {good} of {len(rows)} points: {met(good == len(rows))}"
    publish("tcp_truth", {"Goodput, simulator against Linux": rows}, options, [*problems, line])


if __name__ == "__main__":
    main()
