"""Configuration payloads as values: what a client asks for, what a gateway has to give.

RFC 7296 section 3.15 and RFC 8598 (split DNS). The payload's own form is in `wire.identity`; the
exchange in `authentication.internal_address`.

    HDR, SK {IDi, AUTH, CP(CFG_REQUEST), SAi2, TSi, TSr}  -->
                              <--  HDR, SK {IDr, AUTH, CP(CFG_REPLY), SAr2, TSi, TSr}
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Self

from ipseclab.errors import InvalidSyntax
from ipseclab.registry import CfgAttributeType, CfgType
from ipseclab.wire.payloads import CpAttribute, CpPayload

IP4_SIZE, IP6_SIZE = 4, 16
IP6_WITH_PREFIX = 17
"""RFC 7296 section 3.15.1: INTERNAL_IP6_ADDRESS and INTERNAL_IP6_SUBNET end in a prefix length."""
MAX_DNS = 8
MAX_DOMAINS = 40
MAX_SUBNETS = 40
"""How many of a gateway's name servers, domains and subnets a client takes; more are ignored."""
_DOMAIN = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*"
)


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Addresses of one family, `first` to `last` as octets; connections may share a pool, which is
    known by its value. `prefix`: of the network that they are in."""

    first: bytes
    last: bytes
    prefix: int

    @classmethod
    def of_network(cls, text: str) -> Self:
        """All hosts of a network such as 10.9.0.0/24. Raises ValueError when it has none."""
        network = ip_network(text)
        # The first address is the network's, or that of the subnet's routers (RFC 4291 section
        # 2.6.1); the last one is the broadcast address in IPv4.
        first = int(network.network_address) + 1
        last = int(network.broadcast_address) - (network.version == 4)
        if last < first:
            raise ValueError(f"network {text} has no room for hosts")
        size = network.max_prefixlen // 8
        return cls(first.to_bytes(size, "big"), last.to_bytes(size, "big"), network.prefixlen)

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return int.from_bytes(self.last, "big") - int.from_bytes(self.first, "big") + 1

    def address(self, index: int) -> bytes:
        """The address number `index`, from 0."""
        return (int.from_bytes(self.first, "big") + index).to_bytes(len(self.first), "big")

    def __contains__(self, address: bytes) -> bool:
        return len(address) == len(self.first) and self.first <= address <= self.last

    def __str__(self) -> str:
        return f"{ip_address(self.first)}-{ip_address(self.last)}"


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """What an initiator asks for: an address of either family, which may be one that it would like
    to have again, and how to find names."""

    ip4: bool = True
    ip6: bool = False
    wanted: tuple[str, ...] = ()
    dns: bool = True

    def payload(self) -> CpPayload:
        """CFG_REQUEST. An attribute without a value asks for one."""
        kinds = CfgAttributeType
        attributes: list[CpAttribute] = []
        wanted = {len(packed): packed for packed in map(_packed, self.wanted)}
        if self.ip4:
            attributes.append(CpAttribute(kinds.INTERNAL_IP4_ADDRESS, wanted.get(IP4_SIZE, b"")))
            attributes.append(CpAttribute(kinds.INTERNAL_IP4_SUBNET))
        if self.ip6:
            value = wanted[IP6_SIZE] + bytes([128]) if IP6_SIZE in wanted else b""
            attributes.append(CpAttribute(kinds.INTERNAL_IP6_ADDRESS, value))
            attributes.append(CpAttribute(kinds.INTERNAL_IP6_SUBNET))
        if self.dns:
            families = ((self.ip4, kinds.INTERNAL_IP4_DNS), (self.ip6, kinds.INTERNAL_IP6_DNS))
            attributes.extend(CpAttribute(kind) for asked, kind in families if asked)
            attributes.append(CpAttribute(kinds.INTERNAL_DNS_DOMAIN))
        return CpPayload(CfgType.CFG_REQUEST, tuple(attributes))


@dataclass(frozen=True, slots=True)
class Provision:
    """What a gateway has for clients. `required`: a client without an address gets no CHILD_SA."""

    pools: tuple[AddressPool, ...] = ()
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    """Those whose names the servers in `dns` know (RFC 8598); none: they are for all names."""
    subnets: tuple[str, ...] = ()
    """Networks behind the gateway."""
    required: bool = False
    version: str = "ipseclab"
    """What APPLICATION_VERSION is answered with."""

    def reply(self, asked: CpPayload, addresses: tuple[bytes, ...]) -> CpPayload:
        """CFG_REPLY with those addresses and whatever else `asked` for."""
        types = dict.fromkeys(attribute.type for attribute in asked.attributes)
        found = [_address_attribute(address) for address in addresses]
        for kind in types:
            found += [CpAttribute(kind, value) for value in self._values(kind, addresses)]
        # RFC 8598 section 3.1: a domain is nothing without a server to ask.
        if not any(attribute.type in _DNS for attribute in found):
            found = [a for a in found if a.type != CfgAttributeType.INTERNAL_DNS_DOMAIN]
        return CpPayload(CfgType.CFG_REPLY, tuple(found))

    def _values(self, kind: CfgAttributeType, addresses: tuple[bytes, ...]) -> list[bytes]:
        kinds = CfgAttributeType
        match kind:
            case kinds.INTERNAL_IP4_NETMASK:
                pools = [pool for pool in self.pools for address in addresses if address in pool]
                return [_netmask(pool.prefix) for pool in pools if len(pool.first) == IP4_SIZE]
            case kinds.INTERNAL_IP4_DNS | kinds.INTERNAL_IP6_DNS:
                size = IP4_SIZE if kind == kinds.INTERNAL_IP4_DNS else IP6_SIZE
                return [packed for packed in map(_packed, self.dns) if len(packed) == size]
            case kinds.INTERNAL_IP4_SUBNET | kinds.INTERNAL_IP6_SUBNET:
                version = 4 if kind == kinds.INTERNAL_IP4_SUBNET else 6
                networks = map(ip_network, self.subnets)
                return [_subnet(network) for network in networks if network.version == version]
            case kinds.INTERNAL_DNS_DOMAIN:
                return [domain.encode() for domain in self.domains]
            case kinds.APPLICATION_VERSION:
                return [self.version.encode()]
            case kinds.SUPPORTED_ATTRIBUTES:
                return [b"".join(int(known).to_bytes(2, "big") for known in SUPPORTED)]
            case _:
                return []


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a client was given."""

    addresses: tuple[bytes, ...]
    dns: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()

    @classmethod
    def of_reply(cls, reply: CpPayload, asked: AddressRequest) -> Self:
        """What a CFG_REPLY says of what was `asked`. Raises InvalidSyntax for values of a wrong
        size."""
        kinds = CfgAttributeType
        values: dict[CfgAttributeType, list[bytes]] = {}
        for attribute in reply.attributes:
            values.setdefault(attribute.type, []).append(_checked(attribute))
        ip4 = values.get(kinds.INTERNAL_IP4_ADDRESS, [])[:1] if asked.ip4 else []
        ip6 = values.get(kinds.INTERNAL_IP6_ADDRESS, [])[:1] if asked.ip6 else []
        servers = [address for kind in _DNS for address in values.get(kind, ())]
        subnets = [
            *map(_network4, values.get(kinds.INTERNAL_IP4_SUBNET, ())),
            *map(_network6, values.get(kinds.INTERNAL_IP6_SUBNET, ())),
        ]
        domains = values.get(kinds.INTERNAL_DNS_DOMAIN, ()) if servers and asked.dns else ()
        return cls(
            addresses=(*ip4, *(address[:IP6_SIZE] for address in ip6)),
            dns=tuple(str(ip_address(server)) for server in servers[:MAX_DNS] if asked.dns),
            domains=tuple(map(_domain, domains[:MAX_DOMAINS])),
            subnets=tuple(subnets[:MAX_SUBNETS]),
        )


