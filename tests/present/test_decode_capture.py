"""`decode`: what a reader sees of the vectors, of our own runs, and of captures that are bad."""

import json
import shutil
from io import StringIO
from ipaddress import ip_address
from pathlib import Path

import pytest
from pair import CONNECTION, make_pair
from rich.console import Console

from ipseclab.errors import ConfigError
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.lab.keys import KeyTables
from ipseclab.lab.pcapng import PcapngWriter
from ipseclab.outputs import SendPacket
from ipseclab.present.decode import decode_capture
from ipseclab.wire.ip import build_ipv4, build_udp

VECTORS = Path(__file__).parent.parent / "vectors"
NAMES = ("cbc128_modp2048", "gcm256_x25519")


def decoded(path, keys=None, **options):
    stream = StringIO()
    decode_capture(path, keys, Console(file=stream, width=100), **options)
    return stream.getvalue()


def outer_packet(item):
    """What was on the wire for an output of a gateway."""
    if isinstance(item, SendPacket):
        return item.packet
    source, destination = (ip_address(end.address).packed for end in item.path)
    ports = item.path.local.port, item.path.remote.port
    return build_ipv4(
        source, destination, 17, build_udp(source, ports[0], destination, ports[1], item.data)
    )


def run_folder(pair, folder, interfaces=("gw1-eth1",)):
    """A run's capture and keys, every packet seen at each interface."""
    with (folder / "capture.pcapng").open("wb") as stream:
        writer = PcapngWriter(stream, interfaces)
        for sent in pair.sent:
            for index in range(len(interfaces)):
                writer.write(index, sent.at + 0.001 * index, outer_packet(sent.item))
    tables = KeyTables(folder / "keys")
    for keys in pair.keys:
        tables.add(keys)
    tables.close()
    return folder / "capture.pcapng"


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_is_opened_with_the_keys_beside_it(name):
    text = decoded(VECTORS / f"{name}.pcapng")
    assert "14 IKE messages (12 sealed, 12 opened), 10 ESP packets (10 opened)" in text
    assert "ciphertext" not in text
    assert "keys of 2 IKE SAs and 4 ESP SAs" in text


def test_a_vector_payload_by_payload():
    lines = [line.strip() for line in decoded(VECTORS / "gcm256_x25519.pcapng").splitlines()]
    for expected in (
        "|      proposal 1 IKE: ENCR_AES_GCM_16_256, PRF_HMAC_SHA2_256, CURVE25519",
        "|    KE    CURVE25519, 32 octets",
        "|    Ni    32 octets",
        "|    Nr    32 octets",
        "|    N(NAT_DETECTION_DESTINATION_IP)  hash of SPIs and the receiver's address and port: "
        "matches 192.0.2.2:500, no NAT up to here",
        "|      IDi   ID_FQDN a",
        "|      AUTH  SHARED_KEY, 32 octets",
        "|      TSi   10.1.0.1/32",
        "|        proposal 1 ESP SPI d88da649: ENCR_AES_GCM_16_256, NO_ESN",
        "|      N(REKEY_SA) ESP SPI d88da649  the new CHILD SA replaces this one",
        "|      D     ESP SPI d88da649",
        "|      D     this IKE SA",
        "|    ICMP 10.1.0.1 > 10.2.0.1 echo request 1, 84 octets",
    ):
        assert expected in lines, expected


def test_the_arrows_point_both_ways():
    text = decoded(VECTORS / "gcm256_x25519.pcapng")
    arrows = [line[12:] for line in text.splitlines() if line[12:14] in ("|-", "|<")]
    assert len(arrows) == 24
    assert {len(arrow) for arrow in arrows} == {88}
    request, response = arrows[:2]
    assert request.startswith("|-- IKE_SA_INIT request 0 ---")
    assert request.endswith("--->|")
    assert response.startswith("|<---")
    assert response.endswith("--- IKE_SA_INIT response 0 --|")


