"""What a rekey did to the traffic across it: its silence, and what was lost that no link lost."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import inf

from ipseclab.lab.plan import Probe
from ipseclab.lab.trace import TraceRecord
from ipseclab.measure.metric import MetricValue
from ipseclab.measure.view import ProbeLog, RunView, number, text
from ipseclab.registry import IpProtocol

TRANSIT_LIMIT = 1.0
"""Seconds in which a probe reaches the link that drops it: longer than any one-way path but the
last link."""
IPV4_UDP_OCTETS = 28


def rekey_gap(view: RunView) -> MetricValue:
    """The worst over rekeys and probes; 0 when the probe never missed its period."""
    gaps: list[float] = []
    for probe in view.probes():
        period = probe.period
        for rekey in view.rekeys():
            if period is None or rekey.ended is None:
                continue
            silence = probe.longest_silence(rekey.started, rekey.ended + period)
            if silence is not None:
                gaps.append(max(0.0, silence - period))
    return max(gaps, default=None)


def rekey_lost(view: RunView) -> MetricValue:
    """The sum over rekeys: each probe that no link drop accounts for is counted once.

    The window reaches half the rekey's time (two one-way delays at least) before its start and past
    its end: what was under way then may have met a deleted SA.
    """
    windows = [
        (rekey.started - margin, rekey.ended + margin)
        for rekey in view.rekeys()
        if rekey.ended is not None
        and (margin := min(TRANSIT_LIMIT, (rekey.ended - rekey.started) / 2)) >= 0
    ]
    probes = view.probes()
    if not windows or not probes:
        return None
    lost = _unexplained(view, probes)
    return float(sum(any(start <= sent <= end for start, end in windows) for sent in lost))


def _unexplained(view: RunView, probes: Sequence[ProbeLog]) -> list[float]:
    """When those probes left that neither arrived, nor were dropped or damaged by a link, nor were
    still on their way when the run ended.

    Each drop accounts for one missing probe: of a flow that crosses the link in that direction,
    as long as its packets are there, the latest that had left.
    """
    flows = [_Missing(view, probe) for probe in probes]
    drops = sorted(view.events("link_dropped", "link_corrupted"), key=lambda record: record.t)
    for drop in drops:
        if text(drop, "reason") == "overrun":
            continue  # the relay could not cope: not what the link is set to lose
        fitting = [flow for flow in flows if flow.may_be(drop)]
        if fitting:
            max(fitting, key=lambda flow: flow.times.latest(drop.t)).times.take(drop.t)
    return [sent for flow in flows for sent in flow.times.left()]


class _Missing:
    """The probes of a flow that are missing, and which packets on which links may be its."""

    def __init__(self, view: RunView, probe: ProbeLog) -> None:
        self._fits = _sizes_on_links(view, probe)
        self._ways = view.ways.get(probe.flow, ())
        settled = _settled_until(probe, view.end())
        self.times = _LatestFree(
            [t for n, t in probe.sent.items() if n not in probe.received and t <= settled]
        )

    def may_be(self, drop: TraceRecord) -> bool:
        """True when the packet dropped may have been one of this flow's."""
        way = (drop.node, text(drop, "direction"))
        octets = number(drop, "octets")
        return (not self._ways or way in self._ways) and (octets is None or self._fits(int(octets)))


def _settled_until(probe: ProbeLog, end: float) -> float:
    """Until when a probe must have left that is missing for good, not on its way at the run's end:
    a later one has arrived, or it had longer than any of them took."""
    longest = probe.longest_transit
    arrived = [probe.sent[number] for number in probe.received if number in probe.sent]
    return max(
        end - (TRANSIT_LIMIT if longest is None else min(TRANSIT_LIMIT, longest)), *arrived, 0.0
    )


class _LatestFree:
    """Times in order, of which the latest before a moment is taken: long runs lose thousands."""

    def __init__(self, times: list[float]) -> None:
        self._times = sorted(times)
        # The nearest free place at or before each place (shifted by one: 0 is none).
        self._free = list(range(len(times) + 1))

    def latest(self, moment: float) -> float:
        """The latest free time up to `moment`; minus infinity when there is none."""
        place = self._find(bisect_right(self._times, moment))
        return self._times[place - 1] if place else -inf

    def take(self, moment: float) -> None:
        """Take the latest free time up to `moment` that is no further back than a transit."""
        if self.latest(moment) >= moment - TRANSIT_LIMIT:
            place = self._find(bisect_right(self._times, moment))
            self._free[place] = place - 1

    def _find(self, place: int) -> int:
        while self._free[place] != place:
            self._free[place] = place = self._free[self._free[place]]
        return place

    def left(self) -> list[float]:
        """The times that nothing took."""
        return [t for place, t in enumerate(self._times, 1) if self._free[place] == place]


def _sizes_on_links(view: RunView, probe: ProbeLog) -> Callable[[int], bool]:
    """Whether an IPv4 packet of so many octets may be one of the probe's: exactly, where the
    capture tells what was added to it; else whatever is long enough."""
    payload = _payload_size(view, probe)
    clear = payload + IPV4_UDP_OCTETS
    groups = view.load.groups if view.load is not None else {}
    found = groups.get((IpProtocol.UDP, payload), {})
    if not found:
        return lambda octets: octets >= clear
    exact = {clear, *(payload + overhead.total for overhead in found)}
    return exact.__contains__


def _payload_size(view: RunView, probe: ProbeLog) -> int:
    sizes = [
        flow.size for flow in view.flows if isinstance(flow, Probe) and flow.name == probe.flow
    ]
    return sizes[0] if sizes else 0
