"""Proposals and transforms, the content of an SA payload.

RFC 7296 section 3.3. Unknown transform types, transform IDs and attributes are kept: whether a
proposal can be used is for `ike` to say. Which transforms a protocol must and may hold (section
3.3.3) is left to `ike` too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ipseclab.errors import WireError
from ipseclab.registry import (
    AttributeType,
    EncrId,
    EsnId,
    IanaEnum,
    IntegId,
    KeMethod,
    PrfId,
    ProtocolId,
    TransformType,
)
from ipseclab.wire.buffer import Reader

# RFC 7296 sections 3.3.1 and 3.3.2: the "Last Substruc" octet.
LAST = 0
MORE_PROPOSALS = 2
MORE_TRANSFORMS = 3

# RFC 7296 section 3.3.5: with the AF bit an attribute holds its value in place of a length.
ATTRIBUTE_FORMAT_TV = 0x8000

# RFC 7296 section 3.3.1: SPI sizes; an IKE SPI is absent in IKE_SA_INIT.
SPI_SIZES: Mapping[int, tuple[int, ...]] = {
    ProtocolId.IKE: (0, 8),
    ProtocolId.AH: (4,),
    ProtocolId.ESP: (4,),
}

SMALLEST_SUBSTRUCTURE = 8
_SUBSTRUCTURE = struct.Struct("!BBH")
_PROPOSAL = struct.Struct("!BBBB")
_TRANSFORM = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("!HH")
_KEY_LENGTH = ATTRIBUTE_FORMAT_TV | AttributeType.KEY_LENGTH

# Own limits, well above what any known implementation sends.
MAX_PROPOSALS = 64
MAX_TRANSFORMS = 160
"""In all proposals of an SA payload together; an attribute that we do not know counts as one."""
MAX_ATTRIBUTES = 8
"""Of a transform, beside its Key Length."""
REMEMBERED, REMEMBERED_SIZE = 64, 256
"""Lists of transforms whose decoding and encoding is remembered, and the octets of one at most."""

ADDITIONAL_KE = (
    TransformType.ADDKE1,
    TransformType.ADDKE2,
    TransformType.ADDKE3,
    TransformType.ADDKE4,
    TransformType.ADDKE5,
    TransformType.ADDKE6,
    TransformType.ADDKE7,
)
"""Additional key exchanges, in the order in which they are carried out (RFC 9370 section 2.2.1)."""

TRANSFORM_IDS: Mapping[int, type[IanaEnum]] = {
    TransformType.ENCR: EncrId,
    TransformType.PRF: PrfId,
    TransformType.INTEG: IntegId,
    TransformType.KE: KeMethod,
    TransformType.ESN: EsnId,
    **dict.fromkeys(ADDITIONAL_KE, KeMethod),
}


@dataclass(frozen=True, slots=True)
class Attribute:
    """A transform attribute: an integer of 16 bits (TV format) or octets (TLV format)."""

    type: AttributeType
    value: int | bytes

    def encode(self) -> bytes:
        """The attribute's octets."""
        if isinstance(self.value, int):
            return _uint16(ATTRIBUTE_FORMAT_TV | self.type) + _uint16(self.value)
        return _uint16(self.type) + _uint16(len(self.value)) + self.value


