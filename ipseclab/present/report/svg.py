"""SVG for the report: elements with everything escaped, and charts with round ticks.

Colours and dashes are classes (`s0` to `s6`, `d0` to `d2`) that the page's style sheet gives
meaning to, for light, dark and paper. Series differ by marker and dash as well as by colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from markupsafe import Markup, escape

WIDTH = 860.0
LEFT, RIGHT, TOP, BOTTOM = 66.0, 14.0, 10.0, 40.0
PLOT_WIDTH = WIDTH - LEFT - RIGHT
COLOURS, DASHES, MARKERS = 7, 3, 6
ABOUT_TICKS = 6
LEGEND_LETTER, LEGEND_LINE = 6.7, 18.0
"""The width of a letter in a legend, about, and the height of its lines."""

Attribute = str | float | int


def element(name: str, content: str = "", /, **attributes: Attribute) -> Markup:
    """An element; `class_` is its class, `_` in a name a hyphen. Content that is not `Markup` is
    text."""
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_value(value))}"'
        for key, value in attributes.items()
    )
    inside = escape(content)
    return Markup(f"<{name}{words}>{inside}</{name}>" if inside else f"<{name}{words}/>")


def joined(parts: Iterable[str]) -> Markup:
    """Elements one after the other."""
    return Markup("").join(parts)


def _value(value: Attribute) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return str(value)


def number_text(value: float) -> str:
    """A tick's number: no more digits than it needs."""
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    return f"{value:.6f}".rstrip("0").rstrip(".") or "0"


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis goes from and to; `ticks` for words in the place of numbers."""

    low: float
    high: float
    label: str
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()

    def place(self, value: float) -> float:
        """0.0 at the low end, 1.0 at the high one; a logarithm's zero is at the low end."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = (log10(max(number, self.low)) for number in (low, high, at))
        return (at - low) / (high - low) if high > low else 0.5

    def marked(self) -> tuple[tuple[float, str], ...]:
        """The ticks with their texts."""
        if self.ticks:
            return self.ticks
        values = _decades(self.low, self.high) if self.log else _round(self.low, self.high)
        return tuple((value, number_text(value)) for value in values)


