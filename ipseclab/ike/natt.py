"""NAT detection: RFC 7296 section 2.23, and the non-ESP marker of RFC 3948 section 2.2."""

from __future__ import annotations

import hashlib

from ipseclab.ike.config import NAT_T_PORT
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import NotifyType
from ipseclab.wire.ip import packed_address
from ipseclab.wire.payloads import NotifyPayload

NON_ESP_MARKER = bytes(4)
KEEPALIVE = b"\xff"


def detection_hash(spi_i: bytes, spi_r: bytes, endpoint: UdpEndpoint) -> bytes:
    """SHA-1 of SPIs, address and port (the digest that section 2.23 fixes; not for secrecy)."""
    address = packed_address(endpoint.address)
    octets = spi_i + spi_r + address + endpoint.port.to_bytes(2, "big")
    return hashlib.sha1(octets, usedforsecurity=False).digest()


def detection_notifies(
    spi_i: bytes, spi_r: bytes, path: UdpPath, *, pretend: bool
) -> tuple[NotifyPayload, NotifyPayload]:
    """The pair of NAT_DETECTION notifications for a message that goes along `path`.

    With `pretend` the source hash is of an address that no one has, so that the peer finds a NAT
    and both ends encapsulate.
    """
    source = UdpEndpoint("0.0.0.0", 0) if pretend else path.local
    return (
        NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, detection_hash(spi_i, spi_r, source)),
        NotifyPayload(
            NotifyType.NAT_DETECTION_DESTINATION_IP, detection_hash(spi_i, spi_r, path.remote)
        ),
    )


def find_nat(
    notifies: tuple[NotifyPayload, ...], spi_i: bytes, spi_r: bytes, path: UdpPath
) -> tuple[bool, bool] | None:
    """(this end is behind a NAT, the peer is), from a message that came along `path`.

    None when the peer did not send the notifications. There may be several source hashes: one that
    fits is enough.
    """
    sources = [n.data for n in notifies if n.notify_type == NotifyType.NAT_DETECTION_SOURCE_IP]
    own = [n.data for n in notifies if n.notify_type == NotifyType.NAT_DETECTION_DESTINATION_IP]
    if not sources or not own:
        return None
    own_behind = detection_hash(spi_i, spi_r, path.local) not in own
    peer_behind = detection_hash(spi_i, spi_r, path.remote) not in sources
    return own_behind, peer_behind


def floated(path: UdpPath) -> UdpPath:
    """The same addresses on port 4500 at both ends."""
    return UdpPath(
        UdpEndpoint(path.local.address, NAT_T_PORT), UdpEndpoint(path.remote.address, NAT_T_PORT)
    )
