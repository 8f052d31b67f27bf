"""The quick part of the interop matrix: each tunnel's life with strongSwan, every cell green.

The whole of it is `ipseclab interop`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ipseclab.emu.sandbox import capabilities
from ipseclab.measure.interop.matrix import foreign_cells, matrix
from ipseclab.measure.interop.runs import Algorithms, list_algorithms, run_tunnel
from ipseclab.measure.interop.verdicts import Verdict, as_lacking, peer_log

pytestmark = [pytest.mark.netns, pytest.mark.strongswan]

QUICK = {tunnel.identifier: tunnel for tunnel in matrix() if tunnel.quick}


@pytest.fixture(scope="module")
def has(tmp_path_factory: pytest.TempPathFactory) -> Algorithms:
    assert all(check.ok for check in capabilities())
    return list_algorithms(tmp_path_factory.mktemp("algorithms"))


@pytest.mark.parametrize("identifier", QUICK)
def test_every_cell_of_the_tunnel_is_green(
    identifier: str, has: Algorithms, tmp_path: Path
) -> None:
    tunnel = QUICK[identifier]
    cells = run_tunnel(tunnel, tmp_path, has)
    assert {cell.cell for cell in cells} == set(tunnel.cells)
    problems = [cell for cell in cells if cell.verdict is not Verdict.PASSED]
    assert not problems, problems


def test_what_fails_is_red_and_what_strongswan_has_not_is_found_out(
    has: Algorithms, tmp_path: Path
) -> None:
    esn = next(item for item in matrix() if item.name == "extended sequence numbers")
    red = run_tunnel(replace(esn, lacking=None), tmp_path, has)
    assert [cell.verdict for cell in red] == [Verdict.FAILED]
    folder = tmp_path / esn.identifier
    assert (folder / "capture.pcapng").is_file()
    assert (folder / "keys").is_dir()
    (cell,) = as_lacking(esn, red, peer_log(folder))
    assert cell.verdict is Verdict.UNSUPPORTED
    assert "IPsec SA: ESN not supported" in cell.detail


def test_algorithms_that_only_one_of_us_has_are_named(has: Algorithms, tmp_path: Path) -> None:
    mlkem = next(item for item in matrix() if (item.topic, item.name) == ("groups", "mlkem768"))
    cells = run_tunnel(mlkem, tmp_path, has)
    assert {cell.verdict for cell in cells} == {Verdict.UNSUPPORTED}
    assert cells[0].detail == "--list-algs: no dh ML_KEM_768"
    assert "ECP_224_BP" in [cell.tunnel for cell in foreign_cells(has)]
