"""Captures of any origin, pcap or pcapng, read as IP packets.

pcap is draft-ietf-opsawg-pcap (both byte orders, times in microseconds or nanoseconds); pcapng is
`pcapng.read_pcapng`. Link types: Ethernet (with VLAN tags), raw IP, Linux "cooked" 1 and 2.
Whatever is not IP is left out; so are fragments put together again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from io import SEEK_END
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ipseclab.errors import ConfigError, Place, WireError
from ipseclab.lab.pcapng import (
    BYTE_ORDER_MAGIC,
    LINKTYPE_ETHERNET,
    LINKTYPE_RAW,
    SECTION_HEADER,
    CapturedPacket,
    read_pcapng,
)

# draft-ietf-opsawg-pcap section 4: the first four octets tell byte order and unit of time.
PCAP_MAGICS: Mapping[bytes, tuple[str, float]] = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
PCAPNG_MAGIC = SECTION_HEADER.to_bytes(4, "big")
LINKTYPE_MASK = 0xFFFF

# The tcpdump group's registry of link types.
LINKTYPE_RAW_BSD = 12
LINKTYPE_LINUX_SLL = 113
LINKTYPE_IPV4 = 228
LINKTYPE_IPV6 = 229
LINKTYPE_LINUX_SLL2 = 276
RAW_LINK_TYPES = (LINKTYPE_RAW, LINKTYPE_RAW_BSD, LINKTYPE_IPV4, LINKTYPE_IPV6)

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPES_VLAN = (0x8100, 0x88A8)
VLAN_TAG_SIZE = 4

# Own limits: a frame of a capture, and VLAN tags that are looked through.
LARGEST_FRAME = 0x40000
MOST_VLAN_TAGS = 2

EXPECTED = "a pcap or pcapng file was expected"


class _LinkHeader(NamedTuple):
    """Where a link header holds its EtherType, and its size."""

    ethertype_at: int
    size: int


_LINK_HEADERS: Mapping[int, _LinkHeader] = {
    LINKTYPE_ETHERNET: _LinkHeader(12, 14),
    LINKTYPE_LINUX_SLL: _LinkHeader(14, 16),
    LINKTYPE_LINUX_SLL2: _LinkHeader(0, 20),
}


def read_capture(path: Path) -> Iterator[CapturedPacket]:
    """The frames of a capture, in its order.

    Raises ConfigError when the file is no capture; for one that is cut off, behind its last whole
    frame.
    """
    place = Place(str(path))
    try:
        with path.open("rb") as stream:
            magic = stream.read(4)
            stream.seek(0)
            if magic in PCAP_MAGICS:
                yield from _read_pcap(stream)
            elif magic == PCAPNG_MAGIC:
                yield from read_pcapng(stream)
                _check_pcapng_end(stream)
            else:
                raise ConfigError(f"begins with {_begins(magic)}, {EXPECTED}", place)
    except OSError as error:
        raise ConfigError(f"{error.strerror}, {EXPECTED}", place) from None
    except WireError as error:
        raise ConfigError(f"{error}, {EXPECTED}", place) from None


def ipv4_packet(captured: CapturedPacket) -> bytes | None:
    """The IPv4 packet in a frame, perhaps with padding behind it; None when there is none."""
    packet = ip_packet(captured)
    return packet if packet is not None and packet[:1] and packet[0] >> 4 == 4 else None


def ip_packet(captured: CapturedPacket) -> bytes | None:
    """The IPv4 or IPv6 packet in a frame, perhaps with padding behind it; None when there is
    none."""
    frame = captured.packet
    if captured.link_type in RAW_LINK_TYPES:
        return frame if frame[:1] and frame[0] >> 4 in (4, 6) else None
    header = _LINK_HEADERS.get(captured.link_type)
    if header is None:
        return None
    kind, at = _uint16(frame, header.ethertype_at), header.size
    for _ in range(MOST_VLAN_TAGS):
        if kind not in ETHERTYPES_VLAN:
            break
        kind, at = _uint16(frame, at + 2), at + VLAN_TAG_SIZE
    return frame[at:] if kind in (ETHERTYPE_IPV4, ETHERTYPE_IPV6) else None


#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                           Seconds                             |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                  Microseconds or nanoseconds                  |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                     Captured Packet Length                    |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                     Original Packet Length                    |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def _read_pcap(stream: BinaryIO) -> Iterator[CapturedPacket]:
    """The records of a pcap file. Raises WireError."""
    header = stream.read(24)
    if len(header) < 24:
        raise WireError(f"pcap header cut off after {len(header)} octets")
    order, tick = PCAP_MAGICS[header[:4]]
    link_type = struct.unpack_from(f"{order}I", header, 20)[0] & LINKTYPE_MASK
    record = struct.Struct(f"{order}IIII")
    while head := stream.read(record.size):
        if len(head) < record.size:
            raise WireError("cut off inside the header of its last packet")
        seconds, fraction, size, _original = record.unpack(head)
        if size > LARGEST_FRAME:
            raise WireError(f"pcap packet of {size} octets, at most {LARGEST_FRAME}")
        frame = stream.read(size)
        if len(frame) < size:
            raise WireError("cut off inside its last packet")
        yield CapturedPacket("interface 0", seconds + fraction * tick, frame, link_type)


def _check_pcapng_end(stream: BinaryIO) -> None:
    """See that a pcapng file, which `read_pcapng` read to its end, ends with a whole block.

    Raises WireError.
    """
    size, at, order = stream.seek(0, SEEK_END), 0, "<"
    while at < size:
        stream.seek(at)
        head = stream.read(12)
        if head[:4] == PCAPNG_MAGIC:
            order = "<" if head[8:] == BYTE_ORDER_MAGIC.to_bytes(4, "little") else ">"
        at += struct.unpack_from(f"{order}I", head, 4)[0] if len(head) >= 8 else size
    if at > size:
        raise WireError("cut off inside its last block")


def _begins(magic: bytes) -> str:
    return f"octets {magic.hex(' ')}" if magic else "nothing (it is empty)"


def _uint16(octets: bytes, at: int) -> int:
    """Big-endian; 0, which is no EtherType, where the frame is too short."""
    return int.from_bytes(octets[at : at + 2], "big") if len(octets) >= at + 2 else 0
