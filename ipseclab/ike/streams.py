"""The TCP connections of an endpoint as carriers of messages: frames, queues, bounds (RFC 9329).

A driver owns the sockets; it hands in octets as they come and says when TCP has taken what was to
be sent. Which IKE_SA uses which connection, and when one is opened anew, is `ike.carrier`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from ipseclab.errors import IpsecLabError
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.tcp_stream import LARGEST_MESSAGE, STREAM_PREFIX, StreamReader, frame
from ipseclab.outputs import SendMessage, SendStream, TcpPath, UdpEndpoint

if TYPE_CHECKING:
    from ipseclab.ike.sa import IkeSa

STREAM_PORTS = range(61_000, 65_535)
"""Local ports of connections that this end opens: above those that Linux gives by itself, and below
the last one, with which its routing rules cannot end a range."""
MOST_UNSENT = 65_536
"""Octets handed to a driver that TCP has not taken: more would only age in its queue."""
MOST_QUEUED = 262_144
"""Octets of messages that wait here beyond that, of IKE and of ESP each; what comes then is
dropped, as a link does whose queue is full."""
MOST_BAD = 16
"""Messages in a row that no SA knows, or that fail their ICV, until a stream is taken for corrupt
(section 6.1: not after only a few)."""
NUMBER_SIZE = 8
"""Of what names a connection among the timers: peers can never open so many."""


class Undeliverable(IpsecLabError):
    """A message that no stream takes; `reason` is what it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def opened_here(path: TcpPath) -> bool:
    """True for a connection that this end opened: the peer's come to port 4500."""
    return path.local.port != NAT_T_PORT


@dataclass(slots=True, eq=False)
class Stream:
    """One connection. `number` is its name among the timers."""

    path: TcpPath
    number: bytes
    reader: StreamReader
    attempts: int = 0
    """How often in a row one was opened in vain before this."""
    is_open: bool = False
    broken: bool = False
    """It is gone; what used it waits for another one."""
    prefix_due: bool = False
    unsent: int = 0
    bad: int = 0
    sas: dict[bytes, IkeSa] = field(default_factory=dict)
    """The IKE_SAs that use it, by own SPI: one, and for a while the one that it is rekeyed to."""
    _urgent: deque[bytes] = field(default_factory=deque)
    _bulk: deque[bytes] = field(default_factory=deque)
    _queued: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def queued(self) -> int:
        """Octets that wait here for room."""
        return sum(self._queued)

    def put(self, message: bytes) -> list[SendStream]:
        """Frame a message and send it if there is room, else keep it. Raises Undeliverable."""
        if len(message) > LARGEST_MESSAGE:
            raise Undeliverable("too_big")
        framed = frame(message)
        esp = not message.startswith(NON_ESP_MARKER)
        if self.unsent < MOST_UNSENT and not self._urgent and not self._bulk:
            return [self._send(framed)]
        if self._queued[esp] + len(framed) > MOST_QUEUED:
            raise Undeliverable("stream_full")
        self._queued[esp] += len(framed)
        (self._bulk if esp else self._urgent).append(framed)
        return []

    def sent(self, octets: int) -> list[SendStream]:
        """TCP has taken so many octets more: what follows, IKE first."""
        self.unsent -= octets
        following: list[SendStream] = []
        while self.unsent < MOST_UNSENT and (self._urgent or self._bulk):
            esp = not self._urgent
            framed = (self._bulk if esp else self._urgent).popleft()
            self._queued[esp] -= len(framed)
            following.append(self._send(framed))
        return following

    def _send(self, framed: bytes) -> SendStream:
        octets = STREAM_PREFIX + framed if self.prefix_due else framed
        self.prefix_due = False
        self.unsent += len(octets)
        return SendStream(self.path, octets)


class Streams:
    """All connections of an endpoint, by path."""

    def __init__(self) -> None:
        self._by_path: dict[TcpPath, Stream] = {}
        self._by_number: dict[bytes, Stream] = {}
        self._idle: dict[bytes, Stream] = {}
        """Accepted ones that no IKE_SA uses, the oldest first."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._by_path)

    def __iter__(self) -> Iterator[Stream]:
        return iter(tuple(self._by_path.values()))

    def get(self, path: TcpPath) -> Stream | None:
        """The connection with that path."""
        return self._by_path.get(path)

    def numbered(self, number: bytes) -> Stream | None:
        """The connection with that number."""
        return self._by_number.get(number)

    def add(self, path: TcpPath, *, attempts: int = 0) -> Stream:
        """Keep a new connection; the originator's begins with the prefix."""
        own = opened_here(path)
        self._numbers += 1
        number = self._numbers.to_bytes(NUMBER_SIZE, "big")
        stream = Stream(path, number, StreamReader(prefixed=not own), attempts, prefix_due=own)
        self._by_path[path] = self._by_number[number] = stream
        if not own:
            self._idle[number] = stream
        return stream

    def remove(self, stream: Stream) -> None:
        """Forget a connection; doing it twice does nothing."""
        if self._by_number.pop(stream.number, None) is not None:
            del self._by_path[stream.path]
            self._idle.pop(stream.number, None)

    def attach(self, sa: IkeSa, stream: Stream) -> None:
        """`sa` uses that connection from now on."""
        stream.sas[sa.own_spi] = sa
        self._idle.pop(stream.number, None)

    def detach(self, sa: IkeSa, stream: Stream) -> None:
        """`sa` does not any more."""
        used = stream.sas.pop(sa.own_spi, None) is not None
        if used and not stream.sas and not opened_here(stream.path):
            self._idle[stream.number] = stream

    def has_room(self, path: TcpPath) -> bool:
        """Whether a new IKE_SA may begin there: one connection is for one (section 6.1)."""
        stream = self._by_path.get(path)
        return stream is not None and not stream.sas

    def surplus(self, most: int) -> list[Stream]:
        """The connections that have been idle longest, above `most` of those."""
        return list(islice(self._idle.values(), max(0, len(self._idle) - most)))

    def free_path(self, local: str, remote: str, start: int) -> TcpPath | None:
        """A path from the first local port, from number `start` of them on and around, that no
        connection has; None when all are taken."""
        there = UdpEndpoint(remote, NAT_T_PORT)
        for number in range(len(STREAM_PORTS)):
            port = STREAM_PORTS[(start + number) % len(STREAM_PORTS)]
            path = TcpPath(UdpEndpoint(local, port), there)
            if path not in self._by_path:
                return path
        return None

    def send(self, message: SendMessage) -> list[SendStream]:
        """The octets to send now. Raises Undeliverable."""
        stream = self._by_path.get(message.path)
        if stream is None or stream.broken:
            raise Undeliverable("stream_gone")
        return stream.put(message.data)

    def take(self, path: TcpPath, octets: bytes) -> list[bytes]:
        """The messages that are whole now."""
        stream = self._by_path.get(path)
        if stream is None or stream.broken:
            return []
        return stream.reader.take(octets)

    def fault(self, path: TcpPath) -> str:
        """Why a connection that is in use cannot be followed any more; empty where it can."""
        stream = self._by_path.get(path)
        return "" if stream is None or stream.broken else stream.reader.fault
