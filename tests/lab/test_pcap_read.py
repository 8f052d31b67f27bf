"""Captures in every container and on every link type that is read, and files that are none."""

import random
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from ipseclab.errors import ConfigError
from ipseclab.lab.pcap_read import LARGEST_FRAME, ipv4_packet, read_capture
from ipseclab.lab.pcapng import CapturedPacket, PcapngWriter
from ipseclab.wire.ip import build_ipv4, build_udp

VECTORS = Path(__file__).parent.parent / "vectors"
PACKET = build_ipv4(b"\xc0\0\2\1", b"\xc0\0\2\2", 17, build_udp(bytes(4), 500, bytes(4), 500, b"x"))
MACS = bytes(12)


def pcap(frames, *, order="<", nanoseconds=False, link_type=101):
    """A classic pcap file with frames at 1.5 s, 2.5 s, ..."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    octets = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    fraction = 500_000_000 if nanoseconds else 500_000
    for second, frame in enumerate(frames, 1):
        octets += struct.pack(f"{order}IIII", second, fraction, len(frame), len(frame)) + frame
    return octets


def read_as_far_as_possible(path):
    """The frames, and the problem that ended them, "" when there was none."""
    frames = []
    try:
        for frame in read_capture(path):
            frames.append(frame)
    except ConfigError as error:
        return frames, error.problem
    return frames, ""


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nanoseconds", [False, True])
def test_pcap_in_both_byte_orders_and_units(tmp_path, order, nanoseconds):
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([PACKET, PACKET], order=order, nanoseconds=nanoseconds))
    frames = list(read_capture(path))
    assert [frame.packet for frame in frames] == [PACKET, PACKET]
    assert [frame.time for frame in frames] == pytest.approx([1.5, 2.5])
    assert {frame.link_type for frame in frames} == {101}


def test_an_empty_pcap_is_no_packet(tmp_path):
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap([]))
    assert list(read_capture(path)) == []


def test_pcapng_of_several_interfaces(tmp_path):
    path = tmp_path / "a.pcapng"
    with path.open("wb") as stream:
        writer = PcapngWriter(stream, ["gw1-eth1", "gw2-eth1"])
        writer.write(0, 0.25, PACKET)
        writer.write(1, 0.5, PACKET)
    frames = list(read_capture(path))
    assert [(frame.interface, frame.time) for frame in frames] == [
        ("gw1-eth1", 0.25),
        ("gw2-eth1", 0.5),
    ]


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (101, PACKET),
        (12, PACKET),
        (228, PACKET),
        (1, MACS + b"\x08\0" + PACKET),
        (1, MACS + b"\x81\0\0\7\x08\0" + PACKET),
        (1, MACS + b"\x88\xa8\0\7\x81\0\0\7\x08\0" + PACKET),
        (113, bytes(14) + b"\x08\0" + PACKET),
        (276, b"\x08\0" + bytes(18) + PACKET),
    ],
    ids=["raw", "raw of BSD", "IPv4", "Ethernet", "VLAN", "two VLANs", "cooked", "cooked 2"],
)
def test_the_ipv4_packet_is_found_on_each_link_type(link_type, frame):
    assert ipv4_packet(CapturedPacket("eth0", 0.0, frame, link_type)) == PACKET


@pytest.mark.parametrize(
    ("link_type", "frame"),
    [
        (101, b""),
        (101, b"\x60" + bytes(39)),
        (1, MACS + b"\x86\xdd" + bytes(40)),
        (1, MACS + b"\x08\x06" + bytes(28)),
        (1, MACS),
        (1, MACS + b"\x81\0\0\7"),
        (1, MACS + b"\x81\0\0\7\x81\0\0\7\x81\0\0\7\x08\0" + PACKET),
        (113, bytes(10)),
        (276, b"\x86\xdd" + bytes(60)),
        (147, PACKET),
    ],
)
def test_anything_else_holds_no_ipv4_packet(link_type, frame):
    assert ipv4_packet(CapturedPacket("eth0", 0.0, frame, link_type)) is None


@pytest.mark.parametrize(
    ("octets", "problem"),
    [
        (b"", "begins with nothing"),
        (b"\n\r", "begins with octets 0a 0d"),
        (b"PK\3\4 an archive", "begins with octets 50 4b 03 04"),
        (b"{}", "pcap or pcapng file was expected"),
        (pcap([PACKET])[:10], "header cut off after 10 octets"),
        (pcap([])[:24] + struct.pack("<IIII", 0, 0, LARGEST_FRAME + 1, 0), "at most"),
        (b"\x0a\x0d\x0d\x0a" + bytes(60), "byte-order magic"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_with_its_name(tmp_path, octets, problem):
    path = tmp_path / "not-a-capture.pcap"
    path.write_bytes(octets)
    with pytest.raises(ConfigError, match=r"not-a-capture\.pcap") as refusal:
        list(read_capture(path))
    assert problem in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        list(read_capture(tmp_path / "missing.pcap"))
    with pytest.raises(ConfigError, match="directory"):
        list(read_capture(tmp_path))


@pytest.mark.parametrize("name", ["pcap", "pcapng"])
def test_every_cut_gives_what_is_whole_and_then_says_so(tmp_path, name):
    whole = pcap([PACKET, PACKET])
    if name == "pcapng":
        path = tmp_path / "whole.pcapng"
        with path.open("wb") as stream:
            writer = PcapngWriter(stream, ["eth0"])
            writer.write(0, 1.0, PACKET)
            writer.write(0, 2.0, PACKET)
        whole = path.read_bytes()
    path = tmp_path / f"cut.{name}"
    counts, problems = [], []
    for size in range(12, len(whole)):
        path.write_bytes(whole[:size])
        frames, problem = read_as_far_as_possible(path)
        assert all(frame.packet == PACKET for frame in frames)
        counts.append(len(frames))
        problems.append(problem)
    assert counts[0] == 0
    assert counts[-1] == 1
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(counts))
    # Only between two packets (or blocks) can a cut not be seen.
    assert 1 <= problems.count("") <= 3
    assert all("cut off" in problem for problem in problems if problem)


@pytest.mark.parametrize("name", ["pcap", "pcapng"])
def test_a_damaged_capture_is_read_or_refused(tmp_path, name):
    whole = pcap([PACKET] * 3)
    if name == "pcapng":
        whole = (VECTORS / "gcm256_x25519.pcapng").read_bytes()
    path = tmp_path / f"damaged.{name}"
    rng = random.Random(name)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(4, len(damaged))] = rng.choice((0, 1, 0x7F, 0xFF))
        path.write_bytes(damaged)
        frames, problem = read_as_far_as_possible(path)
        refused += bool(problem)
        for frame in frames:
            ipv4_packet(frame)
    assert 10 < refused < 390


def test_the_vectors_hold_24_ipv4_packets_each():
    for path in VECTORS.glob("*.pcapng"):
        packets = [ipv4_packet(frame) for frame in read_capture(path)]
        assert len(packets) == 37
        assert sum(packet is not None for packet in packets) == 24
