"""A gateway's process that moves packets in trains where the kernel's offloads let it.

The same gateway and the same datapath as `emu.driver`, which it is but for reading and writing: a
train is what one read brought, or single packets that were there already; nothing waits for more.
What is no train goes packet by packet, as do all packets where an offload is missing. Since the
kernel cuts no datagrams without checksum, those of a train have one (RFC 3948 section 2.1 prefers
zero, and bids receivers take either).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from ipseclab.emu import offloads
from ipseclab.emu.driver import BURST, LARGEST_PACKET, GatewayDriver, GatewaySpec, Report
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ipsec import ipv4
from ipseclab.ipsec.counters import INBOUND
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.segmentation import SuperPacket, segments_of
from ipseclab.ipsec.train import (
    TRAIN_LIMIT,
    OpenedTrain,
    SealedTrain,
    TrainOpener,
    TrainOutput,
    TrainSealer,
)
from ipseclab.outputs import SendDatagram, SendPacket, UdpEndpoint, UdpPath

__all__ = ["FastDriver"]

LARGEST_BACKLOG = 128
"""Packets and super-packets taken from the protected side that wait for their turn; beyond, they
wait in the device's own queue, which drops what it has no room for."""
TURN_OCTETS = 4 * 65_536
"""Read from a socket before the others and the timer are looked at; a datagram counts as
`DATAGRAM_COST` octets more than it has."""
DATAGRAM_COST = TURN_OCTETS // BURST


