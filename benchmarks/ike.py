"""IKE handshakes: how many a second one core makes, and what each end's CPU has to do for one; then
the same over sockets, our gateways and strongSwan's by turns.

The core: both gateways are in one process and no time passes between them: IKE_SA_INIT and IKE_AUTH
with a pre-shared key, a CHILD_SA installed at both ends. Key tables, traces and sockets are not in
it.

The responders: in namespaces, either stack sets up and deletes one SA after the other with either.
Where namespaces or strongSwan are missing, that part is left out and said to be.

    python benchmarks/ike.py --quick --out results/benchmarks
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time

from many import held_rows, mesh_rows
from responders import OURS, PROPOSAL, STACKS, STRONGSWAN, Turn
from rich.progress import track
from sandboxed import call_in_sandbox
from table import Row, arguments, met, publish, store
from where import cpu_rows, memory_rows

from ipseclab.emu.peers import strongswan
from ipseclab.emu.sandbox import sandbox_kind
from ipseclab.errors import EnvironmentLacks
from ipseclab.measure.workload import gateway_pair, handshake
from ipseclab.outputs import Output

# IKE and ESP proposals; the key exchange is what costs, so each has its row.
PROPOSALS = (
    ("aes128gcm16-prfsha256-x25519", "aes128gcm16"),
    ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305"),
    ("aes128-sha256-x25519", "aes128-sha256"),
    ("aes128gcm16-prfsha256-ecp256", "aes128gcm16"),
    ("aes256gcm16-prfsha384-ecp384", "aes256gcm16"),
    ("aes256gcm16-prfsha512-ecp521", "aes256gcm16"),
    ("aes128gcm16-prfsha256-modp2048", "aes128gcm16"),
    ("aes128gcm16-prfsha256-modp3072", "aes128gcm16"),
    ("aes128gcm16-prfsha256-modp4096", "aes128gcm16"),
)
FULL_SECONDS, QUICK_SECONDS = 4.0, 0.5
FULL_RUNS, QUICK_RUNS = 5, 2
"""Labs; in each, every pair of stacks has so many turns of so many set-ups."""
FULL_ROUNDS, QUICK_ROUNDS = 4, 2
FULL_COUNT, QUICK_COUNT = 250, 100
SIZES, QUICK_SIZES = (10, 100, 1_000, 10_000, 30_000, 100_000), (10, 100, 1_000)
MESH, QUICK_MESH = 448, 20
"""Gateways of which every two have an IKE_SA: 100,128 of them, or 190."""
WANTED_KIB, WANTED_AT = 24.0, 10_000
"""Resident memory for an IKE_SA with a CHILD_SA, where a responder has so many."""
WANTED_RATIO = 1.5
"""Responder's CPU for a set-up, ours / strongSwan's."""


@dataclass(slots=True)
class Sample:
    """Seconds of many handshakes: each end's steps in wall time, the whole process's CPU."""

    by_end: dict[str, list[float]] = field(default_factory=lambda: {"a": [], "b": []})
    wall: float = 0.0
    cpu: float = 0.0

    @property
    def count(self) -> int:
        """Handshakes made."""
        return len(self.by_end["a"])


def measure(ike: str, esp: str, seconds: float) -> Sample:
    """Make handshakes, each between two fresh gateways, until their time adds up to `seconds`."""
    sample = Sample()
    # What the collector does belongs to the pairs thrown away, not to the handshake at hand.
    gc.disable()
    try:
        while sample.wall < seconds:
            one_handshake(ike, esp, sample)
    finally:
        gc.enable()
    return sample


def one_handshake(ike: str, esp: str, sample: Sample) -> None:
    initiator, responder = gateway_pair(ike, esp, seed=sample.count)
    spent = {"a": 0.0, "b": 0.0}

    def timed(name: str, step: Callable[[], list[Output]]) -> list[Output]:
        before = perf_counter()
        outputs = step()
        spent[name] += perf_counter() - before
        return outputs

    wall, cpu = perf_counter(), process_time()
    handshake(initiator, responder, timed)
    sample.wall += perf_counter() - wall
    sample.cpu += process_time() - cpu
    for name, seconds in spent.items():
        sample.by_end[name].append(seconds)


def core_rows(quick: bool) -> list[Row]:
    """Each proposal in the core."""
    seconds = QUICK_SECONDS if quick else FULL_SECONDS
    rows: list[Row] = []
    for ike, esp in track(PROPOSALS, "IKE, core", transient=True):
        sample = measure(ike, esp, seconds)
        rows.append(
            {
                "ike_proposal": ike,
                "made/s": sample.count / sample.wall,
                "CPU_ms": sample.cpu / sample.count * 1e3,
                "initiator_ms": median(sample.by_end["a"]) * 1e3,
                "responder_ms": median(sample.by_end["b"]) * 1e3,
            }
        )
    return rows


def turns(quick: bool) -> list[Turn]:
    """What each pair of stacks took in each of its turns, in the order of the runs."""
    runs, rounds, count = (
        (QUICK_RUNS, QUICK_ROUNDS, QUICK_COUNT) if quick else (FULL_RUNS, FULL_ROUNDS, FULL_COUNT)
    )
    order = {"rounds": rounds, "count": count}
    return [
        Turn(**turn)
        for _ in track(range(runs), "IKE, responders", transient=True)
        for turn in call_in_sandbox("responders", order)
    ]


def responder_rows(taken: Sequence[Turn]) -> list[Row]:
    """The medians of each pair of stacks."""
    rows: list[Row] = []
    for initiator in STACKS:
        for responder in STACKS:
            own = [
                turn for turn in taken if (turn.initiator, turn.responder) == (initiator, responder)
            ]
            rows.append(
                {
                    "initiator": initiator,
                    "responder": responder,
                    "turns": len(own),
                    "set_up/s": 1.0 / median(turn.seconds for turn in own),
                    "initiator_CPU_ms": median(turn.initiator_cpu for turn in own) * 1e3,
                    "responder_CPU_ms": median(turn.responder_cpu for turn in own) * 1e3,
                }
            )
    return rows


def ratio_row(taken: Sequence[Turn], initiator: str) -> Row:
    """Our responder's CPU divided by strongSwan's in the same round: the median, the extremes."""
    ours, theirs = (
        [turn.responder_cpu for turn in taken if (turn.initiator, turn.responder) == pair]
        for pair in ((initiator, OURS), (initiator, STRONGSWAN))
    )
    ratios = sorted(own / other for own, other in zip(ours, theirs, strict=True))
    return {
        "initiator": initiator,
        "ratio": median(ratios),
        "from": ratios[0],
        "to": ratios[-1],
        "at_most": WANTED_RATIO,
    }


def ratio_line(row: Row) -> str:
    """How that stands against what is wanted."""
    ratio = float(row["ratio"])
    return (
        f"ratio {ratio:.2f}: responder's CPU, {OURS} / {STRONGSWAN}, {row['initiator']} "
        f"initiates; at most {WANTED_RATIO}: {met(ratio <= WANTED_RATIO)}"
    )


def memory_line(row: Row) -> str:
    """How a responder's memory stands against what is wanted."""
    taken = float(row["RSS_KiB_an_SA"])
    return (
        f"memory {taken:.1f} KiB for an IKE_SA with a CHILD_SA at {WANTED_AT:,}; at most "
        f"{WANTED_KIB:.0f}: {met(taken <= WANTED_KIB)}"
    )


