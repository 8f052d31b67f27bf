"""A puzzle before IKE_AUTH is worked on (RFC 8019 section 7.2).

The responder's IKE_SA_INIT response asks for it beside what it says anyway, so that this demand, in
contrast to a cookie's, costs no exchange; AUTH covers it. S is Nr | SPIr (section 7.2.3).

    HDR, SA, KE, Ni  -->
                     <--  HDR, SA, KE, Nr, N(PUZZLE)
    HDR, SK {PS, IDi, ...}  -->

A first request without the solution ends the IKE_SA before a certificate or signature is looked at.
The Diffie-Hellman, which the RFC would save as well, is done by then: the ICV needs it.
"""

from __future__ import annotations

from ipseclab.errors import AuthenticationFailed
from ipseclab.ike.config import IkeLimits
from ipseclab.ike.context import Context
from ipseclab.ike.cookies import PUZZLE_PRF, difficulty_under
from ipseclab.ike.puzzles import Puzzle, solve, solves
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import Payload, PsPayload


def ask_for_solution(ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
    """Responder: what IKE_SA_INIT's response says of a puzzle, and `sa` remembers."""
    difficulty = auth_difficulty(ctx.config.limits, len(ctx.half_open))
    if not difficulty:
        return ()
    ctx.counters["ike.auth_puzzle_demanded"] += 1
    sa.puzzle = Puzzle(PUZZLE_PRF, difficulty)
    return (sa.puzzle.notify(),)


def auth_difficulty(limits: IkeLimits, half_open: int) -> int:
    """Zero bits to ask for; 0 while there is no need."""
    return difficulty_under(limits.auth_puzzle_threshold, limits.half_open, half_open)


def puzzle_in(message: Message) -> Puzzle | None:
    """Initiator: what a response asks for. Raises InvalidSyntax for what this end does not take on:
    the response is not authenticated."""
    notify = message.notify(NotifyType.PUZZLE)
    return Puzzle.of_notify(notify) if notify is not None else None


def solve_for(ctx: Context, sa: IkeSa, puzzle: Puzzle) -> None:
    """Initiator: do the work, once an IKE_SA."""
    found = solve(puzzle, _string(sa))
    sa.solution = found.octets
    details = {"difficulty": puzzle.difficulty, "tries": found.tries}
    ctx.notice("puzzle_solved", spi_i=sa.spi_i.hex(), **details)


def take_solution(sa: IkeSa) -> tuple[Payload, ...]:
    """Initiator: what the first IKE_AUTH request begins with."""
    solution, sa.solution = sa.solution, b""
    return (PsPayload(solution),) if solution else ()


def check_solution(sa: IkeSa, request: Message) -> None:
    """Responder: the first IKE_AUTH request begins with the solution. Raises AuthenticationFailed;
    four PRF calls at most."""
    puzzle, sa.puzzle = sa.puzzle, None
    if puzzle is None:
        return
    first = request.payloads[0] if request.payloads else None
    if not isinstance(first, PsPayload):
        raise AuthenticationFailed("IKE_AUTH request does not begin with the puzzle's solution")
    if not solves(puzzle, _string(sa), first.data):
        raise AuthenticationFailed(f"PS does not solve the puzzle of {puzzle.difficulty} bits")


def _string(sa: IkeSa) -> bytes:
    return sa.nonce_r + sa.spi_r
