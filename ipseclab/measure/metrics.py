"""Every metric of a run as a row of a table: name, unit, definition, function.

A metric is computed from the trace (and, for octets by part, the capture) alone, so that both
worlds are measured by the same code. What a run did not do (no rekey, no transfer) has no value:
None, which becomes an empty cell, never a zero.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np

from ipseclab.lab.trace import TraceRecord
from ipseclab.measure.attack_metrics import ATTACK_METRICS
from ipseclab.measure.drops import drops
from ipseclab.measure.metric import Better, Metric, MetricValue
from ipseclab.measure.overhead import OVERHEAD_PARTS
from ipseclab.measure.rekey_metrics import rekey_gap, rekey_lost
from ipseclab.measure.tunnel_metrics import TUNNEL_METRICS
from ipseclab.measure.view import RunView, number, pair_key, text

NAT_CHANGES = ("nat_rebound", "nat_expired")
DELIVERED = "delivered."
IKE_PORT, NAT_T_PORT = ":500", ":4500"


def measure(view: RunView) -> dict[str, MetricValue]:
    """Every metric of the run, in the table's order, then those with a name behind a dot."""
    values = {metric.name: metric.compute(view) for metric in METRICS.values()}
    parts = view.load.parts() if view.load is not None else {}
    return {
        **values,
        **{f"overhead.{part}": parts[part] for part in parts},
        **_of_flows(view),
        **drops(view),
    }


def unit_of(name: str) -> str:
    """The unit of a results column; empty for one that is no metric."""
    if name.startswith(("drops.", DELIVERED)):
        return "packets"
    if name.startswith("overhead."):
        return "octets"
    metric = METRICS.get(name)
    return metric.unit if metric is not None else ""


def definition_of(name: str) -> str:
    """What a metric means; empty for a results column that is none."""
    if name.startswith("drops."):
        return "packets dropped for this reason"
    if name.startswith(DELIVERED):
        return "of this flow's probes those delivered"
    if name.startswith("overhead."):
        return "octets of this part, a packet"
    metric = METRICS.get(name)
    return metric.definition if metric is not None else ""


def better(name: str) -> Better:
    """Which way a results column is better: an `overhead.<part>` as the whole. Drops say what
    happened: a link or an attack is there to make them."""
    metric = METRICS.get("overhead" if name.startswith("overhead.") else name)
    return metric.better if metric is not None else Better.NEITHER


def known(name: str) -> bool:
    """True when results can have a metric of that name."""
    part = name.removeprefix("overhead.")
    dotted = name.startswith(("drops.", DELIVERED))
    return name in METRICS or dotted or (part != name and part in OVERHEAD_PARTS)


# --- IKE -----------------------------------------------------------------------------------------


def handshake_time(view: RunView) -> MetricValue:
    """The mean over the initiators that got as far; a gateway's first handshake counts."""
    times = [
        usable - sent.t
        for sent in _first_requests(view)
        if (usable := _first_usable(view, sent)) is not None
    ]
    return fmean(times) if times else None


def resume_time(view: RunView) -> MetricValue:
    """As `handshake_time`, of those that came back with a ticket: each gateway's first time."""
    times = [
        usable - sent.t
        for sent in _first_requests(view, "IKE_SESSION_RESUME")
        if (usable := _first_usable(view, sent)) is not None
    ]
    return fmean(times) if times else None


def _first_requests(view: RunView, exchange: str = "IKE_SA_INIT") -> list[TraceRecord]:
    """Each gateway's first request of that exchange; strongSwan says `ike_started` of it."""
    first: dict[str, TraceRecord] = {}
    for record in view.events("ike_sent", "ike_started"):
        if record.event == "ike_started":
            asked = exchange == "IKE_SA_INIT"
        else:
            asked = text(record, "exchange") == exchange and record.fields.get("request") is True
        if asked:
            first.setdefault(record.node, record)
    return list(first.values())


def _first_usable(view: RunView, sent: TraceRecord) -> float | None:
    """When the sender's first CHILD_SA stands at both ends.

    The initiator is ready last, when the IKE_AUTH response is in; a peer that writes no trace
    (strongSwan) is therefore ready when our initiator is.
    """
    own = next(
        (r for r in view.events("child_ready") if r.node == sent.node and r.t >= sent.t), None
    )
    if own is None:
        return None
    others = [
        r.t
        for r in view.events("child_ready")
        if r.node != sent.node and pair_key(r) == pair_key(own)
    ]
    return max(own.t, *others) if others else own.t


