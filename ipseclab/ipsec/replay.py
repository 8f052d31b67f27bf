"""The anti-replay window of an inbound SA.

RFC 4303 section 3.4.3 and appendix A, without extended sequence numbers. The window is one Python
integer: bit 0 stands for the highest sequence number that was authenticated, bit n for the one n
below it.
"""

from __future__ import annotations

REPLAY_WINDOW_MIN = 32
REPLAY_WINDOW_MAX = 4096


class ReplayWindow:
    """Which sequence numbers have been seen. Ask `check` before the ICV, `mark` after it."""

    __slots__ = ("_bitmap", "_mask", "size", "top")

    def __init__(self, size: int) -> None:
        if not REPLAY_WINDOW_MIN <= size <= REPLAY_WINDOW_MAX:
            raise ValueError(
                f"replay window {size}, from {REPLAY_WINDOW_MIN} to {REPLAY_WINDOW_MAX} expected"
            )
        self.size = size
        self.top = 0
        """The highest sequence number marked; 0 before the first packet."""
        self._bitmap = 0
        self._mask = (1 << size) - 1

    def check(self, sequence: int) -> bool:
        """True when `sequence` is new. Zero is never sent (RFC 4303 section 3.3.3)."""
        behind = self.top - sequence
        if behind < 0:
            return True
        return sequence > 0 and behind < self.size and not self._bitmap >> behind & 1

    def mark(self, sequence: int) -> bool:
        """Record an authenticated `sequence` that `check` let pass; True when it is the newest."""
        ahead = sequence - self.top
        if ahead <= 0:
            self._bitmap |= 1 << -ahead
            return False
        # A jump as wide as the window empties it; shifting by the jump would cost memory instead.
        self._bitmap = (self._bitmap << ahead | 1) & self._mask if ahead < self.size else 1
        self.top = sequence
        return True
