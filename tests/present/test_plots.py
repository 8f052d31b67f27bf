"""Figures: there, not empty, readable as images, the same each time, and of the right things."""

import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict

import pytest
from matplotlib.figure import Figure

from ipseclab.errors import ConfigError
from ipseclab.lab.trace import Trace
from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.results import Manifest, ResultsFolder, Row
from ipseclab.measure.series import overhead_stacks, sweep_series
from ipseclab.present.plots import (
    PART_STYLES,
    PRINT_DPI,
    SERIES,
    _draw_series,
    draw,
)

SPECS = (
    PlotSpec("timeline", "timeline", title="What got through"),
    PlotSpec("sweep", "sweep", y="rekey_time", x="loss", series=("mode",)),
    PlotSpec("sweep", "words", y="rekey_time", x="mode", log_y=True),
    PlotSpec("overhead", "overhead", series=("mode",)),
    PlotSpec("rtt", "rtt", series=("mode",)),
    PlotSpec("matrix", "matrix", x="mode", series=("loss",), cells=("rekey_lost", "rekey_time")),
    PlotSpec("sweep", "cut", y="rekey_time", x="loss", series=("mode",), from_y=0.01),
)


def write_trace(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as sink:
        trace = Trace(sink, keep=False)
        spis = {"spi_in": "01", "spi_out": "02"}
        trace.record(0.1, "gw1", "ike_established", spi_i="aa", spi_r="bb", connection="c")
        trace.record(0.1, "gw1", "child_ready", **spis)
        trace.record(1.0, "gw1", "rekey_started", kind="child", old="01")
        trace.record(1.2, "gw1", "child_gone", **spis, reason="rekeyed")
        trace.record(0.2, "h1", "transfer_started", flow="bulk")
        for i in range(40):
            t = 0.2 + i * 0.05
            trace.record(t, "h1", "probe_sent", flow="p", sequence=i)
            if i % 7:
                trace.record(t + 0.02, "h2", "probe_received", flow="p", sequence=i)
            else:
                trace.record(t, "wan", "link_dropped", direction="forward", index=i, reason="loss")
            trace.record(t, "h2", "transfer_octets", flow="bulk", octets=i * 10_000)
            trace.record(t, "h1", "ping_received", flow="g", sequence=i, rtt=0.04 + i * 1e-4)


@pytest.fixture
def folder(tmp_path):
    made = ResultsFolder(tmp_path / "out")
    manifest = Manifest(
        experiment="e",
        digest="d",
        world="sim",
        seed=1,
        quick=False,
        runs=8,
        details={"plots": [asdict(spec) for spec in SPECS], "labels": {"loss": "loss, each way"}},
    )
    made.begin(manifest)
    index = 0
    for mode in ("tunnel", "transport"):
        for loss in (0.0, 0.1):
            for repetition in range(2):
                metrics = {"rekey_time": 0.1 + loss + repetition / 100}
                metrics |= {f"overhead.{part}": 4.0 for part in OVERHEAD_PARTS}
                parameters = {"mode": mode, "loss": loss}
                made.store(Row(f"{index:05d}", "sim", 1, repetition, parameters, metrics))
                write_trace(made.run_path(f"{index:05d}") / "trace.jsonl")
                index += 1
    return made


def test_every_figure_is_an_image_with_something_on_it(folder):
    written = draw(folder)
    assert [path.name for path in written] == [
        f"{spec.stem}.{ending}" for spec in SPECS for ending in ("png", "svg")
    ]
    for path in written:
        if path.suffix == ".png":
            octets = path.read_bytes()
            assert octets[:8] == b"\x89PNG\r\n\x1a\n"
            width, height = struct.unpack("!II", octets[16:24])
            assert min(width, height) > 300
            assert len(octets) > 5000
        else:
            root = ElementTree.parse(path).getroot()
            assert root.tag.endswith("svg")
            assert len(list(root.iter())) > 50


def test_titles_and_labels_are_in_the_figure(folder):
    draw(folder)
    timeline = (folder.figures / "timeline.svg").read_text()
    for words in ("What got through", "CHILD_SA rekey", "link drop (6)", "IKE_SA aa", "34 of 40"):
        assert words in timeline
    sweep = (folder.figures / "sweep.svg").read_text()
    for words in ("loss, each way", "tunnel", "transport", "95 % interval of 2 runs", "rekey_time"):
        assert words in sweep


def test_drawing_again_gives_the_same_octets(folder):
    before = {path.name: path.read_bytes() for path in draw(folder)}
    assert {path.name: path.read_bytes() for path in draw(folder)} == before


def test_figures_with_nothing_to_show_are_left_out(folder):
    for row in folder.rows():
        folder.store(Row(row.run, row.world, row.seed, row.repetition, row.parameters, {}))
        (folder.run_path(row.run) / "trace.jsonl").write_text("")
    assert {path.stem for path in draw(folder)} == {"timeline"}


def test_sweep_points_carry_mean_and_interval(folder):
    series = sweep_series(folder.rows(), SPECS[1])
    assert list(series) == ["tunnel", "transport"]
    (x, mean, width), _ = series["tunnel"]
    assert (x, mean) == (0.0, pytest.approx(0.105))
    # Student's t of one degree of freedom: 12.706 * (0.01 / sqrt 2) / sqrt 2
    assert width == pytest.approx(12.706 * 0.005, rel=1e-3)


def test_no_two_series_look_alike():
    axis = Figure().subplots()
    for number_of in range(2 * len(SERIES)):
        _draw_series(axis, [(0.0, 1.0, 0.0), (1.0, 2.0, 0.1)], 1.0, number_of, 5.0, "s")
    lines = [bars.lines[0] for bars in axis.containers]
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(lines) == len(looks) == 2 * len(SERIES)


def test_where_picks_runs(folder):
    spec = PlotSpec("sweep", "s", y="rekey_time", x="loss", where={"mode": "tunnel"})
    chosen = [row for row in folder.rows() if row.parameters["mode"] == "tunnel"]
    assert len(chosen) == 4
    assert [label for label, _ in overhead_stacks(folder.rows(), SPECS[3])] == [
        "tunnel",
        "transport",
    ]
    assert list(sweep_series(chosen, spec)) == [""]


def test_every_part_of_a_packet_has_its_own_look():
    assert set(PART_STYLES) == set(OVERHEAD_PARTS)
    assert len(set(PART_STYLES.values())) == len(OVERHEAD_PARTS)


def test_a_folder_without_results(tmp_path):
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        draw(ResultsFolder(tmp_path))


def test_a_run_without_its_trace_is_said_in_one_line(folder):
    (folder.run_path("00000") / "trace.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"00000/trace\.jsonl: cannot be read"):
        draw(folder)
    (folder.run_path("00000") / "trace.jsonl").write_text("no trace\nat all\n")
    with pytest.raises(ConfigError, match=r"not a trace: .*trace\.jsonl:1"):
        draw(folder)


def test_every_format_is_written_the_same_twice(folder):
    formats = ("png", "svg", "pdf")
    written = draw(folder, formats, PRINT_DPI)
    before = {path: path.read_bytes() for path in written}
    assert {path.suffix for path in written} == {".png", ".svg", ".pdf"}
    assert {path: path.read_bytes() for path in draw(folder, formats, PRINT_DPI)} == before
    for path, octets in before.items():
        if path.suffix == ".pdf":
            assert octets.startswith(b"%PDF")
            assert b"CreationDate" not in octets