def _round(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    raw = (high - low) / ABOUT_TICKS
    power = 10.0 ** floor(log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if raw <= factor * power * 1.0001)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    found = [10.0**power for power in powers if low <= 10.0**power <= high]
    return found if len(found) > 1 else [low, high]


class Chart:
    """A chart under construction; `svg` is what has been drawn."""

    def __init__(self, title: str, x: Axis, y: Axis, *, height: float = 200.0) -> None:
        self._title = title
        self.x, self.y = x, y
        self._bottom = TOP + height
        self._height = self._bottom + BOTTOM + LEGEND_LINE
        self._below: list[Markup] = []
        self._parts: list[Markup] = []
        self._legend = LEFT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is in the picture."""
        return (
            LEFT + PLOT_WIDTH * self.x.place(x),
            self._bottom - (self._bottom - TOP) * self.y.place(y),
        )

    def line(self, points: Sequence[tuple[float, float]], series: int, *, step: bool = False,
             extra: str = "") -> None:  # fmt: skip
        """A line through points; with `step` each value holds until the next point."""
        path: list[str] = []
        for x, y in (self.at(*point) for point in points):
            if path and step:
                path.append(f"H{_value(x)}V{_value(y)}")
            else:
                path.append(f"{'L' if path else 'M'}{_value(x)} {_value(y)}")
        if path:
            kind = f"line {style_of(series)} {extra}".rstrip()
            self._parts.append(element("path", class_=kind, d="".join(path)))

    def marker(self, x: float, y: float, series: int, about: str = "") -> None:
        """A point, with words for who points at it."""
        px, py = self.at(x, y)
        kind = f"marker {colour_of(series)}"
        self._parts.append(
            element("path", _about(about), class_=kind, d=_marker_path(px, py, series % MARKERS))
        )

    def error_bar(self, x: float, low: float, high: float, series: int) -> None:
        """An interval around a point."""
        px, top = self.at(x, high)
        _, bottom = self.at(x, low)
        caps = f"M{_value(px - 4)} {_value(top)}h8M{_value(px - 4)} {_value(bottom)}h8"
        path = f"M{_value(px)} {_value(top)}V{_value(bottom)}{caps}"
        self._parts.append(element("path", class_=f"error {colour_of(series)}", d=path))

    def span(self, start: float, end: float, kind: str, about: str) -> None:
        """A time from top to bottom, below all else."""
        left, _ = self.at(start, self.y.low)
        right, _ = self.at(end, self.y.low)
        self._below.append(
            element("rect", _about(about), class_=f"span {kind}", x=left, y=TOP,
                    width=max(right - left, 1.5), height=self._bottom - TOP)
        )  # fmt: skip

    def tick(self, at: float, kind: str, about: str) -> None:
        """A short mark along the top edge."""
        px, _ = self.at(at, self.y.low)
        path = f"M{_value(px)} {_value(TOP)}v9"
        self._parts.append(element("path", _about(about), class_=f"mark {kind}", d=path))

    def bar(self, line: float, thickness: float, start: float, end: float, kind: str,
            about: str) -> None:  # fmt: skip
        """A bar of a chart whose lines are counted from the top, each of 1 on the y axis."""
        left, top = self.at(start, line)
        right, _ = self.at(end, line)
        self._parts.append(
            element("rect", _about(about), class_=kind, x=left, y=top,
                    width=max(right - left, 1.0), height=thickness)
        )  # fmt: skip

    def text(self, x: float, y: float, words: str, kind: str = "", *, down: float = 0.0) -> None:
        """Words in the picture, `down` below the point."""
        px, py = self.at(x, y)
        self._parts.append(
            element("text", words, class_=f"note {kind}".rstrip(), x=px + 3, y=py + down)
        )

    def legend(self, words: str, kind: str) -> None:
        """A key below the axes: a short line of that look, and its words."""
        width = 38 + LEGEND_LETTER * len(words)
        if self._legend > LEFT and self._legend + width > WIDTH:
            self._legend = LEFT
            self._height += LEGEND_LINE
        at, y = self._legend, self._height - LEGEND_LINE + 9
        self._parts.append(element("path", class_=kind, d=f"M{_value(at)} {_value(y)}h18"))
        self._parts.append(element("text", words, class_="note", x=at + 22, y=y + 4))
        self._legend += width

    def svg(self, *, time: bool = False) -> Markup:
        """The picture; with `time` the page's slider moves a line over it."""
        cursor = element(
            "path", class_="cursor", d=f"M0 {_value(TOP)}V{_value(self._bottom)}"
        ) if time else Markup()  # fmt: skip
        return element(
            "svg",
            joined((element("title", self._title), *self._below, *self._frame(), *self._parts,
                    cursor)),
            class_="chart time" if time else "chart",
            viewBox=f"0 0 {_value(WIDTH)} {_value(self._height)}",
            role="img",
            aria_label=self._title,
        )  # fmt: skip

    def _frame(self) -> Iterable[Markup]:
        right = WIDTH - RIGHT
        for value, words in self.y.marked():
            _, y = self.at(self.x.low, value)
            yield element("path", class_="grid", d=f"M{_value(LEFT)} {_value(y)}H{_value(right)}")
            yield element("text", words, class_="tick left", x=LEFT - 6, y=y + 4)
        for value, words in self.x.marked():
            x, _ = self.at(value, self.y.low)
            path = f"M{_value(x)} {_value(TOP)}V{_value(self._bottom)}"
            yield element("path", class_="grid", d=path)
            yield element("text", words, class_="tick", x=x, y=self._bottom + 15)
        yield element("rect", class_="frame", x=LEFT, y=TOP, width=PLOT_WIDTH,
                      height=self._bottom - TOP)  # fmt: skip
        middle = (TOP + self._bottom) / 2
        yield element("text", self.x.label, class_="axis", x=LEFT + PLOT_WIDTH / 2,
                      y=self._bottom + 33)  # fmt: skip
        yield element("text", self.y.label, class_="axis", x=0, y=0,
                      transform=f"translate(13 {_value(middle)}) rotate(-90)")  # fmt: skip


def colour_of(series: int) -> str:
    """The class of a series' colour."""
    return f"s{series % COLOURS}"


def style_of(series: int) -> str:
    """The classes of a series' colour and dash."""
    return f"{colour_of(series)} d{(series // COLOURS + series) % DASHES}"


def _about(words: str) -> Markup:
    return element("title", words) if words else Markup()


def _marker_path(x: float, y: float, kind: int) -> str:
    """Circle, square, triangle, diamond, triangle downward, cross."""
    at = f"{_value(x)} {_value(y)}"
    return (
        f"M{at}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
        f"M{at}m-3.5 -3.5h7v7h-7z",
        f"M{at}m0 -4.5l4.5 8h-9z",
        f"M{at}m0 -5l5 5l-5 5l-5 -5z",
        f"M{at}m0 4.5l4.5 -8h-9z",
        f"M{at}m-4 -4l8 8m-8 0l8 -8",
    )[kind]
