"""Flows with the kernel's own ICMP, UDP and TCP: a process for each end, in its host's namespace.

The processes wait for `Go` and then keep the plan's times (`lab.traffic`) on the monotonic clock.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, assert_never

from ipseclab.emu import devices
from ipseclab.emu.process import Child, Control, PrecisePoll, be_quick, start
from ipseclab.errors import EnvironmentLacks
from ipseclab.lab.plan import Ping, Probe, TrafficFlow, Transfer
from ipseclab.lab.trace import Trace
from ipseclab.lab.traffic import (
    PROBE_PORT,
    SMALLEST_PROBE,
    TRANSFER_PORT,
    ProbeJournal,
    probe_payload,
    send_times,
)
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import (
    ICMP_ECHO_HEADER,
    ICMP_ECHO_HEADER_SIZE,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    build_icmp_echo,
    decode_ipv4_header,
)
from ipseclab.wire.ipv6 import ICMPV6_ECHO_REPLY, ICMPV6_ECHO_REQUEST

FIRST_ECHO_IDENTIFIER = 1
REPORT_SECONDS = 0.1
"""How often a transfer's sink says how much it has."""
FLUSH_SECONDS = 0.5
CHUNK = 256 * 1024
LARGEST_DATAGRAM = 65_536
CONGESTION_NAMES = {"cubic": "cubic", "newreno": "reno"}
"""The plan's names to the kernel's."""


@dataclass(frozen=True, slots=True)
class FlowSpec:
    """One flow: its number in the plan, its two addresses, and the file for each end's trace."""

    flow: TrafficFlow
    number: int
    source: str
    destination: str
    folder: Path

    @property
    def family(self) -> socket.AddressFamily:
        """Of the sockets at both ends."""
        return devices.family_of(self.destination)

    def trace_file(self, end: str) -> Path:
        """Where the process of that end ("source" or "sink") writes."""
        return self.folder / f"flow-{self.number}-{end}.jsonl"


@dataclass(frozen=True, slots=True)
class Go:
    """Control: the run starts at this monotonic time."""

    start: float


def require_congestion_controls(flows: tuple[TrafficFlow, ...]) -> None:
    """Raises EnvironmentLacks when this kernel lacks a congestion control that a flow wants."""
    there = devices.congestion_controls()
    for flow in flows:
        if isinstance(flow, Transfer) and CONGESTION_NAMES[flow.congestion] not in there:
            raise EnvironmentLacks(
                f"TCP congestion control {flow.congestion} of transfer {flow.name}: this kernel "
                f"has {', '.join(there)}",
                f"as root: modprobe tcp_{CONGESTION_NAMES[flow.congestion]}; or --world sim",
            )


def start_source(spec: FlowSpec, *, network: int, log: Path) -> Child:
    """Start the sending end in its host's network namespace."""

    def live(control: Control) -> None:
        with spec.trace_file("source").open("a", encoding="utf-8") as sink:
            source = _Source(spec, control, sink)
            match spec.flow:
                case Ping():
                    source.ping(spec.flow)
                case Probe():
                    source.probe(spec.flow)
                case Transfer():
                    source.transfer(spec.flow)
                case _:
                    assert_never(spec.flow)

    return start(f"flow {spec.flow.name}", live, network=network, log=log)


def start_transfer_sink(spec: FlowSpec, *, network: int, log: Path) -> Child:
    """Start the receiving end of a transfer in its host's network namespace."""

    def live(control: Control) -> None:
        with spec.trace_file("sink").open("a", encoding="utf-8") as file:
            _TransferSink(spec, control, file).run()

    return start(f"sink of {spec.flow.name}", live, network=network, log=log)


@dataclass(frozen=True, slots=True)
class ProbeSinkSpec:
    """The one sink of a host for all probes to it: the flows' names by their number."""

    node: str
    names: Mapping[int, str]
    trace: Path
    address: str = "0.0.0.0"
    """The host's: its IP is the sink's."""


def start_probe_sink(spec: ProbeSinkSpec, *, network: int, log: Path) -> Child:
    """Start the receiving end of all probes to a host, in its network namespace."""

    def live(control: Control) -> None:
        with spec.trace.open("a", encoding="utf-8") as file:
            _ProbeSink(spec, control, file).run()

    return start(f"probe sink {spec.node}", live, network=network, log=log)


class _End:
    """What the ends of a flow have in common."""

    def __init__(self, control: Control, node: str, file: TextIO) -> None:
        self.control = control
        self._node = node
        self._trace = Trace(file, keep=False)
        self._flushed_at = 0.0

    def record(self, now: float, event: str, **fields: str | int | float) -> None:
        """Write down one event; to the file within `FLUSH_SECONDS` while there are."""
        self._trace.record(now, self._node, event, **fields)
        if now >= self._flushed_at + FLUSH_SECONDS:
            self.flush()
            self._flushed_at = now

    def flush(self) -> None:
        """Push what is buffered to the file."""
        self._trace.flush()

    def ready(self) -> float | None:
        """Say so, and wait for the start of the run; None when it is called off."""
        self.control.send("ready")
        match self.control.receive():
            case Go(begin):
                be_quick()
                return begin
            case _:
                return None


