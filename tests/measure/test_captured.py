"""Octets by part, found in packets that the real datapath sealed, held against the arithmetic."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.aggfrag import BlockSender
from ipseclab.ipsec.fragments import fragments_of
from ipseclab.ipsec.ipcomp import Compressor
from ipseclab.lab.keys import ESP_TABLE, KEYS_FOLDER, esp_row
from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.measure.captured import Captured, load_of, load_of_links, read_load, suite_of
from ipseclab.measure.overhead import overhead, plain_overhead
from ipseclab.measure.pieces import MOST_WAITING, Pieces
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import IntegId, IpProtocol
from ipseclab.wire.ip import build_icmp_echo, build_ipv4, build_udp
from ipseclab.wire.ipv6 import build_ipv6

A, B = bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2])
INNER_A, INNER_B = bytes([10, 1, 0, 10]), bytes([10, 2, 0, 10])
SPI = bytes.fromhex("0a5994d3")
SUITES = [
    Suite(cipher, None if cipher.aead else INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128])
    for cipher in CIPHERS.values()
]


def keys_of(suite):
    integ = "NONE" if suite.integrity is None else suite.integrity.id.name
    encr_key = bytes(range(suite.encr_key_size))
    integ_key = bytes(range(suite.integ_key_size))
    return EspKeyLog(
        SPI, "192.0.2.1", "198.51.100.2", suite.cipher.id.name, integ, encr_key, integ_key
    )


def sealed(suite, segment, protocol, *, tunnel, encapsulated):
    """An ESP packet around a segment."""
    inner = build_ipv4(INNER_A, INNER_B, protocol, segment) if tunnel else segment
    next_header = IpProtocol.IPV4 if tunnel else protocol
    return sealed_inner(suite, inner, next_header, 1, encapsulated=encapsulated)


def sealed_inner(suite, inner, next_header, sequence, *, encapsulated=False):
    """An ESP packet, built here by hand (RFC 4303 section 2)."""
    align = max(4, suite.block_size)
    padding = bytes(range(1, -(len(inner) + 2) % align + 1))
    plaintext = inner + padding + bytes([len(padding), next_header])
    keys = keys_of(suite)
    header = SPI + sequence.to_bytes(4, "big")
    iv = bytes(suite.iv_size)
    esp = header + suite.keyed(keys.encr_key, keys.integ_key).seal(header, iv, plaintext)
    if encapsulated:
        return build_ipv4(A, B, IpProtocol.UDP, build_udp(A, 4500, B, 4500, esp))
    return build_ipv4(A, B, IpProtocol.ESP, esp)


def only_parts(load):
    """The parts of a load whose packets are all alike."""
    [group] = load.groups.values()
    [found] = group
    return found


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("encapsulated", [True, False], ids=["udp", "esp"])
@pytest.mark.parametrize("suite", SUITES, ids=lambda s: f"{s.cipher.id.name}-{s.cipher.key_bits}")
def test_measured_parts_are_those_of_the_arithmetic(suite, tunnel, encapsulated):
    for size in (1, 2, 3, 4, 15, 16, 17, 64, 1400):
        segment = build_udp(INNER_A, 7000, INNER_B, 7001, bytes(size))
        packet = sealed(suite, segment, IpProtocol.UDP, tunnel=tunnel, encapsulated=encapsulated)
        load = load_of([packet], [keys_of(suite)])
        wanted = overhead(
            suite, tunnel=tunnel, encapsulated=encapsulated, payload_octets=size, transport=8
        )
        assert only_parts(load) == wanted
        assert sum(load.parts().values()) == wanted.total == len(packet) - size
        assert load.efficiency == pytest.approx(wanted.efficiency(size))


@pytest.mark.parametrize("suite", SUITES, ids=lambda s: f"{s.cipher.id.name}-{s.cipher.key_bits}")
def test_a_row_of_the_key_table_names_its_suite(suite):
    assert suite_of(keys_of(suite)) == suite


@given(size=st.integers(0, 1400), tunnel=st.booleans(), encapsulated=st.booleans())
def test_any_payload(size, tunnel, encapsulated):
    echo = build_icmp_echo(8, 1, 1, bytes(size))
    packet = sealed(SUITES[0], echo, IpProtocol.ICMP, tunnel=tunnel, encapsulated=encapsulated)
    load = load_of([packet], [keys_of(SUITES[0])])
    if size:
        assert only_parts(load).total == len(packet) - size
    else:
        assert load.efficiency is None


def test_without_ipsec_there_are_two_headers():
    packet = build_ipv4(A, B, IpProtocol.UDP, build_udp(A, 7000, B, 7001, bytes(100)))
    assert only_parts(load_of([packet], [])) == plain_overhead(transport=8)


def test_ike_keepalives_and_foreign_esp_have_no_payload():
    def udp(source, destination, data):
        return build_ipv4(A, B, IpProtocol.UDP, build_udp(A, source, B, destination, data))

    segment = build_udp(INNER_A, 1, INNER_B, 2, b"x")
    packets = [
        udp(500, 500, bytes(28)),
        udp(4500, 4500, bytes(4) + bytes(28)),
        udp(4500, 4500, b"\xff"),
        sealed(SUITES[0], segment, IpProtocol.UDP, tunnel=True, encapsulated=True),
    ]
    load = load_of(packets, [])
    assert load.payload == 0
    assert load.octets == sum(len(packet) for packet in packets)
    assert load.parts() == {}


def test_a_damaged_packet_counts_on_the_link_alone():
    segment = build_udp(INNER_A, 1, INNER_B, 2, bytes(50))
    packet = sealed(SUITES[0], segment, IpProtocol.UDP, tunnel=True, encapsulated=False)
    damaged = packet[:-1] + bytes([packet[-1] ^ 1])
    load = load_of([packet, damaged], [keys_of(SUITES[0])])
    assert (load.octets, load.payload) == (2 * len(packet), 50)


def test_probes_come_before_pings_and_each_size_counts_once():
    suite = SUITES[0]

    def probe(size):
        segment = build_udp(INNER_A, 1, INNER_B, 2, bytes(size))
        return sealed(suite, segment, IpProtocol.UDP, tunnel=True, encapsulated=False)

    echo = build_icmp_echo(8, 1, 1, bytes(1000))
    ping = sealed(suite, echo, IpProtocol.ICMP, tunnel=True, encapsulated=False)
    load = load_of([probe(10), probe(10), probe(10), probe(12), ping], [keys_of(suite)])
    wanted = (len(probe(10)) - 10 + len(probe(12)) - 12) / 2
    assert sum(load.parts().values()) == pytest.approx(wanted)


def test_outer_fragments_are_one_packet_whose_overhead_has_all_their_headers():
    suite = SUITES[0]
    segment = build_udp(INNER_A, 7000, INNER_B, 7001, bytes(3000))
    packet = sealed(suite, segment, IpProtocol.UDP, tunnel=True, encapsulated=True)
    pieces = fragments_of(packet, 1300)
    load = load_of([*reversed(pieces), pieces[0]], [keys_of(suite)])
    whole = overhead(suite, tunnel=True, encapsulated=True, payload_octets=3000, transport=8)
    assert only_parts(load) == replace(whole, outer_ip=20 * len(pieces))
    assert load.payload == 3000


@pytest.mark.parametrize("version", [4, 6])
def test_inner_fragments_are_one_packet_whose_overhead_is_that_of_all_of_them(version):
    suite = SUITES[0]
    a, b = (INNER_A, INNER_B) if version == 4 else (bytes(15) + b"\1", bytes(15) + b"\2")
    segment = build_udp(a, 7000, b, 7001, bytes(3000))
    build, next_header = (build_ipv4, 4) if version == 4 else (build_ipv6, 41)
    pieces = fragments_of(build(a, b, IpProtocol.UDP, segment), 1280)
    carriers = [
        sealed_inner(suite, piece, next_header, sequence)
        for sequence, piece in enumerate(pieces, 1)
    ]
    load = load_of(carriers, [keys_of(suite)])
    assert only_parts(load).total == sum(map(len, carriers)) - 3000
    assert only_parts(load).inner_ip == sum(map(len, pieces)) - 3008
    assert only_parts(load).icv == len(pieces) * suite.icv_size


def test_what_crosses_is_seen_at_both_ends_whole_or_in_fragments():
    suite = SUITES[0]
    inner = {
        size: build_ipv4(
            INNER_A, INNER_B, IpProtocol.UDP, build_udp(INNER_A, 1, INNER_B, 2, bytes(size))
        )
        for size in (100, 1100, 2000, 3000, 1200)
    }
    cut_inside = [
        sealed_inner(suite, piece, 4, sequence)
        for sequence, piece in enumerate(fragments_of(inner[2000], 1200), 1)
    ]
    small, whole, cut_outside, lost = (
        sealed_inner(suite, inner[size], 4, 10 + size) for size in (100, 1100, 3000, 1200)
    )
    sent = [small, whole, cut_outside, lost, *cut_inside]
    got = [*reversed(cut_inside), whole, small, *fragments_of(cut_outside, 1300)]
    frames = [
        *(Captured("gw1", packet) for packet in sent),
        *(Captured("gw2", packet) for packet in got),
    ]
    crossings = load_of_links(frames, [keys_of(suite)]).crossings
    assert (crossings.largest_whole, crossings.largest_in_fragments) == (1128, 3028)
    again = [Captured("gw1", packet) for packet in sent] * 2
    assert load_of_links(again, [keys_of(suite)]).crossings.largest_whole == 0
    inside_alone = [f for f in frames if f.packet in cut_inside]
    crossings = load_of_links(inside_alone, [keys_of(suite)]).crossings
    assert (crossings.largest_whole, crossings.largest_in_fragments) == (0, 2028)


def test_without_ipsec_packets_are_known_by_their_octets():
    packet = build_ipv4(A, B, IpProtocol.UDP, build_udp(A, 7000, B, 7001, bytes(100)))
    hop = packet[:8] + bytes([packet[8] - 1]) + packet[9:]
    assert (
        load_of_links([Captured("h1", packet), Captured("h2", hop)], []).crossings.largest_whole
        == 128
    )


def test_compressed_packets_count_as_payload_and_have_no_overhead():
    suite = SUITES[0]
    segment = build_udp(INNER_A, 7000, INNER_B, 7001, bytes(1000))
    end = Compressor(b"\1\0", b"\1\1")
    next_header, inner = end.pack(4, build_ipv4(INNER_A, INNER_B, IpProtocol.UDP, segment))
    packet = sealed_inner(suite, inner, next_header, 1)
    load = load_of([packet, sealed_inner(suite, inner[:-3], next_header, 2)], [keys_of(suite)])
    assert (load.payload, load.parts()) == (1000, {})
    assert load_of([packet], [keys_of(suite)]).efficiency > 5


def test_aggregated_packets_count_when_they_are_whole():
    suite, sender = SUITES[0], BlockSender()
    for size in (10, 700, 20):
        segment = build_udp(INNER_A, 7000, INNER_B, 7001, bytes(size))
        sender.offer(build_ipv4(INNER_A, INNER_B, IpProtocol.UDP, segment))
    packets = [sealed_inner(suite, sender.fill(300)[0], 144, number) for number in range(1, 5)]
    packets.append(sealed_inner(suite, b"\1" + bytes(30), 144, 9))
    load = load_of(packets, [keys_of(suite)])
    assert (load.payload, load.parts()) == (730, {})
    assert load_of(packets[1:], [keys_of(suite)]).payload == 20


def test_fragments_that_never_become_whole_take_bounded_room():
    pieces = Pieces()
    packet = build_ipv4(A, B, IpProtocol.UDP, bytes(2000))
    for number in range(3 * MOST_WAITING):
        first = fragments_of(packet[:4] + number.to_bytes(2, "big") + packet[6:], 1300)[0]
        assert pieces.take(first, None) is None
        assert len(pieces._begun) <= MOST_WAITING


def test_a_run_folders_capture_is_read_with_its_keys_also_when_cut(tmp_path):
    suite = SUITES[0]
    segment = build_udp(INNER_A, 1, INNER_B, 2, bytes(50))
    packet = sealed(suite, segment, IpProtocol.UDP, tunnel=True, encapsulated=False)
    capture = tmp_path / "capture.pcapng"
    with capture.open("wb") as stream:
        writer = PcapngWriter(stream, ["gw1-eth1"])
        for t in range(3):
            writer.write(0, float(t), packet)
    (tmp_path / KEYS_FOLDER).mkdir()
    (tmp_path / KEYS_FOLDER / ESP_TABLE).write_text(f"{esp_row(keys_of(suite))}\n")
    assert read_load(capture).payload == 150
    capture.write_bytes(capture.read_bytes()[:-10])
    assert read_load(capture).payload == 100
