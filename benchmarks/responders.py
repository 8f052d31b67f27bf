"""Set-ups of an SA one after the other, each deleted before the next: the part of `ike.py` in a
sandbox. Either stack initiates, either responds, all by turns in one lab.

    g1 (ipseclab) ---+     +--- g2 (ipseclab)
                     +- r -+
    s1 (strongSwan) -+     +--- s2 (strongSwan)

CPU seconds are those that the kernel has counted for a gateway's process, all threads, user and
system together. charon is told what to do through vici, as our gateways are through their pipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from sandboxed import answer

from ipseclab.emu.lab import Lab
from ipseclab.emu.peers.strongswan import QUIET_DETAIL
from ipseclab.lab.topology import parse_topology

OURS, STRONGSWAN = "ipseclab", "strongSwan"
STACKS = (OURS, STRONGSWAN)
INITIATORS = {OURS: "g1", STRONGSWAN: "s1"}
RESPONDERS = {OURS: "g2", STRONGSWAN: "s2"}
PROPOSAL = "aes128gcm16-prfsha256-x25519"
WARM_UP = 20
STEP_SECONDS = 10.0
LOOK_EVERY = 0.0002


@dataclass(frozen=True, slots=True)
class Turn:
    """Some set-ups and deletions by one pair of stacks: seconds of the clock and of each process
    for one of them."""

    initiator: str
    responder: str
    seconds: float
    initiator_cpu: float
    responder_cpu: float


def four_gateways() -> str:
    """The topology drawn above, a connection for each initiator and responder."""
    nodes, links, connections = ["  r: {kind: router}"], [], []
    ends = [(stack, name) for side in (INITIATORS, RESPONDERS) for stack, name in side.items()]
    for number, (stack, name) in enumerate(ends, 1):
        nodes += [f"  h{number}: {{kind: host}}"]
        nodes += [f"  {name}: {{kind: gateway, stack: {stack.lower()}}}"]
        lan, wan = f"10.{number}.0", f"192.0.{number}"
        links += [
            f"  - {{ends: [h{number}, {name}], addresses: [{lan}.2/24, {lan}.1/24]}}",
            f"  - {{ends: [{name}, r], addresses: [{wan}.1/24, {wan}.2/24]}}",
        ]
    for initiator in INITIATORS.values():
        for responder in RESPONDERS.values():
            between = f"initiator: {initiator}, responder: {responder}, psk: benchmark"
            connections.append(
                f"  - {{name: {initiator}-{responder}, {between}, ike: {PROPOSAL}, "
                "esp: aes128gcm16, encapsulation: forced, start: on-demand}"
            )
    parts = ["nodes:", *nodes, "links:", *links, "connections:", *connections]
    return "\n".join(parts) + "\n"


class Story:
    """A trace while it is being written."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._part = ""

    def await_event(self, event: str) -> None:
        """Wait for the next such event. Raises TimeoutError."""
        until = time.monotonic() + STEP_SECONDS
        while time.monotonic() < until:
            self._part += self._file.readline()
            if not self._part.endswith("\n"):  # nothing new, or a line half written
                time.sleep(LOOK_EVERY)
                continue
            record, self._part = json.loads(self._part), ""
            if record["event"] == event:
                return
        raise TimeoutError(f"no {event} within {STEP_SECONDS:.0f} s")


class Ends:
    """The lab's gateways, and what the initiators tell."""

    def __init__(self, lab: Lab, stories: dict[str, Story]) -> None:
        self._lab = lab
        self._stories = stories

    def take_turn(self, initiator: str, responder: str, count: int) -> Turn:
        """So many set-ups and deletions by that pair of stacks."""
        ends = (INITIATORS[initiator], RESPONDERS[responder])
        before = [self._lab.report(name).cpu_seconds for name in ends]
        start = time.monotonic()
        for _ in range(count):
            self._set_up_and_delete(*ends)
        seconds = time.monotonic() - start
        after = [self._lab.report(name).cpu_seconds for name in ends]
        cpu = [(late - early) / count for early, late in zip(before, after, strict=True)]
        return Turn(initiator, responder, seconds / count, *cpu)

    def _set_up_and_delete(self, initiator: str, responder: str) -> None:
        connection, story = f"{initiator}-{responder}", self._stories[initiator]
        self._lab.command(initiator, "initiate", connection)
        story.await_event("child_ready")
        self._lab.command(initiator, "delete_ike", connection)
        story.await_event("ike_gone")


def inside(order: Any, folder: Path) -> list[dict[str, Any]]:
    """Rounds in which each pair of stacks has its turn, in an order that goes round with them."""
    lab = Lab(parse_topology(four_gateways()), seed=1, out=folder / "lab", peer_detail=QUIET_DETAIL)
    lab.build()
    lab.start_nodes()
    with ExitStack() as files:
        stories = {
            name: Story(files.enter_context(lab.folders.part(f"gateway-{name}").open("r")))
            for name in INITIATORS.values()
        }
        ends = Ends(lab, stories)
        pairs = [(initiator, responder) for initiator in STACKS for responder in STACKS]
        for pair in pairs:
            ends.take_turn(*pair, WARM_UP)
        turns = [
            ends.take_turn(*pair, order["count"])
            for number in range(order["rounds"])
            for pair in _rotated(pairs, number)
        ]
    return [asdict(turn) for turn in turns]


def _rotated(pairs: Sequence[tuple[str, str]], number: int) -> Sequence[tuple[str, str]]:
    first = number % len(pairs)
    return [*pairs[first:], *pairs[:first]]


if __name__ == "__main__":
    answer(inside)
