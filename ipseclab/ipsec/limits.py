"""The datapath's own limits: what may wait, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatapathLimits:
    """The datapath's own limits. Room for parked packets is a policy's; times are seconds."""

    parked_packets: int = 64
    """0 switches parking off."""
    parked_octets: int = 262_144
    park_seconds: float = 10.0
    acquire_interval: float = 1.0
    """An Acquire for a policy is not repeated before this."""
    reassembled_packets: int = 64
    """ESP and AH packets in pieces at a time; 0: each fragment is dropped."""
    reassembled_octets: int = 1_048_576
    reassembly_seconds: float = 30.0
    activate_seconds: float = 2.0
    """How long packets wait for the peer to use a new SA first, when there is no other."""
