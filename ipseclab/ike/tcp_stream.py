"""IKE and ESP in a TCP stream: its prefix and its frames (RFC 9329 section 3), without I/O.

The stream of the TCP originator begins with the prefix "IKETCP"; then, both ways:

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
                                    +-------------------------------+
                                    |            Length             |
    +---------------------------------------------------------------+
    |             Non-ESP Marker (IKE), or the ESP packet           ~
    +---------------------------------------------------------------+

`Length` counts itself. A message in a frame is what a datagram on UDP port 4500 would hold.
"""

from __future__ import annotations

from ipseclab.errors import WireError
from ipseclab.ike.natt import KEEPALIVE

STREAM_PREFIX = b"IKETCP"
LENGTH_SIZE = 2
LARGEST_FRAME = 0xFFFF
LARGEST_MESSAGE = LARGEST_FRAME - LENGTH_SIZE
SMALLEST_MESSAGE = 1
"""A frame of a length alone is an error; one octet may be a keepalive."""


def frame(message: bytes) -> bytes:
    """One message with its length. Raises WireError for one that no frame holds."""
    if not SMALLEST_MESSAGE <= len(message) <= LARGEST_MESSAGE:
        raise WireError(f"message of {len(message)} octets, 1 to {LARGEST_MESSAGE} fit a frame")
    return (len(message) + LENGTH_SIZE).to_bytes(LENGTH_SIZE, "big") + message


def only_message(octets: bytes) -> bytes | None:
    """The message in octets that are just one frame, behind the prefix perhaps; None for any other
    part of a stream."""
    framed = octets.removeprefix(STREAM_PREFIX)
    if len(framed) < LENGTH_SIZE + SMALLEST_MESSAGE:
        return None
    whole = int.from_bytes(framed[:LENGTH_SIZE], "big") == len(framed)
    return framed[LENGTH_SIZE:] if whole else None


class StreamReader:
    """Takes a stream's octets as they come, gives whole messages. It never keeps more than one
    incomplete frame, so that a peer can have it hold `LARGEST_FRAME` octets and no more.

    `prefixed`: the TCP originator's stream, which begins with the prefix."""

    def __init__(self, *, prefixed: bool) -> None:
        self.fault = ""
        """Why the stream cannot be followed beyond what it has given; then it has to be closed."""
        self._prefix = STREAM_PREFIX if prefixed else b""
        self._kept = bytearray()

    @property
    def kept(self) -> int:
        """Octets that wait for more."""
        return len(self._kept)

    def take(self, octets: bytes) -> list[bytes]:
        """The messages that are whole now, without keepalives, which a receiver ignores (section
        6.7). What comes before a fault is given; after it, nothing."""
        if self.fault:
            return []
        self._kept += octets
        if not self._past_prefix():
            return []
        messages, at = [], 0
        while len(self._kept) - at >= LENGTH_SIZE:
            length = int.from_bytes(self._kept[at : at + LENGTH_SIZE], "big")
            if length < LENGTH_SIZE + SMALLEST_MESSAGE:
                self.fault = f"frame of length {length}, at least 3 needed"
                break
            if len(self._kept) - at < length:
                break
            message = bytes(self._kept[at + LENGTH_SIZE : at + length])
            if message != KEEPALIVE:
                messages.append(message)
            at += length
        del self._kept[: len(self._kept) if self.fault else at]
        return messages

    def _past_prefix(self) -> bool:
        """Compare what is there of the prefix, and take it away when all is."""
        if not self._prefix:
            return True
        if not self._prefix.startswith(self._kept[: len(self._prefix)]):
            self.fault = "stream does not begin with IKETCP"
            self._kept.clear()
            return False
        if len(self._kept) < len(self._prefix):
            return False
        del self._kept[: len(self._prefix)]
        self._prefix = b""
        return True
