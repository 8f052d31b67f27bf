"""An IPv4 NAT without I/O: mapping and filtering kinds, time-outs, hairpinning, rebinding.

RFC 4787 (UDP), RFC 5382 (TCP), RFC 5508 (ICMP), in RFC 4787's words. The world hands in whole IPv4
packets that cross between inside and outside, and sends what comes back; packets between two inside
links are its own to forward. Left out: application gateways, address pooling (all mappings use one
outside address at a time), reassembly (fragments pass as they come, the first one first).
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address
from itertools import count

from ipseclab.errors import WireError
from ipseclab.lab.nat_packet import (
    TCP_FIN,
    TCP_RST,
    TCP_SYN,
    Endpoint,
    Packet,
    read_inside,
    read_packet,
    rewrite,
    rewrite_error,
)
from ipseclab.outputs import Notice
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST

MOST_SESSIONS = 1024
"""Remote ends remembered a mapping; the one longest known is forgotten first."""
MOST_FRAGMENTED = 64
"""Fragmented packets followed at a time."""
FRAGMENT_SECONDS = 15.0

_NAT_PROTOCOLS = (IpProtocol.UDP, IpProtocol.TCP, IpProtocol.ICMP)
# Plain integers: on the way of every packet an enum member costs a look-up and a conversion.
_UDP, _TCP = int(IpProtocol.UDP), int(IpProtocol.TCP)


class NatBehaviour(Enum):
    """RFC 4787 sections 4.1 and 5: what a mapping or a filter depends on."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"

    def part_of(self, remote: Endpoint) -> Endpoint | None:
        """The part of the remote end that counts."""
        match self:
            case NatBehaviour.ENDPOINT_INDEPENDENT:
                return None
            case NatBehaviour.ADDRESS_DEPENDENT:
                return Endpoint(remote.address, 0)
            case NatBehaviour.ADDRESS_AND_PORT_DEPENDENT:
                return remote


@dataclass(frozen=True, slots=True)
class NatConfig:
    """A NAT's settings; times in seconds.

    `udp_timeout`: RFC 4787 REQ-5 asks for 2 minutes or more, real ones are often shorter. Outbound
    packets always refresh a mapping, inbound ones with `inbound_refresh` (REQ-6). `tcp_timeout`:
    RFC 5382 REQ-5, an established connection; `tcp_transitory_timeout`: one being opened or closed.
    `icmp_timeout`: RFC 5508 REQ-2. `port_preservation` tries the inside port first, whatever the
    range. `esp_passthrough`: ESP from outside goes to whoever inside last sent to that address;
    `ah_passthrough` does that with AH, whose receiver then finds another address than its ICV
    covers (RFC 3715 section 2.1).
    """

    mapping: NatBehaviour = NatBehaviour.ENDPOINT_INDEPENDENT
    filtering: NatBehaviour = NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
    port_preservation: bool = True
    hairpinning: bool = True
    udp_timeout: float = 120.0
    inbound_refresh: bool = False
    tcp_timeout: float = 7440.0
    tcp_transitory_timeout: float = 240.0
    icmp_timeout: float = 60.0
    first_port: int = 1024
    last_port: int = 65535
    mappings: int = 4096
    esp_passthrough: bool = False
    ah_passthrough: bool = False


class NatDrop(Enum):
    """Why a packet was not passed; the reason in `nat_dropped`."""

    MALFORMED = "malformed"
    TTL_EXPIRED = "ttl_expired"
    NO_MAPPING = "no_mapping"
    FILTERED = "filtered"
    TABLE_FULL = "table_full"
    NO_PORT = "no_port"
    PROTOCOL = "protocol"
    NO_HAIRPIN = "no_hairpin"
    LOST_FRAGMENT = "lost_fragment"


class NatSide(Enum):
    """Where a packet goes."""

    INSIDE = "inside"
    OUTSIDE = "outside"


@dataclass(slots=True)
class NatResult:
    """What became of a packet: it goes `to` a side, or was `dropped`; and what to trace.

    One is made for each packet; freezing would make that cost four times as much.
    """

    packet: bytes | None
    to: NatSide | None
    dropped: NatDrop | None
    notices: tuple[Notice, ...] = ()


