"""The command `ipseclab`. What a command needs is imported when it runs, so that `--help` is quick.

Exit codes: 0 done, and what was expected held; 1 ran, and something failed or disagreed; 2 bad
input; 3 the environment cannot do it; 130 interrupted. What went wrong is one line on standard
error.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.exceptions import Abort, Exit, TyperException

from ipseclab.cli_compare import compare, compare_examples
from ipseclab.cli_look import open_results, plot, report, say_figures, say_report
from ipseclab.cli_options import (
    ClusterOption,
    CostsOption,
    JobsOption,
    OutOption,
    QuickOption,
    RepetitionsOption,
    SeedOption,
    SlowOption,
    World,
    WorldOption,
    examples,
)
from ipseclab.cli_pki import pki_app
from ipseclab.errors import ConfigError, EnvironmentLacks

if TYPE_CHECKING:
    from rich.console import Console

    from ipseclab.measure.experiment import Experiment
    from ipseclab.measure.ledger import Crew, Failure
    from ipseclab.measure.results import ResultsFolder, Row
    from ipseclab.measure.sweep import Asked

DONE, FAILED, BAD_INPUT, LACKS, INTERRUPTED = 0, 1, 2, 3, 130
RESULTS = Path("results")
SHOWN_WARNINGS = 5
CALIBRATION = ".calibration"
"""The folder of the run that calibrate makes, beside its table; it goes when that is done."""
SET_UP = 5.0
"""Seconds that a run takes beside its duration: a first guess for the progress bar."""

app = typer.Typer(
    name="ipseclab",
    help="An IPsec lab: our own IKEv2 and ESP, in a simulator and in real network namespaces.",
    epilog="Start with: ipseclab run quickstart",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(pki_app, name="pki")
app.command(epilog=compare_examples)(compare)


class Schema(StrEnum):
    """What there is a JSON Schema of."""

    TOPOLOGY = "topology"
    EXPERIMENT = "experiment"


@app.command(
    epilog=examples(
        "ipseclab run quickstart",
        "ipseclab run rekey-under-loss --quick --jobs 4",
        "ipseclab run experiments/nat-traversal.yaml --world netns --seed 7 --out results/nat7",
        "ipseclab run rekey-under-loss --cluster tcp://scheduler:8786",
    )
)
def run(
    experiment: Annotated[str, typer.Argument(help="A file, or the name of one that is included.")],
    world: WorldOption = World.SIM,
    seed: SeedOption = None,
    jobs: JobsOption = None,
    cluster: ClusterOption = None,
    quick: QuickOption = False,
    repetitions: RepetitionsOption = None,
    out: OutOption = None,
    costs: CostsOption = "default",
    slow: SlowOption = 1.0,
) -> None:
    """Run an experiment: its results, its table, its figures, and whether what it expects held
    (exit code 1 when not)."""
    from ipseclab.measure.experiment import load_experiment

    crew = _crew(cluster, jobs)
    loaded = load_experiment(experiment)
    asked = _asked(loaded, world.value, costs, seed=seed, quick=quick, repetitions=repetitions)
    if slow != 1.0:
        asked = _slowed(asked, slow)
    folder = _results_folder(out, loaded, asked)
    rows, failures = _sweep(loaded, asked, folder, jobs, crew)
    _report(loaded, folder, rows, failures)


@app.command(
    epilog=examples(
        "ipseclab agree quickstart",
        "ipseclab agree tunnel-vs-transport --quick --out results/agree",
        "ipseclab agree out/demo-sim out/demo-netns",
    )
)
def agree(
    experiment: Annotated[str, typer.Argument(help="An experiment, or results of the sim world.")],
    netns: Annotated[
        Path | None, typer.Argument(help="Results of the netns world, to be read.")
    ] = None,
    seed: SeedOption = None,
    quick: QuickOption = False,
    repetitions: RepetitionsOption = None,
    out: OutOption = None,
    costs: Annotated[
        str | None,
        typer.Option(
            metavar="default|zero|FILE", help="By default this machine is calibrated first."
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Show also the metrics that no tolerance is promised for.")
    ] = False,
) -> None:
    """Hold the two worlds side by side, metric by metric; exit code 1 when they disagree."""
    from ipseclab.measure.agreement import compare, points_of_one, verdict, worth_showing
    from ipseclab.measure.experiment import load_experiment
    from ipseclab.measure.results import ResultsFolder
    from ipseclab.present.tables import agreement_table

    console = _console()
    if netns is not None:
        sim_rows = ResultsFolder(Path(experiment)).finished_rows()
        netns_rows = ResultsFolder(netns).finished_rows()
        if sim_rows[0].world == netns_rows[0].world:
            problem = f"results of world {netns_rows[0].world}, as {experiment} is"
            raise ConfigError(f"{netns}: {problem}, expected one of each: or use ipseclab compare")
        if sim_rows[0].world == World.NETNS:
            sim_rows, netns_rows = netns_rows, sim_rows
    elif ResultsFolder(Path(experiment)).manifest() is not None:
        raise ConfigError(f"{experiment}: results of one world, expected two: agree DIR DIR")
    else:
        loaded = load_experiment(experiment)
        base = out if out is not None else RESULTS / f"{loaded.name}-agree"
        sim_rows, netns_rows = _run_both(
            loaded, base, costs, seed=seed, quick=quick, repetitions=repetitions
        )
    found = compare(sim_rows, netns_rows)
    if not found:
        raise ConfigError("the two worlds have no point in common, expected runs of one experiment")
    shown = found if every else worth_showing(found)
    console.print(agreement_table(shown, "sim and netns"))
    lacking = points_of_one(sim_rows, netns_rows)
    for world, points in lacking.items():
        for point in points:
            console.print(f"only in {world}, not compared: {point}")
    _warn(netns_rows)
    if verdict(found):
        common = ", at the points that both have" if any(lacking.values()) else ""
        console.print(f"The worlds agree{common}.")
        return
    console.print(f"The worlds do not agree. {_busy()}".rstrip())
    if netns is None:
        console.print(f"What was measured stands in {base}: another --out measures again.")
    raise Exit(FAILED)


@app.command(
    epilog=examples("ipseclab up site-to-site-nat", "ipseclab up topologies/host-to-host.yaml")
)
def up(
    topology: Annotated[str, typer.Argument(help="A file, or the name of one that is included.")],
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the links' losses.")] = 1,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where traces, captures and logs go.")
    ] = RESULTS / "up",
) -> None:
    """Bring a lab up in namespaces and give a prompt: h1 ping h2, status, rekey, nat rebind ..."""
    from ipseclab.lab.topology import load_topology

    loaded = load_topology(topology)
    from ipseclab.emu.shell import run_shell

    code = run_shell(loaded, seed=seed, out=out)
    if code != DONE:
        raise Exit(code)


app.command(
    epilog=examples(
        "ipseclab plot results/quickstart-sim",
        "ipseclab plot results/quickstart-sim --format pdf --format png",
    )
)(plot)
app.command(epilog=examples("ipseclab report results/quickstart-sim"))(report)
app.command(
    "open",
    epilog=examples(
        "ipseclab open results/quickstart-sim",
        "ipseclab open results/quickstart-sim --report",
        "ipseclab open results/rekey-under-loss-sim --run 00003_kind-CHILD_SA_loss-0.2_rtt-0.04_r0",
    ),
)(open_results)


@app.command(
    epilog=examples(
        "ipseclab decode results/quickstart-sim/runs/00000_r0/capture.pcapng",
        "ipseclab decode results/quickstart-sim/runs/00000_r0/capture.pcapng --ike",
        "ipseclab decode tests/vectors/gcm256_x25519.pcapng",
        "ipseclab decode some.pcap --keys some.keys.json",
    )
)
def decode(
    capture: Annotated[Path, typer.Argument(help="A pcap or pcapng file.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A .keys.json, one of Wireshark's tables, or a folder of them; by default what "
            "stands beside the capture.",
        ),
    ] = None,
    ike: Annotated[
        bool, typer.Option("--ike", help="Only IKE and keepalives; ESP and AH are counted.")
    ] = False,
) -> None:
    """Show a capture as a ladder, payload by payload; ESP opened where the keys are known."""
    from ipseclab.present.decode import decode_capture

    decode_capture(capture, keys, _console(), only_ike=ike)


@app.command(
    epilog=examples(
        "ipseclab interop --quick",
        "ipseclab interop --filter EAP --out results/eap",
        "ipseclab interop --out results/interop",
    )
)
def interop(
    quick: Annotated[bool, typer.Option("--quick", help="A few tunnels of each kind.")] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the tables go, and what failed.")
    ] = RESULTS / "interop-netns",
    wanted: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Only tunnels with that in their name.")
    ] = "",
    jobs: JobsOption = None,
) -> None:
    """Try our stack against strongSwan, cell by cell: every way to authenticate, every algorithm;
    exit code 1 when a cell fails."""
    import os

    from ipseclab.cli_interop import run_interop

    workers = jobs if jobs is not None else os.cpu_count() or 1
    if not run_interop(_console(), out=out, quick=quick, wanted=wanted, jobs=workers):
        raise Exit(FAILED)


@app.command(epilog=examples("ipseclab schema topology > topology.schema.json"))
def schema(
    what: Annotated[Schema, typer.Argument(help="Of which file.")],
) -> None:
    """Print the JSON Schema of a file, for editors to complete and check it."""
    from ipseclab.lab.topology import topology_schema
    from ipseclab.measure.experiment_file import experiment_schema

    document = topology_schema() if what is Schema.TOPOLOGY else experiment_schema()
    print(json.dumps(document, indent=2))


@app.command(epilog=examples("ipseclab doctor", "ipseclab doctor --world netns"))
def doctor(
    world: Annotated[
        World | None, typer.Option(help="Exit with 3 unless this world can be had.")
    ] = None,
) -> None:
    """Say what this machine can do, what is missing, and the remedy."""
    from ipseclab.present.doctor import able, examine
    from ipseclab.present.tables import findings_table

    findings = examine()
    _console().print(findings_table(findings))
    needed = ["everything"] if world is None else ["everything", f"world {world.value}"]
    lacking = [what for what in needed if not able(findings, what)]
    if lacking:
        raise Exit(LACKS)


@app.command(epilog=examples("ipseclab calibrate", "ipseclab calibrate --out costs.json"))
def calibrate(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the cost table goes.")] = RESULTS
    / "costs.json",
) -> None:
    """Measure this machine's processing times, for run --costs."""
    from ipseclab.measure.results import write_atomic

    try:
        text = _calibrated(out.with_suffix(CALIBRATION))
        write_atomic(out, text)
    except OSError as problem:
        raise ConfigError(f"{out}: cannot be written: {problem.strerror}") from None
    _console().print(f"{out}\nUse it: ipseclab run quickstart --costs {shlex.quote(str(out))}")


