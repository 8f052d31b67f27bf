"""Scapy opens our ESP packets and we open its own: every cipher, mode and encapsulation."""

import re

import pytest
from datapath_pair import (
    ALL_SUITES,
    LEFT,
    LEFT_HOST,
    PATH,
    RIGHT,
    Pair,
    delivered,
    drops,
    packed,
    reverse,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation

from ipseclab.outputs import SendDatagram
from ipseclab.wire.ip import DONT_FRAGMENT, build_ipv4, build_udp

CIPHERS = {
    "gcm": "AES-GCM",
    "ccm": "AES-CCM",
    "gmac": "AES-NULL-GMAC",
    "ctr": "AES-CTR",
    "": "AES-CBC",
    "3des": "3DES",
    "null": "NULL",
    "chacha20poly1305": "CHACHA20-POLY1305",
}
INTEGRITIES = {
    "sha1": "HMAC-SHA1-96",
    "sha256": "SHA2-256-128",
    "sha384": "SHA2-384-192",
    "sha512": "SHA2-512-256",
    "aescmac": "AES-CMAC-96",
}


def scapy_names(name):
    """Cipher, octets of its ICV and integrity algorithm as Scapy calls them, None for what it does
    not know: implicit IVs (RFC 8750), AES-XCBC, and an ICV of AES-GCM that is cut short."""
    cipher, _, integrity = name.partition("-")
    aes = re.fullmatch(r"aes(?:128|192|256)(|ctr|gmac|[cg]cm)(8|12|16)?", cipher)
    kind, size = aes.groups() if aes else (cipher, None)
    if kind == "gcm" and size != "16":
        return None
    if kind not in CIPHERS or (integrity and integrity not in INTEGRITIES):
        return None
    return CIPHERS[kind], int(size) if size else None, INTEGRITIES.get(integrity)


SCAPY_NAMES = {name: names for name in ALL_SUITES if (names := scapy_names(name)) is not None}
SIZES = (0, 1, 2, 3, 4, 13, 14, 15, 16, 100, 1300)

every_suite = pytest.mark.parametrize("name", sorted(SCAPY_NAMES))
every_way = pytest.mark.parametrize(
    ("tunnel", "path"),
    [(True, None), (True, PATH), (False, None), (False, PATH)],
    ids=["tunnel", "tunnel-udp", "transport", "transport-udp"],
)


def scapy_sa(name, pair, sequence=0):
    """Scapy's view of the SA from left to right."""
    cipher, icv_size, integrity = SCAPY_NAMES[name]
    p = pair.left_sa
    return SecurityAssociation(
        ESP,
        spi=int.from_bytes(p.spi_out, "big"),
        crypt_algo=cipher,
        crypt_key=p.encr_key_out,
        crypt_icv_size=icv_size,
        auth_algo=integrity,
        auth_key=p.integ_key_out if integrity is not None else None,
        tunnel_header=IP(src=LEFT, dst=RIGHT) if p.tunnel else None,
        nat_t_header=UDP(sport=4500, dport=4500) if p.path is not None else None,
        esn_en=p.esn,
        esn=sequence >> 32,
        seq_num=(sequence & 0xFFFFFFFF) + 1,
    )


def on_the_wire(output):
    """The whole IPv4 packet that a driver's socket would make of `output`."""
    if isinstance(output, SendDatagram):
        ends = packed(LEFT), 4500, packed(RIGHT), 4500
        segment = build_udp(*ends, output.data, zero_checksum=True)
        return build_ipv4(ends[0], ends[2], 17, segment)
    return output.packet


def test_scapy_knows_all_but_implicit_ivs_xcbc_and_short_gcm():
    unknown = [name for name in ALL_SUITES if name not in SCAPY_NAMES]
    others = re.compile(r"iiv|xcbc|gcm(8|12)")
    assert unknown == [name for name in ALL_SUITES if others.search(name)]


@every_suite
@every_way
def test_scapy_opens_our_packets(name, tunnel, path):
    pair = Pair(ALL_SUITES[name], tunnel=tunnel, path=path)
    theirs = scapy_sa(name, pair)
    for size in SIZES:
        packet = pair.packet((bytes(range(256)) * 6)[:size])
        (output,) = pair.left.send_packet(packet, 0.0)
        opened = theirs.decrypt(IP(on_the_wire(output)))
        assert opened[IP].src == (LEFT_HOST if tunnel else LEFT)
        assert bytes(opened[UDP]) == packet[20:]


@every_suite
@every_way
def test_we_open_scapy_s_packets(name, tunnel, path):
    pair = Pair(ALL_SUITES[name], tunnel=tunnel, path=path)
    theirs = scapy_sa(name, pair)
    for size in SIZES:
        packet = pair.packet(bytes(size), flags_fragment=DONT_FRAGMENT)
        wire = bytes(theirs.encrypt(IP(packet)))
        if path is not None:
            outputs = pair.right.receive_esp(wire[28:], reverse(path), 0.0)
        else:
            outputs = pair.right.receive_packet(wire, 0.0)
        assert delivered(outputs) == [packet], size
    assert drops(pair.right) == {}


@every_suite
def test_extended_sequence_numbers_both_ways(name):
    """RFC 4303 section 2.2.1, well into the second subspace."""
    sequence = (3 << 32) + 7
    pair = Pair(ALL_SUITES[name], esn=True)
    left = pair.left.sad.inbound(pair.left_sa.spi_in)
    right = pair.right.sad.inbound(pair.right_sa.spi_in)
    left.outbound.sequence = sequence
    right.inbound.replay.mark(sequence)
    theirs = scapy_sa(name, pair, sequence)
    packet = pair.packet(b"extended", flags_fragment=DONT_FRAGMENT)
    (output,) = pair.left.send_packet(packet, 0.0)
    # Scapy advances its own higher half with what it sends: a second one to open with.
    assert bytes(scapy_sa(name, pair, sequence).decrypt(IP(output.packet))) == packet
    assert delivered(pair.right.receive_packet(bytes(theirs.encrypt(IP(packet))), 0.0)) == [packet]
    assert right.inbound.replay.top == sequence + 1
