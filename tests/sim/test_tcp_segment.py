from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP

from ipseclab.errors import WireError
from ipseclab.sim.tcp import Segment, decode_segment, encode_segment
from ipseclab.sim.tcp.segment import ACK, FIN, HEADER_SIZE, PSH, RST, SYN
from ipseclab.wire.ip import pseudo_header_checksum

A, B = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))
PORTS = st.integers(0, 0xFFFF)
NUMBERS = st.integers(0, 0xFFFFFFFF)
BLOCKS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3).map(tuple)

SEGMENTS = st.builds(
    Segment,
    PORTS,
    PORTS,
    NUMBERS,
    NUMBERS,
    st.sampled_from([ACK, SYN, SYN | ACK, RST, FIN | ACK, PSH | ACK]),
    PORTS,
    st.binary(max_size=1460),
    mss=st.none() | PORTS,
    window_scale=st.none() | st.integers(0, 14),
    sack_permitted=st.booleans(),
    sack=st.just(()),
    timestamps=st.none() | st.tuples(NUMBERS, NUMBERS),
)


@given(SEGMENTS)
def test_what_is_encoded_decodes_to_the_same(segment: Segment) -> None:
    assert decode_segment(encode_segment(segment, A, B), A, B) == segment


@given(BLOCKS, st.none() | st.tuples(NUMBERS, NUMBERS), st.binary(max_size=100))
def test_sack_blocks_and_timestamps_fit_together(
    blocks: tuple[tuple[int, int], ...], stamps: tuple[int, int] | None, payload: bytes
) -> None:
    segment = Segment(1, 2, 3, 4, ACK, 5, payload, sack=blocks, timestamps=stamps)
    assert decode_segment(encode_segment(segment, A, B), A, B) == segment


def test_a_fourth_sack_block_is_left_out_where_timestamps_take_its_room() -> None:
    blocks = tuple((index * 10, index * 10 + 5) for index in range(4))
    with_stamps = Segment(1, 2, 3, 4, ACK, 5, sack=blocks, timestamps=(1, 2))
    assert decode_segment(encode_segment(with_stamps, A, B), A, B).sack == blocks[:3]
    without = with_stamps._replace(timestamps=None)
    assert decode_segment(encode_segment(without, A, B), A, B).sack == blocks


def test_scapy_reads_the_same_fields() -> None:
    segment = Segment(
        1234, 80, 7, 9, SYN | ACK, 4096, mss=1460, window_scale=7, sack_permitted=True,
        timestamps=(11, 12),
    )  # fmt: skip
    packet = IP(src="192.0.2.1", dst="192.0.2.2") / TCP(encode_segment(segment, A, B))
    tcp = packet[TCP]
    assert (tcp.sport, tcp.dport, tcp.seq, tcp.ack, tcp.window) == (1234, 80, 7, 9, 4096)
    assert str(tcp.flags) == "SA"
    options = [(name, value) for name, value in tcp.options if name != "NOP"]
    assert options == [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (11, 12)), ("WScale", 7)]
    checksum = tcp.chksum
    del tcp.chksum
    assert IP(bytes(packet))[TCP].chksum == checksum


@given(SEGMENTS, st.data())
def test_a_flipped_bit_does_not_get_through(segment: Segment, data: st.DataObject) -> None:
    octets = bytearray(encode_segment(segment, A, B))
    bit = data.draw(st.integers(0, len(octets) * 8 - 1))
    octets[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        decode_segment(bytes(octets), A, B)


@given(st.binary(max_size=80))
def test_random_octets_decode_or_raise_wire_error(octets: bytes) -> None:
    try:
        decode_segment(octets, A, B)
    except WireError:
        return


@pytest.mark.parametrize(
    "options", [b"\x08\x01", b"\x02\x00", b"\x05\x28\0\0", b"\x01\x01\x01\x03"], ids=bytes.hex
)
def test_an_option_that_does_not_fit_is_refused(options: bytes) -> None:
    options = options.ljust(4, b"\x01") if len(options) < 4 else options
    head = struct.pack("!HHIIBBHHH", 1, 2, 3, 4, (HEADER_SIZE + 4) // 4 << 4, ACK, 5, 0, 0)
    octets = bytearray(head + options)
    octets[16:18] = pseudo_header_checksum(A, B, 6, bytes(octets)).to_bytes(2, "big")
    with pytest.raises(WireError, match="option"):
        decode_segment(bytes(octets), A, B)
