"""How often something may happen, whatever comes from the network."""

from __future__ import annotations

from math import inf


class RateLimit:
    """At most `most` times within each second that begins with the first of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._since = -inf
        self._done = 0

    def allow(self, now: float) -> bool:
        """True, and one more is done; or False."""
        if now - self._since >= 1.0:
            self._since, self._done = now, 0
        self._done += 1
        return self._done <= self._most
