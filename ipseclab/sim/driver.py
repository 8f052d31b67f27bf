"""Drives one `gateway.Gateway` in virtual time: inputs in, outputs carried out, one timer.

Processing takes the time that a cost table says. The gateway's CPU does one thing after another:
what an input asks for leaves when the CPU has done everything before it and then this. The gateway
itself is called when the input arrives, since what it decides does not depend on how long it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, assert_never

from ipseclab.crypto.names import transform_named
from ipseclab.errors import WireError
from ipseclab.gateway import Gateway
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.tcp_stream import LENGTH_SIZE, STREAM_PREFIX, StreamReader
from ipseclab.lab.keys import Capture
from ipseclab.lab.trace import Trace
from ipseclab.outputs import (
    CloseStream,
    Deadline,
    DeliverPacket,
    EspKeyLog,
    IkeKeyLog,
    InternalConfiguration,
    Notice,
    OpenStream,
    Output,
    SendDatagram,
    SendPacket,
    SendStream,
    TcpPath,
    UdpPath,
)
from ipseclab.registry import IpProtocol, KeMethod, TransformType
from ipseclab.sim.clock import Clock, Timer
from ipseclab.sim.costs import PUZZLE_TRY, CostTable
from ipseclab.sim.cpu import Cpu
from ipseclab.wire.ip import IPV4_HEADER_SIZE
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE

NON_ESP_MARKER = bytes(4)
SPI_SIZE = 4
MOST_READERS = 4096
_SPI_AT = {int(IpProtocol.ESP): 0, int(IpProtocol.AH): 4}
"""Behind the IP header."""
_SUITE_TYPES = (TransformType.ENCR, TransformType.INTEG)


class Ports(Protocol):
    """What a driver needs of the node that its gateway runs on."""

    def send_datagram(self, path: UdpPath, data: bytes) -> None:
        """Send a UDP datagram from one of the node's own addresses."""

    def send_unprotected(self, packet: bytes) -> None:
        """Send a packet on the unprotected side."""

    def open_stream(self, path: TcpPath) -> None:
        """Open a TCP connection."""

    def send_stream(self, path: TcpPath, octets: bytes) -> None:
        """Send octets on one."""

    def close_stream(self, path: TcpPath, *, abort: bool) -> None:
        """Close one."""

    def deliver(self, packet: bytes) -> None:
        """Hand a packet to the protected side, or to the node's own stack."""

    def take_addresses(self, given: InternalConfiguration) -> None:
        """Have those addresses inside, in place of what the connection gave before."""


