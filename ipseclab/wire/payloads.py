"""Every payload of RFC 7296 section 3, and the fragment of RFC 7383, as frozen values.

This file holds what every exchange speaks: SA, KE, Nonce, Notify, Delete, Vendor ID, TSi, TSr, the
encrypted payloads SK and SKF with their content still sealed, and payloads of unknown type, kept as
octets. `identity.py` has the payloads that say who a peer is. `decode` reads what stands behind the
generic payload header, `encode` writes it; the header is the business of `message.py`.

A RESERVED field is ignored on receipt and sent as zero (section 2.5); the critical flag is kept.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from ipseclab.errors import WireError
from ipseclab.registry import KeMethod, NotifyType, PayloadType, ProtocolId
from ipseclab.wire.buffer import Reader
from ipseclab.wire.identity import (
    AuthPayload,
    CertPayload,
    CertreqPayload,
    CpAttribute,
    CpPayload,
    EapPayload,
    IdiPayload,
    IdrPayload,
)
from ipseclab.wire.proposal import Proposal, decode_proposals, encode_proposals
from ipseclab.wire.selector import TrafficSelector, decode_selector

__all__ = [
    "AuthPayload",
    "CertPayload",
    "CertreqPayload",
    "CpAttribute",
    "CpPayload",
    "DeletePayload",
    "EapPayload",
    "IdiPayload",
    "IdrPayload",
    "KePayload",
    "NoncePayload",
    "NotifyPayload",
    "PAYLOADS",
    "Payload",
    "PsPayload",
    "SaPayload",
    "SkPayload",
    "SkfPayload",
    "TsiPayload",
    "TsrPayload",
    "UnknownPayload",
    "VendorPayload",
]

# RFC 7296 section 3.9.
MIN_NONCE_SIZE = 16
MAX_NONCE_SIZE = 256

# RFC 7296 sections 3.10 and 3.11: the SPI of an ESP or AH SA; an IKE_SA is named by the header.
ESP_SPI_SIZE = 4
DELETE_SPI_SIZES: Mapping[int, int] = {
    ProtocolId.IKE: 0,
    ProtocolId.AH: ESP_SPI_SIZE,
    ProtocolId.ESP: ESP_SPI_SIZE,
}

_HEAD = struct.Struct("!BBH")
"""What Notify and Delete begin with: protocol, SPI size, and a type or a count."""

# Own limits. A TS payload has an octet for its count, a DELETE two.
MAX_SELECTORS = 64
MAX_DELETED_SPIS = 256


@dataclass(frozen=True, slots=True)
class SaPayload:
    """Security Association: proposals in order of preference, or the one chosen."""

    payload_type: ClassVar[PayloadType] = PayloadType.SA
    proposals: tuple[Proposal, ...]
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        return cls(decode_proposals(body), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return encode_proposals(self.proposals)


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |   Diffie-Hellman Group Num    |           RESERVED            |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                       Key Exchange Data                       ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class KePayload:
    """Key Exchange (RFC 7296 section 3.4); whether `data` fits `method` is for `crypto` to say."""

    payload_type: ClassVar[PayloadType] = PayloadType.KE
    method: KeMethod
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        method = KeMethod(body.uint(2))
        body.skip(2)
        return cls(method, body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return int(self.method).to_bytes(2, "big") + bytes(2) + self.data


@dataclass(frozen=True, slots=True)
class NoncePayload:
    """Nonce (RFC 7296 section 3.9): 16 to 256 octets."""

    payload_type: ClassVar[PayloadType] = PayloadType.NONCE
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        data = body.rest()
        if not MIN_NONCE_SIZE <= len(data) <= MAX_NONCE_SIZE:
            raise WireError(f"nonce {len(data)} octets, must be {MIN_NONCE_SIZE}-{MAX_NONCE_SIZE}")
        return cls(data, critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return self.data


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |  Protocol ID  |   SPI Size    |      Notify Message Type      |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                Security Parameter Index (SPI)                 ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                       Notification Data                       ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class NotifyPayload:
    """Notify (RFC 7296 section 3.10): an error or a status, perhaps about the SA of `spi`."""

    payload_type: ClassVar[PayloadType] = PayloadType.NOTIFY
    notify_type: NotifyType
    data: bytes = b""
    protocol: ProtocolId = ProtocolId.NONE
    spi: bytes = b""
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        number, spi_size, kind = body.unpack(_HEAD)
        protocol, notify_type = ProtocolId(number), NotifyType(kind)
        if protocol in (ProtocolId.AH, ProtocolId.ESP) and spi_size not in (0, ESP_SPI_SIZE):
            raise WireError(
                f"{notify_type.name}: {protocol.name} SPI {spi_size} octets, not 0 or 4"
            )
        spi = body.octets(spi_size)
        return cls(notify_type, body.rest(), protocol, spi, critical)

    def encode(self) -> bytes:
        """The payload's body."""
        head = _HEAD.pack(self.protocol, len(self.spi), self.notify_type)
        return head + self.spi + self.data


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Protocol ID   |   SPI Size    |          Num of SPIs          |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~               Security Parameter Index(es) (SPI)              ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class DeletePayload:
    """Delete (RFC 7296 section 3.11): the IKE_SA itself, or inbound SPIs of its sender."""

    payload_type: ClassVar[PayloadType] = PayloadType.DELETE
    protocol: ProtocolId
    spis: tuple[bytes, ...] = ()
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        number, spi_size, count = body.unpack(_HEAD)
        protocol = ProtocolId(number)
        wanted = DELETE_SPI_SIZES.get(protocol, spi_size)
        if spi_size != wanted:
            raise WireError(f"DELETE: {protocol.name} SPI {spi_size} octets, must be {wanted}")
        if count and not spi_size:
            raise WireError(f"DELETE: {count} SPIs of no octets")
        if count > MAX_DELETED_SPIS:
            raise WireError(f"DELETE: {count} SPIs, at most {MAX_DELETED_SPIS}")
        octets = body.octets(count * spi_size)
        starts = range(0, count * spi_size, spi_size) if count else ()
        spis = tuple([octets[at : at + spi_size] for at in starts])
        body.finish()
        return cls(protocol, spis, critical)

    def encode(self) -> bytes:
        """The payload's body."""
        size = DELETE_SPI_SIZES.get(self.protocol, len(self.spis[0]) if self.spis else 0)
        if any(len(spi) != size for spi in self.spis):
            raise WireError(f"DELETE: SPIs that are not of {size} octets each")
        return _HEAD.pack(self.protocol, size, len(self.spis)) + b"".join(self.spis)


