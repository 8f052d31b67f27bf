"""The overhead arithmetic against packets worked by hand and against what the datapath sends."""

import random

import pytest

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ike.proposals import parse_esp_proposal, suite_of
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.sad import SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.measure.overhead import OVERHEAD_PARTS, Overhead, overhead, plain_overhead
from ipseclab.outputs import SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE, build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

SUITES = [Suite(cipher) for cipher in CIPHERS.values() if cipher.aead] + [
    Suite(cipher, integrity)
    for cipher in CIPHERS.values()
    if not cipher.aead
    for integrity in INTEGRITIES.values()
]
SITE_A, SITE_B = bytes([10, 1, 0, 2]), bytes([10, 2, 0, 2])
GATEWAY_A, GATEWAY_B = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
PATH = UdpPath(UdpEndpoint("192.0.2.1", 4500), UdpEndpoint("192.0.2.2", 4500))


def suite_name(suite: Suite) -> str:
    integrity = f"-{suite.integrity.id.name}" if suite.integrity is not None else ""
    return f"{suite.cipher.id.name}-{suite.cipher.key_bits}{integrity}"


def named_suite(text: str) -> Suite:
    return suite_of(parse_esp_proposal(text).transforms)


def sending_datapath(suite: Suite, *, tunnel: bool, encapsulated: bool) -> Datapath:
    own = (TrafficSelector.of_network("10.1.0.0/24"),)
    peer = (TrafficSelector.of_network("10.2.0.0/24"),)
    datapath = Datapath(
        Spd((Policy("net", Action.PROTECT, own, peer, "peer"),)), rng=random.Random(1)
    )
    keys = bytes(suite.encr_key_size), bytes(suite.integ_key_size)
    parameters = SaParameters(
        connection="peer",
        policy="net",
        tunnel=tunnel,
        spi_in=b"\0\0\1\1",
        spi_out=b"\0\0\1\2",
        local=GATEWAY_A,
        remote=GATEWAY_B,
        own_ts=own,
        peer_ts=peer,
        suite=suite,
        encr_key_in=keys[0],
        integ_key_in=keys[1],
        encr_key_out=keys[0],
        integ_key_out=keys[1],
        path=PATH if encapsulated else None,
    )
    datapath.add_sa(parameters, 0.0)
    return datapath


def outer_size(datapath: Datapath, packet: bytes) -> int:
    """Octets of the one packet that leaves, its IP header included."""
    (output,) = datapath.send_packet(packet, 1.0)
    if isinstance(output, SendPacket):
        return len(output.packet)
    assert isinstance(output, SendDatagram)
    return 20 + 8 + len(output.data)


@pytest.mark.parametrize("suite", SUITES, ids=suite_name)
@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("encapsulated", [True, False], ids=["udp", "esp"])
def test_the_datapath_sends_what_the_arithmetic_says(
    suite: Suite, tunnel: bool, encapsulated: bool
) -> None:
    datapath = sending_datapath(suite, tunnel=tunnel, encapsulated=encapsulated)
    for size in range(1, 1401):
        segment = build_udp(SITE_A, 1000, SITE_B, 2000, bytes(size))
        packet = build_ipv4(SITE_A, SITE_B, IpProtocol.UDP, segment)
        parts = overhead(
            suite,
            tunnel=tunnel,
            encapsulated=encapsulated,
            payload_octets=size,
            transport=UDP_HEADER_SIZE,
        )
        assert outer_size(datapath, packet) == size + parts.total, f"{size} octets of payload"


# Worked out by hand from RFC 4303 section 2, RFC 4106 section 3 and RFC 3948 section 2.1.
@pytest.mark.parametrize(
    ("text", "tunnel", "encapsulated", "payload", "expected"),
    [
        # 20 + 8 + 100 + pad 2 + 2 = 132 = 33 * 4; the outer packet is 20 + 8 + 8 + 132 + 16
        ("aes128gcm16", True, False, 100, Overhead(20, 0, 4, 4, 8, 20, 8, 2, 1, 1, 16)),
        ("aes128gcm16", True, True, 100, Overhead(20, 8, 4, 4, 8, 20, 8, 2, 1, 1, 16)),
        ("aes256gcm16", False, True, 100, Overhead(20, 8, 4, 4, 8, 0, 8, 2, 1, 1, 16)),
        ("chacha20poly1305", False, False, 1, Overhead(20, 0, 4, 4, 8, 0, 8, 1, 1, 1, 16)),
        # 20 + 8 + 100 + pad 14 + 2 = 144 = 9 * 16
        ("aes128-sha256", True, False, 100, Overhead(20, 0, 4, 4, 16, 20, 8, 14, 1, 1, 16)),
        # 8 + 6 + pad 0 + 2 = 16
        ("aes256-sha512", False, True, 6, Overhead(20, 8, 4, 4, 16, 0, 8, 0, 1, 1, 32)),
        # 8 + 7 + pad 15 + 2 = 32
        ("aes256-sha384", False, False, 7, Overhead(20, 0, 4, 4, 16, 0, 8, 15, 1, 1, 24)),
    ],
)
def test_hand_worked_packets(
    text: str, tunnel: bool, encapsulated: bool, payload: int, expected: Overhead
) -> None:
    suite = named_suite(text)
    parts = overhead(
        suite, tunnel=tunnel, encapsulated=encapsulated, payload_octets=payload, transport=8
    )
    assert parts == expected


def test_total_and_efficiency() -> None:
    parts = overhead(
        named_suite("aes128gcm16"), tunnel=True, encapsulated=True, payload_octets=1000, transport=8
    )
    assert parts.total == 20 + 8 + 8 + 8 + 20 + 8 + 2 + 2 + 16
    assert parts.efficiency(1000) == pytest.approx(1000 / 1092)
    assert plain_overhead(transport=8).total == 28
    assert OVERHEAD_PARTS[0] == "outer_ip"
    assert OVERHEAD_PARTS[-1] == "icv"