_INSIDE, _OUTSIDE = NatSide.INSIDE, NatSide.OUTSIDE


class _Refused(Exception):
    """Ends the way of a packet; answered in `_pass`."""

    def __init__(self, reason: NatDrop) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(slots=True)
class _Session:
    """Traffic of one mapping with one remote end."""

    expires_at: float
    syn_out: bool = False
    syn_in: bool = False
    fin_out: bool = False
    fin_in: bool = False
    reset: bool = False

    def note_tcp(self, flags: int, outbound: bool) -> None:
        """Follow the connection's opening and closing (RFC 5382 section 5)."""
        if flags & TCP_SYN:
            if self.reset or (self.fin_in and self.fin_out):
                self.fin_in = self.fin_out = self.reset = self.syn_in = self.syn_out = False
            self.syn_out, self.syn_in = self.syn_out or outbound, self.syn_in or not outbound
        if flags & TCP_FIN:
            self.fin_out, self.fin_in = self.fin_out or outbound, self.fin_in or not outbound
        self.reset = self.reset or bool(flags & TCP_RST)

    @property
    def established(self) -> bool:
        closed = self.reset or (self.fin_in and self.fin_out)
        return self.syn_out and self.syn_in and not closed


@dataclass(slots=True, eq=False)
class _Mapping:
    """One row of the table."""

    protocol: int
    inside: Endpoint
    remote_part: Endpoint | None
    outside: Endpoint
    expires_at: float
    live: bool = True
    sessions: dict[Endpoint, _Session] = field(default_factory=dict)

    @property
    def key(self) -> tuple[int, Endpoint, Endpoint | None]:
        return self.protocol, self.inside, self.remote_part


