"""`ipseclab report` and `ipseclab open`: a run's results to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ipseclab.measure.results import ResultsFolder

FolderArgument = Annotated[Path, typer.Argument(help="A results folder.", metavar="DIR")]


def report(results: FolderArgument) -> None:
    """Write a results folder's report.html again: one file that shows the whole run."""
    from ipseclab.measure.results import ResultsFolder

    say_report(ResultsFolder(results))


def say_report(folder: ResultsFolder) -> None:
    """Write the report and say where it is."""
    from ipseclab.present.report.page import write_report

    print(f"report: {write_report(folder)}")
