"""What a responder under a flood asks of an initiator first: cookies and puzzles.

RFC 7296 section 2.6 and RFC 8019 section 7.1. Neither costs the responder any state: a cookie is a
MAC of what the initiator has sent, and the difficulty of the puzzle that goes with it is part of
the cookie.

    HDR, SA, KE, Ni                       -->
                                          <--  HDR, N(COOKIE) [, N(PUZZLE)]
    HDR, N(COOKIE) [, PS], SA, KE, Ni     -->
                                          <--  HDR, SA, KE, Nr
"""

from __future__ import annotations

import hashlib
import hmac
import random

from ipseclab.ike.config import IkeLimits
from ipseclab.ike.puzzles import Puzzle, solves
from ipseclab.outputs import UdpPath
from ipseclab.registry import NotifyType, PrfId
from ipseclab.wire.ip import packed_address
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, PsPayload

MAX_COOKIE_SIZE = 64  # RFC 7296 section 2.6

PUZZLE_PRF = PrfId.PRF_HMAC_SHA2_256
EASIEST, HARDEST = 8, 16
"""Zero bits asked for when puzzles begin, and when all half-open IKE_SAs are taken. Four keys of 16
bits take an initiator 2**18 trials, about half a second of Python."""

_MAC_SIZE = 32


class Cookies:
    """Stateless cookies: a MAC over Ni, the initiator's address and SPI; with a puzzle over its
    difficulty too, which then stands behind the MAC.

    The secret changes each `LIFETIME` seconds; cookies of the one before are still good.
    """

    LIFETIME = 60.0
    SECRET_SIZE = 32

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._secrets = [rng.randbytes(self.SECRET_SIZE)]
        self._changed: float | None = None

    def demand(
        self, message: Message, nonce: bytes, path: UdpPath, limits: IkeLimits, half_open: int
    ) -> int | None:
        """None when `message` may be worked on; else what it lacks, as the difficulty of a puzzle
        (0: a cookie is enough)."""
        if half_open < limits.cookie_threshold:
            return None
        difficulty = wanted_difficulty(limits, half_open)
        shown = message.notify(NotifyType.COOKIE)
        if shown is None or not self.valid(shown.data, message, nonce, path):
            return difficulty
        if difficulty == 0:
            return None
        # What was asked for counts, though the load may have changed since.
        asked = shown.data[_MAC_SIZE] if len(shown.data) > _MAC_SIZE else 0
        solution = message.find(PsPayload)
        if asked == 0 or solution is None:
            return difficulty
        puzzle = Puzzle(PUZZLE_PRF, asked)
        return None if solves(puzzle, shown.data, solution.data) else difficulty

    def make(
        self, message: Message, nonce: bytes, path: UdpPath, difficulty: int, now: float
    ) -> bytes:
        """The cookie to ask for."""
        if self._changed is None or now - self._changed >= self.LIFETIME:
            fresh = self._rng.randbytes(self.SECRET_SIZE)
            self._secrets = [fresh, *self._secrets[:1]]
            self._changed = now
        return _cookie(self._secrets[0], message, nonce, path, _suffix(difficulty))

    def valid(self, cookie: bytes, message: Message, nonce: bytes, path: UdpPath) -> bool:
        """True when this end made that cookie for this initiator."""
        good = False
        for secret in self._secrets:
            own = _cookie(secret, message, nonce, path, cookie[_MAC_SIZE:])
            good |= hmac.compare_digest(cookie, own)
        return good

    def notifies(
        self, message: Message, nonce: bytes, path: UdpPath, difficulty: int, now: float
    ) -> tuple[NotifyPayload, ...]:
        """What is answered to a request that lacks its cookie, or the solution of its puzzle."""
        cookie = self.make(message, nonce, path, difficulty, now)
        demanded = (NotifyPayload(NotifyType.COOKIE, cookie),)
        if difficulty == 0:
            return demanded
        return (*demanded, Puzzle(PUZZLE_PRF, difficulty).notify())


def wanted_difficulty(limits: IkeLimits, half_open: int) -> int:
    """Zero bits to ask for with a cookie; 0 while there is no need of puzzles."""
    return difficulty_under(limits.puzzle_threshold, limits.half_open, half_open)


def difficulty_under(threshold: int | None, most: int, half_open: int) -> int:
    """Zero bits to ask for from `threshold` half-open IKE_SAs on: the more, the fewer are left of
    `most` (RFC 8019 section 6)."""
    if threshold is None or half_open < threshold:
        return 0
    load = (half_open - threshold) / max(1, most - threshold)
    return EASIEST + int((HARDEST - EASIEST) * min(1.0, load))


def _suffix(difficulty: int) -> bytes:
    return bytes([difficulty]) if difficulty else b""


def _cookie(secret: bytes, message: Message, nonce: bytes, path: UdpPath, suffix: bytes) -> bytes:
    who = packed_address(path.remote.address)
    return hmac.digest(secret, nonce + who + message.spi_i + suffix, hashlib.sha256) + suffix