# --- what the commands share ---------------------------------------------------------------------


def _console() -> Console:
    from ipseclab.present.console import console

    return console()


def _busy() -> str:
    """A word on a machine with more to do than processors: it makes real times longer."""
    import os

    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    if load <= cpus:
        return ""
    return f"Times of netns are real, and this machine is busy: load {load:.1f} on {cpus} CPUs."


def _calibrated(folder: Path) -> str:
    """This machine's cost table, as JSON text; `folder` holds a run meanwhile."""
    from ipseclab.measure.calibrate import calibrate as measure_costs
    from ipseclab.present.progress import meter

    with meter(_console(), "calibrating", 100) as bar:
        before = 0.0

        def step(share: float, what: str) -> None:
            nonlocal before
            bar.describe(f"calibrating: {what}")
            bar.advance(100 * share - before)
            before = 100 * share

        return measure_costs(step, folder=folder).to_json()


def _asked(
    experiment: Experiment,
    world: str,
    costs: str,
    *,
    seed: int | None,
    quick: bool,
    repetitions: int | None,
) -> Asked:
    from ipseclab.measure.cost_choice import cost_text, costs_name
    from ipseclab.measure.sweep import Asked

    if world not in experiment.file.worlds:
        raise experiment.source.error(("worlds",), f"not made for world {world}")
    text = cost_text(costs) if world == "sim" else ""
    return Asked(
        world=world,
        seed=seed if seed is not None else experiment.file.seed,
        quick=quick,
        costs=text,
        costs_name=costs_name(costs, text),
        repetitions=repetitions,
        command=("ipseclab", *sys.argv[1:]),
    )


