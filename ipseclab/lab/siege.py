"""Two gateways in virtual time that others may shoot at, and the attackers who do.

An attacker sees every datagram between an initiator and a responder, and sends whatever it likes
with any source address; a worse one has the keys of an IKE_SA: a peer gone bad. Mutations are
those of `mutate.py`, so that a seed tells a whole attack. Nothing is caught: a gateway that raises,
raises here. Driven by tests/test_hostile_gateway.py and benchmarks/hostile.py.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import NamedTuple

from ipseclab.crypto.protection import Protection
from ipseclab.errors import IntegrityFailure
from ipseclab.gateway import Gateway
from ipseclab.ike.config import IKE_PORT
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.lab.mutate import chain_wrong_lengths, mutate, mutate_chain
from ipseclab.lab.siege_kits import (
    ADDRESSES,
    CONNECTION,
    ELSEWHERE,
    NETWORKS,
    PLAIN,
    SUITE,
    Kit,
    draw,
)
from ipseclab.outputs import (
    DeliverPacket,
    IkeKeyLog,
    InternalConfiguration,
    Output,
    SendDatagram,
    UdpEndpoint,
    UdpPath,
)
from ipseclab.registry import ExchangeType, IpProtocol, PayloadType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import (
    Message,
    decode_message,
)
from ipseclab.wire.payloads import SkfPayload, SkPayload

STEP = 0.001
"""Seconds between two datagrams."""

MOST_STEPS = 1000
"""Datagrams of one conversation; more would be two gateways that never come to rest."""

SHOTS_PER_PEER = 25
"""Messages of one peer gone bad; most of them end the IKE_SA, as RFC 7296 section 2.21.3 says."""

SHOTS_PER_MESSAGE = 4
"""Changed copies of one message of a handshake; most of them end it."""
LONGEST_HANDSHAKE = 12
"""Datagrams."""

FRAGMENTED_SHARE = 0.2
"""Of the messages of a peer gone bad those that come in fragments (RFC 7383)."""
MOST_FRAGMENTS = 20

AFTERMATH = 200.0
"""Seconds after which every request of a gateway without an answer is given up."""

# An authenticated peer answers these, with nonsense.
COMMANDS = ("rekey_child", "rekey_ike", "check_liveness", "delete_child", "create_child")


class Shot(NamedTuple):
    """A datagram as its victim (0: initiator, 1: responder) receives it."""

    victim: int
    path: UdpPath
    data: bytes

    @property
    def ike(self) -> bytes | None:
        """The IKE message in it, None for ESP and keepalives."""
        if self.path.local.port == IKE_PORT:
            return self.data
        marked = self.data.startswith(NON_ESP_MARKER)
        return self.data[len(NON_ESP_MARKER) :] if marked else None

    def with_ike(self, octets: bytes) -> Shot:
        """The same way for another IKE message."""
        marker = b"" if self.path.local.port == IKE_PORT else NON_ESP_MARKER
        return self._replace(data=marker + octets)


class Siege:
    """Both gateways, everything they said to each other, and the time (seconds from 0)."""

    def __init__(self, *, seed: int, kit: Kit = PLAIN) -> None:
        self.kit = kit
        self.gateways = tuple(
            Gateway(kit.gateway(side), rng=random.Random(f"{seed}/gateway/{side}"))
            for side in (0, 1)
        )
        self.now = 0.0
        self.conversation: list[Shot] = []
        self.keys: dict[tuple[bytes, bytes], list[IkeKeyLog]] = {}
        """What each IKE_SA was protected with, the newest last: IKE_INTERMEDIATE changes it."""
        self.delivered: list[tuple[int, bytes]] = []
        self.cut = False
        """While True, nothing arrives."""
        self._coming: deque[Shot] = deque()
        self._packets = 0
        self._hosts = [_host(network) for network in NETWORKS]

    def begin(self) -> None:
        """The initiator starts; its first message is on its way."""
        self.command(0, "initiate")

    def establish(self) -> None:
        """All that two gateways have to say to each other: handshake, rekeys, liveness, ESP, and
        what else their kit has."""
        self.begin()
        self.talk()
        if self.kit.resumes:
            self._come_back()
        # A CHILD_SA that was not asked for in IKE_AUTH is there from the first packet on.
        self._assert_works()
        for side, name in ((0, "rekey_child"), (1, "rekey_ike"), (1, "create_child")):
            self.command(side, name)
            self.talk()
        self.command(0, "check_liveness")
        self.talk()
        if self.kit.moves:
            for address in (ELSEWHERE, ADDRESSES[0]):
                outputs = self.gateways[0].change_addresses((address,), self.now)
                self._carry_out(0, outputs)
                self.talk()
        self._assert_works()

    def _come_back(self) -> None:
        """The initiator loses its peer and resumes with its ticket; then the responder loses its
        memory, and says so with a token (RFC 6290)."""
        self.cut = True
        self.command(0, "check_liveness")
        self.wait(AFTERMATH)
        self.cut = False
        self.command(0, "initiate")
        self.talk()
        self._carry_out(1, self.gateways[1].restart(self.now))
        self.command(0, "check_liveness")
        self.talk()
        self.command(0, "initiate")
        self.talk()

    def _assert_works(self) -> None:
        if not self.works():
            raise AssertionError(f"the pair ({self.kit.name}) does not work before the attack")

    def command(self, side: int, name: str) -> None:
        """Call a gateway's command for the connection."""
        outputs: list[Output] = getattr(self.gateways[side], name)(CONNECTION, self.now)
        self._carry_out(side, outputs)

    def talk(self, messages: int = MOST_STEPS) -> None:
        """Let arrive what is on its way, and the answers: until all is quiet, or `messages`."""
        for _ in range(messages):
            if not self._coming:
                return
            shot = self._coming.popleft()
            self.now += STEP
            gateway = self.gateways[shot.victim]
            outputs = gateway.receive_datagram(shot.path, shot.data, self.now)
            self._carry_out(shot.victim, outputs)
        if messages == MOST_STEPS:
            raise AssertionError(f"not quiet after {MOST_STEPS} datagrams")

    def hold_back(self) -> tuple[Shot, ...]:
        """Take away what is on its way."""
        held = tuple(self._coming)
        self._coming.clear()
        return held

    def let_go(self, held: Sequence[Shot]) -> None:
        """Give back what was taken away."""
        self._coming.extend(held)

    def fire(self, shot: Shot) -> None:
        """An attacker's datagram reaches its victim. What that answers is heard by nobody."""
        self.now += STEP
        gateway = self.gateways[shot.victim]
        self._note(shot.victim, gateway.receive_datagram(shot.path, shot.data, self.now))
        deadline = gateway.next_deadline()
        while deadline is not None and deadline.at <= self.now:
            self._note(shot.victim, gateway.handle_timeout(self.now))
            deadline = gateway.next_deadline()

    def wait(self, seconds: float) -> None:
        """Let time pass, and what it brings."""
        end = self.now + seconds
        while True:
            due = [
                (deadline.at, side)
                for side, gateway in enumerate(self.gateways)
                if (deadline := gateway.next_deadline()) is not None
            ]
            if not due or min(due)[0] > end:
                break
            at, side = min(due)
            self.now = max(self.now, at)
            self._carry_out(side, self.gateways[side].handle_timeout(self.now))
            self.talk()
        self.now = max(self.now, end)

    def works(self) -> bool:
        """True when a packet passes each way through the CHILD_SA that there is."""
        for side in (0, 1):
            self._packets += 1
            packet = _inner_packet(self._hosts[side], self._hosts[1 - side], self._packets)
            self.now += STEP
            self._carry_out(side, self.gateways[side].send_packet(packet, self.now))
            self.talk()
            if self.delivered[-1:] != [(1 - side, packet)]:
                return False
        return True

    def recovers(self) -> bool:
        """True when the connection can be closed at both ends and set up again, whatever happened
        to it."""
        for name in ("delete_ike", "initiate"):
            for side in (0, 1) if name == "delete_ike" else (0,):
                self.command(side, name)
            self.wait(AFTERMATH)
        return self.works()

    def table_sizes(self) -> dict[str, int]:
        """Entries of the tables that an attacker could try to fill, of the gateway with more."""
        one, two = map(_table_sizes, self.gateways)
        return {name: max(one[name], two[name]) for name in one}

    def sender_keys(self, spis: tuple[bytes, bytes], *, initiator: bool) -> tuple[Protection, ...]:
        """What the original initiator, or the responder, of an IKE_SA has sealed its messages with,
        the newest first."""
        logs = reversed(self.keys.get(spis, []))
        return tuple(SUITE.keyed(log.sk_ei if initiator else log.sk_er) for log in logs)

    def _carry_out(self, side: int, outputs: Sequence[Output]) -> None:
        for output in self._note(side, outputs):
            path = UdpPath(output.path.remote, output.path.local)
            shot = Shot(1 - side, path, output.data)
            self.conversation.append(shot)
            if not self.cut:
                self._coming.append(shot)

    def _note(self, side: int, outputs: Sequence[Output]) -> list[SendDatagram]:
        """Keep keys and delivered packets; return what is to be sent."""
        for output in outputs:
            if isinstance(output, DeliverPacket):
                self.delivered.append((side, output.packet))
            elif isinstance(output, IkeKeyLog):
                self.keys.setdefault((output.spi_i, output.spi_r), []).append(output)
            elif isinstance(output, InternalConfiguration) and output.addresses:
                self._hosts[side] = IPv4Address(output.addresses[0])
        return [output for output in outputs if isinstance(output, SendDatagram)]


