"""A figure of what an observer sees of protected traffic: each packet's time and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ipseclab.measure.experiment import PlotSpec
from ipseclab.measure.observer import read_sightings
from ipseclab.measure.results import Manifest, ResultsFolder, Row
from ipseclab.measure.series import chosen_rows

WAYS = (("#0072B2", "o"), ("#D55E00", "x"))
"""Okabe and Ito's blue and vermilion; the marker tells them apart in grey."""
TALLEST = 6


def observer(
    folder: ResultsFolder, manifest: Manifest, rows: Sequence[Row], spec: PlotSpec
) -> Figure | None:
    """Packets over time as the first gateway's link shows them, a panel for each value of the
    series' parameters."""
    panels: dict[str, Row] = {}
    for row in chosen_rows(rows, spec):
        name = ", ".join(str(row.parameters.get(key)) for key in spec.series)
        panels.setdefault(name, row)
    seen = {
        name: read_sightings(folder.run_path(row.run) / "capture.pcapng")
        for name, row in list(panels.items())[:TALLEST]
    }
    if not any(seen.values()):
        return None
    figure = Figure(figsize=(9.0, 0.9 + 1.9 * len(seen)), layout="constrained")
    axes = figure.subplots(len(seen), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    words = ", ".join(spec.series)
    for axis, (name, sources) in zip(axes, seen.items(), strict=True):
        _panel(axis, f"{words}: {name}" if words else "", sources)
    axes[0].legend(
        fontsize="x-small", loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False
    )
    axes[-1].set_xlabel("time (s)")
    axes[0].set_ylim(bottom=0)
    title = spec.title or f"{manifest.experiment}: what an observer sees"
    figure.suptitle(f"{title}\n{manifest.world}", fontsize="medium")
    return figure


def _panel(axis: Axes, name: str, sources: Mapping[str, list[tuple[float, int]]]) -> None:
    for (source, packets), (colour, marker) in zip(sources.items(), WAYS, strict=False):
        times, octets = [t for t, _ in packets], [n for _, n in packets]
        axis.plot(times, octets, marker, ms=2.5, alpha=0.6, color=colour, label=f"from {source}")
    axis.set_title(name, fontsize="small", loc="left")
    axis.set_ylabel("octets")
    axis.grid(alpha=0.3)
