"""Many IKE_SAs with a CHILD_SA each: what one more costs a responder, and a whole simulation of
them; each size in a process of its own, for ike.py.

The responder has one connection for peers with any address and identity. Its peers are gateways
that are thrown away once they are set up: what stays in the process is the responder's.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from itertools import combinations
from statistics import median
from time import perf_counter, process_time, thread_time

from growth import MEBI, SETTLED, around_a_router, pool, resident
from table import Row

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import ANY_IDENTITY, ConnectionConfig, Identity, IkeConfig
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.lab.topology import parse_topology
from ipseclab.lab.trace import Trace
from ipseclab.measure.workload import CONNECTION, handshake
from ipseclab.outputs import Output
from ipseclab.registry import IdType
from ipseclab.sim.network import Network
from ipseclab.wire.selector import TrafficSelector

HUB = "192.0.2.1"
FIRST_PEER, FIRST_HOST = IPv4Address("11.0.0.0"), IPv4Address("10.1.0.0")
HUB_TS = (TrafficSelector.of_address("10.0.0.1"),)
PEERS_TS = (TrafficSelector.of_network("10.0.0.0/8"),)
WARM_UP = 50
TIMED = 200
"""The last set-ups, of which the median is told."""
MOST_TRACED = 10_000
"""tracemalloc makes everything several times slower."""
KIBI = 1024


def hub() -> Gateway:
    """The responder for anyone."""
    return _gateway(HUB, None, _identity("hub"), ANY_IDENTITY, HUB_TS, PEERS_TS, "hub")


def peer(number: int) -> Gateway:
    """One of its peers."""
    own_ts = (TrafficSelector.of_address(str(FIRST_HOST + number)),)
    name = f"peer{number}"
    address = str(FIRST_PEER + number)
    return _gateway(address, HUB, _identity(name), _identity("hub"), own_ts, HUB_TS, name)


def _gateway(
    own: str,
    other: str | None,
    own_id: Identity,
    peer_id: Identity,
    own_ts: tuple[TrafficSelector, ...],
    peer_ts: tuple[TrafficSelector, ...],
    name: str,
) -> Gateway:
    connection = ConnectionConfig(
        name=CONNECTION,
        own_address=own,
        peer_address=other,
        own_id=own_id,
        peer_id=peer_id,
        psk=b"a pre-shared key for measuring",
        ike_proposals=(parse_ike_proposal("aes128gcm16-prfsha256-x25519"),),
        esp_proposals=(parse_esp_proposal("aes128gcm16"),),
        own_ts=own_ts,
        peer_ts=peer_ts,
    )
    policy = Policy("traffic", Action.PROTECT, own_ts, peer_ts, CONNECTION)
    config = GatewayConfig(IkeConfig(name=name, connections=(connection,)), (policy,))
    return Gateway(config, rng=random.Random(name))


def _identity(name: str) -> Identity:
    return Identity(IdType.ID_FQDN, name.encode())


def set_up(responder: Gateway, numbers: Sequence[int]) -> list[float]:
    """Set these peers up; CPU seconds of the responder for each."""
    seconds: list[float] = []
    for number in numbers:
        spent = 0.0

        def timed(name: str, step: Callable[[], list[Output]]) -> list[Output]:
            nonlocal spent
            before = thread_time()
            outputs = step()
            if name == "b":
                spent += thread_time() - before
            return outputs

        handshake(peer(number), responder, timed)
        seconds.append(spent)
    return seconds


def held(count: int) -> Row:
    """A responder that holds so many: memory for one, CPU for one of the last."""
    responder = hub()
    set_up(responder, range(WARM_UP))
    gc.collect()
    before = resident()
    start = perf_counter()
    seconds = set_up(responder, range(WARM_UP, WARM_UP + count))
    wall = perf_counter() - start
    gc.collect()
    assert len(responder.ike.child_sas) == WARM_UP + count, "each peer has its CHILD_SA"
    return {
        "IKE_SAs": count,
        "wall_s": wall,
        "responder_ms": median(seconds[-TIMED:]) * 1e3,
        "responder_mean_ms": sum(seconds) / count * 1e3,
        "MiB": resident() - before,
        "RSS_KiB_an_SA": (resident() - before) * KIBI / count,
    }


def traced(count: int) -> float:
    """KiB of Python's own objects for each of so many, as tracemalloc counts them."""
    responder = hub()
    set_up(responder, range(WARM_UP))
    gc.collect()
    tracemalloc.start(1)
    set_up(responder, range(WARM_UP, WARM_UP + count))
    gc.collect()
    return tracemalloc.get_traced_memory()[0] / KIBI / count


def held_rows(sizes: Sequence[int]) -> list[Row]:
    """A row a size."""
    with pool(1) as processes:
        rows = list(processes.map(held, sizes))
        sizes_traced = [size for size in sizes if size <= MOST_TRACED]
        objects = dict(zip(sizes_traced, processes.map(traced, sizes_traced), strict=True))
    return [{**row, "objects_KiB_an_SA": objects.get(int(row["IKE_SAs"]), "")} for row in rows]


def mesh(gateways: int) -> str:
    """A topology in which any two gateways have a connection."""
    return around_a_router(gateways, list(combinations(range(1, gateways + 1), 2)))


def meshed(gateways: int) -> Row:
    """All connections of a mesh set up at the same moment, in one simulation."""
    before, start = resident(), perf_counter()
    topology = parse_topology(mesh(gateways))
    network = Network(topology, seed=1, trace=(trace := Counting()))
    built, cpu = perf_counter(), process_time()
    network.start_connections()
    while trace.ready < 2 * len(topology.connections) and network.clock.now < LONGEST:
        network.run_until(network.clock.now + SETTLED)
    wanted = 2 * len(topology.connections)
    assert trace.ready >= wanted, f"{trace.ready} of {wanted} ends have a CHILD_SA"
    taken = resident() - before
    return {
        "gateways": gateways,
        "SAs": len(topology.connections),
        "build_s": built - start,
        "set_up_s": perf_counter() - built,
        "CPU_ms_an_SA": (process_time() - cpu) / len(topology.connections) * 1e3,
        "MiB": taken,
        "KiB_an_end": taken * MEBI / KIBI / wanted,
    }


LONGEST = 600.0
"""Seconds of virtual time until all must be up: a gateway has one CPU for its hundreds of peers."""


class Counting(Trace):
    """A trace that keeps nothing but how many CHILD_SAs became ready."""

    def __init__(self) -> None:
        super().__init__(keep=False)
        self.ready = 0

    def record(self, t: float, node: str, event: str, **fields: str | int | float | None) -> None:
        """Count it."""
        self.ready += event == "child_ready"


def mesh_rows(gateways: int) -> list[Row]:
    """The one simulation."""
    with pool(1) as processes:
        return list(processes.map(meshed, [gateways]))
