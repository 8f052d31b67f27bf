"""An impaired link: a process that carries IP frames between two interfaces, each direction
through `lab.impairment`.

The kernel's netem is not needed, and what a packet meets is drawn by its index, so the packets lost
are those that the simulator loses. Frames of another kind than the link's IP are not carried:
neighbours are static.
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path
from typing import TextIO

from ipseclab.emu import devices
from ipseclab.emu.process import (
    Child,
    Control,
    EarlyRiser,
    PrecisePoll,
    be_punctual,
    start,
)
from ipseclab.lab.impairment import Dropped, Impairment, ImpairmentConfig
from ipseclab.lab.trace import Trace

DIRECTIONS = ("forward", "backward")
BURST = 64
"""Frames taken from one side before the clock and the other side are looked at."""
LARGEST_PENDING = 200_000
"""Frames under way in a link; more are dropped, counted as `overrun`."""
_HEADER = devices.ETHERNET_HEADER.size


@dataclass(frozen=True, slots=True)
class RelaySpec:
    """A link: its name, the relay's interface towards each end, and each direction's impairment.

    `forward` is from the first interface to the second.
    """

    name: str
    interfaces: tuple[str, str]
    impairments: tuple[ImpairmentConfig, ImpairmentConfig]
    seed: int
    version: int = 4
    """Of the link's IP."""


@dataclass(frozen=True, slots=True)
class SetImpairment:
    """Control: take `impairments` (forward, backward) from the next packet on."""

    impairments: tuple[ImpairmentConfig, ImpairmentConfig]


@dataclass(frozen=True, slots=True)
class Restart:
    """Control: count packets from index 0 again, and what is carried and lost from nothing; write
    the trace to `trace` from now on."""

    trace: Path


@dataclass(frozen=True, slots=True)
class Report:
    """Control: asks for the relay's `Carried`."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What a relay has done: frames taken from each side, and those that it could not cope with."""

    frames: tuple[int, int]
    overruns: int
    cpu_seconds: float


def start_relay(spec: RelaySpec, log: Path) -> Child:
    """Start the process of a link; it says "ready" when it carries frames."""
    return start(f"link {spec.name}", lambda control: Relay(spec).run(control), log=log)


