"""Set-ups of an SA one after the other, by our initiator, each deleted before the next: the part of
`ike.py` in a sandbox. CPU seconds are those of the two gateways' processes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

from sandboxed import answer

from ipseclab.emu.lab import Lab
from ipseclab.emu.peers.strongswan import QUIET_DETAIL
from ipseclab.lab.topology import parse_topology

RESPONDERS = {"ipseclab": "ipseclab", "strongswan": "strongSwan"}
"""A node's stack, and what people call it."""
PROPOSAL = "aes128gcm16-prfsha256-x25519"
INITIATOR, RESPONDER, CONNECTION = "g1", "g2", "site"
WARM_UP = 10
STEP_SECONDS = 10.0
LOOK_EVERY = 0.0002

SITES = f"""
nodes:
  h1: {{kind: host}}
  {INITIATOR}: {{kind: gateway}}
  {RESPONDER}: {{kind: gateway}}
  h2: {{kind: host}}
links:
  - {{ends: [h1, {INITIATOR}], addresses: [10.1.0.2/24, 10.1.0.1/24]}}
  - {{ends: [{INITIATOR}, {RESPONDER}], addresses: [192.0.2.1/24, 192.0.2.2/24]}}
  - {{ends: [{RESPONDER}, h2], addresses: [10.2.0.1/24, 10.2.0.2/24]}}
connections:
  - name: {CONNECTION}
    initiator: {INITIATOR}
    responder: {RESPONDER}
    psk: benchmark
    ike: {PROPOSAL}
    esp: aes128gcm16
    encapsulation: forced
    start: on-demand
"""


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


def inside(order: Any, folder: Path) -> dict[str, float]:
    """So many set-ups with that responder: how many a second, and CPU seconds of each end."""
    topology = parse_topology(SITES).with_overrides({f"nodes.{RESPONDER}.stack": order["stack"]})
    lab = Lab(topology, seed=1, out=folder / "lab", peer_detail=QUIET_DETAIL)
    lab.build()
    lab.start_nodes()
    with lab.folders.part(f"gateway-{INITIATOR}").open(encoding="utf-8") as file:
        story = Story(file)
        set_up_and_delete(lab, story, WARM_UP)
        before = [lab.report(name).cpu_seconds for name in (INITIATOR, RESPONDER)]
        start = time.monotonic()
        set_up_and_delete(lab, story, order["count"])
        seconds = time.monotonic() - start
        after = [lab.report(name).cpu_seconds for name in (INITIATOR, RESPONDER)]
    count = order["count"]
    return {
        "rate": count / seconds,
        "initiator": (after[0] - before[0]) / count,
        "responder": (after[1] - before[1]) / count,
    }


def set_up_and_delete(lab: Lab, story: Story, count: int) -> None:
    """Set the connection up and delete it, so many times."""
    for _ in range(count):
        lab.command(INITIATOR, "initiate", CONNECTION)
        story.await_event("child_ready")
        lab.command(INITIATOR, "delete_ike", CONNECTION)
        story.await_event("ike_gone")


if __name__ == "__main__":
    answer(inside)
