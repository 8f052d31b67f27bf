"""IPComp: what an SA carries, compressed before it is protected.

RFC 3173, RFC 2394 (DEFLATE as RFC 1951 has it, without zlib's header). A packet that would not
become shorter goes as it is (RFC 3173 section 2.2), and what is decompressed has a limit.
"""

from __future__ import annotations

import zlib

from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.registry import IpProtocol

HEADER_SIZE = 4
CPI_SIZE = 2

SMALLEST = 90
"""RFC 2394 section 3.2: below this many octets nothing is gained."""

LARGEST = 0xFFFF
"""Octets that may come of a packet: what IP can say. A packet of DEFLATE could hold a thousand
times as much as it is long."""

MISSES = 4
"""Packets in a row that did not become shorter, after which some are not tried (RFC 3173 section
2.2 leaves it to the sender how it adapts)."""
PASSED_OVER = 16
"""How many of them."""

_RAW = -15
_IPCOMP = int(IpProtocol.IPCOMP)


class Compressor:
    """Both directions of one SA pair. `cpi_in` is what the peer sends with, `cpi_out` this end."""

    __slots__ = ("_cpi_in", "_misses", "_skip", "_start", "packed", "unpacked")

    def __init__(self, cpi_in: bytes, cpi_out: bytes) -> None:
        self._cpi_in = cpi_in
        # RFC 3173 section 3.2: flags are zero.
        self._start = b"\0" + cpi_out
        self._misses = self._skip = 0
        self.packed = 0
        """Packets sent compressed; `unpacked`: received so."""
        self.unpacked = 0

    #  0                   1                   2                   3
    #  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    # +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    # |  Next Header  |     Flags     | Compression Parameter Index   |
    # +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    def pack(self, next_header: int, payload: bytes) -> tuple[int, bytes]:
        """Next header and payload, compressed where that makes them shorter."""
        if len(payload) < SMALLEST:
            return next_header, payload
        if self._skip:
            self._skip -= 1
            return next_header, payload
        deflate = zlib.compressobj(wbits=_RAW)
        packed = deflate.compress(payload) + deflate.flush()
        if len(packed) + HEADER_SIZE >= len(payload):
            self._misses += 1
            if self._misses >= MISSES:
                self._misses, self._skip = 0, PASSED_OVER
            return next_header, payload
        self._misses = 0
        self.packed += 1
        return _IPCOMP, bytes([next_header]) + self._start + packed

    def unpack(self, payload: bytes) -> tuple[int, bytes]:
        """Next header and payload of what came compressed. Raises Dropped."""
        if len(payload) <= HEADER_SIZE or payload[2:HEADER_SIZE] != self._cpi_in:
            raise Dropped(DropReason.BAD_COMPRESSION)
        # Compressed once, never twice (RFC 3173 section 2.1).
        if payload[0] == _IPCOMP:
            raise Dropped(DropReason.BAD_COMPRESSION)
        unpacked = inflated(payload)
        self.unpacked += 1
        return payload[0], unpacked


def inflated(payload: bytes) -> bytes:
    """What an IPComp header's packet holds. Raises Dropped."""
    inflate = zlib.decompressobj(_RAW)
    try:
        whole = inflate.decompress(payload[HEADER_SIZE:], LARGEST)
    except zlib.error:
        raise Dropped(DropReason.BAD_COMPRESSION) from None
    if not inflate.eof or inflate.unused_data:
        raise Dropped(DropReason.BAD_COMPRESSION)
    return whole
