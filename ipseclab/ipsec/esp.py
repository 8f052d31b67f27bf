"""ESP packets: sealed and opened, without the IP or UDP header around them.

RFC 4303, with 32-bit and extended sequence numbers. Whatever is wrong with a packet ends in
`Dropped` with its reason.
"""

from __future__ import annotations

import random
from functools import cache

from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import IntegrityFailure
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.sad import SEQUENCE_LAST_EXTENDED, InboundHalf, OutboundHalf

HEADER_SIZE = 8
TRAILER_SIZE = 2
"""Pad length and next header, after the padding."""

PADDING = bytes(range(1, 256))
"""RFC 4303 section 2.4: 1, 2, 3, ..."""

RESYNC_FAILURES = 256
"""Bad ICVs in a row after which higher halves of the sequence number further on are tried."""

RESYNC_TRIES = 4
"""How many of them; more would be a gift to whoever sends forgeries."""

_LOW = 0xFFFF_FFFF


@cache
def trailers(alignment: int, next_header: int) -> tuple[bytes, ...]:
    """Padding, pad length and next header, for a payload of each length modulo `alignment`."""
    sizes = [-(length + TRAILER_SIZE) % alignment for length in range(alignment)]
    return tuple(PADDING[:size] + bytes([size, next_header]) for size in sizes)


#  0                   1                   2                   3
#  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ ----
# |               Security Parameters Index (SPI)                 | ^ICV
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |covers
# |                      Sequence Number                          | |
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ | ----
# |                    IV, then Payload Data                      | |   ^
# ~                                                               ~ |   |cipher
# +               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |   |covers
# |               |     Padding (0-255 bytes)                     | |   |(not IV)
# +-+-+-+-+-+-+-+-+               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ |   |
# |                               |  Pad Length   | Next Header   | v   v
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+ --------
# ~                 Integrity Check Value (ICV)                   ~
# +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
def seal_esp(half: OutboundHalf, next_header: int, payload: bytes, rng: random.Random) -> bytes:
    """The ESP packet around `payload`, under the next sequence number. Raises Dropped."""
    sequence = half.sequence + 1
    if sequence > half.last:
        raise Dropped(DropReason.SEQUENCE_EXHAUSTED)
    half.sequence = sequence
    alignment = half.alignment
    plaintext = payload + trailers(alignment, next_header)[len(payload) % alignment]
    half.packets += 1
    half.octets += len(plaintext)
    header = half.spi + (sequence & _LOW).to_bytes(4, "big")
    iv = sequence.to_bytes(8, "big") if half.counter_iv else rng.randbytes(half.iv_size)
    if not half.esn:
        return header + half.protection.seal(header, iv, plaintext)
    high = (sequence >> 32).to_bytes(4, "big")
    if half.aead:
        return header + half.protection.seal(_extended(header, high), iv, plaintext)
    return header + half.protection.seal(header, iv, plaintext, high)


def open_esp(half: InboundHalf, esp: bytes) -> tuple[int, bytes, bool]:
    """Next header, payload, and whether the packet is the newest so far. Raises Dropped.

    In the order of RFC 4303 section 3.4: replay check, ICV, replay mark, padding.
    """
    ciphered = len(esp) - half.overhead
    if ciphered < TRAILER_SIZE or ciphered % half.alignment:
        raise Dropped(DropReason.MALFORMED)
    header = esp[:HEADER_SIZE]
    sequence = int.from_bytes(header[4:], "big")
    if half.esn:
        sequence = half.replay.extended(sequence)
    if not half.replay.check(sequence):
        raise Dropped(DropReason.REPLAYED)
    try:
        if half.esn:
            sequence, plaintext = _open_extended(half, sequence, esp)
        else:
            plaintext = half.protection.open(header, esp[HEADER_SIZE:])
    except IntegrityFailure:
        raise Dropped(DropReason.BAD_ICV) from None
    newest = half.replay.mark(sequence)
    half.packets += 1
    half.octets += ciphered
    next_header, payload = without_trailer(plaintext)
    return next_header, payload, newest


def without_trailer(plaintext: bytes) -> tuple[int, bytes]:
    """Next header and payload of what came out of an ESP packet. Raises Dropped."""
    pad, next_header = plaintext[-2:]
    end = len(plaintext) - TRAILER_SIZE - pad
    # RFC 4303 section 2.4: the receiver should look at the padding's octets.
    if end < 0 or plaintext[end:-2] != PADDING[:pad]:
        raise Dropped(DropReason.MALFORMED)
    return next_header, plaintext[:end]


def open_captured(suite: Suite, protection: Protection, esp: bytes) -> bytes:
    """Plaintext and trailer of an ESP packet, for who reads a capture and has a key but no SA.

    Whether sequence numbers are extended is not in the packet: a higher half of 0 is tried as well.
    Raises IntegrityFailure.
    """
    header, sealed, high = esp[:HEADER_SIZE], esp[HEADER_SIZE:], bytes(4)
    try:
        return protection.open(header, sealed)
    except IntegrityFailure:
        if suite.cipher.aead:
            return protection.open(_extended(header, high), sealed)
        return protection.open(header, sealed, high)


def _extended(header: bytes, high: bytes) -> bytes:
    """What an AEAD authenticates: SPI and the whole sequence number (RFC 4106 section 5)."""
    return header[:4] + high + header[4:]


def _open_extended(half: InboundHalf, sequence: int, esp: bytes) -> tuple[int, bytes]:
    """Sequence number and plaintext. Raises IntegrityFailure.

    RFC 4303 appendix A3: when nothing verifies any more, 2^32 packets or more may have been lost;
    then the higher halves that follow are tried too.
    """
    try:
        plaintext = _open_at(half, sequence >> 32, esp)
    except IntegrityFailure:
        half.failures += 1
        if half.failures < RESYNC_FAILURES:
            raise
        return _resynchronized(half, sequence, esp)
    half.failures = 0
    return sequence, plaintext


def _resynchronized(half: InboundHalf, sequence: int, esp: bytes) -> tuple[int, bytes]:
    for further in range(1, RESYNC_TRIES + 1):
        candidate = sequence + (further << 32)
        if candidate > SEQUENCE_LAST_EXTENDED:
            break
        try:
            plaintext = _open_at(half, candidate >> 32, esp)
        except IntegrityFailure:
            continue
        half.failures = 0
        return candidate, plaintext
    raise IntegrityFailure("no higher half of the sequence number verifies")


def _open_at(half: InboundHalf, high_half: int, esp: bytes) -> bytes:
    header, sealed, high = esp[:HEADER_SIZE], esp[HEADER_SIZE:], high_half.to_bytes(4, "big")
    if half.aead:
        return half.protection.open(_extended(header, high), sealed)
    return half.protection.open(header, sealed, high)
