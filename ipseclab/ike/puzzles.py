"""Client puzzles: work that an initiator shows before a responder works for it (RFC 8019).

A puzzle is a PRF, a string S (the cookie; for IKE_AUTH see `auth_puzzle`) and a difficulty Z: find
four different keys under which PRF(key, S) ends in at least Z zero bits. Four easier ones take less
luck than one that is four times as hard. The keys go back one behind the other, all of one size.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipseclab.crypto.prf import PRFS
from ipseclab.errors import InvalidSyntax
from ipseclab.registry import NotifyType, PrfId
from ipseclab.wire.payloads import NotifyPayload

KEYS = 4
"""RFC 8019 section 4."""
KEY_SIZE = 4
"""Octets of a key as our solver tries them."""
NOTIFY_SIZE = 3
"""Octets of the notification: PRF (2), difficulty (1), RFC 8019 section 8.1."""

MAX_DIFFICULTY = 18
"""Own limit: zero bits that this end takes on, some two seconds of work. The demand comes
unauthenticated, and a forged one must not keep an initiator busy for longer."""
MAX_TRIES = KEYS << MAX_DIFFICULTY + 3
"""Own limit: eight times the work that the hardest puzzle takes on average."""
FREE_CHOICE = 12
"""Zero bits of the solution to a puzzle of difficulty 0, which leaves it to the initiator."""


@dataclass(frozen=True, slots=True)
class Puzzle:
    """What a PUZZLE notification asks for: `difficulty` in zero bits."""

    prf: PrfId
    difficulty: int

    def notify(self) -> NotifyPayload:
        """The notification that asks for it."""
        data = int(self.prf).to_bytes(2, "big") + bytes([self.difficulty])
        return NotifyPayload(NotifyType.PUZZLE, data)

    @classmethod
    def of_notify(cls, notify: NotifyPayload) -> Puzzle:
        """What a peer asks for. Raises InvalidSyntax for one that this end does not take on."""
        if len(notify.data) != NOTIFY_SIZE:
            raise InvalidSyntax(f"PUZZLE of {len(notify.data)} octets, must be {NOTIFY_SIZE}")
        prf, difficulty = PrfId(int.from_bytes(notify.data[:2], "big")), notify.data[2]
        if prf not in PRFS:
            raise InvalidSyntax(f"PUZZLE with {prf.name}, which is not known here")
        if difficulty > MAX_DIFFICULTY:
            raise InvalidSyntax(f"PUZZLE of {difficulty} bits, at most {MAX_DIFFICULTY} are solved")
        return cls(prf, difficulty)


@dataclass(frozen=True, slots=True)
class Solution:
    """The keys one behind the other, and how many were tried to find them."""

    octets: bytes
    tries: int


def solve(puzzle: Puzzle, string: bytes) -> Solution:
    """The first keys that fit. Raises InvalidSyntax when `MAX_TRIES` were not enough, which chance
    does not bring about (once in 10**10 puzzles of the hardest kind)."""
    prf = PRFS[puzzle.prf]
    mask = (1 << (puzzle.difficulty if puzzle.difficulty else FREE_CHOICE)) - 1
    found: list[bytes] = []
    for number in range(MAX_TRIES):
        key = number.to_bytes(KEY_SIZE, "big")
        if int.from_bytes(prf.prf(key, string)[-KEY_SIZE:], "big") & mask == 0:
            found.append(key)
            if len(found) == KEYS:
                return Solution(b"".join(found), number + 1)
    raise InvalidSyntax(f"PUZZLE of {puzzle.difficulty} bits not solved in {MAX_TRIES} tries")


def solves(puzzle: Puzzle, string: bytes, solution: bytes) -> bool:
    """True for four different keys of one size that fit; at most four PRF calls."""
    prf = PRFS[puzzle.prf]
    size, rest = divmod(len(solution), KEYS)
    if rest or not 1 <= size <= prf.key_size:
        return False
    keys = [solution[start : start + size] for start in range(0, len(solution), size)]
    if len(dict.fromkeys(keys)) != KEYS:
        return False
    mask = (1 << puzzle.difficulty) - 1
    return all(int.from_bytes(prf.prf(key, string), "big") & mask == 0 for key in keys)
