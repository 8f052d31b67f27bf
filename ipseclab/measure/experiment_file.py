"""What an experiment file may hold: pydantic models of its keys, each looked at by itself.

`measure.experiment` resolves a checked `ExperimentFile` into frozen values and checks the whole
against its topology. The models also make the JSON Schema that editors complete from.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ipseclab.lab.plan import ActionName, Congestion
from ipseclab.lab.schema_attacks import Attacks
from ipseclab.lab.schema_faults import Faults
from ipseclab.lab.schema_types import Name, NodeName, Octets, Seconds

MOST_PINGS = 100_000
FASTEST_PROBE = 100_000.0
LARGEST_PAYLOAD = 65_000
LONGEST_RUN = 86_400.0
MOST_REPETITIONS = 100_000
MOST_VALUES = 1_000
MOST_ACTIONS = 10_000
MOST_EXPECTATIONS = 1_000

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
Scalar = bool | int | float | str
Settings = dict[str, Any]
World = Literal["sim", "netns"]
Positive = Annotated[Seconds, Field(gt=0)]


class Strict(BaseModel):
    """No unknown keys, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class _FlowFile(Strict):
    name: Name
    source: NodeName
    destination: NodeName
    start: Seconds = 0.0
    """Seconds after the start of the run."""


class PingFile(_FlowFile):
    """ICMP echo requests, which the destination answers."""

    kind: Literal["ping"]
    interval: Positive = 1.0
    count: Annotated[int, Field(ge=1, le=MOST_PINGS)] = 4
    size: Annotated[int, Field(ge=0, le=LARGEST_PAYLOAD)] = 56
    """Octets of payload above the ICMP header."""


class ProbeFile(_FlowFile):
    """Numbered UDP datagrams at a constant rate, one way."""

    kind: Literal["probe"]
    duration: Positive = 1.0
    rate: Annotated[float, Field(gt=0, le=FASTEST_PROBE)] = 100.0
    """Packets a second."""
    size: Annotated[int, Field(ge=16, le=LARGEST_PAYLOAD)] = 64


class TransferFile(_FlowFile):
    """One TCP connection with always more to send, for a `duration` or up to `octets`."""

    kind: Literal["transfer"]
    duration: Positive | None = None
    octets: Annotated[Octets, Field(gt=0)] | None = None
    congestion: Congestion = "cubic"

    @model_validator(mode="after")
    def _one_end(self) -> TransferFile:
        if (self.duration is None) == (self.octets is None):
            raise ValueError("not one end of the transfer, expected duration or octets")
        return self


FlowFile = Annotated[PingFile | ProbeFile | TransferFile, Field(discriminator="kind")]


class ActionFile(Strict):
    """Something done at a moment, once or `times` times every so many seconds."""

    at: Seconds
    do: ActionName
    name: Word | None = None
    """For a sweep to set: actions.<name>.do"""
    node: NodeName | None = None
    """The gateway or NAT that acts."""
    link: Name | None = None
    """For link_set and address_change."""
    connection: Name | None = None
    """By default the node's only one."""
    address: str | None = None
    """For nat_rebind: the new outside address; by default another port. For address_change: the
    node's address on the link from now on; by default none, as when an interface goes down."""
    set: Settings = {}
    """For link_set: impairments (and `direction`)."""
    every: Positive | None = None
    times: Annotated[int, Field(ge=1, le=MOST_ACTIONS)] = 1

    @model_validator(mode="after")
    def _target(self) -> ActionFile:
        if self.do == "link_set":
            if self.link is None or not self.set:
                raise ValueError("link_set changes a link, expected link and set")
        elif self.node is None:
            raise ValueError(f"{self.do} is done by a node, expected node")
        elif self.do == "address_change" and self.link is None:
            raise ValueError("address_change is on a link of the node, expected link")
        if self.times > 1 and self.every is None:
            raise ValueError("more than once, expected every")
        return self


class ChoiceFile(Strict):
    """A named value of a parameter that sets several keys at once."""

    is_: Annotated[Scalar, Field(alias="is")]
    """What stands in the results."""
    set: Settings


