"""A pytest plugin: `pytest experiments/` runs each experiment file as tests, one a sweep point.

A test does the runs of its point and holds what the experiment expects of each point against them;
what it expects over all points is one more test at the end. pytest loads this in every project of
an environment that has ipseclab: nothing of ipseclab is imported before an experiment is found.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ipseclab.measure.expect.judge import Judgement
    from ipseclab.measure.experiment import Experiment
    from ipseclab.measure.job import Job
    from ipseclab.measure.results import Row
    from ipseclab.measure.sweep import Sweep

SUFFIXES = (".yaml", ".yml")
LARGEST_FILE = 1 << 20
_EXPERIMENT_KEYS = tuple(re.compile(rb"(?m)^%s\s*:" % key) for key in (b"topology", b"duration"))
"""What an experiment file always has at its top level; a topology or another YAML has not both."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's options."""
    group = parser.getgroup("ipseclab", "experiments of ipseclab as tests")
    group.addoption(
        "--ipseclab-world",
        choices=("sim", "netns"),
        default="sim",
        help="Run experiments simulated (default) or in Linux namespaces.",
    )
    group.addoption(
        "--ipseclab-quick",
        action="store_true",
        help="Run the coarser grid that each experiment has for --quick.",
    )
    group.addoption(
        "--ipseclab-out",
        type=Path,
        metavar="DIR",
        help="Where results go, and stay; by default with pytest's temporary files.",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Take the file if it is an experiment."""
    if file_path.suffix not in SUFFIXES or not _is_experiment(file_path):
        return None
    collected: pytest.Collector = ExperimentTests.from_parent(parent, path=file_path)
    return collected


def _is_experiment(path: Path) -> bool:
    """By its content alone, without a YAML reader: there may be many files, of anyone's."""
    try:
        with path.open("rb") as stream:
            octets = stream.read(LARGEST_FILE)
    except OSError:
        return False
    return all(key.search(octets) for key in _EXPERIMENT_KEYS)


class ExpectationFailed(AssertionError):
    """What did not hold, a line each."""


class ExperimentTests(pytest.File):
    """An experiment file: its points, each a test."""

    def collect(self) -> Iterator[pytest.Item]:
        """A test a point, and one over all of them where something is expected of all."""
        from ipseclab.errors import ConfigError
        from ipseclab.measure.experiment import load_experiment

        try:
            self.experiment: Experiment = load_experiment(self.path)
        except ConfigError as problem:
            raise self.CollectError(str(problem)) from None
        self._sweep: Sweep | None = None
        for point in self.experiment.points(quick=self.config.option.ipseclab_quick):
            words = " ".join(f"{name}={value}" for name, value in point.parameters.items())
            yield PointTest.from_parent(self, name=words or "run", point=dict(point.parameters))
        if any(one.over == "all" for one in self.experiment.expectations):
            yield PointTest.from_parent(self, name="over all points", point=None)

    @property
    def world(self) -> str:
        """Where the runs are done."""
        return str(self.config.option.ipseclab_world)

    @property
    def folder(self) -> Path:
        """Where the experiment's results go: one place, whichever of xdist's workers asks."""
        out: Path | None = self.config.option.ipseclab_out
        if out is None:
            factory = self.config._tmp_path_factory  # type: ignore[attr-defined]
            base: Path = factory.getbasetemp()
            out = (base.parent if _is_worker(self.config) else base) / "ipseclab"
        return out / f"{self.experiment.name}-{self.world}"

    def laid_out(self) -> Sweep:
        """All runs of the experiment made ready, once."""
        from ipseclab.measure.cost_choice import cost_text, costs_name
        from ipseclab.measure.sweep import Asked, lay_out_sweep

        if self._sweep is None:
            costs = cost_text("default") if self.world == "sim" else ""
            asked = Asked(
                world=self.world,
                seed=self.experiment.file.seed,
                quick=self.config.option.ipseclab_quick,
                costs=costs,
                costs_name=costs_name("default", costs),
                command=("pytest", self.nodeid),
            )
            self._sweep = lay_out_sweep(self.experiment, asked)
        return self._sweep


class PointTest(pytest.Item):
    """The runs of one point of the sweep, or what is expected over all points."""

    def __init__(self, *, point: dict[str, Any] | None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._point = point
        assert isinstance(self.parent, ExperimentTests)
        self._tests = self.parent

    def runtest(self) -> None:
        """Do the runs that are not done yet, and judge them. Raises ExpectationFailed."""
        experiment, world = self._tests.experiment, self._tests.world
        if world not in experiment.file.worlds:
            pytest.skip(f"not made for world {world}")
        sweep = self._tests.laid_out()
        if self._point is None:
            failed = self._over_all(sweep)
        else:
            rows, folder = self._runs_of(sweep, self._point)
            self.user_properties.append(("results", str(folder)))
            failed = self._failures(sweep, "point", self._jobs(sweep, self._point), rows, folder)
        if failed:
            raise ExpectationFailed("\n".join(failed))

    def _over_all(self, sweep: Sweep) -> list[str]:
        keys = dict.fromkeys(tuple(job.parameters.items()) for job in sweep.jobs)
        points = [dict(key) for key in keys]
        rows = [row for point in points for row in self._runs_of(sweep, point)[0]]
        return self._failures(sweep, "all", sweep.jobs, rows, self._tests.folder)

    def _failures(
        self, sweep: Sweep, over: str, jobs: tuple[Job, ...], rows: list[Row], folder: Path
    ) -> list[str]:
        """A line for each expectation of that kind that these rows do not meet."""
        from ipseclab.measure.expect.judge import Verdict, judge

        own = [one for one in sweep.experiment.expectations if one.over == over]
        judged = judge(own, jobs, rows)
        return [_line(one, folder) for one in judged if one.verdict is Verdict.FAILED]

    def _jobs(self, sweep: Sweep, point: dict[str, Any]) -> tuple[Job, ...]:
        return tuple(job for job in sweep.jobs if dict(job.parameters) == point)

    def _runs_of(self, sweep: Sweep, point: dict[str, Any]) -> tuple[list[Row], Path]:
        """The rows of a point, from its folder where it has been run. Raises ExpectationFailed for
        runs that came to nothing."""
        from dataclasses import replace

        from ipseclab.measure.results import ResultsFolder
        from ipseclab.measure.sweep import run_sweep

        jobs = self._jobs(sweep, point)
        folder = self._tests.folder / jobs[0].run
        alone = replace(sweep.experiment, expectations=())
        with _locked(folder):
            rows, failures = run_sweep(
                replace(sweep, experiment=alone, jobs=jobs),
                ResultsFolder(folder),
                workers=self._workers(),
            )
        if failures:
            lines = [f"run {failure.run} failed: {failure.why}" for failure in failures]
            raise ExpectationFailed("\n".join(lines))
        return list(rows), folder

    def _workers(self) -> int:
        """Runs at a time: emulated ones measure real time, and xdist has workers of its own."""
        alone = self._tests.world == "sim" and not _is_worker(self.config)
        return (os.cpu_count() or 1) if alone else 1

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What failed, and not where in this file."""
        from ipseclab.errors import IpsecLabError

        if isinstance(excinfo.value, ExpectationFailed | IpsecLabError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        """The experiment and the point."""
        return self.path, None, f"{self._tests.experiment.name}: {self.name}"


def _is_worker(config: pytest.Config) -> bool:
    """True in one of xdist's processes."""
    return hasattr(config, "workerinput")


def _line(judgement: Judgement, folder: Path) -> str:
    from ipseclab.measure.expect.words import in_words

    where = folder / "runs" / judgement.run if judgement.run else folder
    return f"{judgement.expectation}: {in_words(judgement)}: {where}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a folder of results."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
