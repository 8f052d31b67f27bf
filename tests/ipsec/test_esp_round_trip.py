"""What one datapath seals the other opens, octet for octet: RFC 4303, RFC 3948."""

import random

import pytest
from datapath_pair import (
    ALL_SUITES,
    LEFT,
    PATH,
    RIGHT,
    SUITES,
    Pair,
    delivered,
    drops,
    packed,
    reasons,
    receive,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.ipsec.esp import RESYNC_FAILURES
from ipseclab.ipsec.ipv4 import OuterHeader
from ipseclab.outputs import SendDatagram, SendPacket
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    IPV4_HEADER_SIZE,
    build_ipv4,
    checksum,
    decode_ipv4_header,
)

every_suite = pytest.mark.parametrize("suite", SUITES.values(), ids=SUITES)
every_way = pytest.mark.parametrize(
    ("tunnel", "path"),
    [(True, None), (True, PATH), (False, None), (False, PATH)],
    ids=["tunnel", "tunnel-udp", "transport", "transport-udp"],
)


def expected(pair, packet):
    """What arrives: the packet itself, but for a header made anew in transport mode in UDP."""
    if pair.tunnel or pair.left_sa.path is None:
        return packet
    header = decode_ipv4_header(packet)
    payload = packet[header.header_length :]
    return build_ipv4(
        header.source, header.destination, header.protocol, payload, flags_fragment=DONT_FRAGMENT
    )


@every_suite
@every_way
def test_packet_arrives_octet_for_octet(suite, tunnel, path):
    pair = Pair(suite, tunnel=tunnel, path=path)
    for size in (*range(40), 500, 1400):
        packet = pair.packet(random.Random(size).randbytes(size), identification=size)
        assert delivered(pair.to_right(packet)) == [expected(pair, packet)]
        back = pair.to_left(answer(packet))
        assert delivered(back) == [expected(pair, answer(packet))]
    assert drops(pair.left) == drops(pair.right) == {}


def answer(packet):
    """The same payload the other way; the UDP checksum holds, as sums do not know an order."""
    header = decode_ipv4_header(packet)
    segment = packet[header.header_length :]
    segment = segment[2:4] + segment[0:2] + segment[4:]
    return build_ipv4(header.destination, header.source, header.protocol, segment)


