"""The TCP sockets of a gateway's process to and from port 4500, for IKE and ESP (RFC 9329).

All of them are behind one epoll descriptor, which the gateway's loop polls beside its others.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from errno import EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM
from os import strerror

from ipseclab.emu import devices
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.lab.stream_listener import StreamListener
from ipseclab.outputs import TcpPath, UdpEndpoint

BACKLOG = 1024
MOST_ACCEPTED = 64
"""Connections taken at a time before the others are looked at."""
READ_AT_ONCE = 262_144
CONGESTION = b"cubic"
"""As in the simulator; the kernel's default where it lacks that."""
CLOSING_SECONDS = 60.0
"""How long a peer may take no octets of a connection that is closed, as in the simulator."""
NO_ROOM = (EMFILE, ENFILE, ENOBUFS, ENOMEM)
"""The kernel has no descriptor or no memory for one connection more."""


class _Connection:
    """A socket and what it could not take yet."""

    def __init__(self, path: TcpPath, opened: socket.socket, *, is_open: bool) -> None:
        self.path = path
        self.socket = opened
        self.is_open = is_open
        self.pending = bytearray()
        self.closing = False


class StreamSockets:
    """Connections by path. What the kernel takes is told by `report`, never from within `send`:
    what follows has to be sent behind what is being sent."""

    def __init__(self, listener: StreamListener, *, listens: bool) -> None:
        self._listener = listener
        self._listens = listens
        self._epoll = select.epoll()
        self._listening: dict[str, socket.socket] = {}
        self._acceptors: dict[int, tuple[str, socket.socket]] = {}
        self._by_path: dict[TcpPath, _Connection] = {}
        self._by_descriptor: dict[int, _Connection] = {}
        self._taken: dict[TcpPath, int] = {}
        self._failed: dict[TcpPath, str] = {}
        self._spare = _spare_descriptor()
        """Given up for a moment to refuse a connection for which there is no other descriptor: as
        long as it waits, the listening socket can be read."""

    def fileno(self) -> int:
        """The descriptor that can be read when there is something to do."""
        return self._epoll.fileno()

    def take_addresses(self, addresses: Sequence[str]) -> None:
        """Accept connections to these addresses, and to no others."""
        if not self._listens:
            return
        for gone in [address for address in self._listening if address not in addresses]:
            opened = self._listening.pop(gone)
            del self._acceptors[opened.fileno()]
            opened.close()
        for address in addresses:
            if address not in self._listening:
                opened = devices.open_tcp_socket(address, NAT_T_PORT)
                opened.listen(BACKLOG)
                self._listening[address] = opened
                self._acceptors[opened.fileno()] = address, opened
                self._epoll.register(opened.fileno(), select.EPOLLIN)

    def open(self, path: TcpPath) -> None:
        """Open a connection from the path's own port."""
        try:
            opened = devices.open_tcp_socket(path.local.address, path.local.port)
        except OSError as error:
            self._failed[path] = _words(error)
            return
        self._prepare(opened)
        connection = self._add(_Connection(path, opened, is_open=False))
        code = opened.connect_ex((path.remote.address, path.remote.port))
        if code not in (0, EINPROGRESS):
            self._drop(connection)
            self._failed[path] = strerror(code)

    def send(self, path: TcpPath, octets: bytes) -> None:
        """Write octets; none of a connection that is gone."""
        connection = self._by_path.get(path)
        if connection is not None:
            connection.pending += octets
            self._write(connection)

    def close(self, path: TcpPath, *, abort: bool) -> None:
        """Close a connection behind what was written, or reset it."""
        connection = self._by_path.get(path)
        self._failed.pop(path, None)
        if connection is None:
            return
        if abort or not connection.is_open:
            devices.reset_on_close(connection.socket)
            self._drop(connection)
        elif connection.pending:
            connection.closing = True
            devices.give_up_after(connection.socket, CLOSING_SECONDS)
            del self._by_path[path]
        else:
            self._drop(connection)

    def handle(self) -> None:
        """Do what the sockets are ready for."""
        for descriptor, events in self._epoll.poll(0):
            if descriptor in self._acceptors:
                self._accept(*self._acceptors[descriptor])
                continue
            connection = self._by_descriptor.get(descriptor)
            if connection is None:
                continue
            if not connection.is_open and not self._opened(connection):
                continue
            if events & select.EPOLLOUT:
                self._write(connection)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(connection)

    def report(self) -> None:
        """Tell what the kernel has taken, and what could not be opened, until nothing follows."""
        while self._taken or self._failed:
            taken, self._taken = self._taken, {}
            failed, self._failed = self._failed, {}
            for path, octets in taken.items():
                if path in self._by_path:
                    self._listener.stream_sent(path, octets)
            for path, reason in failed.items():
                self._listener.stream_closed(path, reason)

    def _add(self, connection: _Connection) -> _Connection:
        descriptor = connection.socket.fileno()
        self._by_path[connection.path] = self._by_descriptor[descriptor] = connection
        self._epoll.register(descriptor, self._wanted(connection))
        return connection

    @staticmethod
    def _wanted(connection: _Connection) -> int:
        writing = bool(connection.pending) or not connection.is_open
        return select.EPOLLIN | (select.EPOLLOUT if writing else 0)

    @staticmethod
    def _prepare(opened: socket.socket) -> None:
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        devices.limit_unsent(opened)
        with suppress(OSError):
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION)

    def _accept(self, address: str, listening: socket.socket) -> None:
        for _ in range(MOST_ACCEPTED):
            try:
                opened, (peer, port, *_) = listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # Else it is the new connection's own: gone again, or forbidden by a firewall.
                if error.errno in NO_ROOM:
                    self._refuse(listening)
                return
            opened.setblocking(False)
            self._prepare(opened)
            path = TcpPath(UdpEndpoint(address, NAT_T_PORT), UdpEndpoint(peer, port))
            former = self._by_path.get(path)
            if former is not None:
                # The peer has lost it; the kernel's word of that may come later than this.
                self._drop(former)
            self._add(_Connection(path, opened, is_open=True))
            self._listener.stream_accepted(path)

    def _refuse(self, listening: socket.socket) -> None:
        """Reset the connection that waits first."""
        os.close(self._spare)
        with suppress(OSError):
            refused, _ = listening.accept()
            devices.reset_on_close(refused)
            refused.close()
        self._spare = _spare_descriptor()

    def _opened(self, connection: _Connection) -> bool:
        """Whether the connection that was being opened is there."""
        code = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._lose(connection, strerror(code))
            return False
        connection.is_open = True
        self._epoll.modify(connection.socket.fileno(), self._wanted(connection))
        self._listener.stream_opened(connection.path)
        return connection.socket.fileno() >= 0

    def _write(self, connection: _Connection) -> None:
        if not connection.is_open or not connection.pending:
            return
        try:
            count = connection.socket.send(connection.pending)
        except BlockingIOError:
            count = 0
        except OSError:
            return  # reading tells of it
        del connection.pending[:count]
        if count and not connection.closing:
            path = connection.path
            self._taken[path] = self._taken.get(path, 0) + count
        if connection.closing and not connection.pending:
            self._drop(connection)
        else:
            self._epoll.modify(connection.socket.fileno(), self._wanted(connection))

    def _read(self, connection: _Connection) -> None:
        try:
            octets = connection.socket.recv(READ_AT_ONCE)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(connection, _words(error))
            return
        if not octets:
            self._lose(connection, "closed by the peer")
        elif not connection.closing:
            self._listener.receive_stream(connection.path, octets)

    def _lose(self, connection: _Connection, reason: str) -> None:
        self._drop(connection)
        if not connection.closing:
            self._listener.stream_closed(connection.path, reason)

    def _drop(self, connection: _Connection) -> None:
        if self._by_path.get(connection.path) is connection:
            del self._by_path[connection.path]
            self._taken.pop(connection.path, None)
        self._by_descriptor.pop(connection.socket.fileno(), None)
        connection.socket.close()


def _spare_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _words(error: OSError) -> str:
    return error.strerror if error.strerror is not None else type(error).__name__
