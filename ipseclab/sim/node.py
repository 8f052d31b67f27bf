"""The IPv4 stack of a simulated node: addresses, routes, forwarding, ICMP, ports.

RFC 791, RFC 1812 (forwarding), RFC 792, RFC 1122. Packets are never fragmented: one that a link
does not carry is answered with "fragmentation needed", as for packets with Don't Fragment, which
Linux sets on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from ipseclab.errors import WireError
from ipseclab.lab.routes import Route
from ipseclab.lab.trace import Trace
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Clock
from ipseclab.sim.icmp import (
    FRAGMENTATION_NEEDED,
    NETWORK_UNREACHABLE,
    PORT_UNREACHABLE,
    TTL_EXCEEDED,
    IcmpError,
    build_error,
    decode_error,
    may_be_answered,
)
from ipseclab.sim.link import Interface, Take
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    ICMP_TIME_EXCEEDED,
    ICMP_UNREACHABLE,
    Ipv4Header,
    build_icmp_echo,
    build_ipv4,
    checksum,
    decode_ipv4_header,
    decode_udp,
    pseudo_header_checksum,
)

Address = bytes
"""4 octets."""
UdpHandler = Callable[[Address, int, bytes], None]
"""Called with source address, source port and data."""
EchoHandler = Callable[[int, bytes], None]
"""Called with the sequence number and data of an echo reply."""
SegmentHandler = Callable[[Ipv4Header, bytes], None]

_TTL, _TTL_TO_CHECKSUM, _SOURCE, _DESTINATION = 8, slice(8, 12), slice(12, 16), slice(16, 20)
_ICMP_HEADER_SIZE = 8
# On the way of every packet an enum member costs a look-up and a conversion.
_TCP, _UDP, _ICMP = (int(p) for p in (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP))


class Node:
    """A node: what comes in is delivered here, or passed on if it forwards."""

    def __init__(self, name: str, *, clock: Clock, trace: Trace, forwards: bool) -> None:
        self.name = name
        self.clock = clock
        self.trace = trace
        self.forwards = forwards
        self.interfaces: dict[str, Interface] = {}
        self._own: dict[Address, Interface] = {}
        self._routes: dict[int, dict[int, Interface]] = {}
        """By prefix length, longest first, and network."""
        self._route_cache: dict[Address, Interface | None] = {}
        self._identification = 0
        self._udp: dict[int, UdpHandler] = {}
        self._echo: dict[int, EchoHandler] = {}
        self._segments: SegmentHandler | None = None
        self._errors: list[Callable[[IcmpError], None]] = []
        self._mtus: dict[Interface, int] = {}

    # Set-up

    def add_interface(
        self, name: str, address: str, network: IPv4Network, *, mtu: int
    ) -> Interface:
        """An interface with an address; what is in `network` is reached through it."""
        interface = Interface(self, name, address)
        self.interfaces[name] = interface
        self._own[interface.address] = interface
        self._mtus[interface] = mtu
        self._add_network(network, interface)
        return interface

    def set_address(self, name: str, address: str | None) -> None:
        """The interface has another address of its network, or none."""
        interface = self.interfaces[name]
        if self._own.get(interface.address) is interface:
            del self._own[interface.address]
        if address is not None:
            interface.address = IPv4Address(address).packed
            self._own[interface.address] = interface

    def add_route(self, route: Route) -> None:
        """Longest prefix first; of equal ones the earlier."""
        self._add_network(route.network, self.interfaces[route.interface])

    def _add_network(self, network: IPv4Network, interface: Interface) -> None:
        length = network.prefixlen
        if length not in self._routes:
            lengths = sorted((*self._routes, length), reverse=True)
            self._routes = {item: self._routes.get(item, {}) for item in lengths}
        self._routes[length].setdefault(int(network.network_address), interface)
        self._route_cache.clear()

    def listen_udp(self, port: int, handler: UdpHandler) -> None:
        """Hand datagrams for `port` to `handler`."""
        self._udp[port] = handler

    def listen_echo(self, identifier: int, handler: EchoHandler) -> None:
        """Hand echo replies with `identifier` to `handler`."""
        self._echo[identifier] = handler

    def listen_tcp(self, handler: SegmentHandler) -> None:
        """Hand TCP segments to `handler`."""
        self._segments = handler

    def listen_errors(self, handler: Callable[[IcmpError], None]) -> None:
        """Tell `handler` of each ICMP error about a packet of this node."""
        self._errors.append(handler)

    # Out

    def owns(self, address: Address) -> bool:
        """True for one of this node's own addresses."""
        return address in self._own

    def route(self, destination: Address) -> Interface | None:
        """The interface that packets for `destination` leave by."""
        if destination in self._route_cache:
            return self._route_cache[destination]
        number = int.from_bytes(destination, "big")
        found = None
        for length, networks in self._routes.items():
            found = networks.get(number >> (32 - length) << (32 - length))
            if found is not None:
                break
        self._route_cache[destination] = found
        return found

    def source_for(self, destination: Address) -> Address | None:
        """The address that this node sends from to `destination`."""
        interface = self.route(destination)
        return interface.address if interface is not None else None

    def path_mtu(self, destination: Address) -> int:
        """The MTU of the first hop towards `destination`; 0 where there is none."""
        interface = self.route(destination)
        return self._mtus[interface] if interface is not None else 0

    def originate(self, protocol: int, source: Address, destination: Address, data: bytes) -> None:
        """Send `data` as the payload of a packet of this node's own."""
        self._identification = (self._identification + 1) & 0xFFFF
        packet = build_ipv4(
            source,
            destination,
            protocol,
            data,
            identification=self._identification,
            flags_fragment=DONT_FRAGMENT,
        )
        self.send_own(packet)

    def send_own(self, packet: bytes) -> None:
        """Send a packet that this node made; a node with IPsec looks at its policies here."""
        if packet[_DESTINATION] in self._own:
            self.clock.call_at(self.clock.now, self.accept, packet)
        else:
            self.transmit(packet)

    def transmit(self, packet: bytes) -> None:
        """Route a packet to its link."""
        destination = packet[_DESTINATION]
        interface = self._route_cache.get(destination) or self.route(destination)
        if interface is not None:
            interface.send(packet)
        else:
            self.dropped(packet, "no_route", "outbound")
            self.answer(packet, ICMP_UNREACHABLE, NETWORK_UNREACHABLE)

    # In

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`."""
        return self.receive

    def receive(self, packet: bytes) -> None:
        """A packet has come in."""
        if packet[_DESTINATION] in self._own:
            self.accept(packet)
        elif self.forwards:
            passed_on = self.count_hop(packet)
            if passed_on is not None:
                self.transmit(passed_on)
        else:
            self.dropped(packet, "no_route", "inbound")

    def count_hop(self, packet: bytes) -> bytes | None:
        """`packet` with its TTL one less, to be passed on; None when that was its last hop."""
        if packet[_TTL] <= 1:
            self.dropped(packet, "ttl_expired", "inbound")
            self.answer(packet, ICMP_TIME_EXCEEDED, TTL_EXCEEDED)
            return None
        # TTL, protocol and checksum as one number. RFC 1141: the TTL is the high octet of its
        # 16-bit word, so when it falls by one the checksum rises by 0x0100, with end-around carry.
        word = int.from_bytes(packet[_TTL_TO_CHECKSUM], "big") - 0x0100_0000 + 0x0100
        if word & 0xFFFF < 0x0100:
            word -= 0xFFFF
        return packet[:_TTL] + word.to_bytes(4, "big") + packet[12:]

    def accept(self, packet: bytes) -> None:
        """A packet for this node itself."""
        try:
            header = decode_ipv4_header(packet)
            payload = packet[header.header_length : header.total_length]
            if header.protocol == _TCP:
                if self._segments is not None:
                    self._segments(header, payload)
            elif header.protocol == _UDP:
                self._accept_udp(header, payload, packet)
            elif header.protocol == _ICMP:
                self._accept_icmp(header, payload)
        except WireError:
            self.dropped(packet, "malformed", "inbound")

    def answer(self, packet: bytes, kind: int, code: int, *, mtu: int = 0) -> None:
        """Tell the sender of `packet` what is wrong with it, if that may be done."""
        if not may_be_answered(packet):
            return
        target = packet[_SOURCE]
        if target in self._own:
            if (error := decode_error(build_error(kind, code, packet, mtu=mtu))) is not None:
                self._tell_error(error)
            return
        source = self.source_for(target)
        if source is not None:
            error_packet = build_error(kind, code, packet, mtu=mtu)
            self.originate(IpProtocol.ICMP, source, target, error_packet)

    def too_big(self, packet: bytes, mtu: int) -> None:
        """The link that `packet` was sent on carries `mtu` octets only."""
        self.answer(packet, ICMP_UNREACHABLE, FRAGMENTATION_NEEDED, mtu=mtu)

    def dropped(self, packet: bytes, reason: str, direction: str) -> None:
        """Write down that a packet ends here."""
        self.trace.record(
            self.clock.now,
            self.name,
            "packet_dropped",
            reason=reason,
            direction=direction,
            octets=len(packet),
        )

    def _tell_error(self, error: IcmpError) -> None:
        for handler in self._errors:
            handler(error)

    def _accept_udp(self, header: Ipv4Header, segment: bytes, packet: bytes) -> None:
        source_port, port, data = decode_udp(segment)
        # RFC 768: a checksum of zero is none.
        if segment[6:8] != b"\0\0" and pseudo_header_checksum(
            header.source, header.destination, IpProtocol.UDP, segment
        ):
            raise WireError("UDP checksum does not match")
        handler = self._udp.get(port)
        if handler is not None:
            handler(header.source, source_port, data)
        else:
            self.answer(packet, ICMP_UNREACHABLE, PORT_UNREACHABLE)

    def _accept_icmp(self, header: Ipv4Header, message: bytes) -> None:
        if len(message) < _ICMP_HEADER_SIZE or checksum(message):
            raise WireError("ICMP message cut short or of wrong checksum")
        identifier = int.from_bytes(message[4:6], "big")
        sequence = int.from_bytes(message[6:8], "big")
        if message[0] == ICMP_ECHO_REQUEST:
            reply = build_icmp_echo(
                ICMP_ECHO_REPLY, identifier, sequence, message[_ICMP_HEADER_SIZE:]
            )
            self.originate(IpProtocol.ICMP, header.destination, header.source, reply)
        elif message[0] == ICMP_ECHO_REPLY:
            handler = self._echo.get(identifier)
            if handler is not None:
                handler(sequence, message[_ICMP_HEADER_SIZE:])
        elif (error := decode_error(message)) is not None:
            self._tell_error(error)