class AxisFile(Strict):
    """A parameter: its column in the results, the keys that it sets, its values."""

    name: Word
    label: str = ""
    """For figures; by default the name."""
    unit: str = ""
    set: str | list[str] = []
    """Keys of the topology (links.wan.loss), of traffic.<name> or actions.<name>, or duration."""
    scale: float | None = None
    """What is set is the value times this: 0.5 makes a link's delay of a round trip time."""
    values: Annotated[list[Scalar | ChoiceFile], Field(min_length=1, max_length=MOST_VALUES)]
    quick: list[Scalar | ChoiceFile] | None = None
    """The values of a run with --quick; by default first and last."""


class PointFile(Strict):
    """One point of a list: its parameters as the results name them, and what it sets."""

    parameters: Annotated[dict[Word, Scalar], Field(min_length=1)]
    set: Settings = {}
    quick: bool = False
    """Also part of a run with --quick; where none is, all are."""


class SweepFile(Strict):
    """A grid (every combination of its axes) or a list of points."""

    grid: list[AxisFile] = []
    points: list[PointFile] = []

    @model_validator(mode="after")
    def _one_kind(self) -> SweepFile:
        if bool(self.grid) == bool(self.points):
            raise ValueError("not one kind of sweep, expected grid or points")
        return self


class PlotFile(Strict):
    """A figure."""

    kind: Literal["timeline", "sweep", "overhead", "rtt", "matrix", "octets", "observer"]
    title: str = ""
    """What one sees."""
    stem: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")] | None = None
    """Its file name without ending; by default kind and y."""
    y: str = ""
    """A metric, for a sweep."""
    x: str = ""
    """A parameter."""
    series: str | list[str] = []
    """Parameters, a line (or bar) for each of their values."""
    cells: list[str] = []
    """Metrics, for a matrix: a cell shows the first that has a value there."""
    bad: Literal["something", "nothing"] = "something"
    """Which cells of a matrix stand out: where something is counted, or where nothing is."""
    where: dict[str, Scalar] = {}
    """Only runs with these parameters."""
    log_x: bool = False
    log_y: bool = False
    from_y: Annotated[float, Field(ge=0.0)] = 0.0
    """Where the axis of a sweep begins, in the metric's unit."""


class ExpectFile(Strict):
    """What must hold of the results; `ipseclab run` exits with 1 when it does not."""

    that: Annotated[str, Field(min_length=1)]
    """Such as `handshake_time.p95 < 2.2 * rtt`."""
    over: Literal["point", "all"] = "point"
    """Of each point of the sweep for itself, or of the runs of all points together."""
    where: dict[str, Scalar | list[Scalar]] = {}
    """Only points with these parameters (a value or a list of them); `world` picks worlds."""
    why: str = ""
    """For who reads that it failed."""


def _bare(value: object) -> object:
    """An expectation that is only a text."""
    return {"that": value} if isinstance(value, str) else value


Expect = Annotated[ExpectFile, BeforeValidator(_bare, json_schema_input_type=str | ExpectFile)]


class QuickFile(Strict):
    """What a run with --quick has instead."""

    repetitions: Annotated[int, Field(ge=1, le=MOST_REPETITIONS)] | None = None
    duration: Annotated[Seconds, Field(gt=0, le=LONGEST_RUN)] | None = None


class ExperimentFile(Strict):
    """An experiment: a topology, what happens in it, what is varied, measured and drawn."""

    name: Name | None = None
    """By default the file's stem."""
    description: str = ""
    topology: str
    """A file beside this one, or a name in the folder topologies."""
    worlds: Annotated[list[World], Field(min_length=1)] = ["sim", "netns"]
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    repetitions: Annotated[int, Field(ge=1, le=MOST_REPETITIONS)] = 1
    quick: QuickFile = QuickFile()
    duration: Annotated[Seconds, Field(gt=0, le=LONGEST_RUN)]
    """Seconds of a run."""
    overrides: Settings = {}
    """Keys of the topology with other values."""
    faults: Faults = []
    """What goes wrong on purpose, besides the topology's own faults."""
    attacks: Attacks = []
    """What the topology's attackers do, besides its own attacks."""
    traffic: list[FlowFile] = []
    actions: list[ActionFile] = []
    sweep: SweepFile | None = None
    metrics: list[str] = []
    """Those of the table at the end (runs.csv has all); by default all."""
    expect: Annotated[list[Expect], Field(max_length=MOST_EXPECTATIONS)] = []
    """What must hold of the results."""
    plots: list[PlotFile] = []


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema of an experiment file."""
    return ExperimentFile.model_json_schema(by_alias=True)
