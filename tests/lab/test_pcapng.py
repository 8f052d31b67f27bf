import io
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from ipseclab.errors import WireError
from ipseclab.lab.pcapng import LINKTYPE_RAW, PcapngWriter, read_pcapng

PACKETS = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 10**15), st.binary(min_size=1, max_size=80)),
    max_size=10,
)


def written(packets, names=("gw1-eth1", "gw2-eth0")):
    stream = io.BytesIO()
    writer = PcapngWriter(stream, names)
    for interface, nanoseconds, packet in packets:
        writer.write(interface, nanoseconds / 1e9, packet)
    return stream.getvalue()


@given(PACKETS)
def test_what_is_written_is_read_again(packets):
    names = ("gw1-eth1", "gw2-eth0")
    found = list(read_pcapng(io.BytesIO(written(packets, names))))
    assert [(seen.interface, seen.packet, seen.link_type) for seen in found] == [
        (names[interface], packet, LINKTYPE_RAW) for interface, _time, packet in packets
    ]
    for seen, (_interface, nanoseconds, _packet) in zip(found, packets, strict=True):
        assert seen.time == pytest.approx(nanoseconds / 1e9, abs=2e-9, rel=1e-15)


def test_an_interface_may_come_later():
    stream = io.BytesIO()
    writer = PcapngWriter(stream, ())
    first = writer.add_interface("a")
    writer.write(first, 0.0, b"E1")
    second = writer.add_interface("b")
    writer.write(second, 1.5, b"E2")
    writer.write(first, 2.0, b"E3")
    stream.seek(0)
    assert [(seen.interface, seen.packet) for seen in read_pcapng(stream)] == [
        ("a", b"E1"),
        ("b", b"E2"),
        ("a", b"E3"),
    ]


def test_an_interface_that_was_not_described_is_refused():
    with pytest.raises(ValueError, match="interface 1, the capture has 1"):
        PcapngWriter(io.BytesIO(), ["a"]).write(1, 0.0, b"E")


def test_scapy_reads_the_same(tmp_path):
    path = tmp_path / "capture.pcapng"
    path.write_bytes(written([(0, 1_000_000_001, b"E" * 21), (1, 2_500_000_000, b"E" * 20)]))
    reader = RawPcapNgReader(str(path))
    packets = list(reader)
    reader.close()
    assert [data for data, _meta in packets] == [b"E" * 21, b"E" * 20]
    assert [(meta.tshigh << 32 | meta.tslow, meta.tsresol) for _data, meta in packets] == [
        (1_000_000_001, 10**9),
        (2_500_000_000, 10**9),
    ]


@pytest.mark.tshark
def test_tshark_reads_the_same(tmp_path):
    if shutil.which("tshark") is None:
        pytest.skip("no tshark")
    path = tmp_path / "capture.pcapng"
    echo = bytes.fromhex(
        "4500001c000000004001f0dec0000201c0000202 0800f7ff00000000".replace(" ", "")
    )
    path.write_bytes(written([(0, 1_000_000_001, echo), (1, 2_500_000_000, echo)]))
    fields = ("frame.interface_name", "frame.time_epoch", "ip.dst", "icmp.type")
    command = ["tshark", "-r", str(path), "-T", "fields"]
    for name in fields:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split("\t") for line in done.stdout.splitlines()] == [
        ["gw1-eth1", "1.000000001", "192.0.2.2", "8"],
        ["gw2-eth0", "2.500000000", "192.0.2.2", "8"],
    ]


def test_a_file_cut_anywhere_gives_the_whole_packets_before():
    octets = written([(0, 0, b"E" * 20), (1, 10, b"E" * 23), (0, 20, b"E" * 24)])
    whole = [seen.packet for seen in read_pcapng(io.BytesIO(octets))]
    for size in range(len(octets)):
        try:
            found = [seen.packet for seen in read_pcapng(io.BytesIO(octets[:size]))]
        except WireError:
            # Only within the very first block it cannot be known what the file is.
            assert size < 12
            continue
        assert found == whole[: len(found)]
        assert len(found) < len(whole)


def test_big_endian_microseconds_and_powers_of_two_are_read():
    def block(kind, body):
        length = struct.pack(">I", len(body) + 12)
        return struct.pack(">I", kind) + length + body + length

    section = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
    plain = block(1, struct.pack(">HHI", 101, 0, 0))
    binary = block(1, struct.pack(">HHI", 1, 0, 0) + struct.pack(">HHB3x", 9, 1, 0x80 | 10))
    packets = [
        block(6, struct.pack(">IIIII", index, 0, ticks, 3, 3) + b"abc\0")
        for index, ticks in ((0, 1_500_000), (1, 1536))
    ]
    found = list(read_pcapng(io.BytesIO(section + plain + binary + b"".join(packets))))
    assert [(seen.time, seen.packet, seen.link_type) for seen in found] == [
        (1.5, b"abc", 101),
        (1.5, b"abc", 1),
    ]


@pytest.mark.parametrize(
    "octets",
    [
        b"\xd4\xc3\xb2\xa1" + bytes(20),
        struct.pack("<III", 0x0A0D0D0A, 28, 0x11111111) + bytes(16),
        struct.pack("<III", 0x0A0D0D0A, 4, 0x1A2B3C4D) + bytes(16),
        struct.pack("<III", 0x0A0D0D0A, 0xFFFFFFFF, 0x1A2B3C4D) + bytes(16),
        written([]) + struct.pack("<IIIII", 6, 32, 9, 0, 0) + bytes(12),
        written([]) + struct.pack("<IIIIIIII", 6, 32, 0, 0, 0, 500, 500, 32),
        written([]) + struct.pack("<III", 6, 12, 12),
        written([]) + struct.pack("<III", 1, 12, 12),
    ],
)
def test_octets_that_are_no_pcapng_are_refused(octets):
    with pytest.raises(WireError, match="pcapng"):
        list(read_pcapng(io.BytesIO(octets)))


@given(st.binary(max_size=200))
def test_garbage_after_a_good_start_ends_in_an_error_or_nothing(garbage):
    start = written([(0, 0, b"E" * 20)])
    try:
        found = list(read_pcapng(io.BytesIO(start + garbage)))
    except WireError:
        return
    assert found[0].packet == b"E" * 20
