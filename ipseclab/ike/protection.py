"""The Encrypted payload: messages sealed and opened under an IKE_SA's keys.

RFC 7296 section 3.14; RFC 5282 for AEAD ciphers. The associated data of an AEAD, and what a
separate ICV covers in front of the IV, is the same: the IKE header up to and including the
payload's own generic header. A message that is too long for the path leaves as several, each with a
fragment of it in a payload of its own (RFC 7383 section 2.5), which `fragments.py` puts together.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Container
from dataclasses import dataclass

from ipseclab.crypto.protection import Suite
from ipseclab.errors import (
    IntegrityFailure,
    InvalidSyntax,
    UnsupportedCriticalPayload,
    WireError,
)
from ipseclab.ike.keys import IkeKeys
from ipseclab.registry import ExchangeType, PayloadType
from ipseclab.wire.buffer import Reader
from ipseclab.wire.message import (
    PAYLOAD_HEADER_SIZE,
    IkeHeader,
    Message,
    decode_message,
    decode_payloads,
    encode_payloads,
)
from ipseclab.wire.payloads import Payload, SkfPayload, SkPayload, UnknownPayload

IKE_VERSION = 0x20
FLAG_INITIATOR = 0x08
FLAG_RESPONSE = 0x20

_HEADER = struct.Struct("!8s8sBBBBII")
_GENERIC = struct.Struct("!BBH")
_FRAGMENT = struct.Struct("!HH")
_NEXT_PAYLOAD_AT = 16
_LENGTH_SIZE, _MESSAGE_LENGTH_SIZE = 2, 4
_MAX_SK_BODY = 0xFFFF - _GENERIC.size

MAX_FRAGMENTS = 256
"""Of one message, sent or received: enough for 65,535 octets in datagrams of 576 octets."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The header fields of a message that is to be sealed."""

    spi_i: bytes
    spi_r: bytes
    exchange: ExchangeType
    initiator: bool
    response: bool
    message_id: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A message whose ICV is right: its header, and what was inside, not looked at yet."""

    message: Message
    first: PayloadType
    octets: bytes
    head: bytes = b""
    """The message's octets up to and including the Encrypted payload's generic header."""

    def opened(self, wanted: Container[PayloadType] | None = None) -> OpenedMessage:
        """With the inner payloads decoded, those of the `wanted` types if that is given. Raises
        InvalidSyntax, and UnsupportedCriticalPayload (section 2.5)."""
        try:
            payloads = decode_payloads(self.first, self.octets, wanted)
        except WireError as error:
            raise InvalidSyntax(str(error)) from error
        for payload in payloads:
            if isinstance(payload, SkPayload | SkfPayload):
                raise InvalidSyntax("an Encrypted payload inside an Encrypted payload")
            if isinstance(payload, UnknownPayload) and payload.critical:
                raise UnsupportedCriticalPayload(payload.payload_type)
        m = self.message
        return OpenedMessage(
            m.spi_i,
            m.spi_r,
            m.exchange,
            m.initiator,
            m.response,
            m.message_id,
            payloads,
            m.major,
            m.minor,
            self.first,
            self.octets,
            self.head,
        )


@dataclass(frozen=True, slots=True)
class Fragment:
    """A fragment whose ICV is right; `first` of fragment 1 is that of the whole message."""

    message: Message
    number: int
    total: int
    first: PayloadType
    octets: bytes
    head: bytes = b""
    """What stands before the IV."""

    @property
    def whole_head(self) -> bytes:
        """Of fragment 1: the head of the whole message, had it been sent in one piece; its lengths
        are still the fragment's."""
        kind = bytes([PayloadType.SK])
        end = len(self.head) - _FRAGMENT.size
        return self.head[:_NEXT_PAYLOAD_AT] + kind + self.head[_NEXT_PAYLOAD_AT + 1 : end]


@dataclass(frozen=True, slots=True)
class OpenedMessage(Message):
    """A message whose `payloads` are those that were inside its Encrypted payload, with the octets
    that they were read from: AUTH covers octets as received (section 2.15)."""

    first: PayloadType = PayloadType.NONE
    octets: bytes = b""
    head: bytes = b""
    """What stands before the Encrypted payload's IV, as received."""

    def body(self, kind: PayloadType) -> bytes:
        """The octets behind the generic header of the first payload of that type."""
        chain, here = Reader(self.octets), self.first
        while here != PayloadType.NONE:
            following = PayloadType(chain.uint(1))
            chain.skip(1)
            body = chain.octets(chain.uint(2) - PAYLOAD_HEADER_SIZE)
            if here == kind:
                return body
            here = following
        raise InvalidSyntax(f"no {kind.name} payload")


def head_of(
    envelope: Envelope, first: PayloadType, body_size: int, kind: PayloadType = PayloadType.SK
) -> bytes:
    """IKE header, and generic header of the one Encrypted payload of that body."""
    return _HEADER.pack(
        envelope.spi_i,
        envelope.spi_r,
        kind,
        IKE_VERSION,
        envelope.exchange,
        envelope.initiator * FLAG_INITIATOR | envelope.response * FLAG_RESPONSE,
        envelope.message_id,
        _HEADER.size + _GENERIC.size + body_size,
    ) + _GENERIC.pack(first, 0, _GENERIC.size + body_size)