class Nat:
    """One NAT. `outside`: its public addresses, of which the first is used until a rebinding."""

    def __init__(
        self, config: NatConfig, *, outside: Iterable[bytes | IPv4Address], rng: random.Random
    ) -> None:
        self.config = config
        self._addresses = tuple(
            item.packed if isinstance(item, IPv4Address) else item for item in outside
        )
        self._address = self._addresses[0]
        self._rng = rng
        self._by_inside: dict[tuple[int, Endpoint, Endpoint | None], _Mapping] = {}
        self._by_outside: dict[tuple[int, Endpoint], _Mapping] = {}
        self._retired: dict[tuple[int, Endpoint], None] = {}
        self._timers: list[tuple[float, int, _Mapping]] = []
        self._numbers = count()
        self._fragments: dict[tuple[bytes, bytes, int, int], tuple[float, Endpoint, NatSide]] = {}
        self._portless: dict[tuple[int, bytes], tuple[float, bytes]] = {}
        """By protocol and remote address: who inside last sent there, and until when."""
        self._passes = tuple(
            protocol
            for protocol, passes in (
                (IpProtocol.ESP, config.esp_passthrough),
                (IpProtocol.AH, config.ah_passthrough),
            )
            if passes
        )

    @property
    def outside_address(self) -> IPv4Address:
        """The public address in use."""
        return IPv4Address(self._address)

    def __len__(self) -> int:
        return len(self._by_inside)

    def outbound(self, packet: bytes, now: float) -> NatResult:
        """Pass a packet that came from inside."""
        return self._pass(packet, now, _INSIDE)

    def inbound(self, packet: bytes, now: float) -> NatResult:
        """Pass a packet that came from outside."""
        return self._pass(packet, now, _OUTSIDE)

    def next_deadline(self) -> float | None:
        """When `expire` may have something to do."""
        return self._timers[0][0] if self._timers else None

    def expire(self, now: float) -> list[Notice]:
        """Forget the mappings whose time is over."""
        notices = []
        while self._timers and self._timers[0][0] <= now:
            _at, _number, mapping = heapq.heappop(self._timers)
            if not mapping.live:
                continue
            if mapping.expires_at > now:
                self._set_timer(mapping)
                continue
            self._remove(mapping)
            notices.append(_notice("nat_expired", mapping))
        return notices

    def rebind(self, now: float, address: IPv4Address | None = None) -> list[Notice]:
        """Forget all mappings, as a NAT does that restarts; new ones get other outside ends.

        With `address` (one of the pool) they also get another outside address. Raises ValueError
        when it is not in the pool.
        """
        if address is not None and address.packed not in self._addresses:
            raise ValueError(f"{address} is not an outside address of this NAT")
        notices = self.expire(now)
        self._retired = dict.fromkeys(self._by_outside)
        for mapping in list(self._by_inside.values()):
            self._remove(mapping)
            notices.append(_notice("nat_rebound", mapping))
        self._fragments.clear()
        self._portless.clear()
        if address is not None:
            self._address = address.packed
        return notices

    def _pass(self, octets: bytes, now: float, came_from: NatSide) -> NatResult:
        notices = self.expire(now) if self._timers and self._timers[0][0] <= now else []
        seen: Packet | None = None
        try:
            seen = read_packet(octets)
            octets = octets[: seen.total_length]
            if seen.ttl <= 1:
                raise _Refused(NatDrop.TTL_EXPIRED)
            if came_from is _INSIDE:
                packet, to = self._from_inside(octets, seen, now, notices)
            else:
                packet, to = self._from_outside(octets, seen, now), _INSIDE
        except WireError:
            return _drop(NatDrop.MALFORMED, seen, notices)
        except _Refused as refusal:
            return _drop(refusal.reason, seen, notices)
        return NatResult(packet, to, None, tuple(notices))

    # From inside to outside, or back inside (hairpinning).

    def _from_inside(
        self, octets: bytes, seen: Packet, now: float, notices: list[Notice]
    ) -> tuple[bytes, NatSide]:
        if seen.fragment_offset:
            end, to = self._fragment_end(seen, now)
            return rewrite(octets, seen, source=end), to
        if seen.is_icmp_error:
            return self._error_from_inside(octets, seen), NatSide.OUTSIDE
        if seen.protocol in self._passes:
            return self._portless_from_inside(octets, seen, now), NatSide.OUTSIDE
        _require_translatable(seen, ICMP_ECHO_REQUEST)
        mapping = self._mapping_for(seen, now, notices)
        self._refresh(mapping, seen.destination, seen, now, outbound=True)
        if seen.destination.address in self._addresses:
            return self._hairpin(octets, seen, mapping, now), NatSide.INSIDE
        if seen.more_fragments:
            self._follow_fragments(seen, mapping.outside, NatSide.OUTSIDE, now)
        return rewrite(octets, seen, source=mapping.outside), _OUTSIDE

    def _mapping_for(self, seen: Packet, now: float, notices: list[Notice]) -> _Mapping:
        part = self.config.mapping.part_of(seen.destination)
        mapping = self._by_inside.get((seen.protocol, seen.source, part))
        if mapping is not None:
            return mapping
        if len(self._by_inside) >= self.config.mappings:
            raise _Refused(NatDrop.TABLE_FULL)
        outside = self._free_end(seen.protocol, seen.source.port)
        expires_at = now + self._timeout(seen.protocol, None)
        mapping = _Mapping(seen.protocol, seen.source, part, outside, expires_at)
        self._by_inside[mapping.key] = mapping
        self._by_outside[seen.protocol, outside] = mapping
        self._set_timer(mapping)
        notices.append(_notice("nat_mapped", mapping, seen.destination))
        return mapping

    def _free_end(self, protocol: int, wanted: int) -> Endpoint:
        """An outside end not in use (RFC 4787 REQ-3: ports are not overloaded)."""
        if self.config.port_preservation:
            preserved = Endpoint(self._address, wanted)
            if self._is_free(protocol, preserved):
                return preserved
        first, size = self.config.first_port, self.config.last_port - self.config.first_port + 1
        start = self._rng.randrange(size)
        for step in range(size):
            candidate = Endpoint(self._address, first + (start + step) % size)
            if self._is_free(protocol, candidate):
                return candidate
        raise _Refused(NatDrop.NO_PORT)

    def _is_free(self, protocol: int, end: Endpoint) -> bool:
        key = (protocol, end)
        return key not in self._by_outside and key not in self._retired

    def _hairpin(self, octets: bytes, seen: Packet, mapping: _Mapping, now: float) -> bytes:
        """RFC 4787 REQ-9: back inside, from the sender's outside end."""
        if not self.config.hairpinning:
            raise _Refused(NatDrop.NO_HAIRPIN)
        target = self._by_outside.get((seen.protocol, seen.destination))
        if target is None:
            raise _Refused(NatDrop.NO_MAPPING)
        self._filter(target, mapping.outside, now)
        self._refresh(target, mapping.outside, seen, now, outbound=False)
        return rewrite(octets, seen, source=mapping.outside, destination=target.inside)

    def _error_from_inside(self, octets: bytes, seen: Packet) -> bytes:
        """RFC 5508 REQ-5: an ICMP error about a packet that went in."""
        about = read_inside(seen, octets)
        for mapping in self._by_inside.values():
            if (mapping.protocol, mapping.inside) == (about.protocol, about.destination) and (
                about.source in mapping.sessions
            ):
                return rewrite_error(
                    octets,
                    seen,
                    about,
                    source=mapping.outside,
                    inside_destination=mapping.outside,
                )
        raise _Refused(NatDrop.NO_MAPPING)

    def _portless_from_inside(self, octets: bytes, seen: Packet, now: float) -> bytes:
        remote = seen.protocol, seen.destination.address
        if remote not in self._portless and len(self._portless) >= self.config.mappings:
            raise _Refused(NatDrop.TABLE_FULL)
        self._portless[remote] = (now + self.config.udp_timeout, seen.source.address)
        return rewrite(octets, seen, source=Endpoint(self._address, 0))

    # From outside to inside.

    def _from_outside(self, octets: bytes, seen: Packet, now: float) -> bytes:
        if seen.destination.address != self._address:
            raise _Refused(NatDrop.NO_MAPPING)
        if seen.fragment_offset:
            end, _to = self._fragment_end(seen, now)
            return rewrite(octets, seen, destination=end)
        if seen.is_icmp_error:
            return self._error_from_outside(octets, seen)
        if seen.protocol in self._passes:
            return self._portless_from_outside(octets, seen, now)
        _require_translatable(seen, ICMP_ECHO_REPLY)
        mapping = self._by_outside.get((seen.protocol, seen.destination))
        if mapping is None:
            raise _Refused(NatDrop.NO_MAPPING)
        self._filter(mapping, seen.source, now)
        self._refresh(mapping, seen.source, seen, now, outbound=False)
        if seen.more_fragments:
            self._follow_fragments(seen, mapping.inside, NatSide.INSIDE, now)
        return rewrite(octets, seen, destination=mapping.inside)

    def _filter(self, mapping: _Mapping, remote: Endpoint, now: float) -> None:
        """RFC 4787 section 5: who may send in through a mapping."""
        match self.config.filtering:
            case NatBehaviour.ENDPOINT_INDEPENDENT:
                return
            case NatBehaviour.ADDRESS_DEPENDENT:
                allowed = any(
                    end.address == remote.address and session.expires_at > now
                    for end, session in mapping.sessions.items()
                )
            case NatBehaviour.ADDRESS_AND_PORT_DEPENDENT:
                session = mapping.sessions.get(remote)
                allowed = session is not None and session.expires_at > now
        if not allowed:
            raise _Refused(NatDrop.FILTERED)

    def _error_from_outside(self, octets: bytes, seen: Packet) -> bytes:
        """RFC 5508 REQ-4: an ICMP error about a packet that went out."""
        about = read_inside(seen, octets)
        mapping = self._by_outside.get((about.protocol, about.source))
        if mapping is None:
            raise _Refused(NatDrop.NO_MAPPING)
        return rewrite_error(
            octets, seen, about, destination=mapping.inside, inside_source=mapping.inside
        )

    def _portless_from_outside(self, octets: bytes, seen: Packet, now: float) -> bytes:
        remote = seen.protocol, seen.source.address
        expires_at, inside = self._portless.get(remote, (now, b""))
        if expires_at <= now:
            self._portless.pop(remote, None)
            raise _Refused(NatDrop.NO_MAPPING)
        return rewrite(octets, seen, destination=Endpoint(inside, 0))

    # Time.

    def _refresh(
        self, mapping: _Mapping, remote: Endpoint, seen: Packet, now: float, *, outbound: bool
    ) -> None:
        session = mapping.sessions.get(remote)
        tcp = mapping.protocol == _TCP
        if not (outbound or tcp or self.config.inbound_refresh):
            return
        if session is None:
            if len(mapping.sessions) >= MOST_SESSIONS:
                mapping.sessions.pop(next(iter(mapping.sessions)))
            session = mapping.sessions[remote] = _Session(now)
        if tcp:
            session.note_tcp(seen.tcp_flags, outbound)
        session.expires_at = now + self._timeout(mapping.protocol, session)
        if session.expires_at >= mapping.expires_at:
            mapping.expires_at = session.expires_at
        elif tcp:
            self._shorten(mapping)

    def _shorten(self, mapping: _Mapping) -> None:
        """A connection was closed: the mapping lives as long as its longest session."""
        longest = max(session.expires_at for session in mapping.sessions.values())
        if longest < mapping.expires_at:
            mapping.expires_at = longest
            self._set_timer(mapping)

    def _timeout(self, protocol: int, session: _Session | None) -> float:
        if protocol == _UDP:
            return self.config.udp_timeout
        if protocol == IpProtocol.ICMP:
            return self.config.icmp_timeout
        if session is not None and session.established:
            return self.config.tcp_timeout
        return self.config.tcp_transitory_timeout

    def _set_timer(self, mapping: _Mapping) -> None:
        heapq.heappush(self._timers, (mapping.expires_at, next(self._numbers), mapping))

    def _remove(self, mapping: _Mapping) -> None:
        mapping.live = False
        del self._by_inside[mapping.key]
        del self._by_outside[mapping.protocol, mapping.outside]

    # Fragments: RFC 4787 REQ-14, those that come in order.

    def _follow_fragments(self, seen: Packet, end: Endpoint, to: NatSide, now: float) -> None:
        if len(self._fragments) >= MOST_FRAGMENTED:
            self._fragments.pop(next(iter(self._fragments)))
        self._fragments[_fragment_key(seen)] = (now + FRAGMENT_SECONDS, end, to)

    def _fragment_end(self, seen: Packet, now: float) -> tuple[Endpoint, NatSide]:
        found = self._fragments.get(_fragment_key(seen))
        if found is None or found[0] <= now:
            raise _Refused(NatDrop.LOST_FRAGMENT)
        return found[1], found[2]


