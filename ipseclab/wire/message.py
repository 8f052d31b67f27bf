"""IKE messages: the header, and the chain of payloads behind it.

RFC 7296 sections 3.1 and 3.2. A chain is walked once, by length; it ends with Next Payload 0 or
with an SK or SKF payload, whose content stays sealed. Whether the payloads make sense in their
exchange, and whether the major version is ours, is for `ike` to say.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeVar

from ipseclab.errors import WireError
from ipseclab.registry import ExchangeType, NotifyType, PayloadType
from ipseclab.wire.buffer import Reader
from ipseclab.wire.payloads import (
    PAYLOADS,
    NotifyPayload,
    Payload,
    SkfPayload,
    SkPayload,
    UnknownPayload,
)

# RFC 7296 section 3.1.
HEADER_SIZE = 28
IKE_SPI_SIZE = 8
MAJOR_VERSION = 2
MINOR_VERSION = 0
FLAG_INITIATOR = 0x08
FLAG_VERSION = 0x10
FLAG_RESPONSE = 0x20

# RFC 7296 section 3.2.
PAYLOAD_HEADER_SIZE = 4
FLAG_CRITICAL = 0x80

# Own limits. Section 2 asks for messages of at least 1280 octets; a UDP datagram ends here.
MAX_MESSAGE_SIZE = 65535
MAX_PAYLOADS = 48
MOST_OF: Mapping[PayloadType, int] = {
    PayloadType.NOTIFY: 32,
    PayloadType.VENDOR: 32,
    PayloadType.CERT: 16,
    PayloadType.CERTREQ: 16,
    PayloadType.DELETE: 4,
}
"""Payloads of a type in one message; of any other that is known there is one (section 3)."""

_HEADER = struct.Struct("!8s8sBBBBII")
_PAYLOAD_HEADER = struct.Struct("!BBH")

_SEALED = (PayloadType.SK, PayloadType.SKF)
_BODY_NAMES = {kind: f"{kind.name} payload" for kind in PayloadType}

_P = TypeVar("_P", bound=Payload)


@dataclass(frozen=True, slots=True)
class IkeHeader:
    """The header of an IKE message; `version`: the sender could speak a higher major version."""

    spi_i: bytes
    spi_r: bytes
    first: PayloadType
    major: int
    minor: int
    exchange: ExchangeType
    initiator: bool
    response: bool
    message_id: int
    length: int
    version: bool = False

    def encode(self) -> bytes:
        """The header's 28 octets."""
        flags = (
            FLAG_INITIATOR * self.initiator
            | FLAG_VERSION * self.version
            | FLAG_RESPONSE * self.response
        )
        if not len(self.spi_i) == len(self.spi_r) == IKE_SPI_SIZE:
            raise WireError(f"IKE SPIs {len(self.spi_i)} and {len(self.spi_r)} octets, must be 8")
        return (
            self.spi_i
            + self.spi_r
            + bytes([self.first, self.major << 4 | self.minor, self.exchange, flags])
            + self.message_id.to_bytes(4, "big")
            + self.length.to_bytes(4, "big")
        )


@dataclass(frozen=True, slots=True)
class Message:
    """An IKE message: who, which exchange, which way, and its payloads in order."""

    spi_i: bytes
    spi_r: bytes
    exchange: ExchangeType
    initiator: bool
    response: bool
    message_id: int
    payloads: tuple[Payload, ...] = ()
    major: int = MAJOR_VERSION
    minor: int = MINOR_VERSION

    def encode(self) -> bytes:
        """The message's octets. Raises WireError when they would not fit a datagram."""
        first, chain = encode_payloads(self.payloads)
        length = HEADER_SIZE + len(chain)
        if length > MAX_MESSAGE_SIZE:
            raise WireError(f"message of {length} octets, at most {MAX_MESSAGE_SIZE}")
        header = IkeHeader(
            self.spi_i,
            self.spi_r,
            first,
            self.major,
            self.minor,
            self.exchange,
            self.initiator,
            self.response,
            self.message_id,
            length,
        )
        return header.encode() + chain

    def find(self, cls: type[_P]) -> _P | None:
        """The first payload of that class, None when there is none."""
        for payload in self.payloads:
            if isinstance(payload, cls):
                return payload
        return None

    def all(self, cls: type[_P]) -> tuple[_P, ...]:
        """Every payload of that class, in order."""
        return tuple([payload for payload in self.payloads if isinstance(payload, cls)])

    def notify(self, kind: NotifyType) -> NotifyPayload | None:
        """The first Notify payload of that type, None when there is none."""
        for payload in self.payloads:
            if isinstance(payload, NotifyPayload) and payload.notify_type == kind:
                return payload
        return None


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                       IKE SA Initiator's SPI                  |
# |                                                               |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                       IKE SA Responder's SPI                  |
# |                                                               |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                          Message ID                           |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# |                            Length                             |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
#                  Flags: |X|X|R|V|I|X|X|X|
def decode_header(octets: bytes) -> IkeHeader:
    """The header alone, of any version; its length is checked by `decode_message`."""
    if len(octets) < HEADER_SIZE:
        raise WireError(f"message {len(octets)} octets, header needs {HEADER_SIZE}")
    spi_i, spi_r, first, version, exchange, flags, message_id, length = _HEADER.unpack_from(octets)
    return IkeHeader(
        spi_i,
        spi_r,
        PayloadType(first),
        version >> 4,
        version & 0x0F,
        ExchangeType(exchange),
        bool(flags & FLAG_INITIATOR),
        bool(flags & FLAG_RESPONSE),
        message_id,
        length,
        bool(flags & FLAG_VERSION),
    )


