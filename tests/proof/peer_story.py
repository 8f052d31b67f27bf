"""A day in the life of a tunnel between our gateway and strongSwan: the part in the sandbox.

`python -m peer_story FOLDER` brings up the topology in FOLDER/story.json, drives both ends through
every exchange, sends traffic after each, and writes down what both ends say they have and what came
through. It judges nothing: the test does.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ipseclab.emu import devices
from ipseclab.emu.lab import Lab
from ipseclab.errors import ConfigError
from ipseclab.gateway import GatewayStatus
from ipseclab.lab.topology import resolve
from ipseclab.lab.trace import Trace
from ipseclab.lab.yaml_source import YamlSource
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, build_icmp_echo

STORY_FILE = "story.json"
STEPS_FILE = "steps.json"
TRACE_FILE = "trace.jsonl"
CONNECTION = "site"
GATEWAYS = ("gw1", "gw2")
HOSTS = ("h1", "h2")
SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.02
ECHO_SECONDS = 2.0
ECHOES = 3
TRANSFER_OCTETS = 300_000
TRANSFER_SECONDS = 15.0
PORT = 7

Spis = tuple[str, str]


@dataclass(frozen=True)
class Standing:
    """What an end has: its IKE_SAs, and its CHILD_SAs as (inbound SPI, outbound SPI)."""

    ikes: tuple[Spis, ...]
    children: tuple[Spis, ...]


@dataclass(frozen=True)
class Step:
    """What was done, by whom, whether both ends then agreed, and what came through."""

    what: str
    by: str
    settled: bool
    standings: Mapping[str, Standing]
    echoes: Mapping[str, int]
    transfers: Mapping[str, bool]


def standing(status: object) -> Standing:
    """An end's established SAs; both stacks report them alike."""
    assert isinstance(status, GatewayStatus)
    sas = [sa for sa in status.ike_sas if sa.state == "established"]
    children = [c for sa in sas for c in sa.children if c.state == "installed"]
    return Standing(
        tuple((sa.spi_i, sa.spi_r) for sa in sas),
        tuple((c.spi_in, c.spi_out) for c in children),
    )


def one_pair(first: Standing, second: Standing) -> bool:
    """True when both ends have the same one IKE_SA with the same one CHILD_SA."""
    if not len(first.ikes) == len(first.children) == len(second.children) == 1:
        return False
    (one,), (other,) = first.children, second.children
    return first.ikes == second.ikes and one == other[::-1]


def no_child(first: Standing, second: Standing) -> bool:
    """True when both ends have the same one IKE_SA, and no CHILD_SA."""
    return (
        len(first.ikes) == 1 and first.ikes == second.ikes and not first.children + second.children
    )


def nothing(first: Standing, second: Standing) -> bool:
    """True when neither end has anything."""
    return first == second == Standing((), ())


class Story:
    """The lab and what has been done in it."""

    def __init__(self, folder: Path) -> None:
        document = json.loads((folder / STORY_FILE).read_text(encoding="utf-8"))
        self.topology = resolve(YamlSource("story.yaml", document["topology"], {}))
        self.lab = Lab(self.topology, seed=1, out=folder)
        self.steps: list[Step] = []
        self._folder = folder

    def tell(self) -> None:
        """Everything, in order; the steps so far are on disk whatever happens next."""
        self.lab.build()
        self.lab.start_nodes()
        self.lab.start_captures()
        self.lab.restart_links()
        self.lab.start_time = time.monotonic()
        initiator = self.topology.connection(CONNECTION).initiator
        self.step("initiate", initiator, one_pair, transfers=True)
        for action in ("rekey_child", "rekey_ike"):
            for by in GATEWAYS:
                self.step(action, by, one_pair)
        for by in GATEWAYS:
            self.step("delete_child", by, no_child, echo=False)
            self.step("initiate", by, one_pair)
        for by in GATEWAYS:
            self.step("delete_ike", by, nothing, echo=False)
            self.step("initiate", initiator, one_pair)
        self.step("rekey_child", initiator, one_pair, transfers=True)
        self.lab.stop_captures()
        with (self._folder / TRACE_FILE).open("w", encoding="utf-8") as sink:
            self.lab.finish(Trace(sink, keep=False))

    def step(
        self,
        what: str,
        by: str,
        expected: Callable[[Standing, Standing], bool],
        *,
        echo: bool = True,
        transfers: bool = False,
    ) -> None:
        """Have `by` do it, wait for both ends to be as expected and different from before, and send
        traffic."""
        before = self.steps[-1].standings if self.steps else None
        self.lab.command(by, what, CONNECTION)
        until = time.monotonic() + SETTLE_SECONDS
        settled, found = False, self.standings()
        while not settled and time.monotonic() < until:
            self.lab.wait_until(time.monotonic() + POLL_SECONDS)
            found = self.standings()
            settled = found != before and expected(*found.values())
        ways = (HOSTS, HOSTS[::-1])
        echoes = {f"{a} {b}": self.echo(a, b) for a, b in ways} if echo and settled else {}
        done = {f"{a} {b}": self.transfer(a, b) for a, b in ways} if transfers and settled else {}
        self.steps.append(Step(what, by, settled, found, echoes, done))
        text = json.dumps([asdict(step) for step in self.steps], indent=1)
        (self._folder / STEPS_FILE).write_text(text, encoding="utf-8")
        if not settled:
            raise ConfigError(f"{what} by {by}: not settled within {SETTLE_SECONDS:.0f} s")

    def standings(self) -> dict[str, Standing]:
        """What each end has."""
        return {name: standing(self.lab.report(name).status) for name in GATEWAYS}

    def echo(self, source: str, destination: str) -> int:
        """How many of some pings are answered."""
        remote = str(self.topology.nodes[destination].address)
        with devices.in_network(self.lab.pid(source)):
            opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, IpProtocol.ICMP)
        answered = 0
        with opened:
            for sequence in range(ECHOES):
                request = build_icmp_echo(ICMP_ECHO_REQUEST, 1, sequence, bytes(1200))
                opened.sendto(request, (remote, 0))
                answered += self._answer(opened, request[4:])
        return answered

    def _answer(self, opened: socket.socket, rest: bytes) -> bool:
        """True when the answer to it comes in time."""
        until = time.monotonic() + ECHO_SECONDS
        while (left := until - time.monotonic()) > 0.0:
            if select.select([opened], [], [], left)[0]:
                message = opened.recv(65_536)[20:]
                if message[0] == ICMP_ECHO_REPLY and message[4:] == rest:
                    return True
        return False

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


def main(folder: Path) -> int:
    """Tell the story of the folder; what goes wrong ends it with a traceback in the log."""
    Story(folder).tell()
    return 0


def write_story(folder: Path, topology: Mapping[str, Any]) -> None:
    """Prepare the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"topology": topology})
    (folder / STORY_FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
