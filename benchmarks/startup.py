"""How long a lab takes to come up, with tunnels, and to go down: 2, 10 and 50 gateways.

Gateways around one router, a host behind each, tunnels between the first and second, third and
fourth and so on. Times are from outside: from the call to the last CHILD_SA, and from there until
nothing of it is left.

    python benchmarks/startup.py --quick --out results/benchmarks
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.progress import track
from sandboxed import answer, call_in_sandbox, ordered, require_sandbox
from table import Row, arguments, met, publish

from ipseclab.emu.lab import Lab
from ipseclab.gateway import GatewayStatus
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.topology import parse_topology

TARGET_GATEWAYS, TARGET_SECONDS = 50, 20.0
GATEWAYS = (2, 10, 50)
QUICK_GATEWAYS = (2, 10)
TUNNEL_SECONDS = 30.0
LOOK_EVERY = 0.02
PHASES = ("imported", "built", "links measured", "gateways ready", "tunnels up")


def star(gateways: int) -> str:
    """A topology of pairs of gateways around one router."""
    nodes = ["  r: {kind: router}"]
    links, connections = [], []
    for index in range(1, gateways + 1):
        nodes += [f"  g{index}: {{kind: gateway}}", f"  h{index}: {{kind: host}}"]
        lan, wan = f"10.{index}.0", f"192.0.{index}"
        links += [
            f"  - {{ends: [h{index}, g{index}], addresses: [{lan}.2/24, {lan}.1/24]}}",
            f"  - {{ends: [g{index}, r], addresses: [{wan}.1/24, {wan}.2/24], delay: 5ms}}",
        ]
        if index % 2 == 0:
            connections.append(
                f"  - {{initiator: g{index - 1}, responder: g{index}, psk: benchmark}}"
            )
    parts = ["nodes:", *nodes, "links:", *links, "connections:", *connections]
    return "\n".join(parts) + "\n"


def main() -> None:
    options = arguments(__doc__).parse_args()
    require_sandbox()  # what the machine can do is found out once, and is no part of a start
    counts = QUICK_GATEWAYS if options.quick else GATEWAYS
    rows = [measured(count) for count in track(counts, "startup", transient=True)]
    title = "A lab in namespaces: seconds to come up and go down"
    publish("startup", {title: rows}, options, verdict(rows))


def measured(count: int) -> Row:
    """Bring a lab up and down."""
    start = time.monotonic()
    times: dict[str, float] = call_in_sandbox("startup", count)
    end = time.monotonic()
    row: dict[str, str | int | float] = {"gateways": count}
    before = start
    for phase in PHASES:
        row[phase] = times[phase] - before
        before = times[phase]
    return {**row, "up": before - start, "down": end - before}


def verdict(rows: list[Row]) -> list[str]:
    """How the largest lab stands against what is wanted of it, when it was measured."""
    return [
        f"target: {row['gateways']} gateways up with tunnels in {row['up']:.1f} s of at most "
        f"{TARGET_SECONDS:.0f}: {met(float(row['up']) <= TARGET_SECONDS)}"
        for row in rows
        if row["gateways"] == TARGET_GATEWAYS
    ]


def inside(gateways: int, folder: Path) -> dict[str, float]:
    """One lab, in the sandbox: the monotonic time at the end of each phase."""
    times = {"imported": time.monotonic()}
    topology = parse_topology(star(gateways))
    lab = Lab(topology, seed=1, out=folder / "lab")
    lab.build()
    times["built"] = time.monotonic()
    lab.measure_links()
    times["links measured"] = time.monotonic()
    lab.start_nodes()
    lab.restart_links()
    times["gateways ready"] = lab.start_time = time.monotonic()
    lab.initiate({name: starting_connections(topology, name) for name in lab.gateways})
    until = time.monotonic() + TUNNEL_SECONDS
    missing = list(lab.gateways)
    while missing and time.monotonic() < until:
        missing = [name for name in missing if not has_tunnel(lab.report(name).status)]
        lab.wait_until(time.monotonic() + LOOK_EVERY)
    if missing:
        sys.exit(f"no tunnel at {' '.join(missing)} after {TUNNEL_SECONDS} s")
    times["tunnels up"] = time.monotonic()
    return times


def has_tunnel(status: object) -> bool:
    """True when a gateway has a CHILD_SA."""
    assert isinstance(status, GatewayStatus)
    return any(sa.children for sa in status.ike_sas)


if __name__ == "__main__":
    if ordered():
        answer(inside)
    else:
        main()