class Findings:
    """Tables and lines as the parts of the benchmark bring them: each part is written at once, so
    that what breaks a later one loses nothing."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._tables: dict[str, Sequence[Row]] = {}
        self._lines: list[str] = []

    def add(self, title: str, rows: Sequence[Row], lines: Iterable[str] = ()) -> None:
        """One more table, and what its rows come to."""
        self._tables[title] = rows
        self._lines += lines
        store("ike", self._tables, self._options)

    def publish(self, lines: Sequence[str] = ()) -> None:
        """Print it all."""
        publish("ike", self._tables, self._options, [*self._lines, *lines])


def main() -> None:
    options = arguments(__doc__).parse_args()
    found = Findings(options)
    held = held_rows(QUICK_SIZES if options.quick else SIZES)
    found.add(
        "IKE_SAs with a CHILD_SA that one responder holds",
        held,
        (memory_line(row) for row in held if row["IKE_SAs"] == WANTED_AT),
    )
    found.add("IKE handshakes, both ends on one core", core_rows(options.quick))
    found.add("Where the memory of an IKE_SA with a CHILD_SA goes", memory_rows(options.quick))
    found.add("Where a responder's CPU goes in a set-up", cpu_rows(options.quick))
    lack = compare_responders(options.quick, found)
    found.add("A mesh in one simulation", mesh_rows(QUICK_MESH if options.quick else MESH))
    found.publish([f"no comparison of responders: {lack}"] if lack else ())


def compare_responders(quick: bool, found: Findings) -> EnvironmentLacks | None:
    """Ours and strongSwan's, over sockets; or what that lacks here."""
    try:
        sandbox_kind()
        version = strongswan.version()
    except EnvironmentLacks as lack:
        return lack
    taken = turns(quick)
    found.add(
        f"Set-up and deletion over sockets, {PROPOSAL}; strongSwan {version}",
        responder_rows(taken),
    )
    ratios = [ratio_row(taken, initiator) for initiator in STACKS]
    title = f"Responder's CPU for a set-up and deletion, {OURS} / {STRONGSWAN}"
    found.add(title, ratios, map(ratio_line, ratios))
    return None


if __name__ == "__main__":
    main()
