"""Nonces and associated data of whole trains of packets, made once for each half of an SA.

RFC 4106 sections 3.1, 4 and 5: the IV counts with the sequence number, so that a train differs from
the last one in these columns alone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ipseclab.crypto.protection import AeadProtection
from ipseclab.ipsec.esp import HEADER_SIZE
from ipseclab.ipsec.sad import SPI_SIZE, InboundHalf, OutboundHalf
from ipseclab.ipsec.segmentation import LARGEST_CUT, NUMBERS, column

HALVES = 16
"""Halves of SAs whose nonces are kept, 25 KiB each; the oldest gives way, which was rekeyed
mostly."""

IV_SIZE = 8


class Nonces:
    """Nonces (salt | IV) of a train (RFC 4106 section 4), ready to be filled in; under extended
    sequence numbers AADs, too (section 5), which are no part of the packet then."""

    def __init__(self, salt: bytes, spi: bytes, *, extended: bool) -> None:
        nonces = np.zeros((LARGEST_CUT, len(salt) + IV_SIZE), np.uint8)
        nonces[:, : len(salt)] = np.frombuffer(salt, np.uint8)
        self.ivs = nonces[:, len(salt) :]
        self.nonces = [row.data for row in nonces]
        self._associated: list[memoryview] = []
        if extended:
            associated = np.zeros((LARGEST_CUT, HEADER_SIZE + 4), np.uint8)
            associated[:, :SPI_SIZE] = np.frombuffer(spi, np.uint8)
            self._sequence = column(associated, SPI_SIZE, ">u8")
            self._associated = [row.data for row in associated]

    def associated(self, first: int, count: int, headers: list[memoryview]) -> list[memoryview]:
        """The AAD of each packet; `headers` are the packets' own."""
        if not self._associated:
            return headers
        self._sequence[:count] = sequences(first, count)
        return self._associated


def sequences(first: int, count: int) -> NDArray[np.uint64]:
    """So many numbers from `first` on."""
    return NUMBERS[:count].view(np.uint64) + np.uint64(first)


class Keyed:
    """The `Nonces` of each half that trains went through lately."""

    def __init__(self) -> None:
        self._by_half: dict[int, tuple[OutboundHalf | InboundHalf, Nonces]] = {}

    def of(self, half: OutboundHalf | InboundHalf, protection: AeadProtection) -> Nonces:
        """Those of `half`; it is kept as well, so that no other object gets its identity."""
        found = self._by_half.get(id(half))
        if found is None:
            if len(self._by_half) >= HALVES:
                self._by_half.pop(next(iter(self._by_half)))
            found = half, Nonces(protection.salt, half.spi, extended=half.esn)
            self._by_half[id(half)] = found
        return found[1]
