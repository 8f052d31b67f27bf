"""The recorder: every IP packet of some interfaces of a node, in and out, to a pcapng file.

A process of its own, on packet sockets, with the kernel's time stamps put on the monotonic clock
that the traces use. What the kernel carries in one piece is written down as the packets that it
stands for, with their checksums (`emu.offloads`).
`merge_captures` joins the recorders' files into the run's one capture.
"""

from __future__ import annotations

import gc
import heapq
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ipseclab.emu import devices, offloads
from ipseclab.emu.process import Child, Control, PrecisePoll, be_quick, start
from ipseclab.lab.keys import Capture
from ipseclab.lab.pcapng import PcapngWriter, read_pcapng

BURST = 256
IDLE_SECONDS = 0.2
"""After so long without a packet what is buffered goes to the file."""
_SO_TIMESTAMPNS = 35
_HEADER = devices.ETHERNET_HEADER.size
_ANCILLARY = socket.CMSG_SPACE(16)
_STAMP = struct.Struct("qq")
_IP = tuple(kind.to_bytes(2, "big") for kind in devices.ETHERTYPES.values())


@dataclass(frozen=True, slots=True)
class CaptureSpec:
    """What to record: the interfaces of a node, and the folder that gets a file for each."""

    node: str
    interfaces: tuple[str, ...]
    folder: Path

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of each interface."""
        return tuple(self.folder / f"{name}.pcapng" for name in self.interfaces)


def start_capture(spec: CaptureSpec, *, network: int, log: Path) -> Child:
    """Start recording in the network namespace of `network`; "ready" when nothing is missed."""
    return start(
        f"capture {spec.node}",
        lambda control: _record(spec, control),
        network=network,
        log=log,
    )


def merge_captures(
    files: Sequence[Path], capture: Capture, start_time: float, end_time: float
) -> int:
    """Write what the recorders saw from start to end into `capture`, by time; how much it was."""
    count = 0
    with ExitStack() as opened:
        streams = [read_pcapng(opened.enter_context(path.open("rb"))) for path in files]
        for seen in heapq.merge(*streams, key=lambda packet: packet.time):
            if start_time <= seen.time <= end_time:
                capture.packet(seen.interface, seen.time - start_time, seen.packet)
                count += 1
    return count


class _Tap:
    """One interface and the file of what passes there."""

    def __init__(self, interface: str, stream: BinaryIO) -> None:
        self._socket = devices.open_tap_socket(interface)
        self._offloads = offloads.with_headers(self._socket)
        self._receive = self._socket.recvmsg
        self._largest = devices.LARGEST_FRAME + offloads.HEADER_SIZE
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._stream = stream
        self._writer = PcapngWriter(stream, (interface,))
        stream.flush()

    def fileno(self) -> int:
        return self._socket.fileno()

    def take(self, offset: int) -> None:
        """Write down what has come, up to a burst; `offset` (ns) puts stamps on our clock."""
        for _ in range(BURST):
            try:
                frame, ancillary, _flags, _from = self._receive(self._largest, _ANCILLARY)
            except BlockingIOError:
                return
            packets: Iterable[bytes]
            if self._offloads:
                frame, packets = offloads.packets_of(frame, _HEADER)
            else:
                packets = (frame[_HEADER:],)
            if frame[_HEADER - 2 : _HEADER] in _IP:
                seconds, nanoseconds = _STAMP.unpack_from(ancillary[0][2])
                at = (seconds * 1_000_000_000 + nanoseconds - offset) * 1e-9
                for packet in packets:
                    self._writer.write(0, at, packet)

    def flush(self) -> None:
        """Push what is buffered to the file."""
        self._stream.flush()


def _record(spec: CaptureSpec, control: Control) -> None:
    be_quick()
    gc.disable()
    # Both clocks tick alike for as long as a run lasts; the kernel stamps with the other one.
    offset = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
    with ExitStack() as opened:
        streams = [opened.enter_context(path.open("wb")) for path in spec.files]
        taps = [_Tap(name, file) for name, file in zip(spec.interfaces, streams, strict=True)]
        by_descriptor = {tap.fileno(): tap for tap in taps}
        poll = PrecisePoll(*by_descriptor, control.fileno())
        control.send("ready")
        dirty = False
        while True:
            ready = poll.wait(IDLE_SECONDS if dirty else None)
            dirty = bool(ready)
            for descriptor in ready:
                tap = by_descriptor.get(descriptor)
                if tap is not None:
                    tap.take(offset)
            if not ready:
                for tap in taps:
                    tap.flush()
            if control.fileno() in ready and control.receive() is None:
                for tap in taps:
                    tap.take(offset)
                return
