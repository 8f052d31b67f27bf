"""What a connection sends: a stream of octets that can be read again at any offset.

No send buffer has to be kept: a retransmission reads the stream anew.
"""

from __future__ import annotations

from typing import Protocol

_PERIOD = 65_521
"""A prime, so that no segment size or window is a whole number of periods."""


class Stream(Protocol):
    """Octets by position, from 0."""

    @property
    def size(self) -> int | None:
        """Octets in all; None while no end is known."""

    def read(self, start: int, end: int) -> bytes:
        """The octets from `start` up to, not including, `end`."""


class OctetStream:
    """A stream of given octets."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Octets in all."""
        return len(self._data)

    def read(self, start: int, end: int) -> bytes:
        """The octets from `start` to `end`."""
        return self._data[start:end]


class QueueStream:
    """What an application writes as it goes, kept until the peer has acknowledged it."""

    size = None

    def __init__(self) -> None:
        self._octets = bytearray()
        self._start = 0

    @property
    def written(self) -> int:
        """Octets in all so far."""
        return self._start + len(self._octets)

    def append(self, octets: bytes) -> None:
        """Write more."""
        self._octets += octets

    def forget(self, end: int) -> None:
        """The octets before `end` will not be asked for again."""
        if end > self._start:
            del self._octets[: end - self._start]
            self._start = end

    def read(self, start: int, end: int) -> bytes:
        """The octets from `start` to `end`."""
        return bytes(self._octets[start - self._start : end - self._start])


class PatternStream:
    """Octets that follow from their position alone, so that a receiver can check what it gets."""

    _octets = bytes((index * index + index // 251) & 0xFF for index in range(_PERIOD)) * 3

    def __init__(self, size: int | None = None) -> None:
        self._size = size

    @property
    def size(self) -> int | None:
        """Octets in all; None: without end."""
        return self._size

    def read(self, start: int, end: int) -> bytes:
        """The octets from `start` to `end`."""
        first = start % _PERIOD
        octets = self._octets[first : first + end - start]
        if len(octets) == end - start:
            return octets
        return b"".join(self.read(at, min(at + _PERIOD, end)) for at in range(start, end, _PERIOD))
