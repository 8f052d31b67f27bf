"""The options that several commands have, and how their examples are shown."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class World(StrEnum):
    """Where an experiment runs."""

    SIM = "sim"
    NETNS = "netns"


def examples(*lines: str) -> str:
    """A command's examples, as its help shows them."""
    return "Examples:\n\n" + "\n\n".join(f"  [bold]{line}[/]" for line in lines)


WorldOption = Annotated[World, typer.Option(help="Simulated, or in Linux namespaces.")]
SeedOption = Annotated[
    int | None, typer.Option(min=0, help="By default the experiment file's own.", metavar="N")
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1, max=256, metavar="N", help="Runs at the same time; by default sim: CPUs, netns: 1."
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local:N",
        help="Runs on a Dask cluster, or on one of N workers that is started here.",
    ),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="A coarser grid that ends within a minute.")
]
RepetitionsOption = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Runs of each point; by default the experiment file's own."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Results folder; one with results of the same run goes on in it."
    ),
]
CostsOption = Annotated[
    str,
    typer.Option(
        metavar="default|zero|FILE",
        help="Processing times of the simulator; a FILE is what calibrate wrote.",
    ),
]

SlowOption = Annotated[
    float,
    typer.Option(
        min=1,
        max=1000,
        metavar="TIMES",
        help="Let our stack take so many times as long, to see a comparison go red.",
    ),
]
