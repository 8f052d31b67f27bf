"""What each link does, measured before a run: delay, loss and rate by frames of our own.

A lab that measures must know that what it set is in force. Numbered IP frames (protocol 253, RFC
3692) go from end to end of every link at once, past the kernels' IP: they carry an Ethernet
address that no one has. The packets lost must be exactly those that the seed says; the relays then
begin again at index 0. A mismatch stops the run.
"""

from __future__ import annotations

import heapq
import math
import socket
import statistics
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from ipseclab.emu import devices
from ipseclab.emu.process import PrecisePoll
from ipseclab.errors import EnvironmentLacks
from ipseclab.lab.firewall import Blocked
from ipseclab.lab.impairment import ImpairmentConfig, losses
from ipseclab.lab.model import DIRECTIONS, Direction, Link
from ipseclab.lab.topology import Topology
from ipseclab.wire.ip import IPV4_HEADER_SIZE, build_ipv4
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE, build_ipv6

PROBE_PROTOCOL = 253
"""For experimentation and testing (RFC 3692 section 2.1)."""
NOBODY = bytes.fromhex("021d00000000")
PLAIN_FRAMES = 20
LOSSY_FRAMES = 100
FRAME_INTERVAL = 0.002
FRAMES_PER_SECOND = 5_000
"""Over all links together."""
PACKET_OCTETS = 64
BURST_SECONDS = 0.15
MOST_BURST_FRAMES = 200
LARGEST_JUDGED_RATE = 200e6
"""Above this the burst measures our own speed; such a rate is recorded, not judged."""
ATTEMPTS = 3
DELAY_TOLERANCE = 0.0015
SHARE_TOLERANCE = 0.05
RATE_TOLERANCE = 0.1
BLOCKED_FRAMES = 3
FIRST_BLOCKED = 60_000
"""Above the numbers of the other frames."""
_LATE = 0.25
"""Seconds that a frame may be late before it counts as lost."""
_NUMBERS = {4: struct.Struct("!18xH"), 6: struct.Struct("!16xH")}
"""By version of IP: the identification, or the flow label's end."""


class LinkMismatch(EnvironmentLacks):
    """A link that does not do what it is set to."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One direction of a link as found: the median and the least delay; `rate` None without one."""

    delay: float
    least_delay: float
    loss: float
    rate: float | None = None


def _blocked_packet(rule: Blocked, ends: Sequence[bytes], number: int) -> bytes:
    """A packet that the rule stops, with that number."""
    ports = rule.ports if rule.ports is not None else (0, 0)
    data = ports[0].to_bytes(2, "big") * 2 + bytes(PACKET_OCTETS - IPV4_HEADER_SIZE - 4)
    return build_ipv4(ends[0], ends[1], rule.protocol, data, identification=number)