class _Source(_End):
    """The sending end."""

    def __init__(self, spec: FlowSpec, control: Control, file: TextIO) -> None:
        super().__init__(control, spec.flow.source, file)
        self.spec = spec
        self._name = spec.flow.name

    def ping(self, flow: Ping) -> None:
        """Send echo requests and note the answers until told to end."""
        identifier = FIRST_ECHO_IDENTIFIER + self.spec.number
        is_ipv6 = self.spec.family == socket.AF_INET6
        protocol = IpProtocol.ICMPV6 if is_ipv6 else IpProtocol.ICMP
        request = ICMPV6_ECHO_REQUEST if is_ipv6 else ICMP_ECHO_REQUEST
        with socket.socket(self.spec.family, socket.SOCK_RAW, protocol) as opened:
            opened.setblocking(False)
            begin = self.ready()
            if begin is None:
                return
            poll = PrecisePoll(opened.fileno(), self.control.fileno())
            sent: dict[int, float] = {}
            for sequence, due in self._numbered(flow, begin):
                while (left := due - time.monotonic()) > 0.0:
                    if self._wait(poll, left):
                        return
                    self._answers(opened, identifier, sent)
                # In IPv6 the kernel makes the checksum anew, as it covers addresses.
                echo = build_icmp_echo(request, identifier, sequence & 0xFFFF, bytes(flow.size))
                now = sent[sequence & 0xFFFF] = time.monotonic()
                self.record(now, "ping_sent", flow=self._name, sequence=sequence, octets=flow.size)
                _send(opened, echo, (self.spec.destination, 0))
            while not self._wait(poll, None):
                self._answers(opened, identifier, sent)

    def _answers(self, opened: socket.socket, identifier: int, sent: dict[int, float]) -> None:
        while True:
            try:
                packet = opened.recv(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            now = time.monotonic()
            # A raw IPv6 socket keeps the header to itself.
            is_ipv4 = opened.family == socket.AF_INET
            start = decode_ipv4_header(packet).header_length if is_ipv4 else 0
            kind, _code, _sum, who, sequence = ICMP_ECHO_HEADER.unpack_from(packet, start)
            reply = ICMP_ECHO_REPLY if is_ipv4 else ICMPV6_ECHO_REPLY
            if kind == reply and who == identifier and sequence in sent:
                octets = len(packet) - start - ICMP_ECHO_HEADER_SIZE
                rtt = round(now - sent.pop(sequence), 9)
                fields = {"sequence": sequence, "rtt": rtt, "octets": octets}
                self.record(now, "ping_received", flow=self._name, **fields)

    def probe(self, flow: Probe) -> None:
        """Send numbered datagrams at the flow's rate."""
        size = max(flow.size, SMALLEST_PROBE)
        with socket.socket(self.spec.family, socket.SOCK_DGRAM) as opened:
            opened.bind(("", PROBE_PORT + 1 + self.spec.number))
            opened.setblocking(False)
            begin = self.ready()
            if begin is None:
                return
            poll = PrecisePoll(self.control.fileno())
            for sequence, due in self._numbered(flow, begin):
                payload = probe_payload(self.spec.number, sequence, size)
                while (left := due - time.monotonic()) > 0.0:
                    if self._wait(poll, left):
                        return
                now = time.monotonic()
                self.record(now, "probe_sent", flow=self._name, sequence=sequence, octets=size)
                _send(opened, payload, (self.spec.destination, PROBE_PORT))
            self._wait(poll, None)

    def transfer(self, flow: Transfer) -> None:
        """Send as much as TCP takes, for a time or up to a size."""
        with socket.socket(self.spec.family, socket.SOCK_STREAM) as opened:
            name = CONGESTION_NAMES[flow.congestion].encode()
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
            opened.setblocking(False)
            begin = self.ready()
            if begin is None:
                return
            poll = PrecisePoll(self.control.fileno())
            while (left := begin + flow.start - time.monotonic()) > 0.0:
                if self._wait(poll, left):
                    return
            self.record(time.monotonic(), "transfer_started", flow=self._name, octets=0)
            self.flush()
            code = opened.connect_ex((self.spec.destination, TRANSFER_PORT + self.spec.number))
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, f"connect: {os.strerror(code)}")
            end = None if flow.duration is None else begin + flow.start + flow.duration
            if self._pump(opened, end, flow.octets):
                opened.shutdown(socket.SHUT_WR)
                self._wait(poll, None)

    def _pump(self, opened: socket.socket, end: float | None, octets: int | None) -> bool:
        """Fill the socket until `end` or for `octets`; False when the run is over before."""
        poller = select.poll()
        poller.register(opened, select.POLLOUT)
        poller.register(self.control, select.POLLIN)
        chunk, left = memoryview(bytes(CHUNK)), octets
        while left is None or left > 0:
            seconds = None if end is None else end - time.monotonic()
            if seconds is not None and seconds <= 0.0:
                break
            for descriptor, _event in poller.poll(None if seconds is None else seconds * 1000.0):
                if descriptor == self.control.fileno():
                    return False
                taken = opened.send(chunk if left is None else chunk[: min(left, CHUNK)])
                left = None if left is None else left - taken
        return True

    def _numbered(self, flow: Ping | Probe, begin: float) -> Iterator[tuple[int, float]]:
        """Each packet's number and monotonic time."""
        for sequence, at in enumerate(send_times(flow)):
            yield sequence, begin + at

    def _wait(self, poll: PrecisePoll, seconds: float | None) -> bool:
        """True when the run is over; else something came in, or the time is over."""
        if seconds is None:
            self.flush()
        return self.control.fileno() in poll.wait(seconds)


