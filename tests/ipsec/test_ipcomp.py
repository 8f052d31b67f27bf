"""IPComp (RFC 3173) between two datapaths, in both modes, and what it refuses."""

import random
import zlib

import pytest
from datapath_pair import GCM, LEFT, PATH, RIGHT, SUITES, Pair, delivered, drops, packed, receive
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.ipsec.counters import Dropped
from ipseclab.ipsec.esp import open_esp, seal_esp
from ipseclab.ipsec.ipcomp import LARGEST, MISSES, PASSED_OVER, SMALLEST, Compressor
from ipseclab.ipsec.sad import Compression, InboundHalf, OutboundHalf
from ipseclab.outputs import SendDatagram, SendPacket
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4

LEFT_CPI, RIGHT_CPI = b"\x12\x34", b"\x56\x78"
TEXT = b"to be or not to be, " * 50


def pair(suite=GCM, **options):
    """Two ends that compress; each with a CPI of its own."""
    made = Pair(suite, **options)
    for end, sa, cpis in (
        (made.left, made.left_sa, (LEFT_CPI, RIGHT_CPI)),
        (made.right, made.right_sa, (RIGHT_CPI, LEFT_CPI)),
    ):
        entry = end.sad.inbound(sa.spi_in)
        entry.compressor = Compressor(*cpis)
        entry.shaped = True
    return made


def compressor(end):
    (entry,) = end.sad
    return entry.compressor


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("path", [None, PATH], ids=["esp", "udp"])
@pytest.mark.parametrize("suite", [GCM, SUITES["aes256-sha512"]], ids=["gcm", "cbc"])
def test_what_is_long_and_regular_gets_shorter_and_comes_out_as_it_was(tunnel, path, suite):
    both = pair(suite, tunnel=tunnel, path=path)
    packet = both.packet(TEXT)
    (output,) = both.left.send_packet(packet, 0.0)
    octets = output.data if isinstance(output, SendDatagram) else output.packet
    assert len(octets) < len(packet) / 4
    # In transport mode in UDP the header is the receiver's own.
    start = 20 if path is not None and not tunnel else 0
    (got,) = delivered(receive(both.right, output))
    assert got[start:] == packet[start:]
    answer = both.answer(TEXT)
    (got,) = delivered(both.to_left(answer))
    assert got[start:] == answer[start:]
    assert compressor(both.right).packed == compressor(both.right).unpacked == 1


def test_the_header_says_what_was_inside_and_by_which_cpi():
    both = pair()
    packet = both.packet(TEXT)
    (output,) = both.left.send_packet(packet, 0.0)
    half = InboundHalf(both.right_sa)
    next_header, payload, _ = open_esp(half, output.packet[20:])
    assert next_header == IpProtocol.IPCOMP
    assert payload[:4] == bytes([IpProtocol.IPV4, 0]) + RIGHT_CPI
    assert zlib.decompressobj(-15).decompress(payload[4:]) == packet


@pytest.mark.parametrize("data", [b"short", random.Random(1).randbytes(1000)])
def test_what_would_not_get_shorter_goes_as_it_is(data):
    both, plain = pair(), Pair()
    packet = both.packet(data)
    (output,) = both.left.send_packet(packet, 0.0)
    (without,) = plain.left.send_packet(packet, 0.0)
    assert len(output.packet) == len(without.packet)
    assert delivered(receive(both.right, output)) == [packet]
    assert compressor(both.left).packed == 0


def test_noise_is_tried_less_and_less_often_until_it_ends():
    noise, end = random.Random(2), Compressor(LEFT_CPI, RIGHT_CPI)
    for _ in range(MISSES):
        assert end.pack(17, noise.randbytes(200))[0] == 17
    tried = [end.pack(17, TEXT)[0] for _ in range(PASSED_OVER + 1)]
    assert tried == [17] * PASSED_OVER + [IpProtocol.IPCOMP]


def sealed_for_right(both, next_header, payload):
    half = OutboundHalf(both.left_sa)
    half.sequence = 100
    esp = seal_esp(half, next_header, payload, random.Random(3))
    return SendPacket(build_ipv4(packed(LEFT), packed(RIGHT), IpProtocol.ESP, esp))


def deflated(data):
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(data) + deflate.flush()


HEAD = bytes([IpProtocol.IPV4, 0]) + RIGHT_CPI
BOMB = deflated(bytes(50_000_000))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        HEAD,
        HEAD + b"\xff" * 40,
        HEAD + deflated(TEXT)[:-1],
        HEAD + deflated(TEXT) + b"more",
        HEAD[:2] + LEFT_CPI + deflated(TEXT),
        bytes([IpProtocol.IPCOMP]) + HEAD[1:] + deflated(HEAD + deflated(TEXT)),
        HEAD + deflated(bytes(LARGEST + 1)),
        HEAD + BOMB,
    ],
    ids=["empty", "no data", "noise", "cut", "trailing", "cpi", "twice", "too long", "bomb"],
)
@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
def test_what_is_no_compressed_packet_is_a_counted_drop(payload, tunnel):
    both = pair(tunnel=tunnel)
    output = sealed_for_right(both, IpProtocol.IPCOMP, payload)
    assert delivered(receive(both.right, output)) == []
    assert drops(both.right) == {"bad_compression": 1}


def test_an_sa_without_ipcomp_takes_none():
    both = Pair()
    output = sealed_for_right(both, IpProtocol.IPCOMP, HEAD + deflated(both.packet(TEXT)))
    assert delivered(receive(both.right, output)) == []
    assert drops(both.right) == {"malformed": 1}


def test_a_bomb_costs_no_more_memory_than_a_packet_may_have():
    end = Compressor(RIGHT_CPI, LEFT_CPI)
    assert len(BOMB) < 100_000
    with pytest.raises(Dropped):
        end.unpack(HEAD + BOMB)
    assert end.unpacked == 0


@given(data=st.binary(max_size=2000), repeat=st.integers(1, 30))
def test_any_payload_comes_back(data, repeat):
    payload = (data * repeat)[:LARGEST]
    left, right = Compressor(LEFT_CPI, RIGHT_CPI), Compressor(RIGHT_CPI, LEFT_CPI)
    next_header, packed_payload = left.pack(17, payload)
    if next_header == 17:
        assert packed_payload == payload
    else:
        assert len(packed_payload) < len(payload) >= SMALLEST
        assert right.unpack(packed_payload) == (17, payload)


@given(payload=st.binary(max_size=300))
def test_no_octets_raise_anything_but_a_drop(payload):
    end = Compressor(RIGHT_CPI, LEFT_CPI)
    for octets in (payload, HEAD + payload):
        try:
            end.unpack(octets)
        except Dropped:
            continue


def test_parameters_bring_it():
    both = Pair(compression=Compression(LEFT_CPI, RIGHT_CPI))
    assert compressor(both.left) is not None
