"""Which SA carries an outbound flow, remembered: the one look-up that most packets need."""

from __future__ import annotations

from zlib import crc32

from ipseclab.ipsec.sad import SadEntry
from ipseclab.wire.ip import Flow

FLOW_LIMIT = 65_536
"""Flows remembered; when full, starts again empty."""


def of_flow(entries: list[SadEntry], flow: Flow) -> SadEntry:
    """Which of the SAs that cover `flow`, newest first, carries it: the newest one of a resource
    that the flow's own octets choose (RFC 9611), so that a flow stays in order."""
    resources = sorted({entry.parameters.resource for entry in entries})
    if len(resources) == 1:
        return entries[0]
    source, destination, *numbers = flow[:5]
    octets = source + destination + b"".join(number.to_bytes(2, "big") for number in numbers)
    chosen = resources[crc32(octets) % len(resources)]
    return next(entry for entry in entries if entry.parameters.resource == chosen)


class FlowCache:
    """From `ipv4.flow_key` to the entry that carries the flow.

    It holds only what a full look-up would find: whoever changes which SA a policy uses calls
    `forget` for that policy.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, SadEntry] = {}
        self._keys: dict[str, list[bytes]] = {}
        self.find = self._entries.get
        """The entry of a flow key, or None."""

    def remember(self, key: bytes, entry: SadEntry) -> None:
        """Let `find` answer `entry` for `key`."""
        if len(self._entries) >= FLOW_LIMIT:
            self._entries.clear()
            self._keys.clear()
        if key not in self._entries:
            self._keys.setdefault(entry.parameters.policy, []).append(key)
        self._entries[key] = entry

    def forget(self, policy: str) -> None:
        """Drop every flow of a policy."""
        for key in self._keys.pop(policy, ()):
            self._entries.pop(key, None)