def test_without_keys_everything_sealed_stays_closed(tmp_path):
    path = Path(shutil.copy(VECTORS / "gcm256_x25519.pcapng", tmp_path))
    text = decoded(path)
    assert "keys: none" in text
    assert "12 sealed, 0 opened" in text
    assert text.count("ciphertext: no keys") == 22


def test_wrong_keys_are_told(tmp_path):
    path = Path(shutil.copy(VECTORS / "gcm256_x25519.pcapng", tmp_path))
    text = decoded(path, VECTORS / "cbc128_modp2048.keys.json")
    assert "0 opened), 10 ESP packets (0 opened)" in text
    assert "ciphertext: the ICV does not verify under any key for IKE SPIs" in text
    assert "ciphertext: no key for SPI" in text


@pytest.mark.parametrize(
    ("ike", "esp"),
    [
        ("aes128gcm16-prfsha256-x25519", "aes256gcm16"),
        ("aes256-sha512-modp2048", "aes128-sha256"),
        ("chacha20poly1305-prfsha384-ecp384", "chacha20poly1305"),
    ],
)
def test_a_run_of_our_own_is_opened_with_its_tables(tmp_path, ike, esp):
    proposals = {
        "ike_proposals": (parse_ike_proposal(ike),),
        "esp_proposals": (parse_esp_proposal(esp),),
    }
    pair = make_pair(both=proposals)
    pair.connect()
    pair.send(0, 1)
    pair.run(1.0)
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    pair.do(0, "delete_child", CONNECTION)
    pair.run(1.0)
    text = decoded(run_folder(pair, tmp_path))
    assert "ciphertext" not in text
    assert "1 ESP packets (1 opened)" in text
    assert "IP protocol 50" in text
    assert "UDP 10.1.0.2 > 10.2.0.2 4000 > 4001" in text
    assert "IDi   ID_FQDN a.example.org" in text


def test_a_packet_at_a_second_interface_is_told_once(tmp_path):
    pair = make_pair()
    pair.connect()
    text = decoded(run_folder(pair, tmp_path, ("gw1-eth1", "gw2-eth1")))
    assert text.count("IKE_AUTH request 1") == 1
    assert text.count("the same IKE at gw2-eth1: 192.0.2.1 > 198.51.100.1, UDP") == 2
    assert "8 IKE messages" in text


def test_behind_a_nat_the_hashes_are_held_against_the_new_addresses(tmp_path):
    pair = make_pair()
    pair.connect()
    first = outer_packet(pair.sent[0].item)
    with (tmp_path / "c.pcapng").open("wb") as stream:
        writer = PcapngWriter(stream, ("gw1-eth1", "gw2-eth1"))
        writer.write(0, 0.0, first)
        writer.write(1, 0.1, first.replace(b"\xc0\0\2\1", b"\xcb\0\x71\7"))
    lines = decoded(tmp_path / "c.pcapng").splitlines()
    again = next(at for at, line in enumerate(lines) if "the same IKE at gw2-eth1" in line)
    assert "SOURCE_IP" in lines[again + 1]
    assert "does not match 203.0.113.7:500" in lines[again + 1]
    assert "DESTINATION_IP" in lines[again + 2]
    assert "matches 198.51.100.1:500" in lines[again + 2]


def test_a_retransmission_is_told_once(tmp_path):
    pair = make_pair()
    pair.fate = lambda sent: () if sent.index == 0 else (0.0,)
    pair.connect()
    pair.run(5.0)
    text = decoded(run_folder(pair, tmp_path))
    assert text.count("IKE_SA_INIT request 0") == 1
    assert text.count("the same IKE again: 192.0.2.1 > 198.51.100.1, UDP 500 > 500") == 1


def test_a_nat_shows_in_the_hashes(tmp_path):
    pair = make_pair()
    pair.connect()
    behind = run_folder(pair, tmp_path)
    text = decoded(behind)
    assert "a NAT changed it" not in text
    octets = behind.read_bytes().replace(b"\xc0\0\2\1", b"\xcb\0\x71\7")
    behind.write_bytes(octets)
    assert "does not match 203.0.113.7:500: a NAT changed it, or one is pretended" in decoded(
        behind
    )