def wanted_address(attribute: CpAttribute) -> bytes:
    """The address that a client would like to have; empty when it does not care."""
    sizes = {
        CfgAttributeType.INTERNAL_IP4_ADDRESS: IP4_SIZE,
        CfgAttributeType.INTERNAL_IP6_ADDRESS: IP6_WITH_PREFIX,
    }
    if len(attribute.value) != sizes[attribute.type] or not any(attribute.value):
        return b""
    return attribute.value[:IP6_SIZE]


_DNS = (CfgAttributeType.INTERNAL_IP4_DNS, CfgAttributeType.INTERNAL_IP6_DNS)
SUPPORTED = (
    CfgAttributeType.INTERNAL_IP4_ADDRESS,
    CfgAttributeType.INTERNAL_IP4_NETMASK,
    CfgAttributeType.INTERNAL_IP4_DNS,
    CfgAttributeType.APPLICATION_VERSION,
    CfgAttributeType.INTERNAL_IP6_ADDRESS,
    CfgAttributeType.INTERNAL_IP6_DNS,
    CfgAttributeType.INTERNAL_IP4_SUBNET,
    CfgAttributeType.SUPPORTED_ATTRIBUTES,
    CfgAttributeType.INTERNAL_IP6_SUBNET,
    CfgAttributeType.INTERNAL_DNS_DOMAIN,
)
_SIZES = {
    CfgAttributeType.INTERNAL_IP4_ADDRESS: IP4_SIZE,
    CfgAttributeType.INTERNAL_IP4_NETMASK: IP4_SIZE,
    CfgAttributeType.INTERNAL_IP4_DNS: IP4_SIZE,
    CfgAttributeType.INTERNAL_IP4_SUBNET: 2 * IP4_SIZE,
    CfgAttributeType.INTERNAL_IP6_ADDRESS: IP6_WITH_PREFIX,
    CfgAttributeType.INTERNAL_IP6_DNS: IP6_SIZE,
    CfgAttributeType.INTERNAL_IP6_SUBNET: IP6_WITH_PREFIX,
}


