"""Where a responder's memory for an IKE_SA goes, and its CPU for setting one up: for ike.py.

Memory is that of Python's objects by the file that made them (tracemalloc), and the rest of what
the process grew by: cipher contexts of OpenSSL, and what allocators keep. CPU is each function's
own time (cProfile on the thread's CPU clock) by the part that it belongs to; a profiler makes short
functions look dearer than they are, so that the shares are a guide and not a measurement.
"""

from __future__ import annotations

import cProfile
import gc
import pstats
import tracemalloc
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from time import thread_time

from growth import MEBI, pool, resident
from many import WARM_UP, hub, peer, set_up
from table import Row

import ipseclab
from ipseclab.measure.workload import handshake
from ipseclab.outputs import Output

MEMORY_SAS, QUICK_MEMORY_SAS = 2_000, 200
PROFILED, QUICK_PROFILED = 1_000, 100
FRAMES = 5
"""From a library or a generated function to the file of ours that called it."""
SHOWN = 12
ROOT = Path(ipseclab.__file__).parent
OF_LIBRARY = "OpenSSL and allocators"

# Functions outside Python by a part of their name, as the profiler has it.
LIBRARY = {
    "X25519": "key exchange (OpenSSL)",
    "x25519": "key exchange (OpenSSL)",
    "hmac_digest": "prf and prf+ (OpenSSL)",
    "aead": "sealing and opening (OpenSSL)",
    "AESGCM": "sealing and opening (OpenSSL)",
    "sha1": "NAT detection (OpenSSL)",
}
PARTS = {
    "wire": "messages read and written",
    "crypto": "keys, prf, key exchange: our part",
    "ike": "the exchanges, their state, timers",
    "ipsec": "the SAD and the datapath",
    "gateway.py": "between IKE and the datapath",
    "timers.py": "the exchanges, their state, timers",
    "registry.py": "messages read and written",
}
REST = "Python's own functions"


def memory(count: int) -> list[Row]:
    """A row a file, the dearest first; what is left is said to be so."""
    responder = hub()
    set_up(responder, range(WARM_UP))
    gc.collect()
    tracemalloc.start(FRAMES)
    set_up(responder, range(WARM_UP, WARM_UP + count))
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    octets: Counter[str] = Counter()
    objects: Counter[str] = Counter()
    for trace in snapshot.traces:
        name = _file([frame.filename for frame in reversed(trace.traceback)])
        octets[name] += trace.size
        objects[name] += 1
    first = [name for name, _ in octets.most_common(SHOWN)]
    rows = [_memory_row(name, octets[name] / count, objects[name] / count) for name in first]
    left = sum(octets.values()) - sum(octets[name] for name in first)
    number = sum(objects.values()) - sum(objects[name] for name in first)
    return [*rows, _memory_row("other files", left / count, number / count)]


def _memory_row(name: str, octets: float, objects: float) -> Row:
    return {"made_in": name, "octets_an_SA": octets, "objects_an_SA": objects}


def _file(files: list[str]) -> str:
    """The innermost file of ours, without the folders above the package."""
    for file in files:
        path = Path(file)
        if path.is_relative_to(ROOT):
            return str(path.relative_to(ROOT))
    return "elsewhere"


def library_memory(count: int) -> float:
    """Octets an SA of what the process grew by."""
    responder = hub()
    set_up(responder, range(WARM_UP))
    gc.collect()
    before = resident()
    set_up(responder, range(WARM_UP, WARM_UP + count))
    gc.collect()
    return (resident() - before) * MEBI / count


def cpu(count: int) -> list[Row]:
    """A row a part, the dearest first."""
    responder = hub()
    set_up(responder, range(WARM_UP))
    gc.collect()
    gc.disable()
    profile = cProfile.Profile(thread_time)

    def profiled(name: str, step: Callable[[], list[Output]]) -> list[Output]:
        return profile.runcall(step) if name == "b" else step()

    for number in range(WARM_UP, WARM_UP + count):
        handshake(peer(number), responder, profiled)
    gc.enable()
    calls: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    stats: Mapping[tuple[str, int, str], tuple[int, int, float, float, object]]
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    for (file, _line, function), (_, number, own, _, _) in stats.items():
        part = _part(file, function)
        calls[part] += number
        seconds[part] += own
    total = sum(seconds.values())
    return [
        {"part": part, "share_%": taken / total * 100, "calls_a_set_up": calls[part] / count}
        for part, taken in seconds.most_common()
    ]


def _part(file: str, function: str) -> str:
    path = Path(file)
    if path.is_relative_to(ROOT):
        return PARTS.get(path.relative_to(ROOT).parts[0], REST)
    for name, part in LIBRARY.items():
        if name in function or name in file:
            return part
    return REST


def memory_rows(quick: bool) -> list[Row]:
    """Where the memory goes, with the whole in the last row."""
    count = QUICK_MEMORY_SAS if quick else MEMORY_SAS
    with pool(1) as processes:
        rows = processes.submit(memory, count).result()
        whole = processes.submit(library_memory, count).result()
    counted = sum(float(row["octets_an_SA"]) for row in rows)
    number = sum(float(row["objects_an_SA"]) for row in rows)
    rest: Row = {"made_in": OF_LIBRARY, "octets_an_SA": whole - counted, "objects_an_SA": ""}
    return [*rows, rest, _memory_row("together", whole, number)]


def cpu_rows(quick: bool) -> list[Row]:
    """Where the CPU goes."""
    with pool(1) as processes:
        return processes.submit(cpu, QUICK_PROFILED if quick else PROFILED).result()
