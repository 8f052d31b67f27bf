"""Worker processes of this machine, each at one run after the other.

A worker that dies takes its run with it; that run is tried once more.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from ipseclab.measure.job import Job
from ipseclab.measure.ledger import Ledger

PATIENCE = 5.0
"""Seconds that a worker may take to end after its last word."""
TICK = 0.2
"""Seconds between two looks at the clock while runs go on."""


class Worker:
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

    def begin(self, path: Path) -> None:
        """Let it do the run in this folder."""
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


def how_it_died(status: int) -> str:
    """The end of a worker in words, by its exit status."""
    return f"was killed by signal {-status}" if status < 0 else f"ended with {status}"


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None, "a worker has both pipes"
    return stream


class Pool:
    """So many workers of this machine, for the runs of one sweep."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._waiting: deque[Job] = deque()

    def do(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        """Do these runs, and tell the ledger of each. Raises EnvironmentLacks."""
        self._waiting.extend(jobs)
        with selectors.DefaultSelector() as selector:
            try:
                for _ in range(self._workers):
                    self._hire(selector, ledger)
                while any(key.data.job is not None for key in selector.get_map().values()):
                    for key, _ in selector.select(TICK):
                        self._hear(selector, key.data, ledger)
                    ledger.waiting()
            finally:
                for key in list(selector.get_map().values()):
                    key.data.end()

    def _hire(self, selector: selectors.BaseSelector, ledger: Ledger) -> None:
        if self._waiting:
            worker = Worker()
            selector.register(_stream(worker.process.stdout), selectors.EVENT_READ, worker)
            self._next(worker, ledger)

    def _next(self, worker: Worker, ledger: Ledger) -> None:
        worker.job = self._waiting.popleft() if self._waiting else None
        if worker.job is not None:
            worker.begin(ledger.begin(worker.job))

    def _hear(self, selector: selectors.BaseSelector, worker: Worker, ledger: Ledger) -> None:
        """A worker answered, or died."""
        job, answer = worker.job, worker.answer()
        if answer is None:
            selector.unregister(_stream(worker.process.stdout))
            status = worker.status()
            worker.end()
            if job is not None and ledger.lost(job, how_it_died(status), killed=status < 0):
                self._waiting.appendleft(job)
            self._hire(selector, ledger)
            return
        if job is not None:
            ledger.take(job, answer)
        self._next(worker, ledger)
