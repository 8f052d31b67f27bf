"""Two ends at odds: the same done in either role, and collisions with the lowest nonce wherever a
test wants it."""

from __future__ import annotations

from pair import CONNECTION, Pair, Sent, make_pair
from post import Post
from transcript import opened

from ipseclab.wire.payloads import NoncePayload

SIDES = (0, 1)
LONG = 900.0
"""Seconds after which everything has come to rest."""


def exchange(side: int, name: str) -> tuple[str, str]:
    """The names of an exchange that `side` begins: its request, the other end's response."""
    own, other = "ab"[side], "ab"[1 - side]
    return f"{own} {name} request", f"{other} {name} response"


def create(side: int) -> tuple[str, str]:
    """A CREATE_CHILD_SA exchange that `side` begins."""
    return exchange(side, "CREATE_CHILD_SA")


def info(side: int) -> tuple[str, str]:
    """An INFORMATIONAL exchange that `side` begins."""
    return exchange(side, "INFORMATIONAL")


NONCES = (*create(0), *create(1))
"""The four messages with a nonce, of which one holds the lowest."""


def connected(seed: int = 1, **options: object) -> Pair:
    """A pair whose connection stands, and which has said nothing since."""
    pair = make_pair(seed=seed, **options)  # type: ignore[arg-type]
    pair.connect()
    pair.sent.clear()
    return pair


def held(seed: int = 1, **options: object) -> tuple[Pair, Post]:
    """The same, with a post that delivers what a test says."""
    pair = connected(seed, **options)
    return pair, Post(pair)


def colliding(methods: tuple[str, str], seed: int = 1, **options: object) -> tuple[Pair, Post]:
    """Each end has been told its method, and the post holds what they sent."""
    pair, post = held(seed, **options)
    for side in SIDES:
        pair.do(side, methods[side], CONNECTION)
    return pair, post


def crossed(method: str, lowest: str, **options: object) -> tuple[Pair, Post]:
    """Both ends begin `method`, requests are delivered and responses held; the lowest of the four
    nonces is in the message `lowest`."""
    for seed in range(1, 200):
        pair, post = colliding((method, method), seed, **options)
        found = {name: post.held[post.names.index(name)] for name in (NONCES[0], NONCES[2])}
        post.deliver(NONCES[0], NONCES[2])
        found |= {name: post.held[post.names.index(name)] for name in (NONCES[1], NONCES[3])}
        nonces = {name: nonce_of(pair, sent) for name, sent in found.items()}
        if min(nonces, key=nonces.__getitem__) == lowest:
            return pair, post
    raise AssertionError(f"no seed with the lowest nonce in {lowest}")


def nonce_of(pair: Pair, sent: Sent) -> bytes:
    """The nonce in a message."""
    (nonce,) = (p.data for p in opened(pair, sent)[1] if isinstance(p, NoncePayload))
    return nonce


def redundant_at(lowest: str) -> int:
    """The side whose exchange has the lowest nonce: it closes the SA that came of it."""
    return 0 if lowest in NONCES[:2] else 1
