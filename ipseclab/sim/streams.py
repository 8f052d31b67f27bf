"""The TCP connections of a simulated gateway to and from port 4500, for IKE and ESP (RFC 9329).

A `TcpStack` on the unprotected side: its packets do not pass the SPD, as those of the gateway's
UDP sockets do not. The driver is told of connections, octets, and what TCP has sent.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address

from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.streams import STREAM_PORTS
from ipseclab.lab.stream_listener import StreamListener
from ipseclab.outputs import TcpPath, UdpEndpoint
from ipseclab.sim.clock import Clock
from ipseclab.sim.icmp import IcmpError
from ipseclab.sim.node import Address, IpHeader, Node, SegmentHandler
from ipseclab.sim.sockets import Ends, Socket, TcpStack
from ipseclab.sim.tcp import QueueStream, TcpState
from ipseclab.wire.ip import DONT_FRAGMENT, build_ipv4

CONGESTION = "cubic"
"""Linux's default."""
CLOSING_SECONDS = 60.0
"""How long the peer may take to end its half: Linux's tcp_fin_timeout."""


class _Outside:
    """A node as its TCP on the unprotected side sees it."""

    def __init__(self, node: Node, send: Callable[[bytes], None]) -> None:
        self.name = node.name
        self.clock: Clock = node.clock
        self.receive: SegmentHandler
        self._node = node
        self._send = send
        self._identification = 0

    def source_for(self, destination: Address) -> Address | None:
        """Never asked: each connection says where it comes from."""
        return Node.source_for(self._node, destination)

    def path_mtu(self, destination: Address) -> int:
        """The link's, not the tunnel's."""
        return Node.path_mtu(self._node, destination)

    def originate(self, protocol: int, source: Address, destination: Address, data: bytes) -> None:
        """Send a packet that no policy looks at."""
        self._identification = (self._identification + 1) & 0xFFFF
        packet = build_ipv4(
            source,
            destination,
            protocol,
            data,
            identification=self._identification,
            flags_fragment=DONT_FRAGMENT,
        )
        self._send(packet)

    def listen_tcp(self, handler: SegmentHandler) -> None:
        """The gateway's node hands on what is for these connections."""
        self.receive = handler

    def listen_errors(self, handler: Callable[[IcmpError], None]) -> None:
        """ICMP errors about packets of the node."""
        self._node.listen_errors(handler)


class StreamSockets:
    """The connections by path. `send` puts a packet on the unprotected side."""

    def __init__(
        self,
        node: Node,
        listener: StreamListener,
        *,
        send: Callable[[bytes], None],
        rng: random.Random,
        listens: bool,
    ) -> None:
        self._outside = _Outside(node, send)
        self._clock = node.clock
        self._listener = listener
        self._stack = TcpStack(self._outside, rng=rng)
        self._sockets: dict[TcpPath, Socket] = {}
        self._sent: dict[TcpPath, int] = {}
        self._open: dict[TcpPath, bool] = {}
        self._telling: dict[TcpPath, None] = {}
        if listens:
            self._stack.listen(NAT_T_PORT, self._octets, on_accept=self._accept)

    @staticmethod
    def concerns(source_port: int, port: int) -> bool:
        """Whether a segment between these ports may be of such a connection."""
        return port == NAT_T_PORT or (source_port == NAT_T_PORT and port in STREAM_PORTS)

    def receive(self, header: IpHeader, segment: bytes) -> None:
        """A segment from outside. Raises WireError."""
        self._outside.receive(header, segment)

    def open(self, path: TcpPath) -> None:
        """Open a connection from the path's own port."""
        own, peer = (ip_address(end.address).packed for end in path)
        ends = Ends(own, path.local.port, peer, path.remote.port)
        socket = self._stack.prepare(ends, stream=QueueStream(), congestion=CONGESTION)
        socket.on_octets = self._octets
        self._add(path, socket)
        socket.open()

    def send(self, path: TcpPath, octets: bytes) -> None:
        """Write octets; none of a connection that is gone."""
        socket = self._sockets.get(path)
        if socket is not None:
            stream = _stream(socket)
            stream.append(octets)
            socket.write(stream.written)

    def close(self, path: TcpPath, *, abort: bool) -> None:
        """Close a connection behind what was written, or reset it."""
        socket = self._forget(path)
        if socket is None:
            return
        socket.on_change = _forget_acknowledged
        socket.on_octets = None
        if abort or socket.connection.state in (TcpState.CLOSED, TcpState.SYN_SENT):
            socket.reset()
        else:
            socket.finish()
            self._clock.call_at(self._clock.now + CLOSING_SECONDS, _end, socket)

    def _add(self, path: TcpPath, socket: Socket) -> None:
        self._sockets[path] = socket
        self._sent[path] = 0
        self._open[path] = False
        socket.on_change = self._changed

    def _forget(self, path: TcpPath) -> Socket | None:
        self._sent.pop(path, None)
        self._open.pop(path, None)
        return self._sockets.pop(path, None)

    def _accept(self, socket: Socket) -> None:
        self._add(_path_of(socket), socket)

    def _octets(self, socket: Socket, octets: bytes) -> None:
        path = _path_of(socket)
        self._tell_open(path, socket)
        if octets and self._sockets.get(path) is socket:
            self._listener.receive_stream(path, octets)

    def _tell_open(self, path: TcpPath, socket: Socket) -> None:
        waiting = (TcpState.CLOSED, TcpState.SYN_SENT, TcpState.SYN_RECEIVED)
        if self._open.get(path, True) or socket.connection.state in waiting:
            return
        self._open[path] = True
        if path.local.port == NAT_T_PORT:
            self._listener.stream_accepted(path)
        else:
            self._listener.stream_opened(path)

    def _changed(self, socket: Socket) -> None:
        path, connection = _path_of(socket), socket.connection
        if self._sockets.get(path) is not socket:
            return
        self._tell_open(path, socket)
        if connection.sender.first_sent > self._sent[path] and path not in self._telling:
            # Not from within: what follows has to be sent behind what is being sent.
            self._telling[path] = None
            self._clock.call_at(self._clock.now, self._tell_sent, path)
        _forget_acknowledged(socket)
        if connection.closed_because is not None:
            was_open = self._open[path]
            self._forget(path)
            if was_open or path.local.port != NAT_T_PORT:
                self._listener.stream_closed(path, connection.closed_because)
        elif connection.receiver.fin_received:
            self.close(path, abort=False)
            self._listener.stream_closed(path, "closed by the peer")

    def _tell_sent(self, path: TcpPath) -> None:
        self._telling.pop(path, None)
        socket = self._sockets.get(path)
        if socket is not None:
            sent = socket.connection.sender.first_sent
            more, self._sent[path] = sent - self._sent[path], sent
            self._listener.stream_sent(path, more)


def _end(socket: Socket) -> None:
    """The peer has not ended its half in time."""
    if socket.connection.closed_because is None:
        socket.reset()


def _forget_acknowledged(socket: Socket) -> None:
    _stream(socket).forget(socket.connection.sender.acknowledged)


def _stream(socket: Socket) -> QueueStream:
    stream = socket.connection.sender.stream
    assert isinstance(stream, QueueStream)
    return stream


def _path_of(socket: Socket) -> TcpPath:
    ends = socket.ends
    return TcpPath(
        UdpEndpoint(str(ip_address(ends.own)), ends.own_port),
        UdpEndpoint(str(ip_address(ends.peer)), ends.peer_port),
    )
