"""Does the runs of a sweep on a Dask cluster: one that is there, or one started for the sweep.

The coordinator has a few runs more under way than the cluster does at a time, and stores each as it
comes back: its memory does not grow with the sweep. Dask itself gives the runs of a worker that
dies to another one. Needs the extra `cluster`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from ipseclab.errors import ConfigError, EnvironmentLacks
from ipseclab.measure.job import JOB_FILE, Job
from ipseclab.measure.ledger import Ledger
from ipseclab.measure.remote import DIED, Done, do_run, unpack
from ipseclab.measure.results import sources_digest

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local:"
MOST_LOCAL = 256
"""Workers that `local:N` may ask for."""
PATIENCE = 10.0
"""Seconds that a scheduler may take to answer, and then a first worker to be there."""
GONE = 30.0
"""Seconds without any worker after which a cluster is given up."""
TICK = 0.2
"""Seconds between two looks at the clock while runs go on."""
AHEAD = 2
"""Runs under way for each that the cluster can do at a time: none of its threads waits."""
_FORMS = "expected local:N, or HOST:PORT or tcp://HOST:PORT of a Dask scheduler"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A crew: the cluster at an address."""

    address: str

    def __post_init__(self) -> None:
        """Raises ConfigError for what is no address."""
        if self.address.startswith(LOCAL):
            count = self.address.removeprefix(LOCAL)
            if not count.isdecimal() or not 1 <= int(count) <= MOST_LOCAL:
                raise ConfigError(
                    f"--cluster {self.address}: {count!r}, expected 1 to {MOST_LOCAL} workers"
                )
            return
        scheme, _, rest = self.address.rpartition("://")
        host, _, port = rest.rpartition(":")
        if scheme not in ("", "tcp", "tls") or not host or not port.isdecimal():
            raise ConfigError(f"--cluster {self.address}: no address, {_FORMS}")

    def do(self, jobs: Sequence[Job], ledger: Ledger) -> None:
        """Do these runs, and tell the ledger of each. Raises EnvironmentLacks."""
        with self._client() as client:
            _Errand(client, self.address, ledger).run(jobs)

    @contextmanager
    def _client(self) -> Iterator[Client]:
        try:
            from distributed import Client, LocalCluster
        except ModuleNotFoundError as lacking:
            raise EnvironmentLacks(
                f"--cluster needs Dask: no module {lacking.name}",
                "pip install 'ipseclab[cluster]'",
            ) from None
        # What it has to say of workers that come and go is told by what becomes of the runs.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        if self.address.startswith(LOCAL):
            workers = int(self.address.removeprefix(LOCAL))
            with (
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None
                ) as local,
                Client(local) as client,
            ):
                yield client
            return
        try:
            client = Client(self.address, timeout=PATIENCE)
        except (OSError, ValueError) as problem:
            raise EnvironmentLacks(
                f"no Dask scheduler answers at {self.address} ({type(problem).__name__})",
                "start one (dask scheduler, dask worker ADDRESS), or --cluster local:N",
            ) from None
        with client:
            yield client


class _Errand:
    """The runs of one sweep on their way through a cluster."""

    def __init__(self, client: Client, address: str, ledger: Ledger) -> None:
        self._client = client
        self._address = address
        self._ledger = ledger
        self._waiting: deque[Job] = deque()
        self._under_way: dict[Future[Done], Job] = {}
        self._last_seen = monotonic()

    def run(self, jobs: Sequence[Job]) -> None:
        """Do these runs."""
        from distributed import wait

        self._waiting.extend(jobs)
        while self._waiting or self._under_way:
            self._submit(AHEAD * self._threads())
            if self._under_way:
                try:
                    wait(list(self._under_way), timeout=TICK, return_when="FIRST_COMPLETED")
                except TimeoutError:
                    self._ledger.waiting()
                    continue
            for future in [future for future in self._under_way if future.done()]:
                self._take(future, self._under_way.pop(future))
            self._ledger.waiting()

    def _threads(self) -> int:
        """How many runs the cluster can do at a time. Raises EnvironmentLacks when it is gone, or
        has been without a worker for long."""
        threads: int
        try:
            threads = sum(self._client.nthreads().values())
            if not threads and monotonic() - self._last_seen < GONE:
                self._client.wait_for_workers(1, timeout=PATIENCE)
                threads = sum(self._client.nthreads().values())
        except TimeoutError:
            threads = 0
        except OSError:
            raise self._lacks("does not answer any more") from None
        if threads:
            self._last_seen = monotonic()
        elif monotonic() - self._last_seen >= PATIENCE:
            raise self._lacks("has no worker")
        return threads

    def _lacks(self, what: str) -> EnvironmentLacks:
        remedy = "what is done is stored: the same command goes on once it is there"
        return EnvironmentLacks(f"the Dask cluster at {self._address} {what}", remedy)

    def _submit(self, most: int) -> None:
        while self._waiting and len(self._under_way) < most:
            job = self._waiting.popleft()
            document = (self._ledger.begin(job) / JOB_FILE).read_text(encoding="utf-8")
            future = self._client.submit(do_run, document, sources_digest(), pure=False)
            self._under_way[future] = job

    def _take(self, future: Future[Done], job: Job) -> None:
        """A run came back, or will not. Raises EnvironmentLacks."""
        if future.status in ("lost", "cancelled"):
            raise self._lacks("does not answer any more")
        if future.status == "error":
            self._failed(future, job)
            return
        done: Done = future.result()
        if done.answer.get("kind") == DIED:
            killed = bool(done.answer["killed"])
            unpack(done.files, self._ledger.path(job))
            if self._ledger.lost(job, done.answer["how"], killed=killed):
                self._waiting.appendleft(job)
            return
        unpack(done.files, self._ledger.path(job))
        self._ledger.take(job, done.answer)

    def _failed(self, future: Future[Done], job: Job) -> None:
        from distributed import KilledWorker

        problem = future.exception()
        if isinstance(problem, KilledWorker):
            self._ledger.fail(job, "each of the cluster's workers that took it died over it")
            return
        raise EnvironmentLacks(
            f"the Dask cluster at {self._address} cannot do a run: {problem}",
            "install the same ipseclab on all of its machines",
        )
