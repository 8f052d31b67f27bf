"""The interop matrix as data, its verdicts and its tables; no namespace is needed here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ipseclab.crypto.names import KEYWORDS
from ipseclab.errors import ConfigError
from ipseclab.measure.interop.algorithms import algorithms_in
from ipseclab.measure.interop.cells import End, Lacking, Logged, Step, Traced, Tunnel
from ipseclab.measure.interop.life import LIFE_FILE, TRACE_FILE, write_order
from ipseclab.measure.interop.matrix import matrix
from ipseclab.measure.interop.table import About, load, store, to_junit
from ipseclab.measure.interop.verdicts import Cell, Verdict, as_lacking, judge
from ipseclab.present.interop import page, write_pages
from ipseclab.registry import TransformType

ROOT = Path(__file__).parents[2]
ONE = {"ikes": [["a", "b"]], "children": [["c", "d"]]}
ABOUT = About("5.9.8", "2026-11-23T16:00:00+00:00", 12.0, False, "", {"commit": "0" * 40})
TUNNEL = Tunnel(
    "topic",
    "a name",
    End.WE,
    (Step("initiate", End.WE, transfers=True), Step("rekey_ike", End.IT)),
    proofs=(
        Traced("in fragments", "ike_sent", more_than=("fragments", 1)),
        Logged("a cookie", r"N\(COOKIE\)"),
    ),
)


def done(**changes: Any) -> dict[str, Any]:
    ways = ("h1 h2", "h2 h1")
    step = {
        "what": "initiate",
        "by": "gw1",
        "settled": True,
        "standings": {"gw1": ONE, "gw2": ONE},
        "echoes": dict.fromkeys(ways, 3),
        "transfers": dict.fromkeys(ways, True),
        "seconds": 0.5,
    }
    return step | changes


def leave(folder: Path, *steps: dict[str, Any], log: str = "", trace: str = "") -> Path:
    """What a life leaves behind."""
    logs = folder / "logs" / "gw2"
    logs.mkdir(parents=True)
    (logs / "charon.log").write_text(log)
    (folder / TRACE_FILE).write_text(trace)
    (folder / LIFE_FILE).write_text(json.dumps({"steps": steps, "problem": ""}))
    return folder


FRAGMENTED = '{"t":1.0,"node":"gw1","event":"ike_sent","fragments":3}\n'


def verdicts(cells: tuple[Cell, ...]) -> list[str]:
    return [cell.verdict.value for cell in cells]


def test_tunnels_have_titles_and_folders_of_their_own() -> None:
    tunnels = matrix()
    assert len({tunnel.identifier for tunnel in tunnels}) == len(tunnels)
    assert len({(tunnel.topic, tunnel.title) for tunnel in tunnels}) == len(tunnels)
    for tunnel in tunnels:
        assert len(set(tunnel.cells)) == len(tunnel.cells), tunnel.title


def test_each_way_to_authenticate_is_there_in_both_roles_with_and_without_nat() -> None:
    lives = [tunnel for tunnel in matrix() if tunnel.topic == "authentication"]
    ways = {tunnel.name for tunnel in lives}
    assert ways >= {"PSK", "RSA", "ECDSA P-256", "Ed25519", "EAP-MSCHAPv2", "EAP-TLS", "raw keys"}
    assert len(lives) == 4 * len(ways)
    wanted = {"rekey_child", "rekey_ike", "delete_child", "delete_ike"}
    for tunnel in lives:
        by_either = {(step.action, step.by) for step in tunnel.steps}
        assert by_either >= {(action, end) for action in wanted for end in End}


def test_every_transform_that_we_have_is_in_a_tunnel() -> None:
    words = {
        word
        for tunnel in matrix()
        for key, value in tunnel.settings
        if key in ("connections.site.ike", "connections.site.esp") and isinstance(value, str)
        for word in value.split("-")
    }
    assert words >= {word for word, named in KEYWORDS.items() if named.type != TransformType.ESN}


def test_each_tunnel_is_a_topology(tmp_path: Path) -> None:
    tried = [item for item in matrix() if item.lacking is None or item.lacking.log]
    for tunnel in tried:
        write_order(tmp_path / tunnel.identifier, tunnel)
        assert tunnel.node_of(tunnel.initiator) == tunnel.ground.initiator
    assert len(list(tmp_path.iterdir())) == len(tried)


def test_a_proposal_needs_what_strongswan_calls_its_transforms() -> None:
    assert algorithms_in("aes256-sha384-prfsha384-ecp256bp-esn") == (
        ("encryption", "AES_CBC"),
        ("integrity", "HMAC_SHA2_384_192"),
        ("prf", "PRF_HMAC_SHA2_384"),
        ("dh", "ECP_256_BP"),
    )


def test_a_life_as_it_should_be_is_green(tmp_path: Path) -> None:
    log = "12:00 parsed IKE_SA_INIT request 0 [ N(COOKIE) SA ]\n"
    folder = leave(tmp_path, done(), done(transfers={}), log=log, trace=FRAGMENTED)
    cells = judge(TUNNEL, folder, 0)
    assert verdicts(cells) == ["passed"] * 4
    assert [cell.cell for cell in cells] == list(TUNNEL.cells)


def test_pings_that_are_lost_make_a_cell_red_and_the_next_is_still_judged(tmp_path: Path) -> None:
    lossy = done(echoes={"h1 h2": 3, "h2 h1": 1})
    cells = judge(TUNNEL, leave(tmp_path, lossy, done(transfers={})), 0)
    assert verdicts(cells)[:2] == ["failed", "passed"]
    assert cells[0].detail == "1 of 3 pings answered from h2 to h1"


def test_tcp_that_does_not_arrive_makes_a_cell_red(tmp_path: Path) -> None:
    broken = done(transfers={"h1 h2": True, "h2 h1": False})
    assert judge(TUNNEL, leave(tmp_path, broken, done()), 0)[0].verdict is Verdict.FAILED


def test_steps_that_were_not_reached_are_red(tmp_path: Path) -> None:
    cells = judge(TUNNEL, leave(tmp_path, done(settled=False)), 0)
    assert verdicts(cells) == ["failed"] * 4
    assert cells[1].detail.startswith("not reached")


def test_a_lab_that_does_not_come_up_is_red(tmp_path: Path) -> None:
    cells = judge(TUNNEL, tmp_path, 1)
    assert verdicts(cells) == ["failed"] * 4
    assert "did not come up" in cells[0].detail


def test_a_lab_that_breaks_at_its_end_is_red(tmp_path: Path) -> None:
    plain = replace(TUNNEL, proofs=())
    cells = judge(plain, leave(tmp_path, done(), done()), 1)
    assert [(cell.cell, cell.verdict.value) for cell in cells][-1] == ("nothing lost", "failed")


def test_packets_that_we_refuse_of_an_honest_peer_are_red(tmp_path: Path) -> None:
    dropped = '{"t":1.0,"node":"gw1","event":"packet_dropped","reason":"bad_icv"}\n'
    plain = replace(TUNNEL, proofs=())
    cells = judge(plain, leave(tmp_path, done(), done(), trace=dropped), 0)
    assert cells[-1].detail == "1 packets dropped: bad_icv"
    assert cells[-1].verdict is Verdict.FAILED


def test_a_failure_counts_as_unsupported_only_with_its_line_in_the_log() -> None:
    tunnel = replace(TUNNEL, lacking=Lacking("it cannot", log="no such (thing|word)"))
    red = (Cell("topic", "t", "c", Verdict.FAILED, "no pings"),)
    (found,) = as_lacking(tunnel, red, "one\ntwo: no such word here\nthree")
    assert found.verdict is Verdict.UNSUPPORTED
    assert found.detail == "it cannot; its log: two: no such word here"
    assert as_lacking(tunnel, red, "nothing of that") == red
    green = (replace(red[0], verdict=Verdict.PASSED),)
    assert as_lacking(tunnel, green, "no such word") == green


CELLS = (
    Cell("first", "PSK, we initiate, NAT", "set-up", Verdict.PASSED, "", 0.25),
    Cell(
        "first", "PSK, we initiate, NAT", "rekey by it", Verdict.FAILED, "0 of 3 <pings> \x01|", 1
    ),
    Cell("second", "ESN", "set-up", Verdict.UNSUPPORTED, "tried"),
    Cell("third", "ECP_224", "dh", Verdict.NOT_OURS, "in its --list-algs"),
)


def test_the_tables_are_read_back_as_they_were(tmp_path: Path) -> None:
    store(tmp_path, CELLS, ABOUT)
    assert load(tmp_path) == (CELLS, ABOUT)
    with pytest.raises(ConfigError):
        load(tmp_path / "other")


def test_junit_counts_and_survives_octets_that_xml_has_not(tmp_path: Path) -> None:
    root = ElementTree.fromstring(to_junit(CELLS))
    assert root.attrib | {"tests": "4", "failures": "1", "skipped": "2"} == root.attrib
    assert [suite.get("name") for suite in root] == [
        "first: PSK, we initiate, NAT", "second: ESN", "third: ECP_224",
    ]  # fmt: skip
    (failure,) = root.iter("failure")
    assert failure.get("message") == "0 of 3 <pings> |"


def test_the_page_of_the_documentation_is_of_the_results_that_are_kept() -> None:
    cells, about = load(ROOT / "results" / "interop")
    assert (ROOT / "docs" / "interop.md").read_text() == page(cells, about)
    assert not [cell for cell in cells if cell.verdict is Verdict.FAILED]
    assert not about.quick
    assert not about.filter


def test_the_pages_show_every_cell_and_its_reason(tmp_path: Path) -> None:
    write_pages(tmp_path, CELLS, ABOUT)
    html = (tmp_path / "interop.html").read_text()
    assert "0 of 3 &lt;pings&gt;" in html
    assert html.count('<td class="') == len(CELLS)
    text = page(CELLS, ABOUT)
    assert "| PSK, we initiate, NAT | ✓ | ✗ |" in text
    assert "- – ESN, set-up: tried" in text
