"""Puts `report.html` together: reads a results folder, draws, and renders the one file.

The file opens without a network and without anything beside it. Its policy (CSP) allows the one
style sheet and the one script that it holds, by their digests, and nothing else: what a peer put
into an identity stays text, even where an escape were missing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ipseclab.errors import ConfigError, Place
from ipseclab.measure.expect.judge import Judgement
from ipseclab.measure.expect.store import read_judgements
from ipseclab.measure.expect.words import in_words, point_words
from ipseclab.measure.metrics import definition_of, unit_of
from ipseclab.measure.on_paper import on_paper
from ipseclab.measure.results import Manifest, ResultsFolder, Row, write_atomic
from ipseclab.present.opener import Opener
from ipseclab.present.report.dissect import Dissection, Part
from ipseclab.present.report.lab_map import LabMap, lab_map
from ipseclab.present.report.material import STEPS, Material, read_job, read_material
from ipseclab.present.report.messages import (
    Captured,
    Ladder,
    LadderRow,
    make_ladder,
    opener_for,
    read_captured,
)
from ipseclab.present.report.packets import layout_svg, run_layouts
from ipseclab.present.report.svg import element, joined
from ipseclab.present.report.sweeps import point_name, sweep_charts
from ipseclab.present.report.time_charts import Drawn, time_charts
from ipseclab.present.tables import group_points, number_text, summary

REPORT_FILE = "report.html"
LARGEST = 5_000_000
"""Octets of a report."""
MOST_POINTS = 12
"""Points of a sweep whose first run is shown in detail."""
LADDER_OCTETS = 1_200_000
"""Of captured messages in all points together; hexadecimal doubles it."""
LARGEST_PANE = 4096
MOST_ON_PAPER = 400
"""Points for which the closed form is worked out."""
MOST_TABLE_ROWS = 60
MOST_LANES = 6
"""Nodes of a ladder that are drawn as columns; with more, a row names its ends."""


@dataclass(frozen=True, slots=True)
class PointPage:
    """One run in detail."""

    name: str
    run: str
    notes: tuple[str, ...]
    map: LabMap
    charts: list[Drawn]
    ladder: Ladder
    layout: Markup
    counters: list[tuple[str, str, int, int]]
    data: Mapping[str, object]

    @property
    def lanes(self) -> tuple[str, ...]:
        """The ladder's columns; none where they would be too many."""
        return self.ladder.nodes if len(self.ladder.nodes) <= MOST_LANES else ()


def write_report(folder: ResultsFolder) -> Path:
    """Write a folder's report; its path. Raises ConfigError for what is no results folder, or
    lacks what a finished run has."""
    path = folder.path / REPORT_FILE
    text = render(folder)
    try:
        write_atomic(path, text)
    except OSError as problem:
        raise ConfigError(f"cannot be written: {problem.strerror}", Place(str(path))) from None
    return path


