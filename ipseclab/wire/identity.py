"""Payloads that say and prove who a peer is, and give it an address: ID, CERT, AUTH, EAP, CP.

RFC 7296 sections 3.5-3.8, 3.15 and 3.16. Certificates, signatures and EAP methods stay octets here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from ipseclab.errors import WireError
from ipseclab.registry import (
    AuthMethod,
    CertEncoding,
    CfgAttributeType,
    CfgType,
    EapCode,
    IdType,
    PayloadType,
)
from ipseclab.wire.buffer import Reader

# RFC 7296 section 3.5: the identification types of a fixed size.
ID_SIZES: Mapping[int, int] = {IdType.ID_IPV4_ADDR: 4, IdType.ID_IPV6_ADDR: 16}

# RFC 3748 section 4: code, identifier and length.
EAP_HEADER_SIZE = 4

# RFC 7296 section 3.15.1: the top bit of an attribute's type is reserved.
CFG_ATTRIBUTE_TYPE_MASK = 0x7FFF

# Own limit.
MAX_CFG_ATTRIBUTES = 100
_ATTRIBUTE = struct.Struct("!HH")


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |   ID Type     |                 RESERVED                      |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                   Identification Data                         ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class _IdPayload:
    """What IDi and IDr share (RFC 7296 section 3.5)."""

    payload_type: ClassVar[PayloadType]
    id_type: IdType
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        id_type = IdType(body.uint(1))
        body.skip(3)
        data = body.rest()
        wanted = ID_SIZES.get(id_type, len(data))
        if len(data) != wanted:
            raise WireError(f"{id_type.name}: {len(data)} octets, must be {wanted}")
        return cls(id_type, data, critical)

    def encode(self) -> bytes:
        """The payload's body, which is also what AUTH signs (RestOfIDPayload, section 2.15)."""
        return bytes([self.id_type, 0, 0, 0]) + self.data


@dataclass(frozen=True, slots=True)
class IdiPayload(_IdPayload):
    """Identification - Initiator."""

    payload_type: ClassVar[PayloadType] = PayloadType.IDI


@dataclass(frozen=True, slots=True)
class IdrPayload(_IdPayload):
    """Identification - Responder."""

    payload_type: ClassVar[PayloadType] = PayloadType.IDR


@dataclass(frozen=True, slots=True)
class _CertificatePayload:
    """What CERT and CERTREQ share: an encoding and data (RFC 7296 sections 3.6 and 3.7)."""

    payload_type: ClassVar[PayloadType]
    encoding: CertEncoding
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        return cls(CertEncoding(body.uint(1)), body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return bytes([self.encoding]) + self.data


@dataclass(frozen=True, slots=True)
class CertPayload(_CertificatePayload):
    """Certificate (RFC 7296 section 3.6)."""

    payload_type: ClassVar[PayloadType] = PayloadType.CERT


@dataclass(frozen=True, slots=True)
class CertreqPayload(_CertificatePayload):
    """Certificate Request (RFC 7296 section 3.7): `data` is a list of hashes of CAs."""

    payload_type: ClassVar[PayloadType] = PayloadType.CERTREQ


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Auth Method   |                RESERVED                       |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                      Authentication Data                      ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class AuthPayload:
    """Authentication (RFC 7296 section 3.8)."""

    payload_type: ClassVar[PayloadType] = PayloadType.AUTH
    method: AuthMethod
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        method = AuthMethod(body.uint(1))
        body.skip(3)
        return cls(method, body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return bytes([self.method, 0, 0, 0]) + self.data


@dataclass(frozen=True, slots=True)
class EapPayload:
    """One EAP packet (RFC 7296 section 3.16, RFC 3748 section 4); `data` begins with its type."""

    payload_type: ClassVar[PayloadType] = PayloadType.EAP
    code: EapCode
    identifier: int
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        held = body.remaining
        code, identifier, length = EapCode(body.uint(1)), body.uint(1), body.uint(2)
        if length != held:
            raise WireError(f"EAP length {length}, payload holds {held}")
        return cls(code, identifier, body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        length = EAP_HEADER_SIZE + len(self.data)
        return bytes([self.code, self.identifier]) + length.to_bytes(2, "big") + self.data


@dataclass(frozen=True, slots=True)
class CpAttribute:
    """A configuration attribute (RFC 7296 section 3.15.1); an empty value asks for one."""

    type: CfgAttributeType
    value: bytes = b""

    def encode(self) -> bytes:
        """The attribute's octets."""
        return int(self.type).to_bytes(2, "big") + len(self.value).to_bytes(2, "big") + self.value


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |   CFG Type    |                    RESERVED                   |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |R|         Attribute Type      |            Length             |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                             Value                             ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class CpPayload:
    """Configuration (RFC 7296 section 3.15)."""

    payload_type: ClassVar[PayloadType] = PayloadType.CP
    cfg_type: CfgType
    attributes: tuple[CpAttribute, ...]
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        cfg_type = CfgType(body.uint(1))
        body.skip(3)
        attributes: list[CpAttribute] = []
        while body.remaining:
            if len(attributes) == MAX_CFG_ATTRIBUTES:
                raise WireError(f"CP: more than {MAX_CFG_ATTRIBUTES} attributes")
            number, size = body.unpack(_ATTRIBUTE)
            kind = CfgAttributeType(number & CFG_ATTRIBUTE_TYPE_MASK)
            attributes.append(CpAttribute(kind, body.octets(size)))
        return cls(cfg_type, tuple(attributes), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        head = bytes([self.cfg_type, 0, 0, 0])
        return head + b"".join(attribute.encode() for attribute in self.attributes)