def decode_message(octets: bytes, header: IkeHeader | None = None) -> Message:
    """A whole message, of any minor version (RFC 7296 section 2.5); `header` is what stands at its
    beginning, where that is known already. Raises WireError."""
    if header is None:
        header = decode_header(octets)
    if header.length != len(octets):
        raise WireError(f"message length {header.length}, datagram holds {len(octets)}")
    if header.length > MAX_MESSAGE_SIZE:
        raise WireError(f"message of {header.length} octets, at most {MAX_MESSAGE_SIZE}")
    return Message(
        header.spi_i,
        header.spi_r,
        header.exchange,
        header.initiator,
        header.response,
        header.message_id,
        decode_payloads(header.first, octets[HEADER_SIZE:]),
        header.major,
        header.minor,
    )


#                      1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
# | Next Payload  |C|  RESERVED   |         Payload Length        |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def decode_payloads(
    first: PayloadType, octets: bytes, wanted: Container[PayloadType] | None = None
) -> tuple[Payload, ...]:
    """The chain of payloads that begins with type `first` and fills `octets`; with `wanted` those
    of any other type stay unread and count as not critical. Raises WireError."""
    chain = Reader(octets, "payload chain")
    payloads: list[Payload] = []
    met: dict[PayloadType, int] = {}
    kind = first
    while kind != PayloadType.NONE:
        if len(payloads) == MAX_PAYLOADS:
            raise WireError(f"more than {MAX_PAYLOADS} payloads")
        next_payload, flags, length = chain.unpack(_PAYLOAD_HEADER)
        if length < PAYLOAD_HEADER_SIZE:
            raise WireError(f"{kind.name} payload length {length}, at least {PAYLOAD_HEADER_SIZE}")
        body = chain.sub(length - PAYLOAD_HEADER_SIZE, _BODY_NAMES.get(kind, "payload"))
        met[kind] = met.get(kind, 0) + 1
        if met[kind] > MOST_OF.get(kind, 1) and kind in PAYLOADS:
            raise WireError(f"{met[kind]} {kind.name} payloads, at most {MOST_OF.get(kind, 1)}")
        following, critical = PayloadType(next_payload), flags >= FLAG_CRITICAL
        if wanted is not None and kind in PAYLOADS and kind not in wanted:
            payloads.append(UnknownPayload(kind, body.rest()))
        else:
            payloads.append(_decode_payload(kind, following, body, critical=critical))
        if kind in _SEALED:
            break
        kind = following
    chain.finish()
    return tuple(payloads)


def encode_payloads(payloads: Sequence[Payload]) -> tuple[PayloadType, bytes]:
    """The type of the first payload, and the chain's octets."""
    octets = bytearray()
    for payload, later in zip_longest(payloads, payloads[1:]):
        following = _next_payload(payload, later)
        body = payload.encode()
        length = PAYLOAD_HEADER_SIZE + len(body)
        if length > 0xFFFF:
            raise WireError(
                f"{payload.payload_type.name} payload of {length} octets, at most 65535"
            )
        octets += _PAYLOAD_HEADER.pack(following, FLAG_CRITICAL * payload.critical, length)
        octets += body
    return payloads[0].payload_type if payloads else PayloadType.NONE, bytes(octets)


def _decode_payload(
    kind: PayloadType, following: PayloadType, body: Reader, *, critical: bool
) -> Payload:
    if kind == PayloadType.SK:
        return SkPayload.decode(body, following, critical=critical)
    if kind == PayloadType.SKF:
        return SkfPayload.decode(body, following, critical=critical)
    known = PAYLOADS.get(kind)
    if known is None:
        return UnknownPayload(kind, body.rest(), critical)
    return known.decode(body, critical=critical)


def _next_payload(payload: Payload, later: Payload | None) -> PayloadType:
    """The Next Payload field of `payload`, which `later` follows, if anything does."""
    if isinstance(payload, SkPayload | SkfPayload):
        if later is not None:
            raise WireError(f"{payload.payload_type.name} payload is not the last")
        return payload.first
    return later.payload_type if later is not None else PayloadType.NONE
