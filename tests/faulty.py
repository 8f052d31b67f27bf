"""A Pair with faults: gateways of `lab.faults` in place of plain ones."""

from __future__ import annotations

import random

from pair import Pair, make_pair

from ipseclab.lab.faults import Fault, gateway_with


def fault(do: str, node: str = "a", **fields: object) -> Fault:
    """A fault of that kind, by default of the first gateway."""
    return Fault(f"{do} at {node}", node, do, **fields)  # type: ignore[arg-type]


def faulty_pair(*faults: Fault, **options: object) -> Pair:
    """A pair as `make_pair` makes it, its gateways with those of the faults that are theirs."""
    pair = make_pair(**options)  # type: ignore[arg-type]
    suffer(pair, *faults)
    return pair


def suffer(pair: Pair, *faults: Fault) -> None:
    """Give a fresh pair's gateways faults."""
    pair.gateways[:] = [
        gateway_with(config, faults, rng=random.Random(f"{pair.seed}/{side}"), seed=pair.seed)
        for side, config in enumerate(pair.configs)
    ]
