"""What a connection says of EAP: how this end answers it, what a gateway demands by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ipseclab.ike.credentials import CertificateAuth, CertificateDemand
from ipseclab.registry import EapType

if TYPE_CHECKING:
    from ipseclab.ike.config import Identity

FRAGMENT_SIZE = 1024
"""Octets of TLS in one EAP packet."""


@dataclass(frozen=True, slots=True)
class EapTls:
    """Both ends' certificates for EAP-TLS (RFC 5216, RFC 9190)."""

    credential: CertificateAuth
    demand: CertificateDemand
    versions: tuple[str, ...] = ("1.2", "1.3")
    """TLS versions allowed."""
    fragment: int = FRAGMENT_SIZE


@dataclass(frozen=True, slots=True)
class EapAuth:
    """This end, an initiator, authenticates by a method that the gateway chooses among those."""

    methods: tuple[EapType, ...]
    """The most wanted first."""
    password: str = field(default="", repr=False)
    tls: EapTls | None = None
    eap_identity: bytes | None = None
    """What EAP-Identity is answered with, and the user of MSCHAPv2; None: the text of the round's
    identity."""
    identity: Identity | None = None
    """Who authenticates in this round; None: the connection's identity."""


@dataclass(frozen=True, slots=True)
class EapDemand:
    """The peer, an initiator, must authenticate by EAP; this end is the EAP server."""

    methods: tuple[EapType, ...]
    """The first is asked for; the peer may want another one of them."""
    accounts: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Users and passwords."""
    tls: EapTls | None = None
    ask_identity: bool = False
    """Ask for an EAP-Identity; otherwise the user is who IDi says (RFC 7296 section 3.16)."""
    identity: Identity | None = None
    """Who must authenticate in this round; None: the connection's peer."""


@dataclass(frozen=True, slots=True)
class EapOnly:
    """The responder is authenticated by the initiator's EAP method alone (RFC 5998). As what the
    peer must do it lets this initiator take methods that authenticate both ends, and no other."""

    identity: Identity | None = None
