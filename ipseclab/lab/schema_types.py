"""The kinds of value that files hold (seconds, names, addresses, ...), each with its check."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from ipseclab.crypto.signature import BY_NAME
from ipseclab.errors import ConfigError
from ipseclab.ike.configuration import AddressPool, check_domain
from ipseclab.ike.proposals import parse_ah_proposal, parse_esp_proposal, parse_ike_proposal
from ipseclab.lab.model import NetworkSelector
from ipseclab.lab.secret_text import check_secret
from ipseclab.lab.units import Quantity, parse_quantity, parse_size
from ipseclab.lab.yaml_source import one_of

SMALLEST_MTU = 576
LARGEST_MTU = 65535
LOWEST_SPI = 256
"""RFC 4303 section 2.1: IANA keeps those below."""
MOST_NODES = 25_000
MOST_LINKS = 50_000
MOST_CONNECTIONS = 200_000
"""Every two of 448 gateways are 100,128."""
MOST_FAULTS = 100
MOST_ATTACKS = 100
MOST_AUTHORITIES = 16
MOST_DAYS = 36_500
MOST_ROUNDS = 4
"""Of one end's authentication (RFC 4739)."""

# An interface is `<node>-eth<k>`, and Linux has room for 15 characters.
NodeName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=9)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]


def _quantity(kind: Quantity) -> tuple[BeforeValidator, WithJsonSchema]:
    schema: dict[str, Any] = {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": kind.pattern},
        ],
        "description": kind.expected,
    }
    return BeforeValidator(lambda value: parse_quantity(value, kind)), WithJsonSchema(schema)


_TIME, _TIME_SCHEMA = _quantity(Quantity.TIME)
_RATE, _RATE_SCHEMA = _quantity(Quantity.RATE)
_SHARE, _SHARE_SCHEMA = _quantity(Quantity.PROBABILITY)
_SIZE_SCHEMA = _quantity(Quantity.SIZE)[1]

Seconds = Annotated[float, _TIME, _TIME_SCHEMA]
Rate = Annotated[float, Field(gt=0), _RATE, _RATE_SCHEMA]
Probability = Annotated[float, _SHARE, _SHARE_SCHEMA]
Octets = Annotated[int, BeforeValidator(parse_size), _SIZE_SCHEMA]


def _text_to(kind: Callable[[str], Any], expected: str) -> BeforeValidator:
    def convert(value: object) -> Any:
        if isinstance(value, str):
            try:
                return kind(value)
            except ValueError:
                pass
        raise ValueError(f"{value!r} is not usable, expected {expected}")

    return BeforeValidator(convert)


def _interface(text: str) -> IPv4Interface | IPv6Interface:
    if "/" not in text:
        raise ValueError("without a prefix length")
    return ip_interface(text)


Address = Annotated[
    IPv4Address,
    _text_to(IPv4Address, "an IPv4 address like 192.0.2.1"),
    WithJsonSchema({"type": "string", "format": "ipv4"}),
]
InterfaceAddress = Annotated[
    IPv4Interface | IPv6Interface,
    _text_to(_interface, "an IP address with prefix length like 192.0.2.1/24 or 2001:db8::1/64"),
    WithJsonSchema({"type": "string", "pattern": r"^([0-9.]+|[0-9a-fA-F:.]+)/[0-9]+$"}),
]
Selector = Annotated[
    NetworkSelector,
    _text_to(
        NetworkSelector.parse, "a network like 10.1.0.0/24, 10.1.0.0/24[tcp/80] or 2001:db8:1::/64"
    ),
    WithJsonSchema({"type": "string", "pattern": r"^[0-9a-fA-F:.]+(/[0-9]+)?(\[.*\])?$"}),
]


Secret = Annotated[str, Field(min_length=1), AfterValidator(check_secret)]
"""Octets as a text, or after 0x in hexadecimal."""


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _proposal(parse: Callable[[str], object]) -> BeforeValidator:
    def read(value: object) -> object:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is not a proposal, expected one like aes128gcm16-x25519")
        try:
            parse(value)
        except ConfigError as problem:
            raise ValueError(problem.problem) from problem
        return value

    return BeforeValidator(read)


def _each_in_a_list(value: object) -> object:
    return [_listed(item) for item in value] if isinstance(value, list) else value


def both_in_lists(value: object) -> object:
    """A list for each end, from one word for both ends or a pair of words and lists."""
    return _each_in_a_list([value, value] if isinstance(value, str) else value)


def a_pair_of(item: dict[str, Any], *further: dict[str, Any]) -> WithJsonSchema:
    """The schema of a pair of items and lists of them, or something else."""
    several = {"type": "array", "items": item, "minItems": 1, "maxItems": MOST_ROUNDS}
    ends = {"anyOf": [item, several]}
    pair = {"type": "array", "items": ends, "minItems": 2, "maxItems": 2}
    return WithJsonSchema({"anyOf": [*further, pair]})


def _scheme(value: object) -> object:
    if value not in BY_NAME:
        raise ValueError(
            f"{value!r} is not a signature scheme, {one_of(list(BY_NAME), str(value))}"
        )
    return value


ONE_OR_LIST = BeforeValidator(_listed)
SIGNATURE = BeforeValidator(_scheme)
IkeProposals = Annotated[
    list[Annotated[str, _proposal(parse_ike_proposal)]], Field(min_length=1), ONE_OR_LIST
]
EspProposals = Annotated[
    list[Annotated[str, _proposal(parse_esp_proposal)]], Field(min_length=1), ONE_OR_LIST
]
_Ids = Annotated[
    list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_ROUNDS)
]
IdPair = Annotated[
    list[_Ids],
    Field(min_length=2, max_length=2),
    BeforeValidator(_each_in_a_list),
    a_pair_of({"type": "string", "minLength": 1}),
]
AhProposals = Annotated[
    list[Annotated[str, _proposal(parse_ah_proposal)]], Field(min_length=1), ONE_OR_LIST
]
Selectors = Annotated[list[Selector], Field(min_length=1), ONE_OR_LIST]


def _pool(text: str) -> IPv4Network | IPv6Network:
    AddressPool.of_network(text)
    return ip_network(text)


PoolNetwork = Annotated[
    IPv4Network | IPv6Network,
    _text_to(_pool, "a network with room for hosts, like 10.9.0.0/24 or 2001:db8:9::/64"),
    WithJsonSchema({"type": "string"}),
]
IpText = Annotated[
    IPv4Address | IPv6Address,
    _text_to(ip_address, "an IP address like 10.2.0.53"),
    WithJsonSchema({"type": "string"}),
]
Domain = Annotated[
    str,
    _text_to(check_domain, "a domain like corp.example.org"),
    WithJsonSchema({"type": "string"}),
]


class Strict(BaseModel):
    """No unknown keys, nothing changed after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