def rekey_time(view: RunView) -> MetricValue:
    """The mean over the rekeys that ended."""
    times = [rekey.ended - rekey.started for rekey in view.rekeys() if rekey.ended is not None]
    return fmean(times) if times else None


def rekeys(view: RunView) -> MetricValue:
    """Rekeys seen to end."""
    return float(sum(rekey.ended is not None for rekey in view.rekeys()))


def retransmissions(view: RunView) -> MetricValue:
    """A response sent again from the cache is no retransmission (RFC 7296 section 2.1)."""
    return float(
        sum(
            record.fields.get("request") is True
            and bool(number(record, "retransmission"))
            and record.fields.get("fragment", 1) == 1
            for record in view.events("ike_sent")
        )
    )


def ike_octets(view: RunView) -> MetricValue:
    """UDP payload octets of IKE messages, the non-ESP marker not counted."""
    sizes = [number(record, "octets") for record in _on_wire(view)]
    return sum(size for size in sizes if size is not None)


def ike_messages(view: RunView) -> MetricValue:
    """IKE messages sent, those of a peer without a trace as received."""
    return float(len(_on_wire(view)))


def ike_fragments(view: RunView) -> MetricValue:
    """IKE messages that carry a fragment of a message (RFC 7383)."""
    return float(sum("fragment" in record.fields for record in _on_wire(view)))


def _on_wire(view: RunView) -> list[TraceRecord]:
    """Each IKE message once: as sent, or as received where no gateway of the trace sent it.

    A sender is known by its SPIs: a message whose (SPIs, message ID, exchange, request) nobody sent
    is a foreign peer's.
    """
    sent = view.events("ike_sent")
    ours = {_identity(record) for record in sent}
    foreign = (r for r in view.events("ike_received") if _identity(r) not in ours)
    return [*sent, *foreign]


def _identity(record: TraceRecord) -> tuple[str, ...]:
    keys = ("spi_i", "exchange", "message_id", "request")
    return tuple(text(record, key) for key in keys)


# --- probes ---------------------------------------------------------------------------------------


def probe_lost(view: RunView) -> MetricValue:
    """Probes sent and never delivered, for whatever reason."""
    probes = view.probes()
    if not probes:
        return None
    return float(sum(len(probe.sent.keys() - probe.received.keys()) for probe in probes))


def probe_delivered(view: RunView) -> MetricValue:
    """A second copy counts no more."""
    probes = view.probes()
    if not probes:
        return None
    return float(sum(len(probe.sent.keys() & probe.received.keys()) for probe in probes))


def _of_flows(view: RunView) -> dict[str, MetricValue]:
    """`probe_delivered` of each flow by itself."""
    return {
        f"{DELIVERED}{probe.flow}": float(len(probe.sent.keys() & probe.received.keys()))
        for probe in view.probes()
    }


# --- TCP and ping --------------------------------------------------------------------------------


def goodput(view: RunView) -> MetricValue:
    """Of the TCP transfers together, from the first one's start to the last delivery."""
    started = {text(r, "flow"): r.t for r in view.events("transfer_started")}
    last: dict[str, TraceRecord] = {}
    for record in sorted(view.events("transfer_octets", "transfer_done"), key=lambda r: r.t):
        if number(record, "octets") is not None:
            last[text(record, "flow")] = record
    delivered = [(number(record, "octets") or 0.0, record.t) for record in last.values()]
    if not started or not delivered:
        return None
    seconds = max(t for _, t in delivered) - min(started.values())
    return sum(octets for octets, _ in delivered) * 8 / seconds if seconds > 0 else None


def _rtts(view: RunView) -> list[float]:
    found = (number(record, "rtt") for record in view.events("ping_received"))
    return [rtt for rtt in found if rtt is not None]


def rtt_min(view: RunView) -> MetricValue:
    """The shortest echo."""
    return min(_rtts(view), default=None)


def rtt_median(view: RunView) -> MetricValue:
    """The middle echo: the first one may have waited for its SA."""
    rtts = _rtts(view)
    return float(np.median(rtts)) if rtts else None


def rtt_p95(view: RunView) -> MetricValue:
    """95 of 100 echoes are at most this (linear interpolation)."""
    rtts = _rtts(view)
    return float(np.percentile(rtts, 95)) if rtts else None


def rtt_max(view: RunView) -> MetricValue:
    """The longest echo."""
    return max(_rtts(view), default=None)


def ping_lost(view: RunView) -> MetricValue:
    """Echo requests without an answer."""
    sent = len(view.events("ping_sent"))
    return float(sent - len(view.events("ping_received"))) if sent else None


# --- NAT ---------------------------------------------------------------------------------------