@dataclass(frozen=True, slots=True)
class VendorPayload:
    """Vendor ID (RFC 7296 section 3.12)."""

    payload_type: ClassVar[PayloadType] = PayloadType.VENDOR
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body."""
        return cls(body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return self.data


@dataclass(frozen=True, slots=True)
class PsPayload:
    """Puzzle Solution (RFC 8019 section 8.2): four keys, one behind the other."""

    payload_type: ClassVar[PayloadType] = PayloadType.PS
    data: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body."""
        return cls(body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return self.data


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Number of TSs |                 RESERVED                      |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                       <Traffic Selectors>                     ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class _SelectorPayload:
    """What TSi and TSr share (RFC 7296 section 3.13)."""

    payload_type: ClassVar[PayloadType]
    selectors: tuple[TrafficSelector, ...]
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, *, critical: bool = False) -> Self:
        """From the payload's body. Raises WireError."""
        count = body.uint(1)
        body.skip(3)
        if count > MAX_SELECTORS:
            raise WireError(f"{cls.payload_type.name}: {count} selectors, at most {MAX_SELECTORS}")
        selectors = tuple(decode_selector(body) for _ in range(count))
        body.finish()
        return cls(selectors, critical)

    def encode(self) -> bytes:
        """The payload's body. Raises WireError above 255 selectors."""
        count = len(self.selectors)
        if count > 0xFF:
            raise WireError(f"{self.payload_type.name}: {count} selectors, at most 255")
        head = bytes([count, 0, 0, 0])
        return head + b"".join(selector.encode() for selector in self.selectors)


