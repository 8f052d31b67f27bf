"""A run against a baseline: verdicts, what is refused, and the files for a CI service."""

import json
import random
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ipseclab.errors import ConfigError
from ipseclab.measure.compare.comparison import Change, compare, counted, enough, finished
from ipseclab.measure.compare.files import to_benchmark, to_markdown, write_files
from ipseclab.measure.metrics import Better
from ipseclab.measure.results import Manifest, ResultsFolder, Row

MANIFEST = Manifest(
    experiment="e", digest="abc", world="sim", seed=1, quick=False, runs=0, status="done"
)


@pytest.fixture
def results(tmp_path):
    """A folder of finished results: (loss) -> metric -> the values of its runs."""

    def make(name, points, **changes):
        folder = ResultsFolder(tmp_path / name)
        rows = [
            Row(f"{loss}-{n:03}", "sim", n, n, {"loss": loss}, {m: v[n] for m, v in own.items()})
            for loss, own in points.items()
            for n in range(len(next(iter(own.values()))))
        ]
        folder.begin(replace(MANIFEST, **{"runs": len(rows), **changes}))
        for row in rows:
            folder.store(row)
        return finished(folder)

    return make


def noise(seed, base, runs=8, spread=0.02):
    rng = random.Random(seed)
    return [base * (1 + rng.uniform(-spread, spread)) for _ in range(runs)]


def verdicts(found):
    return {(one.metric, one.point["loss"]): one.verdict for one in found}


def test_each_metric_has_its_direction(results):
    before = results(
        "a", {0: {"handshake_time": noise(1, 0.1), "goodput": noise(2, 1e6), "rekeys": noise(3, 9)}}
    )
    after = results(
        "b", {0: {"handshake_time": noise(4, 0.2), "goodput": noise(5, 2e6), "rekeys": noise(6, 1)}}
    )
    assert verdicts(compare(before, after)) == {
        ("handshake_time", 0): Change.SLOWER,
        ("goodput", 0): Change.FASTER,
    }
    assert verdicts(compare(after, before)) == {
        ("handshake_time", 0): Change.FASTER,
        ("goodput", 0): Change.SLOWER,
    }


def test_the_effect_is_said_in_the_metrics_unit_and_as_a_share(results):
    before = results("a", {0: {"rekey_time": [0.10] * 6}})
    after = results("b", {0: {"rekey_time": [0.13] * 6}})
    (one,) = compare(before, after)
    assert (one.baseline, one.median, one.unit) == (0.1, 0.13, "s")
    assert one.shift == pytest.approx(0.03)
    assert one.change == pytest.approx(0.3)
    assert (one.delta, one.baseline_runs, one.runs) == (1.0, 6, 6)
    assert one.p == one.q == pytest.approx(2 / 924)


def test_a_difference_within_the_threshold_is_the_same(results):
    before = results("a", {0: {"rekey_time": noise(1, 0.100, spread=0.001)}})
    after = results("b", {0: {"rekey_time": noise(2, 0.105, spread=0.001)}})
    assert verdicts(compare(before, after)) == {("rekey_time", 0): Change.SAME}
    found = compare(before, after, threshold=0.04)
    assert verdicts(found) == {("rekey_time", 0): Change.SLOWER}


def test_a_difference_that_may_be_an_accident_is_the_same(results):
    before = results("a", {0: {"rekey_time": [0.1, 0.1, 0.5, 0.1, 0.1, 0.5]}})
    after = results("b", {0: {"rekey_time": [0.1, 0.5, 0.5, 0.1, 0.5, 0.5]}})
    assert verdicts(compare(before, after)) == {("rekey_time", 0): Change.SAME}


@pytest.mark.parametrize("runs", range(1, 5))
def test_so_few_runs_say_nothing(results, runs):
    before = results("a", {0: {"rekey_time": [0.1] * runs}})
    after = results("b", {0: {"rekey_time": [9.0] * runs}})
    assert verdicts(compare(before, after)) == {("rekey_time", 0): Change.TOO_FEW}
    assert enough(compare(before, after)) == 5


