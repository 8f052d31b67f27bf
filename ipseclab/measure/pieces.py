"""Packets of a capture that go in several: put together, and what crossed whole or in fragments.

RFC 791 section 3.2, RFC 8200 section 4.5; RFC 4301 appendix D for fragments inside and outside of
protection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Generic, TypeVar

from ipseclab.ipsec.counters import Dropped
from ipseclab.ipsec.fragments import Reassembler, datagram_of
from ipseclab.wire.ipv6 import decode_ip_header

MOST_WAITING = 1024
"""Packets of an interface that are not whole yet; what a lost fragment leaves gives way."""
MOST_WAITING_OCTETS = 16_777_216

_Carrier = TypeVar("_Carrier")


@dataclass(frozen=True, slots=True)
class Whole(Generic[_Carrier]):
    """A packet as its source sent it: what carried it, in how many pieces, and the octets of all
    their IP headers."""

    packet: bytes
    carriers: tuple[_Carrier, ...]
    pieces: int
    headers: int

    @property
    def body(self) -> bytes:
        """What follows the IP header."""
        header = decode_ip_header(self.packet)
        return self.packet[header.header_length : header.total_length]


@dataclass(slots=True)
class _Begun(Generic[_Carrier]):
    carriers: list[_Carrier]
    octets: int = 0


class Pieces(Generic[_Carrier]):
    """The packets of one place, fragments among them, each with what carried it."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._reassembler = Reassembler(MOST_WAITING, MOST_WAITING_OCTETS, inf)
        self._begun: dict[bytes, _Begun[_Carrier]] = {}

    def take(self, packet: bytes, carrier: _Carrier) -> Whole[_Carrier] | None:
        """The whole packet, when this was the last piece that it lacked. Raises WireError."""
        header = decode_ip_header(packet)
        if not header.is_fragment:
            whole = packet[: header.total_length]
            return Whole(whole, (carrier,), 1, header.header_length)
        if len(self._begun) >= MOST_WAITING:
            self._begin()
        key = datagram_of(packet)
        begun = self._begun.setdefault(key, _Begun([]))
        try:
            joined = self._reassembler.add(packet, 0.0)
        except Dropped:
            return None  # a copy, or pieces of two packets under one number
        begun.carriers.append(carrier)
        begun.octets += header.total_length
        if joined is None:
            return None
        del self._begun[key]
        body = len(joined) - decode_ip_header(joined).header_length
        carriers = tuple(begun.carriers)
        return Whole(joined, carriers, len(carriers), begun.octets - body)


@dataclass(slots=True)
class Crossings:
    """The largest packets of the protected side that were seen at two interfaces: in one piece, or
    in fragments outside or inside of protection."""

    largest_whole: int = 0
    largest_in_fragments: int = 0
    _first: dict[bytes, tuple[str, bool]] = field(default_factory=dict)

    def seen(self, mark: bytes, interface: str, octets: int, *, in_pieces: bool) -> None:
        """A packet at an interface; `mark` is its own."""
        before = self._first.setdefault(mark, (interface, in_pieces))
        if before[0] == interface:
            return
        if in_pieces or before[1]:
            self.largest_in_fragments = max(self.largest_in_fragments, octets)
        else:
            self.largest_whole = max(self.largest_whole, octets)