def nat_recovery(view: RunView) -> MetricValue:
    """The mean over changes; of one that came before anything went through there is no recovery.

    Only what was sent after the change counts: what had passed the NAT before it arrives anyway.
    """
    inward = sorted(_inward(view), key=lambda packet: packet[1])
    times = []
    for change in mappings_lost(view):
        after = next((t for sent, t in inward if sent >= change.t), None)
        if after is not None and inward[0][1] < change.t:
            times.append(after - change.t)
    return fmean(times) if times else None


def _inward(view: RunView) -> list[tuple[float, float]]:
    """When probes and echoes that came in from outside were sent, and delivered to the inside."""
    found: list[tuple[float, float]] = []
    for kind in ("probe", "ping"):
        sent = {(text(r, "flow"), number(r, "sequence")): r.t for r in view.events(f"{kind}_sent")}
        for record in view.events(f"{kind}_received"):
            key = (text(record, "flow"), number(record, "sequence"))
            if record.node in view.inside and key in sent:
                found.append((sent[key], record.t))
    return found


def move_time(view: RunView) -> MetricValue:
    """The mean over changes of address and over the flows that went on afterwards."""
    delivered: dict[str, list[tuple[float, float]]] = {}
    for kind in ("probe", "ping"):
        sent = {(text(r, "flow"), number(r, "sequence")): r.t for r in view.events(f"{kind}_sent")}
        for record in view.events(f"{kind}_received"):
            key = (text(record, "flow"), number(record, "sequence"))
            if key in sent:
                delivered.setdefault(key[0], []).append((sent[key], record.t))
    times = []
    for change in view.events("address_changed"):
        for flow in delivered.values():
            after = min((got for at, got in flow if at >= change.t), default=None)
            if after is not None:
                times.append(after - change.t)
    return fmean(times) if times else None


def mappings_lost(view: RunView) -> list[TraceRecord]:
    """Mappings rebound or expired, but not port 500's of a node that has moved to port 4500: nobody
    misses it (RFC 7296 section 2.23)."""
    moved = {
        text(record, "inside").rpartition(":")[0]
        for record in view.events("nat_mapped")
        if text(record, "inside").endswith(NAT_T_PORT)
    }
    return [
        record
        for record in view.events(*NAT_CHANGES)
        if not text(record, "inside").endswith(IKE_PORT)
        or text(record, "inside").rpartition(":")[0] not in moved
    ]


# --- octets --------------------------------------------------------------------------------------


def overhead(view: RunView) -> MetricValue:
    """The mean over the sizes of probes (or pings) that the capture holds."""
    parts = view.load.parts() if view.load is not None else {}
    return sum(parts.values()) if parts else None


def efficiency(view: RunView) -> MetricValue:
    """At the gateways' outer interfaces, of all packets that the capture holds there."""
    return view.load.efficiency if view.load is not None else None


def path_mtu(view: RunView) -> MetricValue:
    """The least that any of them learnt; its own links' are no news to a node."""
    return _least(view, "octets")


def inner_path_mtu(view: RunView) -> MetricValue:
    """Without all that protection adds, as the inner sender is told (RFC 4301 section 8.2)."""
    return _least(view, "inner")


def _least(view: RunView, what: str) -> MetricValue:
    found = (number(record, what) for record in view.events("path_mtu"))
    return min((octets for octets in found if octets is not None), default=None)


def largest_whole(view: RunView) -> MetricValue:
    """As its source's IP had it, its header included, and without what protection added."""
    return _crossed(view.load.crossings.largest_whole if view.load is not None else 0)


def largest_in_fragments(view: RunView) -> MetricValue:
    """Cut up before protection or after it, at the source or on the way."""
    return _crossed(view.load.crossings.largest_in_fragments if view.load is not None else 0)


def _crossed(octets: int) -> MetricValue:
    return float(octets) if octets else None


def seen_sizes(view: RunView) -> MetricValue:
    """Without any key, at the first gateway's outer link."""
    found = view.load.sightings.sizes if view.load is not None else None
    return float(found) if found is not None else None


def seen_variation(view: RunView) -> MetricValue:
    """0 where traffic and silence look alike."""
    return view.load.sightings.variation if view.load is not None else None


def cpu_per_packet(view: RunView) -> MetricValue:
    """Of the gateways' processes together; simulated time says nothing about it."""
    return view.cpu_per_packet


