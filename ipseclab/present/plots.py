"""Figures from a results folder: the time line of a run, sweeps, overhead by part, round trips.

Drawn from `runs/<id>/trace.jsonl` and the rows alone, so that `ipseclab plot DIR` draws them again.
Each figure becomes a PNG and an SVG, or what is asked for. Colours are Okabe and Ito's, told apart
also without red or green; series differ by marker as well, so that a grey print still reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.metrics import definition_of, mappings_lost, unit_of
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.results import Manifest, ResultsFolder, Row
from ipseclab.measure.series import (
    PART_NAMES,
    Point,
    chosen_rows,
    chosen_run,
    labels_of,
    overhead_stacks,
    plot_specs,
    readable,
    sweep_series,
)
from ipseclab.measure.timeline import SHORTEST_BIN, probe_rates, sa_lives, transfer_rates
from ipseclab.measure.view import RunView, number
from ipseclab.present.matrix import matrix
from ipseclab.present.observer import observer
from ipseclab.present.octets import octets

BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, BLACK = "#56B4E9", "#CC79A7", "#F0E442", "#000000"
SERIES = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")
MARKER_SIZES = (10.0, 4.0)
"""Of the first series and of the last: where they coincide, all of them are to be seen."""
PART_STYLES: Mapping[str, tuple[str, str]] = {
    "outer_ip": (BLUE, ""),
    "udp": (SKY, ""),
    "ah_length": (ORANGE, ".."),
    "spi": (GREEN, ""),
    "sequence": (GREEN, "//"),
    "iv": (YELLOW, ""),
    "inner_ip": (BLUE, "//"),
    "transport": (SKY, "//"),
    "padding": (ORANGE, ""),
    "pad_length": (ORANGE, "//"),
    "next_header": (ORANGE, "xx"),
    "icv": (VERMILION, ""),
}
"""Colour and hatching of each part; parts of one header share a colour."""
MOST_BARS = 24
FORMATS = ("png", "svg", "pdf")
SCREEN = ("png", "svg")
SCREEN_DPI, PRINT_DPI = 150, 300
METADATA: Mapping[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
"""Without the times of drawing: the same results are to give the same octets."""


def draw(
    folder: ResultsFolder, formats: Sequence[str] = SCREEN, dpi: int = SCREEN_DPI
) -> tuple[Path, ...]:
    """Draw every figure that the folder's manifest asks for; the paths written, one a format.

    A figure that has nothing to show (no run of that kind yet) is left out.
    """
    manifest, rows = folder.present_manifest(), folder.finished_rows()
    written: list[Path] = []
    for spec in plot_specs(manifest):
        figure = DRAWERS[spec.kind](folder, manifest, rows, spec)
        if figure is not None:
            written.extend(save(figure, folder.figures / spec.stem, formats, dpi))
    return tuple(written)


def save(
    figure: Figure, stem: Path, formats: Sequence[str] = SCREEN, dpi: int = SCREEN_DPI
) -> tuple[Path, ...]:
    """Write `stem`.png and so on; the same figure gives the same octets."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    paths = tuple(stem.with_name(f"{stem.name}.{name}") for name in formats)
    # Text stays text, to be searched and set in the reader's own fonts (SVG) or embedded (PDF).
    with mpl.rc_context({"svg.hashsalt": "ipseclab", "svg.fonttype": "none", "pdf.fonttype": 42}):
        for name, path in zip(formats, paths, strict=True):
            figure.savefig(path, dpi=dpi, metadata=METADATA[name])
    return paths


# --- time line -----------------------------------------------------------------------------------


