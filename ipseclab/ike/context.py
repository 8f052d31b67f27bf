"""What every exchange of an endpoint shares: its tables, timers, generator, and outputs so far.

An exchange's functions take a `Context` and change it; `IkeEndpoint` hands what they emitted to the
driver at the end of each input. Each look-up is by key, so that its cost does not grow with the
number of SAs.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ipseclab.ike.claims import Claims
from ipseclab.ike.config import NAT_T_PORT, ConnectionConfig, Identity, IkeConfig, TcpUse
from ipseclab.ike.events import IkeOutput
from ipseclab.ike.fragments import Reassembly, fragment_fields
from ipseclab.ike.leases import Leases
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.rate import RateLimit
from ipseclab.ike.sa import ChildSa, ChildState, IkeSa, IkeState
from ipseclab.ike.secrets import Secrets
from ipseclab.ike.selectors import Trigger
from ipseclab.ike.streams import Streams
from ipseclab.ike.task import Task
from ipseclab.ike.tickets import HeldTicket, TicketBox
from ipseclab.ike.timers import TimerKind
from ipseclab.outputs import Notice, SendDatagram, SendMessage, TcpPath, UdpEndpoint, UdpPath
from ipseclab.timers import Timers
from ipseclab.wire.message import IkeHeader, decode_header
from ipseclab.wire.proposal import Proposal

IKE_SPI_SIZE = 8
ESP_SPI_SIZE = 4
LOWEST_ESP_SPI = 256
"""RFC 4303 section 2.1: SPIs 0 to 255 are reserved."""

InitKey = tuple[bytes, UdpEndpoint]
"""What tells one IKE_SA_INIT from another: all of its octets, and where it came from. The SPI
alone would let whoever has seen it keep the initiator out by a message of their own (RFC 7296
section 2.1)."""
_PeerKey = tuple[Identity, Identity]
_Ends = tuple[str, str | None]


class SaActivity(Protocol):
    """What the endpoint asks of the datapath: which SPIs it has, and when they were used."""

    def last_inbound(self, spi_in: bytes) -> float | None:
        """Seconds; None for never."""

    def last_outbound(self, spi_in: bytes) -> float | None:
        """Seconds; None for never."""

    def has_sa(self, spi_in: bytes) -> bool:
        """True while packets with that SPI may still be accepted."""


@dataclass(frozen=True, slots=True)
class PossibleConnections:
    """The connections that a peer at one address may mean, in the configuration's order."""

    connections: tuple[ConnectionConfig, ...]
    ike_proposals: tuple[Proposal, ...]
    by_peer_id: dict[Identity, list[ConnectionConfig]] = field(default_factory=dict)


