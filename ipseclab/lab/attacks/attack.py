"""What an attack is: which of the packets that cross an attacker it is about, and what is done.

The threats are those of RFC 3552 section 3 (passive: reading; active: replay, insertion, deletion,
modification, man in the middle) and, against IKE, the downgrade of RFC 7296 section 2.15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Literal, get_args

from ipseclab.lab.faults.fault import Exchange, MessageKind

AttackName = Literal[
    "read",
    "drop",
    "alter",
    "downgrade",
    "delay",
    "reorder",
    "replay",
    "spoof",
    "forge",
    "insert",
]
ATTACK_NAMES: tuple[str, ...] = get_args(AttackName)
Traffic = Literal["any", "data", "plain", "esp", "ah", "ike"]
"""`data`: all but IKE and its keepalives; `plain`: what no IPsec protects."""
Field = Literal["dscp", "ttl", "source", "destination", "spi", "sequence", "payload", "icv"]


@dataclass(frozen=True, slots=True)
class Attack:
    """One rule of the attacker at `node`.

    A packet is meant when all of the first block fits; of those `nth` (from 1; none: each) and
    `every` pick by number. `probability` is drawn for each packet picked. Times are seconds after
    the start of the run. What the fields of the second block are for depends on `do`.
    """

    name: str
    node: str
    do: AttackName
    traffic: Traffic = "any"
    link: str | None = None
    """That by which the packet comes to the attacker."""
    exchange: Exchange | None = None
    kind: MessageKind | None = None
    protocol: int | None = None
    port: int | None = None
    """Of source or destination."""
    source: IPv4Network | None = None
    destination: IPv4Network | None = None
    spi: bytes | None = None
    start: float = 0.0
    end: float = math.inf
    nth: tuple[int, ...] = ()
    every: int = 1
    probability: float = 1.0

    delay: float = 0.0
    """Of delay, and between the copies of replay."""
    times: int = 1
    """Copies of replay, packets of forge, insert and spoof for each one meant."""
    after: int = 1
    """How many later packets overtake one that is reordered."""
    field: Field | None = None
    octet: int | None = None
    """What alter changes: a field, or the octet at an offset, negative from the end."""
    mask: bytes = b"\x01"
    """The bits that alter turns over, from there on."""
    repair: bool = True
    """Whether alter makes the checksums right again that anybody can compute."""
    address: IPv4Address | None = None
    """The source that spoof gives."""
    ends: tuple[IPv4Address, IPv4Address] | None = None
    """Source and destination of what insert makes."""
    receiver: str | None = None
    """The node that insert's packets go to."""
    ahead: int = 1
    """How far the sequence number of a forged packet is ahead of that seen."""
    octets: int | None = None
    """Size of what forge and insert put into a packet; None: as much as there was, or 64."""
    strip: tuple[tuple[int, int, int | None], ...] = ()
    """What downgrade takes out of an SA payload: transform type, ID and key length."""
    notifies: tuple[int, ...] = ()
    """And the Notify payloads that it takes out."""
