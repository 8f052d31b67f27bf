"""What the datapath tells its owner beyond packets: the gateway turns these into IKE exchanges."""

from __future__ import annotations

from dataclasses import dataclass

from ipseclab.outputs import DeliverPacket, Notice, SendDatagram, SendMessage, SendPacket, UdpPath
from ipseclab.wire.ip import Flow


@dataclass(frozen=True, slots=True)
class Acquire:
    """A packet of `flow` matched PROTECT and found no SA: `connection` is wanted.

    The packet waits.
    """

    policy: str
    connection: str
    flow: Flow


@dataclass(frozen=True, slots=True)
class SoftExpired:
    """Time to rekey (RFC 4301 section 4.4.2.1); `why` is ``seconds``, ``octets``, ``packets`` or
    ``sequence``. Told once an SA."""

    spi_in: bytes
    why: str


@dataclass(frozen=True, slots=True)
class HardExpired:
    """The SA neither sends nor accepts from now on; its owner removes it. Told once an SA."""

    spi_in: bytes
    why: str


@dataclass(frozen=True, slots=True)
class PeerSeen:
    """An authenticated, newest-so-far packet of this SA came along another path than the SA's
    (RFC 7296 section 2.23). The datapath goes on sending to the old one until `move`."""

    spi_in: bytes
    path: UdpPath


@dataclass(frozen=True, slots=True)
class OwnDatagram:
    """A datagram to an IKE port of this end's came in fragments and is whole: `data` is for whoever
    takes datagrams."""

    path: UdpPath
    data: bytes


DatapathOutput = (
    SendDatagram
    | SendMessage
    | SendPacket
    | DeliverPacket
    | Notice
    | Acquire
    | SoftExpired
    | HardExpired
    | PeerSeen
    | OwnDatagram
)
