"""What a sender has in flight: which segments are acknowledged, lost, or neither.

RFC 2018 (SACK), RFC 8985 (RACK: a segment is lost when one sent enough later has arrived).
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from ipseclab.sim.tcp.ranges import RangeSet

DUPLICATE_THRESHOLD = 3
"""SACKed segments after which a hole counts as a loss at once (RFC 5681, RFC 8985 section 6.2)."""
MAX_SACK_BLOCKS = 4


@dataclass(slots=True)
class Sent:
    """One segment in flight: stream positions [start, end), its last sending, and its fate."""

    start: int
    end: int
    sent_at: float
    order: int
    """Counts sendings: of two in one moment it tells the earlier."""
    sendings: int = 1
    sacked: bool = False
    lost: bool = False


@dataclass(slots=True)
class Progress:
    """What one acknowledgment told."""

    acked: int = 0
    """Segments newly covered by the cumulative acknowledgment."""
    delivered: int = 0
    """Segments newly known to have arrived, cumulative or selective."""
    first_rtt: float | None = None
    """Of the first newly acknowledged segment that was sent once: what the RTO is made from."""
    last_rtt: float | None = None
    """Of the last such segment: without the wait of a delayed ACK."""


class Scoreboard:
    """The segments in flight, in sequence order and in order of sending."""

    def __init__(self) -> None:
        self.sacked = 0
        self.reordering_seen = False
        self._segments: deque[Sent] = deque()
        self._by_start: dict[int, Sent] = {}
        # Neither SACKed nor lost. A dict keeps order of insertion, which is the order of sending.
        self._in_flight: dict[int, Sent] = {}
        self._lost: list[int] = []
        self._sendings = 0
        self._sacked_ranges = RangeSet()
        self._highest = 0
        # RACK: the segment sent last among those that arrived.
        self._rack_order = -1
        self.rack_rtt: float | None = None

    @property
    def in_flight(self) -> int:
        """Segments thought to be in the network (RFC 6675's pipe)."""
        return len(self._in_flight)

    @property
    def outstanding(self) -> int:
        """Segments not yet acknowledged."""
        return len(self._segments)

    @property
    def head(self) -> Sent | None:
        """The first unacknowledged segment."""
        return self._segments[0] if self._segments else None

    @property
    def last(self) -> Sent | None:
        """The last segment sent as new."""
        return self._segments[-1] if self._segments else None

    @property
    def overtaken(self) -> bool:
        """True when something in flight was sent before a segment that has arrived."""
        for oldest in self._in_flight.values():
            return oldest.order < self._rack_order
        return False

    def sent_new(self, start: int, end: int, now: float) -> None:
        """A segment went out for the first time."""
        segment = Sent(start, end, now, self._next_order())
        self._segments.append(segment)
        self._by_start[start] = self._in_flight[start] = segment

    def sent_again(self, segment: Sent, now: float) -> None:
        """`segment` went out once more."""
        segment.sent_at = now
        segment.order = self._next_order()
        segment.sendings += 1
        segment.lost = False
        self._in_flight.pop(segment.start, None)
        self._in_flight[segment.start] = segment

    def next_lost(self) -> Sent | None:
        """The lost segment to send again first; it stays lost until `sent_again`."""
        while self._lost:
            segment = self._by_start.get(self._lost[0])
            if segment is not None and segment.lost:
                return segment
            heapq.heappop(self._lost)
        return None

    def acknowledge(
        self, una: int, blocks: list[tuple[int, int]], now: float, *, min_rtt: float | None
    ) -> Progress:
        """Take in a cumulative acknowledgment up to `una`, and SACK blocks."""
        progress = Progress()
        fack = self._highest
        while self._segments and self._segments[0].end <= una:
            segment = self._segments.popleft()
            del self._by_start[segment.start]
            progress.acked += 1
            if segment.sacked:
                self.sacked -= 1
            else:
                self._arrived(segment, now, progress, fack=fack, min_rtt=min_rtt)
        self._sacked_ranges.drop_below(una)
        for start, end in blocks:
            for first, last in self._sacked_ranges.add(max(start, una), end):
                self._select(first, last, now, progress, fack=fack, min_rtt=min_rtt)
        return progress

    def detect_losses(self, now: float, reorder_window: float) -> tuple[int, float | None]:
        """RFC 8985 section 6.2 step 5: mark what is lost; how many, and the time at which to look
        again for those that may still be on the way."""
        if self.rack_rtt is None:
            return 0, None
        lost: list[Sent] = []
        look_again: float | None = None
        for segment in self._in_flight.values():
            if segment.order >= self._rack_order:
                break
            due = segment.sent_at + self.rack_rtt + reorder_window
            # Right at its time a segment is late: the timer that looks again is set to that time.
            if due <= now:
                lost.append(segment)
            elif look_again is None or due > look_again:
                look_again = due
        for segment in lost:
            self.mark_lost(segment)
        return len(lost), look_again

    def mark_lost(self, segment: Sent) -> None:
        """`segment` is to be sent again."""
        if not segment.lost and not segment.sacked:
            segment.lost = True
            self._in_flight.pop(segment.start, None)
            heapq.heappush(self._lost, segment.start)

    def mark_all_lost(self) -> None:
        """After a retransmission time-out nothing is thought to be in the network any more."""
        for segment in list(self._in_flight.values()):
            self.mark_lost(segment)

    def unmark_lost(self) -> None:
        """The losses were none: all is in flight again, in its order of sending."""
        self._lost.clear()
        waiting = [segment for segment in self._segments if not segment.sacked]
        for segment in waiting:
            segment.lost = False
        waiting.sort(key=lambda segment: segment.order)
        self._in_flight = {segment.start: segment for segment in waiting}

    def split(self, size: int) -> None:
        """Cut each unacknowledged segment into parts of `size` octets at most, all of them lost:
        the path no longer carries longer ones (RFC 1191)."""
        segments = list(self._segments)
        self._segments.clear()
        for segment in segments:
            if segment.sacked or segment.end - segment.start <= size:
                self._segments.append(segment)
                continue
            del self._by_start[segment.start]
            self._in_flight.pop(segment.start, None)
            for start in range(segment.start, segment.end, size):
                end = min(start + size, segment.end)
                part = Sent(start, end, segment.sent_at, segment.order, segment.sendings)
                self._segments.append(part)
                self._by_start[start] = part
                self.mark_lost(part)

    def _select(
        self,
        start: int,
        end: int,
        now: float,
        progress: Progress,
        *,
        fack: int,
        min_rtt: float | None,
    ) -> None:
        segment = self._by_start.get(start)
        while segment is not None and segment.end <= end:
            if not segment.sacked:
                segment.sacked = True
                self.sacked += 1
                self._arrived(segment, now, progress, fack=fack, min_rtt=min_rtt)
            segment = self._by_start.get(segment.end)

    def _arrived(
        self, segment: Sent, now: float, progress: Progress, *, fack: int, min_rtt: float | None
    ) -> None:
        progress.delivered += 1
        self._in_flight.pop(segment.start, None)
        segment.lost = False
        self._highest = max(self._highest, segment.end)
        rtt = now - segment.sent_at
        if segment.sendings == 1:
            if segment.end < fack:
                self.reordering_seen = True
            progress.last_rtt = rtt
            if progress.first_rtt is None:
                progress.first_rtt = rtt
        elif min_rtt is not None and rtt < min_rtt:
            # Too soon for an answer to the retransmission: the first sending arrived after all.
            return
        if segment.order > self._rack_order:
            self._rack_order = segment.order
            self.rack_rtt = rtt

    def _next_order(self) -> int:
        self._sendings += 1
        return self._sendings
