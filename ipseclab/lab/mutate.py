"""IKE messages made wrong on purpose: the hostile peer of the tests, pure and seeded.

A message is taken apart along its payloads (RFC 7296 section 3), so that a mutation lands where a
decoder decides something: lengths, counts, types, order. `cuts` and `wrong_lengths` are exhaustive,
`mutate` draws. What is inside an SK payload is mutated by `mutate_chain`, and sealed again by a
caller who has the keys. Nothing here judges a message: any octets are taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from ipseclab.registry import PayloadType
from ipseclab.wire.message import HEADER_SIZE, PAYLOAD_HEADER_SIZE

NEXT_PAYLOAD_AT = 16
LENGTH_AT = 24
LENGTH_SIZE = 4

MAX_EDITS = 3
"""Octet edits of one mutation; more hide each other."""
MAX_INSERTED = 64
MOST_COPIES = 80
"""Above the decoder's own limit on payloads a message."""


class Span(NamedTuple):
    """A payload in a chain: its type, and where it starts and ends."""

    kind: int
    start: int
    end: int


class LengthField(NamedTuple):
    """A field that says how long or how many: its offset, its octets, its name."""

    at: int
    size: int
    what: str


def spans(first: int, chain: bytes) -> tuple[Span, ...]:
    """The payloads of a chain as far as it makes sense; `first` is the first one's type."""
    found: list[Span] = []
    kind, at = first, 0
    while kind and at + PAYLOAD_HEADER_SIZE <= len(chain):
        length = _uint(chain, at + 2, 2)
        if length < PAYLOAD_HEADER_SIZE or at + length > len(chain):
            break
        found.append(Span(kind, at, at + length))
        if kind in (PayloadType.SK, PayloadType.SKF):
            break
        kind, at = chain[at], at + length
    return tuple(found)


def length_fields(message: bytes) -> tuple[LengthField, ...]:
    """Every length and count in a message, outermost first; an SK payload stays closed."""
    header = LengthField(LENGTH_AT, LENGTH_SIZE, "message length")
    chain = chain_length_fields(message[NEXT_PAYLOAD_AT], message[HEADER_SIZE:])
    return (header, *(field._replace(at=field.at + HEADER_SIZE) for field in chain))


def chain_length_fields(first: int, chain: bytes) -> tuple[LengthField, ...]:
    """Every length and count in a chain of payloads."""
    found: list[LengthField] = []
    for kind, start, end in spans(first, chain):
        found.append(LengthField(start + 2, 2, "payload length"))
        inside = _INSIDE.get(kind)
        if inside is not None:
            found += inside(chain, start + PAYLOAD_HEADER_SIZE, end)
    return tuple(field for field in found if field.at + field.size <= len(chain))


def cuts(message: bytes) -> Iterator[bytes]:
    """The message cut behind every octet, as it is and with its length field made to fit."""
    for size in range(len(message)):
        yield message[:size]
        if size >= HEADER_SIZE:
            yield with_length(message[:size])


def wrong_lengths(message: bytes) -> Iterator[bytes]:
    """The message with each length and count 0, one less, one more and at its maximum."""
    for field in length_fields(message):
        yield from _wrong_values(message, field)


def chain_wrong_lengths(first: int, chain: bytes) -> Iterator[bytes]:
    """The same for a chain of payloads."""
    for field in chain_length_fields(first, chain):
        yield from _wrong_values(chain, field)


def mutate(message: bytes, rng: random.Random) -> bytes:
    """One mutation of a message: of its payloads, its header or plain octets. Mostly the header's
    length is right again in the end, so that the message is looked into."""
    header, chain = bytearray(message[:HEADER_SIZE]), message[HEADER_SIZE:]
    if len(header) < HEADER_SIZE:
        return _edit(message, 0, rng)
    first, chain = mutate_chain(header[NEXT_PAYLOAD_AT], chain, rng)
    header[NEXT_PAYLOAD_AT] = first
    mutated = bytes(header) + chain
    if rng.random() < 0.2:
        mutated = _flip_bits(mutated, rng.randrange(HEADER_SIZE), rng)
    return with_length(mutated) if rng.random() < 0.9 else mutated


