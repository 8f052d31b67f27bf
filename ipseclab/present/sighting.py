"""IKE messages, ESP and AH packets and NAT keepalives as a capture holds them.

IKE is what goes to or from UDP 500, or 4500 behind the non-ESP marker; ESP is IP protocol 50, or
UDP 4500 without the marker (RFC 3948 section 2); AH is protocol 51 and hides nothing. Of TCP 4500
(RFC 9329) those messages are found that fill a segment, as nearly all of IKE do.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ike.natt import KEEPALIVE, NON_ESP_MARKER
from ipseclab.ike.tcp_stream import only_message
from ipseclab.lab.pcapng import CapturedPacket
from ipseclab.outputs import UdpEndpoint
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE, decode_udp
from ipseclab.wire.ipv6 import decode_ip_header

_TCP_SMALLEST_HEADER = 20
_PROTOCOLS = {"ESP": int(IpProtocol.ESP), "AH": int(IpProtocol.AH)}


@dataclass(frozen=True, slots=True)
class Sighting:
    """An IKE message, ESP or AH packet, or keepalive as captured; ports are 0 where there are none.

    `octets` stand at `offset` of the IP `packet`.
    """

    kind: str
    time: float
    interface: str
    source: UdpEndpoint
    destination: UdpEndpoint
    octets: bytes
    packet: bytes
    offset: int

    @property
    def ends(self) -> tuple[UdpEndpoint, UdpEndpoint]:
        """From where to where."""
        return self.source, self.destination

    @property
    def carrier(self) -> str:
        """What it was carried in."""
        if not self.source.port:
            return f"IP protocol {_PROTOCOLS[self.kind]}"
        in_tcp = self.packet[:1] and self.packet[0] >> 4 == 4 and self.packet[9] == IpProtocol.TCP
        return f"{'TCP' if in_tcp else 'UDP'} {self.source.port} > {self.destination.port}"


def sighting_in(captured: CapturedPacket, packet: bytes) -> Sighting | None:
    """What the IP packet of a captured frame is; None for all else, IP fragments too.

    Raises WireError when it does not decode.
    """
    header = decode_ip_header(packet)
    if header.is_fragment:
        return None
    body = packet[header.header_length : header.total_length]
    source_port = destination_port = 0
    kind, octets, offset = "ESP", body, header.header_length
    if header.protocol == IpProtocol.UDP:
        source_port, destination_port, data = decode_udp(body)
        ports = source_port, destination_port
        offset += UDP_HEADER_SIZE
        if NAT_T_PORT in ports:
            kind, octets = _of_port_4500(data)
            offset += len(data) - len(octets)
        elif IKE_PORT in ports:
            kind, octets = "IKE", data
        else:
            return None
    elif header.protocol == IpProtocol.TCP and len(body) >= _TCP_SMALLEST_HEADER:
        source_port, destination_port = (int.from_bytes(body[at : at + 2], "big") for at in (0, 2))
        message = only_message(body[(body[12] >> 4) * 4 :])
        if NAT_T_PORT not in (source_port, destination_port) or message is None:
            return None
        kind, octets = _of_port_4500(message)
        offset += len(body) - len(octets)
    elif header.protocol == IpProtocol.AH:
        kind = "AH"
    elif header.protocol != IpProtocol.ESP:
        return None
    source = UdpEndpoint(str(ip_address(header.source)), source_port)
    destination = UdpEndpoint(str(ip_address(header.destination)), destination_port)
    return Sighting(
        kind, captured.time, captured.interface, source, destination, octets, packet, offset
    )


def _of_port_4500(data: bytes) -> tuple[str, bytes]:
    """What a datagram on UDP 4500 is, and its octets."""
    if data == KEEPALIVE:
        return "keepalive", data
    if data.startswith(NON_ESP_MARKER):
        return "IKE", data[len(NON_ESP_MARKER) :]
    return "ESP", data
