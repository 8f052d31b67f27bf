"""What a link lets nobody send through it: a firewall by protocol and port.

Packets are looked at one by one, without state. Of a packet in fragments the first one has the
ports; without it the others come to nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from ipseclab.errors import WireError
from ipseclab.registry import IpProtocol
from ipseclab.wire.ipv6 import decode_ip_header

MOST_RULES = 16
LAST_PORT = 65_535
_WITH_PORTS = (int(IpProtocol.TCP), int(IpProtocol.UDP))
_RULE = re.compile(r"([a-z]+|[0-9]{1,3})(?:/([0-9]{1,5})(?:-([0-9]{1,5}))?)?")


@dataclass(frozen=True, slots=True)
class Blocked:
    """One IP protocol, of TCP and UDP perhaps only from or to some ports: ``udp``, ``udp/4500``,
    ``tcp/1-1023``, ``esp``, ``50``."""

    protocol: int
    ports: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        match = _RULE.fullmatch(text.lower())
        if match is None:
            raise ValueError(
                f"{text!r} is no rule, expected a protocol, or one with ports: udp/500"
            )
        protocol = _protocol(match[1])
        if match[2] is None:
            return cls(protocol)
        first, last = int(match[2]), int(match[3] if match[3] is not None else match[2])
        if protocol not in _WITH_PORTS or not first <= last <= LAST_PORT:
            raise ValueError(f"{text!r} has no ports that there could be, expected udp/500-4500")
        return cls(protocol, (first, last))

    def __str__(self) -> str:
        known = [one.name for one in IpProtocol if one.value == self.protocol]
        name = known[0].lower() if known else str(self.protocol)
        return name if self.ports is None else f"{name}/{self.ports[0]}-{self.ports[1]}"

    def stops(self, packet: bytes) -> bool:
        """Whether the packet does not pass."""
        try:
            header = decode_ip_header(packet)
        except WireError:
            return False
        if header.protocol != self.protocol:
            return False
        if self.ports is None:
            return True
        start = header.header_length
        if header.fragment_offset or len(packet) < start + 4:
            return False
        first, last = self.ports
        ends = (packet[at : at + 2] for at in (start, start + 2))
        return any(first <= int.from_bytes(port, "big") <= last for port in ends)


def _protocol(text: str) -> int:
    try:
        number = int(text) if text.isdecimal() else IpProtocol[text.upper()].value
    except KeyError:
        raise ValueError(f"{text!r} is no protocol, expected udp, tcp, esp, ...") from None
    if not 0 < number < 256:
        raise ValueError(f"protocol {number}, expected 1 to 255")
    return number


def parse_rules(value: object) -> tuple[Blocked, ...]:
    """The rules of a text, separated by blanks or commas, or of a list; ``none`` is none. Raises
    ValueError."""
    if isinstance(value, str):
        words = [] if value.strip() == "none" else re.split(r"[\s,]+", value.strip())
    elif isinstance(value, list | tuple):
        words = [str(item) for item in value]
    else:
        raise ValueError(f"{value!r} is no rule, expected a list such as [udp, tcp/22]")
    if len(words) > MOST_RULES:
        raise ValueError(f"{len(words)} rules, expected {MOST_RULES} at most")
    return tuple(Blocked.parse(word) for word in words)