def mutations(message: bytes, rng: random.Random, count: int) -> Iterator[bytes]:
    """`count` mutations of a message, each drawn anew."""
    for _ in range(count):
        yield mutate(message, rng)


def mutate_chain(first: int, chain: bytes, rng: random.Random) -> tuple[int, bytes]:
    """One mutation of a chain of payloads: the new first type and octets."""
    payloads = [(span.kind, chain[span.start : span.end]) for span in spans(first, chain)]
    if payloads and rng.random() < 0.5:
        change = rng.choice(_REARRANGEMENTS)
        first, chain = _join(change(payloads, rng))
    for _ in range(rng.randrange(MAX_EDITS + 1)):
        chain = _edit(chain, first, rng)
    return first, chain


def with_length(message: bytes) -> bytes:
    """The message with its header's length field telling the truth."""
    length = len(message).to_bytes(LENGTH_SIZE, "big")
    return message[:LENGTH_AT] + length + message[LENGTH_AT + LENGTH_SIZE :]


# What a payload's body holds of lengths: (octets, start of the body, end) -> fields.


def _sa_fields(octets: bytes, start: int, end: int) -> Iterator[LengthField]:
    while start + 8 <= end:
        length = _uint(octets, start + 2, 2)
        yield LengthField(start + 2, 2, "proposal length")
        yield LengthField(start + 6, 1, "proposal SPI size")
        yield LengthField(start + 7, 1, "number of transforms")
        yield from _transform_fields(
            octets, start + 8 + octets[start + 6], min(start + length, end)
        )
        start += max(length, 8)


def _transform_fields(octets: bytes, start: int, end: int) -> Iterator[LengthField]:
    while start + 8 <= end:
        length = _uint(octets, start + 2, 2)
        yield LengthField(start + 2, 2, "transform length")
        if length > 8:
            yield LengthField(start + 10, 2, "attribute length or value")
        start += max(length, 8)


def _notify_fields(_octets: bytes, start: int, _end: int) -> Iterator[LengthField]:
    yield LengthField(start + 1, 1, "notify SPI size")


def _delete_fields(_octets: bytes, start: int, _end: int) -> Iterator[LengthField]:
    yield LengthField(start + 1, 1, "delete SPI size")
    yield LengthField(start + 2, 2, "number of SPIs")


def _selector_fields(octets: bytes, start: int, end: int) -> Iterator[LengthField]:
    yield LengthField(start, 1, "number of selectors")
    start += 4
    while start + 4 <= end:
        yield LengthField(start + 2, 2, "selector length")
        start += max(_uint(octets, start + 2, 2), 4)


def _eap_fields(_octets: bytes, start: int, _end: int) -> Iterator[LengthField]:
    yield LengthField(start + 2, 2, "EAP length")


def _cp_fields(octets: bytes, start: int, end: int) -> Iterator[LengthField]:
    start += 4
    while start + 4 <= end:
        yield LengthField(start + 2, 2, "attribute length")
        start += 4 + _uint(octets, start + 2, 2)


def _skf_fields(_octets: bytes, start: int, _end: int) -> Iterator[LengthField]:
    yield LengthField(start, 2, "fragment number")
    yield LengthField(start + 2, 2, "total fragments")


_INSIDE: Mapping[int, Callable[[bytes, int, int], Iterator[LengthField]]] = {
    PayloadType.SA: _sa_fields,
    PayloadType.NOTIFY: _notify_fields,
    PayloadType.DELETE: _delete_fields,
    PayloadType.TSI: _selector_fields,
    PayloadType.TSR: _selector_fields,
    PayloadType.EAP: _eap_fields,
    PayloadType.CP: _cp_fields,
    PayloadType.SKF: _skf_fields,
}


# Rearrangements: payloads in another order or number; the chain is linked again afterwards.

_Payloads = list[tuple[int, bytes]]


def _swap(payloads: _Payloads, rng: random.Random) -> _Payloads:
    one, two = rng.randrange(len(payloads)), rng.randrange(len(payloads))
    payloads[one], payloads[two] = payloads[two], payloads[one]
    return payloads


def _shuffle(payloads: _Payloads, rng: random.Random) -> _Payloads:
    rng.shuffle(payloads)
    return payloads