@dataclass(frozen=True, slots=True)
class TsiPayload(_SelectorPayload):
    """Traffic Selector - Initiator: of the end that asks for the CHILD_SA."""

    payload_type: ClassVar[PayloadType] = PayloadType.TSI


@dataclass(frozen=True, slots=True)
class TsrPayload(_SelectorPayload):
    """Traffic Selector - Responder."""

    payload_type: ClassVar[PayloadType] = PayloadType.TSR


@dataclass(frozen=True, slots=True)
class SkPayload:
    """Encrypted and Authenticated (RFC 7296 section 3.14), always the last payload of a message.

    `first` is the type of the first payload inside: it stands in this payload's own header, so that
    it is authenticated but not encrypted. `body` is IV | ciphertext | ICV.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.SK
    first: PayloadType
    body: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, first: PayloadType, *, critical: bool = False) -> Self:
        """From the payload's body and its header's Next Payload."""
        return cls(first, body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return self.body


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |        Fragment Number        |        Total Fragments        |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                     Initialization Vector                     ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~             Encrypted content, Padding, Pad Length            ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                    Integrity Checksum Data                    ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
@dataclass(frozen=True, slots=True)
class SkfPayload:
    """Encrypted and Authenticated Fragment (RFC 7383 section 2.5): `number` (from 1) of `total`.

    `first` is the type of the first payload of the whole in fragment 1, and NONE in the others.
    """

    payload_type: ClassVar[PayloadType] = PayloadType.SKF
    first: PayloadType
    number: int
    total: int
    body: bytes
    critical: bool = False

    @classmethod
    def decode(cls, body: Reader, first: PayloadType, *, critical: bool = False) -> Self:
        """From the payload's body and its header's Next Payload. Raises WireError."""
        number, total = body.uint(2), body.uint(2)
        if not 1 <= number <= total:
            raise WireError(f"SKF: fragment {number} of {total}")
        return cls(first, number, total, body.rest(), critical)

    def encode(self) -> bytes:
        """The payload's body."""
        return self.number.to_bytes(2, "big") + self.total.to_bytes(2, "big") + self.body


@dataclass(frozen=True, slots=True)
class UnknownPayload:
    """A payload that we cannot read: skipped, or refused when it is critical (section 2.5)."""

    payload_type: PayloadType
    data: bytes
    critical: bool = False

    def encode(self) -> bytes:
        """The payload's body."""
        return self.data


PlainPayload = (
    SaPayload
    | KePayload
    | IdiPayload
    | IdrPayload
    | CertPayload
    | CertreqPayload
    | AuthPayload
    | NoncePayload
    | NotifyPayload
    | DeletePayload
    | VendorPayload
    | TsiPayload
    | TsrPayload
    | CpPayload
    | EapPayload
    | PsPayload
)
Payload = PlainPayload | SkPayload | SkfPayload | UnknownPayload

PAYLOADS: Mapping[int, type[PlainPayload]] = {
    PayloadType.SA: SaPayload,
    PayloadType.KE: KePayload,
    PayloadType.IDI: IdiPayload,
    PayloadType.IDR: IdrPayload,
    PayloadType.CERT: CertPayload,
    PayloadType.CERTREQ: CertreqPayload,
    PayloadType.AUTH: AuthPayload,
    PayloadType.NONCE: NoncePayload,
    PayloadType.NOTIFY: NotifyPayload,
    PayloadType.DELETE: DeletePayload,
    PayloadType.VENDOR: VendorPayload,
    PayloadType.TSI: TsiPayload,
    PayloadType.TSR: TsrPayload,
    PayloadType.CP: CpPayload,
    PayloadType.EAP: EapPayload,
    PayloadType.PS: PsPayload,
}
