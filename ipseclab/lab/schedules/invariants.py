"""What must hold of gateways whatever happens: after each step, and once all has come to rest.

After each step: nothing leaves in clear, a message ID stands for one message and they come in order
(RFC 7296 section 2.2), no more requests are outstanding than the window allows (section 2.3), no
packet is delivered twice (RFC 4303 section 3.4.3), tables stay bounded.
At rest: both ends hold the same IKE_SAs and CHILD_SAs with the same keys (section 2.25), none on
its way out, one of each line of rekeys (section 2.8.1), the datapath has what IKE has. In the end,
with all closed, no table holds anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ipseclab.errors import IpsecLabError
from ipseclab.gateway import Gateway
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.informational import REAUTHENTICATED, REDUNDANT, REKEYED
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.protection import FLAG_INITIATOR, FLAG_RESPONSE
from ipseclab.ike.sa import ChildState, IkeState
from ipseclab.ipsec.sad import SadEntry
from ipseclab.lab.schedules.parties import NAMES, connection_between, links, number_of
from ipseclab.lab.schedules.world import Parcel, World
from ipseclab.outputs import Notice, UdpPath
from ipseclab.registry import ExchangeType, IpProtocol, PayloadType

MOST_ENTRIES = 160
"""Of any table of a gateway, for the few things that a schedule asks for."""

_HEADER_SIZE = 28
_FRAGMENT = slice(_HEADER_SIZE + 4, _HEADER_SIZE + 8)
"""Where an Encrypted Fragment has its number and total (RFC 7383 section 2.5)."""

MOST_MESSAGES = 4000
"""That whole schedules take; one in a thousand takes a quarter."""
MEMORY_LOOKS = 16
"""Steps from one look at the tables to the next: each step adds a few entries at most."""

_ASKS_FOR_SA = (ExchangeType.IKE_SA_INIT, ExchangeType.IKE_SESSION_RESUME)
_PROTECTED = (PayloadType.SK, PayloadType.SKF)
_AFTER_FIRST = (ExchangeType.IKE_AUTH, ExchangeType.IKE_INTERMEDIATE)
"""The second exchanges of an IKE_SA that was set up; one that a rekey made has others."""

_ENDINGS = ("ike_gone", "ike_failed", "child_gone")
GIVEN_UP = "no answer"
ORDINARY = (REKEYED, REDUNDANT, REAUTHENTICATED)
"""Why an IKE_SA or CHILD_SA may end although nobody wanted the connection closed."""


class Violation(IpsecLabError):
    """Something that must hold does not; `invariant` is its name."""

    def __init__(self, invariant: str, problem: str) -> None:
        super().__init__(f"{invariant}: {problem}")
        self.invariant = invariant
        self.problem = problem


class MessageIds:
    """The messages of one gateway from its start on."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._requests: dict[bytes, int] = {}
        self._messages: dict[tuple[bytes, bytes], bytes] = {}

    def check(self, octets: bytes) -> None:
        """Another IKE message was sent. Raises Violation."""
        if octets[18] in _ASKS_FOR_SA:
            return  # asked again with a cookie or another group it is another message (section 2.1)
        if octets[16] not in _PROTECTED:
            return  # about an IKE_SA that the sender does not have (section 2.21.4)
        spis, kind_and_id = octets[:16], octets[18:24]
        if octets[16] == PayloadType.SKF:
            kind_and_id += octets[_FRAGMENT]
        before = self._messages.setdefault((spis, kind_and_id), octets)
        number = int.from_bytes(octets[20:24], "big")
        if before != octets:
            raise Violation("message id", f"{self._name} used message ID {number} twice")
        if not octets[19] & FLAG_RESPONSE:
            begins = 1 if octets[18] in _AFTER_FIRST else 0
            last = self._requests.get(spis, begins - 1)
            if number > last + 1:
                raise Violation("message id", f"{self._name} sent {number} after {last}")
            self._requests[spis] = max(last, number)


class Windows:
    """Who may have a further request outstanding: the peer has answered the one before the window.
    What was answered is known from the response, on its way as it is."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._answered: set[tuple[bytes, bool, int]] = set()

    def check(self, name: str, octets: bytes) -> None:
        """Another IKE message was sent. Raises Violation."""
        flags, number = octets[19], int.from_bytes(octets[20:24], "big")
        by_initiator = bool(flags & FLAG_INITIATOR)
        if flags & FLAG_RESPONSE:
            self._answered.add((octets[:16], not by_initiator, number))
            return
        before = number - self._window
        if before >= 0 and (octets[:16], by_initiator, before) not in self._answered:
            problem = f"{name} sent request {number}, and {before} was not answered"
            raise Violation("window", problem)


class Lines:
    """Which CHILD_SAs of one gateway come from which by rekeying."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def add(self, spi_in: str, rekeys: str | None) -> None:
        """An SA was made, perhaps in place of another."""
        self._first[spi_in] = self._first.get(rekeys, rekeys) if rekeys is not None else spi_in

    def has_another(self, spi_in: str, gateway: Gateway) -> bool:
        """Whether another SA of the same line stands; one that has no keys yet is in no line."""
        others = (child.spi_in.hex() for child in gateway.ike.child_sas)
        first = self._first[spi_in]
        return any(self._first.get(other) == first for other in others if other != spi_in)

    def check(self, name: str, gateway: Gateway) -> None:
        """One SA is left of each line (RFC 7296 section 2.8.1). Raises Violation."""
        seen: dict[str, str] = {}
        for child in gateway.ike.child_sas:
            spi = child.spi_in.hex()
            first = self._first[spi]
            if first in seen:
                problem = f"{name} has {seen[first]} and {spi} in the place of {first}"
                raise Violation("redundant", problem)
            seen[first] = spi


