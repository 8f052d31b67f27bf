"""report.html: whole, bounded, the same each time, true to the run, and nothing in it escapes."""

import json
import re
from html.parser import HTMLParser

import networkx as nx
import pytest
from looked_at import HOSTILE, REKEYED, SWEPT, results_of

from ipseclab.errors import ConfigError
from ipseclab.lab.trace import TraceRecord, read_trace
from ipseclab.measure.expect.judge import Judgement, Verdict
from ipseclab.measure.expect.store import store_judgements
from ipseclab.measure.on_paper import on_paper
from ipseclab.measure.results import ResultsFolder
from ipseclab.present.report import material, messages, page
from ipseclab.present.report.lab_map import positions
from ipseclab.present.report.page import LARGEST, json_in_html, render, write_report


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results_of(REKEYED, tmp_path_factory.mktemp("rekeyed") / "here")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return results_of(SWEPT, tmp_path_factory.mktemp("swept") / "here")


class Elements(HTMLParser):
    """What a browser would make of a page: its elements, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._script = tag == "script"
        if self._script:
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._script = False

    def handle_data(self, data):
        if self._script:
            self.scripts[-1] += data


def data_of(text):
    return json.loads(Elements(text).scripts[0])


def words_in(parts):
    for words, _pane, _start, _size, *inside in parts:
        yield words
        yield from words_in(inside[0] if inside else [])


def test_what_a_peer_calls_itself_stays_text(folder):
    text = render(folder)
    elements = Elements(text)
    assert not [tag for tag, _ in elements.found if tag in ("img", "iframe", "object", "embed")]
    assert len(elements.scripts) == 2
    assert not [attrs for _, attrs in elements.found if any(k.startswith("on") for k in attrs)]
    named = [w for m in data_of(text)[0]["messages"] if m for w in words_in(m["parts"])]
    assert any(HOSTILE in words for words in named if words.startswith("IDi"))


def test_nothing_is_fetched(folder):
    elements = Elements(render(folder))
    assert not [attrs for _, attrs in elements.found if "src" in attrs]
    links = [attrs["href"] for _, attrs in elements.found if "href" in attrs]
    assert links
    assert all(link.startswith("#") for link in links)
    policy = [a["content"] for _, a in elements.found if a.get("http-equiv")]
    assert policy
    assert policy[0].startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[0]
    ids = {attrs["id"] for _, attrs in elements.found if "id" in attrs}
    assert {link.removeprefix("#") for link in links} <= ids


def test_the_same_results_give_the_same_octets(folder):
    assert render(folder) == render(ResultsFolder(folder.path))


def test_the_last_values_of_the_counters_are_those_of_the_trace(folder):
    row = folder.rows()[0]
    found = material.read_material(folder, row).counters
    records = list(read_trace(folder.run_path(row.run) / "trace.jsonl"))

    def count(event, node):
        return sum(record.event == event and record.node == node for record in records)

    for name, event, node in (
        ("IKE sent", "ike_sent", "gw1"),
        ("probes received", "probe_received", "h2"),
        ("pings answered", "ping_received", "h1"),
    ):
        assert found.last((node, name)) == count(event, node) > 0
    delivered = max(r.fields["octets"] for r in records if r.event == "transfer_octets")
    assert found.last(("h1", "TCP octets")) == delivered
    standing = count("child_ready", "gw1") - count("child_gone", "gw1")
    assert found.last(("gw1", "CHILD_SAs")) == standing == 1


def test_a_counter_at_a_step_has_what_happened_until_then(folder):
    row = folder.rows()[0]
    run = material.read_material(folder, row)
    changes = run.counters.changes(("h1", "probes sent"))
    sent = [record.t for record in run.view.events("probe_sent")]
    for step, value in changes:
        until = step / material.STEPS * run.counters.end
        assert value == sum(t <= until for t in sent)


def test_every_ike_message_has_its_octets_and_those_its_parts(folder):
    row = folder.rows()[0]
    data = data_of(render(folder))[0]
    opened = [message for message in data["messages"] if message is not None]
    records = list(read_trace(folder.run_path(row.run) / "trace.jsonl"))
    assert len(opened) >= sum(record.event == "ike_sent" for record in records)
    words = [words for message in opened for words in words_in(message["parts"])]
    assert not [line for line in words if line.startswith("ciphertext: ")]
    for label in ("SA", "KE", "Ni", "IDr", "AUTH", "TSi", "D ", "ESP", "inner IPv4 header"):
        assert any(line.startswith(label) for line in words), label


def ranges(parts):
    for _words, pane, start, size, *inside in parts:
        yield pane, start, size
        for inner in inside[0] if inside else []:
            yield from ranges([inner])


def test_parts_lie_within_their_panes_and_cover_them(folder):
    for message in data_of(render(folder))[0]["messages"]:
        sizes = [len(octets) // 2 for _, octets in message["panes"]]
        covered = [set() for _ in sizes]
        for pane, start, size in ranges(message["parts"]):
            assert size > 0
            assert 0 <= start <= sizes[pane] - size
            covered[pane].update(range(start, start + size))
        assert covered[0] == set(range(sizes[0]))
        # Behind the chain of an SK payload stands its padding.
        assert all(len(pane) >= size - 16 for pane, size in zip(covered, sizes, strict=True))


def test_a_sweep_has_a_point_each_and_the_closed_form(swept):
    text = render(swept)
    assert len(data_of(text)) == 2
    assert text.count("<option") == 2
    assert "Of the 2 repetitions of a point the first is shown." in text
    forms = [float(one) for one in re.findall(r"closed form: ([0-9.]+) ms", text)]
    measured = {row.parameters["rtt"]: row.metrics["handshake_time"] for row in swept.rows()}
    assert forms == [pytest.approx(1e3 * value) for value in measured.values()]


def test_expectations_stand_with_their_verdicts(folder):
    assert 'id="expectations"' not in render(folder)
    judged = (
        Judgement("rekey_lost == 0", Verdict.HELD, {}),
        Judgement("handshake_time < 1 ms", Verdict.FAILED, {}, "point", "", 0.04, "<", 0.001, "s"),
    )
    store_judgements(folder.path, "e", judged)
    try:
        text = render(folder)
    finally:
        for path in folder.path.glob("expectations.*"):
            path.unlink()
    rows = re.findall(r'<tr class="(\w+)"><td class="verdict">', text)
    assert rows == ["failed", "held"]
    assert "handshake_time &lt; 1 ms" in text


def test_a_report_is_bounded(swept, monkeypatch):
    whole = len(render(swept))
    assert whole < LARGEST
    monkeypatch.setattr(page, "LARGEST", whole - 1)
    text = render(swept)
    assert len(text.encode()) < whole
    assert "1 points are shown in detail, 1 more" in text


def test_a_long_ladder_says_what_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(messages, "MOST_ROWS", 3)
    text = render(folder)
    assert text.count('<button type="button" class="rung') == 3
    assert "The first 3 rows; " in text


def test_a_long_trace_is_thinned_and_its_counters_are_not(folder, monkeypatch):
    row = folder.rows()[0]
    whole = material.read_material(folder, row)
    monkeypatch.setattr(material, "MOST_OCTETS", 10_000)
    thin = material.read_material(folder, row)
    assert thin.every > 2
    for name in ("probe_sent", "ping_sent"):
        assert len(thin.view.events(name)) < len(whole.view.events(name))
    assert thin.view.events("ike_sent") == whole.view.events("ike_sent")
    assert [thin.counters.changes(key) for key in thin.counters.known()] == [
        whole.counters.changes(key) for key in whole.counters.known()
    ]
    assert f"one in {thin.every}" in render(folder)


def test_a_killed_runs_capture_is_read_as_far_as_it_goes(folder):
    capture = folder.run_path(folder.rows()[0].run) / "capture.pcapng"
    octets = capture.read_bytes()
    capture.write_bytes(octets[: len(octets) // 2 + 3])
    try:
        text = render(folder)
    finally:
        capture.write_bytes(octets)
    assert "cannot be read to its end" in text


def test_without_capture_or_keys_it_says_so(folder, tmp_path):
    run = folder.run_path(folder.rows()[0].run)
    (run / "keys").rename(tmp_path / "keys")
    try:
        text = render(folder)
        assert "ciphertext: no keys" in text
        (run / "capture.pcapng").rename(tmp_path / "capture.pcapng")
        assert all(message is None for message in data_of(render(folder))[0]["messages"])
    finally:
        (tmp_path / "keys").rename(run / "keys")
        (tmp_path / "capture.pcapng").rename(run / "capture.pcapng")


@pytest.mark.parametrize("lacking", ["run.json", "trace.jsonl", "row.json"])
def test_a_half_written_folder_is_one_line(folder, tmp_path, lacking):
    path = folder.run_path(folder.rows()[0].run) / lacking
    path.rename(tmp_path / lacking)
    try:
        with pytest.raises(ConfigError) as problem:
            write_report(folder)
    finally:
        (tmp_path / lacking).rename(path)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("content", ["", "[]", '{"run": 1}', "not json", '{"plan": {}}'])
def test_another_run_json_is_one_line(folder, content):
    path = folder.run_path(folder.rows()[0].run) / "run.json"
    before = path.read_text()
    path.write_text(content)
    try:
        with pytest.raises(ConfigError, match=r"run\.json: not what a run is described by"):
            render(folder)
    finally:
        path.write_text(before)


def test_an_sa_that_never_stood_takes_nothing_away():
    counters = material.Counters(10.0)
    for t, event, spi in ((1.0, "ike_gone", "aa"), (2.0, "ike_established", "bb")):
        counters.take(TraceRecord(t, "gw1", event, {"spi_i": spi}))
    assert counters.last(("gw1", "IKE_SAs")) == 1
    counters.take(TraceRecord(3.0, "gw1", "ike_gone", {"spi_i": "bb"}))
    assert counters.last(("gw1", "IKE_SAs")) == 0


@pytest.mark.parametrize("content", ["{}", "[]", "half", '{"machine": null}'])
def test_another_manifest_is_one_line(folder, content):
    path = folder.manifest_path
    before = path.read_text()
    whole = json.loads(before)
    path.write_text(json.dumps(whole | json.loads(content)) if "null" in content else content)
    try:
        with pytest.raises(ConfigError, match="not a manifest"):
            render(folder)
    finally:
        path.write_text(before)


def test_json_cannot_end_its_element():
    text = json_in_html({"<!--<script>": "</script>&amp;"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"<!--<script>": "</script>&amp;"}


@pytest.mark.parametrize("spokes", [2, 40])
def test_no_two_nodes_of_a_map_are_in_one_place(spokes):
    graph = nx.Graph()
    for number in range(spokes):
        graph.add_edges_from([("r1", f"gw{number}"), (f"gw{number}", f"h{number}")])
    found = positions(graph)
    assert len(set(found.values())) == len(graph)
    assert found == positions(graph)


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ("connections.site.protocol: ah\n  connections.site.ah: sha256-x25519", "AH    SPI"),
        ("connections.site.encapsulation: forced", "ESP   SPI"),
    ],
    ids=["AH", "ESP in UDP"],
)
def test_each_protocol_is_taken_apart(setting, wanted, tmp_path):
    text = REKEYED.replace("links.wan.loss: 2%", setting)
    found = results_of(text, tmp_path / "here")
    row = found.rows()[0]
    text = render(found)
    words = [w for m in data_of(text)[0]["messages"] if m for w in words_in(m["parts"])]
    assert any(line.startswith(wanted) for line in words)
    assert any(line.startswith("inner IPv4 header") for line in words)
    run = material.read_material(found, row)
    assert on_paper(run.job, run.topology)["overhead"] == row.metrics["overhead"]
