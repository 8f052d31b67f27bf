"""How benchmarks/tcp_truth.py judges pairs of runs."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
POINT = ("none", "cubic", "10Mbit/s", "0.02", "0.01")


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tcp_truth

    return tcp_truth


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(1.05, 1.0), (1.0, 1.05), (1.02, 1.0)], "agrees"),
        ([(1.30, 1.0), (1.31, 1.0), (1.29, 1.0)], "differs"),
        ([(1.0, 1.30), (1.0, 1.31), (1.0, 1.29)], "differs"),
        ([(1.60, 1.0), (1.0, 1.0), (1.30, 1.0)], "open"),
    ],
)
def test_a_ratio_is_judged_with_its_interval(truth, pairs, verdict):
    row = truth.compared(POINT, pairs)
    assert row["verdict"] == verdict
    assert row["from"] <= row["ratio"] <= row["to"]


def test_runs_are_paired_by_point_and_seed(truth):
    sim = {(POINT, 1): 10.0, (POINT, 2): 20.0, (POINT, 3): 5.0}
    linux = {(POINT, 2): 10.0, (POINT, 1): 5.0}
    (row,) = truth.compare(sim, linux)
    assert row["pairs"] == 2
    assert row["ratio"] == pytest.approx(2.0)


def test_its_experiment_is_the_whole_grid(truth):
    experiment = truth.load_experiment(truth.EXPERIMENT)
    assert len(experiment.points()) == 96
    assert experiment.repetitions() == 10
