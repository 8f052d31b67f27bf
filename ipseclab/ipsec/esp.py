"""ESP packets: sealed and opened, without the IP or UDP header around them.

RFC 4303. 32-bit sequence numbers; extended ones and AH are left to later modules. Whatever is wrong
with a packet ends in `Dropped` with its reason.
"""

from __future__ import annotations

import random
from functools import cache

from ipseclab.errors import IntegrityFailure
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.sad import SEQUENCE_LAST, InboundHalf, OutboundHalf

HEADER_SIZE = 8
TRAILER_SIZE = 2
"""Pad length and next header, after the padding."""

PADDING = bytes(range(1, 256))
"""RFC 4303 section 2.4: 1, 2, 3, ..."""


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
    if sequence > SEQUENCE_LAST:
        raise Dropped(DropReason.SEQUENCE_EXHAUSTED)
    half.sequence = sequence
    alignment = half.alignment
    plaintext = payload + trailers(alignment, next_header)[len(payload) % alignment]
    half.packets += 1
    half.octets += len(plaintext)
    header = half.spi + sequence.to_bytes(4, "big")
    iv = sequence.to_bytes(8, "big") if half.counter_iv else rng.randbytes(half.iv_size)
    return header + half.protection.seal(header, iv, plaintext)


def open_esp(half: InboundHalf, esp: bytes) -> tuple[int, bytes, bool]:
    """Next header, payload, and whether the packet is the newest so far. Raises Dropped.

    In the order of RFC 4303 section 3.4: replay check, ICV, replay mark, padding.
    """
    ciphered = len(esp) - half.overhead
    if ciphered < TRAILER_SIZE or ciphered % half.alignment:
        raise Dropped(DropReason.MALFORMED)
    header = esp[:HEADER_SIZE]
    sequence = int.from_bytes(header[4:], "big")
    if not half.replay.check(sequence):
        raise Dropped(DropReason.REPLAYED)
    try:
        plaintext = half.protection.open(header, esp[HEADER_SIZE:])
    except IntegrityFailure:
        raise Dropped(DropReason.BAD_ICV) from None
    newest = half.replay.mark(sequence)
    half.packets += 1
    half.octets += ciphered
    pad, next_header = plaintext[-2:]
    end = ciphered - TRAILER_SIZE - pad
    # RFC 4303 section 2.4: the receiver should look at the padding's octets.
    if end < 0 or plaintext[end:-2] != PADDING[:pad]:
        raise Dropped(DropReason.MALFORMED)
    return next_header, plaintext[:end], newest
