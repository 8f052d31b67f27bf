"""Identities as files write them (RFC 7296 section 3.5)."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from cryptography import x509

from ipseclab.ike.config import Identity
from ipseclab.registry import IdType


def identity(text: str) -> Identity:
    """An IP address, a mail address, a distinguished name (`CN=gw1,O=ipseclab`), or else a name."""
    try:
        address = ip_address(text)
    except ValueError:
        return _by_form(text)
    v4 = isinstance(address, IPv4Address)
    return Identity(IdType.ID_IPV4_ADDR if v4 else IdType.ID_IPV6_ADDR, address.packed)


def _by_form(text: str) -> Identity:
    if "=" in text:
        try:
            # RFC 4514 writes the last part first.
            name = x509.Name.from_rfc4514_string(text)
        except ValueError:
            return Identity(IdType.ID_FQDN, text.encode())
        return Identity(IdType.ID_DER_ASN1_DN, name.public_bytes())
    kind = IdType.ID_RFC822_ADDR if "@" in text else IdType.ID_FQDN
    return Identity(kind, text.encode())
