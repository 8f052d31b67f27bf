"""Secrets that an endpoint needs again after a restart: what it gave away must be known by then.

Resumption tickets (RFC 5723) and crash detection tokens (RFC 6290) are made from one secret. With
`IkeConfig.secret` it outlives the endpoint; without, it is drawn when first needed.
"""

from __future__ import annotations

import hashlib
import hmac
import random

SECRET_SIZE = 32


class Secrets:
    """Keys by purpose, all from the one secret."""

    def __init__(self, secret: bytes, *, rng: random.Random) -> None:
        self._secret = secret
        self._rng = rng

    def derive(self, purpose: bytes) -> bytes:
        """The 32 octets that belong to `purpose`."""
        if not self._secret:
            self._secret = self._rng.randbytes(SECRET_SIZE)
        return hmac.digest(self._secret, purpose, hashlib.sha256)
