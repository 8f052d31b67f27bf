"""`ipseclab plot`, `report` and `open`: a run's results to look at."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ipseclab.errors import ConfigError, Place

if TYPE_CHECKING:
    from ipseclab.measure.results import ResultsFolder

SHOWN_FIGURES = 12


class Format(StrEnum):
    """What a figure can be written as."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


FolderArgument = Annotated[Path, typer.Argument(help="A results folder.", metavar="DIR")]


def plot(
    results: FolderArgument,
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format", help="Again for several; PNG for print. By default PNG and SVG for screens."
        ),
    ] = None,
) -> None:
    """Draw the figures of a results folder again."""
    from ipseclab.measure.results import ResultsFolder

    say_figures(ResultsFolder(results), formats)


def say_figures(folder: ResultsFolder, formats: list[Format] | None = None) -> None:
    """Draw the figures and say where they are."""
    from ipseclab.present.matplotlib_home import matplotlib_home

    with matplotlib_home(folder.path):
        from ipseclab.present.plots import PRINT_DPI, draw

    if formats:
        paths = draw(folder, list(dict.fromkeys(one.value for one in formats)), PRINT_DPI)
    else:
        paths = draw(folder)
    for path in paths[:SHOWN_FIGURES]:
        print(f"figure: {path}")
    if len(paths) > SHOWN_FIGURES:
        print(f"and {len(paths) - SHOWN_FIGURES} more in {folder.figures}")


def report(results: FolderArgument) -> None:
    """Write a results folder's report.html again: one file that shows the whole run."""
    from ipseclab.measure.results import ResultsFolder

    say_report(ResultsFolder(results))


def say_report(folder: ResultsFolder) -> None:
    """Write the report and say where it is."""
    from ipseclab.present.report.page import write_report

    print(f"report: {write_report(folder)}")


def open_results(
    results: FolderArgument,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of a sweep; by default the first.")
    ] = None,
    report_page: Annotated[
        bool, typer.Option("--report", help="The report, in a browser, and not the capture.")
    ] = False,
) -> None:
    """Open a run's capture in Wireshark with its keys in place, or print the command for it."""
    from ipseclab.measure.results import ResultsFolder

    folder = ResultsFolder(results)
    if report_page:
        _open_report(folder)
    else:
        _open_capture(folder, run)


def _open_report(folder: ResultsFolder) -> None:
    """In a browser; where there is none, its path is all."""
    import webbrowser

    from ipseclab.present.report.page import REPORT_FILE, write_report
    from ipseclab.present.wireshark import has_display

    path = folder.path / REPORT_FILE
    if folder.manifest() is None or not path.is_file():
        write_report(folder)
    if not has_display() or not webbrowser.open(path.resolve().as_uri()):
        print("no display or browser here; the report is a file", file=sys.stderr)
    print(path)


def _open_capture(folder: ResultsFolder, run: str | None) -> None:
    from ipseclab.present.wireshark import start, view_of_run

    found = view_of_run(_run_folder(folder, run))
    missing = start(found)
    if missing is None:
        print(f"wireshark: {found.capture}")
        return
    print(f"{missing}; the commands, for where there is one:", file=sys.stderr)
    for command in (found.wireshark, found.tshark):
        print(shlex.join(command))


def _run_folder(folder: ResultsFolder, run: str | None) -> Path:
    """The folder of the run that is meant. Raises ConfigError."""
    from ipseclab.lab.keys import CAPTURE_NAME

    if run is None and (folder.path / CAPTURE_NAME).is_file():
        return folder.path  # a run's own folder, or one that `up` has left
    folder.present_manifest()
    names = [row.run for row in folder.finished_rows()]
    if run is not None and run not in names:
        raise ConfigError(
            f"no run {run!r}, expected one of {', '.join(names[:5])} ...", Place(str(folder.path))
        )
    return folder.run_path(run if run is not None else names[0])
