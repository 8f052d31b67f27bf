"""Rekeying loses nothing: ten CHILD_SA and ten IKE_SA rekeys, by both ends in turn, under 1,000
packets a second. `ipseclab run rekey-loses-nothing` does the same with a hundred of each."""

from __future__ import annotations

from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, at, run_in

from ipseclab.lab.plan import Probe, RunPlan
from ipseclab.lab.topology import Topology, load_topology

MOST_RUNS = 3
REKEYS = 20
INTERVAL = 0.6
RETRANSMISSION = {"timeout": 0.03, "base": 1.0, "tries": 60}
"""A rekey asked for while another is under way may rightly be merged with it, so each has to end
before the next. It is two exchanges (CREATE_CHILD_SA, DELETE) of 10 ms and the machine's own time;
each message pair that loses a packet, as 0.36 of them do at 20 % each way, costs 30 ms. With 0.1 s
left for the machine, 15 such losses still fit into 0.6 s, and 16 or more come with a probability of
sum((k + 1) * 0.64**2 * 0.36**k for k >= 16) = 9e-7, in any of 20 rekeys 2e-5."""
PROBE = Probe("probe", "h1", "h2", start=0.5, duration=12.7, rate=1000, size=700)
PLAN = RunPlan(
    (PROBE,),
    tuple(
        at(
            1.0 + INTERVAL * number,
            "rekey_child" if number % 4 < 2 else "rekey_ike",
            "gw1" if number % 2 else "gw2",
        )
        for number in range(REKEYS)
    ),
    duration=14.2,
)
OUTER = 20 + 8 + 8 + (28 + 700 + 2 + 2) + 16
"""Octets of a probe on the link: outer IPv4 header, SPI and sequence number, IV, the inner packet
padded to four with its trailer, ICV (RFC 4303, RFC 4106). No IKE message is as long."""


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("world", [SIM, pytest.param(NETNS, marks=pytest.mark.netns)])
def test_what_a_rekey_could_lose_the_link_has_dropped(
    world: str, loss: float, tmp_path: Path
) -> None:
    topology = load_topology("site-to-site").with_overrides(
        {
            "links.wan.delay": "5ms",
            "links.wan.loss": loss,
            "connections.site.retransmission": RETRANSMISSION,
        }
    )
    run = _undisturbed(world, topology, tmp_path)

    assert run.metrics["rekeys"] == REKEYS
    assert run.metrics["rekey_lost"] == 0
    sent = {record.fields["sequence"] for record in run.events("probe_sent")}
    received = [record.fields["sequence"] for record in run.events("probe_received")]
    assert len(sent) == PROBE.rate * PROBE.duration
    assert len(received) == len(set(received)), "a probe came twice"
    # Each probe is one packet of that size on the link: as many are missing as it says it dropped.
    dropped = [
        record
        for record in run.events("link_dropped", node="wan")
        if record.fields["direction"] == "forward" and record.fields["octets"] == OUTER
    ]
    assert len(sent - set(received)) == len(dropped)
    assert {record.fields["reason"] for record in dropped} <= {"loss"}
    assert not run.events("packet_dropped")
    if loss:
        assert abs(len(dropped) / len(sent) - loss) < 0.02
        assert run.metrics["retransmissions"]
    else:
        assert not dropped


def _undisturbed(world: str, topology: Topology, folder: Path) -> Run:
    """A run in which the lab itself lost nothing. One in which the machine was too slow for its
    own queues, by the kernel's count of that, says nothing of what rekeys lose."""
    for number in range(MOST_RUNS):
        run = run_in(world, topology, PLAN, folder / f"run-{number}", seed=2)
        if not run.metrics["overruns"]:
            return run
    pytest.fail(
        f"the lab itself lost packets in each of {MOST_RUNS} runs: this machine is too busy"
    )