def forged(siege: Siege, rng: random.Random) -> Shot:
    """One datagram of an attacker without keys: something that was said, mutated, to either end,
    in the peer's name or in a stranger's."""
    shot = rng.choice(siege.conversation)
    octets = shot.ike
    if rng.random() < 0.05:
        shot = shot._replace(data=rng.randbytes(rng.randrange(200)))
    elif octets is not None:
        shot = shot.with_ike(mutate(octets, rng))
    else:
        shot = shot._replace(data=mutate(shot.data, rng))
    if rng.random() < 0.3:
        stranger = UdpEndpoint(str(IPv4Address(rng.getrandbits(32))), rng.randrange(1, 65536))
        shot = shot._replace(path=UdpPath(shot.path.local, stranger))
    elif rng.random() < 0.1:
        shot = Shot(1 - shot.victim, UdpPath(shot.path.remote, shot.path.local), shot.data)
    return shot


@dataclass(frozen=True, slots=True)
class Inside:
    """What an SK payload held, and in which message."""

    exchange: ExchangeType
    response: bool
    first: int
    chain: bytes


def insides(siege: Siege) -> tuple[Inside, ...]:
    """The inside of every SK payload of the conversation."""
    found = (unsealed(siege, shot) for shot in siege.conversation)
    return tuple(inside for inside, _, _ in filter(None, found))


