from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ipseclab.sim.tcp.ranges import RangeSet

POSITIONS = st.integers(0, 60)
SPANS = st.tuples(POSITIONS, st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(st.lists(SPANS, max_size=30))
def test_it_holds_what_a_set_of_positions_holds(spans: list[tuple[int, int]]) -> None:
    model: dict[int, None] = {}
    ranges = RangeSet()
    for start, end in spans:
        added = ranges.add(start, end)
        fresh = [position for position in range(start, end) if position not in model]
        assert [position for one in added for position in range(*one)] == fresh
        model.update(dict.fromkeys(range(start, end)))
    held = ranges.ranges()
    assert [position for one in held for position in range(*one)] == sorted(model)
    # Disjoint, and not even touching.
    assert all(first[1] < second[0] for first, second in pairwise(held))


@given(st.lists(SPANS, max_size=30), POSITIONS)
def test_drop_below_and_containing(spans: list[tuple[int, int]], position: int) -> None:
    ranges = RangeSet()
    for span in spans:
        ranges.add(*span)
    model = {p for span in spans for p in range(*span)}
    found = ranges.containing(position)
    assert (found is not None) == (position in model)
    if found is not None:
        assert found in ranges.ranges()
    ranges.drop_below(position)
    kept = [p for one in ranges.ranges() for p in range(*one)]
    assert kept == sorted(p for p in model if p >= position)
