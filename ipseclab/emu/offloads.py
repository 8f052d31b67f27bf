"""The kernel's segmentation offloads: TUN with a virtio-net header, UDP_SEGMENT and UDP_GRO.

One system call then carries up to 64 KiB of one flow. See tuntap.txt and segmentation-offloads.rst
of the kernel, udp(7), and the Virtual I/O Device specification, section 5.1.6 (the header).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from ipseclab.emu import devices
from ipseclab.ipsec.segmentation import SuperPacket, segments_of
from ipseclab.ipsec.train import longest_train
from ipseclab.wire.ip import checksum

PROBE_DATAGRAMS, PROBE_SIZE = 3, 100
PROBE_SECONDS = 1.0
LARGEST_READ = 65_536 + 64
_TUNSETOFFLOAD = 0x400454D0
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO_ECN = 0x01, 0x02, 0x08
_IFF_VNET_HDR = 0x4000
_SOL_UDP = 17
_UDP_SEGMENT, _UDP_GRO = 103, 104
_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_SEGMENT = struct.Struct("H")
_INT = struct.Struct("i")
_ANCILLARY = socket.CMSG_SPACE(_INT.size)

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset
_VNET = struct.Struct("=BBHHHH")
_NEEDS_CHECKSUM = 1
_GSO_TCPV4, _GSO_UDP_L4, _GSO_ECN = 1, 5, 0x80
_TCP = 6
_PROTOCOL = 9
_NOTHING_SPECIAL = bytes(_VNET.size)
_IPV4_HEADER_SIZE, _TCP_CHECKSUM_OFFSET, _UDP_CHECKSUM_OFFSET = 20, 16, 6


HEADER_SIZE = _VNET.size
"""Octets of what the kernel says of a packet in front of it."""


class OffloadTun:
    """A TUN interface that gives TCP super-packets of IPv4, and takes those of TCP and UDP."""

    def __init__(self, name: str) -> None:
        """Raises OSError without the offloads, EnvironmentLacks without TUN."""
        self.descriptor = devices.open_tun(name, flags=_IFF_VNET_HDR)
        offloads = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO_ECN
        try:
            fcntl.ioctl(self.descriptor, _TUNSETOFFLOAD, offloads)
        except OSError:
            os.close(self.descriptor)
            raise
        self._buffer = bytearray(LARGEST_READ)
        self._view = memoryview(self._buffer)
        self._buffers = (self._buffer,)

    def read(self) -> bytes | SuperPacket:
        """The next packet, its checksums complete, or super-packet. Raises BlockingIOError."""
        length = os.readv(self.descriptor, self._buffers)
        if self._buffer.startswith(_NOTHING_SPECIAL[:2]):
            return bytes(self._view[_VNET.size : length])
        return _read(_VNET.unpack_from(self._buffer), bytes(self._view[_VNET.size : length]), 0)

    def write(self, packet: bytes) -> None:
        """Hand a packet to the kernel."""
        os.writev(self.descriptor, (_NOTHING_SPECIAL, packet))

    def write_super(self, packet: SuperPacket) -> None:
        """Hand over a super-packet as `ipsec.segmentation.join` makes it. Raises OSError, of UDP
        with a kernel before Linux 6.2."""
        tcp = packet.octets[_PROTOCOL] == _TCP
        header = _VNET.pack(
            _NEEDS_CHECKSUM,
            _GSO_TCPV4 if tcp else _GSO_UDP_L4,
            packet.header_size,
            packet.size,
            _IPV4_HEADER_SIZE,
            _TCP_CHECKSUM_OFFSET if tcp else _UDP_CHECKSUM_OFFSET,
        )
        os.writev(self.descriptor, (header, packet.octets))


def _read(header: tuple[int, ...], packet: bytes, ahead: int) -> bytes | SuperPacket:
    """The packet that comes with that header, which counts `ahead` octets in front of it."""
    flags, kind, _head, size, start, offset = header
    if kind & ~_GSO_ECN in (_GSO_TCPV4, _GSO_UDP_L4):
        return SuperPacket(packet, size)
    return completed(packet, start - ahead, offset) if flags & _NEEDS_CHECKSUM else packet


def with_headers(opened: socket.socket) -> bool:
    """Have a packet socket say of each frame what `packets_of` wants to know; False where it
    cannot."""
    try:
        opened.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    except OSError:
        return False
    return True


def packets_of(octets: bytes, ethernet: int) -> tuple[bytes, Iterable[bytes]]:
    """A frame as a packet socket `with_headers` gives it: the frame, with an Ethernet header of so
    many octets, and the packets that it would be on a wire."""
    header, frame = _VNET.unpack_from(octets), octets[_VNET.size :]
    found = _read(header, frame[ethernet:], ethernet)
    if isinstance(found, SuperPacket):
        return frame, segments_of(found) if found.is_sound else (found.octets,)
    return frame, (found,)


def captures_show_trains() -> bool:
    """Whether a packet socket says of a train of UDP what it stands for (Linux 6.2 and later):
    tried out over the loopback interface, which is set up for it."""
    try:
        devices.set_up("lo")
        with (
            devices.open_tap_socket("lo") as tap,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        ):
            if not with_headers(tap):
                return False
            sender.bind(("127.0.0.1", 0))
            train = memoryview(bytes(PROBE_DATAGRAMS * PROBE_SIZE))
            send_train(sender, train, PROBE_SIZE, sender.getsockname())
            tap.settimeout(PROBE_SECONDS)
            found = tap.recv(LARGEST_READ)
    except OSError:
        return False
    _flags, kind, *_rest = _VNET.unpack_from(found)
    return bool(kind == _GSO_UDP_L4)


def completed(packet: bytes, start: int, offset: int) -> bytes:
    """The packet with the checksum from octet `start` on filled in: in its field, `offset` octets
    further, stands what the pseudo header adds to it."""
    at = start + offset
    value = checksum(packet[start:])
    if offset == _UDP_CHECKSUM_OFFSET and not value:
        value = 0xFFFF
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def send_train(
    opened: socket.socket, octets: memoryview, size: int, remote: tuple[str, int]
) -> None:
    """Send datagrams of `size` octets each, the last of what is left. Raises OSError.

    The socket must not be told to leave checksums out: the kernel would refuse.
    """
    segment = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT.pack(size))]
    opened.sendmsg((octets,), segment, 0, remote)


def receive_trains(opened: socket.socket) -> None:
    """Let `receive_train` bring several datagrams at a time. Raises OSError."""
    opened.setsockopt(_SOL_UDP, _UDP_GRO, 1)


def receive_train(opened: socket.socket, buffer: memoryview) -> tuple[int, int, tuple[str, int]]:
    """Octets put into `buffer`, the size of each datagram but the last one, and where they came
    from. Raises BlockingIOError."""
    length, ancillary, _flags, remote = opened.recvmsg_into((buffer,), _ANCILLARY)
    for level, kind, data in ancillary:
        if level == _SOL_UDP and kind == _UDP_GRO:
            return length, _INT.unpack(data)[0], remote[:2]
    return length, max(1, length), remote[:2]


Received = tuple[int, int, tuple[str, int]]
"""What `receive_train` says."""


def receive_rest(opened: socket.socket, buffer: memoryview, train: Received) -> Iterator[Received]:
    """The train that is in `buffer` with what the next read brings, if that belongs to it; else
    both, one after the other, each to be used up before the next one is asked for.

    A train as long as one call of its sender takes may be only the beginning of what that sealed
    together: what follows is joined to it if it is there already.
    """
    length, size, remote = train
    more, its_size, its_remote = 0, 0, remote
    if length == longest_train(size):
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            more, its_size, its_remote = receive_train(opened, buffer[length:])
    if its_remote == remote and (its_size == size or its_size == more < size):
        yield length + more, size, remote
        return
    other = bytes(buffer[length : length + more])
    yield length, size, remote
    buffer[:more] = other
    yield more, its_size, its_remote


def available() -> dict[str, bool]:
    """Which of the offloads this kernel has, tried out; needs the right to make a TUN device."""
    found = {}
    try:
        os.close(OffloadTun("offload0").descriptor)
        found["TCP in TUN"] = True
    except OSError:
        found["TCP in TUN"] = False
    found["trains in captures"] = captures_show_trains()
    for name, option in (("UDP segmentation", _UDP_SEGMENT), ("UDP receive", _UDP_GRO)):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            try:
                opened.setsockopt(_SOL_UDP, option, 1)
                found[name] = True
            except OSError:
                found[name] = False
    return found