def _checked(attribute: CpAttribute) -> bytes:
    size = _SIZES.get(attribute.type)
    if size is not None and len(attribute.value) != size:
        held = f"{attribute.type.name} of {len(attribute.value)} octets"
        raise InvalidSyntax(f"{held} in CFG_REPLY, must be {size}")
    return attribute.value


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _address_attribute(address: bytes) -> CpAttribute:
    if len(address) == IP4_SIZE:
        return CpAttribute(CfgAttributeType.INTERNAL_IP4_ADDRESS, address)
    return CpAttribute(CfgAttributeType.INTERNAL_IP6_ADDRESS, address + bytes([128]))


def _netmask(prefix: int) -> bytes:
    return (((1 << prefix) - 1) << (32 - prefix)).to_bytes(IP4_SIZE, "big")


def _subnet(network: IPv4Network | IPv6Network) -> bytes:
    tail = network.netmask.packed if network.version == 4 else bytes([network.prefixlen])
    return network.network_address.packed + tail


def _network4(value: bytes) -> str:
    mask = int.from_bytes(value[IP4_SIZE:], "big")
    prefix = mask.bit_count()
    if mask != int.from_bytes(_netmask(prefix), "big"):
        raise InvalidSyntax(f"INTERNAL_IP4_SUBNET with netmask {value[IP4_SIZE:].hex()}")
    return str(IPv4Network((value[:IP4_SIZE], prefix), strict=False))


def _network6(value: bytes) -> str:
    if value[IP6_SIZE] > 8 * IP6_SIZE:
        raise InvalidSyntax(f"INTERNAL_IP6_SUBNET with a prefix of {value[IP6_SIZE]} bits")
    return str(IPv6Network((value[:IP6_SIZE], value[IP6_SIZE]), strict=False))


def check_domain(text: str) -> str:
    """`text` when it is a domain as RFC 8598 section 3.1 writes it: no dot at the end, IDNs as
    A-labels. Raises ValueError."""
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no domain")
    return text


def _domain(value: bytes) -> str:
    # It ends up in a file that others read: nothing but a name may come through.
    try:
        return check_domain(value.decode("ascii"))
    except ValueError as error:
        raise InvalidSyntax(f"INTERNAL_DNS_DOMAIN: {error}") from None
