"""What the core hands back to whoever drives it: values that say what is to be done.

Every input of the core is a method that returns ``list[Output]``; a driver carries each one out in
order. Times are seconds on the driver's own monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from typing_extensions import override


class UdpEndpoint(NamedTuple):
    """An IPv4 or IPv6 address as text and a UDP port."""

    address: str
    port: int

    def __str__(self) -> str:
        if ":" in self.address:
            return f"[{self.address}]:{self.port}"
        return f"{self.address}:{self.port}"


class UdpPath(NamedTuple):
    """A pair of UDP endpoints as this node sees them: `local` is its own side."""

    local: UdpEndpoint
    remote: UdpEndpoint

    def __str__(self) -> str:
        return f"{self.local} - {self.remote}"


class TcpPath(UdpPath):
    """A TCP connection by its two endpoints, for IKE and ESP in its stream (RFC 9329). It differs
    from the UDP path of the same endpoints."""

    __slots__ = ()

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, TcpPath) and tuple.__eq__(self, other)

    @override
    def __ne__(self, other: object) -> bool:
        return not self == other

    @override
    def __hash__(self) -> int:
        return hash((TcpPath, *self))

    @override
    def __str__(self) -> str:
        return f"tcp {self.local} - {self.remote}"


class Deadline(NamedTuple):
    """When the core wants to be called next (seconds), and why (for traces and tests)."""

    at: float
    why: str


# One of these three is made for each packet: freezing would make that cost four times as much.


@dataclass(slots=True, unsafe_hash=True)
class SendDatagram:
    """Send `data` as the payload of one UDP datagram along `path`.

    On port 4500 `data` already holds the non-ESP marker or the ESP packet (RFC 3948).
    """

    path: UdpPath
    data: bytes


@dataclass(slots=True, unsafe_hash=True)
class SendPacket:
    """Send `packet`, a whole IPv4 or IPv6 packet, on the unprotected side: ESP as protocol 50, AH,
    or a packet that the SPD lets bypass."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send one IKE message (behind its non-ESP marker) or ESP packet in the stream of `path`. Ends
    in the gateway, which frames it: no driver sees one."""

    path: TcpPath
    data: bytes


@dataclass(frozen=True, slots=True)
class OpenStream:
    """Open the TCP connection from `path.local`, the port included, to `path.remote`; the driver
    answers with `stream_opened` or `stream_closed`."""

    path: TcpPath


@dataclass(frozen=True, slots=True)
class SendStream:
    """Send these octets next on the TCP connection, as soon as it is open and has room; the driver
    answers with `stream_sent` when TCP has taken them."""

    path: TcpPath
    octets: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close the TCP connection, after all that was sent on it; with `abort` at once. Nothing is
    heard of it any more."""

    path: TcpPath
    abort: bool = False


@dataclass(slots=True, unsafe_hash=True)
class DeliverPacket:
    """Hand `packet`, a whole IP packet that passed the SPD, to the protected side."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Notice:
    """A state change worth drawing. `event` is snake_case; `details` holds plain JSON values, never
    keys."""

    event: str
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IkeKeyLog:
    """The secrets of one IKE_SA, for a decryption table; a driver writes them to `keys/` or drops
    them.

    Names as in RFC 7296 section 2.14; an AEAD key carries its salt at the end.
    """

    spi_i: bytes
    spi_r: bytes
    encr: str
    integ: str
    sk_ei: bytes
    sk_er: bytes
    sk_ai: bytes
    sk_ar: bytes


@dataclass(frozen=True, slots=True)
class EspKeyLog:
    """The secrets of one ESP SA in one direction (`source` to `destination`, outer addresses)."""

    spi: bytes
    source: str
    destination: str
    encr: str
    integ: str
    encr_key: bytes
    integ_key: bytes


@dataclass(frozen=True, slots=True)
class InternalConfiguration:
    """What the peer of `connection` gave this node (RFC 7296 section 2.19): its own `addresses`
    inside, name servers, and the domains that those are for (all, when there are none). Without
    addresses: what was given is gone."""

    connection: str
    addresses: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


Output = (
    SendDatagram
    | SendPacket
    | OpenStream
    | SendStream
    | CloseStream
    | DeliverPacket
    | Notice
    | IkeKeyLog
    | EspKeyLog
    | InternalConfiguration
)
