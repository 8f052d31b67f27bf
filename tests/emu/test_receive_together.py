"""What a sender sealed together and the kernel brings in two trains is read as one."""

import socket

import pytest

from ipseclab.emu import offloads
from ipseclab.ipsec.train import BUFFER_SIZE, longest_train

SIZE = 1472
FULL = longest_train(SIZE)


@pytest.fixture
def ends():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        sender.bind(("127.0.0.1", 0))
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        try:
            offloads.receive_trains(receiver)
        except OSError as lack:
            pytest.skip(f"no UDP receive offload: {lack}")
        yield sender, receiver


def together(receiver, buffer):
    yield from offloads.receive_rest(receiver, buffer, offloads.receive_train(receiver, buffer))


def octets(length, start):
    return bytes((start + number) % 251 for number in range(length))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ([(FULL, SIZE), (3 * SIZE, SIZE)], [(FULL + 3 * SIZE, SIZE)]),
        ([(FULL, SIZE), (2 * SIZE + 9, SIZE)], [(FULL + 2 * SIZE + 9, SIZE)]),
        ([(FULL, SIZE), (100, 100)], [(FULL + 100, SIZE)]),
        ([(FULL, SIZE), (500, 100)], [(FULL, SIZE), (500, 100)]),
        ([(FULL, SIZE), (1480, 1480)], [(FULL, SIZE), (1480, 1480)]),
        ([(FULL, SIZE)], [(FULL, SIZE)]),
        ([(3 * SIZE, SIZE), (FULL, SIZE)], [(3 * SIZE, SIZE), (FULL, SIZE)]),
    ],
)
def test_what_follows_a_full_train_is_joined_to_it_where_it_may(ends, sent, read):
    sender, receiver = ends
    for number, (length, size) in enumerate(sent):
        train = memoryview(octets(length, number))
        offloads.send_train(sender, train, size, receiver.getsockname())
    buffer, found, contents = memoryview(bytearray(BUFFER_SIZE)), [], b""
    while len(found) < len(read):
        for length, size, remote in together(receiver, buffer):
            assert remote == sender.getsockname()
            found.append((length, size))
            contents += bytes(buffer[:length])
    with pytest.raises(BlockingIOError):
        next(together(receiver, buffer))
    assert found == read
    assert contents == b"".join(octets(length, n) for n, (length, _) in enumerate(sent))
