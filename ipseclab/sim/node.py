"""The IP stack of a simulated node: addresses, routes, forwarding, fragments, ICMP, ports.

RFC 791, RFC 1812 (forwarding), RFC 792, RFC 1122; RFC 8200 and RFC 4443 for IPv6. As Linux does, a
node sets Don't Fragment on what fits, believes the path MTU that ICMP tells it, and cuts up at the
source what is longer (TCP makes shorter segments instead); routers fragment IPv4 without DF. Left
out: neighbour discovery, since a link joins two nodes and each knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

from ipseclab.errors import WireError
from ipseclab.ipsec.counters import Dropped
from ipseclab.ipsec.fragments import Reassembler, fragments_of
from ipseclab.ipsec.processing import SMALLEST_PATH_MTU
from ipseclab.lab.model import IpNetwork
from ipseclab.lab.routes import Route
from ipseclab.lab.trace import Trace
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Clock
from ipseclab.sim.icmp import IcmpError, Trouble, build_error, decode_error, may_be_answered
from ipseclab.sim.link import Interface, Take
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST,
    IPV4_HEADER_SIZE,
    Ipv4Header,
    build_icmp_echo,
    build_ipv4,
    checksum,
    decode_udp,
    pseudo_header_checksum,
)
from ipseclab.wire.ipv6 import (
    ICMPV6_ECHO_REPLY,
    ICMPV6_ECHO_REQUEST,
    Ipv6Header,
    build_icmpv6,
    build_ipv6,
    decode_ip_header,
)

Address = bytes
"""4 octets, or 16."""
IpHeader = Ipv4Header | Ipv6Header
UdpHandler = Callable[[Address, int, bytes], None]
"""Called with source address, source port and data."""
EchoHandler = Callable[[int, bytes], None]
"""Called with the sequence number and data of an echo reply."""
SegmentHandler = Callable[[IpHeader, bytes], None]

MOST_PATH_MTUS = 4096
"""Own limit: destinations whose path MTU was learnt."""
REASSEMBLED_PACKETS, REASSEMBLED_OCTETS, REASSEMBLY_SECONDS = 256, 1 << 20, 30.0
"""Own limits, the last Linux's (ipfrag_time)."""

_TTL, _TTL_TO_CHECKSUM, _SOURCE, _DESTINATION = 8, slice(8, 12), slice(12, 16), slice(16, 20)
_HOP_LIMIT, _SOURCE_V6, _DESTINATION_V6 = 7, slice(8, 24), slice(24, 40)
_IPV6 = 0x60
"""What the first octet of an IPv6 packet is at least; that of an IPv4 packet is less."""
_DONT_FRAGMENT = 0x40
"""In octet 6."""
_ICMP_HEADER_SIZE = 8
_ECHOES = (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY)
_ECHOES_V6 = (ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY)
# On the way of every packet an enum member costs a look-up and a conversion.
_TCP, _UDP, _ICMP, _ICMPV6 = (
    int(p) for p in (IpProtocol.TCP, IpProtocol.UDP, IpProtocol.ICMP, IpProtocol.ICMPV6)
)


