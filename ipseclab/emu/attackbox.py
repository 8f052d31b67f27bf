"""An attacker as a process: `lab.attacks` between the interfaces of its node."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from ipseclab.emu.box import DESTINATION, TTL, Box, Port, one_hop_less
from ipseclab.emu.process import Child, Control, start
from ipseclab.lab.attacks import Attack, Attacker, AttackResult
from ipseclab.lab.model import Node
from ipseclab.lab.routes import Route
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4


@dataclass(frozen=True, slots=True)
class AttackerSpec:
    """An attacker's node and routing table, the attacks of all, the seed of what they draw, and
    where its trace goes."""

    node: Node
    routes: tuple[Route, ...]
    attacks: tuple[Attack, ...]
    seed: int
    trace: Path


@dataclass(frozen=True, slots=True)
class Begin:
    """Control: the run starts at this monotonic time."""

    start: float


@dataclass(frozen=True, slots=True)
class AskTallies:
    """Control: asks what came of each attack (`lab.attacks.Tally`)."""


def start_attacker(spec: AttackerSpec, *, network: int, log: Path) -> Child:
    """Start an attacker's process in its node's network namespace; it says "ready"."""
    return start(
        f"attacker {spec.node.name}",
        lambda control: AttackBox(spec).run(control),
        network=network,
        log=log,
    )


class AttackBox(Box):
    """Moves packets between the ports as its attacker lets them."""

    dropped = "attacker_dropped"

    def __init__(self, spec: AttackerSpec) -> None:
        super().__init__(spec.node, spec.routes, spec.trace)
        self._spec = spec
        self._attacker = self._fresh()
        self._own = {item.address.packed for item in spec.node.interfaces}

    def _fresh(self) -> Attacker:
        spec = self._spec
        return Attacker(spec.node.name, spec.attacks, seed=spec.seed)

    @override
    def next_deadline(self) -> float | None:
        return self._attacker.next_deadline()

    @override
    def expire(self, now: float) -> None:
        self._finish(self._attacker.release(now), now)

    @override
    def rehearse(self) -> None:
        """Have an attacker like this one take a packet of each kind."""
        trial, address = self._fresh(), bytes(4)
        trial.begin(0.0)
        for protocol in (IpProtocol.UDP, IpProtocol.ESP, IpProtocol.AH):
            for link in {port.link: None for port in self._ports.values()}:
                trial.receive(build_ipv4(address, address, protocol, bytes(64)), link, 0.0)

    @override
    def take(self, port: Port, packet: bytes, now: float) -> None:
        if packet[DESTINATION] in self._own:
            self.drop("own_address", packet, now)
        elif packet[TTL] <= 1:
            self.drop("ttl_expired", packet, now)
        else:
            self._finish(self._attacker.receive(one_hop_less(packet), port.link, now), now)

    def _finish(self, result: AttackResult, now: float) -> None:
        """Send what the attacker sends; write down what it did."""
        for packet in result.packets:
            out = self.route(packet[DESTINATION])
            if out is None:
                self.drop("no_route", packet, now)
            else:
                self.send(out, packet, now)
        self.note(result.notices, now)

    @override
    def obey(self, message: object, control: Control) -> bool:
        match message:
            case Begin(start_time):
                self._attacker.begin(start_time)
                control.send(True)
            case AskTallies():
                control.send(self._attacker.tallies())
            case _:
                return False
        return True
