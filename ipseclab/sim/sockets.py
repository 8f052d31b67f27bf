"""A node's TCP: connections by their ports, each with its timer, on top of `sim.tcp`.

RFC 9293 section 3.10.7.1 (what is for nobody is reset), RFC 1191 (path MTU, learnt from ICMP).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ipseclab.ipsec.processing import SMALLEST_PATH_MTU
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.icmp import IcmpError, Trouble
from ipseclab.sim.node import Address, IpHeader, SegmentHandler
from ipseclab.sim.tcp import (
    Connection,
    QueueStream,
    Segment,
    Stream,
    TcpConfig,
    TcpState,
    decode_segment,
    encode_segment,
)
from ipseclab.sim.tcp.segment import ACK, FIN, HEADER_SIZE, RST, SYN
from ipseclab.wire.ip import IPV4_HEADER_SIZE
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE

FIRST_EPHEMERAL_PORT = 32_768
"""Linux's ip_local_port_range begins here."""
LAST_EPHEMERAL_PORT = 60_999

_PORTS = struct.Struct("!HH")
_TCP = int(IpProtocol.TCP)
_HEADER_SIZES = {4: IPV4_HEADER_SIZE, 16: IPV6_HEADER_SIZE}
"""By octets of addresses."""


class Ends(NamedTuple):
    """The address and port of either end."""

    own: Address
    own_port: int
    peer: Address
    peer_port: int


class Socket:
    """A connection on a node."""

    def __init__(
        self,
        ends: Ends,
        connection: Connection,
        stack: TcpStack,
        clock: Clock,
        *,
        on_octets: Callable[[Socket, bytes], None] | None = None,
    ) -> None:
        self.ends = ends
        self.connection = connection
        self.on_octets = on_octets
        self.on_change: Callable[[Socket], None] | None = None
        """Told after whatever may have changed what the connection says of itself."""
        self._stack = stack
        self._clock = clock
        self._timer = Timer(clock, self._time_out)

    def open(self) -> None:
        """Send the SYN."""
        self._put(self.connection.open(self._clock.now))

    def close(self) -> None:
        """End an endless stream here."""
        self._put(self.connection.close(self._clock.now))

    def write(self, written: int) -> None:
        """The stream has so many octets by now."""
        self._put(self.connection.write(written, self._clock.now))

    def finish(self) -> None:
        """End the stream behind what was written to it."""
        self._put(self.connection.finish(self._clock.now))

    def reset(self) -> None:
        """Forget the connection, and tell the peer."""
        self._put(self.connection.reset(self._clock.now))

    def receive(self, segment: Segment) -> None:
        """A segment of this connection has come in."""
        answers = self.connection.receive(segment, self._clock.now)
        octets = self.connection.take_received()
        # The application is told before the answer leaves: it may close with it.
        if self.on_octets is not None and (octets or self.connection.receiver.fin_received):
            self.on_octets(self, octets)
        self._put(answers)

    def shrink_path(self, mtu: int) -> None:
        """The path carries packets of `mtu` octets at most."""
        room = mtu - _HEADER_SIZES[len(self.ends.peer)]
        self._put(self.connection.shrink_path(room, self._clock.now))

    def _time_out(self, now: float) -> None:
        deadline = self.connection.next_deadline()
        if deadline is not None:
            self._put(self.connection.handle_timeout(max(now, deadline)))

    def _put(self, segments: Sequence[Segment]) -> None:
        for segment in segments:
            self._stack.send(self.ends, segment)
        connection = self.connection
        if connection.closed_because is not None and connection.state is TcpState.CLOSED:
            self._stack.forget(self.ends)
        self._timer.set(connection.next_deadline())
        if self.on_change is not None:
            self.on_change(self)


class TcpHost(Protocol):
    """What a TCP needs of the node that it runs on."""

    name: str
    clock: Clock

    def source_for(self, destination: Address) -> Address | None:
        """The address that the node sends from to `destination`."""

    def path_mtu(self, destination: Address) -> int:
        """The MTU of the first hop towards `destination`."""

    def originate(self, protocol: int, source: Address, destination: Address, data: bytes) -> None:
        """Send `data` as the payload of a packet."""

    def listen_tcp(self, handler: SegmentHandler) -> None:
        """Hand TCP segments to `handler`."""

    def listen_errors(self, handler: Callable[[IcmpError], None]) -> None:
        """Tell `handler` of each ICMP error about a packet of the node."""


