"""Every order of two overlapping exchanges, with a loss and a duplicate: the invariants, and the
states that it may end in. `benchmarks/explore.py` walks further."""

import pytest

from ipseclab.lab.schedules.explore import OPERATIONS, Budget, explore
from ipseclab.lab.schedules.parties import Terms

PAIRS = [(a, b) for a in OPERATIONS for b in OPERATIONS]
NOTHING = "IKE_SA first, CHILD_SA none"


def ends_expected(a, b):
    """What may be left when both have done their work: RFC 7296 sections 2.8.1, 2.8.2, 2.25.

    Of two that are told one after the other, the second finds what the first has made.
    """
    if "delete_ike" in (a, b):
        return {"IKE_SA none, CHILD_SA none"}
    told = {"a": a, "b": b}

    def by(what):
        return [side for side in told if told[side] == what]

    children = [["first"]]
    if by("rekey_child"):
        children = [[side] for side in by("rekey_child")]
    if by("delete_child"):
        children = [[]]
    made = by("create_child")
    with_made = [sorted([*kept, *made]) for kept in children]
    if made and by("delete_child"):
        with_made.append([])
    if made and by("rekey_child"):
        with_made.append(by("rekey_child") * 2)
    return {
        f"IKE_SA {ike}, CHILD_SA {counted(left)}"
        for ike in by("rekey_ike") or ["first"]
        for left in with_made
    }


def counted(makers):
    found = [
        f"{makers.count(who)} x {who}" if makers.count(who) > 1 else who
        for who in dict.fromkeys(makers)
    ]
    return " + ".join(found) or "none"


@pytest.mark.parametrize("budget", [Budget(1, 0), Budget(0, 1)], ids=["a loss", "a duplicate"])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_no_order_with_a_loss_or_a_duplicate_breaks_an_invariant(a, b, budget):
    found = explore(a, b, budget=budget)
    assert not found.violation, "\n".join([found.violation, *found.story])
    assert set(found.ends) == ends_expected(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("rekey_child", "delete_child"), ("rekey_ike", "delete_child"), ("create_child",) * 2],
)
def test_no_order_with_a_loss_and_a_duplicate_breaks_an_invariant(a, b):
    found = explore(a, b)
    assert not found.violation, "\n".join([found.violation, *found.story])
    assert set(found.ends) == ends_expected(a, b)
    assert found.orders > 1000


@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("what", ["rekey_child", "rekey_ike"])
def test_collision_ends_well_whoever_has_the_lowest_nonce(what, seed):
    found = explore(what, what, seed=seed, budget=Budget(losses=1, doubles=0))
    assert not found.violation, "\n".join([found.violation, *found.story])
    assert set(found.ends) == ends_expected(what, what)


@pytest.mark.parametrize(("a", "b"), [("rekey_child", "delete_child")])
def test_messages_that_are_late_past_a_deadline(a, b):
    found = explore(a, b, budget=Budget(losses=1, doubles=0, late=1))
    assert not found.violation, "\n".join([found.violation, *found.story])
    assert set(found.ends) == ends_expected(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("rekey_child", "rekey_ike"), ("rekey_child", "delete_child")],
)
def test_several_key_exchanges(a, b):
    found = explore(a, b, budget=Budget(losses=1, doubles=0), terms=Terms(further=True))
    assert not found.violation, "\n".join([found.violation, *found.story])
    # An old SA that is closed while its heir waits for the second key exchange takes it along.
    assert set(found.ends) == ends_expected(a, b)


@pytest.mark.parametrize(
    ("a", "b", "ends"),
    [
        (
            "create_child+create_child",
            "delete_child",
            {"IKE_SA first, CHILD_SA 2 x a", "IKE_SA first, CHILD_SA a", NOTHING},
        ),
    ],
)
def test_several_requests_of_one_end_at_once(a, b, ends):
    found = explore(a, b, budget=Budget(losses=0, doubles=0), terms=Terms(window=4))
    assert not found.violation, "\n".join([found.violation, *found.story])
    assert set(found.ends) == ends


def test_more_may_happen_more_orders_there_are():
    budgets = (Budget(0, 0), Budget(1, 0), Budget(0, 1), Budget(1, 1), Budget(1, 1, 1))
    counts = [explore("delete_ike", "delete_ike", budget=budget).orders for budget in budgets]
    assert counts == sorted(set(counts))


def test_same_walk_twice_finds_the_same():
    assert explore("rekey_child", "rekey_ike") == explore("rekey_child", "rekey_ike")


def test_histories_are_fewer_than_orders():
    """What makes the walk affordable: a gateway sees of an order only what reaches it."""
    found = explore("rekey_child", "rekey_child")
    assert found.executions < found.histories < found.states < found.orders
