"""A pipe in virtual time between two TCP connections, for tests: delay, rate, queue, and a fate for
each segment by its index in its direction."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from ipseclab.sim.tcp import Connection, Segment, decode_segment, encode_segment

CLIENT = bytes((10, 0, 0, 1))
SERVER = bytes((10, 0, 0, 2))

Fate = Callable[[int, Segment], tuple[float, ...]]
"""Extra delays of the copies of segment `index`; empty: lost."""


def carried(index: int, segment: Segment) -> tuple[float, ...]:
    return (0.0,)


@dataclass
class Direction:
    """One way: seconds of delay, octets a second (None: no limit), segments of queue."""

    delay: float = 0.05
    rate: float | None = None
    queue: int = 10_000
    fate: Fate = carried
    index: int = 0
    busy_until: float = 0.0
    log: list[tuple[float, Segment]] = field(default_factory=list)

    def arrivals(self, now: float, segment: Segment, size: int) -> list[float]:
        index, self.index = self.index, self.index + 1
        self.log.append((now, segment))
        start = max(now, self.busy_until)
        if self.rate is not None:
            if (start - now) * self.rate > self.queue * 1500:
                return []
            self.busy_until = start = start + (size + 20) / self.rate
        return [start + self.delay + extra for extra in self.fate(index, segment)]


class Pipe:
    """Two connections and the ways between them; `run` steps virtual time."""

    def __init__(
        self, client: Connection, server: Connection, forth: Direction, back: Direction
    ) -> None:
        self.ends = (client, server)
        self.ways = (forth, back)
        self.now = 0.0
        self.received = (bytearray(), bytearray())
        self._events: list[tuple[float, int, int, bytes]] = []
        self._order = itertools.count()

    def open(self) -> None:
        self._send(0, self.ends[0].open(self.now))

    def run(self, until: float, stop: Callable[[], bool] = lambda: False) -> None:
        while not stop():
            at, end = self._next()
            if at > until:
                break
            self.now = max(self.now, at)
            if end is None:
                _, _, target, octets = heapq.heappop(self._events)
                addresses = (CLIENT, SERVER) if target else (SERVER, CLIENT)
                segment = decode_segment(octets, *addresses)
                self._send(target, self.ends[target].receive(segment, self.now))
            else:
                self._send(end, self.ends[end].handle_timeout(self.now))
        else:
            return
        self.now = until

    def _next(self) -> tuple[float, int | None]:
        best, which = (self._events[0][0] if self._events else float("inf")), None
        for index, end in enumerate(self.ends):
            deadline = end.next_deadline()
            if deadline is not None and deadline < best:
                best, which = deadline, index
        return best, which

    def _send(self, end: int, segments: list[Segment]) -> None:
        self.received[end].extend(self.ends[end].take_received())
        addresses = (SERVER, CLIENT) if end else (CLIENT, SERVER)
        for segment in segments:
            octets = encode_segment(segment, *addresses)
            for at in self.ways[end].arrivals(self.now, segment, len(octets)):
                heapq.heappush(self._events, (at, next(self._order), 1 - end, octets))
