"""Kernel devices and sockets as the drivers use them: TUN, AF_PACKET, raw IPv4, UDP, offloads.

Plain file descriptors and ioctl(2): no helper binaries. Everything is opened in the network
namespace of the caller; `in_network` lends another node's for a moment. See netdevice(7),
packet(7), raw(7), and tuntap.txt of the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ipseclab.emu import mnexec
from ipseclab.errors import EnvironmentLacks

TUN_DEVICE = "/dev/net/tun"
PROTECTED_TUN = "tun-in"
UNPROTECTED_TUN = "tun-out"
INTERFACE_NAME_SIZE = 16
UNSENT_OCTETS = 16_384
"""Little: what TCP holds unsent is not seen by the gateway's own queue."""
OWN_MARK = 0x1B5
"""SO_MARK of the gateways' own sockets: their packets pass by the policy routing that feeds TUN."""
SOCKET_BUFFER = 4 * 1024 * 1024
"""Wanted octets of a socket's queues; an unprivileged sandbox gets at most `net.core.rmem_max`."""

ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ETHERTYPES = {4: ETH_P_IP, 6: ETH_P_IPV6}
"""By version of IP."""
ETHERNET_HEADER = struct.Struct("!6s6sH")
LARGEST_FRAME = 65_536 + ETHERNET_HEADER.size

_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCGIFMTU = 0x8921
_SIOCSIFMTU = 0x8922
_SIOCGIFHWADDR = 0x8927
_SIOCETHTOOL = 0x8946
_IFF_NOARP = 0x80
_IFF_MULTICAST = 0x1000
_IFF_UP = 0x1
_IP_HDRINCL = 3
_TCP_NOTSENT_LOWAT = 25
_SO_MARK = 36
_SO_NO_CHECK = 11
_IP_MTU_DISCOVER = 10
_IP_PMTUDISC_DONT = 0
_SO_TIMESTAMPNS = 35
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_STAMP = struct.Struct("qq")

_OFFLOADS = {
    "receive checksum": 0x15,
    "transmit checksum": 0x17,
    "scatter-gather": 0x19,
    "TCP segmentation": 0x1F,
    "generic segmentation": 0x24,
    "generic receive": 0x2C,
}
"""Name to the command of ethtool's ioctl that sets it (linux/ethtool.h)."""


@contextlib.contextmanager
def in_network(pid: int) -> Iterator[None]:
    """Be in the network namespace of `pid` meanwhile: what is opened there stays there."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mnexec.join_network(pid)
        try:
            yield
        finally:
            mnexec.set_namespace(own, mnexec.CLONE_NEWNET)
    finally:
        os.close(own)


# Interfaces --------------------------------------------------------------------------------------


def set_up(name: str) -> None:
    """Set the interface up."""
    with _control() as control:
        flags = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name, b""), 16)[0]
        _ioctl(control, _SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))


def keep_quiet(name: str) -> None:
    """Let the kernel ask no neighbours at the interface and join no groups, which it would tell
    them (neighbour discovery, MLD)."""
    with _control() as control:
        flags: int = struct.unpack_from("H", _ioctl(control, _SIOCGIFFLAGS, name, b""), 16)[0]
        _ioctl(control, _SIOCSIFFLAGS, name, struct.pack("H", flags & ~_IFF_MULTICAST | _IFF_NOARP))


def set_mtu(name: str, mtu: int) -> None:
    """Set the largest packet that the interface takes."""
    with _control() as control:
        _ioctl(control, _SIOCSIFMTU, name, struct.pack("i", mtu))


def mtu_of(name: str) -> int:
    """The largest packet that the interface takes."""
    with _control() as control:
        mtu: int = struct.unpack_from("i", _ioctl(control, _SIOCGIFMTU, name, b""), 16)[0]
    return mtu


def mac_of(name: str) -> bytes:
    """The interface's Ethernet address, 6 octets."""
    with _control() as control:
        return bytes(_ioctl(control, _SIOCGIFHWADDR, name, b"")[18:24])


def offloads_off(name: str) -> None:
    """Make the kernel send frames as they would be on a wire: cut to the MTU, with checksums.

    An offload that the interface does not have is passed over.
    """
    with _control() as control:
        for command in _OFFLOADS.values():
            value = bytearray(struct.pack("II", command, 0))
            request = _request(name) + struct.pack("P", _address_of(value))
            with contextlib.suppress(OSError):
                fcntl.ioctl(control, _SIOCETHTOOL, request)


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _request(name: str) -> bytes:
    """The name part of a struct ifreq."""
    octets = name.encode("ascii")
    if len(octets) >= INTERFACE_NAME_SIZE:
        raise ValueError(f"interface name {name} of {len(octets)} octets, at most 15")
    return octets.ljust(INTERFACE_NAME_SIZE, b"\0")


def _ioctl(control: socket.socket, number: int, name: str, value: bytes) -> bytes:
    return fcntl.ioctl(control, number, (_request(name) + value).ljust(40, b"\0"))


def _address_of(value: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(value))


# TUN ---------------------------------------------------------------------------------------------


