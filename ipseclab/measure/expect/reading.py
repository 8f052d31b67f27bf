"""Expectations as an experiment file says them, checked against its parameters and its topology."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ipseclab.errors import ConfigError
from ipseclab.lab.yaml_source import KeyPath, YamlSource, one_of
from ipseclab.measure.expect.expression import Expression, ExpressionError, parse
from ipseclab.measure.expect.names import Constant, MetricUse, Vocabulary
from ipseclab.measure.experiment_file import ExpectFile, World
from ipseclab.measure.results import Scalar

WORLD = "world"
Point = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected, of which runs: `where` names the values that a parameter may have there.

    `over` point: at each point of the sweep for itself; all: of all runs together.
    """

    text: str
    tree: Expression
    uses: tuple[MetricUse | Constant, ...]
    over: Literal["point", "all"] = "point"
    where: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    worlds: tuple[World, ...] = ("sim", "netns")
    why: str = ""

    @property
    def per_run(self) -> bool:
        """True when it names a metric without a statistic, and so is about each run."""
        return any(isinstance(use, MetricUse) and use.statistic is None for use in self.uses)

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The parameters and facts that it names."""
        return tuple(use for use in self.uses if isinstance(use, Constant))

    def picks(self, point: Point) -> bool:
        """True when it is about that point."""
        return all(
            any(_same(point[name], value) for value in values)
            for name, values in self.where.items()
        )


def read_expectations(
    files: Sequence[ExpectFile],
    source: YamlSource,
    *,
    vocabulary: Vocabulary,
    points: Sequence[Point],
    worlds: Sequence[World],
) -> tuple[Expectation, ...]:
    """The expectations of an experiment file. Raises ConfigError at the one that is wrong."""
    return tuple(
        _read(file, ("expect", index), source, vocabulary, points, worlds)
        for index, file in enumerate(files)
    )


def _read(
    file: ExpectFile,
    path: KeyPath,
    source: YamlSource,
    vocabulary: Vocabulary,
    points: Sequence[Point],
    worlds: Sequence[World],
) -> Expectation:
    try:
        tree = parse(file.that)
        vocabulary.check(tree)
    except ExpressionError as problem:
        where = f", at character {problem.at + 1} of {file.that!r}"
        raise source.error((*path, "that"), f"{problem}{where}") from None
    expectation = Expectation(
        text=" ".join(file.that.split()),
        tree=tree,
        uses=vocabulary.uses(tree),
        over=file.over,
        where=_where(file, path, source, points),
        worlds=_worlds(file, path, source, worlds),
        why=file.why,
    )
    picked = [point for point in points if expectation.picks(point)]
    if not picked:
        raise source.error((*path, "where"), "picks no point of the sweep, expected one or more")
    _check_constants(expectation, picked, path, source)
    return expectation


def _where(
    file: ExpectFile, path: KeyPath, source: YamlSource, points: Sequence[Point]
) -> dict[str, tuple[Scalar, ...]]:
    """The parameters that it asks for, each of which some point has with that value."""
    found: dict[str, tuple[Scalar, ...]] = {}
    for name, given in file.where.items():
        if name == WORLD:
            continue
        if name not in points[0]:
            choices = [*points[0], WORLD]
            raise source.error(
                (*path, "where", name), f"{name!r} is no parameter, {one_of(choices, name)}"
            )
        values = tuple(given) if isinstance(given, list) else (given,)
        there = list(dict.fromkeys(point[name] for point in points))
        for value in values:
            if not any(_same(value, other) for other in there):
                choices = [str(other) for other in there]
                raise source.error(
                    (*path, "where", name),
                    f"no point has {name} {value}, {one_of(choices, str(value))}",
                )
        found[name] = values
    return found


def _worlds(
    file: ExpectFile, path: KeyPath, source: YamlSource, worlds: Sequence[World]
) -> tuple[World, ...]:
    given = file.where.get(WORLD)
    if given is None:
        return tuple(worlds)
    wanted = given if isinstance(given, list) else [given]
    for value in wanted:
        if value not in worlds:
            raise source.error(
                (*path, "where", WORLD),
                f"the experiment has no world {value}, {one_of(list(worlds), str(value))}",
            )
    return tuple(world for world in worlds if world in wanted)


def _check_constants(
    expectation: Expectation, picked: Sequence[Point], path: KeyPath, source: YamlSource
) -> None:
    """Parameters that are numbers, and one number where runs of several points are judged
    together. Raises ConfigError."""
    for name in (use.name for use in expectation.constants):
        values = list(dict.fromkeys(point[name] for point in picked if name in point))
        for value in values:
            if isinstance(value, bool | str):
                raise _named(source, path, f"{name} is {value!r} at a point, expected numbers")
        if expectation.over == "all" and len(values) > 1:
            words = ", ".join(str(value) for value in values[:3])
            raise _named(
                source, path, f"{name} is {words} at different points, expected over: point"
            )


def _named(source: YamlSource, path: KeyPath, problem: str) -> ConfigError:
    return source.error((*path, "that"), problem)


def _same(one: Scalar, other: Scalar) -> bool:
    """Equal, with true and false apart from 1 and 0."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
