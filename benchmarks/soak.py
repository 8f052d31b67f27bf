"""Endurance of the fast path: TCP and probes through two gateways for ten minutes, a CHILD_SA rekey
each 5 s and an IKE_SA rekey each 30 s; no probe lost, memory flat, no descriptor leaked.

    python benchmarks/soak.py --quick          # one minute

Memory: the largest resident size of the last minute against that of the second one (of the last
fifth and the second fifth with --quick), at most 2 % over. Exit code 1 when something fell short.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from sandboxed import answer, call_in_sandbox, ordered, require_sandbox
from table import Row, arguments, met, publish

from ipseclab.emu import network
from ipseclab.emu.lab import Lab
from ipseclab.lab.plan import Action, Probe, RunPlan, Transfer
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace, read_trace
from ipseclab.measure.metrics import METRICS
from ipseclab.measure.view import RunView

SECONDS, QUICK_SECONDS = 600.0, 60.0
CHILD_EACH, IKE_EACH = 5.0, 30.0
BEGIN, SETTLE = 1.0, 1.0
GROWTH = 1.02
SAMPLE_SECONDS = 1.0
PAGE = os.sysconf("SC_PAGESIZE")
GATEWAYS = ("gw1", "gw2")
CONNECTION = {"connection": "site"}


def plan(seconds: float) -> RunPlan:
    """Both flows for that long, and the rekeys, which the two ends begin by turns."""
    actions = []
    for kind, each in (("rekey_child", CHILD_EACH), ("rekey_ike", IKE_EACH)):
        for number in range(1, int(seconds / each)):
            node = GATEWAYS[number % 2]
            # An IKE_SA's rekey between two of its CHILD_SA's.
            at = BEGIN + number * each + (CHILD_EACH / 2 if kind == "rekey_ike" else 0.0)
            actions.append(Action(at, kind, node, arguments=CONNECTION))
    flows = (
        Transfer("tcp", "h1", "h2", start=BEGIN, duration=seconds),
        Probe("probe", "h2", "h1", start=BEGIN, duration=seconds, rate=100, size=200),
    )
    return RunPlan(flows, tuple(actions), duration=BEGIN + seconds + SETTLE)


class WatchedLab(Lab):
    """A lab that looks at its gateways' memory and descriptors while it waits."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.samples: list[tuple[float, str, int, int]] = []
        """Seconds since the start, gateway, pages of memory, descriptors."""

    def wait_until(self, at: float) -> None:
        """As `Lab.wait_until`, with a sample each second."""
        while (now := time.monotonic()) + SAMPLE_SECONDS < at:
            super().wait_until(now + SAMPLE_SECONDS)
            for name, child in self.gateways.items():
                process = Path("/proc", str(child.pid))
                pages = int((process / "statm").read_text().split()[1])
                descriptors = len(list((process / "fd").iterdir()))
                self.samples.append((time.monotonic() - self.start_time, name, pages, descriptors))
        super().wait_until(at)


def inside(order: Any, folder: Path) -> dict[str, Any]:
    """The run, and what is left to look at when it is over."""
    wanted = plan(order["seconds"])
    changes = {"links.wan.delay": "0ms", "connections.site.encapsulation": "forced"}
    labs: list[WatchedLab] = []

    def watched(*given: Any, **named: Any) -> WatchedLab:
        labs.append(WatchedLab(*given, **named))
        return labs[0]

    trace_file = folder / "trace.jsonl"
    with trace_file.open("w", encoding="utf-8") as sink:
        network.run(
            load_topology("site-to-site").with_overrides(changes),
            wanted,
            seed=1,
            trace=Trace(sink),
            out=folder / "run",
            capture=False,
            fast_path=True,
            make_lab=watched,
        )
    records = tuple(read_trace(trace_file))
    view = RunView.of(records, flows=wanted.flows)
    moved = [record.fields["octets"] for record in records if record.event == "transfer_octets"]
    world = json.loads((folder / "run" / network.WORLD_FILE).read_text(encoding="utf-8"))
    return {
        "rekeys": METRICS["rekeys"].compute(view),
        "rekey_lost": METRICS["rekey_lost"].compute(view),
        "octets": max(moved, default=0),
        "samples": labs[0].samples,
        "trains": {name: it["counters"]["trains_in"] for name, it in world["gateways"].items()},
        "overruns": sum(world["overruns"].values()),
    }


def rows_of(found: Any, seconds: float) -> list[Row]:
    """A row a gateway, with the verdict on its memory and descriptors."""
    part = seconds / 10.0 if seconds >= SECONDS else seconds / 5.0
    rows = []
    for gateway in GATEWAYS:
        samples = [(at, pages, fds) for at, name, pages, fds in found["samples"] if name == gateway]
        early = [one for one in samples if part <= one[0] < 2 * part]
        late = [one for one in samples if one[0] >= seconds - part]
        before, after = (max(pages for _, pages, _ in some) for some in (early, late))
        opened = early[0][2], late[-1][2]
        flat = after <= before * GROWTH and opened[1] <= opened[0]
        rows.append(
            {
                "gateway": gateway,
                "memory_early_MiB": before * PAGE / 2**20,
                "memory_late_MiB": after * PAGE / 2**20,
                "descriptors_early": opened[0],
                "descriptors_late": opened[1],
                "trains_in": found["trains"][gateway],
                "verdict": met(flat),
            }
        )
    return rows


def main() -> None:
    require_sandbox()
    options = arguments(__doc__).parse_args()
    seconds = QUICK_SECONDS if options.quick else SECONDS
    found = call_in_sandbox("soak", {"seconds": seconds})
    rows = rows_of(found, seconds)
    # What a busy machine's queues had no room for is none of the gateways' doing; it is said.
    lossless = found["rekeys"] and found["rekey_lost"] == 0
    lines = [
        f"rekeys: {found['rekeys']:.0f}; rekey_lost: {found['rekey_lost']:.0f} "
        f"({met(lossless)}); overruns of the machine: {found['overruns']}",
        f"TCP: {found['octets'] / 1e6:,.0f} MB",
    ]
    publish("soak", {f"{seconds:.0f} s through the fast path": rows}, options, lines)
    if not lossless or any(row["verdict"] != met(True) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    if ordered():
        answer(inside)
    else:
        main()
