"""Two exchanges that collide, with their messages delivered in every order there is.

A walk over all orders: each run takes one path of choices and says how many there were, which gives
the next path. One message may be lost on the way, any one; it is sent again later. When no message
is left to be delivered and none is sent again, both ends must agree.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pair import CONNECTION, Pair, make_pair
from post import Post
from rekey_schedule import in_clear

from ipseclab.ike.sa import ChildState, IkeState

REST = 900.0
"""Longer than it takes to give up on lost messages, and than a candidate is kept."""
QUIET = 5.0
"""Longer than the first wait for a response, and than that after TEMPORARY_FAILURE."""
DEEPEST = 9
"""Choices in one order; beyond them whatever was sent first arrives first."""
MOST_ORDERS = 5000

REKEYS = [
    ("rekey_child", "rekey_child"),
    ("rekey_ike", "rekey_ike"),
    ("rekey_child", "rekey_ike"),
]
DELETES = [
    ("delete_child", "delete_child"),
    ("delete_ike", "delete_ike"),
    ("delete_child", "rekey_child"),
    ("delete_child", "rekey_ike"),
    ("delete_ike", "rekey_child"),
    ("delete_ike", "rekey_ike"),
    ("delete_ike", "delete_child"),
]
CREATIONS = [("create_child", "rekey_ike"), ("create_child", "rekey_child")]


@dataclass
class Walk:
    """One order: at each step the choice that `path` says, beyond its end the first."""

    path: list[int]
    losses: int
    choices: list[int] = field(default_factory=list)
    story: list[str] = field(default_factory=list)

    def choose(self, count: int) -> int:
        if len(self.choices) == DEEPEST:
            return 0
        choice = self.path[len(self.choices)] if len(self.choices) < len(self.path) else 0
        self.choices.append(count)
        return choice

    def following(self) -> list[int] | None:
        """The path of the next order; None after the last."""
        taken = [*self.path, *[0] * (len(self.choices) - len(self.path))]
        while taken and taken[-1] + 1 == self.choices[len(taken) - 1]:
            taken.pop()
        return [*taken[:-1], taken[-1] + 1] if taken else None

    def step(self, post: Post) -> None:
        """Deliver one of the held messages, or lose it."""
        held = len(post.held)
        choice = self.choose(held * (1 + (self.losses > 0)))
        name = post.names[choice % held]
        if choice < held:
            self.story.append(name)
            post.deliver_sent(post.held[choice])
        else:
            self.losses -= 1
            self.story.append(f"{name} lost")
            post.held.pop(choice - held)


def orders(a: str, b: str, *, seed: int, losses: int) -> Iterator[tuple[list[str], Pair]]:
    """Every order in which the messages of `a` at one end and `b` at the other can arrive."""
    path: list[int] | None = []
    for _ in range(MOST_ORDERS):
        assert path is not None
        walk = Walk(path, losses)
        pair = make_pair(seed=seed)
        pair.connect()
        pair.sent.clear()
        post = Post(pair)
        pair.do(0, a, CONNECTION)
        pair.do(1, b, CONNECTION)
        while post.held:
            walk.step(post)
            if not post.held:
                pair.run(QUIET)
        post.open(REST)
        yield walk.story, pair
        path = walk.following()
        if path is None:
            return
    pytest.fail(f"more than {MOST_ORDERS} orders")


@pytest.mark.parametrize("losses", [0, 1])
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(("a", "b"), REKEYS)
def test_one_pair_is_left_whatever_the_order(a, b, seed, losses):
    for story, pair in orders(a, b, seed=seed, losses=losses):
        try:
            pair.agreed()
        except AssertionError as error:
            raise AssertionError(f"after {story}") from error
        assert not in_clear(pair)


@pytest.mark.parametrize("losses", [0, 1])
@pytest.mark.parametrize(("a", "b"), DELETES + CREATIONS)
def test_both_ends_agree_on_what_is_left_whatever_the_order(a, b, losses):
    for story, pair in orders(a, b, seed=1, losses=losses):
        assert pair.ike_spis(0) == pair.ike_spis(1), story
        assert pair.spis(0) == pair.spis(1), story
        for gateway in pair.gateways:
            assert all(sa.state is IkeState.ESTABLISHED for sa in gateway.ike.ike_sas), story
            assert all(c.state is ChildState.INSTALLED for c in gateway.ike.child_sas), story
        assert len(pair.ike_spis(0)) == ("delete_ike" not in (a, b)), story
        if a == "create_child":
            assert len(pair.spis(0)) == 2, story
        if "delete_ike" in (a, b) or a == b == "delete_child":
            assert not pair.spis(0), story