def open_tun(name: str, *, flags: int = 0) -> int:
    """Make a TUN interface; the descriptor gives and takes whole IP packets, one a call, in the
    form that further `flags` of TUNSETIFF ask for.

    Raises EnvironmentLacks without /dev/net/tun.
    """
    try:
        descriptor = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentLacks(
            f"{TUN_DEVICE}: {error.strerror}",
            "as root: modprobe tun; in a container: run it with --device /dev/net/tun",
        ) from error
    request = _request(name) + struct.pack("H", _IFF_TUN | _IFF_NO_PI | flags)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, request.ljust(40, b"\0"))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


# Sockets -----------------------------------------------------------------------------------------


def open_packet_socket(name: str, version: int = 4) -> socket.socket:
    """A non-blocking socket that takes and gives the IP frames of an interface, as they are.

    Bound to one IP rather than to every protocol, so it sees what comes in and not what goes out.
    """
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    enlarge_buffers(opened)
    opened.setblocking(False)
    opened.bind((name, ETHERTYPES[version]))
    return opened


def stamped(opened: socket.socket) -> Callable[[], tuple[bytes, float]]:
    """A function that takes a frame from a packet socket, and says when the kernel got it, on the
    monotonic clock. Raises BlockingIOError."""
    opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    # Both clocks tick alike for as long as a run lasts; the kernel stamps with the other one.
    offset = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
    receive, unpack, size = opened.recvmsg, _STAMP.unpack_from, socket.CMSG_SPACE(_STAMP.size)

    def take() -> tuple[bytes, float]:
        frame, ancillary, _flags, _from = receive(LARGEST_FRAME, size)
        seconds, nanoseconds = unpack(ancillary[0][2])
        return frame, (seconds * 1_000_000_000 + nanoseconds - offset) * 1e-9

    return take


def queue_losses(*opened: socket.socket) -> int:
    """Frames that packet sockets had no room for since this was last asked."""
    return sum(
        struct.unpack("II", one.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1] for one in opened
    )


def open_tap_socket(name: str) -> socket.socket:
    """A non-blocking socket that sees all frames of an interface, both ways, to record them."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    enlarge_buffers(opened)
    opened.setblocking(False)
    opened.bind((name, 0x0003))
    return opened


def open_ip_socket(protocol: int) -> socket.socket:
    """A raw IPv4 socket: receives whole packets of `protocol`, sends whole packets of any."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    opened.setsockopt(socket.IPPROTO_IP, _IP_HDRINCL, 1)
    _prepare(opened)
    return opened


def open_ipv6_sender() -> socket.socket:
    """A raw IPv6 socket that sends whole packets. None receives them: the kernel keeps the header
    to itself."""
    opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
    _prepare(opened)
    return opened


def open_sender(address: str) -> socket.socket:
    """A raw socket that sends whole packets, routed by `address` as their source."""
    opened = socket.socket(family_of(address), socket.SOCK_RAW, socket.IPPROTO_RAW)
    _prepare(opened)
    opened.bind((address, 0))
    return opened


def open_udp_socket(address: str, port: int) -> socket.socket:
    """A UDP socket bound to one of the node's addresses; what it sends may be fragmented."""
    opened = socket.socket(family_of(address), socket.SOCK_DGRAM)
    if opened.family == socket.AF_INET:
        opened.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
    _prepare(opened)
    opened.bind((address, port))
    return opened


def open_tcp_socket(address: str, port: int) -> socket.socket:
    """A TCP socket bound to one of the node's addresses, to connect from or to listen on."""
    opened = socket.socket(family_of(address), socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, OWN_MARK)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setblocking(False)
    try:
        opened.bind((address, port))
    except OSError:
        opened.close()
        raise
    return opened


def limit_unsent(opened: socket.socket) -> None:
    """Take no more than some octets that TCP cannot send yet: the rest waits with the gateway,
    which knows what may be dropped."""
    opened.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_OCTETS)


def reset_on_close(opened: socket.socket) -> None:
    """Have a TCP socket's closing reset the connection."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def give_up_after(opened: socket.socket, seconds: float) -> None:
    """Have the kernel end a TCP connection whose peer takes nothing for so long (RFC 5482)."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def family_of(address: str) -> socket.AddressFamily:
    """The sockets' family of an address in text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def set_udp_checksum(opened: socket.socket, wanted: bool) -> None:
    """Whether the datagrams that a socket sends have a checksum; zero means none (RFC 768). In IPv6
    they always have (RFC 8200 section 8.1)."""
    if opened.family == socket.AF_INET6:
        return
    opened.setsockopt(socket.SOL_SOCKET, _SO_NO_CHECK, int(not wanted))


def _prepare(opened: socket.socket) -> None:
    opened.setsockopt(socket.SOL_SOCKET, _SO_MARK, OWN_MARK)
    enlarge_buffers(opened)
    opened.setblocking(False)


def enlarge_buffers(opened: socket.socket) -> None:
    """Ask for large queues; the kernel gives what it allows."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)


# Kernel settings ---------------------------------------------------------------------------------


def set_sysctl(name: str, value: int | str) -> None:
    """Write a setting of this network namespace, such as `ipv4.ip_forward`."""
    Path("/proc/sys/net", *name.split(".")).write_text(f"{value}\n")


def congestion_controls() -> tuple[str, ...]:
    """The TCP congestion controls that this kernel offers."""
    return tuple(Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split())
