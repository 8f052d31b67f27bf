"""The report's packet layouts: what stands around a payload, part by part, to scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from ipseclab.errors import ConfigError
from ipseclab.ike.proposals import child_suite_of, parse_esp_proposal
from ipseclab.lab.plan import Ping, Probe, RunPlan
from ipseclab.lab.topology import Topology
from ipseclab.measure.overhead import OVERHEAD_PARTS, overhead, plain_overhead
from ipseclab.measure.results import Row
from ipseclab.measure.series import PART_NAMES
from ipseclab.present.report.svg import element, joined

USUAL_PAYLOAD = 64
TRANSPORT_HEADER = 8
WIDTH, LABEL, BAR, GAP = 860.0, 190.0, 26.0, 14.0
LETTER = 7.0
BEFORE_PAYLOAD = ("outer_ip", "udp", "spi", "sequence", "iv", "inner_ip", "transport")
SEALED = ("inner_ip", "transport", "payload", "padding", "pad_length", "next_header")
"""What encryption covers, where there is any."""
SHORT: Mapping[str, str] = {
    "outer_ip": "IP", "udp": "UDP", "spi": "SPI", "sequence": "seq", "iv": "IV",
    "inner_ip": "inner IP", "transport": "hdr", "padding": "pad", "icv": "ICV",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """A packet's parts in octets, and the payload between them (None: not known)."""

    name: str
    parts: Mapping[str, float]
    payload: int | None

    @property
    def around(self) -> float:
        """Octets beside the payload."""
        return sum(self.parts.values())


def run_layouts(row: Row, topology: Topology, plan: RunPlan) -> tuple[Layout, ...]:
    """What was measured in a run, and the same payload in every mode by the formats alone, with
    the suite of the lab's first connection."""
    payload = _payload(plan)
    found = [
        Layout(f"{name}: by the format", parts, payload)
        for name, parts in _by_mode(topology, payload).items()
    ]
    measured = {part: row.metrics.get(f"overhead.{part}") for part in OVERHEAD_PARTS}
    known = {part: value for part, value in measured.items() if value is not None}
    if known:
        found.insert(0, Layout("measured in this run", known, payload))
    return tuple(found)


def _payload(plan: RunPlan) -> int:
    probes = [flow.size for flow in plan.flows if isinstance(flow, Probe)]
    pings = [flow.size for flow in plan.flows if isinstance(flow, Ping)]
    return next(iter([*probes, *pings]), USUAL_PAYLOAD)


def _by_mode(topology: Topology, payload: int) -> dict[str, dict[str, float]]:
    """Empty for a lab without ESP."""
    for connection in topology.connections:
        if connection.mode is None or not connection.esp:
            continue
        try:
            suite = child_suite_of(parse_esp_proposal(connection.esp[0]))
        except ConfigError:
            continue  # AH
        found = {"no IPsec": asdict(plain_overhead(transport=TRANSPORT_HEADER))}
        for tunnel in (False, True):
            for encapsulated in (False, True):
                mode = "tunnel" if tunnel else "transport"
                name = f"{mode}, in UDP" if encapsulated else mode
                found[name] = asdict(
                    overhead(
                        suite,
                        tunnel=tunnel,
                        encapsulated=encapsulated,
                        payload_octets=payload,
                        transport=TRANSPORT_HEADER,
                    )
                )
        return found
    return {}


def layout_svg(layouts: Sequence[Layout]) -> Markup:
    """A bar for each packet, in the order on the wire; hatched: what is encrypted."""
    longest = max((item.around + (item.payload or 0) for item in layouts), default=0.0)
    if not longest:
        return Markup()
    scale = (WIDTH - LABEL - 70.0) / longest
    parts: list[Markup] = []
    for line, item in enumerate(layouts):
        top = line * (BAR + GAP) + 4.0
        parts.append(_text(item.name, LABEL - 8, top + 17, "tick left"))
        parts.extend(_bar(item, top, scale))
    height = len(layouts) * (BAR + GAP) + 6.0
    title = "Octets of a packet, part by part"
    return element(
        "svg",
        joined((element("title", title), *parts)),
        class_="chart layout",
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        aria_label=title,
    )


def _bar(item: Layout, top: float, scale: float) -> list[Markup]:
    drawn: list[Markup] = []
    at = LABEL
    after = tuple(part for part in OVERHEAD_PARTS if part not in BEFORE_PAYLOAD)
    encrypted = item.parts.get("spi", 0.0) > 0
    for part in (*BEFORE_PAYLOAD, "payload", *after):
        octets = float(item.payload or 0) if part == "payload" else item.parts.get(part, 0.0)
        if not octets:
            continue
        name = PART_NAMES.get(part, part.replace("_", " "))
        about = f"{name}: {octets:g} octets"
        kind = f"part {part.replace('_', '-')}"
        width = octets * scale
        box = {"x": at, "y": top, "width": width, "height": BAR}
        drawn.append(element("rect", element("title", about), class_=kind, **box))
        if encrypted and part in SEALED:
            drawn.append(element("rect", class_="sealed", **{**box, "y": top + BAR, "height": 4.0}))
        words = f"{SHORT.get(part, part)} {octets:g}" if part in SHORT else f"{name} {octets:g}"
        if width > LETTER * len(words):
            drawn.append(_text(words, at + width / 2, top + 17, f"inside {part}"))
        at += width
    drawn.append(_text(f"+{item.around:g}", at + 6, top + 17, "tick right"))
    return drawn


def _text(words: str, x: float, y: float, kind: str) -> Markup:
    return element("text", words, class_=kind, x=x, y=y)
