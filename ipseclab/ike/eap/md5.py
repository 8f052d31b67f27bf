"""EAP-MD5-Challenge (RFC 3748 section 5.4): for old peers alone.

It makes no key, so that AUTH is made with SK_pi and SK_pr (RFC 7296 section 2.16), and it does not
authenticate the server.
"""

from __future__ import annotations

import hashlib
import hmac
import random

from ipseclab.errors import AuthenticationFailed

CHALLENGE_SIZE = 16
DIGEST_SIZE = 16


def md5_response(identifier: int, password: str, challenge: bytes) -> bytes:
    """RFC 1994 section 4.1: MD5 of identifier, secret, challenge."""
    octets = bytes([identifier]) + password.encode() + challenge
    return hashlib.md5(octets, usedforsecurity=False).digest()


def _value(data: bytes) -> bytes:
    """The value field behind its size. Raises AuthenticationFailed."""
    if not data or not data[0] or len(data) < 1 + data[0]:
        raise AuthenticationFailed("EAP MD5_CHALLENGE: malformed value")
    return data[1 : 1 + data[0]]


class Md5Peer:
    """Answers one challenge after the other."""

    key = b""

    def __init__(self, password: str) -> None:
        self._password = password
        self.done = False

    def answer(self, identifier: int, data: bytes) -> bytes:
        """The digest."""
        self.done = True
        return bytes([DIGEST_SIZE]) + md5_response(identifier, self._password, _value(data))


class Md5Server:
    """One challenge; `password` None: no such user, which looks like a wrong password."""

    key = b""

    def __init__(self, password: str | None, *, rng: random.Random) -> None:
        self._password = password
        self._challenge = rng.randbytes(CHALLENGE_SIZE)
        self.succeeded = False
        self.reason = ""

    def start(self, identifier: int) -> bytes:
        """The challenge."""
        return bytes([CHALLENGE_SIZE]) + self._challenge

    def answer(self, identifier: int, data: bytes) -> None:
        """Check the digest."""
        # Who has no account takes as long to refuse.
        password = self._password if self._password is not None else ""
        right = hmac.compare_digest(
            _value(data), md5_response(identifier, password, self._challenge)
        )
        self.succeeded = right and self._password is not None