class Context:
    """The mutable heart of one endpoint."""

    def __init__(self, config: IkeConfig, *, rng: random.Random, activity: SaActivity) -> None:
        self.config = config
        self.rng = rng
        self.activity = activity
        self.timers: Timers[bytes, TimerKind] = Timers()
        self.sas: dict[bytes, IkeSa] = {}
        """By the SPI that this end chose; what was closed stays for a while to answer repeats."""
        self.offered_spis: set[bytes] = set()
        """Of IKE_SAs that this end's rekeys have asked for: the peer has made them by the time it
        answers, and what it sends on them may overtake the answer."""
        self.children: dict[bytes, ChildSa] = {}
        """By inbound SPI."""
        self.redirects: dict[str, deque[float]] = {}
        """When a connection has followed a redirection lately (RFC 5685 section 8)."""
        self.half_open: dict[bytes, IkeSa] = {}
        """Made by a peer's IKE_SA_INIT, not authenticated yet; by own SPI."""
        self.inits: dict[InitKey, IkeSa] = {}
        """Which IKE_SA a peer's IKE_SA_INIT made, so that a repeat of it makes no other."""
        self.streams = Streams()
        """TCP connections, either way."""
        self.fragments = Reassembly()
        self.secrets = Secrets(config.secret, rng=rng)
        self.tickets = TicketBox(self.secrets, rng=rng)
        """Those that peers have of this end."""
        self.held_tickets: dict[str, HeldTicket] = {}
        """Those that this end has, one a connection."""
        self.stateless_answers = RateLimit(config.limits.stateless_answers)
        self.leases = Leases()
        """Addresses that peers have of this end's pools."""
        self.claims = Claims()
        """Addresses of their own that peers behind NATs have."""
        self.ready: deque[IkeSa] = deque()
        self.counters: Counter[str] = Counter()
        self._outputs: list[IkeOutput] = []
        self._connections = {connection.name: connection for connection in config.connections}
        self.addresses = tuple(dict.fromkeys(a for c in config.connections for a in _own(c)))
        """Of this end, as far as it was told; the best first."""
        self._by_ends: dict[_Ends, list[tuple[int, ConnectionConfig]]] = {}
        self._find_ends()
        self._possible: dict[tuple[_Ends, bool], PossibleConnections] = {}
        self._index: dict[str | _PeerKey, dict[bytes, IkeSa]] = {}

    def _find_ends(self) -> None:
        """Between which addresses a connection may be set up. A peer that moves may come from
        anywhere, and to any address of this end (RFC 4555)."""
        self._by_ends.clear()
        for entry in enumerate(self.config.connections):
            connection = entry[1]
            own: tuple[str, ...] = (connection.own_address,)
            peers: tuple[str | None, ...] = (connection.peer_address,)
            if connection.mobike is not None:
                own = (*own, *self.addresses)
                peers = (*peers, *connection.mobike.peer, None)
            for ends in dict.fromkeys((a, b) for a in own for b in peers):
                self._by_ends.setdefault(ends, []).append(entry)

    def take_addresses(self, addresses: tuple[str, ...]) -> None:
        """This end has these addresses from now on."""
        self.addresses = addresses
        self._find_ends()
        self._possible.clear()

    # What goes out.

    def emit(self, output: IkeOutput) -> None:
        """Add one output; the order is the order in which drivers carry them out."""
        self._outputs.append(output)

    def notice(self, event: str, **details: str | int | float | bool | None) -> None:
        """Emit a Notice."""
        self._outputs.append(Notice(event, details))

    def drop(self, reason: str) -> None:
        """Count a message that is not answered."""
        self.counters[f"ike.{reason}"] += 1
        self.notice("ike_dropped", reason=reason)

    def send(self, path: UdpPath, octets: bytes, *, attempt: int = 0) -> None:
        """Emit an IKE message, with the non-ESP marker on port 4500 (RFC 3948 section 2.2) and in
        a TCP connection (RFC 9329 section 3).

        `attempt` counts from 0, for the trace.
        """
        header = decode_header(octets)
        details = message_fields(header, octets, path.local, path.remote)
        details["retransmission"] = attempt
        if isinstance(path, TcpPath):
            details["transport"] = "tcp"
        self._outputs.append(Notice("ike_sent", details))
        if isinstance(path, TcpPath):
            self._outputs.append(SendMessage(path, NON_ESP_MARKER + octets))
            return
        marker = NON_ESP_MARKER if path.local.port == NAT_T_PORT else b""
        self._outputs.append(SendDatagram(path, marker + octets))

    def take_outputs(self) -> list[IkeOutput]:
        """All outputs since the last call."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def queue(self, sa: IkeSa, task: Task, *, first: bool = False) -> None:
        """Have `sa` carry out `task` when its turn comes."""
        if first:
            sa.tasks.insert(0, task)
        else:
            sa.tasks.append(task)
        self.ready.append(sa)

    # Connections.

    def connection(self, name: str) -> ConnectionConfig:
        """The connection of that name. Raises KeyError."""
        try:
            return self._connections[name]
        except KeyError:
            raise KeyError(f"{self.config.name} has no connection {name!r}") from None

    def possible_connections(self, path: UdpPath) -> PossibleConnections:
        """The connections that a peer at the remote end of `path` may mean."""
        ends: _Ends = (path.local.address, path.remote.address)
        if ends not in self._by_ends:
            ends = (path.local.address, None)
        if ends not in self._by_ends:
            return PossibleConnections((), ())
        in_tcp = isinstance(path, TcpPath)
        if (ends, in_tcp) not in self._possible:
            self._possible[ends, in_tcp] = self._find_possible(ends, in_tcp)
        return self._possible[ends, in_tcp]

    def _find_possible(self, ends: _Ends, in_tcp: bool) -> PossibleConnections:
        """Those between exactly `ends`, and those that take any peer, in the configured order; in
        TCP or in UDP those that may go there."""
        entries = dict(self._by_ends[ends] + self._by_ends.get((ends[0], None), []))
        wrong = TcpUse.NEVER if in_tcp else TcpUse.ALWAYS
        ordered = (entries[index] for index in sorted(entries))
        connections = tuple(connection for connection in ordered if connection.tcp is not wrong)
        proposals = dict.fromkeys(p for c in connections for p in c.ike_proposals)
        found = PossibleConnections(connections, tuple(proposals))
        for connection in connections:
            found.by_peer_id.setdefault(connection.peer_id, []).append(connection)
        return found

    # IKE_SAs by connection and by peer.

    def enter(self, sa: IkeSa) -> None:
        """Have `sa` found by its connection and its peer from now on; harmless when it is."""
        for key in (sa.connection.name, _peer_key(sa.connection)):
            self._index.setdefault(key, {})[sa.own_spi] = sa

    def leave(self, sa: IkeSa) -> None:
        """Undo `enter`; harmless when it was not done."""
        for key in (sa.connection.name, _peer_key(sa.connection)):
            found = self._index.get(key, {})
            found.pop(sa.own_spi, None)
            if not found:
                self._index.pop(key, None)

    def of_connection(self, connection: str) -> Iterator[IkeSa]:
        """Every IKE_SA of a connection that is not gone, newest first."""
        return reversed(self._index.get(connection, {}).values())

    def newest(self, connection: str, trigger: Trigger | None = None) -> IkeSa | None:
        """The newest IKE_SA of a connection that is not on its way out; with a `trigger` not one
        that stands for other addresses."""
        wanted = (IkeState.INIT_SENT, IkeState.HALF_OPEN, IkeState.ESTABLISHED)
        for sa in self.of_connection(connection):
            if sa.state not in wanted:
                continue
            own, peer = sa.connection.own_ts, sa.connection.peer_ts
            if not (trigger and sa.session.addressed) or trigger.is_carried_by(own, peer):
                return sa
        return None

    def others(self, sa: IkeSa) -> list[IkeSa]:
        """Other established IKE_SAs with the same peer."""
        found = self._index.get(_peer_key(sa.connection), {})
        return [
            other
            for other in found.values()
            if other is not sa and other.state is IkeState.ESTABLISHED
        ]

    def children_of(self, connection: str, *states: ChildState) -> Iterator[ChildSa]:
        """The connection's CHILD_SAs in one of those states."""
        for sa in tuple(self._index.get(connection, {}).values()):
            yield from (child for child in tuple(sa.children.values()) if child.state in states)

    @property
    def table_sizes(self) -> dict[str, int]:
        """Entries of each table."""
        return {
            "ike_sas": len(self.sas),
            "offered_spis": len(self.offered_spis),
            "child_sas": len(self.children),
            "half_open": len(self.half_open),
            "inits": len(self.inits),
            "index": len(self._index),
            "fragments": len(self.fragments),
            "leases": self.leases.in_use,
            "streams": len(self.streams),
            "ready": len(self.ready),
            "timers": len(self.timers),
            "counters": len(self.counters),
        }

    # SPIs.

    def new_ike_spi(self) -> bytes:
        """A non-zero SPI that no IKE_SA of this end has."""
        while True:
            spi = self.rng.randbytes(IKE_SPI_SIZE)
            if any(spi) and spi not in self.sas:
                return spi

    def offer_spi(self, sa: IkeSa, spi: bytes = b"") -> None:
        """A rekey of `sa` offers the peer that SPI, in place of an earlier one; empty: none."""
        self.offered_spis.discard(sa.offered_spi)
        sa.offered_spi = spi
        if spi:
            self.offered_spis.add(spi)

    def new_child_spi(self) -> bytes:
        """An ESP SPI that no CHILD_SA of this end has, and none that was closed lately."""
        while True:
            spi = self.rng.randbytes(ESP_SPI_SIZE)
            reserved = int.from_bytes(spi, "big") < LOWEST_ESP_SPI
            if not reserved and spi not in self.children and not self.activity.has_sa(spi):
                return spi


def message_fields(
    header: IkeHeader, octets: bytes, source: UdpEndpoint, destination: UdpEndpoint
) -> dict[str, str | int | float | bool | None]:
    """What the trace says of an IKE message, sent or received."""
    return {
        "exchange": header.exchange.name,
        "message_id": header.message_id,
        "request": not header.response,
        "octets": len(octets),
        "spi_i": header.spi_i.hex(),
        "spi_r": header.spi_r.hex(),
        "source": str(source),
        "destination": str(destination),
        **fragment_fields(octets),
    }


def _own(connection: ConnectionConfig) -> tuple[str, ...]:
    further = connection.mobike.own if connection.mobike is not None else ()
    return (connection.own_address, *further)


def _peer_key(connection: ConnectionConfig) -> _PeerKey:
    return connection.own_id, connection.peer_id
