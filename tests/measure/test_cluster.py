"""Sweeps on a Dask cluster: the same results as by worker processes, whatever becomes of those."""

import gc
import os
import signal
import sys
from dataclasses import replace
from types import FunctionType, ModuleType

import pytest

from ipseclab.cli import main
from ipseclab.errors import ConfigError
from ipseclab.measure.cluster import Cluster
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.ledger import TRIES, Ledger, Reporter
from ipseclab.measure.remote import do_run, packed, unpack
from ipseclab.measure.results import ResultsFolder, Row, sources_digest
from ipseclab.measure.sweep import Asked, lay_out_sweep, run_sweep

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

TEXT = """\
topology: site-to-site
duration: 1s
repetitions: 3
traffic:
  - {kind: ping, name: ping, source: h1, destination: h2, start: 0.2, count: 2, interval: 0.1}
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.01, 0.02]}
"""

RUN = ("run", "quickstart", "--quick")


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return lay_out_sweep(load_experiment(path), Asked("sim", 1))


@pytest.fixture(scope="module")
def dask_cluster():
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def octets_of(folder):
    """All files of all runs but what tells the time of day, and the log of Python itself."""
    return {
        path.relative_to(folder.path): path.read_bytes()
        for path in folder.path.glob("runs/**/*")
        if path.is_file() and path.name not in ("row.json", "run.log")
    }


def test_a_cluster_gives_the_same_results_octet_for_octet(sweep, dask_cluster, tmp_path):
    ours, theirs = ResultsFolder(tmp_path / "ours"), ResultsFolder(tmp_path / "theirs")
    mine, _ = run_sweep(sweep, ours, workers=2)
    rows, failures = run_sweep(sweep, theirs, crew=Cluster(dask_cluster.scheduler_address))
    assert not failures
    assert [replace(row, wall_time=0.0) for row in rows] == [
        replace(row, wall_time=0.0) for row in mine
    ]
    assert octets_of(ours) == octets_of(theirs)
    assert len(octets_of(ours)) >= 6 * len(("trace.jsonl", "capture.pcapng", "run.json"))


class Killing(Reporter):
    """Kills a worker of the cluster after the first run, while others are under way; then lets an
    exception end the sweep, as Ctrl-C does, where that is wanted."""

    def __init__(self, cluster, *, interrupt=False):
        self.cluster = cluster
        self.interrupt = interrupt
        self.runs = 0

    def done(self, row):
        self.runs += 1
        if self.runs == 1:
            worker = next(iter(self.cluster.workers.values()))
            os.kill(worker.process.pid, signal.SIGKILL)
        if self.interrupt and self.runs == 2:
            raise KeyboardInterrupt


def test_a_killed_worker_loses_nothing_and_an_interrupted_sweep_goes_on(
    sweep, dask_cluster, tmp_path
):
    crew = Cluster(dask_cluster.scheduler_address)
    folder, whole = ResultsFolder(tmp_path / "out"), ResultsFolder(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, folder, crew=crew, reporter=Killing(dask_cluster, interrupt=True))
    assert folder.manifest().status == "interrupted"
    assert 2 <= len(folder.rows()) < 6
    rows, failures = run_sweep(sweep, folder, crew=crew, reporter=Killing(dask_cluster))
    assert not failures
    assert len(rows) == 6
    run_sweep(sweep, whole, workers=2)
    assert octets_of(folder) == octets_of(whole)


def test_workers_with_another_program_are_refused(sweep):
    done = do_run("{}", "of another")
    assert done.answer["kind"] == "EnvironmentLacks"
    assert sources_digest() in done.answer["missing"]
    assert not done.files


@pytest.mark.parametrize("address", ["local:0", "local:", "local:many", "nowhere", "udp://a:1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match=r"--cluster .*expected"):
        Cluster(address)


def command(monkeypatch, *words):
    """The exit code of a command."""
    monkeypatch.setattr("sys.argv", ["ipseclab", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_an_unreachable_cluster_is_one_line_and_exit_3(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ipseclab.measure.cluster.PATIENCE", 0.5)
    out = tmp_path / "out"
    assert command(monkeypatch, *RUN, "--cluster", "127.0.0.1:1", "--out", out) == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert "no Dask scheduler answers at 127.0.0.1:1" in lines[0]
    assert not ResultsFolder(out).rows()


def test_jobs_and_a_cluster_exclude_each_other(tmp_path, capsys, monkeypatch):
    words = "--cluster", "local:2", "--jobs", "2", "--out", tmp_path
    assert command(monkeypatch, *RUN, *words) == 2
    assert "expected one of them" in capsys.readouterr().err


def test_files_of_a_run_come_back_whole_and_stay_in_its_folder(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "keys").mkdir(parents=True)
    other.mkdir()
    (one / "row.json").write_text("{}")
    (one / "keys" / "esp_sa").write_bytes(b"\0\xff")
    files = packed(one)
    unpack({**files, "../outside": b"x", "/tmp/outside-of-ipseclab": b"x"}, other)
    assert packed(other) == files
    assert not (tmp_path / "outside").exists()


def octets_held_by(*roots):
    """What these objects and all that they refer to take, but for code."""
    seen, todo, total = set(), list(roots), 0
    while todo:
        found = todo.pop()
        if id(found) in seen or isinstance(found, (type, ModuleType, FunctionType)):
            continue
        seen.add(id(found))
        total += sys.getsizeof(found)
        todo += gc.get_referents(found)
    return total


def test_the_coordinators_memory_does_not_grow_with_the_runs(sweep, tmp_path):
    row = Row("", "sim", 1, 0, {"a": 1}, {"rekeys": 1.0})
    folder = ResultsFolder(tmp_path)
    ledger = Ledger(folder, {}, Reporter())
    held = []
    for index in range(100):
        job = replace(sweep.jobs[0], run=f"{index:05d}")
        ledger.begin(job)
        folder.store(replace(row, run=job.run))
        ledger.take(job, {})
        if index in (9, 99):
            held.append(octets_held_by(ledger))
    assert not ledger.failures
    # A row that is kept takes 600 octets and more, a name 50.
    assert held[1] - held[0] < 1000


def test_a_run_that_kills_every_worker_is_given_up(sweep, tmp_path):
    ledger = Ledger(ResultsFolder(tmp_path), {}, Reporter())
    job = sweep.jobs[0]
    for _ in range(TRIES - 1):
        ledger.begin(job)
        assert ledger.lost(job, "was killed by signal 9", killed=True)
    ledger.begin(job)
    assert not ledger.lost(job, "was killed by signal 9", killed=True)
    assert "signal 9" in ledger.failures[0].why