def _remove(payloads: _Payloads, rng: random.Random) -> _Payloads:
    del payloads[rng.randrange(len(payloads))]
    return payloads


def _duplicate(payloads: _Payloads, rng: random.Random) -> _Payloads:
    index = rng.randrange(len(payloads))
    copies = rng.choice((1, 1, 2, MOST_COPIES))
    return payloads[:index] + [payloads[index]] * copies + payloads[index:]


def _insert(payloads: _Payloads, rng: random.Random) -> _Payloads:
    kind = rng.choice((*PayloadType, rng.randrange(1, 256)))
    body = rng.randbytes(rng.randrange(MAX_INSERTED))
    flags = rng.choice((0, 0x80, 0x7F))
    payloads.insert(rng.randrange(len(payloads) + 1), (int(kind), bytes([0, flags, 0, 0]) + body))
    return payloads


def _retype(payloads: _Payloads, rng: random.Random) -> _Payloads:
    index = rng.randrange(len(payloads))
    payloads[index] = (rng.choice(tuple(PayloadType)), payloads[index][1])
    return payloads


def _resize(payloads: _Payloads, rng: random.Random) -> _Payloads:
    """A payload longer or shorter than its content, with a length that fits."""
    index = rng.randrange(len(payloads))
    kind, octets = payloads[index]
    if rng.random() < 0.5:
        octets += rng.randbytes(rng.randrange(1, MAX_INSERTED))
    else:
        octets = octets[: rng.randrange(PAYLOAD_HEADER_SIZE, len(octets) + 1)]
    payloads[index] = (kind, octets)
    return payloads


_REARRANGEMENTS: tuple[Callable[[_Payloads, random.Random], _Payloads], ...] = (
    _swap,
    _shuffle,
    _remove,
    _duplicate,
    _insert,
    _retype,
    _resize,
)


def _join(payloads: _Payloads) -> tuple[int, bytes]:
    """The payloads as a chain again. The last one keeps its Next Payload: in an SK payload it
    names what is inside."""
    chain = b""
    for index, (_kind, octets) in enumerate(payloads):
        following = payloads[index + 1][0] if index + 1 < len(payloads) else octets[0]
        length = min(len(octets), 0xFFFF).to_bytes(2, "big")
        chain += bytes([following, octets[1]]) + length + octets[4:]
    return (payloads[0][0] if payloads else PayloadType.NONE), chain


# Edits: octets changed where they stand.


def _edit(chain: bytes, first: int, rng: random.Random) -> bytes:
    """One edit anywhere in a chain that begins with type `first`."""
    fields = chain_length_fields(first, chain)
    if fields and rng.random() < 0.4:
        return rng.choice(tuple(_wrong_values(chain, rng.choice(fields))))
    if not chain:
        return rng.randbytes(rng.randrange(MAX_INSERTED))
    at = rng.randrange(len(chain))
    match rng.randrange(5):
        case 0:
            return chain[:at]
        case 1:
            return chain[:at] + rng.randbytes(rng.randrange(1, MAX_INSERTED)) + chain[at:]
        case 2:
            size = rng.randrange(1, MAX_INSERTED)
            return chain[:at] + rng.randbytes(min(size, len(chain) - at)) + chain[at + size :]
        case 3:
            return chain[:at] + bytes([rng.choice((0, 0xFF))]) + chain[at + 1 :]
        case _:
            return _flip_bits(chain, at, rng)


def _flip_bits(octets: bytes, at: int, rng: random.Random) -> bytes:
    return octets[:at] + bytes([octets[at] ^ rng.randrange(1, 256)]) + octets[at + 1 :]


def _wrong_values(octets: bytes, field: LengthField) -> Iterator[bytes]:
    at, size, _what = field
    true = _uint(octets, at, size)
    maximum = (1 << 8 * size) - 1
    for value in (0, (true - 1) & maximum, (true + 1) & maximum, maximum):
        if value != true:
            yield octets[:at] + value.to_bytes(size, "big") + octets[at + size :]


def _uint(octets: bytes, at: int, size: int) -> int:
    return int.from_bytes(octets[at : at + size], "big")
