"""Expectations held against rows: over a point, over all, and where values are missing."""

from pathlib import Path

import pytest

from ipseclab.measure.expect.judge import Verdict, counted, judge
from ipseclab.measure.expect.store import (
    forget_judgements,
    read_judgements,
    store_judgements,
    to_junit,
)
from ipseclab.measure.expect.words import in_words
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.results import Row
from ipseclab.measure.sweep import Asked, lay_out_sweep

HEAD = """\
topology: site-to-site
duration: 5s
repetitions: 4
traffic:
  - {kind: probe, name: probe, source: h1, destination: h2, duration: 2s, rate: 50}
sweep:
  grid:
    - {name: rtt, unit: s, scale: 0.5, set: links.wan.delay, values: [0.02, 0.04]}
    - {name: mode, set: connections.site.mode, values: [tunnel, none]}
expect:
"""


@pytest.fixture
def judged(tmp_path):
    """Judges expectations (YAML items) of rows: (rtt, mode) -> a value of each metric a run."""

    def run(*items, values, quick=False, world="sim"):
        path = tmp_path / "e.yaml"
        path.write_text(HEAD + "".join(f"  - {item}\n" for item in items))
        sweep = lay_out_sweep(load_experiment(path), Asked(world, 1, quick))
        rows = []
        for job in sweep.jobs:
            point = values.get((job.parameters["rtt"], job.parameters["mode"]), {})
            own = {name: runs[job.repetition] for name, runs in point.items()}
            rows.append(Row(job.run, world, 1, job.repetition, job.parameters, own))
        return judge(sweep.experiment.expectations, sweep.jobs, rows)

    return run


def everywhere(**metrics):
    points = [(rtt, mode) for rtt in (0.02, 0.04) for mode in ("tunnel", "none")]
    return dict.fromkeys(points, metrics)


def test_over_point_each_point_is_judged_with_its_own_parameters(judged):
    values = everywhere(handshake_time=[0.05] * 4)
    found = judged("{that: handshake_time.max < 2 * rtt, where: {mode: tunnel}}", values=values)
    assert [(one.point["rtt"], one.verdict) for one in found] == [
        (0.02, Verdict.FAILED),
        (0.04, Verdict.HELD),
    ]
    failed, held = found
    assert (failed.measured, failed.operator, failed.expected) == (0.05, "<", 0.04)
    assert in_words(failed) == "0.05 s, expected < 0.04 s"
    assert held.runs == 4


def test_over_all_the_runs_of_all_points_are_judged_together(judged):
    values = everywhere(rekey_lost=[0, 0, 0, 1])
    found = judged("{that: rekey_lost.sum == 4, over: all}", values=values)
    assert [(one.verdict, one.runs, dict(one.point)) for one in found] == [(Verdict.HELD, 16, {})]


def test_a_bare_metric_is_expected_of_each_run_and_the_failing_one_is_named(judged):
    values = everywhere(rekey_lost=[0, 0, 3, 1])
    (found,) = judged(
        "{that: rekey_lost == 0, where: {rtt: 0.02, mode: none}, why: make before break}",
        values=values,
    )
    assert found.verdict is Verdict.FAILED
    assert (found.measured, found.runs_failed, found.runs) == (3, 2, 4)
    assert found.run.endswith("rtt-0.02-mode-none-r2")
    assert in_words(found) == "3 packets, expected == 0 packets, in 2 of 4 runs (make before break)"


def test_a_statistic_beside_a_bare_metric_is_of_the_whole_point(judged):
    values = everywhere(rtt_max=[1.0, 1.1, 1.2, 9.0])
    found = judged("rtt_max < 2 * rtt_max.median", values=values)
    assert {(one.verdict, one.measured, one.runs_failed) for one in found} == {
        (Verdict.FAILED, 9.0, 1)
    }


def test_the_run_nearest_to_failing_is_told_where_all_held(judged):
    found = judged("rtt_max < 2", values=everywhere(rtt_max=[1.0, 1.7, 0.1, 0.2]))
    assert {(one.verdict, one.measured) for one in found} == {(Verdict.HELD, 1.7)}


def test_a_metric_without_values_fails(judged):
    found = judged("goodput.median > 1", "goodput < 10", values={})
    assert {one.verdict for one in found} == {Verdict.FAILED}
    assert {in_words(one) for one in found} == {
        "no values of goodput",
        "no goodput, in 4 of 4 runs",
    }


