"""What has become of a sweep's runs, and its results folder: whoever does the runs tells it here.

Nothing is kept of a run but that it was tried: its row stands in its folder, and the tables are
made from the rows there, now and then while runs come in. So the memory of who coordinates does not
grow with the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.job import LOG_FILE, Job
from ipseclab.measure.results import ResultsFolder, Row

TRIES = 2
TABLES_EVERY = 2.0
"""Seconds between two writings of the tables at least."""
TABLES_SHARE = 20.0
"""And so many times as long as the last writing took: tables are whole files, and grow."""


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


class Ledger:
    """The runs of one sweep: begun, done, lost, failed."""

    def __init__(self, folder: ResultsFolder, units: Mapping[str, str], reporter: Reporter) -> None:
        self.failures: list[Failure] = []
        self._folder = folder
        self._units = units
        self._reporter = reporter
        self._tries: dict[str, int] = {}
        self._tables_at = monotonic() + TABLES_EVERY

    def begin(self, job: Job) -> Path:
        """A run is about to be done: its folder, with nothing but its job in it."""
        self._tries[job.run] = self._tries.get(job.run, 0) + 1
        path = self._folder.clear_run(job.run)
        job.write(path)
        return path.resolve()

    def path(self, job: Job) -> Path:
        """The folder of a run."""
        return self._folder.run_path(job.run)

    def take(self, job: Job, answer: Mapping[str, str]) -> None:
        """What whoever did a run says of it: nothing when all is well. Raises EnvironmentLacks."""
        if answer.get("kind") == "EnvironmentLacks":
            raise EnvironmentLacks(answer["missing"], answer["remedy"])
        self._tries.pop(job.run, None)
        row = self._folder.row(job.run)
        if answer or row is None:
            self.fail(job, answer.get("message", "stored no results"))
            return
        if monotonic() > self._tables_at:
            started = monotonic()
            self._folder.write_tables(self._folder.rows(), self._units)
            took = monotonic() - started
            self._tables_at = monotonic() + max(TABLES_EVERY, TABLES_SHARE * took)
        self._reporter.done(row)

    def lost(self, job: Job, how: str, *, killed: bool) -> bool:
        """Who did the run died over it: True when it is to be done once more, as where something
        killed it; but an error stays one."""
        if killed and self._tries[job.run] < TRIES:
            return True
        self.fail(job, f"its worker {how}; {self.path(job) / LOG_FILE} says more")
        return False

    def fail(self, job: Job, why: str) -> None:
        """A run has no results, and will not have any."""
        self.failures.append(Failure(job.run, why))

    def waiting(self) -> None:
        """Time went by."""
        self._reporter.waiting()


class Crew(Protocol):
    """Does the runs of a sweep."""

    def do(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        """Do these runs, and tell the ledger of each. Raises EnvironmentLacks."""
