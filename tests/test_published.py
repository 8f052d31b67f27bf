"""benchmarks/published.py: the published handshakes are met, and a wrong figure would be seen."""

from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def published(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import published

    return published


def test_every_published_message_is_as_long_here_or_its_difference_is_known(published, tmp_path):
    ours = published.measure("sim", tmp_path / "runs")
    rows = [published.compared(printed, ours.get(printed.name)) for printed in published.PRINTED]
    verdicts = [row["verdict"] for row in rows]
    assert "differs" not in verdicts, rows
    assert verdicts.count("same") == 14


@pytest.mark.parametrize("ours", [None, 1, 1248, 1250])
def test_another_length_differs(published, ours):
    printed = published.Printed("GCM", "IKE_INTERMEDIATE", 1, published.REQUEST, 1249)
    assert published.compared(printed, ours)["verdict"] == "differs"
    assert published.compared(printed, 1249)["verdict"] == "same"


def test_payloads_must_add_up(published):
    printed = published.Printed("GCM", "IKE_AUTH", 1, published.RESPONSE, 237, {"one": 12})
    assert published.compared(printed, 225)["verdict"] == "explained"
    assert published.compared(replace(printed, theirs={"one": 13}), 225)["verdict"] == "differs"
    assert published.compared(printed, 237)["verdict"] == "differs"
