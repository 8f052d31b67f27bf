"""`ipseclab interop`: our stack against strongSwan, cell by cell, and the tables of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ipseclab.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from ipseclab.measure.interop.cells import Tunnel
    from ipseclab.measure.interop.verdicts import Cell

SHOWN_FAILURES = 20


def run_interop(console: Console, *, out: Path, quick: bool, wanted: str, jobs: int) -> bool:
    """Run the matrix, or what of it is wanted; True when no cell failed.

    Raises ConfigError when nothing has that text, EnvironmentLacks without strongSwan.
    """
    from ipseclab.emu.peers.strongswan import version
    from ipseclab.measure.interop.matrix import foreign_cells, matrix
    from ipseclab.measure.interop.runs import list_algorithms, run_matrix
    from ipseclab.measure.interop.table import About, store
    from ipseclab.measure.results import machine_facts
    from ipseclab.present.interop import write_pages
    from ipseclab.present.progress import meter

    tunnels = _chosen(matrix(), quick=quick, wanted=wanted)
    began = time.monotonic()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ConfigError(f"{out}: cannot be made: {problem.strerror}") from None
    has = list_algorithms(out)
    with meter(console, "interop", len(tunnels)) as bar:

        def done(tunnel: Tunnel) -> None:
            bar.describe(f"interop: {tunnel.topic}")
            bar.advance()

        cells = run_matrix(tunnels, out, has, jobs=jobs, done=done, waiting=bar.show_if_slow)
    if not quick and not wanted:
        cells = (*cells, *foreign_cells(has))
    machine = {key: value for key, value in machine_facts().items() if key != "host"}
    seconds = round(time.monotonic() - began, 1)
    about = About(version(), date, seconds, quick, wanted, machine)
    store(out, cells, about)
    write_pages(out, cells, about)
    return _say(console, out, cells)


def _chosen(tunnels: tuple[Tunnel, ...], *, quick: bool, wanted: str) -> tuple[Tunnel, ...]:
    """Those asked for. Raises ConfigError when there is none."""
    chosen = tuple(
        tunnel
        for tunnel in tunnels
        if (tunnel.quick or not quick)
        and wanted.lower() in f"{tunnel.topic}: {tunnel.title}".lower()
    )
    if not chosen:
        topics = ", ".join(dict.fromkeys(tunnel.topic for tunnel in tunnels))
        raise ConfigError(f"--filter {wanted!r}: no tunnel has that, expected part of {topics} ...")
    return chosen


def _say(console: Console, out: Path, cells: tuple[Cell, ...]) -> bool:
    """Say what came of it; True when no cell failed."""
    from ipseclab.measure.interop.verdicts import Verdict
    from ipseclab.present.interop import HTML_FILE
    from ipseclab.present.tables import interop_table

    console.print(interop_table(cells))
    failed = [cell for cell in cells if cell.verdict is Verdict.FAILED]
    for cell in failed[:SHOWN_FAILURES]:
        words = f"failed: {cell.topic}: {cell.tunnel}: {cell.cell}: {cell.detail}"
        console.print(words, markup=False)
    if len(failed) > SHOWN_FAILURES:
        console.print(f"and {len(failed) - SHOWN_FAILURES} more in the tables")
    if failed:
        console.print(f"Captures, keys and logs of what failed stand in {out}")
    console.print(f"The tables: {out / HTML_FILE}")
    return not failed
