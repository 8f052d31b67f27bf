"""What a topology or an experiment file says of an attacker's attacks."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from ipseclab.crypto.names import transform_named
from ipseclab.lab.attacks.attack import AttackName, Traffic
from ipseclab.lab.attacks.attack import Field as FieldName
from ipseclab.lab.faults.fault import Exchange, MessageKind
from ipseclab.lab.model import protocol_number
from ipseclab.lab.schema_faults import Notify, Nth
from ipseclab.lab.schema_types import (
    MOST_ATTACKS,
    ONE_OR_LIST,
    Name,
    NodeName,
    Probability,
    Seconds,
    Strict,
)

MOST_COPIES = 1000
MOST_AHEAD = 2**31
LARGEST_FORGED = 1400
SPI_OCTETS = 4


def _network(value: object) -> object:
    try:
        return IPv4Network(value) if isinstance(value, str) else _refused(value)
    except ValueError:
        return _refused(value)


def _refused(value: object) -> object:
    raise ValueError(f"{value!r} is not usable, expected an IPv4 network like 10.1.0.0/24")


def _octets(value: object) -> object:
    # YAML takes 01 and 10 for numbers: whoever means digits has to say so.
    try:
        return bytes.fromhex(value) if isinstance(value, str) else _refused_octets(value)
    except ValueError:
        return _refused_octets(value)


def _refused_octets(value: object) -> object:
    raise ValueError(f"{value!r} is not usable, expected hexadecimal digits in quotes like '00ff'")


def _protocol(value: object) -> object:
    try:
        return protocol_number(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is no protocol, expected udp, tcp, icmp or a number") from None


def _word(value: object) -> object:
    if not isinstance(value, str) or transform_named(value) is None:
        raise ValueError(f"{value!r} is no algorithm, expected one like aes256gcm16 or x25519")
    return value


def _sender(value: object) -> object:
    if isinstance(value, str) and value[:1].isdecimal():
        try:
            return IPv4Address(value)
        except ValueError:
            raise ValueError(f"{value!r} is not usable, expected a node or an address") from None
    return value


HexOctets = Annotated[bytes, BeforeValidator(_octets), WithJsonSchema({"type": "string"})]
Network = Annotated[IPv4Network, BeforeValidator(_network), WithJsonSchema({"type": "string"})]
Protocol = Annotated[
    int, BeforeValidator(_protocol), WithJsonSchema({"type": ["string", "integer"]})
]
Word = Annotated[str, BeforeValidator(_word)]
Sender = Annotated[
    IPv4Address | NodeName, BeforeValidator(_sender), WithJsonSchema({"type": "string"})
]
Notifies = Annotated[
    list[Notify],
    Field(min_length=1),
    BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
]


class AttackFile(Strict):
    """An attack: which packets that cross the attacker it is about, and what is done."""

    name: Name | None = None
    """By default what it does and its number: drop-0."""
    node: NodeName
    do: AttackName
    traffic: Traffic = "any"
    link: Name | None = None
    """That by which the packets come to the attacker; by default any."""
    exchange: Exchange | None = None
    kind: MessageKind | None = None
    protocol: Protocol | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Of source or destination."""
    source: Network | None = None
    destination: Network | None = None
    spi: HexOctets | None = None
    start: Seconds = 0.0
    """Seconds after the start of the run; and until `end`."""
    end: Seconds | None = None
    nth: Nth | None = None
    """Which of the packets meant, counted from 1; by default each."""
    every: Annotated[int, Field(ge=1)] | None = None
    """Each so manieth of them."""
    probability: Probability = 1.0
    """Of those, the share that it befalls."""
    delay: Annotated[Seconds, Field(gt=0)] | None = None
    """For delay; for replay: before each copy."""
    times: Annotated[int, Field(ge=1, le=MOST_COPIES)] | None = None
    """For replay, spoof, forge and insert: packets for each one meant."""
    after: Annotated[int, Field(ge=1, le=MOST_COPIES)] | None = None
    """For reorder: how many later packets come before it."""
    field: FieldName | None = None
    """For alter."""
    octet: int | None = None
    """For alter: an offset in the IP packet, negative from the end."""
    mask: HexOctets | None = None
    """For alter: the bits turned over from there on, in hexadecimal; by default 01."""
    repair: bool | None = None
    """For alter: whether checksums are made to fit; by default they are."""
    sender: Sender | None = None
    """For spoof and insert: the source that the packets claim, a node or an address."""
    receiver: NodeName | None = None
    """For insert: the host that they go to."""
    ahead: Annotated[int, Field(ge=1, le=MOST_AHEAD)] | None = None
    """For forge: how far its sequence numbers are ahead of the one seen."""
    octets: Annotated[int, Field(ge=0, le=LARGEST_FORGED)] | None = None
    """For forge and insert: octets put in behind the headers."""
    strip: Annotated[list[Word], Field(min_length=1), ONE_OR_LIST] | None = None
    """For downgrade: algorithms taken out of SA payloads."""
    notify: Notifies | None = None
    """For downgrade: Notify payloads taken out."""

    @model_validator(mode="after")
    def _fits(self) -> AttackFile:
        needs, may = _NEEDS.get(self.do, ()), _MAY.get(self.do, ())
        for key in _KEYS:
            if getattr(self, key) is not None and key not in (*needs, *may):
                raise ValueError(f"{self.do} has no use for {key}, expected it left out")
        for key in needs:
            if getattr(self, key) is None:
                raise ValueError(f"{self.do} without {key}, expected it here")
        for one in _ONE_OF.get(self.do, ()):
            if all(getattr(self, key) is None for key in one):
                raise ValueError(f"{self.do} changes nothing, expected {' or '.join(one)}")
        if self.field is not None and self.octet is not None:
            raise ValueError("alter at two places, expected field or octet")
        if self.spi is not None and len(self.spi) != SPI_OCTETS:
            raise ValueError(f"spi of {len(self.spi)} octets, expected {SPI_OCTETS}")
        if self.mask is not None and not any(self.mask):
            raise ValueError("mask without a bit, expected one like 01 or ff00")
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end: {self.end:g} s, expected it after start ({self.start:g} s)")
        if self.nth is not None and self.every is not None:
            raise ValueError("nth and every, expected one of them")
        return self


Attacks = Annotated[list[AttackFile], Field(max_length=MOST_ATTACKS)]

_KEYS = (
    "delay", "times", "after", "field", "octet", "mask", "repair", "sender", "receiver", "ahead",
    "octets", "strip", "notify",
)  # fmt: skip
"""Keys that only some attacks have."""
_NEEDS: dict[str, tuple[str, ...]] = {
    "delay": ("delay",),
    "spoof": ("sender",),
    "insert": ("sender", "receiver"),
}
_MAY: dict[str, tuple[str, ...]] = {
    "alter": ("field", "octet", "mask", "repair"),
    "reorder": ("after",),
    "replay": ("delay", "times"),
    "spoof": ("times",),
    "forge": ("times", "ahead", "octets"),
    "insert": ("times", "octets"),
    "downgrade": ("strip", "notify"),
}
_ONE_OF: dict[str, tuple[tuple[str, ...], ...]] = {
    "alter": (("field", "octet"),),
    "downgrade": (("strip", "notify"),),
}
