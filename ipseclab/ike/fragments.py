"""Fragmented messages: how long a message may be, and how its fragments become one again.

RFC 7383 sections 2.5 (sending) and 2.6 (receiving). A fragment is kept only
after its ICV has been verified, so whoever fills this memory has done a key exchange; what it may
fill is bounded all the same: messages, fragments of each, octets of each and of all, time.

    HDR(1), SKF(1/3) {IDi, CERT,  -->
    HDR(1), SKF(2/3)  ...         -->
    HDR(1), SKF(3/3)  SA, TS..}   -->
                                  <--  HDR(1), SK {IDr, AUTH, SA, TSi, TSr}
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.protection import Fragment, Verified
from ipseclab.outputs import UdpPath
from ipseclab.registry import PayloadType
from ipseclab.wire.message import HEADER_SIZE, MAX_MESSAGE_SIZE, PAYLOAD_HEADER_SIZE

IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, UDP_HEADER_SIZE = 20, 40, 8
NEXT_PAYLOAD_AT = 16  # RFC 7296 section 3.1

SMALLEST_FRAGMENT_SIZE = 576
"""Octets of an IPv4 packet that every host takes (RFC 7383 section 2.5.1)."""
SMALLER_AFTER = 2
"""Retransmissions without an answer after which a fragmented request is cut into pieces of
`SMALLEST_FRAGMENT_SIZE`: the path may be too narrow (RFC 7383 section 2.5.2)."""

# Own limits of reassembly.
MAX_COLLECTIONS = 1024
"""Half-received messages of an endpoint; the oldest makes room."""
MAX_COLLECTED_OCTETS = 8 << 20
"""Octets in all of them together; again the oldest makes room."""
COLLECTION_TIMEOUT = 120.0
"""Seconds from the first fragment to the last, above the time of several retransmissions."""

_Key = tuple[bytes, bool, int]
"""Own SPI, response or not, message ID."""


def largest_message(path: UdpPath, packet_size: int) -> int:
    """Octets of an IKE message that goes along `path` in an IP packet of `packet_size`."""
    header = IPV6_HEADER_SIZE if ":" in path.local.address else IPV4_HEADER_SIZE
    marker = len(NON_ESP_MARKER) if path.local.port == NAT_T_PORT else 0
    return packet_size - header - UDP_HEADER_SIZE - marker


def fragment_fields(octets: bytes) -> dict[str, int]:
    """For the trace: which fragment of how many a message is; nothing for a whole one."""
    at = HEADER_SIZE + PAYLOAD_HEADER_SIZE
    if len(octets) < at + 4 or octets[NEXT_PAYLOAD_AT] != PayloadType.SKF:
        return {}
    number, total = octets[at : at + 2], octets[at + 2 : at + 4]
    return {"fragment": int.from_bytes(number, "big"), "fragments": int.from_bytes(total, "big")}


@dataclass(slots=True)
class _Collection:
    """The fragments of one message that are here."""

    total: int
    due: float
    """When it is given up."""
    first: PayloadType = PayloadType.NONE
    head: bytes = b""
    """The whole message's, of fragment 1."""
    octets: int = 0
    parts: dict[int, bytes] = field(default_factory=dict)


class Reassembly:
    """All messages of an endpoint of which some fragments are here, and others not yet."""

    def __init__(self) -> None:
        self._collections: dict[_Key, _Collection] = {}
        self._of_sa: dict[bytes, dict[_Key, None]] = {}
        self._octets = 0

    def __len__(self) -> int:
        return len(self._collections)

    @property
    def octets(self) -> int:
        """Octets kept."""
        return self._octets

    def collect(self, own_spi: bytes, fragment: Fragment, now: float) -> Verified | str | None:
        """The whole message when `fragment` was the last one missing, None while others are; a text
        when the fragment is not wanted (RFC 7383 section 2.6)."""
        message = fragment.message
        key = (own_spi, message.response, message.message_id)
        found = self._collections.get(key)
        if found is not None and found.due <= now:
            self._remove(key)
            found = None
        if found is not None and fragment.total < found.total:
            return "fragment_total"
        if found is not None and fragment.total > found.total:
            # The sender cut the message anew, into smaller pieces.
            self._remove(key)
            found = None
        if found is None:
            found = self._begin(key, fragment.total, now)
        if fragment.number in found.parts:
            return "fragment_repeated"
        if found.octets + len(fragment.octets) > MAX_MESSAGE_SIZE:
            self._remove(key)
            return "fragments_too_long"
        self._keep(key, found, fragment)
        if len(found.parts) < found.total:
            return None
        self._remove(key)
        whole = b"".join(found.parts[number] for number in range(1, found.total + 1))
        return Verified(message, found.first, whole, found.head)

    def forget(self, own_spi: bytes) -> None:
        """The IKE_SA is gone."""
        for key in tuple(self._of_sa.get(own_spi, ())):
            self._remove(key)

    def forget_message(self, own_spi: bytes, *, response: bool, message_id: int) -> None:
        """The message came whole, or is not waited for any more."""
        key = (own_spi, response, message_id)
        if key in self._collections:
            self._remove(key)

    def forget_older(self, own_spi: bytes, now: float) -> float | None:
        """Give up what was begun `COLLECTION_TIMEOUT` ago; when to come back, if at all."""
        for key in tuple(self._of_sa.get(own_spi, ())):
            if self._collections[key].due <= now:
                self._remove(key)
        return min(
            (self._collections[key].due for key in self._of_sa.get(own_spi, ())), default=None
        )

    def _begin(self, key: _Key, total: int, now: float) -> _Collection:
        if len(self._collections) >= MAX_COLLECTIONS:
            self._remove(next(iter(self._collections)))
        found = self._collections[key] = _Collection(total, now + COLLECTION_TIMEOUT)
        self._of_sa.setdefault(key[0], {})[key] = None
        return found

    def _keep(self, key: _Key, found: _Collection, fragment: Fragment) -> None:
        size = len(fragment.octets)
        while self._octets + size > MAX_COLLECTED_OCTETS:
            self._remove(next(other for other in self._collections if other != key))
        found.parts[fragment.number] = fragment.octets
        if fragment.number == 1:
            found.first = fragment.first
            found.head = fragment.whole_head
        found.octets += size
        self._octets += size

    def _remove(self, key: _Key) -> None:
        found = self._collections.pop(key)
        self._octets -= found.octets
        own = self._of_sa[key[0]]
        del own[key]
        if not own:
            del self._of_sa[key[0]]