@dataclass(frozen=True, slots=True)
class Transform:
    """One algorithm. `id` is the enum of its type (an int where the type is unknown).

    `key_bits` is the Key Length attribute, None when there is none; any other attribute is in
    `attributes`, and makes the transform unusable for who does not know it (section 3.3.6).
    """

    type: TransformType
    id: int
    key_bits: int | None = None
    attributes: tuple[Attribute, ...] = ()

    def __str__(self) -> str:
        known = TRANSFORM_IDS.get(self.type)
        name = known(self.id).name if known is not None else f"{self.type.name}_{self.id}"
        return name if self.key_bits is None else f"{name}_{self.key_bits}"

    def encode(self, *, last: bool) -> bytes:
        """The transform substructure."""
        attributes = self.attributes
        if self.key_bits is not None:
            attributes = (Attribute(AttributeType.KEY_LENGTH, self.key_bits), *attributes)
        octets = b"".join(attribute.encode() for attribute in attributes)
        head = bytes([LAST if last else MORE_TRANSFORMS, 0]) + _uint16(8 + len(octets))
        return head + bytes([self.type, 0]) + _uint16(self.id) + octets


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal of an SA payload; `spi` is empty for an IKE_SA in IKE_SA_INIT."""

    number: int
    protocol: ProtocolId
    spi: bytes
    transforms: tuple[Transform, ...]

    def of_type(self, kind: TransformType) -> tuple[Transform, ...]:
        """The transforms of that type, in order of preference."""
        return tuple(transform for transform in self.transforms if transform.type == kind)

    def encode(self, *, last: bool) -> bytes:
        """The proposal substructure. Raises WireError above 255 transforms."""
        count = len(self.transforms)
        if count > 0xFF:
            raise WireError(f"proposal {self.number}: {count} transforms, at most 255")
        transforms = _encode_transforms(self.transforms)
        head = bytes([LAST if last else MORE_PROPOSALS, 0])
        head += _uint16(8 + len(self.spi) + len(transforms))
        head += bytes([self.number, self.protocol, len(self.spi), count])
        return head + self.spi + transforms


@lru_cache(REMEMBERED)
def _encode_transforms(transforms: tuple[Transform, ...]) -> bytes:
    final = len(transforms) - 1
    return b"".join(
        transform.encode(last=index == final) for index, transform in enumerate(transforms)
    )


def encode_proposals(proposals: tuple[Proposal, ...]) -> bytes:
    """The proposals of one SA payload."""
    final = len(proposals) - 1
    return b"".join(
        proposal.encode(last=index == final) for index, proposal in enumerate(proposals)
    )


def decode_proposals(reader: Reader) -> tuple[Proposal, ...]:
    """All proposals of an SA payload, at least one. Raises WireError."""
    proposals: list[Proposal] = []
    more, room = True, MAX_TRANSFORMS
    while more:
        if len(proposals) == MAX_PROPOSALS:
            raise WireError(f"{reader.what}: more than {MAX_PROPOSALS} proposals")
        more, body = _substructure(reader, "proposal", MORE_PROPOSALS)
        proposals.append(_decode_proposal(body, room))
        room -= _weight(proposals[-1].transforms)
    reader.finish()
    return tuple(proposals)


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Last Substruc |   RESERVED    |         Proposal Length       |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                        SPI (variable)                         ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                        <Transforms>                           ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def _decode_proposal(body: Reader, room: int) -> Proposal:
    """A proposal of at most `room` transforms from its fifth octet on (RFC 7296 section 3.3.1)."""
    number, named, spi_size, count = body.unpack(_PROPOSAL)
    protocol = ProtocolId(named)
    if count > room:
        raise WireError(f"proposal {number}: {count} transforms more, at most {MAX_TRANSFORMS}")
    sizes = SPI_SIZES.get(protocol)
    if sizes is not None and spi_size not in sizes:
        wanted = " or ".join(str(size) for size in sizes)
        raise WireError(f"proposal {number}: SPI {spi_size} octets, {protocol.name} has {wanted}")
    spi = body.octets(spi_size)
    octets = body.rest()
    decode = _remembered_transforms if len(octets) <= REMEMBERED_SIZE else _decode_transforms
    return Proposal(number, protocol, spi, decode(octets, count))


def _decode_transforms(octets: bytes, count: int) -> tuple[Transform, ...]:
    """The `count` transforms that a proposal announces: no more, no less."""
    body = Reader(octets, "proposal")
    transforms: list[Transform] = []
    strange = 0
    for index in range(count):
        more, inner = _substructure(body, "transform", MORE_TRANSFORMS)
        if more != (index < count - 1):
            raise WireError(f"proposal: transform {index + 1} of {count} is marked wrongly as last")
        transforms.append(_decode_transform(inner))
        strange += len(transforms[-1].attributes)
        if index + strange >= MAX_TRANSFORMS:
            raise WireError(f"proposal: transforms and attributes, at most {MAX_TRANSFORMS}")
    body.finish()
    return tuple(transforms)


def _weight(transforms: Sequence[Transform]) -> int:
    """Transforms, and their attributes that we do not know."""
    return len(transforms) + sum(len(transform.attributes) for transform in transforms)


_remembered_transforms = lru_cache(REMEMBERED)(_decode_transforms)
"""The same few lists come in nearly every exchange; all who hold one then share it."""


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Last Substruc |   RESERVED    |        Transform Length       |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |Transform Type |   RESERVED    |          Transform ID         |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# ~                      Transform Attributes                     ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def _decode_transform(body: Reader) -> Transform:
    """A transform from its fifth octet on (RFC 7296 section 3.3.2)."""
    named, _reserved, number = body.unpack(_TRANSFORM)
    kind = TransformType(named)
    known = TRANSFORM_IDS.get(kind)
    key_bits: int | None = None
    attributes: list[Attribute] = []
    while body.remaining:
        if len(attributes) == MAX_ATTRIBUTES:
            raise WireError(f"transform: more than {MAX_ATTRIBUTES} attributes")
        head, value = body.unpack(_ATTRIBUTE)
        # A second Key Length, or one in TLV format, is nothing that we know: it stays an attribute.
        if head == _KEY_LENGTH and key_bits is None:
            key_bits = value
        else:
            attributes.append(_attribute(head, value, body))
    identifier = known(number) if known is not None else number
    return Transform(kind, identifier, key_bits, tuple(attributes))


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |A|       Attribute Type        |    AF=0  Attribute Length     |
# |F|                             |    AF=1  Attribute Value      |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                   AF=0  Attribute Value                       |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def _attribute(head: int, value: int, body: Reader) -> Attribute:
    """An attribute in either format (RFC 7296 section 3.3.5), from its first four octets on."""
    kind = AttributeType(head & ~ATTRIBUTE_FORMAT_TV)
    if head & ATTRIBUTE_FORMAT_TV:
        return Attribute(kind, value)
    return Attribute(kind, body.octets(value))


def _substructure(reader: Reader, what: str, mark: int) -> tuple[bool, Reader]:
    """Whether more follow, which `mark` in the "Last Substruc" octet says, and what is behind
    RESERVED and the length of a substructure; the length counts all of it."""
    octet, _reserved, length = reader.unpack(_SUBSTRUCTURE)
    if octet not in (LAST, mark):
        raise WireError(f"{reader.what}: Last Substruc {octet}, expected 0 or {mark}")
    if length < SMALLEST_SUBSTRUCTURE:
        raise WireError(f"{what} length {length}, at least {SMALLEST_SUBSTRUCTURE}")
    return octet == mark, reader.sub(length - _SUBSTRUCTURE.size, what)


def _uint16(value: int) -> bytes:
    if not 0 <= value <= 0xFFFF:
        raise WireError(f"{value} does not fit 16 bits")
    return int(value).to_bytes(2, "big")
