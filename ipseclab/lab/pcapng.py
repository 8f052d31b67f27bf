"""pcapng files: whole IPv4 packets with nanosecond times, several named interfaces.

draft-ietf-opsawg-pcapng sections 4.1 (Section Header), 4.2 (Interface Description) and 4.3
(Enhanced Packet). Little-endian, link type RAW. Reading holds to what such a file needs (both byte
orders, Enhanced and Simple Packet blocks, any link type); other blocks are skipped.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from ipseclab.errors import WireError

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 0x00000001
SIMPLE_PACKET = 0x00000003
ENHANCED_PACKET = 0x00000006
BYTE_ORDER_MAGIC = 0x1A2B3C4D

LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101
OPTION_END = 0
OPTION_USER_APPLICATION = 4
OPTION_INTERFACE_NAME = 2
OPTION_TIME_RESOLUTION = 9
NANOSECONDS = 9
MICROSECONDS = 6

SNAP_LENGTH = 0x40000
LARGEST_BLOCK = 16 * 1024 * 1024
"""Own limit when reading: no block of a capture of IPv4 packets comes near it."""


class CapturedPacket(NamedTuple):
    """A packet of a capture file: where and when (seconds), and its octets from `link_type` on."""

    interface: str
    time: float
    packet: bytes
    link_type: int


class PcapngWriter:
    """Writes one section; its interfaces are named at the start or as they come. `stream` stays the
    caller's."""

    def __init__(
        self, stream: BinaryIO, interfaces: Sequence[str], application: str = "ipseclab"
    ) -> None:
        self._stream = stream
        self._interfaces: list[str] = []
        stream.write(_section_header(application))
        for name in interfaces:
            self.add_interface(name)

    def add_interface(self, name: str) -> int:
        """Describe one more interface; its index, for `write`."""
        self._stream.write(_interface_description(name))
        self._interfaces.append(name)
        return len(self._interfaces) - 1

    def write(self, interface: int, time: float, packet: bytes) -> None:
        """Add one whole IPv4 packet seen at `interface` (its index) at `time` seconds."""
        if not 0 <= interface < len(self._interfaces):
            raise ValueError(f"interface {interface}, the capture has {len(self._interfaces)}")
        ticks = round(time * 1e9)
        size = len(packet)
        body = struct.pack("<IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, size, size)
        self._stream.write(_block(ENHANCED_PACKET, body + _padded(packet)))


def _section_header(application: str) -> bytes:
    body = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
    options = _option(OPTION_USER_APPLICATION, application.encode()) + _option(OPTION_END, b"")
    return _block(SECTION_HEADER, body + options)


def _interface_description(name: str) -> bytes:
    body = struct.pack("<HHI", LINKTYPE_RAW, 0, SNAP_LENGTH)
    options = (
        _option(OPTION_INTERFACE_NAME, name.encode())
        + _option(OPTION_TIME_RESOLUTION, bytes([NANOSECONDS]))
        + _option(OPTION_END, b"")
    )
    return _block(INTERFACE_DESCRIPTION, body + options)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def _padded(octets: bytes) -> bytes:
    return octets + bytes(-len(octets) % 4)


class _Interface(NamedTuple):
    name: str
    link_type: int
    tick: float
    """Seconds a tick of its time stamps."""


def read_pcapng(stream: BinaryIO) -> Iterator[CapturedPacket]:
    """The packets of a pcapng file in its order; a cut-off last block ends it.

    Raises WireError when the file is no pcapng or a block's lengths do not fit.
    """
    order, interfaces = "<", list[_Interface]()
    first = True
    while len(head := stream.read(8)) == 8:
        kind = int.from_bytes(head[:4], "little")
        if kind == SECTION_HEADER:
            magic = stream.read(4)
            order = _byte_order(magic)
            interfaces = []
            size = struct.unpack(f"{order}I", head[4:])[0] - 4
        elif first:
            raise WireError("not a pcapng file: it does not begin with a Section Header block")
        else:
            size = struct.unpack(f"{order}I", head[4:])[0]
            kind = struct.unpack(f"{order}I", head[:4])[0]
        first = False
        if not 12 <= size <= LARGEST_BLOCK:
            raise WireError(f"pcapng block of {size} octets, 12 to {LARGEST_BLOCK} expected")
        body = stream.read(size - 8)
        if len(body) < size - 8:
            return
        if kind == INTERFACE_DESCRIPTION:
            interfaces.append(_decode_interface(body[:-4], order, len(interfaces)))
        elif kind in (ENHANCED_PACKET, SIMPLE_PACKET):
            yield _decode_packet(kind, body[:-4], order, interfaces)


def _byte_order(magic: bytes) -> str:
    for order in "<>":
        if struct.pack(f"{order}I", BYTE_ORDER_MAGIC) == magic:
            return order
    raise WireError(f"pcapng byte-order magic {magic.hex()}")


def _decode_interface(body: bytes, order: str, index: int) -> _Interface:
    if len(body) < 8:
        raise WireError(f"pcapng interface block of {len(body)} octets, at least 8 needed")
    link_type = struct.unpack_from(f"{order}H", body)[0]
    name, tick, at = f"interface {index}", 10.0**-MICROSECONDS, 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        value = body[at + 4 : at + 4 + length]
        if code == OPTION_END:
            break
        if code == OPTION_INTERFACE_NAME:
            name = value.decode("utf-8", "replace")
        elif code == OPTION_TIME_RESOLUTION and value:
            # The top bit chooses a power of two (section 4.2, if_tsresol).
            tick = 2.0 ** -(value[0] & 0x7F) if value[0] & 0x80 else 10.0 ** -value[0]
        at += 4 + length + (-length % 4)
    return _Interface(name, link_type, tick)


def _decode_packet(
    kind: int, body: bytes, order: str, interfaces: Sequence[_Interface]
) -> CapturedPacket:
    fixed = 20 if kind == ENHANCED_PACKET else 4
    if len(body) < fixed:
        raise WireError(f"pcapng packet block of {len(body)} octets, at least {fixed} needed")
    if kind == ENHANCED_PACKET:
        index, high, low, size, _original = struct.unpack_from(f"{order}IIIII", body)
    else:
        index, high, low = 0, 0, 0
        size = min(struct.unpack_from(f"{order}I", body)[0], len(body) - fixed)
    if index >= len(interfaces):
        raise WireError(f"pcapng packet of interface {index}, {len(interfaces)} described")
    if size > len(body) - fixed:
        raise WireError(f"pcapng packet of {size} octets in {len(body) - fixed}")
    interface = interfaces[index]
    packet = body[fixed : fixed + size]
    return CapturedPacket(
        interface.name, (high << 32 | low) * interface.tick, packet, interface.link_type
    )
