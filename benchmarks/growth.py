"""A lab of many gateways in the simulator, each size in a process of its own: for sim.py.

Pairs of gateways around one router, a host behind each; all pairs set up their SAs at once, and
then each pair's hosts exchange one echo through the tunnel.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time

from table import Row

from ipseclab.lab.plan import Ping, RunPlan
from ipseclab.lab.topology import parse_topology
from ipseclab.lab.trace import Trace
from ipseclab.sim.network import Network

SETTLED = 1.0
"""Seconds of virtual time until all SAs are there, with 20 ms a round trip."""
MEBI = 1 << 20


def around_a_router(gateways: int, connections: Sequence[tuple[int, int]]) -> str:
    """A topology of gateways around one router, with connections between those; room for 65,535
    gateways, counted from 1."""
    nodes = ["  r: {kind: router}"]
    links: list[str] = []
    for index in range(1, gateways + 1):
        nodes += [f"  g{index}: {{kind: gateway}}", f"  h{index}: {{kind: host}}"]
        lan, wan = (f"{first}.{index >> 8}.{index & 0xFF}" for first in (10, 11))
        links += [
            f"  - {{ends: [h{index}, g{index}], addresses: [{lan}.2/24, {lan}.1/24]}}",
            f"  - {{ends: [g{index}, r], addresses: [{wan}.1/24, {wan}.2/24], delay: 5ms}}",
        ]
    between = [
        f"  - {{initiator: g{one}, responder: g{two}, psk: benchmark}}" for one, two in connections
    ]
    return "\n".join(["nodes:", *nodes, "links:", *links, "connections:", *between]) + "\n"


def star(gateways: int) -> str:
    """Every two of the gateways have a connection."""
    return around_a_router(gateways, [(index - 1, index) for index in range(2, gateways + 1, 2)])


def grown(gateways: int) -> Row:
    """Read, build and run a lab of that size in this process; CPU seconds, and the memory
    that it then takes."""
    idle = resident()
    times = [process_time()]
    topology = parse_topology(star(gateways))
    times.append(process_time())
    trace = Trace()
    network = Network(topology, seed=1, trace=trace)
    times.append(process_time())
    pairs = gateways // 2
    network.start_connections()
    network.schedule(RunPlan(tuple(echo(pair) for pair in range(1, pairs + 1))))
    network.run_until(SETTLED)
    times.append(process_time())
    set_up = sum(record.event == "child_ready" for record in trace.records) // 2
    assert set_up == pairs, f"{set_up} of {pairs} tunnels are up"
    network.run_until(SETTLED + 1.0)
    times.append(process_time())
    answered = sum(record.event == "ping_received" for record in trace.records)
    assert answered == pairs, f"{answered} of {pairs} echoes came back"
    read, build, ike, echoes = (after - before for before, after in pairwise(times))
    taken = resident() - idle
    return {
        "gateways": gateways,
        "file_s": read,
        "build_s": build,
        "IKE_s": ike,
        "set_ups/s": pairs / ike,
        "echoes_s": echoes,
        "ms_a_gateway": sum((read, build, ike, echoes)) / gateways * 1e3,
        "MiB": taken,
        "KiB_a_gateway": taken / gateways * 1024,
    }


def echo(pair: int) -> Ping:
    """One echo request between the hosts of a pair, some of them at the same moment."""
    start = SETTLED + 0.001 * (pair % 500)
    return Ping(f"p{pair}", f"h{2 * pair - 1}", f"h{2 * pair}", start=start, count=1)


def resident() -> float:
    """Memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / MEBI


def set_up_time(gateways: int) -> tuple[float, float]:
    """When setting all tunnels of a lab up began and ended (a clock that all processes share)."""
    network = Network(parse_topology(star(gateways)), seed=1, trace=Trace(keep=False))
    network.start_connections()
    start = perf_counter()
    network.run_until(SETTLED)
    return start, perf_counter()


def growth(sizes: Sequence[int]) -> list[Row]:
    """A row a size."""
    with pool(1) as processes:
        return list(processes.map(grown, sizes))


def set_ups(gateways: int) -> list[Row]:
    """IKE set-ups a second of wall time, in one process and in one for each of two cores."""
    rows: list[Row] = []
    for count in (1, min(2, os.cpu_count() or 1)):
        with pool(count) as processes:
            spans = list(processes.map(set_up_time, [gateways] * count))
        rate = sum(gateways / 2 / (end - start) for start, end in spans)
        rows.append({"processes": count, "set_ups": gateways // 2 * count, "set_ups/s": rate})
    return rows


def pool(workers: int) -> ProcessPoolExecutor:
    """Processes that begin empty and do one thing: memory is that thing's."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1)
