"""The tool behind docs/conformance.md finds every way in which page, catalogue and tests differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conformance import Catalogue, Requirement, load_catalogues, match, render

ROW = Requirement("7296", "2.1", "MUST", "same-octets", "A repeat is octet for octet the first.")
OTHER = Requirement("7296", "2.1", "MUST", "cached", "The response is kept for repeats.")
GONE = Requirement("7296", "2.9", "MAY", "x", "Something else.", absent="We never do.")
TEST = "tests/ike/test_retransmission.py::test_repeat"


def catalogue(*rows: Requirement) -> list[Catalogue]:
    return [Catalogue("7296", "IKEv2", rows)]


def test_a_requirement_with_a_test_is_a_row_with_a_link() -> None:
    tests, wrong = match(catalogue(ROW, GONE), {ROW.key: {TEST}})
    assert wrong == []
    page = render(catalogue(ROW, GONE), tests)
    assert (
        "| 2.1 | MUST | A repeat is octet for octet the first. "
        "| [test_repeat](../tests/ike/test_retransmission.py) |" in page
    )
    assert "| 2.9 | MAY | Something else. | We never do. |" in page
    assert "| [7296](#rfc-7296) | 2 | 1 | 1 | 0 |" in page


def test_departures_are_counted_by_themselves() -> None:
    departed = replace(GONE, absent="Departure. We do something else.")
    tests, wrong = match(catalogue(ROW, departed), {ROW.key: {TEST}})
    assert wrong == []
    assert "| [7296](#rfc-7296) | 2 | 1 | 0 | 1 |" in render(catalogue(ROW, departed), tests)


def test_the_rule_may_be_left_out_where_the_section_has_one() -> None:
    assert match(catalogue(ROW), {ROW.key[:3]: {TEST}}) == ({ROW.key: [TEST]}, [])
    _, wrong = match(catalogue(ROW, OTHER), {ROW.key[:3]: {TEST}, OTHER.key: {TEST}})
    assert any("is of 2 requirements" in line for line in wrong)


@pytest.mark.parametrize(
    ("rows", "claims", "complaint"),
    [
        ((ROW,), {}, "no test, and no reason"),
        ((GONE,), {GONE.key: {TEST}}, "said to be absent, but tested"),
        ((ROW,), {ROW.key: {TEST}, ("9999", "1", "MUST"): {TEST}}, "is of 0 requirements"),
        ((ROW,), {ROW.key: {TEST}, ("7296", "2.1"): {TEST}}, "is of 1 requirements"),
    ],
)
def test_what_does_not_fit_is_named(rows, claims, complaint: str) -> None:
    _, wrong = match(catalogue(*rows), claims)
    assert len(wrong) == 1
    assert complaint in wrong[0]


@pytest.mark.parametrize(
    "rows",
    [
        "- {section: '1', level: MIGHT, rule: a, says: b}",
        "- {section: '1', level: MUST, rule: a, says: b, test: c}",
        "- {section: 1, level: MUST, rule: a, says: b}",
        "- &a {section: '1', level: MUST, rule: a, says: b}\n- *a",
    ],
)
def test_a_bad_catalogue_is_refused(rows: str, tmp_path: Path) -> None:
    (tmp_path / "rfc1.yaml").write_text(f"rfc: 1\ntitle: t\nrequirements:\n{rows}\n")
    with pytest.raises(ValueError, match=r"^rfc1\.yaml: "):
        load_catalogues(tmp_path)