class Watch:
    """Looks on while a world runs, and raises Violation."""

    def __init__(self, window: int = 1) -> None:
        self.delivered_numbers: dict[int, int] = {}
        """Which packets came out, and where."""
        self.unusual_endings = 0
        """SAs that ended for another reason than having been replaced."""
        self.given_up = ""
        """Who has given a peer up for want of an answer."""
        self.expired_at = 0.0
        """When a CHILD_SA has last come to the end of its lifetime without a replacement that it
        could have had."""
        self._message_ids: dict[tuple[int, int], MessageIds] = {}
        self._windows = Windows(window)
        self._lines: dict[int, Lines] = {}
        self._steps = self._sent = 0

    # Observer

    def sent(self, world: World, parcel: Parcel) -> None:
        """Nothing in clear; message IDs in order, each for one message."""
        sender = parcel.sender
        self._sent += 1
        if self._sent > MOST_MESSAGES:
            raise Violation("storm", f"more than {MOST_MESSAGES} messages and packets")
        if parcel.path is None:
            check_sealed(NAMES[sender], parcel.octets)
        elif parcel.kind == "ike":
            life = sender, world.restarts[sender]
            if life not in self._message_ids:
                self._message_ids[life] = MessageIds(NAMES[sender])
            message = ike_message(parcel.path, parcel.octets)
            self._message_ids[life].check(message)
            self._windows.check(NAMES[sender], message)

    def delivered(self, world: World, receiver: int, packet: bytes) -> None:
        """No packet twice."""
        number = number_of(packet)
        if number in self.delivered_numbers:
            raise Violation("replay", f"packet {number} came out at {NAMES[receiver]} again")
        self.delivered_numbers[number] = receiver

    def noticed(self, world: World, node: int, notice: Notice) -> None:
        """How SAs begin and end."""
        if notice.event in _ENDINGS:
            reason = notice.details["reason"]
            self.unusual_endings += reason not in ORDINARY
            if reason == GIVEN_UP:
                self.given_up = NAMES[node]
        elif notice.event == "hard_expired":
            if self._could_be_renewed(world, node, str(notice.details["spi_in"])):
                self.expired_at = world.now
        elif notice.event == "child_ready":
            rekeys = notice.details["rekeys"]
            lines = self._lines.setdefault(node, Lines())
            lines.add(str(notice.details["spi_in"]), str(rekeys) if rekeys is not None else None)

    def _could_be_renewed(self, world: World, node: int, spi_in: str) -> bool:
        """Whether an SA that has come to its end ought to have been rekeyed. Not when it was, and
        only its DELETE is still to come; nor when its peer has given up this end, and has no SA to
        be rekeyed: `Watch.given_up` is looked at for itself."""
        if self._lines[node].has_another(spi_in, world.gateways[node]):
            return False
        sends_there = (
            child.spi_out.hex() == spi_in
            for other, gateway in enumerate(world.gateways)
            if other != node
            for child in gateway.ike.child_sas
        )
        return not self.given_up or any(sends_there)

    def stepped(self, world: World, node: int) -> None:
        """Bounded tables."""
        self._steps += 1
        if not self._steps % MEMORY_LOOKS:
            check_memory(NAMES[node], world.gateways[node])

    def check_rest(self, world: World) -> None:
        """All is at rest: both ends agree, and hold nothing twice."""
        check_agreement(world.gateways)
        for node, lines in self._lines.items():
            lines.check(NAMES[node], world.gateways[node])
            for sa in world.gateways[node].ike.ike_sas:
                if sa.reauthenticated:
                    problem = f"{NAMES[node]} keeps an IKE_SA that another one has taken over from"
                    raise Violation("redundant", problem)


def check_sealed(name: str, packet: bytes) -> None:
    """A whole packet that a gateway sent outside is ESP. Raises Violation."""
    if packet[9] != IpProtocol.ESP:
        raise Violation("clear text", f"{name} sent a plain packet")


def check_memory(name: str, gateway: Gateway) -> None:
    """No table has more than MOST_ENTRIES. Raises Violation."""
    for sizes_of in (gateway.ike.table_sizes, gateway.datapath.table_sizes):
        if max(sizes_of.values()) > MOST_ENTRIES:
            raise Violation("memory", f"{name} has tables of {dict(sizes_of)}")


