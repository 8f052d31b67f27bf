"""The notifications of RFC 5685, built and read.

REDIRECT (section 7.2), in an IKE_SA_INIT response with the request's nonce at its end:

     0                   1                   2                   3
    +---------------+---------------+-------------------------------+
    | GW Ident Type |  GW Ident Len |                               |
    +---------------+---------------+  New Responder GW Identity    ~
    |                                                               |
    +---------------------------------------------------------------+
    ~                         Nonce Data                            ~
    +---------------------------------------------------------------+
"""

from __future__ import annotations

import re
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

from ipseclab.errors import InvalidSyntax
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import NotifyPayload

_HEADER_SIZE = 2
_FQDN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


class GatewayIdentType(IntEnum):
    """Section 10."""

    IPV4 = 1
    IPV6 = 2
    FQDN = 3


def redirect_data(gateway: str, nonce: bytes = b"") -> bytes:
    """The data of REDIRECT, or without a nonce of REDIRECTED_FROM. `gateway`: address or FQDN."""
    try:
        address = ip_address(gateway)
    except ValueError:
        kind, identity = GatewayIdentType.FQDN, gateway.encode("ascii")
    else:
        kind = GatewayIdentType.IPV4 if address.version == 4 else GatewayIdentType.IPV6
        identity = address.packed
    return bytes((kind, len(identity))) + identity + nonce


def read_redirect(data: bytes) -> tuple[str, bytes]:
    """The gateway, and what follows it. Raises InvalidSyntax."""
    if len(data) < _HEADER_SIZE or len(data) < _HEADER_SIZE + data[1]:
        raise InvalidSyntax(f"gateway identity cut short at {len(data)} octets")
    kind, end = data[0], _HEADER_SIZE + data[1]
    identity, rest = data[_HEADER_SIZE:end], data[end:]
    if kind == GatewayIdentType.IPV4 and len(identity) == 4:
        return str(IPv4Address(identity)), rest
    if kind == GatewayIdentType.IPV6 and len(identity) == 16:
        return str(IPv6Address(identity)), rest
    name = identity.decode("ascii", "replace")
    if kind == GatewayIdentType.FQDN and _FQDN.fullmatch(name):
        return name, rest
    raise InvalidSyntax(f"gateway identity of type {kind} and {len(identity)} octets")


def redirected_from(gateway: str) -> NotifyPayload:
    """Who sent this end here: an address, whatever that gateway calls itself (section 3)."""
    return NotifyPayload(NotifyType.REDIRECTED_FROM, redirect_data(gateway))
