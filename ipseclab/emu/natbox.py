"""A NAT as a process: `lab.nat` between the interfaces of its node."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from typing_extensions import override

from ipseclab.emu.box import DESTINATION, TTL, Box, Port, one_hop_less
from ipseclab.emu.process import Child, Control, start
from ipseclab.ike.config import IKE_PORT
from ipseclab.lab.impairment import derive
from ipseclab.lab.model import Node
from ipseclab.lab.nat import Nat, NatResult, NatSide
from ipseclab.lab.routes import Route
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp


@dataclass(frozen=True, slots=True)
class NatSpec:
    """A NAT's node, its routing table, the seed of its port numbers, and where its trace goes."""

    node: Node
    routes: tuple[Route, ...]
    seed: int
    trace: Path


@dataclass(frozen=True, slots=True)
class Rebind:
    """Control: forget all mappings; with `address`, take that outside address from now on."""

    address: str | None = None


def start_nat(spec: NatSpec, *, network: int, log: Path) -> Child:
    """Start a NAT's process in its node's network namespace; it says "ready"."""
    return start(
        f"nat {spec.node.name}",
        lambda control: NatBox(spec).run(control),
        network=network,
        log=log,
    )


class NatBox(Box):
    """Moves packets between the ports, each through the NAT."""

    dropped = "nat_dropped"

    def __init__(self, spec: NatSpec) -> None:
        node = spec.node
        if node.nat is None:
            raise ValueError(f"{node.name} is not a NAT")
        super().__init__(node, spec.routes, spec.trace)
        self._node = node
        self._nat = Nat(node.nat, outside=node.pool, rng=derive(spec.seed, "nat", node.name))
        self._outside = next(p for p in self._ports.values() if p.name == node.outside)
        self._own = {item.address.packed for item in node.interfaces if item.name != node.outside}
        self._pool = {address.packed for address in node.pool}

    @override
    def next_deadline(self) -> float | None:
        return self._nat.next_deadline()

    @override
    def expire(self, now: float) -> None:
        self.note(self._nat.expire(now), now)

    @override
    def rehearse(self) -> None:
        """Pass two packets through a NAT like this one."""
        config = self._node.nat
        assert config is not None, "checked when the box was made"
        outside = next(iter(self._node.pool)).packed
        inside, remote = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
        trial, now = Nat(config, outside=self._node.pool, rng=random.Random(0)), time.monotonic()
        for source, target, receive in (
            (inside, remote, trial.outbound),
            (remote, outside, trial.inbound),
        ):
            segment = build_udp(source, IKE_PORT, target, IKE_PORT, bytes(8))
            receive(build_ipv4(source, target, IpProtocol.UDP, segment), now)

    @override
    def take(self, port: Port, packet: bytes, now: float) -> None:
        if port is self._outside:
            self._finish(self._nat.inbound(packet, now), now)
        else:
            self._from_inside(packet, now)

    def _from_inside(self, packet: bytes, now: float) -> None:
        destination = packet[DESTINATION]
        out = self.route(destination)
        if destination in self._own:
            self.drop("own_address", packet, now)
        elif destination in self._pool or out is self._outside:
            self._finish(self._nat.outbound(packet, now), now)
        elif out is None:
            self.drop("no_route", packet, now)
        elif packet[TTL] <= 1:
            self.drop("ttl_expired", packet, now)
        else:
            self.send(out, one_hop_less(packet), now)

    def _finish(self, result: NatResult, now: float) -> None:
        """Send what the NAT lets through; write down what it says."""
        self.note(result.notices, now)
        if result.packet is None:
            return
        if result.to is NatSide.OUTSIDE:
            self.send(self._outside, result.packet, now)
            return
        out = self.route(result.packet[DESTINATION])
        if out is None:
            self.drop("no_route", result.packet, now)
        else:
            self.send(out, result.packet, now)

    @override
    def obey(self, message: object, control: Control) -> bool:
        if not isinstance(message, Rebind):
            return False
        now, address = time.monotonic(), message.address
        try:
            notices = self._nat.rebind(now, None if address is None else IPv4Address(address))
        except ValueError as error:
            control.send(str(error))
        else:
            self.note(notices, now)
            control.send("")
        return True
