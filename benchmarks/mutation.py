"""A core that was broken on purpose, and the search for a random schedule that shows it.

Each mutant is a piece of the core's source put in the place of another, in a process of its own:
mistakes of the kind that an implementer makes. `mutants.py` makes the table of them all.

    python benchmarks/mutation.py 300 stale-outbound no-liveness
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import multiprocessing
import sys
from dataclasses import asdict, dataclass
from functools import partial

NOBODY = "none"


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `module` (of ipseclab), `new` stands where `old` stood, which is there once."""

    name: str
    says: str
    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Hunt:
    """`seeds` were tried, the last of which broke `invariant` (or none did)."""

    seeds: int
    invariant: str
    problem: str


MUTANTS = (
    Mutant(
        "child-nonces",
        "one end keeps the CHILD_SA with the lowest nonce",
        "ike.create",
        "        if new.lowest_nonce < rival.lowest_nonce:",
        '        if (new.lowest_nonce < rival.lowest_nonce) != (ctx.config.name == "a"):',
    ),
    Mutant(
        "ike-nonces",
        "one end keeps the IKE_SA with the lowest nonce",
        "ike.rekey",
        "for candidate in old.candidates)",
        'for candidate in old.candidates) or rival is not None and ctx.config.name == "a"',
    ),
    Mutant(
        "wrong-spi",
        "a DELETE names the peer's SPI instead of its sender's",
        "ike.informational",
        "        return (DeletePayload(child.proposal.protocol, (child.spi_in,)),)",
        "        return (DeletePayload(child.proposal.protocol, (child.spi_out,)),)",
    ),
    Mutant(
        "ike-rekey-in-child",
        "no TEMPORARY_FAILURE to the IKE_SA's rekey while a CHILD_SA is being made",
        "ike.rekey",
        "    if busy is not None:",
        "    if busy is None and sa.state is IkeState.GONE:",
    ),
    Mutant(
        "no-repeat",
        "a repeated request is not answered from the cache",
        "ike.endpoint",
        "            self._send_again(path, last)\n            return\n        received",
        "            return\n        received",
    ),
    Mutant(
        "ids-go-on",
        "message IDs go on where the rekeyed IKE_SA left off",
        "ike.rekey",
        "        round_trip=old.round_trip,",
        "        round_trip=old.round_trip,\n        next_message_id=old.next_message_id,",
    ),
    Mutant(
        "stale-outbound",
        "the outbound half of a rekeyed SA stays",
        "ipsec.datapath",
        "            self.sad.remove_outbound(entry)\n",
        "",
    ),
    Mutant(
        "redundant-stays",
        "who loses a collision does not delete its redundant CHILD_SA",
        "ike.create",
        "            close_child(ctx, new, REDUNDANT)\n            return\n        if rival",
        "            return\n        if rival",
    ),
    Mutant(
        "no-inheritance",
        "CHILD_SAs are not inherited by the IKE_SA that a rekey makes",
        "ike.lifecycle",
        "    new.children.update(old.children)\n",
        "",
    ),
    Mutant(
        "lost-tasks",
        "what waited for the old IKE_SA is forgotten when it is rekeyed",
        "ike.lifecycle",
        "    new.tasks.extend(task for task in old.tasks if task.follows_succession)\n",
        "",
    ),
    Mutant(
        "no-liveness",
        "silence of the peer is never looked into",
        "ike.upkeep",
        "        if sa.own_request is None or looks:",
        "        if sa.own_request is not None:",
    ),
    Mutant(
        "impatience",
        "a peer is given up after one repetition",
        "ike.upkeep",
        "    if request.attempt < sa.connection.retransmission.tries:",
        "    if request.attempt < 1:",
    ),
    Mutant(
        "window",
        "one request more than the window allows",
        "ike.sa",
        "oldest + self.peer_window:",
        "oldest + self.peer_window + 1:",
    ),
    Mutant(
        "children-stay-put",
        "MOBIKE moves the IKE_SA and not the data path",
        "ike.mobike.move",
        "        if child.mode is Mode.TUNNEL:",
        "        if child.mode is not Mode.TUNNEL:",
    ),
    Mutant(
        "no-following",
        "a peer whose NAT has forgotten it is not followed",
        "ike.upkeep",
        "    if path == sa.path or not sa.peer_behind_nat or",
        "    if path == sa.path or sa.peer_behind_nat or",
    ),
    Mutant(
        "too-early",
        "the responder of a rekey sends on the new SA at once",
        "ike.child",
        "    install(ctx, child, nonces, secret, additional, use_outbound=False, hold=hold)",
        "    install(ctx, child, nonces, secret, additional, use_outbound=True, hold=hold)",
    ),
    Mutant(
        "no-linger",
        "the inbound half of a rekeyed SA goes at once",
        "ipsec.datapath",
        "        if linger > 0.0:",
        "        if linger < 0.0:",
    ),
    Mutant(
        "no-replay-check",
        "a sequence number that was seen counts as new",
        "ipsec.replay",
        "        return not block >> (sequence & _BLOCK_MASK) & 1",
        "        return block >= 0",
    ),
    Mutant(
        "soft-deaf",
        "a CHILD_SA is not rekeyed when its lifetime nears its end",
        "ike.endpoint",
        "        if child is not None:\n            self._rekey(child)",
        "        if child is not None and child.resource:\n            self._rekey(child)",
    ),
    Mutant(
        "reauth-leaves-old",
        "reauthentication does not delete the old IKE_SA",
        "ike.reauth",
        "        if old.alive:\n            ctx.queue(old",
        "        if not old.alive:\n            ctx.queue(old",
    ),
    Mutant(
        "half-made-dropped",
        "an SA whose rekey came to nothing between two key exchanges stays out of service",
        "ike.create",
        "        if old.state is ChildState.REPLACED_BY_PEER:\n            old.state = Child",
        "        if old.state is ChildState.GONE:\n            old.state = Child",
    ),
    Mutant(
        "cut-anew",
        "a repeated request is cut into as many other fragments (found by schedules)",
        "ike.transmit",
        "        if len(smaller) > len(request.messages):",
        "        if smaller:",
    ),
    Mutant(
        "risen-again",
        "a token of an IKE_SA that was closed begins a new one (found by schedules)",
        "ike.crash",
        "    was_wanted = sa.alive\n",
        "    was_wanted = sa.successor is None\n",
    ),
    Mutant(
        "two-paths",
        "several questions about addresses at once (found by schedules)",
        "ike.mobike.tasks",
        "        return not isinstance(other, _Checked) and super()",
        "        return super()",
    ),
)


