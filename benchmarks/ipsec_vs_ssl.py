"""IPsec against SSL: our IPsec and strongSwan's, OpenVPN over UDP and over TCP, and TLS of one
application before a reverse proxy, on the same line with the same application.

Set-up time and octets, octets a payload, goodput of a TCP connection inside with and without loss
(OpenVPN over TCP is TCP in TCP), and what somebody on the line sees. Namespaces, root or not;
a system whose program is missing is left out, and a line says so. See
docs/experiments/ipsec-vs-ssl.md.

    python benchmarks/ipsec_vs_ssl.py --quick --out results/benchmarks
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.progress import track
from sandboxed import call_in_sandbox, require_sandbox
from secured import CLEAR, OURS, QUEUE_PACKETS, RATE, STRONGSWAN, SYSTEMS, TLS
from table import Row, arguments, met, publish
from tunnels import OPENVPN, OPENVPN_TCP, missing

from ipseclab.emu.peers import strongswan
from ipseclab.errors import EnvironmentLacks

LOSSES = (0.0, 0.01, 0.03)
QUICK_LOSSES = (0.0, 0.01)
SECONDS, QUICK_SECONDS = 8.0, 3.0
RUNS, QUICK_RUNS = 3, 1
Found = Mapping[str, Any]
"""A `secured.Found`, as it comes out of the sandbox."""
Runs = Mapping[tuple[str, float], Sequence[Found]]
"""By system and loss."""


def present() -> tuple[list[str], list[str]]:
    """The systems that this machine has; a line for each that it has not."""
    there, lacking = [], []
    for system in SYSTEMS:
        lack = missing(system) if system in (OPENVPN, OPENVPN_TCP) else None
        if system == STRONGSWAN:
            try:
                strongswan.version()
            except EnvironmentLacks as found:
                lack = found
        if lack is None:
            there.append(system)
        else:
            lacking.append(f"left out: {lack}")
    return there, lacking


def run_all(systems: Sequence[str], options: argparse.Namespace) -> Runs:
    """Each system on each line, by turns."""
    losses = QUICK_LOSSES if options.quick else LOSSES
    seconds = QUICK_SECONDS if options.quick else SECONDS
    repetitions = QUICK_RUNS if options.quick else RUNS
    order = [
        (system, loss, seed)
        for seed in range(1, repetitions + 1)
        for loss in losses
        for system in systems
    ]
    found: dict[tuple[str, float], list[Found]] = {}
    for system, loss, seed in track(order, "IPsec and SSL", transient=True):
        asked = {"system": system, "loss": loss, "seed": seed, "seconds": seconds}
        found.setdefault((system, loss), []).append(call_in_sandbox("secured", asked))
    return found


def cost_rows(found: Runs, systems: Sequence[str]) -> Sequence[Row]:
    """What each system costs on a line that loses nothing, and its goodput on each line."""
    losses = list(dict.fromkeys(loss for _, loss in found))
    rows = []
    for system in systems:
        runs = found[system, losses[0]]
        row: dict[str, str | int | float] = {
            "system": system,
            "set_up_ms": round(1e3 * _median(runs, "set_up")),
            "octets_an_octet_of_a_file": round(_median(runs, "file_ratio"), 3),
            "octets_a_message_of_100": round(_median(runs, "small_octets")),
        }
        for loss in losses:
            goodput = _median(found[system, loss], "goodput") / 1e6
            row[f"Mbit_s_at_loss_{loss:g}"] = round(goodput, 2)
        rows.append(row)
    return rows


def seen_rows(found: Runs, systems: Sequence[str]) -> Sequence[Row]:
    """What somebody on the line sees, from the packets of the first run."""
    rows = []
    for system in systems:
        seen = found[system, 0.0][0]["seen"]
        rows.append(
            {
                "system": system,
                "payload": _yes(seen["payload"]),
                "server_name": _yes(seen["name"]),
                "hosts_addresses": _yes(seen["hosts"]),
                "another_application": _yes(seen["other"]),
                "protocols": str(seen["ends"]),
            }
        )
    return rows


def verdicts(found: Runs, systems: Sequence[str]) -> list[str]:
    """What must come out, as far as the systems are there."""
    lines = []
    tunnels = [name for name in systems if name not in (CLEAR, TLS)]
    hidden = all(
        not found[name, 0.0][0]["seen"][what]
        for name in tunnels
        for what in ("payload", "name", "hosts", "other")
    )
    lines.append(f"tunnels show neither payload, name nor hosts: {met(hidden)}")
    tls, clear = found[TLS, 0.0][0]["seen"], found[CLEAR, 0.0][0]["seen"]
    shown = tls["name"] and tls["hosts"] and tls["other"] and not tls["payload"]
    lines.append(f"TLS hides the payload, and of nothing else: {met(shown)}")
    lines.append(f"without protection all is seen: {met(all(map(bool, clear.values())))}")
    if OPENVPN_TCP in systems:
        worst = max(loss for _, loss in found)
        inside, beside = (_median(found[name, worst], "goodput") for name in (OPENVPN_TCP, OURS))
        says = f"TCP in TCP at {worst:.0%} loss has {inside / beside:.2f} of ESP's goodput"
        lines.append(f"{says}, less than 1: {met(inside < beside)}")
    return lines


def _median(runs: Sequence[Found], what: str) -> float:
    return median(float(run[what]) for run in runs)


def _yes(found: object) -> str:
    return "seen" if found else "-"


def main() -> None:
    """Run, print, write."""
    options = arguments(__doc__).parse_args()
    require_sandbox()
    systems, lacking = present()
    found = run_all(systems, options)
    tables = {
        f"What it costs: 40 ms of round trip, {RATE}, a queue of {QUEUE_PACKETS} packets": (
            cost_rows(found, systems)
        ),
        "What somebody on the line sees": seen_rows(found, systems),
    }
    lines = [*lacking, *verdicts(found, systems)]
    publish("ipsec_vs_ssl", tables, options, lines)
    figure = draw(cost_rows(found, systems), Path(options.out) / "ipsec_vs_ssl.png")
    print(f"figure: {figure}")


def draw(rows: Sequence[Row], path: Path) -> Path:
    """Goodput by system and loss, as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from ipseclab.present.plots import BLUE, ORANGE, VERMILION

    losses = [name for name in rows[0] if name.startswith("Mbit_s")]
    figure = Figure(figsize=(8.6, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    width = 0.8 / len(losses)
    for place, (name, colour) in enumerate(zip(losses, (BLUE, ORANGE, VERMILION), strict=False)):
        loss = float(name.rpartition("_")[2])
        at = [index + (place - (len(losses) - 1) / 2) * width for index in range(len(rows))]
        bars = axis.bar(at, [float(row[name]) for row in rows], width * 0.94, color=colour)
        bars.set_label(f"{loss:.0%} lost")
        axis.bar_label(bars, fmt="%.1f", fontsize="x-small")
    names = [str(row["system"]).replace(", ", ",\n").replace(" over", "\nover") for row in rows]
    axis.set_xticks(range(len(rows)), names, fontsize="small")
    axis.set_ylabel("goodput of one TCP connection (Mbit/s)")
    axis.margins(y=0.1)
    axis.legend(title="each way", bbox_to_anchor=(1.0, 0.5), loc="center left", fontsize="small")
    axis.set_title("A connection inside, and what protects it")
    figure.savefig(path, dpi=150)
    return path


if __name__ == "__main__":
    main()
