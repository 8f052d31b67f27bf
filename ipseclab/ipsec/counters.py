"""What the datapath counts: packets carried, and every drop under a reason of its own.

RFC 4301 section 5 asks for an auditable event at each discard; here that is a `DropReason`, which
names the counter and the `reason` of the trace's `packet_dropped` alike.
"""

from __future__ import annotations

from enum import Enum

from ipseclab.errors import IpsecLabError
from ipseclab.outputs import Notice

OUTBOUND, INBOUND = "outbound", "inbound"


class DropReason(Enum):
    """Why a packet was dropped. The value names the counter and is what a trace says."""

    MALFORMED = "malformed"
    """Not IPv4, not ESP, cut short, badly padded, or a fragment where a whole packet is needed."""
    NO_SA = "no_sa"
    """ESP with an SPI that names no SA."""
    BAD_ICV = "bad_icv"
    REPLAYED = "replayed"
    """A sequence number seen before, or left of the window (RFC 4303 section 3.4.3)."""
    NO_POLICY = "no_policy"
    """No SPD entry matches: fail closed."""
    POLICY_DISCARD = "policy_discard"
    SELECTOR_MISMATCH = "selector_mismatch"
    """What came out of an SA is outside its traffic selectors (RFC 4301 section 5.2, step 4)."""
    NO_OUTBOUND_SA = "no_outbound_sa"
    """PROTECT, no SA, and parking is switched off."""
    PARK_FULL = "park_full"
    PARK_TIMEOUT = "park_timeout"
    HARD_EXPIRED = "hard_expired"
    SEQUENCE_EXHAUSTED = "sequence_exhausted"
    """Sequence numbers do not wrap (RFC 4303 section 3.3.3)."""
    NOT_ENCAPSULATED = "not_encapsulated"
    """Arrived in clear text although the policy says PROTECT."""
    TOO_BIG = "too_big"
    """Encapsulation would make the packet longer than IP can say, or than the path carries and the
    packet may not be fragmented."""
    BAD_FRAGMENT = "bad_fragment"
    """Fragments that overlap or contradict each other (RFC 5722)."""
    NO_FIRST_FRAGMENT = "no_first_fragment"
    """A later fragment whose ports nobody knows, with stateful checking (RFC 4301 section 7.3)."""
    REASSEMBLY_FULL = "reassembly_full"
    REASSEMBLY_TIMEOUT = "reassembly_timeout"
    """A fragment whose packet did not become whole, in time or at all."""
    STREAM_FULL = "stream_full"
    """For a TCP connection that does not take as much (RFC 9329)."""
    STREAM_GONE = "stream_gone"
    """For a TCP connection that is not there any more, and not yet again."""
    TTL_EXPIRED = "ttl_expired"
    """Counted by whoever forwards the packet; the datapath leaves the TTL alone."""
    BAD_COMPRESSION = "bad_compression"
    """IPComp (RFC 3173) of another SA, or that holds no packet, or one longer than IP can say."""
    RATE_EXCEEDED = "rate_exceeded"
    """More than an SA of a fixed rate (RFC 9347) carries, for longer than it keeps packets back."""
    CONGESTED = "congested"
    """Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040
    section 4.2)."""


class Dropped(IpsecLabError):
    """Ends the processing of one packet; never leaves the datapath."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Counters:
    """Packets and octets through one datapath; octets are those of the plain IPv4 packets."""

    __slots__ = (
        "acquires",
        "bypassed_in",
        "bypassed_out",
        "drops",
        "dummies_in",
        "dummies_out",
        "octets_in",
        "octets_out",
        "packets_in",
        "packets_out",
        "parked",
    )

    def __init__(self) -> None:
        self.packets_out = 0
        self.octets_out = 0
        self.packets_in = 0
        self.octets_in = 0
        self.bypassed_out = 0
        self.bypassed_in = 0
        self.dummies_out = 0
        self.dummies_in = 0
        """TFC dummy packets (RFC 4303 section 2.6), discarded without a word."""
        self.parked = 0
        self.acquires = 0
        self.drops: dict[DropReason, int] = dict.fromkeys(DropReason, 0)

    def drop(self, reason: DropReason, direction: str, octets: int) -> Notice:
        """Count a packet that is dropped, and tell of it."""
        self.drops[reason] += 1
        details = {"reason": reason.value, "direction": direction, "octets": octets}
        return Notice("packet_dropped", details)

    def as_dict(self) -> dict[str, int]:
        """Every counter by name; drops as ``drops.<reason>``."""
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "drops"}
        return plain | {f"drops.{reason.value}": count for reason, count in self.drops.items()}
