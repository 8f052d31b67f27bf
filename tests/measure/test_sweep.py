"""Sweeps of the simulated world: done once, gone on with, and whole after a worker was killed."""

import os
import signal
import sys
from pathlib import Path

import pytest

from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.job import Job, run_name, run_seed
from ipseclab.measure.ledger import Reporter
from ipseclab.measure.results import ResultsFolder
from ipseclab.measure.sweep import Asked, lay_out_sweep, run_sweep

TEXT = """\
topology: site-to-site
duration: 1s
repetitions: 2
traffic:
  - {kind: ping, name: ping, source: h1, destination: h2, start: 0.2, count: 2, interval: 0.1}
actions:
  - {at: 0.5, do: rekey_child, node: gw1}
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.01, 0.02], quick: [0.02]}
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(TEXT)
    return load_experiment(path)


def folder_of(tmp_path, name="out"):
    return ResultsFolder(tmp_path / name)


def sweep_of(experiment, **asked):
    return lay_out_sweep(experiment, Asked("sim", 1, **asked))


def traces(folder):
    return {p.parent.name: p.read_bytes() for p in folder.path.glob("runs/*/trace.jsonl")}


def test_every_run_is_stored_with_its_files(experiment, tmp_path):
    folder = folder_of(tmp_path)
    rows, failures = run_sweep(sweep_of(experiment), folder, workers=2)
    assert not failures
    assert [(row.parameters["rtt"], row.repetition) for row in rows] == [
        (0.01, 0),
        (0.01, 1),
        (0.02, 0),
        (0.02, 1),
    ]
    assert rows[0].metrics["handshake_time"] == pytest.approx(0.02, abs=0.005)
    assert rows[2].metrics["handshake_time"] == pytest.approx(0.04, abs=0.005)
    assert all(row.metrics["rekeys"] == 1 for row in rows)
    for row in rows:
        names = {path.name for path in folder.run_path(row.run).iterdir()}
        assert {"trace.jsonl", "capture.pcapng", "keys", "run.json", "row.json"} <= names
    manifest = folder.manifest()
    assert (manifest.status, manifest.runs, manifest.runs_done) == ("done", 4, 4)
    assert (folder.path / "runs.csv").read_text().count("\n") == 5
    assert (folder.path / "runs.parquet").stat().st_size > 0


def test_quick_is_coarser_and_its_runs_have_the_same_seeds(experiment):
    whole, quick = sweep_of(experiment), sweep_of(experiment, quick=True)
    assert [dict(job.parameters) for job in quick.jobs] == [{"rtt": 0.02}] * 2
    assert [job.seed for job in quick.jobs] == [job.seed for job in whole.jobs[2:]]


def test_the_same_seed_gives_the_same_traces_whatever_the_workers(experiment, tmp_path):
    one, two = folder_of(tmp_path, "one"), folder_of(tmp_path, "two")
    run_sweep(sweep_of(experiment), one, workers=1)
    run_sweep(sweep_of(experiment), two, workers=2)
    assert traces(one) == traces(two)
    assert len(set(traces(one).values())) == 4


def test_what_is_stored_is_not_done_again(experiment, tmp_path):
    folder = folder_of(tmp_path)
    run_sweep(sweep_of(experiment), folder, workers=2)
    gone, *kept = sorted(traces(folder))
    (folder.run_path(gone) / "row.json").unlink()
    stamps = {run: (folder.run_path(run) / "row.json").stat().st_mtime_ns for run in kept}
    rows, _ = run_sweep(sweep_of(experiment), folder)
    assert len(rows) == 4
    assert stamps == {run: (folder.run_path(run) / "row.json").stat().st_mtime_ns for run in kept}


class Interrupting(Reporter):
    """As Ctrl-C does: an exception between two runs."""

    def done(self, row):
        raise KeyboardInterrupt


def test_interrupted_it_goes_on_where_it_stopped(experiment, tmp_path):
    folder, whole = folder_of(tmp_path), folder_of(tmp_path, "whole")
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep_of(experiment), folder, reporter=Interrupting())
    manifest = folder.manifest()
    assert manifest.status == "interrupted"
    assert manifest.runs_done == len(folder.rows()) == 1
    rows, _ = run_sweep(sweep_of(experiment), folder)
    others, _ = run_sweep(sweep_of(experiment), whole)
    assert [row.metrics for row in rows] == [row.metrics for row in others]
    assert traces(folder) == traces(whole)


def children():
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


class Killing(Reporter):
    """Kills workers that are there: so many times."""

    def __init__(self, times):
        self.times = times

    def waiting(self):
        for child in children()[: self.times]:
            os.kill(int(child), signal.SIGKILL)
            self.times -= 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads its children from /proc")
def test_a_killed_workers_run_is_done_again(experiment, tmp_path):
    folder = folder_of(tmp_path)
    before = children()
    rows, failures = run_sweep(sweep_of(experiment), folder, reporter=Killing(1))
    assert not failures
    assert len(rows) == 4
    assert children() == before


@pytest.mark.skipif(sys.platform != "linux", reason="reads its children from /proc")
def test_a_run_that_kills_its_worker_every_time_is_given_up(experiment, tmp_path):
    folder = folder_of(tmp_path)
    rows, failures = run_sweep(sweep_of(experiment), folder, reporter=Killing(1000))
    assert len(rows) + len(failures) == 4
    assert all("killed by signal 9" in failure.why for failure in failures)
    assert folder.manifest().status == ("failed" if failures else "done")


def test_a_job_reads_back_as_it_was_written(experiment, tmp_path):
    job = sweep_of(experiment).jobs[0]
    assert Job.read(job.write(tmp_path)) == job
    assert job.resolved().link("wan").forward.delay == 0.005


def test_run_names_are_file_names_in_the_order_of_the_sweep():
    names = [run_name(i, {"loss": 0.1, "nat": "a/b c", "x": None}, 3) for i in (2, 10)]
    assert names == sorted(names)
    assert names[0] == "00002_loss-0.1-nat-a-b-c-x-None-r3"
    assert len(run_name(1, {"long": "x" * 500}, 0)) < 100


def test_seeds_differ_by_point_and_repetition():
    seeds = {run_seed(s, {"a": a}, r) for s in (1, 2) for a in (1, 2, 3) for r in range(5)}
    assert len(seeds) == 30
