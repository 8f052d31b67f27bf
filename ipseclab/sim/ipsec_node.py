"""A node with a gateway on it: which packets meet the SPD, and how (RFC 4301 section 5).

    unprotected side  --ESP, plain--> receive_packet ---+
                      --UDP 500, 4500 to us--> receive_datagram
                                                        +--> deliver: own stack, or protected side
    protected side, own stack  --------> send_packet  --+--> unprotected side

What goes from one protected subnet to another, or to the node itself from there, is only routed. A
packet too long for the tunnel is answered as a router does (RFC 4301 section 8.2): the MTU that the
protected side is told leaves room for the longest header that ESP adds.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import ip_address

from ipseclab.errors import WireError
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ipsec.fragments import fragments_of, is_fragment
from ipseclab.ipsec.plain import esp_in_udp, read_datagram
from ipseclab.ipsec.processing import SMALLEST_PATH_MTU
from ipseclab.lab.impairment import LARGEST_PACKET
from ipseclab.lab.trace import Trace
from ipseclab.outputs import InternalConfiguration, TcpPath, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.sim.clock import Clock
from ipseclab.sim.driver import NON_ESP_MARKER, GatewayDriver
from ipseclab.sim.link import Interface, Take
from ipseclab.sim.node import Address, Node, destination_of, source_of
from ipseclab.sim.streams import StreamSockets
from ipseclab.wire.ip import (
    DONT_FRAGMENT,
    IPV4_HEADER_SIZE,
    build_ipv4,
    build_udp,
)
from ipseclab.wire.ipv6 import build_ipv6, decode_ip_header

# On the way of every packet a function would cost as much as what it does.
_DESTINATION, _DESTINATION_V6 = slice(16, 20), slice(24, 40)
_IPV6 = 0x60
"""What the first octet of an IPv6 packet is at least; that of an IPv4 packet is less."""
_IKE_PORTS = (IKE_PORT, NAT_T_PORT)
_TCP, _UDP = int(IpProtocol.TCP), int(IpProtocol.UDP)
_PROTECTED = (int(IpProtocol.ESP), int(IpProtocol.AH))


class IpsecNode(Node):
    """A gateway between its sides, or a host that protects its own traffic.

    `outside` names the interfaces on the unprotected side; `tunnel_mtu` is what fits into a tunnel;
    `source_routed`: what is sent leaves by the link of its source address.
    """

    driver: GatewayDriver

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        trace: Trace,
        forwards: bool,
        outside: Collection[str],
        tunnel_mtu: int,
        source_routed: bool = False,
    ) -> None:
        super().__init__(name, clock=clock, trace=trace, forwards=forwards)
        self._outside = tuple(outside)
        self._tunnel_mtu = tunnel_mtu
        self._source_routed = source_routed
        self._streams: StreamSockets | None = None
        self._inside: dict[str, tuple[Address, ...]] = {}
        """Addresses that peers gave, by connection."""

    def source_for(self, destination: Address) -> Address | None:
        """Through the SPD an address that the peer gave is the source, or the first interface's,
        as in the emulator."""
        interface = self.route(destination)
        if interface is not None and interface.name not in self._outside:
            return interface.address
        given = (own for addresses in self._inside.values() for own in addresses)
        owned = (interface.address for interface in self.interfaces.values())
        return next((own for own in (*given, *owned) if len(own) == len(destination)), None)

    def path_mtu(self, destination: Address) -> int:
        """The tunnel's MTU for what goes to the unprotected side."""
        interface = self.route(destination)
        if interface is None or interface.name in self._outside:
            return self._tunnel_mtu
        return super().path_mtu(destination)

    def send_own(self, packet: bytes) -> None:
        """A packet of the node's own stack."""
        if self.owns(destination_of(packet)):
            super().send_own(packet)
        else:
            self._towards(packet)

    def entry(self, interface: Interface) -> Take:
        """What takes the packets that come in at `interface`, by the side that it is on."""
        return self._receive_unprotected if interface.name in self._outside else self.receive

    def receive(self, packet: bytes) -> None:
        """A packet has come in on the protected side."""
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        if destination in self._own:
            self.accept(packet)
        elif (passed_on := self.count_hop(packet)) is not None:
            self._towards(passed_on)

    # What the driver asks for

    def send_datagram(self, path: UdpPath, data: bytes) -> None:
        """Send a UDP datagram from one of our own addresses; ESP in it has no UDP checksum."""
        source, destination = _packed(path.local.address), _packed(path.remote.address)
        esp = path.local.port == NAT_T_PORT and not data.startswith(NON_ESP_MARKER)
        segment = build_udp(
            source,
            path.local.port,
            destination,
            path.remote.port,
            data,
            # RFC 8200 section 8.1: there is no UDP without checksum in IPv6.
            zero_checksum=esp and len(source) == 4,
        )
        self._identification = (self._identification + 1) & 0xFFFF
        # IKE has fragments of its own (RFC 7383), and no others here.
        limit = self._outer_limit(destination) if esp else LARGEST_PACKET
        if len(source) != 4:
            packet = build_ipv6(source, destination, _UDP, segment)
        else:
            whole = len(segment) + IPV4_HEADER_SIZE <= limit
            packet = build_ipv4(
                source,
                destination,
                _UDP,
                segment,
                identification=self._identification,
                flags_fragment=DONT_FRAGMENT if whole else 0,
            )
        if len(packet) <= limit:
            self.send_unprotected(packet)
            return
        for piece in fragments_of(packet, limit, self._identification):
            self.send_unprotected(piece)

    def _outer_limit(self, destination: Address) -> int:
        """The longest packet to a peer, as far as the node knows."""
        mtu = super().path_mtu(destination) or LARGEST_PACKET
        return min(mtu, self._path_mtus.get(destination, mtu))

    def carry_streams(self, streams: StreamSockets) -> None:
        """Have TCP connections on the unprotected side, for IKE and ESP."""
        self._streams = streams

    def open_stream(self, path: TcpPath) -> None:
        """Open a TCP connection on the unprotected side."""
        assert self._streams is not None, f"{self.name}: no connection of it may go in TCP"
        self._streams.open(path)

    def send_stream(self, path: TcpPath, octets: bytes) -> None:
        """Send octets on such a connection."""
        assert self._streams is not None, f"{self.name}: no connection of it may go in TCP"
        self._streams.send(path, octets)

    def close_stream(self, path: TcpPath, *, abort: bool) -> None:
        """Close such a connection."""
        assert self._streams is not None, f"{self.name}: no connection of it may go in TCP"
        self._streams.close(path, abort=abort)

    def send_unprotected(self, packet: bytes) -> None:
        """Send a packet on the unprotected side; of several links, along that of its source. In
        IPv6 the source is who fragments."""
        if packet[0] >= _IPV6 and len(packet) > SMALLEST_PATH_MTU[16]:
            limit = self._outer_limit(destination_of(packet))
            own = source_of(packet) in self._own and not is_fragment(packet)
            if len(packet) > limit and own:
                self._identification = (self._identification + 1) & 0xFFFF
                for piece in fragments_of(packet, limit, self._identification):
                    self.transmit(piece)
                return
        if not self._source_routed:
            self.transmit(packet)
            return
        interface = self._own.get(source_of(packet))
        if interface is None:
            self.dropped(packet, "no_address", "outbound")
        elif len(packet) <= self._mtus[interface]:
            interface.send(packet)
        else:
            self.send_in_pieces(packet, interface)

    def deliver(self, packet: bytes) -> None:
        """A packet that passed the SPD goes to the own stack or on to the protected side; or out of
        another tunnel, as in a hub: back on the unprotected side it meets the SPD anew (RFC 4301
        section 5.1)."""
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        if destination in self._own:
            self.accept(packet)
        elif self.forwards and (passed_on := self.count_hop(packet)) is not None:
            self._towards(passed_on)

    def take_addresses(self, given: InternalConfiguration) -> None:
        """The node's own stack has the IPv4 addresses that a peer gives, as long as it does."""
        for gone in self._inside.pop(given.connection, ()):
            del self._own[gone]
        addresses = tuple(_packed(address) for address in given.addresses if ":" not in address)
        if addresses:
            self._inside[given.connection] = addresses
        first = next(iter(self.interfaces.values()))
        self._own.update(dict.fromkeys(addresses, first))

    # Own

    def _towards(self, packet: bytes) -> None:
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        interface = self._route_cache.get(destination) or self.route(destination)
        if interface is not None and interface.name not in self._outside:
            self.transmit(packet)
        elif len(packet) <= self._tunnel_mtu:
            self.driver.send_packet(packet)
        elif packet[0] >> 4 == 6:
            self._towards_too_long(packet, max(self._tunnel_mtu, SMALLEST_PATH_MTU[16]))
        elif packet[6] << 8 & DONT_FRAGMENT:
            self._towards_too_long(packet, self._tunnel_mtu)
        else:
            for piece in fragments_of(packet, self._tunnel_mtu):
                self.driver.send_packet(piece)

    def _towards_too_long(self, packet: bytes, limit: int) -> None:
        """Not to be cut up here: its sender is told, but IPv6 always carries 1,280 octets."""
        if len(packet) <= limit:
            self.driver.send_packet(packet)
            return
        self.dropped(packet, "too_big", "outbound")
        self.too_big(packet, limit)

    def _receive_unprotected(self, packet: bytes) -> None:
        protocol = packet[9] if packet[0] < _IPV6 else packet[6]
        destination = packet[_DESTINATION] if packet[0] < _IPV6 else packet[_DESTINATION_V6]
        mine = destination in self._own
        if self._source_routed and protocol in _PROTECTED and not mine:
            # For an address that the node had: it is not here any more.
            self.dropped(packet, "no_address", "inbound")
            return
        if protocol == _UDP and mine:
            try:
                found = _ike_datagram(packet)
            except WireError:
                self.dropped(packet, "malformed", "inbound")
                return
            if found is not None:
                self.driver.receive_datagram(*found)
                return
        if protocol == _TCP and self._streams is not None and self._is_stream(packet):
            return
        self.driver.receive_packet(packet)

    def _is_stream(self, packet: bytes) -> bool:
        """True for a segment of a connection of the gateway's own, which has been taken."""
        assert self._streams is not None
        if destination_of(packet) not in self._own:
            return False
        try:
            header = decode_ip_header(packet)
            segment = packet[header.header_length : header.total_length]
            ports = int.from_bytes(segment[:2], "big"), int.from_bytes(segment[2:4], "big")
            if header.is_fragment or not self._streams.concerns(*ports):
                return False
            self._streams.receive(header, segment)
        except WireError:
            self.dropped(packet, "malformed", "inbound")
        return True


def _ike_datagram(packet: bytes) -> tuple[UdpPath, bytes] | None:
    """The path and data of a datagram to port 500 or 4500; None for other ports and fragments.

    Raises WireError when it is cut short or its checksum does not match.
    """
    found = esp_in_udp(packet)
    if found is not None:
        return found
    header = decode_ip_header(packet)
    if header.is_fragment:
        return None
    path, data = read_datagram(header, packet)
    return (path, data) if path.local.port in _IKE_PORTS else None


# A gateway talks to few addresses, very often.


@lru_cache(4096)
def _packed(address: str) -> Address:
    return ip_address(address).packed
