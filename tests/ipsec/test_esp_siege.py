"""20,000 hostile packets: no exception, each a counted drop, honest traffic unharmed.

`python benchmarks/hostile_esp.py` does the same with a million.
"""

import pytest

from ipseclab.lab.esp_siege import TARGETS, EspSiege

PACKETS = 20_000


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_packets_are_drops_and_honest_ones_arrive(name):
    siege = EspSiege(TARGETS[name], seed=1)
    siege.attack(PACKETS // len(TARGETS) + 1)
    assert siege.works
    assert siege.dropped == sum(siege.drops.values())
    # Fragments that hostile octets happened to complete end as one drop together.
    assert siege.hostile * 0.99 <= siege.dropped <= siege.hostile
    assert {"replayed", "bad_icv", "no_sa", "malformed"} <= set(siege.drops)


def test_the_same_seed_is_the_same_attack():
    one, other = (EspSiege(TARGETS["ah-tunnel"], seed=3) for _ in range(2))
    one.attack(300)
    other.attack(300)
    assert one.drops == other.drops