class Node:
    """A node: what comes in is delivered here, or passed on if it forwards."""

    def __init__(self, name: str, *, clock: Clock, trace: Trace, forwards: bool) -> None:
        self.name = name
        self.clock = clock
        self.trace = trace
        self.forwards = forwards
        self.interfaces: dict[str, Interface] = {}
        self._own: dict[Address, Interface] = {}
        self._routes: dict[int, dict[int, dict[int, Interface]]] = {4: {}, 16: {}}
        """By octets of addresses, prefix length, longest first, and network."""
        self._route_cache: dict[Address, Interface | None] = {}
        self._identification = 0
        self._udp: dict[int, UdpHandler] = {}
        self._echo: dict[int, EchoHandler] = {}
        self._segments: SegmentHandler | None = None
        self._errors: list[Callable[[IcmpError], None]] = []
        self._mtus: dict[Interface, int] = {}
        self._path_mtus: dict[Address, int] = {}
        self._pieces = Reassembler(REASSEMBLED_PACKETS, REASSEMBLED_OCTETS, REASSEMBLY_SECONDS)

    # Set-up

    def add_interface(self, name: str, address: str, network: IpNetwork, *, mtu: int) -> Interface:
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
            interface.address = ip_address(address).packed
            self._own[interface.address] = interface

    def add_route(self, route: Route) -> None:
        """Longest prefix first; of equal ones the earlier."""
        self._add_network(route.network, self.interfaces[route.interface])

    def _add_network(self, network: IpNetwork, interface: Interface) -> None:
        length, size = network.prefixlen, network.max_prefixlen // 8
        routes = self._routes[size]
        if length not in routes:
            lengths = sorted((*routes, length), reverse=True)
            routes = self._routes[size] = {item: routes.get(item, {}) for item in lengths}
        routes[length].setdefault(int(network.network_address), interface)
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
        number, bits = int.from_bytes(destination, "big"), 8 * len(destination)
        found = None
        for length, networks in self._routes[len(destination)].items():
            found = networks.get(number >> (bits - length) << (bits - length))
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
        """Send `data` as the payload of a packet of this node's own, in pieces where it is too long
        for the path."""
        self._identification = (self._identification + 1) & 0xFFFF
        packet = self._built(protocol, source, destination, data)
        if protocol == _TCP:
            self.send_own(packet)
            return
        limit = self.packet_limit(destination)
        if not 0 < limit < len(packet):
            self.send_own(packet)
            return
        for piece in fragments_of(packet, limit, self._identification):
            self.send_own(piece)

    def _built(self, protocol: int, source: Address, destination: Address, data: bytes) -> bytes:
        if len(source) != 4:
            return build_ipv6(source, destination, protocol, data)
        whole = protocol == _TCP or len(data) + IPV4_HEADER_SIZE <= self.packet_limit(destination)
        return build_ipv4(
            source,
            destination,
            protocol,
            data,
            identification=self._identification,
            flags_fragment=DONT_FRAGMENT if whole else 0,
        )

    def packet_limit(self, destination: Address) -> int:
        """The longest packet to `destination`, as far as this node knows; 0 without a way."""
        mtu = self.path_mtu(destination)
        return min(mtu, self._path_mtus.get(destination, mtu))

    def send_own(self, packet: bytes) -> None:
        """Send a packet that this node made; a node with IPsec looks at its policies here."""
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        if destination in self._own:
            self.clock.call_at(self.clock.now, self.accept, packet)
        else:
            self.transmit(packet)

    def transmit(self, packet: bytes) -> None:
        """Route a packet to its link."""
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        interface = self._route_cache.get(destination) or self.route(destination)
        if interface is None:
            self.dropped(packet, "no_route", "outbound")
            self.answer(packet, Trouble.NO_ROUTE)
        elif len(packet) <= self._mtus[interface]:
            interface.send(packet)
        else:
            self.send_in_pieces(packet, interface)

    def send_in_pieces(self, packet: bytes, interface: Interface) -> None:
        """A packet longer than its link's MTU: RFC 791 lets a router cut it where DF is clear."""
        if packet[0] >= _IPV6 or packet[6] & _DONT_FRAGMENT:
            interface.send(packet)  # the link says what becomes of it
            return
        for piece in fragments_of(packet, self._mtus[interface], self._identification):
            interface.send(piece)

    # In

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`."""
        return self.receive

    def receive(self, packet: bytes) -> None:
        """A packet has come in."""
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        if destination in self._own:
            self.accept(packet)
        elif self.forwards:
            passed_on = self.count_hop(packet)
            if passed_on is not None:
                self.transmit(passed_on)
        else:
            self.dropped(packet, "no_route", "inbound")

    def count_hop(self, packet: bytes) -> bytes | None:
        """`packet` with its TTL one less, to be passed on; None when that was its last hop."""
        at = _TTL if packet[0] < _IPV6 else _HOP_LIMIT
        if packet[at] <= 1:
            self.dropped(packet, "ttl_expired", "inbound")
            self.answer(packet, Trouble.EXPIRED)
            return None
        if at == _HOP_LIMIT:
            return packet[:at] + bytes((packet[at] - 1,)) + packet[at + 1 :]
        # TTL, protocol and checksum as one number. RFC 1141: the TTL is the high octet of its
        # 16-bit word, so when it falls by one the checksum rises by 0x0100, with end-around carry.
        before = packet[_TTL_TO_CHECKSUM]
        word = int.from_bytes(before, "big") - 0x0100_0000 + 0x0100
        if word & 0xFFFF < 0x0100:
            word -= 0xFFFF
        after = word.to_bytes(4, "big")
        if packet.find(before) == _TTL:
            # A quarter of what joining three parts takes; nearly always the octets are unique.
            return packet.replace(before, after, 1)
        return packet[:_TTL] + after + packet[12:]

    def accept(self, packet: bytes) -> None:
        """A packet for this node itself."""
        try:
            header: IpHeader = decode_ip_header(packet)
            if header.is_fragment:
                self._accept_fragment(packet)
                return
            payload = packet[header.header_length : header.total_length]
            if header.protocol == _TCP:
                if self._segments is not None:
                    self._segments(header, payload)
            elif header.protocol == _UDP:
                self._accept_udp(header, payload, packet)
            elif header.protocol == (_ICMP if packet[0] < _IPV6 else _ICMPV6):
                self._accept_icmp(header, payload)
        except WireError:
            self.dropped(packet, "malformed", "inbound")

    def _accept_fragment(self, packet: bytes) -> None:
        """A piece of a packet for this node, which is taken in once it is whole."""
        now = self.clock.now
        for _ in range(self._pieces.expire(now)):
            self.dropped(b"", "reassembly_timeout", "inbound")
        try:
            whole = self._pieces.add(packet, now)
        except Dropped as drop:
            self.dropped(packet, drop.reason.value, "inbound")
            return
        if whole is not None:
            self.accept(whole)

    def answer(self, packet: bytes, trouble: Trouble, *, mtu: int = 0) -> None:
        """Tell the sender of `packet` what is wrong with it, if that may be done."""
        if not may_be_answered(packet):
            return
        target = packet[_SOURCE] if packet[0] < _IPV6 else packet[_SOURCE_V6]
        own = target in self._own
        source = target if own else self.source_for(target)
        if source is None or len(source) != len(target):
            return
        message = build_error(trouble, packet, source=source, mtu=mtu)
        if not own:
            self.originate(_ICMP if len(target) == 4 else _ICMPV6, source, target, message)
        elif (error := decode_error(message)) is not None:
            self._tell_error(error)

    def too_big(self, packet: bytes, mtu: int) -> None:
        """The link that `packet` was sent on carries `mtu` octets only."""
        self.answer(packet, Trouble.TOO_BIG, mtu=mtu)

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
        if error.trouble is Trouble.TOO_BIG and error.mtu:
            self._learn_path_mtu(error.destination, error.mtu)
        for handler in self._errors:
            handler(error)

    def _learn_path_mtu(self, destination: Address, mtu: int) -> None:
        """RFC 1191 and RFC 8201: believe it where it is less than what was known, within reason."""
        mtu = max(mtu, SMALLEST_PATH_MTU[len(destination)])
        if mtu < self.packet_limit(destination):
            if len(self._path_mtus) >= MOST_PATH_MTUS:
                self._path_mtus.clear()
            self._path_mtus[destination] = mtu

    def _accept_udp(self, header: IpHeader, segment: bytes, packet: bytes) -> None:
        source_port, port, data = decode_udp(segment)
        # RFC 768: a checksum of zero is none.
        if segment[6:8] != b"\0\0" and pseudo_header_checksum(
            header.source, header.destination, _UDP, segment
        ):
            raise WireError("UDP checksum does not match")
        handler = self._udp.get(port)
        if handler is not None:
            handler(header.source, source_port, data)
        else:
            self.answer(packet, Trouble.NO_PORT)

    def _accept_icmp(self, header: IpHeader, message: bytes) -> None:
        is_ipv6 = isinstance(header, Ipv6Header)
        ends = header.source, header.destination
        total = pseudo_header_checksum(*ends, _ICMPV6, message) if is_ipv6 else checksum(message)
        if len(message) < _ICMP_HEADER_SIZE or total:
            raise WireError("ICMP message cut short or of wrong checksum")
        request, reply = _ECHOES_V6 if is_ipv6 else _ECHOES
        if message[0] == request:
            answer = build_echo(reply, message[4:], header.destination, header.source)
            self.originate(_ICMPV6 if is_ipv6 else _ICMP, *ends[::-1], answer)
        elif message[0] == reply:
            handler = self._echo.get(int.from_bytes(message[4:6], "big"))
            if handler is not None:
                handler(int.from_bytes(message[6:8], "big"), message[_ICMP_HEADER_SIZE:])
        elif (error := decode_error(message)) is not None:
            self._tell_error(error)


def destination_of(packet: bytes) -> Address:
    """Where a packet goes."""
    return packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]


def source_of(packet: bytes) -> Address:
    """Where a packet says that it comes from."""
    return packet[_SOURCE] if packet[0] < _IPV6 else packet[_SOURCE_V6]


def build_echo(kind: int, body: bytes, source: Address, destination: Address) -> bytes:
    """An ICMP echo message of the addresses' IP; `body` begins with identifier and sequence."""
    if len(source) != 4:
        return build_icmpv6(source, destination, kind, 0, body)
    identifier, sequence = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    return build_icmp_echo(kind, identifier, sequence, body[4:])
