"""An experiment: YAML -> frozen values, every error one line with file, line, column and key.

`load_experiment` reads and checks the file; `points` lays the sweep out; `prepare` makes the
topology and plan of one point. All points are prepared before the first run starts, so that a bad
value in the last one is found before anything happens.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ipseclab.errors import ConfigError
from ipseclab.lab.attack_plans import check_attacks
from ipseclab.lab.checks import check_faults
from ipseclab.lab.library import EXPERIMENTS, TOPOLOGIES, find_file
from ipseclab.lab.plan import RunPlan
from ipseclab.lab.repeat import expand, of_templates
from ipseclab.lab.topology import Topology, refuse_other, resolve
from ipseclab.lab.yaml_source import KeyPath, YamlSource, check, one_of, read_yaml
from ipseclab.measure.expect.names import Vocabulary
from ipseclab.measure.expect.reading import Expectation, read_expectations
from ipseclab.measure.experiment_file import (
    AxisFile,
    ChoiceFile,
    ExperimentFile,
    PlotFile,
    PointFile,
    Scalar,
)
from ipseclab.measure.metrics import METRICS, known
from ipseclab.measure.run_plan import check_plan, make_plan

MOST_RUNS = 1_000_000
RESERVED = ("run", "world", "seed", "repetition", "wall_time")
PLAN_KEYS = ("traffic", "actions", "duration")
SHOWN_KEYS = {"plots", "metrics", "description", "expect"}
"""Keys that change nothing in what the runs do: results stay good when these change."""


@dataclass(frozen=True, slots=True)
class PlotSpec:
    """A figure that an experiment asks for; `where` picks runs by their parameters."""

    kind: str
    stem: str
    title: str = ""
    y: str = ""
    x: str = ""
    series: Sequence[str] = ()
    cells: Sequence[str] = ()
    bad: str = "something"
    where: Mapping[str, Scalar] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False
    from_y: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One key set to a value, and where in the experiment file that is said."""

    key: str
    value: Any
    origin: KeyPath


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One point of the sweep: what the results call it, and what it sets."""

    parameters: Mapping[str, Scalar]
    settings: tuple[Setting, ...] = ()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A point made ready to run; `source` is the topology file with the point's values in it."""

    point: SweepPoint
    source: YamlSource
    topology: Topology
    plan: RunPlan


