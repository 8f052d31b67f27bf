"""Does the runs of an experiment, each one stored as soon as it is done.

What is stored is never done twice: a sweep that was interrupted, or whose lab was killed, goes on
where it stopped. Who does the runs is a crew: worker processes (`measure/pool.py`), or a Dask
cluster (`measure/cluster.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipseclab.emu.sandbox import sandbox_kind
from ipseclab.measure.expect.judge import Judgement, counted, judge
from ipseclab.measure.expect.store import forget_judgements, store_judgements
from ipseclab.measure.experiment import Experiment
from ipseclab.measure.job import Job, lay_out
from ipseclab.measure.ledger import Crew, Failure, Ledger, Reporter
from ipseclab.measure.pool import Pool
from ipseclab.measure.results import (
    Manifest,
    ResultsFolder,
    Row,
    machine_facts,
    now_text,
    package_versions,
    sources_digest,
    warnings_of,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line."""

    world: str
    seed: int
    quick: bool = False
    costs: str = ""
    """The cost table as JSON text; empty for zero."""
    costs_name: str = "zero"
    repetitions: int | None = None
    """Of each point; None for the experiment's own."""
    slow: float = 1.0
    """How many times as long our stack is to take."""
    command: tuple[str, ...] = ()

    def repetitions_of(self, experiment: Experiment) -> int:
        """Runs of each point."""
        if self.repetitions is not None:
            return self.repetitions
        return experiment.repetitions(quick=self.quick)


@dataclass(frozen=True, slots=True)
class Sweep:
    """An experiment laid out: all its runs are made ready, none is started."""

    experiment: Experiment
    asked: Asked
    jobs: tuple[Job, ...]

    def missing(self, folder: ResultsFolder) -> tuple[Job, ...]:
        """The runs that have no row in the folder. Raises ConfigError when it holds another
        run's."""
        before = folder.manifest()
        if before is not None:
            folder.check_same(before, manifest_of(self.experiment, self.asked, len(self.jobs)))
        return tuple(job for job in self.jobs if folder.row(job.run) is None)

    def judgements(self, rows: Sequence[Row]) -> tuple[Judgement, ...]:
        """What came of the experiment's expectations, by these rows."""
        return judge(self.experiment.expectations, self.jobs, rows)


def lay_out_sweep(experiment: Experiment, asked: Asked) -> Sweep:
    """Make every run ready. Raises ConfigError for the first that cannot be."""
    jobs = lay_out(
        experiment,
        world=asked.world,
        seed=asked.seed,
        quick=asked.quick,
        costs=asked.costs,
        repetitions=asked.repetitions_of(experiment),
        slow=asked.slow,
    )
    return Sweep(experiment, asked, jobs)


def manifest_of(experiment: Experiment, asked: Asked, runs: int) -> Manifest:
    """The manifest of a sweep that is about to start."""
    return Manifest(
        experiment=experiment.name,
        digest=experiment.digest(),
        world=asked.world,
        seed=asked.seed,
        quick=asked.quick,
        runs=runs,
        repetitions=asked.repetitions_of(experiment),
        costs=asked.costs_name if asked.world == "sim" else "",
        slow=asked.slow,
        sources=sources_digest(),
        command=asked.command,
        units=experiment.units(),
        started=now_text(),
        machine=machine_facts(),
        packages=package_versions(),
        details=experiment.details(),
    )


def run_sweep(
    sweep: Sweep,
    folder: ResultsFolder,
    *,
    workers: int = 1,
    crew: Crew | None = None,
    reporter: Reporter | None = None,
) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    """Do all runs that have no row in the folder yet; all rows, and the runs that failed. `crew`
    does them; without one so many `workers` of this machine.

    Raises ConfigError before anything is started, EnvironmentLacks when the world cannot be had.
    KeyboardInterrupt ends the workers, and leaves the folder such that the sweep can go on.
    """
    units = sweep.experiment.units()
    manifest = manifest_of(sweep.experiment, sweep.asked, len(sweep.jobs))
    missing = sweep.missing(folder)
    if missing and sweep.asked.world == "netns" and crew is None:
        sandbox_kind()  # before anything is written: what it lacks, and the remedy
    folder.begin(manifest)
    forget_judgements(folder.path)
    judgements: tuple[Judgement, ...] = ()
    ledger = Ledger(folder, units, reporter if reporter is not None else Reporter())
    status = "interrupted"
    try:
        if missing:
            (crew if crew is not None else Pool(min(workers, len(missing)))).do(missing, ledger)
        status = "failed" if ledger.failures else "done"
    finally:
        rows = folder.rows()
        if rows:
            folder.write_tables(rows, units)
        if status != "interrupted" and sweep.experiment.expectations:
            judgements = sweep.judgements(rows)
            store_judgements(folder.path, sweep.experiment.name, judgements)
        folder.write_manifest(
            replace(
                manifest,
                status=status,
                runs_done=len(rows),
                finished=now_text(),
                warnings=warnings_of(rows),
                expectations=counted(judgements) if judgements else {},
            )
        )
    return rows, tuple(ledger.failures)
