"""The results folder: written whole, read back, refused to others."""

import csv
import json
from dataclasses import replace

import pytest
from pyarrow import parquet

import ipseclab
from ipseclab.errors import ConfigError
from ipseclab.measure.results import (
    Manifest,
    ResultsFolder,
    Row,
    source_commit,
    sources_digest,
    table_columns,
    warnings_of,
)

MANIFEST = Manifest(
    experiment="e", digest="abc", world="sim", seed=1, quick=False, runs=2, units={"rtt": "s"}
)


def row(run, loss, **metrics):
    return Row(run, "sim", 7, 0, {"loss": loss, "rtt": 0.04, "mode": "tunnel"}, metrics, 0.5)


ROWS = (
    row("00000_a", 0, handshake_time=0.08, goodput=None),
    row("00001_b", 1, handshake_time=1 / 3, goodput=None, **{"drops.link_loss": 4.0}),
)


@pytest.fixture
def folder(tmp_path):
    made = ResultsFolder(tmp_path / "out")
    made.begin(MANIFEST)
    return made


def test_rows_read_back_as_they_were_stored(folder):
    for stored in ROWS:
        folder.store(stored)
    assert folder.rows() == ROWS
    assert list(folder.rows()[0].parameters) == ["loss", "rtt", "mode"]


def test_a_run_without_a_whole_row_is_not_done(folder):
    folder.store(ROWS[0])
    whole = (folder.run_path("00000_a") / "row.json").read_text()
    for cut in range(len(whole) - 2):
        (folder.run_path("00000_a") / "row.json").write_text(whole[:cut])
        assert folder.row("00000_a") is None


def test_csv_has_the_metrics_own_names(folder):
    folder.write_tables(ROWS, {"rtt": "s"})
    with (folder.path / "runs.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert list(table[0])[:7] == ["run", "world", "seed", "repetition", "loss", "rtt", "mode"]
    assert [line["handshake_time"] for line in table] == ["0.08", repr(1 / 3)]
    assert [line["goodput"] for line in table] == ["", ""]
    assert [line["drops.link_loss"] for line in table] == ["0.0", "4.0"]


def test_parquet_has_types_units_and_definitions(folder):
    folder.write_tables(ROWS, {"rtt": "s"})
    table = parquet.read_table(folder.path / "runs.parquet")
    assert str(table.schema.field("loss").type) == "int64"
    assert str(table.schema.field("mode").type) == "string"
    assert str(table.schema.field("goodput").type) == "double"
    assert table.schema.field("rtt").metadata == {b"unit": b"s"}
    assert table.schema.field("handshake_time").metadata[b"unit"] == b"s"
    assert b"IKE_SA_INIT" in table.schema.field("handshake_time").metadata[b"definition"]
    assert table.column("handshake_time").to_pylist() == [0.08, 1 / 3]
    assert table.column("goodput").to_pylist() == [None, None]


def test_a_parameter_of_mixed_kinds_is_text(folder):
    mixed = (row("00000_a", 0), row("00001_b", "none"))
    folder.write_tables(mixed, {})
    table = parquet.read_table(folder.path / "runs.parquet")
    assert table.column("loss").to_pylist() == ["0", "none"]


def test_the_same_run_may_go_on(folder):
    folder.begin(replace(MANIFEST, command=("another",), runs=3))


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"world": "netns"}, {"quick": True}, {"digest": "abd"}, {"experiment": "f"}],
)
def test_another_run_is_refused_in_one_line(folder, other):
    with pytest.raises(ConfigError, match="give another --out") as caught:
        folder.begin(replace(MANIFEST, **other))
    assert "\n" not in str(caught.value)
    assert folder.manifest() == MANIFEST or folder.manifest().seed == MANIFEST.seed


def test_another_programs_results_are_refused_by_name(folder):
    clean, changed = "a" * 40, "b" * 40 + "+"
    before = replace(MANIFEST, sources="1234", machine={"version": "1.0", "commit": clean})
    folder.write_manifest(before)
    folder.begin(replace(before, machine={"version": "1.0", "commit": changed}))  # docs, say
    folder.write_manifest(before)
    stored = folder.manifest_path.read_text()
    with pytest.raises(ConfigError) as caught:
        folder.begin(
            replace(MANIFEST, sources="5678", machine={"version": "1.0", "commit": changed})
        )
    assert str(caught.value).endswith(
        "holds results of another program: ipseclab 1.0 at aaaaaaaaaaaa (sources 1234), this is "
        "ipseclab 1.0 at bbbbbbbbbbbb+ (sources 5678); give another --out, or go on with the former"
    )
    assert folder.manifest_path.read_text() == stored


def test_the_digest_of_the_sources_is_of_every_file_of_the_package(tmp_path, monkeypatch):
    package = tmp_path / "ipseclab"
    (package / "inner").mkdir(parents=True)
    monkeypatch.setattr(ipseclab, "__file__", str(package / "__init__.py"))

    def digest():
        sources_digest.cache_clear()
        return sources_digest()

    found = [digest()]
    for name, text in (("a.py", "1"), ("a.py", "2"), ("inner/b.py", "2"), ("inner/a.py", "")):
        (package / name).write_text(text)
        found.append(digest())
    assert len(set(found)) == len(found)
    (package / "cache.pyc").write_text("no source")
    assert digest() == found[-1]
    sources_digest.cache_clear()


def test_runs_in_which_the_lab_lost_packets_are_warned_of():
    calm, busy, simulated = (
        row("00000_a", 0, overruns=0.0),
        row("00001_b", 0, overruns=3.0),
        row("00002_c", 0, overruns=None),
    )
    (warning,) = warnings_of([calm, busy, simulated])
    assert warning.startswith("run 00001_b: the lab itself lost 3 packets")


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="something else"):
        ResultsFolder(tmp_path).begin(MANIFEST)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_is_no_results_folder(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ConfigError, match=r"something else|cannot be made"):
        ResultsFolder(path).begin(MANIFEST)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"experiment": 1}'])
def test_a_manifest_that_is_none(folder, text):
    folder.manifest_path.write_text(text)
    with pytest.raises(ConfigError, match="not a manifest"):
        folder.manifest()


def test_a_manifest_keeps_keys_that_a_later_version_added(folder):
    document = json.loads(folder.manifest_path.read_text())
    folder.manifest_path.write_text(json.dumps({**document, "colour": "blue"}))
    assert folder.manifest().digest == "abc"


def test_columns_are_in_a_stable_order():
    names = [column.name for column in table_columns(ROWS, {})]
    assert names[-4:] == ["handshake_time", "goodput", "drops.link_loss", "wall_time"]


def test_the_commit_is_known_in_a_clone():
    commit = source_commit()
    assert commit is None or len(commit.rstrip("+")) == 40
