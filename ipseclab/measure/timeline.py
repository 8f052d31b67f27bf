"""What went through against time, and how long each SA stood: what the figures and reports draw.

Numbers alone, in plain lists of times and values; whoever draws them chooses units and colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ipseclab.measure.view import RunView, number, pair_key, text

BINS = 120
"""Bins of a time line at most: about one for each six pixels of its width."""
SHORTEST_BIN = 0.05


@dataclass(frozen=True, slots=True)
class Steps:
    """A value that holds from each time (s) to the next."""

    times: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ProbeRate:
    """A probe flow in packets a second, by the time of sending: all of them, and those that
    arrived."""

    flow: str
    sent: Steps
    delivered: Steps
    packets: int
    arrived: int


@dataclass(frozen=True, slots=True)
class SaEnd:
    """An SA at one of its ends: when it stood, when it first carried outbound traffic (None: not
    seen to, or an IKE_SA), when it went (None: not yet) and why."""

    node: str
    ready: float
    active: float | None
    gone: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SaLife:
    """An SA (of CHILD_SAs the pair) as its ends saw it."""

    kind: str
    name: str
    ends: tuple[SaEnd, ...]

    @property
    def start(self) -> float:
        """When it first stood at an end."""
        return min(end.ready for end in self.ends)

    def gone(self, otherwise: float) -> float:
        """When the last end deleted it; `otherwise` for an end that did not."""
        return max(end.gone if end.gone is not None else otherwise for end in self.ends)


def bin_width(view: RunView) -> float:
    """Seconds of one bin of the run's time line."""
    return max(SHORTEST_BIN, view.end() / BINS)


def transfer_rates(view: RunView) -> dict[str, Steps]:
    """Each transfer's goodput (bit/s) by name of its flow."""
    width = bin_width(view)
    edges = np.arange(0.0, view.end() + width, width)
    started = {text(record, "flow"): record.t for record in view.events("transfer_started")}
    flows: dict[str, list[tuple[float, float]]] = {}
    for record in view.events("transfer_octets"):
        octets, flow = number(record, "octets"), text(record, "flow")
        if octets is not None:
            flows.setdefault(flow, [(started.get(flow, 0.0), 0.0)]).append((record.t, octets))
    rates = {}
    for flow, points in sorted(flows.items()):
        times, totals = np.array(sorted(points)).T
        rate = np.diff(np.interp(edges, times, totals)) * 8 / width
        rates[flow] = Steps(tuple(edges[:-1].tolist()), tuple(rate.tolist()))
    return rates


def probe_rates(view: RunView) -> tuple[ProbeRate, ...]:
    """Each probe flow of two packets or more, by name."""
    found = []
    for probe in view.probes():
        period = probe.period
        if period is None:
            continue
        # Whole periods in a bin: a constant rate is to look constant.
        width = period * max(1, round(bin_width(view) / period))
        first, last = min(probe.sent.values()), max(probe.sent.values())
        edges = np.arange(first - period / 2, last + width, width)
        sent, _ = np.histogram(list(probe.sent.values()), edges)
        got = [t for sequence, t in probe.sent.items() if sequence in probe.received]
        delivered, _ = np.histogram(got, edges)
        # The last bin is seldom full.
        whole = slice(None, -1) if len(sent) > 1 else slice(None)
        times = tuple(edges[:-1][whole].tolist())
        found.append(
            ProbeRate(
                probe.flow,
                Steps(times, tuple((sent[whole] / width).tolist())),
                Steps(times, tuple((delivered[whole] / width).tolist())),
                len(probe.sent),
                len(got),
            )
        )
    return tuple(found)


def sa_lives(view: RunView) -> tuple[SaLife, ...]:
    """Every IKE_SA and CHILD_SA, by the time of its start."""
    names: dict[tuple[str, ...], str] = {}
    ends: dict[tuple[str, ...], dict[str, float]] = {}
    for record in view.events("ike_established", "ike_rekeyed"):
        spi = text(record, "spi_i")
        names.setdefault(("ike", spi), f"IKE_SA {spi[:8]}")
        ends.setdefault(("ike", spi), {}).setdefault(record.node, record.t)
    for record in view.events("child_ready"):
        key = ("child", *pair_key(record))
        names.setdefault(key, f"CHILD_SA {text(record, 'spi_in')[:8]}")
        ends.setdefault(key, {}).setdefault(record.node, record.t)
    active: dict[tuple[str, ...], dict[str, float]] = {}
    for record in view.events("child_active"):
        active.setdefault(("child", *pair_key(record)), {}).setdefault(record.node, record.t)
    gone: dict[tuple[str, ...], dict[str, tuple[float, str]]] = {}
    for record in view.events("ike_gone"):
        key = ("ike", text(record, "spi_i"))
        gone.setdefault(key, {})[record.node] = (record.t, text(record, "reason"))
    for record in view.events("child_gone"):
        key = ("child", *pair_key(record))
        gone.setdefault(key, {})[record.node] = (record.t, text(record, "reason"))
    lives = [
        SaLife(key[0], name, _ends(ends[key], active.get(key, {}), gone.get(key, {})))
        for key, name in names.items()
    ]
    return tuple(sorted(lives, key=lambda life: life.start))


def _ends(
    ready: Mapping[str, float],
    active: Mapping[str, float],
    gone: Mapping[str, tuple[float, str]],
) -> tuple[SaEnd, ...]:
    never = None, ""
    return tuple(
        SaEnd(node, at, active.get(node), *gone.get(node, never)) for node, at in ready.items()
    )
