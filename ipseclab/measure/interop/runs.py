"""The matrix is run: a sandbox a tunnel, several at a time; what failed keeps its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

from ipseclab.emu.peers import strongswan
from ipseclab.emu.sandbox import run_in_sandbox, sandbox_kind
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.interop.algorithms import ALGORITHMS_FILE, read_algorithms
from ipseclab.measure.interop.cells import Tunnel
from ipseclab.measure.interop.life import write_order
from ipseclab.measure.interop.verdicts import (
    Cell,
    Verdict,
    all_cells,
    as_lacking,
    judge,
    peer_log,
)

Algorithms = Mapping[str, Sequence[str]]
PATIENCE = 0.5
"""Seconds between two looks at what has ended."""
LIFE_MODULE = "ipseclab.measure.interop.life"
ALGORITHMS_MODULE = "ipseclab.measure.interop.algorithms"


def list_algorithms(out: Path) -> Algorithms:
    """What strongSwan has, as `swanctl --list-algs` tells it. Raises EnvironmentLacks."""
    strongswan.version()
    sandbox_kind()
    folder = out / "algorithms"
    folder.mkdir(parents=True, exist_ok=True)
    code = run_in_sandbox(ALGORITHMS_MODULE, str(folder.resolve()), out=folder.resolve())
    path = folder / ALGORITHMS_FILE
    if code or not path.is_file():
        raise EnvironmentLacks(
            f"strongSwan did not tell its algorithms ({code})", f"see {folder}/logs"
        )
    found = read_algorithms(path)
    shutil.rmtree(folder)
    return found


def run_tunnel(tunnel: Tunnel, out: Path, has: Algorithms) -> tuple[Cell, ...]:
    """One tunnel's verdicts; its folder stays where a cell failed. Raises ConfigError."""
    missing = next(((k, n) for k, n in tunnel.algorithms if n not in has.get(k, ())), None)
    if missing is not None:
        return all_cells(tunnel, Verdict.UNSUPPORTED, f"--list-algs: no {missing[0]} {missing[1]}")
    lacking = tunnel.lacking
    if lacking is not None and not lacking.log:
        return all_cells(tunnel, Verdict.UNSUPPORTED, f"its documentation: {lacking.why}")
    folder = (out / tunnel.identifier).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    write_order(folder, tunnel)
    code = run_in_sandbox(LIFE_MODULE, str(folder), out=folder)
    cells = judge(tunnel, folder, code)
    if lacking is not None:
        cells = as_lacking(tunnel, cells, peer_log(folder))
    if all(cell.verdict is not Verdict.FAILED for cell in cells):
        shutil.rmtree(folder)
    return cells


def run_matrix(
    tunnels: Sequence[Tunnel],
    out: Path,
    has: Algorithms,
    *,
    jobs: int,
    done: Callable[[Tunnel], None],
    waiting: Callable[[], None],
) -> tuple[Cell, ...]:
    """The verdicts of all cells, in the matrix's order; `done` hears of each tunnel's end,
    `waiting` that time goes by."""
    found: dict[str, tuple[Cell, ...]] = {}
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures = {pool.submit(run_tunnel, tunnel, out, has): tunnel for tunnel in tunnels}
        try:
            left = set(futures)
            while left:
                ended, left = wait(left, PATIENCE, FIRST_COMPLETED)
                for future in ended:
                    found[futures[future].identifier] = future.result()
                    done(futures[future])
                waiting()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(cell for tunnel in tunnels for cell in found[tunnel.identifier])