def adjusted(head: bytes, body_size: int) -> bytes:
    """A received `head` with the lengths of a body of that size (RFC 9242 section 3.3.2)."""
    generic = (_GENERIC.size + body_size).to_bytes(_LENGTH_SIZE, "big")
    total = (len(head) + body_size).to_bytes(_MESSAGE_LENGTH_SIZE, "big")
    begin = _HEADER.size - _MESSAGE_LENGTH_SIZE
    return head[:begin] + total + head[_HEADER.size : -_LENGTH_SIZE] + generic


class MessageProtection:
    """Both directions of one IKE_SA. IVs count up for AEAD and CTR (never repeated under one key)
    and are drawn from `rng` for CBC, where they must not be predictable (RFC 7296 section 3.14).

    What stays between messages is the keys alone: a library's cipher context takes kilobytes, and
    an IKE_SA has a message in an hour, for which one is made in a microsecond.
    """

    __slots__ = ("_own_keys", "_peer_keys", "_rng", "_sealed", "_suite")

    def __init__(self, suite: Suite, keys: IkeKeys, *, initiator: bool, rng: random.Random) -> None:
        of_initiator, of_responder = (keys.sk_ei, keys.sk_ai), (keys.sk_er, keys.sk_ar)
        self._own_keys = of_initiator if initiator else of_responder
        self._peer_keys = of_responder if initiator else of_initiator
        self._suite = suite
        self._rng = rng
        self._sealed = 0

    def seal(self, envelope: Envelope, payloads: tuple[Payload, ...]) -> bytes:
        """The whole message with `payloads` inside an Encrypted payload."""
        first, inner = encode_payloads(payloads)
        return self._seal(envelope, PayloadType.SK, first, inner)

    def seal_to_fit(
        self, envelope: Envelope, payloads: tuple[Payload, ...], largest: int
    ) -> tuple[bytes, ...]:
        """The message, or where it had more than `largest` octets its fragments, as full as they
        can be. Raises WireError for one that takes more than `MAX_FRAGMENTS`."""
        first, inner = encode_payloads(payloads)
        if self._size(PayloadType.SK, len(inner)) <= largest:
            return (self._seal(envelope, PayloadType.SK, first, inner),)
        suite = self._suite
        room = largest - self._size(PayloadType.SKF, 0) + suite.block_size
        share = room // suite.block_size * suite.block_size - 1
        if share < 1:
            raise WireError(f"no fragment fits {largest} octets")
        parts = [inner[start : start + share] for start in range(0, len(inner), share)]
        if len(parts) > MAX_FRAGMENTS:
            raise WireError(f"message of {len(parts)} fragments, at most {MAX_FRAGMENTS}")
        return tuple(
            self._seal(
                envelope,
                PayloadType.SKF,
                first if number == 1 else PayloadType.NONE,
                part,
                _FRAGMENT.pack(number, len(parts)),
            )
            for number, part in enumerate(parts, 1)
        )

    def _size(self, kind: PayloadType, inner: int) -> int:
        """Octets of a message that holds `inner` octets in one such payload."""
        suite = self._suite
        padded = inner + 1 + -(inner + 1) % suite.block_size
        head = _HEADER.size + _GENERIC.size + _FRAGMENT.size * (kind == PayloadType.SKF)
        return head + suite.iv_size + padded + suite.icv_size

    def _seal(
        self,
        envelope: Envelope,
        kind: PayloadType,
        first: PayloadType,
        inner: bytes,
        head: bytes = b"",
    ) -> bytes:
        """A message of one payload, SK or SKF, whose body begins with `head` in the clear."""
        suite = self._suite
        padding = -(len(inner) + 1) % suite.block_size
        plaintext = inner + bytes(padding) + bytes([padding])
        body_size = len(head) + suite.iv_size + len(plaintext) + suite.icv_size
        if body_size > _MAX_SK_BODY:
            raise WireError(f"Encrypted payload of {body_size} octets, at most {_MAX_SK_BODY}")
        associated = head_of(envelope, first, body_size, kind) + head
        own = suite.keyed(*self._own_keys)
        return associated + own.seal(associated, self._next_iv(), plaintext)

    def open(self, octets: bytes, header: IkeHeader | None = None) -> Verified | Fragment:
        """A received message or fragment, its ICV verified; `header` as in `decode_message`. Raises
        WireError, IntegrityFailure."""
        message = decode_message(octets, header)
        sealed = message.payloads[-1] if message.payloads else None
        if not isinstance(sealed, SkPayload | SkfPayload):
            raise WireError(f"{message.exchange.name} without an Encrypted payload")
        if isinstance(sealed, SkfPayload) and sealed.total > MAX_FRAGMENTS:
            raise WireError(f"message of {sealed.total} fragments, at most {MAX_FRAGMENTS}")
        head = octets[: len(octets) - len(sealed.body)]
        plaintext = self._suite.keyed(*self._peer_keys).open(head, sealed.body)
        if not plaintext or plaintext[-1] >= len(plaintext):
            raise IntegrityFailure("Encrypted payload: pad length beyond the plaintext")
        inner = plaintext[: len(plaintext) - 1 - plaintext[-1]]
        if isinstance(sealed, SkfPayload):
            return Fragment(message, sealed.number, sealed.total, sealed.first, inner, head)
        return Verified(message, sealed.first, inner, head)

    def _next_iv(self) -> bytes:
        size = self._suite.iv_size
        if not self._suite.cipher.counter_iv:
            return self._rng.randbytes(size)
        self._sealed += 1
        return self._sealed.to_bytes(size, "big")
