"""Same seed, same trace: octet for octet in the simulator, loss for loss in the namespaces."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from worlds import NETNS, SIM, Run, run_in

from ipseclab.lab.model import DIRECTIONS
from ipseclab.lab.plan import Probe, RunPlan
from ipseclab.lab.topology import load_topology
from ipseclab.measure.experiment import load_experiment
from ipseclab.measure.job import lay_out
from ipseclab.measure.worker import TRACE_FILE

DO = (
    "import sys; from pathlib import Path; from ipseclab.measure.worker import run_job; "
    "run_job(Path(sys.argv[1]))"
)


def test_quickstart_is_the_same_trace_under_every_hash_seed(tmp_path: Path) -> None:
    (job,) = lay_out(load_experiment("quickstart"), world=SIM, seed=7, quick=False, repetitions=1)
    (other,) = lay_out(load_experiment("quickstart"), world=SIM, seed=8, quick=False, repetitions=1)
    made = []
    for name, hash_seed, todo in (("a", "0", job), ("b", "4294967295", job), ("c", "0", other)):
        folder = tmp_path / name
        folder.mkdir()
        todo.write(folder)
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        subprocess.run([sys.executable, "-c", DO, str(folder)], check=True, env=environment)
        made.append(
            {
                path: (folder / path).read_bytes()
                for path in (TRACE_FILE, "capture.pcapng", "keys/esp_sa")
            }
        )
    first, second, third = made
    assert first == second
    assert len(first[TRACE_FILE]) > 100_000
    for path, octets in third.items():
        assert octets != first[path], path


LOSSES: Mapping[str, object] = {
    "Bernoulli": 0.1,
    "Gilbert-Elliott": {"p": 0.05, "r": 0.4, "h": 0.1, "k": 0.99},
    "n-th": {"packets": [3, 10, 11, 40], "every": 17},
}
PLAN = RunPlan(
    (
        Probe("out", "h1", "h2", start=2.0, duration=2.0, rate=250),
        Probe("back", "h2", "h1", start=2.0, duration=2.0, rate=200),
    ),
    duration=5.0,
)


@pytest.mark.netns
@pytest.mark.parametrize("model", LOSSES)
def test_the_packets_lost_in_namespaces_are_those_lost_in_the_simulator(
    model: str, tmp_path: Path
) -> None:
    topology = load_topology("site-to-site").with_overrides(
        {
            "links.wan.loss": LOSSES[model],
            "links.wan2.loss": LOSSES[model],
            "connections.site.retransmission": {"timeout": 0.2, "base": 1.0, "tries": 12},
        }
    )
    runs = [run_in(world, topology, PLAN, tmp_path / world, seed=11) for world in (SIM, NETNS)]
    simulated, emulated = (_lost(run) for run in runs)
    assert (
        simulated.keys()
        == emulated.keys()
        == {(link, direction) for link in ("wan", "wan2") for direction in DIRECTIONS}
    )
    for way, ours in simulated.items():
        theirs = emulated[way]
        # As far as both went: a retransmission more or less makes one of them longer.
        common = min(ours[-1], theirs[-1])
        assert [i for i in ours if i <= common] == [i for i in theirs if i <= common], way
        assert common > 250, way
        assert len(ours) > 10, way


def _lost(run: Run) -> dict[tuple[str, str], list[int]]:
    """The indexes of the packets that each link and direction dropped."""
    found: dict[tuple[str, str], list[int]] = {}
    for record in run.events("link_dropped"):
        assert record.fields["reason"] == "loss"
        way = (record.node, str(record.fields["direction"]))
        found.setdefault(way, []).append(int(str(record.fields["index"])))
    return found
