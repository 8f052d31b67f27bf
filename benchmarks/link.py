"""The relay that an impaired link is: frames/s through it, and the delay that it adds.

Frames go one way through a link between two namespaces on packet sockets: first as many as the
relay takes, a bounded number under way; then single ones, paced. What a relay adds is the single
frames' time less the link's set delay and less the time through a bare veth pair.

    python benchmarks/link.py --quick --out results/benchmarks
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from line import Line
from rich.progress import track
from sandboxed import answer, call_in_sandbox, ordered, require_sandbox
from table import Row, arguments, met, publish

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.emu.process import be_quick
from ipseclab.lab.topology import parse_topology
from ipseclab.wire.ip import IPV4_HEADER_SIZE, build_ipv4

TARGET_FRAMES, TARGET_ADDED_US = 50_000, 500.0
TWO_HOSTS = """
nodes: {{h1: {{kind: host}}, h2: {{kind: host}}}}
links: [{{name: wan, ends: [h1, h2], addresses: [10.0.0.1/24, 10.0.0.2/24]{settings}}}]
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What is set on the link in the topology file, and the delay that this is, in seconds."""

    settings: str
    delay: float = 0.0

    @property
    def relayed_at_once(self) -> bool:
        """True when a relay carries the frames and none has to wait."""
        return bool(self.settings) and self.delay == 0.0


CASES = {
    "bare veth": Case(""),
    # A reordering that never happens takes its draws for each frame, and does nothing.
    "relay": Case(", reorder: 1e-12"),
    "relay, 1 % loss": Case(", loss: 1%"),
    "relay, 10 ms": Case(", delay: 10ms", 0.01),
}
SIZES = (64, 1400)
WINDOW = 256
"""Frames under way, and what a delay holds on top of them at this rate."""
EXPECTED_RATE = 100_000
NOBODY = bytes.fromhex("021d00000000")
_NUMBER_AT = devices.ETHERNET_HEADER.size + IPV4_HEADER_SIZE


def main() -> None:
    options = arguments(__doc__).parse_args()
    require_sandbox()
    seconds, frames = (0.5, 100) if options.quick else (4.0, 1000)
    rows: list[Row] = []
    bare: dict[int, float] = {}
    cases = [(name, size) for name in CASES for size in SIZES]
    for name, size in track(cases, "link", transient=True):
        case = CASES[name]
        found = call_in_sandbox("link", [case.settings, case.delay, size, seconds, frames])
        added = bare.setdefault(size, found["median"]) + case.delay
        rows.append(
            {
                "link": name,
                "octets": size,
                "frames/s": found["rate"],
                "relay_CPU_us": found["cpu"] * 1e6,
                "added_us": (found["median"] - added) * 1e6,
                "added_p99_us": (found["p99"] - added) * 1e6,
            }
        )
    title = "A link: the user-space relay against a bare veth pair"
    publish("link", {title: rows}, options, [verdict(rows)])


def verdict(rows: list[Row]) -> str:
    """How the relay stands against what is wanted of it, where it does not hold frames back."""
    relays = [row for row in rows if CASES[str(row["link"])].relayed_at_once]
    slowest = min(float(row["frames/s"]) for row in relays)
    added = max(float(row["added_us"]) for row in relays)
    return (
        f"target: {slowest:,.0f} frames/s of at least {TARGET_FRAMES:,}: "
        f"{met(slowest >= TARGET_FRAMES)}; {added:.0f} us added of at most "
        f"{TARGET_ADDED_US:.0f}: {met(added < TARGET_ADDED_US)}"
    )


def inside(order: Any, folder: Path) -> dict[str, float]:
    """One case, in the sandbox: frames/s, relay's CPU seconds a frame, and the median and 99th
    percentile of a single's time."""
    settings, delay, size, seconds, frames = order
    topology = parse_topology(TWO_HOSTS.format(settings=settings))
    lab = Lab(topology, seed=1, out=folder / "lab")
    lab.build()
    sockets = []
    for end in topology.links[0].ends:
        with devices.in_network(lab.pid(end.node)):
            sockets.append(devices.open_packet_socket(end.name))
    be_quick()
    line = Line(sockets[0], sockets[1], a_frame(size), _NUMBER_AT)
    times = sorted(line.single_times(frames))
    before = lab.relay_work()
    flood = line.flood(seconds, WINDOW + int(delay * EXPECTED_RATE))
    after = lab.relay_work()
    cost = sum(after[name].cpu_seconds - before[name].cpu_seconds for name in after)
    carried = sum(after[name].frames[0] - before[name].frames[0] for name in after)
    return {
        "rate": flood.rate,
        "cpu": cost / carried if carried else 0.0,
        "median": statistics.median(times),
        "p99": times[int(len(times) * 0.99)],
    }


def a_frame(size: int) -> bytes:
    """An Ethernet frame around an IPv4 packet of `size` octets."""
    header = devices.ETHERNET_HEADER.pack(NOBODY, NOBODY, devices.ETH_P_IP)
    data = bytes(size - IPV4_HEADER_SIZE)
    return header + build_ipv4(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), 253, data)


if __name__ == "__main__":
    if ordered():
        answer(inside)
    else:
        main()
