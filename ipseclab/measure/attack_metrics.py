"""What attackers did and what came of it: read, and taken for good by hosts.

Only of runs in which an attack of that kind befell something; of others these have no value. What a
receiver's IPsec refused is among its drops.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipseclab.lab.trace import TraceRecord
from ipseclab.measure.metric import Better, Metric, MetricValue
from ipseclab.measure.view import RunView, number, text

SENT = ("alter", "replay", "spoof", "forge", "insert")
"""Attacks that send what nobody else did, for a host to take or not."""


def attacks(view: RunView) -> MetricValue:
    """Reading is no such thing: it changes nothing."""
    done = view.events("attack")
    return float(sum(text(record, "do") != "read" for record in done)) if done else None


def clear_octets(view: RunView) -> MetricValue:
    """Where nobody read, nobody knows: no value."""
    found = [number(r, "clear") for r in view.events("attack") if text(r, "do") == "read"]
    return sum(octets for octets in found if octets is not None) if found else None


def accepted(view: RunView) -> MetricValue:
    """All four kinds together."""
    kinds = (accepted_altered, accepted_replayed, accepted_forged, accepted_spoofed)
    counts = [count for kind in kinds if (count := kind(view)) is not None]
    return sum(counts) if counts else None


def accepted_altered(view: RunView) -> MetricValue:
    """They passed every check below the application."""
    return _where_attacked(view, len(view.events("probe_damaged")))


def accepted_forged(view: RunView) -> MetricValue:
    """As `forge` and `insert` make them."""
    return _where_attacked(view, len(view.events("probe_forged")))


def accepted_spoofed(view: RunView) -> MetricValue:
    """By the address that the host's own network layer names."""
    count = sum("source" in record.fields for record in view.events("probe_received"))
    return _where_attacked(view, count)


def accepted_replayed(view: RunView) -> MetricValue:
    """Each delivery beyond a probe's first; from another source it counts as spoofed."""
    deliveries = list(_from_their_source(view))
    once = {(text(r, "flow"), number(r, "sequence")) for r in deliveries}
    return _where_attacked(view, len(deliveries) - len(once))


def _from_their_source(view: RunView) -> Iterator[TraceRecord]:
    return (r for r in view.events("probe_received") if "source" not in r.fields)


def _where_attacked(view: RunView, count: int) -> MetricValue:
    done = any(text(record, "do") in SENT for record in view.events("attack"))
    return float(count) if done else None


ATTACK_METRICS = (
    Metric(
        "attacks",
        "packets",
        "packets that attackers altered, held up, dropped or sent",
        attacks,
        Better.NEITHER,
    ),
    Metric(
        "clear_octets",
        "octets",
        "payload of probes that attackers read in clear",
        clear_octets,
        Better.LOWER,
    ),
    Metric(
        "accepted",
        "packets",
        "datagrams altered, replayed, forged or spoofed that a host was given for good",
        accepted,
        Better.LOWER,
    ),
    Metric(
        "accepted_altered",
        "packets",
        "of them those whose payload is not what was sent",
        accepted_altered,
        Better.LOWER,
    ),
    Metric(
        "accepted_replayed",
        "packets",
        "of them probes delivered once more",
        accepted_replayed,
        Better.LOWER,
    ),
    Metric(
        "accepted_forged",
        "packets",
        "of them those that no flow sent",
        accepted_forged,
        Better.LOWER,
    ),
    Metric(
        "accepted_spoofed",
        "packets",
        "of them probes from another source than their flow's first",
        accepted_spoofed,
        Better.LOWER,
    ),
)
