"""A bounded reader over octets: every read is checked, no length points out of its container.

RFC 7296 section 3 nests substructures that each carry a length of their own (payload, proposal,
transform, attribute, selector). A decoder takes a `sub` reader of exactly that length, so that a
wrong length is found where it stands and can never lead outside.
"""

from __future__ import annotations

import struct

from ipseclab.errors import WireError


class Reader:
    """Reads big-endian fields from the front of `octets`; `what` names them in errors."""

    __slots__ = ("_at", "_end", "_octets", "what")

    def __init__(self, octets: bytes, what: str = "message") -> None:
        self._octets = octets
        self._at = 0
        self._end = len(octets)
        self.what = what

    @property
    def remaining(self) -> int:
        """Octets not read yet."""
        return self._end - self._at

    def uint(self, size: int) -> int:
        """An unsigned integer of `size` octets."""
        # Most of what a decoder does: written for speed.
        start = self._at
        end = start + size
        if end > self._end:
            self._advance(size)
        self._at = end
        return int.from_bytes(self._octets[start:end], "big")

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """The unsigned integers of `layout`, which is big-endian, all at once."""
        start = self._at
        end = start + layout.size
        if end > self._end:
            self._advance(layout.size)
        self._at = end
        return layout.unpack_from(self._octets, start)

    def octets(self, size: int) -> bytes:
        """The next `size` octets."""
        start = self._at
        end = start + size
        if not start <= end <= self._end:
            self._advance(size)
        self._at = end
        return self._octets[start:end]

    def rest(self) -> bytes:
        """All that is left, possibly nothing."""
        start, self._at = self._at, self._end
        return self._octets[start : self._end]

    def skip(self, size: int) -> None:
        """Pass over `size` octets: RESERVED fields, which a receiver ignores."""
        self._advance(size)

    def sub(self, size: int, what: str) -> Reader:
        """A reader over the next `size` octets alone; this one goes on behind them."""
        start = self._advance(size)
        inner = Reader.__new__(Reader)
        inner._octets = self._octets
        inner._at = start
        inner._end = start + size
        inner.what = what
        return inner

    def finish(self) -> None:
        """Raise WireError unless everything was read."""
        if self.remaining:
            raise WireError(f"{self.what}: {self.remaining} octets too many")

    def _advance(self, size: int) -> int:
        """Move on by `size` octets; the offset before the move. Raises WireError."""
        start = self._at
        if not 0 <= size <= self._end - start:
            raise WireError(f"{self.what}: {size} octets wanted, {self.remaining} left")
        self._at = start + size
        return start
