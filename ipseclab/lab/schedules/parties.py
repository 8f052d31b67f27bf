"""The gateways of a schedule: a chain of two or three, each with its neighbours as peers.

    a ---- b ---- c        a may be behind a NAT

Unless `Terms` gives them some, their connections have no lifetimes, since a schedule itself says
what happens when; they give up after seconds rather than minutes, and ask for a sign of life, so
that all comes to rest soon.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address
from typing import NamedTuple

from ipseclab.gateway import GatewayConfig
from ipseclab.ike.config import (
    ConnectionConfig,
    Identity,
    IkeConfig,
    IkeLimits,
    Lifetime,
    Retransmission,
)
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.registry import IdType, IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

NAMES = ("a", "b", "c")
ADDRESSES = ("192.0.2.1", "198.51.100.1", "203.0.113.1")
SECOND_ADDRESSES = ("192.0.2.9", "198.51.100.9", "203.0.113.9")
"""Where each can be as well, on connections with MOBIKE."""
NAT_ADDRESS = "198.18.0.1"
"""Where a behind its NAT is seen."""
NETWORKS = ("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
HOSTS = tuple((IPv4Address(network.split("/")[0]) + 2).packed for network in NETWORKS)

RETRANSMISSION = Retransmission(timeout=0.5, base=1.6, tries=5)
"""Given up after 13 seconds."""
LIVENESS = 20.0
HALF_OPEN_TIMEOUT = 15.0

WHOLE, FRAGMENT_SIZE = 1280, 200
"""Octets of a packet: IKE_AUTH and CREATE_CHILD_SA take several."""
RESUMPTION = 600.0
UNLIMITED = Lifetime()

_SUITE = "aes128gcm16"
_GROUPS = ("x25519", "ecp256")
_FURTHER = "ke1_x448"


def links(count: int) -> tuple[tuple[int, int], ...]:
    """The neighbours among `count` gateways."""
    return tuple((left, left + 1) for left in range(count - 1))


def connection_between(first: int, second: int) -> str:
    """The name of their connection."""
    return "".join(NAMES[index] for index in sorted((first, second)))


class Limits(Enum):
    """What ends the SAs of a connection by itself: (CHILD_SAs, the IKE_SA, the authentication)."""

    NONE = (UNLIMITED, UNLIMITED, None)
    SECONDS = (Lifetime(seconds=16.0, margin=0.4), Lifetime(seconds=29.0, margin=0.4), None)
    PACKETS = (Lifetime(packets=12), Lifetime(seconds=24.0, margin=0.4), None)
    OCTETS = (Lifetime(octets=900), UNLIMITED, 21.0)


class Terms(NamedTuple):
    """What the connections of a chain are like."""

    nat: bool = False
    """The first gateway is behind one."""
    window: int = 1
    """Requests that each end lets the other have outstanding (RFC 7296 section 2.3)."""
    contrary: bool = False
    """CHILD_SAs have a key exchange of their own, and neighbours prefer different groups, so that
    each rekey is first answered INVALID_KE_PAYLOAD."""
    further: bool = False
    """Every SA but the first CHILD_SA takes two key exchanges (RFC 9370)."""
    liveness: float | None = LIVENESS
    limits: Limits = Limits.NONE
    """When SAs are rekeyed or authenticated anew by themselves."""
    fragments: bool = False
    """IKE messages go in small pieces (RFC 7383)."""
    mobike: bool = False
    """The ends' addresses may change (RFC 4555)."""
    resumption: bool = False
    """Tickets (RFC 5723), and tokens by which a crash is found out (RFC 6290)."""
    initial_contact: bool = True
    """Whether who has forgotten all says so (RFC 7296 section 2.4)."""


Chain = tuple[GatewayConfig, ...]


@lru_cache(1024)
def chain(count: int, terms: Terms) -> Chain:
    """What each of `count` gateways is told."""
    return tuple(_gateway(index, count, terms) for index in range(count))


def _gateway(own: int, count: int, terms: Terms) -> GatewayConfig:
    peers = [left + right - own for left, right in links(count) if own in (left, right)]
    connections = tuple(_connection(own, peer, terms) for peer in peers)
    policies = tuple(
        Policy(item.name, Action.PROTECT, item.own_ts, item.peer_ts, item.name)
        for item in connections
    )
    limits = IkeLimits(half_open_timeout=HALF_OPEN_TIMEOUT)
    secret = f"secret of {NAMES[own]}".encode() if terms.resumption else b""
    return GatewayConfig(IkeConfig(NAMES[own], connections, limits, secret=secret), policies)


def _connection(own: int, peer: int, terms: Terms) -> ConnectionConfig:
    own_id, peer_id = (
        Identity(IdType.ID_FQDN, f"{NAMES[index]}.example.org".encode()) for index in (own, peer)
    )
    groups = list(_GROUPS[:: -1 if own % 2 else 1] if terms.contrary else _GROUPS[:1])
    if terms.further:
        groups.append(_FURTHER)
    esp = "-".join([_SUITE, *groups]) if terms.contrary or terms.further else _SUITE
    child_lifetime, ike_lifetime, reauthentication = terms.limits.value
    mobike = Mobike(own=SECOND_ADDRESSES[own : own + 1], peer=SECOND_ADDRESSES[peer : peer + 1])
    return ConnectionConfig(
        name=connection_between(own, peer),
        own_address=ADDRESSES[own],
        peer_address=None if terms.nat and peer == 0 else ADDRESSES[peer],
        own_id=own_id,
        peer_id=peer_id,
        psk=b"of all schedules",
        ike_proposals=(parse_ike_proposal("-".join([_SUITE, "prfsha256", *groups])),),
        esp_proposals=(parse_esp_proposal(esp),),
        own_ts=(TrafficSelector.of_network(NETWORKS[own]),),
        peer_ts=(TrafficSelector.of_network(NETWORKS[peer]),),
        ike_lifetime=ike_lifetime,
        child_lifetime=child_lifetime,
        reauthentication=reauthentication,
        retransmission=RETRANSMISSION,
        liveness=terms.liveness,
        window=terms.window,
        fragment_size=FRAGMENT_SIZE if terms.fragments else WHOLE,
        mobike=(Mobike() if terms.nat else mobike) if terms.mobike else None,
        resumption=RESUMPTION if terms.resumption else None,
        crash_detection=terms.resumption,
        initial_contact=terms.initial_contact,
    )


def packet(source: int, destination: int, number: int) -> bytes:
    """A UDP packet from one's network to the other's, with a number in it."""
    ends = HOSTS[source], HOSTS[destination]
    datagram = build_udp(ends[0], 4000, ends[1], 4001, number.to_bytes(4, "big"))
    return build_ipv4(*ends, IpProtocol.UDP, datagram)


def number_of(octets: bytes) -> int:
    """The number in such a packet."""
    return int.from_bytes(octets[-4:], "big")
