"""Nothing that comes from a network raises or unseats an SA: 10,000 random and mutated packets."""

import random
import struct

import pytest
from datapath_pair import (
    LEFT,
    LEFT_HOST,
    PATH,
    RIGHT,
    RIGHT_HOST,
    SUITES,
    Pair,
    delivered,
    packed,
    receive,
    reverse,
)
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.ipsec import flows
from ipseclab.ipsec.sad import FLOWS_PER_SA
from ipseclab.outputs import Notice, SendDatagram
from ipseclab.wire.ip import build_ipv4

ROUNDS = 10_000


def cut(octets, rng):
    return octets[: rng.randrange(len(octets) + 1)]


def extend(octets, rng):
    return octets + rng.randbytes(rng.randrange(1, 80))


def flip(octets, rng):
    changed = bytearray(octets)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(octets, rng):
    changed = bytearray(octets)
    start = rng.randrange(len(changed))
    octets = rng.choice([b"\0" * 4, b"\xff" * 4, rng.randbytes(4)])
    changed[start : start + 4] = octets
    return bytes(changed)


def splice(octets, rng):
    start, end = sorted(rng.randrange(len(octets)) for _ in range(2))
    return octets[:start] + octets[end:]


def repeat(octets, rng):
    return octets


def renumber(octets, rng):
    """Another sequence number under the same SPI; at the place that it has in UDP."""
    return octets[:4] + rng.randbytes(4) + octets[8:]


def nonsense(octets, rng):
    return rng.randbytes(rng.randrange(120))


MUTATIONS = (cut, extend, flip, overwrite, splice, repeat, renumber, nonsense)


def check_drops_only(outputs):
    for output in outputs:
        assert isinstance(output, Notice), output
        assert output.event == "packet_dropped"


@pytest.mark.parametrize("path", [None, PATH], ids=["esp", "udp"])
@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("name", ["aes128gcm16", "aes256-sha512"])
def test_mutated_packets_are_dropped_and_the_sa_still_works(name, tunnel, path):
    pair = Pair(SUITES[name], tunnel=tunnel, path=path)
    rng = random.Random(f"{name}/{tunnel}/{path}")
    got = 0
    for round_number in range(ROUNDS // 8):
        packet = pair.packet(rng.randbytes(rng.randrange(60)))
        (output,) = pair.left.send_packet(packet, 0.0)
        octets = output.data if isinstance(output, SendDatagram) else output.packet
        assert len(delivered(receive(pair.right, output))) == 1
        hostile = rng.choice(MUTATIONS)(octets, rng)
        if isinstance(output, SendDatagram):
            outputs = pair.right.receive_esp(hostile, reverse(path), 0.0)
        else:
            outputs = pair.right.receive_packet(hostile, 0.0)
        got += len(outputs)
        # A changed outer header can leave the ESP inside whole; then it is a replay.
        check_drops_only(outputs)
        assert round_number + 1 == pair.right.counters.packets_in
    # What has become a fragment waits for others, in vain.
    outputs = pair.right.handle_timeout(1000.0)
    check_drops_only(outputs)
    got += len(outputs)
    assert got == ROUNDS // 8
    assert sum(pair.right.counters.drops.values()) == got


def hostile_ipv4(rng):
    """An IPv4 packet of which any field may be wrong, with the right SPI now and then."""
    protocol = rng.choice([1, 6, 17, 50, 50, 50, rng.randrange(256)])
    addresses = [packed(text) for text in (LEFT, RIGHT, LEFT_HOST, RIGHT_HOST)]
    payload = rng.choice([b"", b"\xc0\0\0\x01", b"\xc0\0\0\x01\0\0\0\x01"])
    payload += rng.randbytes(rng.randrange(80))
    source, destination = rng.choice(addresses), rng.choice(addresses)
    packet = bytearray(build_ipv4(source, destination, protocol, payload))
    if rng.random() < 0.5:
        struct.pack_into("!H", packet, 2, rng.choice([0, 19, 20, 21, len(packet) + 1, 0xFFFF]))
    if rng.random() < 0.3:
        packet[0] = rng.randrange(256)
    if rng.random() < 0.3:
        packet[6:8] = rng.randbytes(2)
    return bytes(packet)


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
def test_random_packets_to_every_entrance(tunnel):
    pair = Pair(tunnel=tunnel)
    rng = random.Random(tunnel)
    for _ in range(ROUNDS):
        packet = rng.choice([hostile_ipv4(rng), rng.randbytes(rng.randrange(100))])
        check_drops_only(pair.right.receive_packet(packet, 0.0))
        check_drops_only(pair.right.receive_esp(packet[20:], reverse(PATH), 0.0))
        for output in pair.right.send_packet(packet, 0.0):
            assert not delivered([output])
    assert pair.right.counters.packets_in == 0
    assert len(delivered(pair.to_right(pair.packet()))) == 1


@given(plaintext=st.binary(max_size=200), protocol=st.integers(0, 255), pad=st.integers(0, 255))
def test_peer_that_knows_the_keys_can_send_anything(plaintext, protocol, pad):
    """Authenticated, yet hostile: what is inside may be of any shape."""
    for tunnel in (True, False):
        for path in (None, PATH):
            pair = Pair(tunnel=tunnel, path=path)
            half = pair.left.sad.inbound(pair.left_sa.spi_in).outbound
            header = half.spi + b"\0\0\0\x01"
            body = plaintext + bytes(-(len(plaintext) + 2) % 4) + bytes([pad, protocol])
            esp = header + half.protection.seal(header, bytes(8), body)
            if path is not None:
                outputs = pair.right.receive_esp(esp, reverse(path), 0.0)
            else:
                outer = build_ipv4(packed(LEFT), packed(RIGHT), 50, esp)
                outputs = pair.right.receive_packet(outer, 0.0)
            if not delivered(outputs) and protocol != 59:
                check_drops_only(outputs)


def test_memory_of_outbound_flows_is_bounded(monkeypatch):
    monkeypatch.setattr(flows, "FLOW_LIMIT", 100)
    pair = Pair()
    for port in range(350):
        assert len(pair.left.send_packet(pair.packet(ports=(port, port)), 0.0)) == 1
        assert len(pair.left._flows._entries) <= 100
        assert sum(map(len, pair.left._flows._keys.values())) <= 100


def test_memory_of_inbound_flows_is_bounded():
    pair = Pair()
    half = pair.right.sad.inbound(pair.right_sa.spi_in).inbound
    for port in range(3 * FLOWS_PER_SA):
        assert len(delivered(pair.to_right(pair.packet(ports=(port, port))))) == 1
        assert len(half.checked_flows) <= FLOWS_PER_SA
