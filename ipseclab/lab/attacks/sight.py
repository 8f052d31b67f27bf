"""What somebody without keys sees of a packet: addresses, ports, SPI, IKE's header, clear text.

RFC 791, RFC 4302 and 4303 section 2 (AH, ESP), RFC 3948 section 2 (in UDP), RFC 7296 section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.lab.faults.fault import MessageKind
from ipseclab.lab.traffic import PROBE_HEADER, PROBE_MAGIC, probe_payload
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE, decode_ipv4_header
from ipseclab.wire.message import FLAG_RESPONSE, HEADER_SIZE

Kind = Literal["plain", "esp", "ah", "ike", "keepalive"]

ESP_HEADER_SIZE = 8
AH_FIXED_SIZE = 12
"""RFC 4302 section 2.2: up to the ICV."""
TCP_HEADER_SIZE = 20
KEEPALIVE = b"\xff"
_AH_SPI_AT, _ESP_SPI_AT = 4, 0
_EXCHANGE_AT, _FLAGS_AT = 18, 19
_CARRIED: Mapping[int, Kind] = {int(IpProtocol.ESP): "esp", int(IpProtocol.AH): "ah"}


@dataclass(frozen=True, slots=True)
class Sight:
    """A packet as seen. `start` is where the transport or IPsec header begins, `inner` where ESP,
    AH, IKE or the payload does, `content` where what those carry does, `end` where it all ends."""

    kind: Kind
    protocol: int
    source: bytes
    destination: bytes
    start: int
    inner: int
    content: int
    end: int
    whole: bool = True
    """False for a fragment."""
    source_port: int = 0
    destination_port: int = 0
    spi: bytes | None = None
    sequence: int | None = None
    exchange: int | None = None
    message: MessageKind | None = None

    @property
    def spi_at(self) -> int:
        """Where the SPI stands, of ESP and AH."""
        return self.inner + (_AH_SPI_AT if self.kind == "ah" else _ESP_SPI_AT)


def look(packet: bytes) -> Sight:
    """What is to be seen of an IPv4 packet. Raises WireError when it is none."""
    header = decode_ipv4_header(packet)
    start, end = header.header_length, header.total_length
    plain = Sight(
        "plain",
        header.protocol,
        header.source,
        header.destination,
        start,
        start,
        start,
        end,
        not header.is_fragment,
    )
    if header.fragment_offset:
        return replace(plain, kind=_CARRIED.get(header.protocol, "plain"))
    return _SEEN.get(header.protocol, _as_it_is)(packet, plain)


def _as_it_is(_packet: bytes, plain: Sight) -> Sight:
    return plain


def _tcp(packet: bytes, plain: Sight) -> Sight:
    start, end = plain.start, plain.end
    if end < start + TCP_HEADER_SIZE:
        return plain
    inner = min(end, start + (packet[start + 12] >> 4) * 4)
    return replace(_with_ports(packet, plain), inner=inner, content=inner)


def _udp(packet: bytes, plain: Sight) -> Sight:
    inner, end = plain.start + UDP_HEADER_SIZE, plain.end
    if end < inner:
        return plain
    seen = replace(_with_ports(packet, plain), inner=inner, content=inner)
    ports = seen.source_port, seen.destination_port
    if NAT_T_PORT in ports:
        if packet[inner:end] == KEEPALIVE:
            return replace(seen, kind="keepalive")
        if packet[inner : inner + len(NON_ESP_MARKER)] != NON_ESP_MARKER:
            return _esp(packet, seen)
        inner += len(NON_ESP_MARKER)
        return _ike(packet, replace(seen, inner=inner, content=inner))
    return _ike(packet, seen) if IKE_PORT in ports else seen


def _with_ports(packet: bytes, seen: Sight) -> Sight:
    first, second = packet[seen.start : seen.start + 2], packet[seen.start + 2 : seen.start + 4]
    return replace(
        seen,
        source_port=int.from_bytes(first, "big"),
        destination_port=int.from_bytes(second, "big"),
    )


def _esp(packet: bytes, seen: Sight) -> Sight:
    inner = seen.inner
    if seen.end < inner + ESP_HEADER_SIZE:
        return replace(seen, kind="esp")
    return replace(
        seen,
        kind="esp",
        content=inner + ESP_HEADER_SIZE,
        spi=packet[inner : inner + 4],
        sequence=int.from_bytes(packet[inner + 4 : inner + 8], "big"),
    )


def _ah(packet: bytes, seen: Sight) -> Sight:
    inner = seen.inner
    if seen.end < inner + AH_FIXED_SIZE:
        return replace(seen, kind="ah")
    # RFC 4302 section 2.2: in words, less 2.
    length = (packet[inner + 1] + 2) * 4
    return replace(
        seen,
        kind="ah",
        content=min(seen.end, inner + length),
        spi=packet[inner + 4 : inner + 8],
        sequence=int.from_bytes(packet[inner + 8 : inner + 12], "big"),
    )


def _ike(packet: bytes, seen: Sight) -> Sight:
    inner = seen.inner
    if seen.end < inner + HEADER_SIZE:
        return replace(seen, kind="ike")
    response = packet[inner + _FLAGS_AT] & FLAG_RESPONSE
    return replace(
        seen,
        kind="ike",
        exchange=packet[inner + _EXCHANGE_AT],
        message="response" if response else "request",
    )


_SEEN = {
    int(IpProtocol.TCP): _tcp,
    int(IpProtocol.UDP): _udp,
    int(IpProtocol.ESP): _esp,
    int(IpProtocol.AH): _ah,
}


def clear_octets(packet: bytes) -> int:
    """Octets of a probe's payload (`lab.traffic`) that stand in clear in `packet`, wherever that
    is: 0 when it is encrypted. Its UDP header stands before it and says how long it is."""
    at = packet.find(PROBE_MAGIC)
    if at < UDP_HEADER_SIZE:
        return 0
    length = int.from_bytes(packet[at - 4 : at - 2], "big") - UDP_HEADER_SIZE
    if not PROBE_HEADER.size <= length <= len(packet) - at:
        return 0
    _magic, flow, sequence = PROBE_HEADER.unpack_from(packet, at)
    # A probe is recognised by its filling, so that four octets of chance are none.
    return length if packet[at : at + length] == probe_payload(flow, sequence, length) else 0