class _Way:
    """One direction under test: where frames go in and come out, and what came of them."""

    def __init__(
        self, link: Link, direction: int, seed: int, sender: socket.socket, receiver: socket.socket
    ) -> None:
        self.link = link.name
        self.direction: Direction = DIRECTIONS[direction]
        self.config = link.impairment(self.direction)
        self.receiver = receiver
        self._sender = sender
        self._ends = [link.ends[end].address.packed for end in (direction, 1 - direction)]
        self._version = link.ends[0].version
        self.count = PLAIN_FRAMES if self.config.loss is None else LOSSY_FRAMES
        drawn = losses(self.config.loss, seed, link.name, self.direction)
        self.lost_as_drawn = [n for n, lost in enumerate(islice(drawn, self.count)) if lost]
        self.lost: list[int] = []
        self.leaks: list[str] = []
        """What the link is to stop and lets pass."""
        self.sent: dict[int, float] = {}
        self.received: dict[int, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two frames, so that no limited rate makes them queue."""
        rate = self.config.rate
        return max(FRAME_INTERVAL, 0.0 if rate is None else 2 * PACKET_OCTETS * 8 / rate)

    @property
    def longest(self) -> float:
        """Seconds after which a frame will not come any more."""
        config = self.config
        return (
            config.delay + 4 * config.jitter + config.reorder_delay * bool(config.reorder) + _LATE
        )

    @property
    def complete(self) -> bool:
        """True when all has come that the seed lets through."""
        return len(self.received) >= self.count - len(self.lost_as_drawn)

    def send(self, number: int, octets: int) -> None:
        """Send the frame with that number, now."""
        ends = self._ends[0], self._ends[1], PROBE_PROTOCOL
        if self._version == 4:
            packet = build_ipv4(*ends, bytes(octets - IPV4_HEADER_SIZE), identification=number)
        else:
            packet = build_ipv6(*ends, bytes(octets - IPV6_HEADER_SIZE), flow_label=number)
        header = devices.ETHERNET_HEADER.pack(NOBODY, NOBODY, devices.ETHERTYPES[self._version])
        self.sent[number] = time.monotonic()
        self._sender.send(header + packet)

    def send_blocked(self) -> None:
        """Send a few frames of each kind that the link stops, numbered from `FIRST_BLOCKED` on."""
        header = devices.ETHERNET_HEADER.pack(NOBODY, NOBODY, devices.ETH_P_IP)
        for index in range(BLOCKED_FRAMES * len(self.config.block)):
            rule = self.config.block[index // BLOCKED_FRAMES]
            self._sender.send(header + _blocked_packet(rule, self._ends, FIRST_BLOCKED + index))

    @property
    def passed_firewall(self) -> list[str]:
        """The rules that did not stop their frames."""
        rules = self.config.block
        passed = [number for number in self.received if number >= FIRST_BLOCKED]
        return sorted({str(rules[(number - FIRST_BLOCKED) // BLOCKED_FRAMES]) for number in passed})

    def receive(self) -> None:
        """Note the frames that have come."""
        while True:
            try:
                frame = self.receiver.recv(devices.LARGEST_FRAME)
            except BlockingIOError:
                return
            if frame[:6] == NOBODY:
                number = _NUMBERS[self._version].unpack_from(frame)[0]
                self.received.setdefault(number, time.monotonic())

    def restart(self) -> None:
        """Forget what came."""
        self.sent.clear()
        self.received.clear()


def probe_links(
    topology: Topology,
    pid_of: Callable[[str], int],
    seed: int,
    restart: Callable[[], None],
) -> Mapping[str, Mapping[Direction, Measured]]:
    """Measure every link; by link and direction. `restart` sets the relays back to index 0.

    Raises LinkMismatch when a link still differs from its settings at the last attempt: a busy
    machine may spoil one.
    """
    with ExitStack() as opened:
        ways = [way for link in topology.links for way in _open(link, pid_of, seed, opened)]
        mismatches: list[str] = []
        for _attempt in range(ATTEMPTS):
            restart()
            for way in ways:
                way.restart()
            found = _measure(ways)
            mismatches = [m for way in ways for m in _mismatches(way, found[way])]
            if not mismatches:
                break
    if mismatches:
        raise LinkMismatch(f"link {mismatches[0]}", "less load on this machine, or --world sim")
    report: dict[str, dict[Direction, Measured]] = {}
    for way in ways:
        report.setdefault(way.link, {})[way.direction] = found[way]
    return report


def _open(link: Link, pid_of: Callable[[str], int], seed: int, opened: ExitStack) -> Iterator[_Way]:
    """Both directions of a link, with a socket at each end."""
    sockets = []
    for end in link.ends:
        with devices.in_network(pid_of(end.node)):
            sockets.append(opened.enter_context(devices.open_packet_socket(end.name, end.version)))
    for direction in (0, 1):
        yield _Way(link, direction, seed, sockets[direction], sockets[1 - direction])


def _measure(ways: Sequence[_Way]) -> dict[_Way, Measured]:
    """Delay and loss of each way by single frames, then its rate by a burst."""
    _pass_singles(ways)
    singles = {way: dict(way.received) for way in ways}
    leaks = _pass_blocked(ways)
    for way in ways:
        way.leaks = leaks[way]
        way.lost = [number for number in range(way.count) if number not in singles[way]]
    rates = _pass_bursts([way for way in ways if way.config.rate is not None])
    found = {}
    for way, received in singles.items():
        delays = [at - way.sent[number] for number, at in received.items()]
        median, least = (statistics.median(delays), min(delays)) if delays else (math.inf, math.inf)
        loss = 1.0 - len(received) / way.count
        found[way] = Measured(median, least, loss, rates.get(way))
    return found


def _pass_singles(ways: Sequence[_Way]) -> None:
    """Send every way's frames, each way at its own pace, and wait for what comes."""
    slowest = len(ways) / FRAMES_PER_SECOND
    start = time.monotonic()
    due = [
        # Spread out: frames sent at one moment would wait for each other in our own hands.
        (start + number * max(way.interval, slowest) + index / FRAMES_PER_SECOND, index, number)
        for index, way in enumerate(ways)
        for number in range(way.count)
    ]
    heapq.heapify(due)
    until = max(entry[0] for entry in due) + max(way.longest for way in ways)
    by_descriptor = {way.receiver.fileno(): way for way in ways}
    poll = PrecisePoll(*by_descriptor)
    while due or not all(way.complete for way in ways):
        now = time.monotonic()
        if now > until:
            return
        while due and due[0][0] <= now:
            _at, index, number = heapq.heappop(due)
            ways[index].send(number, PACKET_OCTETS)
        for descriptor in poll.wait((due[0][0] if due else until) - time.monotonic()):
            by_descriptor[descriptor].receive()


def _pass_blocked(ways: Sequence[_Way]) -> dict[_Way, list[str]]:
    """Send what each way is to stop, and see what comes."""
    stopping = [way for way in ways if way.config.block]
    for way in stopping:
        way.received.clear()
        way.send_blocked()
    until = time.monotonic() + max((way.longest for way in stopping), default=0.0)
    by_descriptor = {way.receiver.fileno(): way for way in stopping}
    poll = PrecisePoll(*by_descriptor)
    while stopping and time.monotonic() < until:
        for descriptor in poll.wait(until - time.monotonic()):
            by_descriptor[descriptor].receive()
    return {way: way.passed_firewall for way in ways}


def _pass_bursts(ways: Sequence[_Way]) -> dict[_Way, float]:
    """Send a burst along each way that has a rate; the bit/s between its first and last frame."""
    sizes = {way: _burst_size(way.config) for way in ways}
    until = time.monotonic()
    for way, (count, octets) in sizes.items():
        way.received.clear()
        for number in range(way.count, way.count + count):
            way.send(number, octets)
        assert way.config.rate is not None
        until = max(until, time.monotonic() + count * octets * 8 / way.config.rate + way.longest)
    if not ways:
        return {}
    by_descriptor = {way.receiver.fileno(): way for way in ways}
    poll = PrecisePoll(*by_descriptor)
    last = {way: way.count + count - 1 for way, (count, _octets) in sizes.items()}
    while time.monotonic() < until and any(last[way] not in way.received for way in ways):
        # A lost last frame costs a wait, no more.
        for descriptor in poll.wait(until - time.monotonic()):
            by_descriptor[descriptor].receive()
    rates = {}
    for way, (_count, octets) in sizes.items():
        numbers = sorted(way.received)
        if len(numbers) >= 2:
            seconds = way.received[numbers[-1]] - way.received[numbers[0]]
            # What was lost on the way had its share of the rate.
            rates[way] = (numbers[-1] - numbers[0]) * octets * 8 / max(seconds, 1e-6)
    return rates


def _burst_size(config: ImpairmentConfig) -> tuple[int, int]:
    """How many frames of how many octets take about `BURST_SECONDS` and fit into the queue."""
    assert config.rate is not None
    octets = int(min(max(config.rate * BURST_SECONDS / 8 / 20, PACKET_OCTETS), config.mtu, 1500))
    room = config.queue_packets
    if config.queue_octets is not None:
        room = min(room, config.queue_octets // octets)
    count = int(config.rate * BURST_SECONDS / 8 / octets)
    return max(2, min(count, MOST_BURST_FRAMES, room + 1)), octets


def _mismatches(way: _Way, measured: Measured) -> Iterator[str]:
    """Each thing that a link does otherwise than it is set to."""
    config, name = way.config, f"{way.link} {way.direction}"
    serialised = 0.0 if config.rate is None else PACKET_OCTETS * 8 / config.rate
    delay = config.delay + serialised
    tolerance = DELAY_TOLERANCE + SHARE_TOLERANCE * delay + 2 * config.jitter
    # The least one: what a busy machine adds to some frames is not the link's doing.
    if abs(measured.least_delay - delay) > tolerance:
        yield f"{name}: delay set to {delay:.6f} s, measured {measured.least_delay:.6f} s"
    if way.lost != way.lost_as_drawn:
        wanted, lost = ([*numbers[:5]] for numbers in (way.lost_as_drawn, way.lost))
        yield (
            f"{name}: the seed takes {len(way.lost_as_drawn)} of {way.count} packets "
            f"({wanted}...), {len(way.lost)} were lost ({lost}...)"
        )
    if way.leaks:
        yield f"{name}: {', '.join(way.leaks)} set to be blocked, and it passes"
    rate = config.rate
    if rate is None or rate > LARGEST_JUDGED_RATE:
        return
    if measured.rate is None:
        yield f"{name}: rate set to {rate:.0f} bit/s, nothing measured"
        return
    _count, octets = _burst_size(config)
    burst = max(_count - 1, 1) * octets * 8 / rate
    tolerance = RATE_TOLERANCE + (2 * config.jitter + DELAY_TOLERANCE) / burst
    if abs(measured.rate - rate) > tolerance * rate:
        yield f"{name}: rate set to {rate:.0f} bit/s, measured {measured.rate:.0f} bit/s"