def mutate(mutant: Mutant) -> None:
    """Have the module broken in this process, before anything imports it."""
    name = f"ipseclab.{mutant.module}"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert name not in sys.modules
    with open(spec.origin, encoding="utf-8") as stream:
        source = stream.read()
    if source.count(mutant.old) != 1:
        found = f"{source.count(mutant.old)} places in {mutant.module}, 1 expected"
        raise SystemExit(f"{mutant.name}: {found}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source.replace(mutant.old, mutant.new), spec.origin, "exec"), module.__dict__)
    parent, _, last = name.rpartition(".")
    setattr(importlib.import_module(parent), last, module)


def hunt(most: int) -> Hunt:
    """Try seeds, from 0 on, in this process."""
    from ipseclab.lab.schedules.schedule import draw, run

    for seed in range(most):
        try:
            outcome = run(draw(seed))
        except (AssertionError, AttributeError, KeyError, ValueError) as error:
            return Hunt(seed + 1, "exception", repr(error))
        if outcome.invariant:
            return Hunt(seed + 1, outcome.invariant, outcome.problem)
    return Hunt(most, NOBODY, "")


def hunt_in_child(most: int, name: str) -> Hunt:
    """The same with a mutant, in a process that has not imported the core."""
    mutate(next(mutant for mutant in MUTANTS if mutant.name == name))
    return hunt(most)


def main() -> None:
    """A line of JSON a mutant: in the order of the names."""
    most, names = int(sys.argv[1]), sys.argv[2:]
    # Forked afresh for each, so that none inherits the breakage of another.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for found in pool.imap(partial(hunt_in_child, most), names, chunksize=1):
            print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    main()
