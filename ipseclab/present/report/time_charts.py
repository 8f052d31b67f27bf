"""The report's charts over the time of a run: traffic, round trips, and the SAs as bars.

Rekeys are bands, losses of links ticks along the top edge. A bar has a half for each end of an SA:
pale while it stands and does not carry outbound traffic yet, full from then to its deletion, so
that make before break shows as two bars one above the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from ipseclab.measure.metrics import mappings_lost
from ipseclab.measure.timeline import SaEnd, SaLife, Steps, probe_rates, sa_lives, transfer_rates
from ipseclab.measure.view import RunView, number, text
from ipseclab.present.report.svg import COLOURS, TOP, Axis, Chart, colour_of, style_of

MOST_FLOWS = COLOURS
MOST_POINTS = 500
MOST_TICKS = 200
MOST_BARS = 60
BAR = 38.0
NAME, END = 14.0, 11.0
"""Of a bar's height: for its name, and for each of its ends."""
SHORTEST = 0.001


@dataclass(frozen=True, slots=True)
class Drawn:
    """A chart with what one sees, and what was left out of it."""

    title: str
    svg: Markup
    note: str = ""


def time_charts(view: RunView, every: int = 1) -> list[Drawn]:
    """The charts for which a run has data; `every`: the view holds each so manieth probe."""
    drawers: tuple[Callable[[RunView, int], Drawn | None], ...] = (
        _goodput, _delivered, _round_trips, _sa_bars,
    )  # fmt: skip
    return [chart for drawer in drawers if (chart := drawer(view, every)) is not None]


def _time_axis(view: RunView) -> Axis:
    return Axis(0.0, max(view.end(), SHORTEST), "time (s)")


def _goodput(view: RunView, every: int) -> Drawn | None:
    del every  # octets are counted up: none are missing where records are
    rates = transfer_rates(view)
    if not rates:
        return None
    lines = [(f"TCP {flow}", rate) for flow, rate in rates.items()]
    return _rates("Throughput: payload delivered by TCP", "goodput (Mbit/s)", view, lines, 1e-6)


def _delivered(view: RunView, every: int) -> Drawn | None:
    rates = probe_rates(view)
    if not rates:
        return None
    lines = [(f"{r.flow}: {r.arrived} of {r.packets}", r.delivered) for r in rates]
    sent = [rate.sent for rate in rates]
    title = "Probes delivered, by the time of their sending"
    return _rates(title, "delivered (packets/s)", view, lines, float(every), sent)


def _rates(
    title: str,
    label: str,
    view: RunView,
    lines: list[tuple[str, Steps]],
    scale: float,
    sent: list[Steps] | None = None,
) -> Drawn:
    shown = lines[:MOST_FLOWS]
    beside = sent if sent is not None else []
    peak = max((max(steps.values, default=0.0) for _, steps in lines), default=0.0)
    peak = max(peak, max((max(steps.values, default=0.0) for steps in beside), default=0.0))
    chart = Chart(title, _time_axis(view), Axis(0.0, 1.08 * scale * peak or 1.0, label))
    _mark(chart, view)
    for steps in beside[:MOST_FLOWS]:
        chart.line(_points(steps, scale), 0, step=True, extra="sent")
    for series, (name, steps) in enumerate(shown):
        chart.line(_points(steps, scale), series, step=True)
        chart.legend(name, f"line {style_of(series)}")
    left_out = len(lines) - len(shown)
    note = f"{left_out} more flows are left out." if left_out > 0 else ""
    return Drawn(title, chart.svg(time=True), note)


def _points(steps: Steps, scale: float) -> list[tuple[float, float]]:
    return [(t, value * scale) for t, value in zip(steps.times, steps.values, strict=True)]