class GatewayDriver:
    """One gateway, its timer and its CPU."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        name: str,
        clock: Clock,
        trace: Trace,
        ports: Ports,
        costs: CostTable,
        capture: Capture | None = None,
    ) -> None:
        self.gateway = gateway
        self.name = name
        self._clock = clock
        self._trace = trace
        self._ports = ports
        self._capture = capture
        self._timer = Timer(clock, self._time_out)
        self._deadline: Deadline | None = None
        self._processing = None if costs == CostTable.zero() else Processing(costs)
        self._cpu = Cpu(costs)
        self._readers: dict[TcpPath, StreamReader] = {}
        """What finds the messages whose processing takes time."""

    def send_packet(self, packet: bytes) -> None:
        """A packet from the protected side or the node's own stack."""
        self._take(self.gateway.send_packet(packet, self._clock.now), packet)

    def receive_packet(self, packet: bytes) -> None:
        """A packet from the unprotected side: ESP, or plain."""
        self._take(self.gateway.receive_packet(packet, self._clock.now), packet)

    def receive_datagram(self, path: UdpPath, data: bytes) -> None:
        """A datagram to port 500 or 4500."""
        outputs = self.gateway.receive_datagram(path, data, self._clock.now)
        self._take(outputs, data, ike=_ike_message(path, data))

    def stream_accepted(self, path: TcpPath) -> None:
        """A peer has opened a TCP connection."""
        self._take(self.gateway.stream_accepted(path, self._clock.now))

    def stream_opened(self, path: TcpPath) -> None:
        """A TCP connection that the gateway wanted is there."""
        self._take(self.gateway.stream_opened(path, self._clock.now))

    def stream_sent(self, path: TcpPath, octets: int) -> None:
        """TCP has sent so many octets more."""
        self._take(self.gateway.stream_sent(path, octets, self._clock.now))

    def stream_closed(self, path: TcpPath, reason: str) -> None:
        """A TCP connection is gone."""
        self._take(self.gateway.stream_closed(path, reason, self._clock.now))

    def receive_stream(self, path: TcpPath, octets: bytes) -> None:
        """Octets of a TCP connection."""
        outputs = self.gateway.receive_stream(path, octets, self._clock.now)
        if self._processing is None:
            self._carry_out(outputs)
            self._set_timer()
            return
        # The work is that of the messages that became whole.
        messages = self._whole_messages(path, octets)
        ike = [found for one in messages if (found := _ike_message(path, one)) is not None]
        esp = next((one for one in messages if _ike_message(path, one) is None), octets)
        self._take(outputs, esp, ike=ike[0] if ike else None)

    def _whole_messages(self, path: TcpPath, octets: bytes) -> list[bytes]:
        reader = self._readers.get(path)
        if reader is None:
            if len(self._readers) >= MOST_READERS:
                self._readers.clear()
            reader = StreamReader(prefixed=path.local.port == NAT_T_PORT)
            self._readers[path] = reader
        try:
            return reader.take(octets)
        except WireError:
            return []

    def change_addresses(self, addresses: tuple[str, ...]) -> None:
        """The node has these unprotected addresses now."""
        self._take(self.gateway.change_addresses(addresses, self._clock.now))

    def act(self, action: str, connection: str) -> None:
        """Carry out an action of a plan on one of the gateway's connections."""
        self._take(self._actions()[action](connection, self._clock.now))

    def _actions(self) -> dict[str, Callable[[str, float], list[Output]]]:
        gateway = self.gateway
        return {
            "initiate": gateway.initiate,
            "rekey_child": gateway.rekey_child,
            "rekey_ike": gateway.rekey_ike,
            "delete_child": gateway.delete_child,
            "delete_ike": gateway.delete_ike,
            "liveness": gateway.check_liveness,
            "keepalive": gateway.send_keepalive,
            "reauthenticate": gateway.reauthenticate,
            "redirect": gateway.redirect,
            "restart": lambda _connection, now: gateway.restart(now),
        }

    def _time_out(self, now: float) -> None:
        self._deadline = None
        deadline = self.gateway.next_deadline()
        if deadline is not None:
            # The clock may stand one float step before the deadline.
            self._take(self.gateway.handle_timeout(max(now, deadline.at)))

    def _take(
        self, outputs: Sequence[Output], received: bytes = b"", ike: bytes | None = None
    ) -> None:
        if self._processing is None:
            self._carry_out(outputs)
        else:
            outputs = self._tell_arrivals(outputs)
            seconds = self._processing.seconds(outputs, received, ike)
            done = self._cpu.work(self._clock.now, seconds, woken=bool(received))
            self._clock.call_at(done, self._carry_out, outputs)
        self._set_timer()

    def _set_timer(self) -> None:
        deadline = self.gateway.next_deadline()
        if deadline is not self._deadline:
            self._deadline = deadline
            self._timer.set(None if deadline is None else deadline.at)

    def _tell_arrivals(self, outputs: Sequence[Output]) -> list[Output]:
        """Write down what has arrived now, before its processing takes time; the other outputs."""
        later: list[Output] = []
        for output in outputs:
            if isinstance(output, Notice) and output.event == "ike_received":
                self._carry_out((output,))
            else:
                later.append(output)
        return later

    def _carry_out(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            # Every packet comes by here: a test of the type costs a third of a class pattern.
            if isinstance(output, DeliverPacket):
                self._ports.deliver(output.packet)
                continue
            if isinstance(output, SendPacket):
                self._ports.send_unprotected(output.packet)
                continue
            match output:
                case SendDatagram(path, data):
                    self._ports.send_datagram(path, data)
                case SendStream(stream, octets):
                    self._ports.send_stream(stream, octets)
                case OpenStream(stream):
                    self._ports.open_stream(stream)
                case CloseStream(stream, abort):
                    self._ports.close_stream(stream, abort=abort)
                case Notice(event, details):
                    self._trace.record(self._clock.now, self.name, event, **details)
                case IkeKeyLog() | EspKeyLog():
                    if self._capture is not None:
                        self._capture.keys(output)
                case InternalConfiguration():
                    self._ports.take_addresses(output)
                case _:
                    assert_never(output)


class Processing:
    """How long a gateway's CPU is busy with an input, by a cost table.

    Which suite an SPI stands for is learnt from the gateway's own notices.
    """

    def __init__(self, costs: CostTable) -> None:
        self._costs = costs
        self._suites: dict[bytes, str] = {}
        self._method = KeMethod.CURVE25519

    def seconds(self, outputs: Sequence[Output], received: bytes, ike: bytes | None) -> float:
        """For what came in (`ike`: the IKE message in it) and what is to go out."""
        total = 0.0
        if received:
            total += self._costs.for_forward()
        if ike is not None:
            total += self._costs.for_ike_message(ike, sent=False, method=self._method)
        repeated = False
        for output in outputs:
            match output:
                case Notice(event, details):
                    self._learn(event, details)
                    total += self._additional(event, details)
                    repeated = event == "ike_sent" and bool(details.get("retransmission"))
                case SendDatagram(path, data):
                    total += self._sending(path, data, received, repeated=repeated)
                case SendStream(path, octets):
                    message = octets.removeprefix(STREAM_PREFIX)[LENGTH_SIZE:]
                    total += self._sending(path, message, received, repeated=repeated)
                case SendPacket(packet):
                    spi = _spi_of(packet)
                    total += self._sealing(spi, len(packet) - IPV4_HEADER_SIZE, received)
                case DeliverPacket(packet):
                    total += self._opening(packet, received)
        return total

    def _sending(self, path: UdpPath, data: bytes, received: bytes, *, repeated: bool) -> float:
        message = _ike_message(path, data)
        if message is None:
            return self._sealing(data[:SPI_SIZE], len(data), received)
        if repeated:
            return self._costs.for_forward()
        return self._costs.for_ike_message(message, sent=True, method=self._method)

    def _sealing(self, spi: bytes, sealed: int, received: bytes) -> float:
        """A packet sealed as it came in; one that had been parked counts as long as it is then."""
        octets = len(received) if received else sealed
        suite = self._suites.get(spi)
        return self._costs.for_esp(octets, sent=True, suite=suite) if suite is not None else 0.0

    def _opening(self, inner: bytes, received: bytes) -> float:
        # ESP or AH stands behind an IP header, or ESP is all of a datagram on port 4500.
        spi = received[:SPI_SIZE]
        if spi not in self._suites:
            spi = _spi_of(received)
        suite = self._suites.get(spi)
        if suite is None:
            return 0.0
        return self._costs.for_esp(len(inner), sent=False, suite=suite)

    def _additional(self, event: str, details: Mapping[str, object]) -> float:
        """A step of an additional key exchange, which encryption hides on the wire (RFC 9370), or
        the search for a puzzle's solution (RFC 8019)."""
        if event == "puzzle_solved":
            return PUZZLE_TRY * int(str(details["tries"]))
        if event != "additional_key_exchange":
            return 0.0
        method = KeMethod.named(str(details["method"]))
        initiator = {"generate": True, "agree": False}.get(str(details["step"]))
        if initiator is not None:
            return self._costs.for_key_exchange(method, sent=initiator, response=not initiator)
        received = self._costs.for_key_exchange(method, sent=False, response=False)
        return received + self._costs.for_key_exchange(method, sent=True, response=True)

    def _learn(self, event: str, details: Mapping[str, object]) -> None:
        text = details.get("proposal")
        if not isinstance(text, str):
            return
        if event == "child_ready":
            words = text.split("-")
            found = [(word, transform_named(word)) for word in words]
            suite = "-".join(word for word, one in found if one and one.type in _SUITE_TYPES)
            if details.get("protocol") == "ah" and "gmac" not in suite:
                # The same work as ESP without encryption.
                suite = f"null-{suite}"
            for name in ("spi_in", "spi_out"):
                self._suites[bytes.fromhex(str(details[name]))] = suite
        for word in text.split("-"):
            named = transform_named(word)
            if named is not None and named.type == TransformType.KE:
                self._method = KeMethod(named.id)


def _spi_of(packet: bytes) -> bytes:
    """The SPI of a packet of protocol 50 or 51; empty for another."""
    if len(packet) <= IPV4_HEADER_SIZE:
        return b""
    is_ipv6 = packet[0] >> 4 == 6
    behind = _SPI_AT.get(packet[6] if is_ipv6 else packet[9])
    start = IPV6_HEADER_SIZE if is_ipv6 else IPV4_HEADER_SIZE
    return packet[start + behind : start + behind + SPI_SIZE] if behind is not None else b""


def _ike_message(path: UdpPath, data: bytes) -> bytes | None:
    """The IKE message in a datagram; None for ESP and keepalives (RFC 3948 section 2)."""
    if path.local.port != NAT_T_PORT and not isinstance(path, TcpPath):
        return data
    return data[len(NON_ESP_MARKER) :] if data.startswith(NON_ESP_MARKER) else None