def unsealed(siege: Siege, shot: Shot) -> tuple[Inside, Message, Protection] | None:
    """The inside of a message, its header, and what it was sealed with; None without SK payload."""
    octets = shot.ike
    if octets is None:
        return None
    message = decode_message(octets)
    sealed = message.find(SkPayload)
    if sealed is None:
        return None
    associated = octets[: len(octets) - len(sealed.body)]
    for keys in siege.sender_keys((message.spi_i, message.spi_r), initiator=message.initiator):
        try:
            chain = keys.open(associated, sealed.body)
        except IntegrityFailure:
            continue
        chain = chain[: len(chain) - 1 - chain[-1]]
        inside = Inside(message.exchange, message.response, sealed.first, chain)
        return inside, replace(message, payloads=()), keys
    raise AssertionError("a message that none of its IKE_SA's keys opens")


def bad_peers(rng: random.Random, count: int) -> Iterator[tuple[Siege, int]]:
    """Peers that pass their authentication and then send nonsense, properly sealed: every wrong
    length first, then mutations, `count` messages in all. Yields each siege when it is over, and
    how many messages it took."""
    kit = draw(rng)
    donor = Siege(seed=rng.getrandbits(32), kit=kit)
    donor.establish()
    patterns = insides(donor)
    wrong = [
        Inside(inside.exchange, inside.response, inside.first, chain)
        for inside in patterns
        for chain in chain_wrong_lengths(inside.first, inside.chain)
    ]
    rng.shuffle(wrong)
    while count > 0:
        siege = Siege(seed=rng.getrandbits(32), kit=kit)
        siege.begin()
        siege.talk()
        fired = 0
        while fired < min(count, SHOTS_PER_PEER):
            inside = wrong.pop() if wrong else _mutated(patterns, rng)
            shots = _sealed_shots(siege, inside, rng)
            if not shots:
                break
            for shot in shots:
                siege.fire(shot)
            fired += len(shots)
        count -= max(fired, 1)
        siege.wait(AFTERMATH)
        yield siege, fired


def bad_handshakes(rng: random.Random, count: int) -> Iterator[tuple[Siege, int]]:
    """Peers that go bad while the IKE_SA is being made, when anybody may have its keys: one message
    of the handshake is changed inside its SK payload, in a few ways, before the true one comes.
    Yields as `bad_peers` does."""
    while count > 0:
        siege = Siege(seed=rng.getrandbits(32), kit=draw(rng))
        siege.begin()
        siege.talk(rng.randrange(2, LONGEST_HANDSHAKE))
        held = siege.hold_back()
        if not held:
            continue  # the handshake was over by then
        fired = 0
        for shot in held:
            opened = unsealed(siege, shot)
            if opened is None:
                siege.fire(shot.with_ike(mutate(shot.ike, rng)) if shot.ike is not None else shot)
                fired += 1
                continue
            inside, head, keys = opened
            for _ in range(SHOTS_PER_MESSAGE):
                first, chain = mutate_chain(inside.first, inside.chain, rng)
                payload = SkPayload(PayloadType(first), b"")
                siege.fire(shot.with_ike(seal(head, keys, payload, chain, rng)))
                fired += 1
        siege.let_go(held)
        siege.talk()
        siege.wait(AFTERMATH)
        count -= fired
        yield siege, fired


