"""Packets that wait for an SA to be made: bounded queues, one a policy.

RFC 4301 section 4.4.1 leaves open what becomes of a packet that needs an SA which does not exist
yet; here it waits, so that the first packet of a connection is not lost.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ipseclab.wire.ip import Flow


class Parked(NamedTuple):
    """A packet that waits until `expires` (seconds)."""

    packet: bytes
    flow: Flow
    expires: float


class ParkingLot:
    """First in, first out for each policy; every policy has the same room."""

    def __init__(self, packets: int, octets: int) -> None:
        self._packets = packets
        self._octets = octets
        self._queues: dict[str, deque[Parked]] = {}
        self._used: dict[str, int] = {}

    def add(self, policy: str, parked: Parked) -> bool:
        """Put a packet at the end of the queue; False when it does not fit."""
        queue = self._queues.setdefault(policy, deque())
        used = self._used.get(policy, 0) + len(parked.packet)
        if len(queue) >= self._packets or used > self._octets:
            return False
        queue.append(parked)
        self._used[policy] = used
        return True

    def first(self, policy: str) -> Parked | None:
        """The packet at the head of a policy's queue."""
        queue = self._queues.get(policy)
        return queue[0] if queue else None

    def take(self, policy: str) -> deque[Parked]:
        """Empty a policy's queue and return what was in it."""
        self._used.pop(policy, None)
        return self._queues.pop(policy, deque())

    def take_expired(self, policy: str, now: float) -> list[Parked]:
        """Remove and return the packets at the head that have waited long enough."""
        queue = self._queues.get(policy, deque())
        expired: list[Parked] = []
        while queue and queue[0].expires <= now:
            expired.append(queue.popleft())
            self._used[policy] -= len(expired[-1].packet)
        if not queue:
            self.take(policy)
        return expired

    def next_expiry(self, policy: str) -> float | None:
        """When the packet at the head has waited long enough; None for an empty queue."""
        parked = self.first(policy)
        return parked.expires if parked is not None else None

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())


class AcquirePace:
    """How often SAs are asked for: once in `interval` seconds for a policy, and as often for a flow
    that the SA which came does not carry."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._until: dict[tuple[str, Flow | None], float] = {}
        """In the order in which they end: each is entered anew, and all last equally long."""

    def may(self, policy: str, flow: Flow | None, now: float) -> bool:
        """True when an SA may be asked for: for the policy with `flow` None, or for that flow."""
        return now >= self._until.get((policy, flow), now)

    def note(self, policy: str, flow: Flow, now: float) -> None:
        """One was asked for."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now:
                break
            del self._until[oldest]
        for key in ((policy, None), (policy, flow)):
            self._until.pop(key, None)
            self._until[key] = now + self._interval

    def forget(self, policy: str) -> None:
        """The policy may be asked for at once, when it wants an SA again."""
        self._until.pop((policy, None), None)
