"""`ipseclab compare`: a run held against a baseline, with a verdict for each metric and point."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.exceptions import Exit

from ipseclab.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipseclab.measure.compare.comparison import Compared

SLOWER = 1
"""The exit code when something is."""
FOLDER = "compare"
"""Inside the run's results, where no other folder is given."""

compare_examples = """Examples:

  [bold]ipseclab compare results/baseline results/quickstart-sim[/]

  [bold]ipseclab compare results/baseline results/nightly --threshold 5% --out results/ci[/]"""


def compare(
    baseline: Annotated[Path, typer.Argument(help="Results to compare with.", metavar="BASELINE")],
    run: Annotated[Path, typer.Argument(help="Later results of the same.", metavar="RUN")],
    threshold: Annotated[
        str, typer.Option(metavar="SHARE", help="How much worse is slower: 0.05, 5%.")
    ] = "10%",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the files go; by default RUN/compare."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every metric, not only those of the experiment's table.")
    ] = False,
) -> None:
    """Hold a run against an earlier one of the same experiment: faster, slower, same; exit code 1
    when something is slower by more than the threshold."""
    from ipseclab.lab.units import Quantity, parse_quantity
    from ipseclab.measure.compare.comparison import Change, counted, finished
    from ipseclab.measure.compare.comparison import compare as hold_against
    from ipseclab.measure.compare.files import summary, write_files
    from ipseclab.measure.results import ResultsFolder
    from ipseclab.present.comparison import comparison_table
    from ipseclab.present.console import console

    try:
        share = parse_quantity(threshold, Quantity.PROBABILITY)
    except ValueError as problem:
        raise ConfigError(f"--threshold: {problem}") from None
    before, after = finished(ResultsFolder(baseline)), finished(ResultsFolder(run))
    found = hold_against(before, after, threshold=share, every=every)
    folder = out if out is not None else run / FOLDER
    try:
        write_files(folder, before, after, found, share)
    except OSError as problem:
        raise ConfigError(f"{folder}: cannot be written: {problem.strerror}") from None
    title = f"{after.manifest.experiment}, world {after.manifest.world}, against {baseline}"
    screen = console()
    screen.print(comparison_table(found, title))
    screen.print(summary(found, share), markup=False)
    screen.print(f"written: {folder}", markup=False)
    counts = counted(found)
    if counts[Change.TOO_FEW]:
        print(_too_few(found), file=sys.stderr)
    if counts[Change.SLOWER]:
        raise Exit(SLOWER)


def _too_few(found: Sequence[Compared]) -> str:
    """What to do where nothing can be said."""
    from ipseclab.measure.compare.comparison import Change, enough

    own = [one for one in found if one.verdict is Change.TOO_FEW]
    runs = min(min(one.baseline_runs, one.runs) for one in own)
    wanted = max(enough(found), runs + 1)
    return (
        f"warning: {len(own)} of {len(found)} comparisons have too few runs to be judged, {runs} "
        f"at a point: run both with --repetitions {wanted} or more"
    )
