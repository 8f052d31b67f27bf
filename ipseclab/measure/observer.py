"""What who watches a link learns without any key: how long packets are, and when they go.

RFC 4303 section 2.7 and RFC 9347 section 1: traffic analysis. IKE and keepalives are left out, as
they say nothing of the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from statistics import fmean, pstdev

from ipseclab.errors import ConfigError, WireError
from ipseclab.lab.pcap_read import ip_packet, read_capture
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import decode_ip_header

NAT_T_PORT = 4500
WINDOW = 0.1
"""Seconds over which an observer counts octets."""
FEWEST_WINDOWS = 10
MOST_SEEN = 100_000
"""Packets of a capture that are looked at."""


@dataclass(slots=True)
class Sightings:
    """Protected packets at one interface, by who sent them: when, and how many octets."""

    interface: str | None = None
    by_source: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    _count: int = 0

    def add(self, interface: str, time: float, packet: bytes) -> None:
        """Take in a packet; those of other interfaces than the first are passed over."""
        if self._count >= MOST_SEEN or not is_protected(packet):
            return
        if self.interface is None:
            self.interface = interface
        if interface != self.interface:
            return
        self._count += 1
        source = str(ip_address(decode_ip_header(packet).source))
        self.by_source.setdefault(source, []).append((time, len(packet)))

    @property
    def sizes(self) -> int | None:
        """How many different lengths, of the sender with the most of them; None without packets."""
        return max(
            (len({octets for _, octets in s}) for s in self.by_source.values()), default=None
        )

    @property
    def variation(self) -> float | None:
        """Standard deviation of the octets in a window over their mean, of the sender with the
        largest; None where nobody was seen for long enough."""
        found = [one for seen in self.by_source.values() if (one := _variation(seen)) is not None]
        return max(found, default=None)


def is_protected(packet: bytes) -> bool:
    """True for ESP and AH, also in UDP."""
    try:
        header = decode_ip_header(packet)
    except WireError:
        return False
    if header.protocol in (IpProtocol.ESP, IpProtocol.AH):
        return True
    body = packet[header.header_length : header.total_length]
    if header.protocol != IpProtocol.UDP or len(body) <= UDP_HEADER_SIZE + 1:
        return False
    ports = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
    return NAT_T_PORT in ports and any(body[UDP_HEADER_SIZE : UDP_HEADER_SIZE + 4])


def _variation(seen: Iterable[tuple[float, int]]) -> float | None:
    """Over whole windows between a sender's first packet and its last."""
    octets: dict[int, int] = {}
    for time, length in seen:
        window = int(time / WINDOW)
        octets[window] = octets.get(window, 0) + length
    if not octets:
        return None
    counts = [octets.get(window, 0) for window in range(min(octets) + 1, max(octets))]
    return pstdev(counts) / fmean(counts) if len(counts) >= FEWEST_WINDOWS and any(counts) else None


def read_sightings(capture: Path) -> Mapping[str, list[tuple[float, int]]]:
    """What an observer at the capture's first interface saw, by source. Raises ConfigError."""
    found = Sightings()
    try:
        for captured in read_capture(capture):
            packet = ip_packet(captured)
            if packet is not None:
                found.add(captured.interface, captured.time, packet)
    except OSError as problem:
        raise ConfigError(f"{capture}: cannot be read: {problem.strerror}") from None
    return found.by_source
