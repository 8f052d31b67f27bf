"""A progress bar with the time left, for everything that may take over two seconds.

It appears after two seconds only, and only on a terminal: in a log a line at the end says enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ipseclab.measure.ledger import Reporter
from ipseclab.measure.results import Row

PATIENCE = 2.0
"""Seconds that a command may take before it shows a bar."""
SHORTEST_RUN = 0.05
NEARLY_DONE = 0.95
"""The share of a run that is shown as done before it is."""


class Meter:
    """Steps done of a known number; `advance` and `say` are cheap to call."""

    def __init__(self, console: Console, what: str, total: float) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(what, total=total)
        self._since = monotonic()
        self._shown = False
        self._wanted = console.is_terminal

    def advance(self, steps: float = 1.0) -> None:
        """So much more is done."""
        self._progress.advance(self._task, steps)
        self.show_if_slow()

    def reach(self, steps: float) -> None:
        """So much is done by now."""
        self._progress.update(self._task, completed=steps)
        self.show_if_slow()

    def describe(self, what: str) -> None:
        """Say what is being done now."""
        self._progress.update(self._task, description=what)

    def show_if_slow(self) -> None:
        """Show the bar once patience is over; call it while waiting, too."""
        if self._wanted and not self._shown and monotonic() - self._since > PATIENCE:
            self._progress.start()
            self._shown = True

    def close(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._progress.stop()


@contextmanager
def meter(console: Console, what: str, total: float) -> Iterator[Meter]:
    """A `Meter` that is taken away at the end, however it comes."""
    made = Meter(console, what, total)
    try:
        yield made
    finally:
        made.close()


class SweepMeter(Reporter):
    """Shows a sweep's progress: whole runs, and between them what the runs before it took."""

    def __init__(self, bar: Meter, *, workers: int, expected: float) -> None:
        self._bar = bar
        self._workers = workers
        self._expected = expected
        self._done = 0
        self._seconds = 0.0
        self._since = monotonic()

    def done(self, row: Row) -> None:
        """One run more."""
        self._done += 1
        self._seconds += row.wall_time
        self._expected = max(self._seconds / self._done, SHORTEST_RUN)
        self._since = monotonic()
        self._bar.reach(self._done)

    def waiting(self) -> None:
        """Time went by: the runs under way are that much further."""
        share = self._workers * (monotonic() - self._since) / self._expected
        self._bar.reach(self._done + min(share, NEARLY_DONE))
