"""The simulator's speed: packet-hops a CPU second, every IKE and ESP octet the real one.

A packet-hop is one packet carried over one link. Of a packet's hops between two hosts, two gateways
seal and open it; TCP adds segments, acknowledgments and their bookkeeping on either host.

Then labs of 2 to 10,000 gateways: what reading, building and running them costs a gateway, and how
many IKE_SAs with a CHILD_SA are set up in a second of wall time.

    python benchmarks/sim.py --quick --out results/benchmarks
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time

from growth import growth, set_ups
from rich.progress import track
from table import Row, arguments, met, publish

from ipseclab.lab.plan import Probe, RunPlan, TrafficFlow, Transfer
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim.network import Network

TARGET = 40_000
"""Packet-hops/s to reach with real ESP octets; more than twice that is wanted in time."""
WANTED = 100_000
RUNS = 5
SIZES, QUICK_SIZES = (2, 10, 100, 1000, 2000, 5000, 10_000), (2, 10, 100)
SET_UP_GATEWAYS, QUICK_SET_UP_GATEWAYS = 1000, 100
SET_UPS_WANTED = 1000
"""IKE set-ups a second of wall time on two cores."""
START = 1.0
"""Handshakes are over by then, and not part of what is timed."""


@dataclass(frozen=True, slots=True)
class Case:
    """A topology, what makes it harder, and a load of so many octets of payload."""

    name: str
    topology: str
    overrides: dict[str, object]
    load: Callable[[int], TrafficFlow]


def transfer(octets: int) -> TrafficFlow:
    """One TCP connection."""
    return Transfer("load", "h1", "h2", start=START, octets=octets)


def probes(octets: int) -> TrafficFlow:
    """UDP datagrams of 1,300 octets at 5,000 a second."""
    rate, size = 5_000.0, 1_300
    return Probe(
        "load", "h1", "h2", start=START, duration=octets / size / rate, rate=rate, size=size
    )


RATE = {"links.wan.rate": "100Mbit/s", "links.wan.queue_packets": 500}
CLEAR = {**RATE, "connections.site.mode": "none"}
CASES = (
    Case("TCP in a tunnel", "site-to-site", RATE, transfer),
    Case("TCP in a tunnel, 1 % loss", "site-to-site", {**RATE, "links.wan.loss": "1%"}, transfer),
    Case("TCP in a tunnel through a NAT", "site-to-site-nat", RATE, transfer),
    Case("TCP without IPsec", "site-to-site", CLEAR, transfer),
    Case("UDP 1,300 octets in a tunnel", "site-to-site", RATE, probes),
)


def measure(case: Case, octets: int) -> Row:
    """The fastest of a few runs: whatever else the machine does can only slow one down."""
    return min(
        (measure_once(case, octets) for _ in range(RUNS)), key=lambda row: row["cpu_seconds"]
    )


def measure_once(case: Case, octets: int) -> dict[str, str | int | float]:
    """Carry the load until it is over, and time that."""
    topology = load_topology(case.topology).with_overrides(case.overrides)
    trace = Trace()
    network = Network(topology, seed=1, trace=trace)
    network.start_connections()
    network.schedule(RunPlan((case.load(octets),)))
    network.run_until(START - 0.001)
    hops, seconds = network.packet_hops, 0.0
    while not finished(trace, octets):
        start = process_time()
        network.run_until(network.clock.now + 0.1)
        seconds += process_time() - start
    hops = network.packet_hops - hops
    return {
        "load": case.name,
        "packet_hops": hops,
        "cpu_seconds": seconds,
        "packet_hops/s": hops / seconds,
        "simulated_seconds": network.clock.now - START,
    }


def finished(trace: Trace, octets: int) -> bool:
    """True when the transfer is done, or every probe was delivered."""
    last = trace.records[-1] if trace.records else None
    if last is not None and last.event == "probe_received":
        return sum(r.event == "probe_received" for r in trace.records) >= octets // 1_300
    return any(record.event == "transfer_done" for record in trace.records)


def main() -> None:
    options = arguments(__doc__).parse_args()
    octets = 2_000_000 if options.quick else 20_000_000
    rows = [measure(case, octets) for case in track(CASES, "simulator", transient=True)]
    sizes = QUICK_SIZES if options.quick else SIZES
    made = set_ups(QUICK_SET_UP_GATEWAYS if options.quick else SET_UP_GATEWAYS)
    tables = {
        "Simulated packet-hops/s of one core": rows,
        "Growth with the gateways, CPU seconds": growth(sizes),
        "IKE set-ups, both ends, by processes at once": made,
    }
    best = max(float(row["set_ups/s"]) for row in made)
    line = f"target: {best:,.0f} IKE set-ups/s of at least {SET_UPS_WANTED:,}: "
    publish("sim", tables, options, [verdict(rows), line + met(best >= SET_UPS_WANTED)])


def verdict(rows: list[Row]) -> str:
    """How the loads in a tunnel stand against what is wanted of them."""
    slowest = min(float(row["packet_hops/s"]) for row in rows if "tunnel" in str(row["load"]))
    return (
        f"target: {slowest:,.0f} packet-hops/s with ESP octets of at least {TARGET:,}: "
        f"{met(slowest >= TARGET)}; of {WANTED:,}: {met(slowest >= WANTED)}"
    )


if __name__ == "__main__":
    main()