class _ProbeSink(_End):
    """Notes the probes that come to a host. Their flows share one port, as in the simulator."""

    def __init__(self, spec: ProbeSinkSpec, control: Control, file: TextIO) -> None:
        super().__init__(control, spec.node, file)
        self._family = devices.family_of(spec.address)
        self._journal = ProbeJournal(spec.names)

    def run(self) -> None:
        """Note probes until told to end."""
        with socket.socket(self._family, socket.SOCK_DGRAM) as opened:
            opened.bind(("", PROBE_PORT))
            devices.enlarge_buffers(opened)
            opened.setblocking(False)
            if self.ready() is None:
                return
            poll = PrecisePoll(opened.fileno(), self.control.fileno())
            over = False
            while not over:
                ready = poll.wait(FLUSH_SECONDS)
                over = self.control.fileno() in ready
                self._take(opened)
                if not ready or over:
                    self.flush()

    def _take(self, opened: socket.socket) -> None:
        while True:
            try:
                payload, address = opened.recvfrom(LARGEST_DATAGRAM)
            except BlockingIOError:
                return
            now = time.monotonic()
            entry = self._journal.entry(payload, address[0])
            if entry is not None:
                event, fields = entry
                self.record(now, event, **fields)


class _TransferSink(_End):
    """Takes a connection's octets and says every tenth of a second how many there were."""

    def __init__(self, spec: FlowSpec, control: Control, file: TextIO) -> None:
        super().__init__(control, spec.flow.destination, file)
        self._spec = spec

    def run(self) -> None:
        """Take one connection."""
        with socket.socket(self._spec.family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", TRANSFER_PORT + self._spec.number))
            listener.listen()
            if self.ready() is None:
                return
            poll = PrecisePoll(listener.fileno(), self.control.fileno())
            if self.control.fileno() in poll.wait(None):
                return
            opened, _peer = listener.accept()
            with opened:
                self._count(opened)
            # A process that ended early would look like one that failed.
            PrecisePoll(self.control.fileno()).wait(None)

    def _count(self, opened: socket.socket) -> None:
        opened.setblocking(False)
        poll = PrecisePoll(opened.fileno(), self.control.fileno())
        buffer, name = bytearray(CHUNK), self._spec.flow.name
        octets = said = 0
        next_report = time.monotonic()
        over = False
        while not over:
            ready = poll.wait(max(0.0, next_report - time.monotonic()))
            now = time.monotonic()
            if opened.fileno() in ready:
                taken = _taken(opened, buffer)
                octets += taken
                if taken == 0:
                    self.record(now, "transfer_done", flow=name, octets=octets)
                    self.flush()
                    return
            over = self.control.fileno() in ready  # the message itself is left for the caller
            if octets > said and (over or now >= next_report):
                self.record(now, "transfer_octets", flow=name, octets=octets)
                self.flush()
                said = octets
            if now >= next_report:
                next_report = now + REPORT_SECONDS


def _taken(opened: socket.socket, buffer: bytearray) -> int:
    """Octets taken from a connection; 0 at its end, however it ended."""
    try:
        return opened.recv_into(buffer)
    except (ConnectionResetError, TimeoutError):
        return 0


def _send(opened: socket.socket, octets: bytes, remote: tuple[str, int]) -> None:
    """Send a datagram; what the kernel has no way or room for is lost, as on any host."""
    try:
        opened.sendto(octets, remote)
    except OSError as error:
        if error.errno not in _NOT_SENT:
            raise


_NOT_SENT = (
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ECONNREFUSED,
    errno.EMSGSIZE,
    errno.ENOBUFS,
    errno.EAGAIN,
    errno.EPERM,
)
