"""What a connection is told about mobility (RFC 4555)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mobike:
    """A connection whose ends may change their addresses. The connection's own and peer address
    come first in all lists; addresses are of IPv4 or IPv6."""

    own: tuple[str, ...] = ()
    """Further addresses of this end, the best first."""
    peer: tuple[str, ...] = ()
    """Further addresses at which to look for the peer (RFC 4555 section 3.1)."""
    allowed: tuple[str, ...] = ()
    """Networks in which the peer may be (section 3.5); empty: anywhere."""
    return_routability: bool = True
    """Whether a new address of the peer is checked before ESP is sent there (section 3.7)."""
    nats: bool = True
    """False: no NAT traversal, and a NAT on the way is taken for an attack (section 3.9)."""