def overruns(view: RunView) -> MetricValue:
    """Where it is not 0, what the other metrics say is partly the machine's doing."""
    return view.overruns


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "handshake_time",
            "s",
            "first octet of IKE_SA_INIT sent -> first CHILD_SA usable in both directions",
            handshake_time,
            Better.LOWER,
        ),
        Metric(
            "resume_time",
            "s",
            "first octet of IKE_SESSION_RESUME sent -> first CHILD_SA usable in both directions",
            resume_time,
            Better.LOWER,
        ),
        Metric(
            "rekey_time",
            "s",
            "CREATE_CHILD_SA request first sent -> old SA deleted on both ends",
            rekey_time,
            Better.LOWER,
        ),
        Metric("rekeys", "1", "CHILD_SA and IKE_SA rekeys that ended", rekeys, Better.NEITHER),
        Metric(
            "rekey_gap",
            "s",
            "longest silence of a constant-rate probe across the rekey, less the probe's period",
            rekey_gap,
            Better.LOWER,
        ),
        Metric(
            "rekey_lost",
            "packets",
            "probes sent and never delivered in the window around the rekey, less those that a "
            "link on their way dropped and those under way at the run's end",
            rekey_lost,
            Better.LOWER,
        ),
        Metric(
            "overhead",
            "octets",
            "outer packet less inner payload, a packet; overhead.<part> are its parts",
            overhead,
            Better.LOWER,
        ),
        Metric(
            "path_mtu",
            "octets",
            "least outer path MTU that a node with IPsec learnt from ICMP",
            path_mtu,
            Better.HIGHER,
        ),
        Metric(
            "inner_path_mtu",
            "octets",
            "largest inner IP packet that fits it in one piece",
            inner_path_mtu,
            Better.HIGHER,
        ),
        Metric(
            "largest_whole",
            "octets",
            "largest inner IP packet that reached the other gateway in one piece",
            largest_whole,
            Better.HIGHER,
        ),
        Metric(
            "largest_in_fragments",
            "octets",
            "largest inner IP packet that reached the other gateway in fragments",
            largest_in_fragments,
            Better.HIGHER,
        ),
        Metric(
            "seen_sizes",
            "1",
            "different lengths of ESP and AH packets that an observer sees, of one sender",
            seen_sizes,
            Better.LOWER,
        ),
        Metric(
            "seen_variation",
            "1",
            "standard deviation of their octets in 100 ms over the mean",
            seen_variation,
            Better.LOWER,
        ),
        Metric("efficiency", "1", "payload octets / octets on the link", efficiency, Better.HIGHER),
        Metric("goodput", "bit/s", "application payload delivered / time", goodput, Better.HIGHER),
        Metric("retransmissions", "1", "IKE requests sent again", retransmissions, Better.LOWER),
        Metric(
            "ike_octets",
            "octets",
            "IKE octets on the wire, both directions",
            ike_octets,
            Better.LOWER,
        ),
        Metric(
            "ike_messages",
            "1",
            "IKE messages on the wire, both directions",
            ike_messages,
            Better.LOWER,
        ),
        Metric(
            "ike_fragments", "1", "of them those that carry a fragment", ike_fragments, Better.LOWER
        ),
        Metric("rtt_min", "s", "shortest ping round trip", rtt_min, Better.LOWER),
        Metric("rtt_median", "s", "median ping round trip", rtt_median, Better.LOWER),
        Metric("rtt_p95", "s", "95th percentile of ping round trips", rtt_p95, Better.LOWER),
        Metric("rtt_max", "s", "longest ping round trip", rtt_max, Better.LOWER),
        Metric("ping_lost", "packets", "echo requests without an answer", ping_lost, Better.LOWER),
        Metric(
            "probe_lost", "packets", "probes sent and never delivered", probe_lost, Better.LOWER
        ),
        Metric(
            "probe_delivered",
            "packets",
            "probes sent and delivered, each counted once",
            probe_delivered,
            Better.HIGHER,
        ),
        Metric(
            "nat_recovery",
            "s",
            "NAT mapping lost or changed -> next packet delivered inward",
            nat_recovery,
            Better.LOWER,
        ),
        Metric(
            "move_time",
            "s",
            "own address changed -> first packet sent after it delivered, a flow",
            move_time,
            Better.LOWER,
        ),
        Metric(
            "overruns",
            "packets",
            "packets that the lab itself lost, being too slow: relays, NATs, sockets, devices; "
            "emulated worlds only",
            overruns,
            Better.NEITHER,
        ),
        Metric(
            "cpu_per_packet",
            "s",
            "process CPU / packets, emulated worlds only",
            cpu_per_packet,
            Better.LOWER,
        ),
        *ATTACK_METRICS,
        *TUNNEL_METRICS,
    )
}