@dataclass(frozen=True, slots=True)
class Experiment:
    """A checked experiment file with its topology file, both with the places of their keys."""

    name: str
    file: ExperimentFile
    source: YamlSource
    topology_source: YamlSource
    expectations: tuple[Expectation, ...] = ()

    def points(self, *, quick: bool = False) -> tuple[SweepPoint, ...]:
        """The sweep laid out, the first axis slowest; one point without parameters where there is
        none."""
        points = self._swept(quick)
        shorter = self.file.quick.duration
        if not quick or shorter is None:
            return points
        setting = Setting("duration", shorter, ("quick", "duration"))
        return tuple(SweepPoint(p.parameters, (*p.settings, setting)) for p in points)

    def _swept(self, quick: bool) -> tuple[SweepPoint, ...]:
        sweep = self.file.sweep
        if sweep is None:
            return (SweepPoint({}),)
        if sweep.points:
            listed = list(enumerate(sweep.points))
            marked = [(index, point) for index, point in listed if point.quick]
            return tuple(_listed(index, point) for index, point in (quick and marked) or listed)
        axes = [_axis_values(index, axis, quick) for index, axis in enumerate(sweep.grid)]
        return tuple(_joined(steps) for steps in itertools.product(*axes))

    def repetitions(self, *, quick: bool = False) -> int:
        """Runs of each point."""
        fewer = self.file.quick.repetitions
        return fewer if quick and fewer is not None else self.file.repetitions

    def prepare(self, point: SweepPoint) -> Prepared:
        """Topology and plan of one point. Raises ConfigError at the experiment's key that is
        wrong."""
        settings = [
            *self._beside("faults"),
            *self._beside("attacks"),
            *(
                Setting(key, value, ("overrides", key))
                for key, value in self.file.overrides.items()
            ),
            *point.settings,
        ]
        source, own = self.topology_source, self.source
        for setting in settings:
            if setting.key.split(".")[0] in PLAN_KEYS:
                own = _override(own, setting, self.source)
        try:
            source = self._topology_with(settings)
            topology = resolve(source)
        except ConfigError as problem:
            raise self._at_setting(problem, settings) from None
        try:
            file = check(ExperimentFile, own)
        except ConfigError as problem:
            raise self._at_setting(problem, settings) from None
        check_plan(file, own, topology)
        return Prepared(point, source, topology, make_plan(file, topology))

    def _topology_with(self, settings: Sequence[Setting]) -> YamlSource:
        """The topology file with these settings, its copies written out. Raises ConfigError."""
        ours = [item for item in settings if item.key.split(".")[0] not in PLAN_KEYS]
        source = self.topology_source
        for setting in sorted(ours, key=lambda item: not of_templates(item.key)):
            if not of_templates(setting.key):
                source = expand(source)
            source = _override(source, setting, self.source)
        return expand(source)

    def _beside(self, key: str) -> list[Setting]:
        """The experiment's faults or attacks behind those of the topology. Raises ConfigError."""
        own = self.source.data.get(key, [])
        if not own:
            return []
        nodes = resolve(self.topology_source).nodes
        if key == "faults":
            check_faults(self.file.faults, nodes, self.source)
        else:
            check_attacks(self.file.attacks, nodes, self.source)
        there = self.topology_source.data.get(key) or []
        return [Setting(key, [*there, *own], (key,))]

    def _at_setting(self, problem: ConfigError, settings: Sequence[Setting]) -> ConfigError:
        """A wrong value said to stand where the experiment file sets it.

        Both files are right by themselves, so that it is one of the settings: the one whose key is
        nearest to the place of the problem.
        """
        key = problem.place.key if problem.place is not None else ""
        for setting in settings:
            if key == setting.key or setting.key.startswith(f"{key}."):
                return self.source.error(setting.origin, f"{key}: {problem.problem}")
        for setting in settings:
            if _same_key(key, setting.key):
                return self.source.error(setting.origin, f"{key}: {problem.problem}")
        return problem

    def units(self) -> dict[str, str]:
        """The parameters' units."""
        sweep = self.file.sweep
        return {axis.name: axis.unit for axis in sweep.grid if axis.unit} if sweep else {}

    def labels(self) -> dict[str, str]:
        """What figures call the parameters."""
        sweep = self.file.sweep
        return {axis.name: axis.label for axis in sweep.grid if axis.label} if sweep else {}

    def plots(self) -> tuple[PlotSpec, ...]:
        """The figures asked for."""
        return tuple(_plot_spec(plot) for plot in self.file.plots)

    def details(self) -> dict[str, Any]:
        """What the manifest keeps so that figures and tables can be made again without the file."""
        return {
            "description": self.file.description,
            "file": Path(self.source.file).name,
            "topology": Path(self.topology_source.file).name,
            "metrics": list(self.file.metrics),
            "labels": self.labels(),
            "plots": [asdict(plot) for plot in self.plots()],
        }

    def digest(self) -> str:
        """A fingerprint of all that decides what the runs do, the topology's content included."""
        # Without what has its default: a key that a later version adds changes no other's digest.
        content = self.file.model_dump(mode="json", exclude=SHOWN_KEYS, exclude_defaults=True)
        text = json.dumps([content, self.topology_source.data], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_experiment(path_or_name: str | Path) -> Experiment:
    """Read and check an experiment file (or one of that name that comes with ipseclab) and its
    topology. Raises ConfigError."""
    path = find_file(path_or_name, EXPERIMENTS)
    source = read_yaml(path)
    refuse_other(source, "nodes", "topology", f"a topology, use: ipseclab up {path_or_name}")
    file = check(ExperimentFile, source)
    topology_path = _topology_path(file, path, source)
    topology_source = read_yaml(topology_path)
    topology = resolve(topology_source)  # what is wrong in itself is said to be wrong there
    name = file.name if file.name is not None else path.stem
    experiment = Experiment(name, file, source, topology_source)
    _check_sweep(experiment)
    _check_names(experiment)
    return replace(experiment, expectations=_expectations(experiment, topology))


def _expectations(experiment: Experiment, topology: Topology) -> tuple[Expectation, ...]:
    """What the file expects, checked against the sweep. Raises ConfigError."""
    file = experiment.file
    if not file.expect:
        return ()
    points = [point.parameters for point in experiment.points()]
    units = experiment.units()
    vocabulary = Vocabulary(
        {name: units.get(name, "") for name in points[0]},
        tuple(link.name for link in topology.links),
        tuple(flow.name for flow in file.traffic),
    )
    return read_expectations(
        file.expect, experiment.source, vocabulary=vocabulary, points=points, worlds=file.worlds
    )


def _topology_path(file: ExperimentFile, path: Path, source: YamlSource) -> Path:
    """Beside the experiment, or as the library finds it by path or name."""
    beside = path.parent / file.topology
    if beside.is_file():
        return beside
    try:
        return find_file(file.topology, TOPOLOGIES)
    except ConfigError as problem:
        raise source.error(("topology",), f"{file.topology}: {problem.problem}") from None


def _override(source: YamlSource, setting: Setting, own: YamlSource) -> YamlSource:
    try:
        return source.with_override(setting.key, setting.value)
    except ConfigError as problem:
        raise own.error(setting.origin, f"{setting.key}: {problem.problem}") from None


def _same_key(found: str, key: str) -> bool:
    """True when a place in a topology (`links[0].loss.p`) may be what `links.wan.loss` set."""
    parts, wanted = found.replace("[", ".").split("."), key.split(".")
    return parts[0] == wanted[0] and wanted[-1] in parts


# --- the sweep -----------------------------------------------------------------------------------

Step = tuple[str, Scalar, tuple[Setting, ...]]


def _axis_values(index: int, axis: AxisFile, quick: bool) -> list[Step]:
    """Each value of an axis as (name, what the results call it, what it sets)."""
    base: KeyPath = ("sweep", "grid", index)
    chosen, origin = axis.values, "values"
    if quick:
        ends = [axis.values[0], *axis.values[-1:]] if len(axis.values) > 1 else axis.values
        chosen, origin = (axis.quick, "quick") if axis.quick is not None else (ends, "values")
    return [_axis_step(axis, value, (*base, origin, place)) for place, value in enumerate(chosen)]


def _axis_step(axis: AxisFile, value: Scalar | ChoiceFile, origin: KeyPath) -> Step:
    if isinstance(value, ChoiceFile):
        settings = tuple(
            Setting(key, item, (*origin, "set", key)) for key, item in value.set.items()
        )
        return axis.name, value.is_, settings
    keys = [axis.set] if isinstance(axis.set, str) else axis.set
    scaled: Scalar = value
    if axis.scale is not None and isinstance(value, int | float) and not isinstance(value, bool):
        # Rounded to 15 digits: 0.3 * 0.5 is to be the same float as 0.15.
        scaled = float(f"{value * axis.scale:.15g}")
    return axis.name, value, tuple(Setting(key, scaled, origin) for key in keys)


def _joined(steps: Sequence[Step]) -> SweepPoint:
    settings = tuple(setting for _, _, some in steps for setting in some)
    return SweepPoint({name: value for name, value, _ in steps}, settings)


def _listed(index: int, point: PointFile) -> SweepPoint:
    base: KeyPath = ("sweep", "points", index, "set")
    settings = tuple(Setting(key, value, (*base, key)) for key, value in point.set.items())
    return SweepPoint(point.parameters, settings)


def _check_sweep(experiment: Experiment) -> None:
    """Names that can be columns, values that can be scaled, a number of runs that can end."""
    sweep, source = experiment.file.sweep, experiment.source
    if sweep is None:
        return
    for index, axis in enumerate(sweep.grid):
        path: KeyPath = ("sweep", "grid", index)
        earlier = [other.name for other in sweep.grid[:index]]
        _check_column(axis.name, earlier, (*path, "name"), source)
        for key in ("values", "quick"):
            for place, value in enumerate(getattr(axis, key) or ()):
                _check_value(axis, value, (*path, key, place), source)
    for index, point in enumerate(sweep.points):
        path = ("sweep", "points", index, "parameters")
        for name in point.parameters:
            _check_column(name, [], (*path, name), source)
        if point.parameters.keys() != sweep.points[0].parameters.keys():
            wanted = ", ".join(sweep.points[0].parameters)
            raise source.error(path, f"other parameters than the first point, expected {wanted}")
    runs = len(experiment.points()) * experiment.repetitions()
    if runs > MOST_RUNS:
        raise source.error(("sweep",), f"{runs} runs, expected at most {MOST_RUNS}")


def _check_column(name: str, earlier: Sequence[str], path: KeyPath, source: YamlSource) -> None:
    if name in earlier:
        raise source.error(path, f"{name!r} is there twice, expected another name")
    if name in RESERVED or known(name):
        raise source.error(path, f"{name!r} is a column of its own, expected another name")


def _check_value(
    axis: AxisFile, value: Scalar | ChoiceFile, path: KeyPath, source: YamlSource
) -> None:
    if isinstance(value, ChoiceFile):
        return
    if not axis.set:
        raise source.error(path, "sets nothing, expected is and set, or set beside the axis's name")
    if axis.scale is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise source.error(path, f"{value!r} cannot be scaled, expected a number")


# --- metrics and figures -------------------------------------------------------------------------


def _check_names(experiment: Experiment) -> None:
    """Metrics that exist, figures of parameters that exist."""
    file, source = experiment.file, experiment.source
    flows = [flow.name for flow in file.traffic]
    for index, name in enumerate(flows):
        if name in flows[:index]:
            path: KeyPath = ("traffic", index, "name")
            raise source.error(path, f"a second flow {name!r}, expected another name")
    for index, name in enumerate(file.metrics):
        if not known(name):
            raise source.error(
                ("metrics", index), f"{name!r} is no metric, {one_of(list(METRICS), name)}"
            )
    parameters = list(experiment.points()[0].parameters)
    stems: list[str] = []
    for index, plot in enumerate(file.plots):
        path = ("plots", index)
        for key, name in _plot_parameters(plot):
            if name not in parameters:
                raise source.error(
                    (*path, key), f"{name!r} is no parameter, {one_of(parameters, name)}"
                )
        if plot.kind == "sweep" and not known(plot.y):
            raise source.error(
                (*path, "y"), f"{plot.y!r} is no metric, {one_of(list(METRICS), plot.y)}"
            )
        if plot.kind == "sweep" and not plot.x:
            raise source.error(path, "a sweep without x, expected the name of a parameter")
        if plot.kind == "matrix":
            _check_matrix(plot, path, source)
        stem = _plot_spec(plot).stem
        if stem in stems:
            raise source.error(path, f"a second figure {stem!r}, expected stem with another name")
        stems.append(stem)


def _check_matrix(plot: PlotFile, path: KeyPath, source: YamlSource) -> None:
    for key, what in (("x", "a parameter"), ("series", "parameters"), ("cells", "metrics")):
        if not getattr(plot, key):
            raise source.error(path, f"a matrix without {key}, expected the name of {what}")
    for place, name in enumerate(plot.cells):
        if not known(name):
            problem = f"{name!r} is no metric, {one_of(list(METRICS), name)}"
            raise source.error((*path, "cells", place), problem)


def _plot_parameters(plot: PlotFile) -> Iterator[tuple[str, str]]:
    if plot.x:
        yield "x", plot.x
    for name in [plot.series] if isinstance(plot.series, str) else plot.series:
        if name:
            yield "series", name
    for name in plot.where:
        yield "where", name


def _plot_spec(plot: PlotFile) -> PlotSpec:
    series = [plot.series] if isinstance(plot.series, str) else plot.series
    stem = plot.stem if plot.stem is not None else "-".join(filter(None, (plot.kind, plot.y)))
    return PlotSpec(
        kind=plot.kind,
        stem=stem.replace(".", "-"),
        title=plot.title,
        y=plot.y,
        x=plot.x,
        series=tuple(name for name in series if name),
        cells=tuple(plot.cells),
        bad=plot.bad,
        where=plot.where,
        log_x=plot.log_x,
        log_y=plot.log_y,
        from_y=plot.from_y,
    )
