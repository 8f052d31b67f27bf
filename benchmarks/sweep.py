"""Sweeps of the simulated world: two worker processes against one, and a Dask cluster against them.

The same runs by one worker process, by two (`--jobs 2`), and by a Dask cluster of two workers that
is up already; they take turns, and the fastest round of each counts. Starting the cluster is a
figure of its own. Every way must store the same traces, octet for octet.

    python benchmarks/sweep.py --quick --out results/benchmarks
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from table import Row, arguments, met, publish

from ipseclab.measure.cluster import Cluster
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.ledger import Crew
from ipseclab.measure.pool import Pool
from ipseclab.measure.results import ResultsFolder
from ipseclab.measure.sweep import Asked, Sweep, lay_out_sweep, run_sweep

EXPERIMENT = Path(__file__).with_suffix(".yaml")
WORKERS = 2
ROUNDS = 3
SPEED_UP = 1.8
"""Wanted of two worker processes over one."""
CLUSTER_SHARE = 0.9
"""Wanted of a cluster over as many worker processes."""


def timed(sweep: Sweep, crew: Crew) -> tuple[float, str]:
    """Seconds of wall time that a crew takes for the sweep, and a digest of the traces."""
    with TemporaryDirectory(prefix="ipseclab-sweep-") as base:
        folder = ResultsFolder(Path(base) / "out")
        started = perf_counter()
        rows, failures = run_sweep(sweep, folder, crew=crew)
        seconds = perf_counter() - started
        assert not failures, failures[0].why
        assert len(rows) == len(sweep.jobs)
        digest = hashlib.sha256()
        for row in rows:
            digest.update((folder.run_path(row.run) / "trace.jsonl").read_bytes())
        return seconds, digest.hexdigest()


def cluster_of(workers: int, stack: ExitStack) -> tuple[Cluster, float]:
    """A cluster that is up, and the seconds that it took to be."""
    from distributed import Client, LocalCluster

    started = perf_counter()
    local = stack.enter_context(
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None)
    )
    with Client(local) as client:
        client.wait_for_workers(workers)
    return Cluster(local.scheduler_address), perf_counter() - started


def main() -> None:
    options = arguments(__doc__).parse_args()
    sweep = lay_out_sweep(load_experiment(EXPERIMENT), Asked("sim", 1, quick=options.quick))
    found: dict[str, list[float]] = {}
    digests: set[str] = set()
    with ExitStack() as stack:
        cluster, start_up = cluster_of(WORKERS, stack)
        crews: dict[str, Crew] = {
            "1 worker process": Pool(1),
            f"{WORKERS} worker processes": Pool(WORKERS),
            f"Dask, {WORKERS} workers": cluster,
        }
        # The cluster keeps its worker processes from one sweep to the next; the first starts them.
        timed(sweep, cluster)
        for _ in range(1 if options.quick else ROUNDS):
            for name, crew in crews.items():
                seconds, digest = timed(sweep, crew)
                found.setdefault(name, []).append(seconds)
                digests.add(digest)
    assert len(digests) == 1, "the crews' traces differ"
    best = {name: min(seconds) for name, seconds in found.items()}
    one, two, dask = best.values()
    rows: list[Row] = [
        {
            "crew": name,
            "runs": len(sweep.jobs),
            "seconds": seconds,
            "runs/s": len(sweep.jobs) / seconds,
            "speed_up": one / seconds,
        }
        for name, seconds in best.items()
    ]
    lines = [
        f"target: speed-up of {WORKERS} worker processes {one / two:.2f} of at least {SPEED_UP}: "
        + met(one / two >= SPEED_UP),
        f"target: Dask at {two / dask:.2f} of their speed, at least {CLUSTER_SHARE}: "
        + met(two / dask >= CLUSTER_SHARE),
        f"starting the cluster took {start_up:.1f} s",
    ]
    publish("sweep", {"A sweep by who does its runs": rows}, options, lines)


if __name__ == "__main__":
    main()
