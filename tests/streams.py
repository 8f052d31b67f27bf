"""Two gateways with TCP between them: reliable pipes in order, which a test can break or hold up.

A connection is there one way after it was asked for; octets arrive `delay` later, cut in pieces of
`piece` octets. `refuse` and `udp` say what a firewall lets through.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pair import Pair, connection, gateway_config

from ipseclab.outputs import (
    CloseStream,
    OpenStream,
    Output,
    SendStream,
    TcpPath,
    UdpEndpoint,
)


@dataclass(eq=False)
class Pipe:
    """A connection as its two ends see it: the opener's path first."""

    paths: list[TcpPath]
    opener: int
    open: bool = False
    closed: list[bool] = field(default_factory=lambda: [False, False])
    octets: list[bytearray] = field(default_factory=lambda: [bytearray(), bytearray()])
    """What each side, by its number, has sent so far."""


@dataclass
class StreamPair(Pair):
    """A `Pair` that carries TCP, too. `blocked(side)`: True while TCP takes nothing of that side's;
    `nat(path)`: how the other end sees a connection that is opened along `path`."""

    refuse: Callable[[TcpPath], bool] = lambda path: False
    blocked: Callable[[int], bool] = lambda side: False
    nat: Callable[[TcpPath], TcpPath] | None = None
    piece: int = 1000
    pipes: list[Pipe] = field(default_factory=list)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _waiting: list[tuple[int, Pipe, bytes]] = field(default_factory=list)

    def carry_out(self, side: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            match output:
                case OpenStream(path):
                    self._open(side, path)
                case SendStream(path, octets):
                    self._write(side, self.pipe(path, side), octets)
                case CloseStream(path):
                    self._close(side, self.pipe(path, side))
                case _:
                    super().carry_out(side, [output])

    def pipe(self, path: TcpPath, side: int) -> Pipe | None:
        """The newest connection that `side` knows under `path`."""
        found = [p for p in self.pipes if p.paths[side] == path]
        return found[-1] if found else None

    @property
    def standing(self) -> list[Pipe]:
        """Connections that neither end has closed."""
        return [pipe for pipe in self.pipes if pipe.open and not any(pipe.closed)]

    def break_all(self) -> None:
        """Every connection breaks, and both ends learn it now."""
        for pipe in self.standing:
            pipe.closed = [True, True]
            for side in (1 - pipe.opener, pipe.opener):
                self.do(side, "stream_closed", pipe.paths[side], "reset")

    def go_on(self) -> None:
        """Take what was held up while `blocked`."""
        waiting, self._waiting = self._waiting, []
        for side, pipe, octets in waiting:
            self._write(side, pipe, octets)

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something so many seconds from now."""
        self._count += 1
        heapq.heappush(self._due, (self.now + seconds, self._count, action))

    def run(self, duration: float) -> None:
        end = self.now + duration
        while True:
            others = [self._queue[0][0]] if self._queue else []
            deadlines = [gateway.next_deadline() for gateway in self.gateways]
            others += [deadline.at for deadline in deadlines if deadline is not None]
            at = min([self._due[0][0], *others] if self._due else others, default=end)
            if at > end or (not self._due and not others):
                break
            super().run(max(0.0, at - self.now))
            if self._due and self._due[0][0] <= self.now:
                heapq.heappop(self._due)[2]()
        self.now = end

    def _open(self, side: int, path: TcpPath) -> None:
        seen = self.nat(path) if self.nat is not None else path
        paths = [path, TcpPath(seen.remote, seen.local)]
        pipe = Pipe(paths if side == 0 else paths[::-1], side)
        self.pipes.append(pipe)
        self.at(2 * self.delay, lambda: self._opened(pipe))

    def _opened(self, pipe: Pipe) -> None:
        if any(pipe.closed):
            return
        path = pipe.paths[pipe.opener]
        if self.refuse(path):
            pipe.closed = [True, True]
            self.do(pipe.opener, "stream_closed", path, "refused")
            return
        pipe.open = True
        self.do(1 - pipe.opener, "stream_accepted", pipe.paths[1 - pipe.opener])
        self.do(pipe.opener, "stream_opened", path)
        self.go_on()

    def _write(self, side: int, pipe: Pipe | None, octets: bytes) -> None:
        if pipe is None or pipe.closed[side]:
            return
        if not pipe.open or self.blocked(side):
            self._waiting.append((side, pipe, octets))
            return
        pipe.octets[side] += octets
        self.at(0.0, lambda: self._taken(side, pipe, len(octets)))
        for start in range(0, len(octets), self.piece):
            part = octets[start : start + self.piece]
            self.at(self.delay, lambda part=part: self._arrives(1 - side, pipe, part))

    def _taken(self, side: int, pipe: Pipe, octets: int) -> None:
        if not pipe.closed[side]:
            self.do(side, "stream_sent", pipe.paths[side], octets)

    def _arrives(self, side: int, pipe: Pipe, octets: bytes) -> None:
        if not pipe.closed[side]:
            self.do(side, "receive_stream", pipe.paths[side], octets)

    def _close(self, side: int, pipe: Pipe | None) -> None:
        if pipe is not None and not pipe.closed[side]:
            pipe.closed[side] = True
            self.at(self.delay, lambda: self._peer_closed(1 - side, pipe))

    def _peer_closed(self, side: int, pipe: Pipe) -> None:
        if not pipe.closed[side]:
            pipe.closed[side] = True
            self.do(side, "stream_closed", pipe.paths[side], "closed by the peer")


def make_stream_pair(
    *,
    both: dict[str, object] | None = None,
    a: dict[str, object] | None = None,
    b: dict[str, object] | None = None,
    limits: object = None,
    **options: object,
) -> StreamPair:
    """As `make_pair`; `limits` of both ends."""
    sides = [connection(i, **{**(both or {}), **(own or {})}) for i, own in enumerate((a, b))]
    configs = tuple(
        gateway_config(side, name="ab"[i], limits=limits)  # type: ignore[arg-type]
        for i, side in enumerate(sides)
    )
    return StreamPair(configs, **options)  # type: ignore[arg-type]


def stranger(number: int = 0) -> TcpPath:
    """A connection from somewhere to b, as b sees it."""
    return TcpPath(UdpEndpoint("198.51.100.1", 4500), UdpEndpoint("203.0.113.9", 50_000 + number))