class Relay:
    """The two directions of a link."""

    def __init__(self, spec: RelaySpec) -> None:
        self._spec = spec
        self._sockets = tuple(
            devices.open_packet_socket(name, spec.version) for name in spec.interfaces
        )
        self._stamped = tuple(devices.stamped(opened) for opened in self._sockets)
        self._configs = spec.impairments
        self._impairments = self._fresh()
        self._sink: TextIO | None = None
        self._trace: Trace | None = None
        # Frames under way: (when due, order of arrival, out of which side, index, the frame).
        self._pending: list[tuple[float, int, int, int, bytes]] = []
        self._order = 0
        self._frames = [0, 0]
        self._overruns = 0

    def run(self, control: Control) -> None:
        """Carry frames until told to end."""
        be_punctual()
        gc.disable()  # nothing here makes cycles, and a collection would hold frames up
        descriptors = [opened.fileno() for opened in self._sockets]
        poll = PrecisePoll(*descriptors, control.fileno())
        sides = {descriptors[0]: 0, descriptors[1]: 1}
        pending = self._pending
        riser = EarlyRiser(poll)
        control.send("ready")
        while True:
            for descriptor in riser.wait(pending[0][0] if pending else None):
                side = sides.get(descriptor)
                if side is not None:
                    self._take(side)
                elif not self._obey(control):
                    return
            if pending:
                self._release(riser)

    def _take(self, side: int) -> None:
        """Take what has come in from one side, up to a burst, and pass it on or keep it."""
        receive, stamped = self._sockets[side].recv, self._stamped[side]
        send, clock = self._sockets[1 - side].send, time.monotonic
        pass_packet = self._impairments[side].pass_packet
        # A delay counts from a frame's arrival, not from when this process gets to see it.
        exact = self._configs[side].delay > 0.0
        pending = self._pending
        for _ in range(BURST):
            try:
                if exact:
                    frame, now = stamped()
                else:
                    frame, now = receive(devices.LARGEST_FRAME), clock()
            except BlockingIOError:
                return
            self._frames[side] += 1
            packet = frame[_HEADER:]
            for outcome in pass_packet(packet, now):
                if isinstance(outcome, Dropped):
                    self._dropped(side, outcome.index, outcome.reason.value, packet, now)
                    continue
                if outcome.packet is not packet:
                    self._altered(side, outcome.index, outcome.duplicate, packet, now)
                    frame = frame[:_HEADER] + outcome.packet
                elif outcome.duplicate:
                    self._altered(side, outcome.index, outcome.duplicate, packet, now)
                if outcome.at <= now and not pending:
                    try:
                        send(frame)
                    except OSError:
                        self._overrun(side, outcome.index, frame, now)
                elif len(pending) < LARGEST_PENDING:
                    self._order += 1
                    heappush(pending, (outcome.at, self._order, 1 - side, outcome.index, frame))
                else:
                    self._overrun(side, outcome.index, frame, now)

    def _release(self, riser: EarlyRiser) -> None:
        """Send every frame that is due."""
        pending, sockets, now = self._pending, self._sockets, riser.now
        while pending and pending[0][0] <= now:
            _at, _order, side, index, frame = heappop(pending)
            try:
                sockets[side].send(frame)
            except OSError:
                self._overrun(1 - side, index, frame, now)
            riser.done()

    def _obey(self, control: Control) -> bool:
        """Carry out one control message; False when it is the last."""
        match control.receive():
            case SetImpairment(impairments):
                self._configs = impairments
                for impairment, config in zip(self._impairments, impairments, strict=True):
                    impairment.reconfigure(config)
                control.send(True)
            case Restart(path):
                self._restart(path)
                control.send(True)
            case Report():
                control.send(self._carried())
            case _:
                return False
        return True

    def _restart(self, path: Path) -> None:
        self._impairments = self._fresh()
        self._pending.clear()
        self._frames = [0, 0]
        devices.queue_losses(*self._sockets)
        self._overruns = 0
        if self._sink is not None:
            self._sink.close()
        # Line by line: a killed run leaves what happened up to then.
        self._sink = path.open("a", buffering=1, encoding="utf-8")
        self._trace = Trace(self._sink, keep=False)

    def _fresh(self) -> tuple[Impairment, Impairment]:
        spec = self._spec
        forward, backward = (
            Impairment(config, spec.seed, spec.name, direction)
            for config, direction in zip(self._configs, DIRECTIONS, strict=True)
        )
        return forward, backward

    def _carried(self) -> Carried:
        """With the frames that the kernel had no room for in the sockets' queues."""
        self._overruns += devices.queue_losses(*self._sockets)
        frames = (self._frames[0], self._frames[1])
        return Carried(frames, self._overruns, time.process_time())

    def _dropped(self, side: int, index: int, reason: str, packet: bytes, now: float) -> None:
        self._record(now, "link_dropped", side, index, reason, packet)

    def _altered(self, side: int, index: int, duplicate: bool, packet: bytes, now: float) -> None:
        event = "link_duplicated" if duplicate else "link_corrupted"
        self._record(now, event, side, index, event.removeprefix("link_"), packet)

    def _overrun(self, side: int, index: int, frame: bytes, now: float) -> None:
        """A frame that this process or the kernel's queue had no room for: said, never hidden."""
        self._overruns += 1
        self._record(now, "link_dropped", side, index, "overrun", frame[_HEADER:])

    def _record(
        self, now: float, event: str, side: int, index: int, reason: str, packet: bytes
    ) -> None:
        if self._trace is None:
            return
        self._trace.record(
            now,
            self._spec.name,
            event,
            direction=DIRECTIONS[side],
            index=index,
            reason=reason,
            octets=len(packet),
        )