def raw_capture(path, packets):
    with path.open("wb") as stream:
        writer = PcapngWriter(stream, ["eth0"])
        for index, packet in enumerate(packets):
            writer.write(0, float(index), packet)
    return path


def udp(source_port, destination_port, data):
    ends = b"\xc0\0\2\1", b"\xc0\0\2\2"
    return build_ipv4(*ends, 17, build_udp(ends[0], source_port, ends[1], destination_port, data))


def test_odd_packets_are_told_or_counted(tmp_path):
    fragment = build_ipv4(bytes(4), bytes(4), 17, bytes(40), flags_fragment=0x2000)
    packets = [
        udp(4500, 4500, b"\xff"),
        udp(4500, 4500, b"\xff"),
        udp(500, 500, b"no IKE message at all, though long enough"),
        udp(500, 500, b"short"),
        udp(4500, 31000, b"esp"),
        udp(53, 53, b"a name"),
        build_ipv4(bytes(4), bytes(4), 1, bytes(8)),
        fragment,
        fragment[:30],
    ]
    text = decoded(raw_capture(tmp_path / "odd.pcapng", packets))
    assert text.count("NAT keepalive") == 2
    assert "does not decode: message length" in text
    assert "does not decode: message 5 octets, header needs 28" in text
    assert "ESP cut short, 3 octets" in text
    assert "2 IKE messages (0 sealed, 0 opened), 1 ESP packets (0 opened), 2 keepalives" in text
    assert "4 other frames left out" in text
    assert "1 IP fragments" in text


def test_what_a_peer_writes_cannot_steer_the_terminal(tmp_path):
    path = tmp_path / "evil.pcapng"
    with path.open("wb") as stream:
        writer = PcapngWriter(stream, ["a", "\x1b[2Jb"])
        for index in (0, 1):
            writer.write(index, 0.0, udp(500, 500, b"x" * 30))
    text = decoded(path)
    assert "\x1b" not in text
    assert "the same IKE at ?[2Jb" in text


def test_a_capture_that_is_cut_off_is_shown_as_far_as_it_goes(tmp_path):
    path = tmp_path / "cut.pcapng"
    path.write_bytes((VECTORS / "gcm256_x25519.pcapng").read_bytes()[:-30])
    stream = StringIO()
    with pytest.raises(ConfigError, match=r"cut\.pcapng: cut off inside its last block"):
        decode_capture(path, None, Console(file=stream, width=100))
    assert "IKE_SA_INIT request 0" in stream.getvalue()


def test_bad_keys_are_refused_before_anything_is_printed(tmp_path):
    keys = tmp_path / "bad.keys.json"
    keys.write_text(json.dumps({"events": "none"}))
    stream = StringIO()
    with pytest.raises(ConfigError, match="events"):
        decode_capture(VECTORS / "gcm256_x25519.pcapng", keys, Console(file=stream))
    assert stream.getvalue() == ""


def test_a_file_that_is_no_capture_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no capture")
    stream = StringIO()
    with pytest.raises(ConfigError, match=r"notes\.txt: begins with .* a pcap or pcapng file"):
        decode_capture(path, None, Console(file=stream))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("name", NAMES)
def test_ike_alone_is_the_ladder_without_esp(name):
    path = VECTORS / f"{name}.pcapng"
    whole, ike = decoded(path), decoded(path, only_ike=True)
    assert "-- ESP SPI" in whole
    assert "-- ESP SPI" not in ike
    assert whole.count("-- IKE_") == ike.count("-- IKE_") > 0
    assert " ESP packets (not shown)" in ike.splitlines()[-1]
    assert whole.splitlines()[-1].split(" ESP")[0] == ike.splitlines()[-1].split(" ESP")[0]