@given(payload=st.binary(max_size=2000), name=st.sampled_from(sorted(SUITES)), data=st.data())
@settings(max_examples=60)
def test_length_on_the_wire_is_the_arithmetic_of_rfc_4303(payload, name, data):
    suite = SUITES[name]
    tunnel, path = data.draw(st.booleans()), data.draw(st.sampled_from([None, PATH]))
    pair = Pair(suite, tunnel=tunnel, path=path)
    packet = pair.packet(payload)
    (output,) = pair.left.send_packet(packet, 0.0)
    inside = len(packet) if tunnel else len(packet) - IPV4_HEADER_SIZE
    align = max(4, suite.block_size)
    ciphered = -(-(inside + 2) // align) * align
    esp = 8 + suite.iv_size + ciphered + suite.icv_size
    if path is not None:
        assert isinstance(output, SendDatagram)
        assert output.path == path
        assert len(output.data) == esp
    else:
        assert isinstance(output, SendPacket)
        assert len(output.packet) == IPV4_HEADER_SIZE + esp
    assert delivered(receive(pair.right, output)) == [expected(pair, packet)]


@given(order=st.permutations(range(40)), repeats=st.lists(st.integers(0, 39), max_size=20))
def test_any_order_within_the_window_arrives_once(order, repeats):
    pair = Pair(replay_window=64)
    packets = [pair.packet(bytes([number])) for number in range(40)]
    sealed = [pair.left.send_packet(packet, 0.0)[0] for packet in packets]
    arrived = []
    for number in [*order, *repeats]:
        arrived += delivered(receive(pair.right, sealed[number]))
    assert arrived == [packets[number] for number in order]
    assert drops(pair.right) == ({"replayed": len(repeats)} if repeats else {})


def test_sequence_numbers_start_at_one_and_the_iv_of_an_aead_follows_them():
    pair = Pair(path=PATH)
    for number in range(1, 5):
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        assert output.data[:4] == pair.left_sa.spi_out
        assert int.from_bytes(output.data[4:8], "big") == number
        assert int.from_bytes(output.data[8:16], "big") == number


def test_iv_of_cbc_comes_from_the_generator():
    suite = SUITES["aes128-sha256"]
    ivs = []
    for _again in range(2):
        pair = Pair(suite, path=PATH)
        ivs.append([pair.left.send_packet(pair.packet(), 0.0)[0].data[8:24] for _ in range(20)])
    assert len({*ivs[0]}) == 20
    assert ivs[0] == ivs[1]


def test_tunnel_header_takes_tos_and_df_from_the_inner_packet():
    pair = Pair()
    for tos, flags in [(0, 0), (0xB8, DONT_FRAGMENT), (0x02, DONT_FRAGMENT), (0x2B, 0)]:
        packet = pair.packet(tos=tos, flags_fragment=flags, ttl=3)
        (output,) = pair.left.send_packet(packet, 0.0)
        outer = decode_ipv4_header(output.packet)
        assert (outer.tos, outer.flags_fragment, outer.ttl) == (tos, flags, 64)
        assert (outer.source, outer.destination) == (packed(LEFT), packed(RIGHT))
        assert outer.protocol == IpProtocol.ESP
        assert outer.total_length == len(output.packet)
        assert checksum(output.packet[:IPV4_HEADER_SIZE]) == 0


def test_identification_is_never_zero_and_differs_from_packet_to_packet():
    pair = Pair()
    pair.left.sad.inbound(pair.left_sa.spi_in).outbound.sequence = 0xFFF0
    seen = []
    for _ in range(0x40):
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        seen.append(decode_ipv4_header(output.packet).identification)
        assert checksum(output.packet[:IPV4_HEADER_SIZE]) == 0
    assert 0 not in seen
    assert len({*seen}) == 0x40


def test_checksum_of_the_outer_header_for_every_identification():
    inner = Pair().packet()
    around = OuterHeader(packed(LEFT), packed(RIGHT)).around
    values = set()
    for sequence in range(1, 0x10000):
        header = around(b"", inner, sequence)
        values.add(header[10:12])
        zeroed = header[:10] + b"\0\0" + header[12:]
        assert checksum(zeroed).to_bytes(2, "big") == header[10:12]
    assert b"\0\0" in values


def test_transport_mode_keeps_the_header_and_its_options():
    pair = Pair(tunnel=False)
    plain = pair.packet(b"with options", ttl=17, tos=0x10, identification=77)
    options = bytes.fromhex("94040000")  # router alert, RFC 2113
    header = bytes([0x46]) + plain[1:2] + (len(plain) + 4).to_bytes(2, "big") + plain[4:10]
    header = header + b"\0\0" + plain[12:20] + options
    header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    packet = header + plain[20:]
    (output,) = pair.left.send_packet(packet, 0.0)
    outer = decode_ipv4_header(output.packet)
    assert (outer.ttl, outer.tos, outer.identification) == (17, 0x10, 77)
    assert output.packet[20:24] == options
    assert checksum(output.packet[:24]) == 0
    assert delivered(receive(pair.right, output)) == [packet]


@every_way
def test_packet_that_would_outgrow_ipv4_is_dropped(tunnel, path):
    pair = Pair(tunnel=tunnel, path=path)
    assert reasons(pair.left.send_packet(pair.packet(bytes(65507)), 0.0)) == ["too_big"]
    assert reasons(pair.left.send_packet(pair.packet(bytes(65400)), 0.0)) == []


def test_octets_after_the_packet_s_own_length_are_not_carried():
    pair = Pair()
    packet = pair.packet()
    (output,) = pair.left.send_packet(packet + b"ethernet padding", 0.0)
    assert delivered(receive(pair.right, output)) == [packet]


def test_counters_count_plain_packets_and_octets():
    pair = Pair()
    sizes = [len(pair.packet(bytes(size))) for size in (1, 10, 100)]
    for size in (1, 10, 100):
        pair.to_right(pair.packet(bytes(size)))
    counts = pair.left.counters.as_dict()
    assert (counts["packets_out"], counts["octets_out"]) == (3, sum(sizes))
    counts = pair.right.counters.as_dict()
    assert (counts["packets_in"], counts["octets_in"]) == (3, sum(sizes))
    assert counts["drops.bad_icv"] == 0


@given(
    size=st.integers(0, 9000),
    name=st.sampled_from(sorted(ALL_SUITES)),
    way=st.sampled_from([(True, None), (True, PATH), (False, None)]),
    esn=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_suite_carries_every_size(size, name, way, esn):
    tunnel, path = way
    pair = Pair(ALL_SUITES[name], tunnel=tunnel, path=path, esn=esn)
    packet = pair.packet(bytes(size))
    assert delivered(pair.to_right(packet)) == [packet]


def test_no_size_from_0_to_9000_is_left_out():
    """The suites take turns: each has every alignment, all have every size together."""
    for turn, suite in enumerate(ALL_SUITES.values()):
        pair = Pair(suite, tunnel=turn % 2 == 0)
        for size in (*range(turn, 9001, len(ALL_SUITES)), *range(64)):
            packet = pair.packet(bytes(size))
            assert delivered(pair.to_right(packet)) == [packet]


@pytest.mark.parametrize("name", ["aes128gcm16", "aes128ccm8iiv", "aes256-sha512", "null-aesxcbc"])
class TestExtendedSequenceNumbers:
    def pair(self, name, sequence):
        pair = Pair(ALL_SUITES[name], esn=True)
        pair.left.sad.inbound(pair.left_sa.spi_in).outbound.sequence = sequence
        pair.right.sad.inbound(pair.right_sa.spi_in).inbound.replay.mark(sequence)
        return pair

    def test_the_lower_half_wraps(self, name):
        pair = self.pair(name, 2**32 - 4)
        sealed = [pair.left.send_packet(pair.packet(bytes([n])), 0.0)[0] for n in range(8)]
        low = [int.from_bytes(output.packet[24:28], "big") for output in sealed]
        assert low == [2**32 - 3, 2**32 - 2, 2**32 - 1, 0, 1, 2, 3, 4]
        for index in (6, 1, 3, 0, 7, 2, 5, 4):
            assert len(delivered(receive(pair.right, sealed[index]))) == 1
        assert reasons(receive(pair.right, sealed[3])) == ["replayed"]

    def test_after_four_thousand_million_lost_packets_the_ends_meet_again(self, name):
        """RFC 4303 appendix A3."""
        pair = self.pair(name, 1000)
        pair.left.sad.inbound(pair.left_sa.spi_in).outbound.sequence = (2 << 32) + 2000
        refused = 0
        while not delivered(pair.to_right(pair.packet())):
            refused += 1
        assert refused == RESYNC_FAILURES - 1
        assert drops(pair.right) == {"bad_icv": refused}
        assert len(delivered(pair.to_right(pair.packet()))) == 1

    def test_a_higher_half_is_under_the_icv(self, name):
        pair = self.pair(name, 5 << 32)
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        other = self.pair(name, 6 << 32)
        assert reasons(receive(other.right, output)) == ["bad_icv"]