def test_a_run_without_a_value_counts_as_the_worst(judged):
    values = everywhere(handshake_time=[0.1, 0.1, 0.1, None], goodput=[5, 5, 5, None])
    found = judged(
        "handshake_time.median < 0.2",
        "handshake_time.p95 < 0.2",
        "handshake_time.mean < 0.2",
        "goodput.median > 1",
        "goodput.min > 1",
        "handshake_time.share >= 75 %",
        "handshake_time.count == 3",
        values=values,
    )
    by_text = {one.expectation: one for one in found}
    assert {text: one.verdict.value for text, one in by_text.items()} == {
        "handshake_time.median < 0.2": "held",
        "handshake_time.p95 < 0.2": "failed",
        "handshake_time.mean < 0.2": "failed",
        "goodput.median > 1": "held",
        "goodput.min > 1": "failed",
        "handshake_time.share >= 75 %": "held",
        "handshake_time.count == 3": "held",
    }
    assert (
        in_words(by_text["handshake_time.p95 < 0.2"])
        == "no value, expected < 0.2 s; no handshake_time in 1 of 4 runs"
    )


def test_a_metric_that_is_better_neither_way_must_have_its_values(judged):
    found = judged("rekeys.median > 0", values=everywhere(rekeys=[1, 1, 1, None]))
    assert {in_words(one) for one in found} == {"no rekeys in 1 of 4 runs"}


def test_a_run_that_failed_has_no_values_not_even_of_drops(judged, tmp_path):
    values = everywhere(rekeys=[1] * 4)
    assert {one.verdict for one in judged("drops.replayed == 0", values=values)} == {Verdict.HELD}
    path = tmp_path / "e.yaml"
    sweep = lay_out_sweep(load_experiment(path), Asked("sim", 1))
    found = judge(sweep.experiment.expectations, sweep.jobs, ())
    assert {in_words(one) for one in found} == {"no drops.replayed, in 4 of 4 runs"}


def test_facts_of_the_point(judged):
    values = everywhere(probe_lost=[1.0] * 4, rtt_min=[0.03] * 4)
    found = judged(
        "probe_lost / (traffic.probe.rate * traffic.probe.duration) == 1 %",
        "rtt_min > links.wan.delay",
        "probe_lost * duration == 5 s",
        "links.wan.rate > rtt_min / 1 s * 1 bit/s",
        values=values,
    )
    assert [one.verdict.value for one in found] == ["held"] * 12 + ["failed"] * 4
    assert found[-1].reason == "links.wan.rate is not set"


def test_facts_that_differ_are_not_judged_over_all(judged):
    values = everywhere(rtt_min=[0.03] * 4)
    (found,) = judged("{that: rtt_min.min > links.wan.delay, over: all}", values=values)
    assert found.verdict is Verdict.FAILED
    assert "differs between the points" in found.reason


def test_where_picks_worlds_and_lists_of_values(judged):
    values = everywhere(rekeys=[1] * 4)
    found = judged(
        "{that: rekeys == 2, where: {world: netns}}",
        "{that: rekeys == 1, where: {world: [sim, netns], rtt: [0.02, 0.04], mode: none}}",
        values=values,
    )
    assert [one.verdict.value for one in found] == ["not judged", "held", "held"]
    assert in_words(found[0]) == "not for sim"
    assert counted(found) == {"held": 2, "failed": 0, "not judged": 1}


def test_a_point_that_a_coarser_grid_lacks_is_not_judged(judged, tmp_path):
    whole = HEAD.replace("[tunnel, none]", "[tunnel, none], quick: [none]")
    text = whole + "  - {that: rekeys == 1, where: {mode: tunnel}}\n"
    (tmp_path / "q.yaml").write_text(text)
    sweep = lay_out_sweep(load_experiment(tmp_path / "q.yaml"), Asked("sim", 1, quick=True))
    (found,) = judge(sweep.experiment.expectations, sweep.jobs, ())
    assert (found.verdict, found.reason) == (Verdict.NOT_JUDGED, "no such point in this run")


def test_judgements_read_back_and_are_forgotten(judged, tmp_path):
    values = everywhere(handshake_time=[0.1, None, None, None], rekeys=[1] * 4)
    found = judged("handshake_time.median < 0.2", "{that: rekeys == 1, over: all}", values=values)
    store_judgements(tmp_path, "e", found)
    assert [one.verdict for one in read_judgements(tmp_path)] == [one.verdict for one in found]
    assert read_judgements(tmp_path)[-1] == found[-1]
    assert read_judgements(tmp_path)[0].measured is None
    from pyarrow import parquet

    table = parquet.read_table(tmp_path / "expectations.parquet")
    assert table.column("verdict").to_pylist() == ["failed"] * 4 + ["held"]
    forget_judgements(tmp_path)
    assert read_judgements(tmp_path) == ()
    assert not list(Path(tmp_path).glob("expectations.*"))


def test_junit_has_a_suite_an_expectation_and_a_case_a_point(judged):
    document = to_junit("e", judged("rekeys < 2", values=everywhere(rekeys=[1, 1, 1, 2])))
    assert '<testsuite name="rekeys &lt; 2" tests="4" failures="4" skipped="0"' in document
    assert 'name="rtt=0.02 mode=tunnel"' in document
    assert 'message="2, expected &lt; 2, in 1 of 4 runs"' in document