def ike_message(path: UdpPath, octets: bytes) -> bytes:
    """The IKE message in a datagram that arrives along `path`."""
    return octets[len(NON_ESP_MARKER) :] if path.local.port == NAT_T_PORT else octets


def sizes(gateway: Gateway) -> dict[str, int]:
    """Entries of each table of a gateway; counters have a fixed set of names."""
    esp = {f"esp {table}": size for table, size in gateway.datapath.table_sizes.items()}
    ike = {f"ike {table}": size for table, size in gateway.ike.table_sizes.items()}
    del ike["ike counters"]
    return ike | esp


def busy(gateways: Iterable[Gateway]) -> str:
    """What is not at rest, or an empty text."""
    for name, gateway in zip(NAMES, gateways, strict=False):
        for sa in gateway.ike.ike_sas:
            if sa.state is not IkeState.ESTABLISHED:
                return f"{name} has an IKE_SA {sa.state.value}"
            if task := next(sa.wanted(), None):
                return f"{name} is at: {task.name}"
        for child in gateway.ike.child_sas:
            if child.state is not ChildState.INSTALLED:
                return f"{name} has a CHILD_SA {child.state.value}"
    return ""


class Holdings(NamedTuple):
    """What one end of a connection has; compared with what the other end has."""

    ike: tuple[tuple[bytes, bytes], ...]
    """SPIs of its IKE_SAs, in order."""
    initiated: tuple[bytes, ...]
    """The initiator's SPIs of those whose exchange it began itself."""
    inbound: tuple[tuple[bytes, bytes, bytes], ...]
    """SPI and keys of each of its inbound ESP SAs, in order."""
    outbound: tuple[tuple[bytes, bytes, bytes], ...]


def holdings(gateway: Gateway, connection: str) -> Holdings:
    """What `gateway` has of a connection."""
    sas = [sa for sa in gateway.ike.ike_sas if sa.connection.name == connection]
    esp = [e.parameters for e in _entries(gateway) if e.parameters.connection == connection]
    return Holdings(
        ike=tuple(sorted((sa.spi_i, sa.spi_r) for sa in sas)),
        initiated=tuple(sorted(sa.spi_i for sa in sas if sa.initiator)),
        inbound=tuple(sorted((p.spi_in, p.encr_key_in, p.integ_key_in) for p in esp)),
        outbound=tuple(sorted((p.spi_out, p.encr_key_out, p.integ_key_out) for p in esp)),
    )


def check_agreement(gateways: Sequence[Gateway]) -> None:
    """Both ends of each connection hold the same SAs. Raises Violation."""
    for name, gateway in zip(NAMES, gateways, strict=False):
        check_datapath(name, gateway)
    for left, right in links(len(gateways)):
        name = connection_between(left, right)
        compare(name, holdings(gateways[left], name), holdings(gateways[right], name))


def compare(connection: str, left: Holdings, right: Holdings) -> None:
    """Raises Violation when the two ends of a connection differ."""
    if left.ike != right.ike:
        ends = [[f"{i.hex()} {r.hex()}" for i, r in end.ike] for end in (left, right)]
        raise Violation("agreement", f"IKE_SAs of {connection}: {ends[0]} and {ends[1]}")
    if sorted(left.initiated + right.initiated) != [spi_i for spi_i, _ in left.ike]:
        raise Violation("agreement", f"two ends of {connection} began the same IKE_SA")
    for sender, receiver in ((left, right), (right, left)):
        if sender.outbound != receiver.inbound:
            spis = [[spi.hex() for spi, _, _ in half] for half in (sender[3], receiver[2])]
            raise Violation("agreement", f"CHILD_SAs of {connection}: {spis[0]} and {spis[1]}")


def _entries(gateway: Gateway) -> list[SadEntry]:
    return [entry for entry in gateway.datapath.sad if not entry.lingering]


def check_datapath(name: str, gateway: Gateway) -> None:
    """The datapath has the SAs that IKE has. Raises Violation."""
    of_ike = sorted(child.spi_in.hex() for child in gateway.ike.child_sas)
    of_sad = sorted(entry.parameters.spi_in.hex() for entry in _entries(gateway))
    if of_ike != of_sad:
        raise Violation("leak", f"{name} has CHILD_SAs {of_ike} and SAD entries {of_sad}")
    held = sorted(c.spi_in.hex() for sa in gateway.ike.ike_sas for c in sa.children.values())
    if held != of_ike:
        raise Violation("leak", f"{name} has CHILD_SAs {of_ike}, its IKE_SAs have {held}")


def check_empty(gateways: Iterable[Gateway]) -> None:
    """No gateway holds anything. Raises Violation."""
    for name, gateway in zip(NAMES, gateways, strict=False):
        left = {table: size for table, size in sizes(gateway).items() if size}
        if left:
            raise Violation("leak", f"{name} still has {left} when all is closed")
