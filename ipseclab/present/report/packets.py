"""The report's packet layouts: what stands around a payload, part by part, to scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from markupsafe import Markup

from ipseclab.ike.config import Mode
from ipseclab.ike.proposals import child_suite_of
from ipseclab.lab.plan import Ping, Probe, RunPlan
from ipseclab.lab.topology import Topology
from ipseclab.measure.overhead import OVERHEAD_PARTS, ah_overhead, overhead, plain_overhead
from ipseclab.measure.results import Row
from ipseclab.measure.series import PART_NAMES
from ipseclab.present.report.svg import element, joined
from ipseclab.registry import ProtocolId

USUAL_PAYLOAD = 64
TRANSPORT_HEADER = 8
WIDTH, LABEL, BAR, GAP = 860.0, 190.0, 26.0, 14.0
LETTER = 7.0
ESP_ORDER = (
    "outer_ip", "udp", "spi", "sequence", "iv", "inner_ip", "transport", "payload",
    "padding", "pad_length", "next_header", "icv",
)  # fmt: skip
AH_ORDER = (
    "outer_ip", "udp", "next_header", "ah_length", "spi", "sequence", "icv", "inner_ip",
    "transport", "payload",
)  # fmt: skip
"""On the wire; ESP inside AH is drawn as AH."""
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
    """Every mode of the protocol that the lab's first connection has; empty without IPsec."""
    connection = next((c for c in topology.connections if c.mode is not None), None)
    if connection is None:
        return {}
    suite = child_suite_of(connection.child_proposals[0])
    found = {"no IPsec": asdict(plain_overhead(transport=TRANSPORT_HEADER))}
    for mode in Mode:
        tunnel = mode is Mode.TUNNEL
        if connection.protocol is ProtocolId.AH:
            parts = ah_overhead(suite, tunnel=tunnel, transport=TRANSPORT_HEADER)
            found[f"AH, {mode.value}"] = asdict(parts)
            continue
        for encapsulated in (False, True):
            parts = overhead(
                suite,
                tunnel=tunnel,
                encapsulated=encapsulated,
                payload_octets=payload,
                transport=TRANSPORT_HEADER,
            )
            found[f"ESP, {mode.value}{', in UDP' * encapsulated}"] = asdict(parts)
    return found


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
    has_ah, has_esp = item.parts.get("ah_length", 0.0) > 0, item.parts.get("pad_length", 0.0) > 0
    order = AH_ORDER if has_ah else ESP_ORDER
    encrypted = has_esp and not has_ah
    for part in (*order, *(part for part in ESP_ORDER if part not in order)):
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
