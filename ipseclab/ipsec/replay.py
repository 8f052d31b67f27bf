"""The anti-replay window of an inbound SA, for 32-bit and for extended sequence numbers.

RFC 4303 section 3.4.3 and appendix A2. Bits lie in a ring of blocks, as RFC 6479 has it: a packet
costs the same whatever the size of the window, and moving it clears whole blocks instead of
shifting.
"""

from __future__ import annotations

REPLAY_WINDOW_MIN = 32
REPLAY_WINDOW_MAX = 4096

BLOCK_BITS = 64
_BLOCK_SHIFT = 6
_BLOCK_MASK = BLOCK_BITS - 1
_LOW_MASK = 0xFFFF_FFFF
_LOW_SIZE = 1 << 32


class ReplayWindow:
    """Which sequence numbers have been seen. Ask `check` before the ICV, `mark` after it."""

    __slots__ = ("_blocks", "_count", "size", "top")

    def __init__(self, size: int) -> None:
        if not REPLAY_WINDOW_MIN <= size <= REPLAY_WINDOW_MAX:
            raise ValueError(
                f"replay window {size}, from {REPLAY_WINDOW_MIN} to {REPLAY_WINDOW_MAX} expected"
            )
        self.size = size
        self.top = 0
        """The highest sequence number marked; 0 before the first packet."""
        # The window may begin in the middle of a block, hence one more than it fills.
        self._count = (size + _BLOCK_MASK) // BLOCK_BITS + 1
        self._blocks = [0] * self._count

    def check(self, sequence: int) -> bool:
        """True when `sequence` is new. Zero is never sent (RFC 4303 section 3.3.3)."""
        behind = self.top - sequence
        if behind < 0:
            return True
        if behind >= self.size or sequence <= 0:
            return False
        block = self._blocks[(sequence >> _BLOCK_SHIFT) % self._count]
        return not block >> (sequence & _BLOCK_MASK) & 1

    def mark(self, sequence: int) -> bool:
        """Record an authenticated `sequence` that `check` let pass; True when it is the newest."""
        newest = sequence > self.top
        index = sequence >> _BLOCK_SHIFT
        if newest:
            last = self.top >> _BLOCK_SHIFT
            if index != last:
                for fresh in range(max(last, index - self._count) + 1, index + 1):
                    self._blocks[fresh % self._count] = 0
            self.top = sequence
        self._blocks[index % self._count] |= 1 << (sequence & _BLOCK_MASK)
        return newest

    def mark_run(self, first: int, count: int) -> None:
        """Record `count` authenticated numbers from `first` on, all beyond `top`: a train of
        packets that came in order, at the cost of a packet a block."""
        assert first > self.top, f"a run from {first} with {self.top} seen"
        last = first + count - 1
        at = max(first, last - self.size + 1)
        while at <= last:
            end = min(last, at | _BLOCK_MASK)
            self.mark(end)
            run = (1 << (end - at + 1)) - 1
            self._blocks[(at >> _BLOCK_SHIFT) % self._count] |= run << (at & _BLOCK_MASK)
            at = end + 1

    def extended(self, low: int) -> int:
        """The 64-bit sequence number whose low half is `low`: the one in, or closest above, the
        window (RFC 4303 appendix A2.2)."""
        high, top_low = self.top >> 32, self.top & _LOW_MASK
        bottom = top_low - self.size + 1
        if bottom >= 0:
            # The window lies in one subspace: what is left of it belongs to the next one.
            high += low < bottom
        elif high and low >= bottom + _LOW_SIZE:
            # It reaches back into the one before.
            high -= 1
        return high << 32 | low
