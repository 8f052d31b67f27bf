"""Octets by part, found in packets that the real datapath sealed, held against the arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.lab.keys import ESP_TABLE, KEYS_FOLDER, esp_row
from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.measure.captured import load_of, read_load, suite_of
from ipseclab.measure.overhead import overhead, plain_overhead
from ipseclab.outputs import EspKeyLog
from ipseclab.registry import IntegId, IpProtocol
from ipseclab.wire.ip import build_icmp_echo, build_ipv4, build_udp

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
    """An ESP packet, built here by hand (RFC 4303 section 2)."""
    inner = build_ipv4(INNER_A, INNER_B, protocol, segment) if tunnel else segment
    next_header = IpProtocol.IPV4 if tunnel else protocol
    align = max(4, suite.block_size)
    padding = bytes(range(1, -(len(inner) + 2) % align + 1))
    plaintext = inner + padding + bytes([len(padding), next_header])
    keys = keys_of(suite)
    header = SPI + (1).to_bytes(4, "big")
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