def timeline(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """What went through against time, with the rekeys and losses marked and the SAs as bars."""
    row = chosen_run(rows, spec)
    if row is None:
        return None
    view = RunView.read(folder.run_path(row.run) / "trace.jsonl")
    what = ", ".join(f"{key} {value}" for key, value in row.parameters.items())
    title = spec.title or f"{manifest.experiment}: what got through, and which SA carried it"
    return timeline_figure(view, f"{title}\n{row.world}{', ' + what if what else ''}")


def timeline_figure(view: RunView, title: str) -> Figure:
    """The time line of one run."""
    panels: list[Callable[[Axes, RunView], None]] = []
    if view.events("transfer_octets"):
        panels.append(_transfer_panel)
    if view.events("probe_sent"):
        panels.append(_probe_panel)
    if view.events("ping_received") and not panels:
        panels.append(_ping_panel)
    panels.append(_sa_panel)
    figure = Figure(figsize=(9.0, 1.2 + 2.2 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis, view)
        if axis is axes[0]:
            _mark_losses(axis, view)
        _mark_rekeys(axis, view)
        _mark_nat(axis, view)
        axis.grid(alpha=0.3)
    for axis in axes[:-1]:
        _legend_above(axis)
    axes[-1].set_xlabel("time (s)")
    axes[-1].set_xlim(0.0, max(view.end(), SHORTEST_BIN))
    figure.suptitle(title, fontsize="medium")
    return figure


def _legend_above(axis: Axes) -> None:
    """A legend in rows on top of the axes, where it covers nothing."""
    legend = axis.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        fontsize="small",
        frameon=False,
        borderaxespad=0.1,
    )
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def _transfer_panel(axis: Axes, view: RunView) -> None:
    for (flow, rate), colour in zip(transfer_rates(view).items(), cycle(SERIES)):
        megabits = [value / 1e6 for value in rate.values]
        axis.step(rate.times, megabits, where="post", color=colour, label=f"TCP {flow}")
    axis.set_ylabel("goodput (Mbit/s)")
    axis.set_ylim(bottom=0)


def _probe_panel(axis: Axes, view: RunView) -> None:
    """Delivered packets a second by the time of their sending, above what was sent."""
    for probe, colour, style in zip(probe_rates(view), cycle(SERIES), cycle(("-", "--", ":"))):
        name = probe.flow if probe.flow.startswith("probe") else f"probe {probe.flow}"
        label = None if "sent" in axis.get_legend_handles_labels()[1] else "sent"
        sent, delivered = probe.sent, probe.delivered
        axis.step(sent.times, sent.values, where="post", color="0.75", lw=4, label=label)
        axis.step(
            delivered.times,
            delivered.values,
            where="post",
            color=colour,
            ls=style,
            label=f"{name}: {probe.arrived} of {probe.packets} delivered",
        )
    axis.set_ylabel("delivered (packets/s)")
    axis.set_ylim(0, axis.get_ylim()[1] * 1.1)


def _ping_panel(axis: Axes, view: RunView) -> None:
    points = [(r.t, rtt) for r in view.events("ping_received") if (rtt := number(r, "rtt"))]
    axis.plot(
        [t for t, _ in points], [rtt * 1e3 for _, rtt in points], "o", color=BLUE, label="ping"
    )
    axis.set_ylabel("round trip (ms)")
    axis.set_ylim(bottom=0)


def _sa_panel(axis: Axes, view: RunView) -> None:
    """A bar for each SA from the moment it stands at one end to its last deletion."""
    bars = _sa_bars(view)
    for line, (label, start, end, colour) in enumerate(bars):
        axis.barh(line, end - start, left=start, height=0.6, color=colour, alpha=0.85)
        axis.annotate(label, (start, line), xytext=(3, 0), textcoords="offset points",
                      va="center", fontsize="x-small")  # fmt: skip
    axis.set_yticks([])
    axis.set_ylabel("SAs")
    axis.set_ylim(len(bars) - 0.4 if bars else 0.6, -0.6)


def _sa_bars(view: RunView) -> list[tuple[str, float, float, str]]:
    return [
        (life.name, life.start, life.gone(view.end()), SKY if life.kind == "ike" else ORANGE)
        for life in sa_lives(view)[:MOST_BARS]
    ]


def _mark_rekeys(axis: Axes, view: RunView) -> None:
    named: set[str] = set()
    for rekey in view.rekeys():
        label = {"child": "CHILD_SA rekey", "ike": "IKE_SA rekey"}[rekey.kind]
        end = rekey.ended if rekey.ended is not None else view.end()
        shown = label if label not in named else None
        colour = GREEN if rekey.kind == "child" else PURPLE
        axis.axvspan(rekey.started, end, color=colour, alpha=0.25, lw=0)
        axis.axvline(rekey.started, color=colour, lw=1.2, label=shown)
        named.add(label)


def _mark_losses(axis: Axes, view: RunView) -> None:
    """Link drops as ticks along the top edge, paler where they are many."""
    times = [record.t for record in view.events("link_dropped")]
    if times:
        axis.plot(
            times,
            [0.97] * len(times),
            "|",
            color=VERMILION,
            alpha=max(0.15, min(1.0, 100 / len(times))),
            markersize=7,
            transform=axis.get_xaxis_transform(),
            label=f"link drop ({len(times)})",
        )


def _mark_nat(axis: Axes, view: RunView) -> None:
    for number_of, record in enumerate(mappings_lost(view)):
        what = "NAT mapping expired" if record.event == "nat_expired" else "NAT rebound"
        first = record.event not in [r.event for r in mappings_lost(view)[:number_of]]
        style = ":" if record.event == "nat_expired" else "--"
        axis.axvline(record.t, color=BLACK, ls=style, lw=1.2, label=what if first else None)


# --- sweeps --------------------------------------------------------------------------------------


def sweep(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """A metric over a parameter: the mean of the repetitions with its 95 % confidence interval."""
    del folder
    chosen = chosen_rows(rows, spec)
    series = sweep_series(chosen, spec)
    if not series:
        return None
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = figure.subplots()
    peak = max(mean for points in series.values() for _, mean, _ in points)
    scale, unit = readable(unit_of(spec.y), peak)
    sizes = np.linspace(*MARKER_SIZES, len(series))
    for number_of, (name, points) in enumerate(series.items()):
        _draw_series(axis, points, scale, number_of, float(sizes[number_of]), name)
    axis.set_xlabel(labels_of(manifest, (spec.x,)))
    xs = {x for points in series.values() for x, _, _ in points}
    if any(isinstance(x, str) for x in xs):
        axis.set_xlim(-0.5, len(xs) - 0.5)
    elif len(xs) == 1:
        axis.set_xticks([float(x) for x in xs])
    axis.set_ylabel(f"{spec.y}{f' ({unit})' if unit else ''}")
    if spec.log_x:
        axis.set_xscale("log")
    if spec.log_y:
        axis.set_yscale("log")
    else:
        tops = [mean + width for points in series.values() for _, mean, width in points]
        highest = scale * max(tops)
        lows = [mean - width for points in series.values() for _, mean, width in points]
        lowest = min(scale * spec.from_y, scale * min(lows)) if spec.from_y else 0.0
        axis.set_ylim(lowest, highest + 0.06 * (highest - lowest) if highest > lowest else 1.0)
    axis.grid(alpha=0.3)
    if len(series) > 1:
        _legend_beside(axis, labels_of(manifest, spec.series))
    title = spec.title or f"{manifest.experiment}: {definition_of(spec.y)}"
    repeats = max((row.repetition for row in chosen), default=0) + 1
    note = f", mean and 95 % interval of {repeats} runs" if repeats > 1 else ""
    figure.suptitle(f"{title}\n{manifest.world}{note}", fontsize="medium")
    return figure


def _legend_beside(axis: Axes, title: str | None, *, reverse: bool = False) -> None:
    """A legend to the right of the axes, where it covers nothing."""
    axis.legend(
        title=title, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=reverse
    )


def _draw_series(
    axis: Axes, points: Sequence[Point], scale: float, number_of: int, size: float, name: str
) -> None:
    """A series; by its number it has its colour, marker and line, so that no two are alike."""
    around, place = divmod(number_of, len(SERIES))
    means = [mean * scale for _, mean, _ in points]
    widths = [width * scale for _, _, width in points]
    xs = [x for x, _, _ in points]
    words = any(isinstance(x, str) for x in xs)
    axis.errorbar(
        xs,
        means,
        yerr=widths if any(widths) else None,
        color=SERIES[place],
        marker=MARKERS[(place + around) % len(MARKERS)],
        markersize=size,
        markerfacecolor="none",
        clip_on=False,
        ls="none" if words else LINES[around % len(LINES)],
        lw=1.4,
        capsize=3,
        label=name,
    )


# --- octets by part, round trips -----------------------------------------------------------------


def overhead(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """Stacked bars: what a packet carries beside its payload, part by part."""
    del folder
    stacks = overhead_stacks(rows, spec)
    if not stacks:
        return None
    figure = Figure(figsize=(max(6.0, 1.1 * len(stacks) + 3.0), 4.8), layout="constrained")
    axis = figure.subplots()
    places = range(len(stacks))
    base = np.zeros(len(stacks))
    parts = [part for part in OVERHEAD_PARTS if any(stack.get(part) for _, stack in stacks)]
    for part in parts:
        heights = np.array([stack.get(part, 0.0) for _, stack in stacks])
        colour, hatch = PART_STYLES[part]
        axis.bar(
            places,
            heights,
            bottom=base,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=PART_NAMES.get(part, part.replace("_", " ")),
        )
        base += heights
    for place, total in zip(places, base, strict=True):
        axis.annotate(f"{total:.4g}", (place, total), ha="center", va="bottom", fontsize="small")
    axis.set_xticks(list(places), [name for name, _ in stacks], fontsize="small")
    axis.set_xlabel(labels_of(manifest, [key for key in (*spec.series, spec.x) if key]))
    axis.set_ylabel("octets a packet beside the payload")
    axis.set_ylim(0, max(base) * 1.12)
    _legend_beside(axis, None, reverse=True)
    title = spec.title or f"{manifest.experiment}: overhead of a packet by part"
    figure.suptitle(f"{title}\n{manifest.world}", fontsize="medium")
    return figure


def rtt(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """The share of pings answered within a time, for each value of the series parameter."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        if any(row.parameters.get(key) != value for key, value in spec.where.items()):
            continue
        view = RunView.read(folder.run_path(row.run) / "trace.jsonl")
        found = [value for r in view.events("ping_received") if (value := number(r, "rtt"))]
        name = ", ".join(str(row.parameters.get(key)) for key in spec.series)
        groups.setdefault(name, []).extend(found)
    groups = {name: sorted(found) for name, found in groups.items() if found}
    if not groups:
        return None
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axis = figure.subplots()
    scale, unit = readable("s", max(found[-1] for found in groups.values()))
    for (name, found), colour in zip(groups.items(), cycle(SERIES)):
        share = np.arange(len(found) + 1) / len(found)
        times = np.array([found[0], *found]) * scale
        axis.step(times, share, where="post", color=colour, label=name or "ping")
    axis.set_xlabel(f"round trip ({unit})")
    axis.set_ylabel("share of echoes within")
    axis.set_ylim(0, 1.02)
    axis.grid(alpha=0.3)
    if spec.series:
        _legend_beside(axis, labels_of(manifest, spec.series))
    title = spec.title or f"{manifest.experiment}: round trips through the tunnel"
    figure.suptitle(f"{title}\n{manifest.world}", fontsize="medium")
    return figure


Drawer = Callable[[ResultsFolder, Manifest, Sequence[Row], PlotSpec], Figure | None]
DRAWERS: Mapping[str, Drawer] = {
    "timeline": timeline,
    "sweep": sweep,
    "overhead": overhead,
    "rtt": rtt,
    "matrix": matrix,
    "octets": octets,
    "observer": observer,
}
