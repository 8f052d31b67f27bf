"""What the IKE endpoint tells the gateway about CHILD_SAs, beside the plain outputs.

IKE and the datapath do not know each other (RFC 4301 keeps key management and processing apart):
`gateway.py` alone turns these into changes of the SAD.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ipseclab.crypto.protection import Suite
from ipseclab.ike.child_options import NO_OPTIONS, ChildOptions
from ipseclab.ike.config import ConnectionConfig, Mode
from ipseclab.outputs import Output, SendMessage, UdpPath
from ipseclab.wire.proposal import Proposal
from ipseclab.wire.selector import TrafficSelector


@dataclass(frozen=True, slots=True)
class ChildSaReady:
    """A CHILD_SA with its keys. `path` is the IKE_SA's, `encapsulate` whether ESP goes in UDP.

    `use_outbound` False: accept on it, send on it only when the peer has, or when there is no
    other and `hold` seconds have passed (RFC 7296 section 2.8)."""

    connection: ConnectionConfig
    spi_in: bytes
    spi_out: bytes
    mode: Mode
    own_ts: tuple[TrafficSelector, ...]
    peer_ts: tuple[TrafficSelector, ...]
    proposal: Proposal
    suite: Suite
    encr_key_in: bytes = field(repr=False)
    integ_key_in: bytes = field(repr=False)
    encr_key_out: bytes = field(repr=False)
    integ_key_out: bytes = field(repr=False)
    path: UdpPath
    encapsulate: bool
    use_outbound: bool
    hold: float
    resource: int = 0
    """Which of several SAs with the same selectors (RFC 9611)."""
    options: ChildOptions = NO_OPTIONS
    mobile: bool = False
    """True where addresses change by MOBIKE: what comes from others says nothing of the peer."""


@dataclass(frozen=True, slots=True)
class ChildSaActive:
    """The CHILD_SA may carry outbound traffic now."""

    spi_in: bytes


@dataclass(frozen=True, slots=True)
class ChildSaGone:
    """Outbound half gone at once, inbound half after `linger` seconds."""

    spi_in: bytes
    reason: str
    linger: float = 0.0


@dataclass(frozen=True, slots=True)
class ChildSaMoved:
    """The addresses of the two ends changed (RFC 7296 section 2.23, RFC 4555); `encapsulate`:
    whether ESP goes in UDP now."""

    spi_in: bytes
    path: UdpPath
    encapsulate: bool


IkeOutput = Output | SendMessage | ChildSaReady | ChildSaActive | ChildSaGone | ChildSaMoved