def render(folder: ResultsFolder) -> str:
    """The report as HTML, of less than `LARGEST` octets: with fewer runs in detail, and their
    messages without octets, where it would be more."""
    manifest, rows = folder.present_manifest(), folder.finished_rows()
    firsts = [group[0] for group in group_points(rows).values()]
    shown, octets = min(len(firsts), MOST_POINTS), LADDER_OCTETS
    while True:
        points = [_point(folder, row, octets // shown) for row in _chosen(firsts, shown)]
        text = _page(folder, manifest, rows, firsts, points)
        if len(text.encode()) < LARGEST or (shown == 1 and not octets):
            return text
        shown, octets = (shown // 2, octets) if shown > 1 else (1, 0)


def _chosen(firsts: Sequence[Row], shown: int) -> list[Row]:
    """So many points of a sweep, spread over it, the first always among them."""
    return [firsts[place * len(firsts) // shown] for place in range(shown)]


def _point(folder: ResultsFolder, row: Row, octets: int) -> PointPage:
    material = read_material(folder, row)
    captured = Captured()
    opener = Opener(None)
    if material.capture is not None:
        captured = read_captured(material.capture, material.counters, material.topology)
        opener = opener_for(material.capture)
    ladder = make_ladder(material.view, material.topology, captured, opener, octets)
    drawn_map = lab_map(material)
    counters = material.counters
    keys = drawn_map.counters
    return PointPage(
        name=point_name(row.parameters),
        run=row.run,
        notes=material.notes,
        map=drawn_map,
        charts=time_charts(material.view, material.every),
        ladder=ladder,
        layout=layout_svg(run_layouts(row, material.topology, material.job.plan)),
        counters=[(*key, number, counters.last(key)) for number, key in enumerate(keys)],
        data=_data(material, ladder, drawn_map),
    )


def _data(material: Material, ladder: Ladder, drawn: LabMap) -> dict[str, object]:
    """What the page's script needs of a run."""
    return {
        "end": material.counters.end,
        "counters": [material.counters.changes(key) for key in drawn.counters],
        "messages": [
            _message(row.opened) if row.opened is not None else None for row in ladder.rows
        ],
    }


def _message(found: Dissection) -> dict[str, object]:
    panes = []
    for name, octets in found.panes:
        cut = f"{name}, the first {LARGEST_PANE} of {len(octets)} octets"
        shown = f"{name}, {len(octets)} octets" if len(octets) <= LARGEST_PANE else cut
        panes.append([shown, octets[:LARGEST_PANE].hex()])
    return {"panes": panes, "parts": [_plain(part) for part in found.parts]}


def _plain(part: Part) -> list[object]:
    inside = [_plain(inner) for inner in part.parts]
    return [part.words, part.pane, part.start, part.size, *([inside] if inside else [])]


def _page(
    folder: ResultsFolder,
    manifest: Manifest,
    rows: Sequence[Row],
    firsts: Sequence[Row],
    points: Sequence[PointPage],
) -> str:
    environment = Environment(
        loader=PackageLoader("ipseclab.present"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style, script = (_source(environment, f"report.{kind}") for kind in ("css", "js"))
    data = [point.data for point in points]
    paper = _paper(folder, firsts) if len(firsts) > 1 else {}
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        policy=_policy(style, script),
        style=Markup(style),
        script=Markup(script),
        data=json_in_html(data),
        steps=STEPS,
        points=points,
        left_out=len(firsts) - len(points),
        repetitions=max(row.repetition for row in rows) + 1,
        runs=len(rows),
        sweep=sweep_charts(manifest, rows, paper) if len(firsts) > 1 else [],
        metrics=_metrics(rows) if len(firsts) == 1 else [],
        judgements=_judgements(read_judgements(folder.path)),
        command=shlex.join(manifest.command),
        facts=_facts(manifest),
        lane=lane_svg,
    )


def lane_svg(lanes: Sequence[str], row: LadderRow) -> Markup:
    """The nodes as lines and the message as an arrow from one to the other; what was lost ends in a
    cross on the way."""
    places = {node: 100.0 * (n + 0.5) / len(lanes) for n, node in enumerate(lanes)}
    lines = [element("path", class_="lane", d=f"M{x:.1f} 0V14") for x in places.values()]
    start, end = places.get(row.sender), places.get(row.receiver)
    if start is not None and end is not None and start != end:
        to = (start + end) / 2 if row.lost else end
        back = -1.4 if to > start else 1.4
        head = f"M{to - 1.0:.1f} 3l2 8m-2 0l2 -8" if row.lost else f"m{back} -4l{-back} 4l{back} 4"
        lines.append(element("path", class_="arrow", d=f"M{start:.1f} 7H{to:.1f}{head}"))
    return element(
        "svg", joined(lines), class_="lanes", viewBox="0 0 100 14", preserveAspectRatio="none",
        aria_hidden="true",
    )  # fmt: skip


def _source(environment: Environment, name: str) -> str:
    assert environment.loader is not None
    source, _, _ = environment.loader.get_source(environment, name)
    return source


def _policy(style: str, script: str) -> str:
    """The content security policy: nothing is loaded, nothing runs but what is named here."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )


def json_in_html(value: object) -> Markup:
    """JSON for a script element: no `<` or `&` in it, so that nothing can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _paper(folder: ResultsFolder, firsts: Sequence[Row]) -> dict[str, dict[str, float]]:
    """The closed forms of each point, by the name of its first run."""
    found = {}
    for row in firsts[:MOST_ON_PAPER]:
        job = read_job(folder.run_path(row.run))
        found[row.run] = on_paper(job, job.resolved())
    return found


def _metrics(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Name, value, unit and definition of each metric that the runs have."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return [
        (name, summary(rows, name), unit_of(name), definition_of(name))
        for name in names
        if any(row.metrics.get(name) is not None for row in rows)
    ]


def _judgements(judgements: Sequence[Judgement]) -> list[tuple[str, str, str, str]]:
    """Verdict, expectation, where, and what was measured; the failed ones first."""
    order = {"failed": 0, "not judged": 1, "held": 2}
    ranked = sorted(judgements, key=lambda one: order[one.verdict.value])
    return [(one.verdict.value, one.expectation, point_words(one), in_words(one)) for one in ranked]


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What a repetition needs to know."""
    machine = {key: value for key, value in manifest.machine.items() if value is not None}
    versions = ", ".join(f"{name} {version}" for name, version in manifest.packages.items())
    facts = [
        ("experiment", f"{manifest.experiment} ({manifest.details.get('file', '')})"),
        ("topology", str(manifest.details.get("topology", ""))),
        ("world", manifest.world),
        ("seed", str(manifest.seed)),
        ("runs", f"{manifest.runs_done} of {manifest.runs}, {manifest.status}"),
        ("processing times", manifest.costs),
        ("sources", manifest.sources),
        *((key, number_text(value)) for key, value in machine.items()),
        ("packages", versions),
        ("started", manifest.started),
        ("finished", manifest.finished or ""),
    ]
    return [(name, value) for name, value in facts if value.strip(" ()")]
