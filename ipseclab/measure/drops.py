"""Packets dropped, by reason: the metrics `drops.<reason>`."""

from __future__ import annotations

from ipseclab.ipsec.counters import DropReason
from ipseclab.lab.attacks import AttackerDrop
from ipseclab.lab.impairment import LinkDrop
from ipseclab.lab.nat import NatDrop
from ipseclab.measure.metric import MetricValue
from ipseclab.measure.view import RunView, text

DROPS = (
    *(reason.value for reason in DropReason),
    *("no_address", "no_route", "not_delivered"),
    *(f"link_{reason.value}" for reason in LinkDrop),
    "link_overrun",
    *(f"nat_{reason.value}" for reason in NatDrop),
    *("nat_no_route", "nat_not_sent", "nat_own_address"),
    *(f"attacker_{reason.value}" for reason in AttackerDrop),
)
"""What `drops.<reason>` can be: reasons of gateways and hosts, of links, of NATs, of attackers."""
_EVENTS = (
    ("packet_dropped", ""),
    ("link_dropped", "link_"),
    ("nat_dropped", "nat_"),
    ("attacker_dropped", "attacker_"),
)


def drops(view: RunView) -> dict[str, MetricValue]:
    """Packets dropped, by reason: a gateway's by its DropReason, `link_`, `nat_` and `attacker_`
    before others'. What an attack drops is no such drop."""
    counts: dict[str, int] = {}
    for event, prefix in _EVENTS:
        for record in view.events(event):
            name = f"drops.{prefix}{text(record, 'reason')}"
            counts[name] = counts.get(name, 0) + 1
    return {name: float(counts[name]) for name in sorted(counts)}
