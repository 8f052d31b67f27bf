"""One attack at work: which packets it is about, which of them it picks, what it has counted."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import NamedTuple

from ipseclab.lab.attacks.attack import Attack
from ipseclab.lab.attacks.change import (
    flipped,
    forged,
    inserted,
    mended,
    place_of,
    spoofed,
    with_payload,
)
from ipseclab.lab.attacks.downgrade import downgraded
from ipseclab.lab.attacks.sight import Sight
from ipseclab.lab.impairment import derive
from ipseclab.outputs import Notice
from ipseclab.registry import ExchangeType


class Tally(NamedTuple):
    """What came of an attack: packets that it was about, those that it picked by number, and those
    that it did something to or sent."""

    attack: str
    node: str
    met: int
    picked: int
    struck: int


@dataclass(slots=True)
class Overtaken:
    """A packet that later ones have to overtake: how many yet, and the notice for when it goes."""

    left: int
    packet: bytes
    notice: Notice


class Rule:
    """An attack with what it remembers."""

    def __init__(self, attack: Attack, seed: int) -> None:
        self.attack = attack
        self.overtaken: list[Overtaken] = []
        """Packets that a `reorder` holds."""
        self._met = self._picked = self._struck = self._made = 0
        self._rng = derive(seed, "attack", attack.node, attack.name)

    def tally(self) -> Tally:
        """What came of it so far."""
        attack = self.attack
        return Tally(attack.name, attack.node, self._met, self._picked, self._struck)

    def about(self, packet: bytes, sight: Sight, link: str, elapsed: float) -> bool:
        """Whether the attack is about this packet: it fits, and there is something to be done to
        it."""
        attack = self.attack
        return (
            attack.start <= elapsed <= attack.end
            and attack.link in (None, link)
            and _is_traffic(attack, sight)
            and _fits(attack, sight)
            and self._can_be_done(packet, sight)
        )

    def picks(self) -> bool:
        """Count a packet that the attack is about, and say whether it befalls this one."""
        attack = self.attack
        self._met += 1
        if attack.nth and self._met not in attack.nth:
            return False
        if self._met % attack.every:
            return False
        self._picked += 1
        return attack.probability >= 1.0 or self._rng.random() < attack.probability

    def notice(self, packet: bytes, sight: Sight, **details: int) -> Notice:
        """Count a packet that the attack is done to, and what the trace is to say of it."""
        self._struck += 1
        attack = self.attack
        named = {"attack": attack.name, "do": attack.do, "traffic": sight.kind}
        return Notice("attack", {**named, "octets": len(packet), **details})

    def changed(self, packet: bytes, sight: Sight) -> bytes:
        """The packet as `alter` or `downgrade` leaves it."""
        attack = self.attack
        if attack.do == "downgrade":
            return _downgraded(packet, sight, attack) or packet
        at = _place(attack, packet, sight)
        if at is None:
            return packet  # an earlier attack has taken that place away
        altered = flipped(packet, at, attack.mask)
        return mended(altered, sight) if attack.repair else altered

    def made(self, packet: bytes, sight: Sight) -> bytes:
        """The next packet of the attacker's own, made after the one that came."""
        attack, number = self.attack, self._made
        self._made += 1
        if attack.do == "insert":
            return inserted(attack, number)
        if attack.do == "forge":
            return forged(packet, sight, attack, number, self._rng)
        assert attack.address is not None, f"{attack.name}: a spoof of a checked file has a source"
        return spoofed(packet, sight, attack.address)

    def overtake(self) -> list[Overtaken]:
        """A packet that the attack is about passes: the held ones that enough have overtaken."""
        for held in self.overtaken:
            held.left -= 1
        freed = [held for held in self.overtaken if held.left <= 0]
        self.overtaken = [held for held in self.overtaken if held.left > 0]
        return freed

    def _can_be_done(self, packet: bytes, sight: Sight) -> bool:
        match self.attack.do:
            case "alter":
                return _place(self.attack, packet, sight) is not None
            case "downgrade":
                return _downgraded(packet, sight, self.attack) is not None
            case _:
                return True


def _is_traffic(attack: Attack, sight: Sight) -> bool:
    match attack.traffic:
        case "any":
            return True
        case "data":
            return sight.kind in ("plain", "esp", "ah")
        case _:
            return sight.kind == attack.traffic


def _fits(attack: Attack, sight: Sight) -> bool:
    ports = sight.source_port, sight.destination_port
    return (
        attack.protocol in (None, sight.protocol)
        and (attack.port is None or attack.port in ports)
        and attack.spi in (None, sight.spi)
        and attack.kind in (None, sight.message)
        and (attack.exchange is None or sight.exchange == ExchangeType[attack.exchange])
        and _is_in(attack.source, sight.source)
        and _is_in(attack.destination, sight.destination)
    )


def _is_in(network: IPv4Network | None, address: bytes) -> bool:
    if network is None:
        return True
    number = int.from_bytes(address, "big")
    return number & int(network.netmask) == int(network.network_address)


def _place(attack: Attack, packet: bytes, sight: Sight) -> int | None:
    """The octet that `alter` changes first; None where the packet has none such."""
    if attack.field is not None:
        return place_of(attack.field, sight)
    assert attack.octet is not None, f"{attack.name}: an alter of a checked file has a place"
    at = attack.octet if attack.octet >= 0 else len(packet) + attack.octet
    return at if 0 <= at < len(packet) else None


def _downgraded(packet: bytes, sight: Sight, attack: Attack) -> bytes | None:
    """The packet with less in its IKE_SA_INIT; None where there is nothing to be stripped."""
    if sight.kind != "ike" or sight.exchange != ExchangeType.IKE_SA_INIT or not sight.whole:
        return None
    message = downgraded(packet[sight.inner : sight.end], attack)
    return None if message is None else with_payload(packet, sight, message)