class FastDriver(GatewayDriver):
    """`GatewayDriver` with trains."""

    def __init__(self, spec: GatewaySpec) -> None:
        self._tun: offloads.OffloadTun | None = None
        super().__init__(spec)
        self._sealer = TrainSealer(self._gateway.datapath)
        self._opener = TrainOpener(self._gateway.datapath)
        self._trains = {"trains_out": 0, "trains_in": 0}
        self._waiting: deque[tuple[bytes, bytes | SuperPacket]] = deque()
        """From the protected side, with their flows."""
        self._segments = offloads.available()["UDP segmentation"]

    def _open_protected(self, name: str) -> int:
        try:
            self._tun = offloads.OffloadTun(name)
        except OSError:
            return super()._open_protected(name)
        return self._tun.descriptor

    # Outbound

    def _read_protected(self) -> None:
        """Take what is there. Single packets leave at once, super-packets one a turn: who sends
        little does not wait for who sends much. Within a flow the order stays."""
        singles: list[bytes] = []
        read = self._next_protected
        for _ in range(TRAIN_LIMIT):
            if len(self._waiting) >= LARGEST_BACKLOG:
                break
            try:
                packet = read()
            except BlockingIOError:
                break
            if isinstance(packet, SuperPacket):
                self._waiting.append((ipv4.flow_key(packet.octets), packet))
            elif self._waiting and (key := ipv4.flow_key(packet)) in dict(self._waiting):
                self._waiting.append((key, packet))
            else:
                singles.append(packet)
        self._send_singles(singles)

    def _seconds_left(self) -> float | None:
        return 0.0 if self._waiting else super()._seconds_left()

    def _keep_time(self) -> None:
        super()._keep_time()
        self._send_waiting()

    def _send_waiting(self) -> None:
        """One super-packet, or the single packets up to the next one."""
        singles: list[bytes] = []
        while self._waiting:
            _key, packet = self._waiting[0]
            if isinstance(packet, SuperPacket) and singles:
                break
            self._waiting.popleft()
            if isinstance(packet, SuperPacket):
                self._send_super(packet)
                return
            singles.append(packet)
        self._send_singles(singles)

    def _send_super(self, packet: SuperPacket) -> None:
        now = time.monotonic()
        if packet.is_sound:
            self._carry_trains(self._sealer.seal_super(packet, now), now)
        else:
            self._carry_out(self._gateway.send_packet(packet.octets, now), now)

    def _next_protected(self) -> bytes | SuperPacket:
        if self._tun is not None:
            return self._tun.read()
        return os.read(self._protected, offloads.LARGEST_READ)

    def _send_singles(self, packets: Sequence[bytes]) -> None:
        now = time.monotonic()
        if len(packets) == 1:
            self._carry_out(self._gateway.send_packet(packets[0], now), now)
            return
        while packets:
            outputs = self._sealer.seal_packets(packets, now)
            packets = packets[self._sealer.taken :]
            self._carry_trains(outputs, now)

    # Inbound

    def _raw_reader(self, opened: socket.socket) -> Callable[[], None]:
        if opened is not self._raw:
            return super()._raw_reader(opened)
        view = memoryview(self._opener.buffer)
        room = len(view) - LARGEST_PACKET

        def read() -> None:
            """Gather packets of one size that are there already, one behind the other."""
            end = size = 0
            for _ in range(TRAIN_LIMIT):
                try:
                    length = opened.recv_into(view[end:])
                except BlockingIOError:
                    break
                if length != size and end:
                    odd = bytes(view[end : end + length])
                    self._receive_train(None, end, size)
                    self._receive_packet(odd)
                    end = 0
                else:
                    size = length
                    end += length
                if end > room:
                    break
            if end:
                self._receive_train(None, end, size)

        return read

    def _receive_train(self, path: UdpPath | None, length: int, size: int) -> None:
        """What is in the opener's buffer: trains, and packet by packet what is none."""
        now = time.monotonic()
        self._carry_trains(self._opener.open(length, size, path, now), now)
        buffer = self._opener.buffer
        for start in range(self._opener.taken * size, max(length, 1), size):
            packet = bytes(buffer[start : min(start + size, length)])
            if path is None:
                self._receive_packet(packet)
            else:
                self._carry_out(self._gateway.receive_datagram(path, packet, now), now)

    def _receive_packet(self, packet: bytes) -> None:
        now = time.monotonic()
        self._carry_out(self._gateway.receive_packet(packet, now), now)

    def _udp_reader(self, local: UdpEndpoint, opened: socket.socket) -> Callable[[], None]:
        if local.port != NAT_T_PORT:
            return super()._udp_reader(local, opened)
        # Without the option each read brings one datagram.
        with contextlib.suppress(OSError):
            offloads.receive_trains(opened)

        buffer = memoryview(self._opener.buffer)
        receive = self._gateway.receive_datagram

        def read() -> None:
            octets = 0
            while octets < TURN_OCTETS:
                try:
                    length, size, remote = offloads.receive_train(opened, buffer)
                except BlockingIOError:
                    return
                except ConnectionRefusedError:  # an ICMP error for an earlier datagram
                    continue
                octets += length + DATAGRAM_COST
                if length <= size:
                    # One datagram: whoever waits for it waits for no machinery of trains.
                    now = time.monotonic()
                    path = UdpPath(local, UdpEndpoint(*remote))
                    self._carry_out(receive(path, bytes(buffer[:length]), now), now)
                    continue
                train = length, size, remote
                for length, size, remote in offloads.receive_rest(opened, buffer, train):
                    self._receive_train(UdpPath(local, UdpEndpoint(*remote)), length, size)

        return read

    # Both

    def _carry_trains(self, outputs: Sequence[TrainOutput], now: float) -> None:
        """Carry out, in order; trains at once, as their octets do not last."""
        others: list[DatapathOutput] = []
        for output in outputs:
            if isinstance(output, SealedTrain | OpenedTrain):
                self._carry_out(self._gateway.settle(others, now), now)
                others = []
                if isinstance(output, SealedTrain):
                    self._trains["trains_out"] += 1
                    self._send_train(output, now)
                else:
                    self._trains["trains_in"] += 1
                    self._deliver_train(output, now)
            else:
                others.append(output)
        self._carry_out(self._gateway.settle(others, now), now)

    def _send_train(self, train: SealedTrain, now: float) -> None:
        path = train.path
        if path is None:
            self._send_raw(train, now)
            return
        opened = self._udp.get(path.local)
        if opened is not None and self._segments:
            self._check_sums(path.local, not_esp=True)
            remote = path.remote.address, path.remote.port
            # Longer than the path's MTU: then it has to be fragmented, datagram by datagram.
            with contextlib.suppress(OSError):
                offloads.send_train(opened, train.octets, train.size, remote)
                return
        self._carry_out([SendDatagram(path, packet) for packet in train.packets()], now)

    def _send_raw(self, train: SealedTrain, now: float) -> None:
        """Packets of protocol 50: raw sockets take them one by one."""
        first = bytes(train.octets[: train.size])
        sender = self._sender_of(first)
        if sender is None or len(self._fitting(first)) > 1:
            self._carry_out([SendPacket(packet) for packet in train.packets()], now)
            return
        remote = str(IPv4Address(first[16:20])), 0
        send, octets, size = sender.sendto, train.octets, train.size
        for start in range(0, len(octets), size):
            packet = octets[start : start + size]
            try:
                send(packet, remote)
            except OSError:
                self._send(sender, bytes(packet), remote, now)

    def _deliver_train(self, train: OpenedTrain, now: float) -> None:
        for part in train.parts():
            self._deliver_part(part, now)

    def _deliver_part(self, train: OpenedTrain, now: float) -> None:
        joined = train.joined() if self._tun is not None else None
        if joined is None or self._tun is None:
            for packet in train.packets():
                self._deliver(packet, now)
            return
        try:
            self._tun.write_super(joined)
        except OSError:
            # What the kernel does not take in one piece it may take by itself.
            for packet in segments_of(joined):
                self._deliver(packet, now)

    def _deliver(self, packet: bytes, now: float) -> None:
        if self._tun is None:
            super()._deliver(packet, now)
            return
        try:
            self._tun.write(packet)
        except OSError:
            self._dropped("not_delivered", INBOUND, packet, now)

    def _report(self) -> Report:
        report = super()._report()
        return replace(report, counters={**report.counters, **self._trains})
