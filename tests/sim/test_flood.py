"""A small flood: cookies switch on, the tunnels go on, memory is bounded, a real client gets in."""

from dataclasses import replace

import pytest

from ipseclab.ike.config import IkeLimits
from ipseclab.sim.flood import run_flood

SMALL = {"tunnels": 5, "messages": 1500, "rate": 500.0}


@pytest.mark.parametrize(
    "limits",
    [
        IkeLimits(),
        IkeLimits(half_open=64, cookie_threshold=16, puzzle_threshold=16),
    ],
    ids=["cookies", "puzzles"],
)
def test_live_tunnels_and_a_new_client_survive_a_flood(limits):
    result = run_flood(**SMALL, limits=limits)
    assert result.goodput >= 0.9
    assert result.offered > 200
    assert result.most_half_open <= limits.cookie_threshold + 1
    assert result.most_ike_sas <= SMALL["tunnels"] + limits.cookie_threshold + 1
    assert result.demanded >= result.flooded - limits.cookie_threshold - 1
    assert result.client_got_in


def test_a_flood_beyond_the_cpu_is_seen_in_the_goodput():
    """The measure can fail: a gateway that is asked for more than it can do loses packets."""
    assert run_flood(**{**SMALL, "rate": 20_000.0, "messages": 8000}).goodput < 0.9


def test_the_same_seed_is_the_same_flood():
    few = {**SMALL, "messages": 300}
    assert run_flood(**few) == run_flood(**few)
    assert replace(run_flood(**few), flooded=0) != run_flood(**few, seed=2)
