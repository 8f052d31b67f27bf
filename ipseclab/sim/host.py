"""What runs on simulated nodes: pings, constant-rate probes, TCP transfers, and who answers them.

The schedules and the probes' payloads are those of `lab.traffic`, alike in both worlds. Echo
requests are answered by the node's stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from ipseclab.lab.plan import Ping, Probe, Transfer
from ipseclab.lab.traffic import (
    PROBE_PORT,
    TRANSFER_PORT,
    ProbeJournal,
    flow_end,
    probe_payload,
    send_times,
)
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Timer
from ipseclab.sim.node import Address, Node, build_echo
from ipseclab.sim.sockets import Socket, TcpStack
from ipseclab.sim.tcp import PatternStream
from ipseclab.wire.ip import ICMP_ECHO_REQUEST, build_udp
from ipseclab.wire.ipv6 import ICMPV6_ECHO_REQUEST

SAMPLE_SECONDS = 0.1
"""`transfer_octets` is written at most this often, and no later than this after a delivery."""
_FIRST_IDENTIFIER = 1
_UDP = int(IpProtocol.UDP)
_ECHO_PATTERN = bytes(range(256))


class Pinger:
    """Sends a flow's echo requests and times the answers."""

    def __init__(self, node: Node, flow: Ping, flow_id: int, destination: Address) -> None:
        self._node = node
        self._flow = flow
        self._identifier = _FIRST_IDENTIFIER + flow_id
        self._destination = destination
        self._sent_at: dict[int, float] = {}
        self._times = enumerate(send_times(flow))
        node.listen_echo(self._identifier, self._answered)
        self._wait()

    def _wait(self) -> None:
        """One packet in the event queue at a time, however many a flow has."""
        following = next(self._times, None)
        if following is not None:
            sequence, at = following
            self._node.clock.call_at(at, self._send, sequence)

    def _send(self, sequence: int) -> None:
        node, flow = self._node, self._flow
        self._wait()
        source = node.source_for(self._destination)
        if source is None:
            return
        data = (_ECHO_PATTERN * (flow.size // 256 + 1))[: flow.size]
        is_ipv6 = len(self._destination) != 4
        kind = ICMPV6_ECHO_REQUEST if is_ipv6 else ICMP_ECHO_REQUEST
        head = self._identifier.to_bytes(2, "big") + (sequence & 0xFFFF).to_bytes(2, "big")
        echo = build_echo(kind, head + data, source, self._destination)
        self._sent_at[sequence & 0xFFFF] = node.clock.now
        self._record("ping_sent", sequence)
        protocol = IpProtocol.ICMPV6 if is_ipv6 else IpProtocol.ICMP
        node.originate(protocol, source, self._destination, echo)

    def _answered(self, sequence: int, data: bytes) -> None:
        sent_at = self._sent_at.pop(sequence, None)
        if sent_at is None or len(data) != self._flow.size:
            return  # a second copy of an answer
        rtt = round(self._node.clock.now - sent_at, 9)
        self._record("ping_received", sequence, rtt=rtt)

    def _record(self, event: str, sequence: int, **fields: float) -> None:
        self._node.trace.record(
            self._node.clock.now,
            self._node.name,
            event,
            flow=self._flow.name,
            sequence=sequence,
            octets=self._flow.size,
            **fields,
        )


class ProbeSender:
    """Sends a flow's numbered datagrams."""

    def __init__(self, node: Node, flow: Probe, flow_id: int, destination: Address) -> None:
        self._node = node
        self._flow = flow
        self._flow_id = flow_id
        self._destination = destination
        self._times = enumerate(send_times(flow))
        self._wait()

    def _wait(self) -> None:
        following = next(self._times, None)
        if following is not None:
            sequence, at = following
            self._node.clock.call_at(at, self._send, sequence)

    def _send(self, sequence: int) -> None:
        node, flow = self._node, self._flow
        self._wait()
        source = node.source_for(self._destination)
        if source is None:
            return
        data = probe_payload(self._flow_id, sequence, flow.size)
        port = PROBE_PORT + 1 + self._flow_id
        segment = build_udp(source, port, self._destination, PROBE_PORT, data)
        node.trace.record(
            node.clock.now,
            node.name,
            "probe_sent",
            flow=flow.name,
            sequence=sequence,
            octets=len(data),
        )
        node.originate(_UDP, source, self._destination, segment)


class ProbeReceiver:
    """Writes down the probes that arrive at a node; `flows` names them by their numbers."""

    def __init__(self, node: Node, flows: Mapping[int, str]) -> None:
        self._node = node
        self._journal = ProbeJournal(flows)
        node.listen_udp(PROBE_PORT, self._receive)

    def _receive(self, source: Address, _port: int, data: bytes) -> None:
        entry = self._journal.entry(data, str(ip_address(source)))
        if entry is not None:
            event, fields = entry
            self._node.trace.record(self._node.clock.now, self._node.name, event, **fields)


class TransferSource:
    """Opens a flow's connection and sends until its time or its octets are over."""

    def __init__(
        self, node: Node, stack: TcpStack, flow: Transfer, flow_id: int, destination: Address
    ) -> None:
        self._node = node
        self._stack = stack
        self._flow = flow
        self._port = TRANSFER_PORT + flow_id
        self._destination = destination
        self.socket: Socket | None = None
        node.clock.call_at(flow.start, self._start)

    def _start(self) -> None:
        node, flow = self._node, self._flow
        node.trace.record(node.clock.now, node.name, "transfer_started", flow=flow.name, octets=0)
        self.socket = self._stack.connect(
            self._destination,
            self._port,
            stream=PatternStream(flow.octets),
            congestion=flow.congestion,
        )
        end = flow_end(flow)
        if end is not None:
            node.clock.call_at(end, self.socket.close)


class TransferSink:
    """Takes a flow's octets, checks them, and writes down how many there are."""

    def __init__(self, node: Node, stack: TcpStack, flow: Transfer, flow_id: int) -> None:
        self._node = node
        self._flow = flow
        self._expected = PatternStream()
        self._octets = self._written = 0
        self._last_at = float("-inf")
        self._done = False
        self._timer = Timer(node.clock, self._write)
        stack.listen(TRANSFER_PORT + flow_id, self._take)

    def _take(self, socket: Socket, octets: bytes) -> None:
        start, self._octets = self._octets, self._octets + len(octets)
        assert octets == self._expected.read(start, self._octets), "TCP delivered other octets"
        now = self._node.clock.now
        if socket.connection.receiver.fin_received:
            self._finish(now)
        elif now >= self._last_at + SAMPLE_SECONDS:
            self._write(now)
        else:
            self._timer.set(self._last_at + SAMPLE_SECONDS)

    def _finish(self, now: float) -> None:
        if not self._done:
            self._done = True
            self._timer.set(None)
            self._record(now, "transfer_done")

    def _write(self, now: float) -> None:
        if self._octets > self._written:
            self._last_at = now
            self._written = self._octets
            self._record(now, "transfer_octets")

    def _record(self, now: float, event: str) -> None:
        self._node.trace.record(
            now, self._node.name, event, flow=self._flow.name, octets=self._octets
        )