def test_among_many_tests_one_needs_more_runs(results):
    """One of forty points changed: five runs are too few to single it out, ten are not."""
    for runs, verdict in ((5, Change.TOO_FEW), (10, Change.SLOWER)):
        points = {loss: {"rekey_time": noise(loss, 0.1, runs)} for loss in range(40)}
        before = results(f"a{runs}", points)
        points = {loss: {"rekey_time": noise(99 + loss, 0.1, runs)} for loss in range(40)}
        after = results(f"b{runs}", {**points, 7: {"rekey_time": noise(0, 0.2, runs)}})
        found = verdicts(compare(before, after))
        assert found.pop(("rekey_time", 7)) is verdict
        assert enough(compare(before, after)) == 8
        assert set(found.values()) == {Change.SAME}


def test_what_is_always_the_same_is_none_of_the_many(results):
    same = {loss: {"rekey_time": [0.1] * 5} for loss in range(40)}
    before, after = results("a", same), results("b", {**same, 7: {"rekey_time": [0.2] * 5}})
    found = compare(before, after)
    assert counted(found) == {
        Change.SLOWER: 1,
        Change.FASTER: 0,
        Change.SAME: 39,
        Change.TOO_FEW: 0,
    }
    assert [one.q for one in found if one.q is not None] == [pytest.approx(2 / 252)]


def test_what_no_longer_comes_about_is_slower(results):
    before = results("a", {0: {"handshake_time": noise(1, 0.1), "goodput": noise(2, 1e6)}})
    after = results("b", {0: {"handshake_time": [None] * 8, "goodput": [None] * 8}})
    found = compare(before, after)
    assert set(verdicts(found).values()) == {Change.SLOWER}
    assert set(verdicts(compare(after, before)).values()) == {Change.FASTER}


def test_a_metric_that_was_zero(results):
    before = results("a", {0: {"rekey_lost": [0.0] * 8, "ping_lost": [0.0] * 8}})
    after = results("b", {0: {"rekey_lost": [2.0] * 8, "ping_lost": [0.0] * 8}})
    assert verdicts(compare(before, after)) == {
        ("rekey_lost", 0): Change.SLOWER,
        ("ping_lost", 0): Change.SAME,
    }


def test_only_the_metrics_of_the_table_unless_all_are_wanted(results):
    points = {0: {"rekey_time": noise(1, 0.1), "rtt_min": noise(2, 0.1)}}
    details = {"metrics": ["rekey_time"]}
    before, after = results("a", points, details=details), results("b", points, details=details)
    assert list(verdicts(compare(before, after))) == [("rekey_time", 0)]
    assert len(compare(before, after, every=True)) == 2


def test_a_program_held_against_itself_is_the_same(results):
    """A thousand metrics drawn from one and the same: none is called different."""
    points = [
        {loss: {"rekey_time": noise(f"{side} {loss}", 0.1, 10, 0.5)} for loss in range(1000)}
        for side in "ab"
    ]
    found = compare(results("a", points[0]), results("b", points[1]))
    assert set(verdicts(found).values()) == {Change.SAME}


REFUSED = [
    ({"experiment": "f"}, "results of experiment f, not of e"),
    ({"digest": "xyz"}, "other parameters"),
    ({"world": "netns"}, "results with world netns, not sim"),
    ({"quick": True}, "results with --quick True, not"),
    ({"costs": "mine 123"}, "another cost table: mine 123, not zero"),
]