def _fragment_key(seen: Packet) -> tuple[bytes, bytes, int, int]:
    return seen.source.address, seen.destination.address, seen.identification, seen.protocol


def _require_translatable(seen: Packet, echo: int) -> None:
    if seen.protocol not in _NAT_PROTOCOLS:
        raise _Refused(NatDrop.PROTOCOL)
    if seen.protocol == IpProtocol.ICMP and seen.icmp_type != echo:
        # An echo request from outside is for the NAT itself, and it has no mapping.
        raise _Refused(NatDrop.NO_MAPPING)


def _drop(reason: NatDrop, seen: Packet | None, notices: list[Notice]) -> NatResult:
    details: dict[str, str | int | float | bool | None] = {"reason": reason.value}
    if seen is not None:
        details["source"] = str(seen.source)
        details["destination"] = str(seen.destination)
        details["protocol"] = IpProtocol(seen.protocol).name.lower()
    return NatResult(None, None, reason, (*notices, Notice("nat_dropped", details)))


def _notice(event: str, mapping: _Mapping, remote: Endpoint | None = None) -> Notice:
    return Notice(
        event,
        {
            "protocol": IpProtocol(mapping.protocol).name.lower(),
            "inside": str(mapping.inside),
            "outside": str(mapping.outside),
            "remote": str(remote if remote is not None else mapping.remote_part or "") or None,
        },
    )
