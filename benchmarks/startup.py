"""How long a lab takes to come up, with tunnels, and to go down: 2, 10 and 50 gateways.

Gateways around one router, a host behind each, tunnels between the first and second, third and
fourth and so on. Times are from outside: from the call to the last CHILD_SA, and from there until
nothing of it is left.

    python benchmarks/startup.py --quick --out results/benchmarks
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track
from table import Row, arguments, publish

from ipseclab.emu.lab import Lab
from ipseclab.emu.sandbox import run_in_sandbox, sandbox_kind
from ipseclab.gateway import GatewayStatus
from ipseclab.lab.gateways import starting_connections
from ipseclab.lab.topology import parse_topology

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
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    sandbox_kind()  # what the machine can do is found out once, and is no part of a start
    rows: list[Row] = []
    counts = QUICK_GATEWAYS if options.quick else GATEWAYS
    for count in track(counts, "startup", transient=True):
        rows.append(measured(count))
    publish("startup", "A lab in namespaces: seconds to come up and go down", rows, options.out)


def measured(count: int) -> Row:
    """Bring a lab up and down."""
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder).resolve() / "order.json"
        order.write_text(json.dumps(count))
        start = time.monotonic()
        code = run_in_sandbox("startup", str(order), out=order.parent)
        end = time.monotonic()
        if code != 0:
            sys.stderr.write((order.parent / "logs" / "worker.log").read_text())
            sys.exit(code)
        times: dict[str, float] = json.loads((order.parent / "times.json").read_text())
    row: dict[str, str | int | float] = {"gateways": count}
    before = start
    for phase in PHASES:
        row[phase] = times[phase] - before
        before = times[phase]
    return {**row, "up": before - start, "down": end - before}


def inside(order: Path) -> None:
    """One lab, in the sandbox."""
    times = {"imported": time.monotonic()}
    topology = parse_topology(star(json.loads(order.read_text())))
    lab = Lab(topology, seed=1, out=order.parent / "lab")
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
    (order.parent / "times.json").write_text(json.dumps(times))


def has_tunnel(status: object) -> bool:
    """True when a gateway has a CHILD_SA."""
    assert isinstance(status, GatewayStatus)
    return any(sa.children for sa in status.ike_sas)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        inside(Path(sys.argv[1]))
    else:
        main()
