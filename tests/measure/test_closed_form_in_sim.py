"""The closed form of `handshake_time` against the simulator: real topology, links, metric."""

from statistics import fmean

import pytest

from ipseclab.ike.config import IkeLimits, Retransmission
from ipseclab.lab.plan import RunPlan
from ipseclab.lab.topology import load_topology
from ipseclab.lab.trace import Trace
from ipseclab.measure.closed_form import handshake
from ipseclab.measure.metrics import handshake_time
from ipseclab.measure.view import RunView
from ipseclab.sim.network import run

RUNS = 1000
RTT = 0.04
"""Of the topology's one impaired link."""
LONGEST = 400.0
"""Seconds: longer than both exchanges can take with the default schedule."""


@pytest.mark.parametrize("loss", [0.05, 0.1, 0.2])
def test_a_thousand_runs_lie_within_the_interval(loss: float) -> None:
    topology = load_topology("site-to-site").with_overrides({"links.wan.loss": f"{loss:.0%}"})
    times = []
    for seed in range(RUNS):
        trace = Trace()
        run(topology, RunPlan(duration=LONGEST), seed=seed, trace=trace)
        times.append(handshake_time(RunView.of(trace.records)))
    ended = [time for time in times if time is not None]
    expected = handshake(
        Retransmission(),
        RTT,
        loss_out=loss,
        loss_back=loss,
        half_open_timeout=IkeLimits().half_open_patience,
    )
    low, high = expected.interval_95(len(ended))
    assert low <= fmean(ended) <= high
    assert {round(time, 6) for time in ended} <= {round(time, 6) for time in expected.times}
    # At 20 % 7 of 1,000 fail, at 5 % none: within four standard deviations.
    failures = RUNS * expected.failure
    assert RUNS - len(ended) == pytest.approx(failures, abs=4 * failures**0.5 + 1)
