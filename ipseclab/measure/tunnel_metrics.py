"""Metrics of many tunnels at once: how many came about, and how long it took until all were there;
and how long traffic stood still when one was lost."""

from __future__ import annotations

from ipseclab.measure.metric import Better, Metric, MetricValue
from ipseclab.measure.view import PairKey, RunView, pair_key, text


def tunnels(view: RunView) -> MetricValue:
    """Nothing is said of a run in which nobody began."""
    return float(len(_usable(view))) if _began(view) is not None else None


def setup_time(view: RunView) -> MetricValue:
    """Of those that came about: `tunnels` says how many."""
    began, usable = _began(view), _usable(view)
    return max(usable.values()) - began if began is not None and usable else None


def outage(view: RunView) -> MetricValue:
    """The worst of the probes; 0 when none missed its period. Before its first delivery a probe is
    not interrupted, and behind its last one it would be lost for good: `probe_lost` counts that."""
    found: list[float] = []
    for probe in view.probes():
        if probe.period is None:
            continue
        silence = probe.longest_silence(min(probe.sent.values()), max(probe.sent.values()))
        if silence is not None:
            found.append(round(max(0.0, silence - probe.period), 9))
    return max(found, default=None)


def _began(view: RunView) -> float | None:
    """When the first IKE_SA_INIT was sent."""
    own = (r for r in view.events("ike_sent") if text(r, "exchange") == "IKE_SA_INIT")
    return min((r.t for r in (*own, *view.events("ike_started"))), default=None)


def _usable(view: RunView) -> dict[str, float]:
    """By connection, when its first CHILD_SA stood at both ends (at ours, where the peer writes no
    trace)."""
    pairs: dict[PairKey, tuple[str, float]] = {}
    for record in view.events("child_ready"):
        pairs[pair_key(record)] = text(record, "connection"), record.t
    first: dict[str, float] = {}
    for connection, ready in pairs.values():
        first[connection] = min(first.get(connection, ready), ready)
    return first


TUNNEL_METRICS = (
    Metric(
        "tunnels",
        "1",
        "connections that had a CHILD_SA usable in both directions",
        tunnels,
        Better.HIGHER,
    ),
    Metric(
        "setup_time",
        "s",
        "first IKE_SA_INIT of all sent -> a CHILD_SA of every such connection usable",
        setup_time,
        Better.LOWER,
    ),
    Metric(
        "outage",
        "s",
        "longest silence of a constant-rate probe, less the probe's period",
        outage,
        Better.LOWER,
    ),
)