def _slowed(asked: Asked, slow: float) -> Asked:
    """The same, with our stack slower."""
    from dataclasses import replace

    if asked.costs_name.startswith("zero"):
        raise ConfigError(f"--slow {slow:g}: with --costs zero there is nothing to slow down")
    return replace(asked, slow=slow)


def _results_folder(out: Path | None, experiment: Experiment, asked: Asked) -> ResultsFolder:
    """The one asked for; else one of the experiment's name: unfinished results of the same run go
    on, finished ones are left alone."""
    from ipseclab.measure.results import ResultsFolder, same_run
    from ipseclab.measure.sweep import manifest_of

    if out is not None:
        return ResultsFolder(out)
    stem = "-".join([experiment.name, asked.world, *(["quick"] if asked.quick else [])])
    wanted = manifest_of(experiment, asked, 0)
    number = 1
    while True:
        folder = ResultsFolder(RESULTS / (stem if number == 1 else f"{stem}-{number}"))
        if not folder.path.exists():
            return folder
        before = folder.manifest()
        if before is not None and before.status != "done" and same_run(before, wanted):
            return folder
        number += 1


def _sweep(
    experiment: Experiment,
    asked: Asked,
    folder: ResultsFolder,
    jobs: int | None,
    crew: Crew | None = None,
) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    from ipseclab.measure.sweep import lay_out_sweep, run_sweep
    from ipseclab.present.progress import SweepMeter, meter

    sweep = lay_out_sweep(experiment, asked)
    missing = sweep.missing(folder)
    console = _console()
    if len(missing) < len(sweep.jobs):
        stored = len(sweep.jobs) - len(missing)
        console.print(f"{folder.path}: {stored} of {len(sweep.jobs)} runs are stored already")
    workers = _workers(jobs, asked)
    try:
        with meter(console, f"{experiment.name} in {asked.world}", len(missing)) as bar:
            reporter = SweepMeter(bar, workers=workers, expected=experiment.file.duration + SET_UP)
            return run_sweep(sweep, folder, workers=workers, crew=crew, reporter=reporter)
    except KeyboardInterrupt:
        print(f"interrupted; what is done stands in {folder.path}", file=sys.stderr)
        print(f"go on with: {_resume_command(folder)}", file=sys.stderr)
        raise Exit(INTERRUPTED) from None


