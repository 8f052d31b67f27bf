"""The gateways of a schedule: a chain of two or three, each with its neighbours as peers.

    a ---- b ---- c        a may be behind a NAT

Their connections have no lifetimes, since a schedule itself says what happens when; they give up
after seconds rather than minutes, and ask for a sign of life, so that all comes to rest soon.
"""

from __future__ import annotations

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
from ipseclab.ike.proposals import parse_esp_proposal, parse_ike_proposal
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.registry import IdType, IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

NAMES = ("a", "b", "c")
ADDRESSES = ("192.0.2.1", "198.51.100.1", "203.0.113.1")
NAT_ADDRESS = "198.18.0.1"
"""Where a behind its NAT is seen."""
NETWORKS = ("10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24")
HOSTS = tuple((IPv4Address(network.split("/")[0]) + 2).packed for network in NETWORKS)

RETRANSMISSION = Retransmission(timeout=0.5, base=1.6, tries=5)
"""Given up after 13 seconds."""
LIVENESS = 20.0
HALF_OPEN_TIMEOUT = 15.0

_SUITE = "aes128gcm16"
_GROUPS = ("x25519", "ecp256")
_FURTHER = "ke1_x448"


def links(count: int) -> tuple[tuple[int, int], ...]:
    """The neighbours among `count` gateways."""
    return tuple((left, left + 1) for left in range(count - 1))


def connection_between(first: int, second: int) -> str:
    """The name of their connection."""
    return "".join(NAMES[index] for index in sorted((first, second)))


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


Chain = tuple[GatewayConfig, ...]


@lru_cache(64)
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
    return GatewayConfig(IkeConfig(NAMES[own], connections, limits), policies)


def _connection(own: int, peer: int, terms: Terms) -> ConnectionConfig:
    own_id, peer_id = (
        Identity(IdType.ID_FQDN, f"{NAMES[index]}.example.org".encode()) for index in (own, peer)
    )
    groups = list(_GROUPS[:: -1 if own % 2 else 1] if terms.contrary else _GROUPS[:1])
    if terms.further:
        groups.append(_FURTHER)
    esp = "-".join([_SUITE, *groups]) if terms.contrary or terms.further else _SUITE
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
        ike_lifetime=Lifetime(),
        child_lifetime=Lifetime(),
        retransmission=RETRANSMISSION,
        liveness=terms.liveness,
        window=terms.window,
    )


def packet(source: int, destination: int, number: int) -> bytes:
    """A UDP packet from one's network to the other's, with a number in it."""
    ends = HOSTS[source], HOSTS[destination]
    datagram = build_udp(ends[0], 4000, ends[1], 4001, number.to_bytes(4, "big"))
    return build_ipv4(*ends, IpProtocol.UDP, datagram)


def number_of(octets: bytes) -> int:
    """The number in such a packet."""
    return int.from_bytes(octets[-4:], "big")
