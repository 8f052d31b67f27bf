"""MD4 (RFC 1320), which MS-CHAPv2 hashes passwords with and no library has any longer.

It is broken, and nothing else may use it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

DIGEST_SIZE = 16
_BLOCK_SIZE = 64
_MASK = 0xFFFFFFFF
_START = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)

_Mix = Callable[[int, int, int], int]
_ROUNDS: tuple[tuple[_Mix, int, tuple[int, ...], tuple[int, ...]], ...] = (
    (
        lambda x, y, z: (x & y) | (~x & z),
        0,
        tuple(range(16)),
        (3, 7, 11, 19),
    ),
    (
        lambda x, y, z: (x & y) | (x & z) | (y & z),
        0x5A827999,
        (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        (3, 5, 9, 13),
    ),
    (
        lambda x, y, z: x ^ y ^ z,
        0x6ED9EBA1,
        (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
        (3, 9, 11, 15),
    ),
)
"""Function, constant, order of the words and rotations of each round (RFC 1320 section 3.4)."""


def md4(data: bytes) -> bytes:
    """The digest, 16 octets."""
    padding = b"\x80" + bytes(-(len(data) + 9) % _BLOCK_SIZE)
    padded = data + padding + struct.pack("<Q", 8 * len(data))
    state = _START
    for at in range(0, len(padded), _BLOCK_SIZE):
        state = _compress(state, struct.unpack_from("<16I", padded, at))
    return struct.pack("<4I", *state)


def _compress(
    state: tuple[int, int, int, int], words: tuple[int, ...]
) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for mix, constant, order, rotations in _ROUNDS:
        for step, index in enumerate(order):
            total = (a + mix(b, c, d) + words[index] + constant) & _MASK
            turn = rotations[step % 4]
            a, b, c, d = d, (total << turn | total >> (32 - turn)) & _MASK, b, c
    old_a, old_b, old_c, old_d = state
    return (
        (a + old_a) & _MASK,
        (b + old_b) & _MASK,
        (c + old_c) & _MASK,
        (d + old_d) & _MASK,
    )
