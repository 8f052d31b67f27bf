"""What an SPD entry says about the processing of its packets.

RFC 4301 sections 4.4.1.2 (DF, DSCP), 8 (path MTU) and appendix D, RFC 6040 (ECN), RFC 4303 sections
2.6 and 2.7 (traffic flow confidentiality). The defaults leave a packet as a tunnel of RFC 4301 has
it: DF, DSCP and ECN copied, no padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ipseclab.errors import ConfigError

SMALLEST_PATH_MTU = {4: 576, 16: 1280}
"""By octets of the outer address. RFC 791 lets a router have less, but an ICMP message that says so
is more likely a forgery that wants many small packets."""

LARGEST_TFC = 9000
DSCP_LAST = 63


class DontFragment(Enum):
    """The outer header's DF bit in IPv4 (RFC 4301 section 8.1)."""

    COPY = "copy"
    SET = "set"
    CLEAR = "clear"


class Fragmentation(Enum):
    """Where a packet that is too long, and may be fragmented, is: the inner packet before it is
    protected, or the outer one after (RFC 4301 appendix D)."""

    BEFORE = "before"
    AFTER = "after"


SMALLEST_CONSTANT_SIZE = 128
"""Octets of an outer packet: headers, ESP and a little to carry."""


@dataclass(frozen=True, slots=True)
class ConstantRate:
    """What an SA sends whatever there is to send (RFC 9347): packets of one size at one rate."""

    size: int
    """Octets of the outer packet; a few less where the cipher's blocks do not fit."""
    rate: float
    """Of the outer packets, in bit/s."""

    def __post_init__(self) -> None:
        if not SMALLEST_CONSTANT_SIZE <= self.size <= LARGEST_TFC:
            limits = f"from {SMALLEST_CONSTANT_SIZE} to {LARGEST_TFC}"
            raise ConfigError(f"packets of {self.size} octets, {limits} expected")
        if self.rate <= 0:
            raise ConfigError(f"rate {self.rate} bit/s, more than 0 expected")

    @property
    def interval(self) -> float:
        """Seconds from packet to packet."""
        return self.size * 8 / self.rate


@dataclass(frozen=True, slots=True)
class Processing:
    """How the packets of a PROTECT entry are treated. Sizes are octets, times seconds."""

    dont_fragment: DontFragment = DontFragment.COPY
    dscp: int | None = None
    """The outer DSCP; None: the inner packet's."""
    ecn: bool = True
    """RFC 6040's normal mode; False: the compatibility mode, where the outer header has no ECN."""
    path_mtu: int | None = None
    """The longest outer packet to begin with; None: any, until an ICMP message says otherwise."""
    path_mtu_seconds: float = 600.0
    """How long a smaller one that was learnt is believed (RFC 1191 section 6.3)."""
    fragmentation: Fragmentation = Fragmentation.AFTER
    clamp_mss: bool = False
    """Whether TCP SYNs may ask for no longer segments than fit."""
    tfc_padding: int = 0
    """Tunnel mode: inner packets are made this long, those that fit (RFC 4303 section 2.7)."""
    dummy_interval: float | None = None
    """Tunnel mode: after so long a silence a dummy packet goes out (RFC 4303 section 2.6)."""

    constant_rate: ConstantRate | None = None
    """Tunnel mode: with SAs on which AGGFRAG was agreed (RFC 9347)."""

    def __post_init__(self) -> None:
        if self.dscp is not None and not 0 <= self.dscp <= DSCP_LAST:
            raise ConfigError(f"DSCP {self.dscp}, from 0 to {DSCP_LAST} expected")
        if not 0 <= self.tfc_padding <= LARGEST_TFC:
            raise ConfigError(f"TFC padding {self.tfc_padding}, at most {LARGEST_TFC} expected")
        smallest = min(SMALLEST_PATH_MTU.values())
        if self.path_mtu is not None and self.path_mtu < smallest:
            raise ConfigError(f"path MTU {self.path_mtu}, at least {smallest} expected")
        if self.dummy_interval is not None and self.dummy_interval <= 0:
            raise ConfigError(f"dummies each {self.dummy_interval} s, more than 0 expected")


PLAIN = Processing()
"""What an entry has that says nothing."""
