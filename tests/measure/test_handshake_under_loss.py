"""The closed form of `handshake_time` against two real gateways in virtual time.

Other losses and schedules than in `test_closed_form_in_sim.py`.
"""

import random
from math import sqrt
from statistics import fmean

import pytest
from pair import Fate, Pair, Sent, make_pair

from ipseclab.ike.config import IkeLimits, Retransmission
from ipseclab.measure.closed_form import handshake

RUNS = 600
DELAY = 0.02


def handshake_time(pair: Pair, loss: tuple[float, float], seed: str) -> float | None:
    """Seconds until the first CHILD_SA stands at both ends; None when the initiator gives up."""
    rng = random.Random(seed)

    def fate(sent: Sent) -> Fate:
        return () if rng.random() < loss[sent.sender] else (0.0,)

    pair.fate = fate
    pair.do(0, "initiate", "site")
    while not pair.events("child_ready", 0):
        if pair.events("ike_gone", 0) or pair.now > 400.0:
            return None
        pair.run(0.5)
    ready: list[float] = [at for at, _, notice in pair.notices if notice.event == "child_ready"]
    assert len(ready) == 2
    return max(ready)


@pytest.mark.parametrize(
    ("loss", "schedule"),
    [
        ((0.25, 0.25), Retransmission()),
        ((0.3, 0.1), Retransmission(timeout=0.5, base=1.5, tries=6)),
    ],
    ids=["25 %", "30 % out, 10 % back"],
)
def test_two_gateways_take_as_long_as_worked_out(
    loss: tuple[float, float], schedule: Retransmission
) -> None:
    times = []
    for run in range(RUNS):
        pair = make_pair(both={"retransmission": schedule}, seed=run, delay=DELAY)
        times.append(handshake_time(pair, loss, f"{loss} {run}"))
    ended = [time for time in times if time is not None]
    expected = handshake(
        schedule,
        2 * DELAY,
        loss_out=loss[0],
        loss_back=loss[1],
        half_open_timeout=IkeLimits().half_open_patience,
    )
    low, high = expected.interval_95(len(ended))
    assert low <= fmean(ended) <= high
    possible = {round(time, 6) for time in expected.times}
    assert {round(time, 6) for time in ended} <= possible
    spread = sqrt(expected.failure * expected.success * RUNS)
    assert len(times) - len(ended) == pytest.approx(expected.failure * RUNS, abs=4 * spread + 1)


def test_without_loss_it_is_two_round_trips() -> None:
    assert handshake_time(make_pair(delay=DELAY), (0.0, 0.0), "") == pytest.approx(4 * DELAY)