def _crew(cluster: str | None, jobs: int | None) -> Crew | None:
    """Who does the runs, where that is not this machine alone."""
    from ipseclab.measure.cluster import Cluster

    if cluster is None:
        return None
    if jobs is not None:
        raise ConfigError(
            "--jobs and --cluster: expected one of them; a cluster has its own workers"
        )
    return Cluster(cluster)


def _resume_command(folder: ResultsFolder) -> str:
    words = ["ipseclab", *sys.argv[1:]]
    named = any(word == "--out" or word.startswith("--out=") for word in words)
    return shlex.join(words if named else [*words, "--out", str(folder.path)])


def _workers(jobs: int | None, asked: Asked) -> int:
    """Emulated runs share the machine's processors with what they measure: one at a time."""
    import os

    if jobs is not None:
        return jobs
    return (os.cpu_count() or 1) if asked.world == "sim" else 1


def _report(
    experiment: Experiment,
    folder: ResultsFolder,
    rows: tuple[Row, ...],
    failures: tuple[Failure, ...],
) -> None:
    """The table, the figures' paths, and what failed."""
    from ipseclab.measure.expect.store import read_judgements
    from ipseclab.present.expectations import expectations_table, failure_lines
    from ipseclab.present.tables import metrics_table

    judgements = read_judgements(folder.path)
    if rows:
        count = f"{len(rows)} run{'s' if len(rows) != 1 else ''}"
        title = f"{experiment.name}, world {rows[0].world}, {count}"
        _console().print(metrics_table(rows, experiment.file.metrics, title))
        say_figures(folder)
        say_report(folder)
        print(f"results: {folder.path}")
        _warn(rows)
    if judgements:
        _console().print(expectations_table(judgements))
    for failure in failures:
        print(f"run {failure.run} failed: {failure.why}", file=sys.stderr)
    unmet = failure_lines(judgements, folder)
    for line in unmet:
        print(line, file=sys.stderr)
    if failures or unmet:
        raise Exit(FAILED)


def _warn(rows: tuple[Row, ...]) -> None:
    """What the manifest holds as warnings, as far as a screen has room."""
    from ipseclab.measure.results import warnings_of

    found = warnings_of(rows)
    for line in found[:SHOWN_WARNINGS]:
        print(f"warning: {line}", file=sys.stderr)
    if len(found) > SHOWN_WARNINGS:
        print(f"warning: and {len(found) - SHOWN_WARNINGS} runs more", file=sys.stderr)


def _run_both(
    experiment: Experiment,
    base: Path,
    costs: str | None,
    *,
    seed: int | None,
    quick: bool,
    repetitions: int | None,
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """The experiment in both worlds, the emulated one first: it is the one that may be lacking."""
    from ipseclab.measure.results import ResultsFolder, write_atomic

    found: dict[str, tuple[Row, ...]] = {}
    for world in ("netns", "sim"):
        table = costs if costs is not None else str(base / "costs.json")
        if world == "sim" and costs is None and not Path(table).is_file():
            write_atomic(Path(table), _calibrated(base / CALIBRATION))
        asked = _asked(experiment, world, table, seed=seed, quick=quick, repetitions=repetitions)
        rows, failures = _sweep(experiment, asked, ResultsFolder(base / world), None)
        for failure in failures:
            print(f"{world} run {failure.run} failed: {failure.why}", file=sys.stderr)
        if failures:
            raise Exit(FAILED)
        found[world] = rows
    return found["sim"], found["netns"]


def main() -> NoReturn:
    """Run the command; every way out has its exit code, and says why in one line."""
    # A shell script's background job inherits SIGINT ignored: asked to stop, it is to stop anyway.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = app(standalone_mode=False)
    except TyperException as problem:
        message = " ".join(problem.format_message().split()).replace("Value error, ", "")
        if not sys.argv[1:]:
            sys.exit(DONE)  # the help was asked for by saying nothing, and is printed
        print(f"ipseclab: {message}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except ConfigError as problem:
        print(f"ipseclab: {problem}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except EnvironmentLacks as problem:
        print(f"ipseclab: {problem}", file=sys.stderr)
        sys.exit(LACKS)
    except (Abort, KeyboardInterrupt):
        print("ipseclab: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(DONE)
    sys.exit(code if isinstance(code, int) else DONE)