@pytest.mark.parametrize(("changes", "expected"), REFUSED, ids=[next(iter(c)) for c, _ in REFUSED])
def test_results_of_something_else_are_refused(results, changes, expected):
    points = {0: {"rekey_time": noise(1, 0.1)}}
    before, after = results("a", points, **changes), results("b", points)
    with pytest.raises(ConfigError, match=expected) as caught:
        compare(before, after)
    assert str(before.folder.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_seeds_repetitions_and_programs_are_what_it_is_for(results):
    points = {0: {"rekey_time": noise(1, 0.1)}}
    before = results("a", points, seed=7, repetitions=3, sources="of another commit")
    assert counted(compare(before, results("b", points)))[Change.SAME] == 1


def test_half_written_results_are_refused(results, tmp_path):
    points = {0: {"rekey_time": noise(1, 0.1)}}
    with pytest.raises(ConfigError, match=r"holds 8 of 8 runs \(interrupted\)"):
        results("a", points, status="interrupted")
    with pytest.raises(ConfigError, match=r"holds 8 of 9 runs \(done\)"):
        results("b", points, runs=9)
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        finished(ResultsFolder(tmp_path / "absent"))
    (tmp_path / "b/manifest.json").write_text('{"experiment": "e"')
    with pytest.raises(ConfigError, match="not a manifest"):
        finished(ResultsFolder(tmp_path / "b"))


def test_nothing_to_compare_is_said(results):
    points = {0: {"rekeys": [1.0] * 8, "rekey_time": [None] * 8}}
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare(results("a", points), results("b", points))


@pytest.fixture
def both(results):
    before = results("a", {0.1: {"rekey_time": noise(1, 0.1), "goodput": noise(2, 1e6)}})
    after = results("b", {0.1: {"rekey_time": noise(3, 0.3), "goodput": noise(4, 1e6)}})
    return before, after, compare(before, after)


def test_every_file_is_written_and_reads_back(both, tmp_path):
    before, after, found = both
    write_files(tmp_path / "ci", before, after, found, 0.1)
    assert sorted(path.name for path in (tmp_path / "ci").iterdir()) == [
        "benchmark-bigger.json",
        "benchmark-smaller.json",
        "compare.json",
        "compare.md",
        "compare.xml",
    ]
    document = json.loads((tmp_path / "ci/compare.json").read_text())
    assert document["verdicts"] == {"slower": 1, "faster": 0, "same": 1, "too few runs": 0}
    assert document["comparisons"][0]["metric"] == "rekey_time"
    root = ElementTree.parse(tmp_path / "ci/compare.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    (failure,) = root.iter("failure")
    assert failure.get("message").startswith("slower: 0.1")


def test_markdown_shows_what_changed_first(both):
    text = to_markdown("e", both[2], 0.1)
    top, folded = text.split("<details>")
    assert "🔴 slower | `rekey_time` | loss=0.1" in top
    assert "goodput" not in top
    assert "`goodput`" in folded


def test_names_stay_text_in_markdown(both):
    found = [replace(one, point={"suite": "a|b `c` <img src=x> *d*"}) for one in both[2]]
    text = to_markdown("[e](x) _y_", found, 0.1)
    assert r"suite=a\|b \`c\` &lt;img src=x&gt; \*d\*" in text
    assert r"\[e\](x) \_y\_" in text


def test_benchmark_files_split_by_what_is_better(both):
    _, after, found = both
    (smaller,) = to_benchmark(after, found, Better.LOWER)
    (bigger,) = to_benchmark(after, found, Better.HIGHER)
    assert smaller["name"] == "e sim: rekey_time (loss=0.1)"
    assert smaller["unit"] == "s"
    assert smaller["value"] == pytest.approx(0.3, rel=0.05)
    assert smaller["range"].startswith("± 0.0")
    assert bigger["name"] == "e sim: goodput (loss=0.1)"


def test_what_has_no_value_is_no_benchmark(results, tmp_path):
    before = results("a", {0: {"rekey_time": [0.1] * 8}})
    after = results("b", {0: {"rekey_time": [None] * 8}})
    found = compare(before, after)
    assert to_benchmark(after, found, Better.LOWER) == []
    write_files(tmp_path / "ci", before, after, found, 0.1)
    (one,) = json.loads((tmp_path / "ci/compare.json").read_text())["comparisons"]
    assert (one["median"], one["verdict"]) == (None, "slower")
    assert "0.1 -> none s, more" in (tmp_path / "ci/compare.xml").read_text().replace("&gt;", ">")
