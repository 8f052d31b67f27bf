"""The relay that an impaired link is: frames/s through it, and the delay that it adds.

Frames go one way through a link between two namespaces on packet sockets: first as many as the
relay takes, a bounded number under way; then single ones, paced. What a relay adds is the single
frames' time less the link's set delay and less the time through a bare veth pair.

    python benchmarks/link.py --quick --out results/benchmarks
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import struct
import sys
import tempfile
import time
from pathlib import Path

from rich.progress import track
from table import Row, arguments, publish

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.emu.process import PrecisePoll, be_quick
from ipseclab.emu.sandbox import run_in_sandbox
from ipseclab.lab.topology import parse_topology
from ipseclab.wire.ip import IPV4_HEADER_SIZE, build_ipv4

TWO_HOSTS = """
nodes: {{h1: {{kind: host}}, h2: {{kind: host}}}}
links: [{{name: wan, ends: [h1, h2], addresses: [10.0.0.1/24, 10.0.0.2/24]{settings}}}]
"""
# Each frame's draws are made, whatever is set; a reordering that never happens sets nothing else.
CASES = {
    "bare veth": ("", 0.0),
    "relay": (", reorder: 1e-12", 0.0),
    "relay, 1 % loss": (", loss: 1%", 0.0),
    "relay, 10 ms": (", delay: 10ms", 0.01),
}
SIZES = (64, 1400)
WINDOW = 256
"""Frames under way, and what a delay holds on top of them at this rate."""
EXPECTED_RATE = 100_000
PACE = 0.001
LOST_AFTER = 0.2
NOBODY = bytes.fromhex("021d00000000")
_NUMBER = struct.Struct("!I")
_NUMBER_AT = devices.ETHERNET_HEADER.size + IPV4_HEADER_SIZE


def main() -> None:
    options = arguments(__doc__).parse_args()
    here = str(Path(__file__).resolve().parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    seconds, frames = (0.5, 100) if options.quick else (4.0, 1000)
    rows: list[Row] = []
    bare: dict[int, float] = {}
    for name, (settings, delay) in track(CASES.items(), "link", transient=True):
        for size in SIZES:
            rate, cpu, median, p99 = measured_in_sandbox(settings, delay, size, seconds, frames)
            added = bare.setdefault(size, median) + delay
            rows.append(
                {
                    "link": name,
                    "octets": size,
                    "frames/s": rate,
                    "relay_CPU_us": cpu * 1e6,
                    "added_us": (median - added) * 1e6,
                    "added_p99_us": (p99 - added) * 1e6,
                }
            )
    publish("link", "A link: the user-space relay against a bare veth pair", rows, options.out)


def measured_in_sandbox(
    settings: str, delay: float, size: int, seconds: float, frames: int
) -> list[float]:
    """Frames/s, CPU seconds a frame, and the median and 99th percentile of a single's time."""
    with tempfile.TemporaryDirectory() as folder:
        order = Path(folder).resolve() / "order.json"
        order.write_text(json.dumps([settings, delay, size, seconds, frames]))
        code = run_in_sandbox("link", str(order), out=order.parent)
        if code != 0:
            sys.stderr.write((order.parent / "logs" / "worker.log").read_text())
            sys.exit(code)
        found: list[float] = json.loads((order.parent / "found.json").read_text())
        return found


def inside(order: Path) -> None:
    """One case, in the sandbox."""
    settings, delay, size, seconds, frames = json.loads(order.read_text())
    topology = parse_topology(TWO_HOSTS.format(settings=settings))
    lab = Lab(topology, seed=1, out=order.parent / "lab")
    lab.build()
    sockets = []
    for end in topology.links[0].ends:
        with devices.in_network(lab.pid(end.node)):
            sockets.append(devices.open_packet_socket(end.name))
    be_quick()
    line = Line(sockets[0], sockets[1], size)
    times = sorted(line.single_times(frames))
    before = lab.relay_work()
    rate = line.rate(seconds, WINDOW + int(delay * EXPECTED_RATE))
    after = lab.relay_work()
    cost = sum(after[name].cpu_seconds - before[name].cpu_seconds for name in after)
    frames = sum(after[name].frames[0] - before[name].frames[0] for name in after)
    found = [
        rate,
        cost / frames if frames else 0.0,
        statistics.median(times),
        times[int(len(times) * 0.99)],
    ]
    (order.parent / "found.json").write_text(json.dumps(found))


class Line:
    """Numbered frames in at one end and out at the other."""

    def __init__(self, near: socket.socket, far: socket.socket, size: int) -> None:
        self._near, self._far = near, far
        self._poll = PrecisePoll(far.fileno())
        header = devices.ETHERNET_HEADER.pack(NOBODY, NOBODY, devices.ETH_P_IP)
        data = bytes(size - IPV4_HEADER_SIZE)
        packet = build_ipv4(bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), 253, data)
        self._frame = bytearray(header + packet)
        self._sent = 0
        self._newest = -1
        self._received = 0

    def single_times(self, count: int) -> list[float]:
        """How long single frames take, one each `PACE` or as soon as the one before is there."""
        times = []
        for _ in range(count):
            start = time.monotonic()
            self._send()
            while self._newest < self._sent - 1 and time.monotonic() < start + LOST_AFTER:
                self._poll.wait(LOST_AFTER)
                self._take()
            if self._newest == self._sent - 1:
                times.append(time.monotonic() - start)
            self._poll.wait(max(0.0, start + PACE - time.monotonic()))
        return times

    def rate(self, seconds: float, window: int) -> float:
        """Frames/s that come out while never more than `window` are under way."""
        before, start = self._received, time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            while self._sent - self._newest <= window and self._send():
                pass
            if not self._poll.wait(LOST_AFTER):
                self._newest = self._sent - 1  # the last ones were lost
            self._take()
        return (self._received - before) / (now - start)

    def _send(self) -> bool:
        """Send one frame; False when the kernel has no room for it now."""
        _NUMBER.pack_into(self._frame, _NUMBER_AT, self._sent)
        try:
            self._near.send(self._frame)
        except BlockingIOError:
            return False
        self._sent += 1
        return True

    def _take(self) -> None:
        while True:
            try:
                frame = self._far.recv(devices.LARGEST_FRAME)
            except BlockingIOError:
                return
            self._newest = _NUMBER.unpack_from(frame, _NUMBER_AT)[0]
            self._received += 1


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        inside(Path(sys.argv[1]))
    else:
        main()