def _mutated(patterns: Sequence[Inside], rng: random.Random) -> Inside:
    inside = rng.choice(patterns)
    first, chain = mutate_chain(inside.first, inside.chain, rng)
    return Inside(inside.exchange, inside.response, first, chain)


def _sealed_shots(siege: Siege, inside: Inside, rng: random.Random) -> tuple[Shot, ...]:
    """`inside` as the victim's peer would send it: as its next request, or as the response to a
    request that the victim is made to send; some of it in fragments. Nothing when the victim has no
    IKE_SA any more."""
    victim = rng.randrange(2)
    if inside.response:
        siege.command(victim, rng.choice(COMMANDS))
        siege.hold_back()
    sas = siege.gateways[victim].ike.ike_sas
    if not sas:
        return ()
    sa = sas[0]
    request = sa.own_request
    exchange, message_id = inside.exchange, sa.expected_message_id
    if inside.response and request is not None:
        exchange, message_id = request.task.exchange, request.message_id
    spis = sa.spi_i, sa.spi_r
    keys = siege.sender_keys(spis, initiator=not sa.initiator)[0]
    head = Message(*spis, exchange, not sa.initiator, inside.response, message_id)
    kind = PayloadType(inside.first)
    if rng.random() >= FRAGMENTED_SHARE:
        sealed = [seal(head, keys, SkPayload(kind, b""), inside.chain, rng)]
    else:
        sealed = [
            seal(head, keys, payload, part, rng)
            for payload, part in _fragments(kind, inside.chain, rng)
        ]
    return tuple(Shot(victim, sa.path, b"").with_ike(octets) for octets in sealed)


def fragments_of(first: PayloadType, chain: bytes, size: int) -> list[tuple[SkfPayload, bytes]]:
    """A chain in pieces of `size` octets."""
    parts = [chain[at : at + size] for at in range(0, len(chain), size)] or [b""]
    kinds = [first] + [PayloadType.NONE] * (len(parts) - 1)
    return [
        (SkfPayload(kind, number, len(parts), b""), part)
        for number, (kind, part) in enumerate(zip(kinds, parts, strict=True), 1)
    ]


def _fragments(
    first: PayloadType, chain: bytes, rng: random.Random
) -> list[tuple[SkfPayload, bytes]]:
    """A chain in pieces, now and then with one that lies about its place or about how many there
    are, and in any order and number."""
    size = rng.randrange(1, max(2, len(chain)))
    parts = [chain[at : at + size] for at in range(0, len(chain), size)][:MOST_FRAGMENTS] or [b""]
    found: list[tuple[SkfPayload, bytes]] = []
    for number, part in enumerate(parts, 1):
        total = len(parts)
        if rng.random() < 0.1:
            total = rng.choice((total + 1, max(number, total - 1), 0xFFFF))
        kind = first if number == 1 or rng.random() < 0.05 else PayloadType.NONE
        found.append((SkfPayload(kind, number, total, b""), part))
    if rng.random() < 0.5:
        rng.shuffle(found)
    return found + found[: rng.randrange(2)]


def seal(
    head: Message,
    keys: Protection,
    payload: SkPayload | SkfPayload,
    inner: bytes,
    rng: random.Random,
) -> bytes:
    """The message of `head` with `inner` sealed in that payload."""
    plaintext = inner + b"\0"
    iv = rng.randbytes(SUITE.iv_size)
    # A message of the right size gives the octets that the ICV covers.
    blank = bytes(len(iv) + len(plaintext) + SUITE.icv_size)
    sized = replace(head, payloads=(replace(payload, body=blank),)).encode()
    associated = sized[: len(sized) - len(blank)]
    return associated + keys.seal(associated, iv, plaintext)


def _table_sizes(gateway: Gateway) -> dict[str, int]:
    return {
        "ike_sas": len(gateway.ike.ike_sas),
        "half_open": gateway.ike.half_open,
        "child_sas": len(gateway.ike.child_sas),
        "counters": len(gateway.counters),
    }


def _host(network: str) -> IPv4Address:
    """Whom an end speaks for until it is given another address."""
    return IPv4Address(network.partition("/")[0]) + 10


def _inner_packet(source: IPv4Address, destination: IPv4Address, number: int) -> bytes:
    """A numbered UDP packet from one network to the other."""
    ends = source.packed, destination.packed
    datagram = build_udp(ends[0], 7000, ends[1], 7000, number.to_bytes(8, "big"))
    return build_ipv4(*ends, IpProtocol.UDP, datagram)
