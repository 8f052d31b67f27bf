"""A gateway's TCP sockets against peers that connect in crowds, reset, and stop reading."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
from collections.abc import Iterator

import pytest

from ipseclab.emu import streams
from ipseclab.emu.streams import StreamSockets
from ipseclab.outputs import TcpPath

pytestmark = pytest.mark.netns  # marks sockets, which takes root

ADDRESS, PORT = "127.77.3.1", 4500
WAIT = 5_000
"""Milliseconds after which a test gives up."""


class Told:
    """What the sockets tell, by path."""

    def __init__(self) -> None:
        self.accepted: list[TcpPath] = []
        self.closed: list[tuple[TcpPath, str]] = []
        self.octets = b""

    def stream_accepted(self, path: TcpPath) -> None:
        self.accepted.append(path)

    def stream_opened(self, path: TcpPath) -> None:
        raise AssertionError(f"nobody asked for {path}")

    def stream_sent(self, path: TcpPath, octets: int) -> None:
        pass

    def stream_closed(self, path: TcpPath, reason: str) -> None:
        self.closed.append((path, reason))

    def receive_stream(self, path: TcpPath, octets: bytes) -> None:
        self.octets += octets


@pytest.fixture(params=[ADDRESS, "::1"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def sockets(told: Told, address: str) -> Iterator[StreamSockets]:
    made = StreamSockets(told, listens=True)
    made.take_addresses([address])
    yield made
    for path in told.accepted:
        made.close(path, abort=True)
    made.take_addresses([])


def handle(sockets: StreamSockets) -> None:
    """Wait until there is something to do, and do it."""
    poll = select.poll()
    poll.register(sockets.fileno(), select.POLLIN)
    assert poll.poll(WAIT), "nothing happens"
    sockets.handle()


def connect(address: str, source: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(WAIT / 1000)
    made.bind((address, source))
    made.connect((address, PORT))
    return made


def reset(made: socket.socket) -> None:
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    made.close()


def test_peer_is_known_by_address_and_port(
    sockets: StreamSockets, told: Told, address: str
) -> None:
    with connect(address) as peer:
        handle(sockets)
        peer.sendall(b"IKETCP")
        handle(sockets)
        (path,) = told.accepted
        assert tuple(path.remote) == peer.getsockname()[:2]
    assert told.octets == b"IKETCP"


def test_connection_without_a_descriptor_for_it_is_reset(
    sockets: StreamSockets, told: Told, address: str
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    crowd = [connect(address) for _ in range(3)]
    # A limit below the next free descriptor: none can be had, as if all were in use.
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        for _ in crowd:
            handle(sockets)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert told.accepted == []
    for peer in crowd:
        with pytest.raises(ConnectionResetError):
            peer.recv(1)
        peer.close()
    with connect(address):
        handle(sockets)
    assert len(told.accepted) == 1


def test_end_of_a_former_connection_does_not_end_the_one_with_the_same_ports(
    sockets: StreamSockets, told: Told, address: str
) -> None:
    first = connect(address)
    port = first.getsockname()[1]
    handle(sockets)
    reset(first)
    second = connect(address, port)
    while len(told.accepted) < 2:
        handle(sockets)
    second.sendall(b"IKETCP")
    while not told.octets:
        handle(sockets)
    # The former may have been told of before the new one came, never after it.
    assert told.accepted[0] == told.accepted[1]
    assert len(told.closed) <= 1
    sockets.send(told.accepted[1], b"answer")
    assert second.recv(16) == b"answer"
    second.close()


def test_peer_that_takes_nothing_does_not_keep_a_closed_connection(
    sockets: StreamSockets, told: Told, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "CLOSING_SECONDS", 0.2)
    with connect(address) as peer:
        handle(sockets)
        (path,) = told.accepted
        sockets.send(path, bytes(16_000_000))
        sockets.close(path, abort=False)
        assert sockets._by_descriptor
        while sockets._by_descriptor:
            handle(sockets)
        assert told.closed == []  # nobody waits for it
        assert peer.fileno() >= 0
