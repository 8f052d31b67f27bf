"""Numbered packets in at one socket and out at another: how long single ones take, and how many a
second come through while a bounded number is under way."""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass

from ipseclab.emu.process import PrecisePoll

PACE = 0.001
LOST_AFTER = 0.2
"""Seconds after which a packet will not come any more."""
LARGEST = 65_536
NUMBER = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Flood:
    """What came out of a line, a second; and the share that did not."""

    rate: float
    lost: float


class Line:
    """Packets that are all alike but for the number at `number_at`, sent by `near`, taken by `far`.

    Both sockets are non-blocking, and give and take the same octets.
    """

    def __init__(
        self, near: socket.socket, far: socket.socket, packet: bytes, number_at: int
    ) -> None:
        self._near, self._far = near, far
        self._poll = PrecisePoll(far.fileno())
        self._packet = bytearray(packet)
        self._number_at = number_at
        self._sent = 0
        self._newest = -1
        self._received = 0

    def single_times(self, count: int) -> list[float]:
        """How long single packets take, one each `PACE` or as soon as the one before is there."""
        times = []
        for _ in range(count):
            start = time.monotonic()
            self._send()
            while self._newest < self._sent - 1 and time.monotonic() < start + LOST_AFTER:
                self._poll.wait(LOST_AFTER)
                self._take()
            if self._newest == self._sent - 1:
                times.append(time.monotonic() - start)
            self._poll.wait(max(0.0, start + PACE - time.monotonic()))
        return times

    def flood(self, seconds: float, window: int) -> Flood:
        """Send whenever fewer than `window` packets are under way."""
        sent, received, start = self._sent, self._received, time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            while self._sent - self._newest <= window and self._send():
                pass
            if not self._poll.wait(LOST_AFTER):
                self._newest = self._sent - 1  # the last ones were lost
            self._take()
        rate = (self._received - received) / (now - start)
        # What is still under way would else be in the way of whoever comes next.
        while self._newest < self._sent - 1 and self._poll.wait(LOST_AFTER):
            self._take()
        return Flood(rate, 1.0 - (self._received - received) / max(1, self._sent - sent))

    def _send(self) -> bool:
        """Send one packet; False when the kernel has no room for it now."""
        NUMBER.pack_into(self._packet, self._number_at, self._sent)
        try:
            self._near.send(self._packet)
        except BlockingIOError:
            return False
        self._sent += 1
        return True

    def _take(self) -> None:
        receive, at = self._far.recv, self._number_at
        while True:
            try:
                packet = receive(LARGEST)
            except BlockingIOError:
                return
            self._newest = max(self._newest, NUMBER.unpack_from(packet, at)[0])
            self._received += 1
