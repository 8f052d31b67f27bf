"""AGGFRAG payloads (RFC 9347): what is put in comes out, in any order, and nothing else does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.ipsec.aggfrag import (
    QUEUED_OCTETS,
    QUEUED_PACKETS,
    WINDOW,
    WINDOW_OCTETS,
    BlockReceiver,
    BlockSender,
)
from ipseclab.ipsec.counters import Dropped
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4
from ipseclab.wire.ipv6 import build_ipv6

A, B = bytes([10, 1, 0, 5]), bytes([10, 2, 0, 7])
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\2"


def packet(octets, seed=0, version=4):
    """An IP packet of that many octets."""
    noise = random.Random(seed)
    if version == 6:
        return build_ipv6(A6, B6, IpProtocol.UDP, noise.randbytes(octets - 40))
    return build_ipv4(A, B, IpProtocol.UDP, noise.randbytes(octets - 20))


def payloads(packets, size, *, fragments=True, more=0):
    """All payloads that carry these packets, and `more` empty ones."""
    sender = BlockSender(fragments=fragments)
    assert all(sender.offer(one) for one in packets)
    found, sent = [], 0
    while sent < len(packets):
        payload, ended = sender.fill(size)
        sent += len(ended)
        found.append(payload)
    return found + [sender.fill(size)[0] for _ in range(more)]


def received(numbered):
    receiver = BlockReceiver()
    return [one for number, payload in numbered for one in receiver.take(number, payload)]


def test_small_packets_share_a_payload():
    packets = [packet(60, seed) for seed in range(5)]
    (payload,) = payloads(packets, 400)
    assert payload[:4] == bytes(4)
    assert payload[4:] == b"".join(packets).ljust(396, b"\0")


def test_a_long_packet_goes_in_several_whose_offset_says_how_much_is_to_come():
    whole = packet(1000)
    found = payloads([whole, packet(40, 1)], 300)
    assert [int.from_bytes(one[2:4], "big") for one in found] == [0, 704, 408, 112]
    assert b"".join(one[4:] for one in found)[:1000] == whole
    assert received(enumerate(found, 1)) == [whole, packet(40, 1)]


def test_nothing_to_send_is_all_padding():
    assert BlockSender().fill(200) == (bytes(200), [])
    assert received(enumerate([bytes(200)] * 3)) == []


def test_without_fragments_each_packet_is_whole_in_its_payload():
    packets = [packet(octets, octets) for octets in (100, 150, 90, 196)]
    found = payloads(packets, 200, fragments=False)
    assert [one[2:4] for one in found] == [b"\0\0"] * len(found)
    assert len(found) == 4
    assert received(enumerate(found)) == packets


def test_a_lost_payload_takes_along_what_was_in_it_and_nothing_more():
    packets = [packet(250, seed) for seed in range(8)]
    found = payloads(packets, 300)
    got = received((n, one) for n, one in enumerate(found) if n != 2)
    assert got == [*packets[:2], *packets[4:]]  # it held parts of two


def test_padding_between_two_parts_does_not_part_them():
    first, second = payloads([packet(400)], 300)
    assert received([(1, first), (2, bytes(300)), (3, second)]) == [packet(400)]


@given(
    sizes=st.lists(st.tuples(st.integers(40, 3000), st.sampled_from([4, 6])), max_size=30),
    size=st.integers(60, 1500),
    seed=st.integers(0, 1000),
    fragments=st.booleans(),
)
def test_whatever_goes_in_comes_out_also_out_of_order(sizes, size, seed, fragments):
    packets = [packet(octets, n, version) for n, (octets, version) in enumerate(sizes)]
    if not fragments:
        packets = [one for one in packets if len(one) <= size - 4]
    found = payloads(packets, size, fragments=fragments, more=3)
    assert all(len(one) == size for one in found)
    numbered = list(enumerate(found, 1))
    assert received(numbered) == packets
    shuffled = sorted(numbered, key=lambda one: one[0] + random.Random(seed + one[0]).random() * 20)
    if len(found) <= WINDOW:
        assert sorted(received(shuffled)) == sorted(packets)


@given(
    sizes=st.lists(st.integers(40, 3000), min_size=1, max_size=20),
    size=st.integers(60, 800),
    data=st.data(),
)
def test_what_is_lost_on_the_way_never_makes_a_packet_that_was_not_sent(sizes, size, data):
    packets = [packet(octets, n) for n, octets in enumerate(sizes)]
    found = list(enumerate(payloads(packets, size), 1))
    kept = [one for one in found if data.draw(st.booleans())]
    assert set(received(kept)) <= set(packets)


@given(st.lists(st.tuples(st.integers(0, 300), st.binary(max_size=400)), max_size=40))
def test_hostile_payloads_are_drops_or_packets_of_the_length_that_they_say(numbered):
    receiver = BlockReceiver()
    for number, octets in dict(numbered).items():
        for payload in (octets, bytes(2) + octets):
            try:
                got = receiver.take(number * 2 + (payload is octets), payload)
            except Dropped:
                continue
            for one in got:
                length = int.from_bytes(one[2:4], "big")
                six = int.from_bytes(one[4:6], "big") + 40
                assert len(one) == (length if one[0] >> 4 == 4 else six)


def test_parts_of_packets_that_never_end_take_bounded_room():
    receiver = BlockReceiver()
    start = b"\0\0\0\0" + packet(60_000)[:4000]
    for number in range(3 * WINDOW):
        assert receiver.take(2 * number, start) == []
        count, octets = receiver.waiting
        assert count <= WINDOW
        assert octets <= WINDOW_OCTETS
    count, _ = receiver.waiting
    assert receiver.take_lost() == 3 * WINDOW - count
    assert receiver.take_lost() == 0
    assert receiver.take(10**12, bytes(100)) == []


@pytest.mark.parametrize("payload", [b"", bytes(3), b"\1" + bytes(40), b"\xff" * 40])
def test_another_sub_type_or_half_a_header_is_no_payload(payload):
    with pytest.raises(Dropped):
        BlockReceiver().take(1, payload)


def test_what_is_wrong_behind_a_good_packet_is_counted():
    receiver = BlockReceiver()
    assert receiver.take(1, bytes(4) + packet(50) + b"\x50" * 20) == [packet(50)]
    assert receiver.take_lost() == 1
    short = bytes(4) + b"\x45\0\0\x05" + bytes(20)
    assert receiver.take(2, short) == []
    assert receiver.take_lost() == 1


def test_the_queue_is_bounded_and_gives_back_what_was_not_sent():
    sender = BlockSender()
    small, large = packet(40), packet(60_000)
    assert [sender.offer(small) for _ in range(QUEUED_PACKETS + 1)].count(True) == QUEUED_PACKETS
    assert sender.leave() == [small] * QUEUED_PACKETS
    taken = [sender.offer(large) for _ in range(100)].count(True)
    assert taken == QUEUED_OCTETS // len(large)
    sender.fill(500)
    assert sender.leave() == [large] * taken
    assert sender.fill(100) == (bytes(100), [])