def _round_trips(view: RunView, every: int) -> Drawn | None:
    """Each ping's round trip at the time of its answer, and a cross for one without."""
    answers = [(r.t, rtt) for r in view.events("ping_received") if (rtt := number(r, "rtt"))]
    answered = {(text(r, "flow"), number(r, "sequence")) for r in view.events("ping_received")}
    lost = [
        record.t
        for record in view.events("ping_sent")
        if (text(record, "flow"), number(record, "sequence")) not in answered
    ]
    if not answers and not lost:
        return None
    title = "Round trips of pings"
    peak = max((rtt for _, rtt in answers), default=SHORTEST) * 1e3
    chart = Chart(title, _time_axis(view), Axis(0.0, 1.1 * peak, "round trip (ms)"), height=150)
    _mark(chart, view)
    stride = -(-len(answers) // MOST_POINTS)
    for at, rtt in answers[::stride] if stride else ():
        chart.marker(at, rtt * 1e3, 0, f"{rtt * 1e3:.3f} ms at {at:.6f} s")
    for at in lost[:MOST_TICKS]:
        chart.marker(at, 0.0, 5, f"sent at {at:.6f} s, no answer")
    chart.legend(f"{len(answers) * every} answered", f"line {colour_of(0)}")
    chart.legend(f"{len(lost) * every} without an answer", f"line {colour_of(5)}")
    notes = []
    if stride > 1:
        notes.append(f"One point of {stride} is drawn, of {len(answers)}.")
    if len(lost) > MOST_TICKS:
        notes.append(f"{len(lost) - MOST_TICKS} of the lost ones are left out.")
    return Drawn(title, chart.svg(time=True), " ".join(notes))


def _mark(chart: Chart, view: RunView) -> None:
    """Rekeys, what a link lost, and what became of a NAT's mappings."""
    for rekey in view.rekeys():
        end = rekey.ended if rekey.ended is not None else view.end()
        about = f"{rekey.kind.upper()}_SA rekey by {rekey.node}: {rekey.started:.6f} s"
        took = f", {1e3 * (end - rekey.started):.1f} ms" if rekey.ended is not None else ""
        chart.span(rekey.started, end, f"rekey-{rekey.kind}", f"{about}{took}")
    drops = view.events("link_dropped")
    stride = -(-len(drops) // MOST_TICKS)
    for record in drops[::stride] if stride else ():
        about = f"{record.node} dropped a packet at {record.t:.6f} s: {text(record, 'reason')}"
        chart.tick(record.t, "drop", about)
    for record in mappings_lost(view):
        chart.span(record.t, record.t, "nat", f"{record.event} at {record.node}: {record.t:.6f} s")


def _sa_bars(view: RunView, every: int) -> Drawn | None:
    del every
    lives = sa_lives(view)
    shown = lives[:MOST_BARS]
    if not shown:
        return None
    title = "SAs: a bar each, a half for each end"
    labels = tuple((line + 0.5, "") for line in range(len(shown)))
    axis = Axis(float(len(shown)), 0.0, "", ticks=labels)
    chart = _BarChart(title, _time_axis(view), axis, height=BAR * len(shown))
    for rekey in view.rekeys():
        end = rekey.ended if rekey.ended is not None else view.end()
        chart.span(rekey.started, end, f"rekey-{rekey.kind}", f"{rekey.kind} rekey")
    for line, life in enumerate(shown):
        _draw_life(chart, line, life, view.end())
    chart.legend("carries traffic", "key carries")
    chart.legend("stands, carries nothing outbound yet", "key stands")
    chart.legend("IKE_SA", "key ike")
    left_out = len(lives) - len(shown)
    note = f"The first {MOST_BARS} SAs; {left_out} more are left out." if left_out else ""
    return Drawn(title, chart.svg(time=True), note)


class _BarChart(Chart):
    """Lines are counted from the top: the y axis goes down."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is in the picture."""
        across, _ = super().at(x, self.y.low)
        return across, TOP + BAR * y


def _draw_life(chart: Chart, line: int, life: SaLife, end: float) -> None:
    for place, sa in enumerate(life.ends[:2]):
        top = line + (NAME + 1.0 + place * END) / BAR
        gone = sa.gone if sa.gone is not None else end
        about = _end_words(life, sa)
        if life.kind == "ike":
            chart.bar(top, END - 1, sa.ready, gone, "sa ike", about)
            continue
        active = sa.active if sa.active is not None else gone
        chart.bar(top, END - 1, sa.ready, min(active, gone), "sa stands", about)
        if active < gone:
            chart.bar(top, END - 1, active, gone, "sa carries", about)
    nodes = " and ".join(sa.node for sa in life.ends[:2])
    chart.text(life.start, line, f"{life.name} at {nodes}", down=12.0)


def _end_words(life: SaLife, sa: SaEnd) -> str:
    active = f", carries from {sa.active:.6f} s" if sa.active is not None else ""
    gone = f", gone at {sa.gone:.6f} s ({sa.reason})" if sa.gone is not None else ""
    return f"{life.name} at {sa.node}: stands from {sa.ready:.6f} s{active}{gone}"
