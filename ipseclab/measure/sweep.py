"""Does the runs of an experiment with worker processes, each run stored as soon as it is done.

What is stored is never done twice: a sweep that was interrupted, or whose lab was killed, goes on
where it stopped. A worker that dies takes its run with it; that run is tried once more.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import IO

from ipseclab.emu.sandbox import sandbox_kind
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.expect.judge import Judgement, counted, judge
from ipseclab.measure.expect.store import forget_judgements, store_judgements
from ipseclab.measure.experiment import Experiment
from ipseclab.measure.job import LOG_FILE, Job, lay_out
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

TRIES = 2
PATIENCE = 5.0
"""Seconds that a worker may take to end after its last word."""
TICK = 0.2
"""Seconds between two looks at the clock while runs go on."""
TABLES_EVERY = 2.0
"""Seconds between two writings of the tables: they are whole files, and grow."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that has no results, and why."""

    run: str
    why: str


class Reporter:
    """What a sweep tells whoever watches it; does nothing itself."""

    def done(self, row: Row) -> None:
        """A run is stored."""

    def waiting(self) -> None:
        """Time went by."""


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
    reporter: Reporter | None = None,
) -> tuple[tuple[Row, ...], tuple[Failure, ...]]:
    """Do all runs that have no row in the folder yet; all rows, and the runs that failed.

    Raises ConfigError before anything is started, EnvironmentLacks when the world cannot be had.
    KeyboardInterrupt ends the workers, and leaves the folder such that the sweep can go on.
    """
    units = sweep.experiment.units()
    manifest = manifest_of(sweep.experiment, sweep.asked, len(sweep.jobs))
    missing = sweep.missing(folder)
    if missing and sweep.asked.world == "netns":
        sandbox_kind()  # before anything is written: what it lacks, and the remedy
    folder.begin(manifest)
    forget_judgements(folder.path)
    judgements: tuple[Judgement, ...] = ()
    failures: tuple[Failure, ...] = ()
    status = "interrupted"
    try:
        pool = Pool(folder, units, reporter if reporter is not None else Reporter())
        failures = pool.run(missing, min(workers, max(1, len(missing))))
        status = "failed" if failures else "done"
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
    return rows, failures


class _Worker:
    """One worker process and the run that it is at."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ipseclab.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for us; we end the workers
        )
        self.job: Job | None = None

    def begin(self, job: Job, path: Path) -> None:
        """Let it do this run."""
        self.job = job
        stream = _stream(self.process.stdin)
        try:
            stream.write(f"{path}\n")
            stream.flush()
        except BrokenPipeError:
            return  # it died; reading its answer will tell

    def answer(self) -> dict[str, str] | None:
        """What came of its run; None when it died."""
        line = _stream(self.process.stdout).readline()
        if not line.endswith("\n"):
            return None
        answer: dict[str, str] = json.loads(line)
        return answer

    def status(self) -> int:
        """The exit status of a worker whose answers have ended."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def end(self) -> None:
        """Kill it if it still lives."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            try:
                _stream(stream).close()
            except BrokenPipeError:
                continue


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "a worker has both pipes"
    return stream


class Pool:
    """Workers for the runs of one sweep."""

    def __init__(self, folder: ResultsFolder, units: dict[str, str], reporter: Reporter) -> None:
        self._folder = folder
        self._units = units
        self._reporter = reporter
        self._waiting: deque[Job] = deque()
        self._tries: dict[str, int] = {}
        self._failures: list[Failure] = []
        self._rows: dict[str, Row] = {row.run: row for row in folder.rows()}
        self._tables_at = monotonic()

    def run(self, jobs: Sequence[Job], workers: int) -> tuple[Failure, ...]:
        """Do these runs; those that failed. Raises EnvironmentLacks."""
        self._waiting.extend(jobs)
        if not jobs:
            return ()
        with selectors.DefaultSelector() as selector:
            try:
                for _ in range(workers):
                    self._hire(selector)
                while any(key.data.job is not None for key in selector.get_map().values()):
                    for key, _ in selector.select(TICK):
                        self._hear(selector, key.data)
                    self._reporter.waiting()
            finally:
                for key in list(selector.get_map().values()):
                    key.data.end()
        return tuple(self._failures)

    def _hire(self, selector: selectors.BaseSelector) -> None:
        if self._waiting:
            worker = _Worker()
            selector.register(_stream(worker.process.stdout), selectors.EVENT_READ, worker)
            self._next(worker)

    def _next(self, worker: _Worker) -> None:
        if not self._waiting:
            worker.job = None
            return
        job = self._waiting.popleft()
        self._tries[job.run] = self._tries.get(job.run, 0) + 1
        path = self._folder.clear_run(job.run)
        job.write(path)
        worker.begin(job, path.resolve())

    def _hear(self, selector: selectors.BaseSelector, worker: _Worker) -> None:
        """A worker answered, or died."""
        job = worker.job
        answer = worker.answer()
        if answer is None:
            selector.unregister(_stream(worker.process.stdout))
            status = worker.status()
            worker.end()
            if job is not None:
                self._lost(job, status)
            self._hire(selector)
            return
        if job is not None:
            self._take(job, answer)
        self._next(worker)

    def _lost(self, job: Job, status: int) -> None:
        """A worker died over a run: once more if something killed it, but an error stays one."""
        if status < 0 and self._tries[job.run] < TRIES:
            self._waiting.appendleft(job)
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with {status}"
        log = self._folder.run_path(job.run) / LOG_FILE
        self._failures.append(Failure(job.run, f"its worker {how}; {log} says more"))

    def _take(self, job: Job, answer: dict[str, str]) -> None:
        if answer.get("kind") == "EnvironmentLacks":
            raise EnvironmentLacks(answer["missing"], answer["remedy"])
        row = self._folder.row(job.run)
        if answer or row is None:
            self._failures.append(Failure(job.run, answer.get("message", "stored no results")))
            return
        self._rows[row.run] = row
        if monotonic() - self._tables_at > TABLES_EVERY:
            ordered = [self._rows[name] for name in sorted(self._rows)]
            self._folder.write_tables(ordered, self._units)
            self._tables_at = monotonic()
        self._reporter.done(row)