class TcpStack:
    """All TCP of one node."""

    def __init__(self, node: TcpHost, *, rng: random.Random) -> None:
        self._node = node
        self._rng = rng
        self._sockets: dict[Ends, Socket] = {}
        self._listeners: dict[int, Callable[[Socket, bytes], None]] = {}
        self._on_accept: dict[int, Callable[[Socket], None]] = {}
        self._mtus: dict[Address, int] = {}
        self._next_port = FIRST_EPHEMERAL_PORT
        node.listen_tcp(self._receive)
        node.listen_errors(self._error)

    def listen(
        self,
        port: int,
        on_octets: Callable[[Socket, bytes], None],
        *,
        on_accept: Callable[[Socket], None] | None = None,
    ) -> None:
        """Accept connections to `port`; tell of each delivery, and of the end with b"". With
        `on_accept` those that are accepted, which it is told, have a `QueueStream` to send."""
        self._listeners[port] = on_octets
        if on_accept is not None:
            self._on_accept[port] = on_accept

    def connect(self, peer: Address, port: int, *, stream: Stream, congestion: str) -> Socket:
        """Open a connection that sends `stream`."""
        own = self._node.source_for(peer)
        assert own is not None, f"{self._node.name} has no route to a peer of a checked topology"
        ends = Ends(own, self._take_port(peer, port), peer, port)
        socket = self.prepare(ends, stream=stream, congestion=congestion)
        socket.open()
        return socket

    def prepare(self, ends: Ends, *, stream: Stream, congestion: str) -> Socket:
        """A connection between these ends that sends `stream` as soon as it is opened."""
        config = TcpConfig(mss=self._mss(ends.peer), congestion=congestion)
        return self._add(
            ends,
            Connection(
                ends.own_port,
                ends.peer_port,
                initial_sequence=self._rng.getrandbits(32),
                stream=stream,
                config=config,
            ),
        )

    def send(self, ends: Ends, segment: Segment) -> None:
        """Send a segment of a connection."""
        octets = encode_segment(segment, ends.own, ends.peer)
        self._node.originate(_TCP, ends.own, ends.peer, octets)

    def forget(self, ends: Ends) -> None:
        """A connection has ended."""
        self._sockets.pop(ends, None)

    def _add(self, ends: Ends, connection: Connection) -> Socket:
        socket = self._sockets[ends] = Socket(ends, connection, self, self._node.clock)
        return socket

    def _take_port(self, peer: Address, port: int) -> int:
        while True:
            candidate = self._next_port
            self._next_port += 1
            if self._next_port > LAST_EPHEMERAL_PORT:
                self._next_port = FIRST_EPHEMERAL_PORT
            taken = [ends.own_port for ends in self._sockets if ends.peer == peer]
            if candidate not in taken:
                return candidate

    def _mss(self, peer: Address) -> int:
        mtu = self._mtus.get(peer, self._node.path_mtu(peer))
        return mtu - _HEADER_SIZES[len(peer)] - HEADER_SIZE

    def _receive(self, header: IpHeader, octets: bytes) -> None:
        segment = decode_segment(octets, header.source, header.destination)
        ends = Ends(
            header.destination, segment.destination_port, header.source, segment.source_port
        )
        socket = self._sockets.get(ends)
        if socket is None:
            socket = self._accept(ends, segment)
        if socket is not None:
            socket.receive(segment)
        elif not segment.flags & RST:
            self._reset(ends, segment)

    def _accept(self, ends: Ends, segment: Segment) -> Socket | None:
        on_octets = self._listeners.get(ends.own_port)
        if on_octets is None or segment.flags & (SYN | ACK | RST) != SYN:
            return None
        connection = Connection(
            ends.own_port,
            ends.peer_port,
            initial_sequence=self._rng.getrandbits(32),
            stream=QueueStream() if ends.own_port in self._on_accept else None,
            config=TcpConfig(mss=self._mss(ends.peer)),
        )
        socket = self._add(ends, connection)
        socket.on_octets = on_octets
        if ends.own_port in self._on_accept:
            self._on_accept[ends.own_port](socket)
        return socket

    def _reset(self, ends: Ends, segment: Segment) -> None:
        length = len(segment.payload) + bool(segment.flags & SYN) + bool(segment.flags & FIN)
        known = bool(segment.flags & ACK)
        self.send(
            ends,
            Segment(
                ends.own_port,
                ends.peer_port,
                segment.acknowledgment if known else 0,
                0 if known else (segment.sequence + length) & 0xFFFFFFFF,
                RST if known else RST | ACK,
                0,
            ),
        )

    def _error(self, error: IcmpError) -> None:
        if error.trouble is not Trouble.TOO_BIG or error.protocol != IpProtocol.TCP:
            return
        segment, peer = error.segment, error.destination
        if len(segment) < _PORTS.size or not error.mtu:
            return
        # No host sends less in one piece (RFC 8201 section 4).
        mtu = max(error.mtu, SMALLEST_PATH_MTU[16]) if len(peer) != 4 else error.mtu
        own_port, peer_port = _PORTS.unpack_from(segment)
        self._mtus[peer] = min(mtu, self._mtus.get(peer, mtu))
        socket = self._sockets.get(Ends(error.source, own_port, peer, peer_port))
        if socket is not None:
            socket.shrink_path(mtu)
