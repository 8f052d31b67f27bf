"""A tunnel's life between our gateway and strongSwan, inside a sandbox: what was done, what was so.

`python -m ipseclab.measure.interop.life FOLDER` brings up the lab of FOLDER/order.json, has its
ends do the steps, sends traffic after each, and writes down in FOLDER/life.json what both ends say
they have and what came through. It judges nothing but whether a step came to its end: without that
the next one would mean nothing.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.emu.peers.strongswan import KEYS_DETAIL
from ipseclab.errors import IpsecLabError
from ipseclab.gateway import GatewayStatus
from ipseclab.ike.config import IkeLimits
from ipseclab.lab.topology import resolve
from ipseclab.lab.trace import Trace
from ipseclab.lab.yaml_source import YamlSource
from ipseclab.measure.interop.cells import (
    EFFECTS,
    Change,
    Effect,
    Outcome,
    Tunnel,
)
from ipseclab.measure.results import write_atomic
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, build_icmp_echo

ORDER_FILE = "order.json"
LIFE_FILE = "life.json"
TRACE_FILE = "trace.jsonl"
SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.02
ECHO_SECONDS = 2.0
ECHOES = 3
ECHO_OCTETS = 1200
TRANSFER_OCTETS = 300_000
TRANSFER_SECONDS = 15.0
PORT = 7

Spis = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """What an end has: its IKE_SAs, and its CHILD_SAs as (inbound SPI, outbound SPI)."""

    ikes: tuple[Spis, ...] = ()
    children: tuple[Spis, ...] = ()
    peers: tuple[str, ...] = ()
    """Where each IKE_SA's other end is."""


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was done: whether both ends then agreed on what it leads to, and what came
    through."""

    what: str
    by: str
    settled: bool
    standings: Mapping[str, Standing]
    echoes: Mapping[str, int]
    transfers: Mapping[str, bool]
    seconds: float


def write_order(folder: Path, tunnel: Tunnel) -> None:
    """Prepare the folder. Raises ConfigError for a topology that cannot be."""
    folder.mkdir(parents=True, exist_ok=True)
    ground = tunnel.ground
    order = {
        "topology": tunnel.topology().source.data,
        "connection": ground.connection,
        "gateways": [ground.initiator, ground.responder],
        "ways": [ground.hosts, ground.hosts[::-1]] if ground.both_ways else [ground.hosts],
        "steps": [{**asdict(step), "by": tunnel.node_of(step.by)} for step in tunnel.steps],
        "daemon": tunnel.daemon,
        "cookies": tunnel.cookies,
    }
    write_atomic(folder / ORDER_FILE, json.dumps(order, indent=1) + "\n")


def standing(status: object, connection: str) -> Standing:
    """An end's established SAs of a connection; both stacks report them alike."""
    assert isinstance(status, GatewayStatus)
    sas = [sa for sa in status.ike_sas if sa.state == "established" and sa.connection == connection]
    children = [c for sa in sas for c in sa.children if c.state == "installed"]
    return Standing(
        tuple((sa.spi_i, sa.spi_r) for sa in sas),
        tuple((c.spi_in, c.spi_out) for c in children),
        tuple(sa.peer for sa in sas),
    )


def reached(outcome: Outcome, first: Standing, second: Standing) -> bool:
    """True when both ends have that, the same SAs at each."""
    match outcome:
        case Outcome.PAIR:
            if not len(first.ikes) == len(first.children) == len(second.children) == 1:
                return False
            (one,), (other,) = first.children, second.children
            return first.ikes == second.ikes and one == other[::-1]
        case Outcome.NO_CHILD:
            same = len(first.ikes) == 1 and first.ikes == second.ikes
            return same and not first.children + second.children
        case Outcome.NOTHING:
            return first == second == Standing()
        case Outcome.UNFINISHED:
            return True


def changed(effect: Effect, before: Standing, after: Standing) -> bool:
    """True when the SAs of before were kept or replaced as the step says."""
    pairs = ((effect.ike, before.ikes, after.ikes), (effect.child, before.children, after.children))
    return all(
        wanted is Change.ANY or (old == new) is (wanted is Change.KEPT)
        for wanted, old, new in pairs
    )


class Life:
    """The lab, and what has been done in it."""

    def __init__(self, folder: Path) -> None:
        order = json.loads((folder / ORDER_FILE).read_text(encoding="utf-8"))
        self.topology = resolve(YamlSource("order.yaml", order["topology"], {}))
        self._order = order
        self._folder = folder
        self._limits = IkeLimits(cookie_threshold=0) if order["cookies"] else None
        self.lab = Lab(
            self.topology,
            seed=1,
            out=folder,
            peer_detail=KEYS_DETAIL,
            peer_settings=tuple((key, value) for key, value in order["daemon"]),
            ike_limits=self._limits,
        )
        self.done: list[Done] = []

    def live(self) -> None:
        """Everything, in order; what is done so far is on disk whatever happens next."""
        self.lab.build()
        self.lab.start_nodes()
        self.lab.start_captures()
        self.lab.restart_links()
        self.lab.start_time = time.monotonic()
        problem = ""
        try:
            for entry in self._order["steps"]:
                if not self._step(entry):
                    problem = "not settled"
                    break
        except IpsecLabError as error:
            problem = str(error)
        self._write(problem)
        self.lab.stop_captures()
        with (self._folder / TRACE_FILE).open("w", encoding="utf-8") as sink:
            self.lab.finish(Trace(sink, keep=False))

    def _step(self, entry: Mapping[str, Any]) -> bool:
        """Have an end do it, wait until both are as it leads to, and send traffic."""
        what, by = str(entry["action"]), str(entry["by"])
        effect = EFFECTS[what]
        before = self.done[-1].standings if self.done else self.standings()
        began = time.monotonic()
        self._command(what, by, entry)
        settled, found = False, before
        while not settled and time.monotonic() < began + SETTLE_SECONDS:
            self.lab.wait_until(time.monotonic() + POLL_SECONDS)
            found = self.standings()
            settled = reached(effect.outcome, *found.values()) and all(
                changed(effect, before[name], found[name]) for name in found
            )
            if effect.moved:
                settled &= any(before[name].peers != found[name].peers for name in found)
        seconds = round(time.monotonic() - began, 3)
        carries = settled and effect.outcome is Outcome.PAIR
        ways = self._order["ways"] if carries else ()
        echoes = {f"{a} {b}": self.echo(a, b) for a, b in ways}
        transfers = {f"{a} {b}": self.transfer(a, b) for a, b in ways if entry["transfers"]}
        self.done.append(Done(what, by, settled, found, echoes, transfers, seconds))
        self._write("")
        return settled

    def _command(self, what: str, by: str, entry: Mapping[str, Any]) -> None:
        if what == "move":
            self.lab.change_address(by, entry["link"], entry["address"])
            return
        action = "initiate" if what == "prepare" else what
        self.lab.command(by, action, str(entry["connection"] or self._order["connection"]))

    def _write(self, problem: str) -> None:
        life = {"steps": [asdict(step) for step in self.done], "problem": problem}
        write_atomic(self._folder / LIFE_FILE, json.dumps(life, indent=1) + "\n")

    def standings(self) -> dict[str, Standing]:
        """What each end has."""
        connection = str(self._order["connection"])
        return {
            name: standing(self.lab.report(name).status, connection)
            for name in self._order["gateways"]
        }

    def echo(self, source: str, destination: str) -> int:
        """How many of some pings are answered."""
        remote = str(self.topology.nodes[destination].address)
        with devices.in_network(self.lab.pid(source)):
            opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, IpProtocol.ICMP)
        answered = 0
        with opened:
            for sequence in range(ECHOES):
                request = build_icmp_echo(ICMP_ECHO_REQUEST, 1, sequence, bytes(ECHO_OCTETS))
                opened.sendto(request, (remote, 0))
                if not _answered(opened, request[4:]):
                    break
                answered += 1
        return answered

    def transfer(self, source: str, destination: str) -> bool:
        """True when a TCP connection brings all that was sent, as it was sent."""
        octets = hashlib.shake_128(f"{source} {destination}".encode()).digest(TRANSFER_OCTETS)
        with devices.in_network(self.lab.pid(destination)):
            listener = socket.create_server(("", PORT))
        with devices.in_network(self.lab.pid(source)):
            sender = socket.socket()
        with listener, sender:
            listener.settimeout(TRANSFER_SECONDS)
            sender.setblocking(False)
            sender.connect_ex((str(self.topology.nodes[destination].address), PORT))
            try:
                receiver, _peer = listener.accept()
            except TimeoutError:
                return False
            with receiver:
                return _carried(sender, receiver, octets) == octets


def _answered(opened: socket.socket, rest: bytes) -> bool:
    """True when the answer to an echo request comes in time; `rest` is what it has to repeat."""
    until = time.monotonic() + ECHO_SECONDS
    while (left := until - time.monotonic()) > 0.0:
        if select.select([opened], [], [], left)[0]:
            message = opened.recv(65_536)[20:]
            if message[0] == ICMP_ECHO_REPLY and message[4:] == rest:
                return True
    return False


def _carried(sender: socket.socket, receiver: socket.socket, octets: bytes) -> bytes:
    """What arrives of `octets`, in time."""
    received = bytearray()
    left = memoryview(octets)
    until = time.monotonic() + TRANSFER_SECONDS
    while len(received) < len(octets) and (seconds := until - time.monotonic()) > 0.0:
        writers = [sender] if left else []
        readable, writable, _ = select.select([receiver], writers, [], seconds)
        if writable:
            left = left[sender.send(left) :]
        if readable:
            received += receiver.recv(65_536)
    return bytes(received)


if __name__ == "__main__":
    Life(Path(sys.argv[1])).live()
