"""Client puzzles (RFC 8019): asked for under load, solved, checked, and bounded for either end."""

import random

import pytest
from forge import path_to, receive
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CONNECTION, Pair, connection, gateway_config, make_pair
from transcript import ike_octets, opened, transcript

from ipseclab.crypto.prf import PRFS
from ipseclab.errors import InvalidSyntax
from ipseclab.ike import puzzles
from ipseclab.ike.config import IkeLimits
from ipseclab.ike.cookies import EASIEST, HARDEST, PUZZLE_PRF, wanted_difficulty
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.puzzles import MAX_DIFFICULTY, Puzzle, solve, solves
from ipseclab.outputs import Notice
from ipseclab.registry import ExchangeType, NotifyType, PrfId
from ipseclab.sim.costs import PUZZLE_TRY, CostTable
from ipseclab.sim.driver import Processing
from ipseclab.wire.message import Message, decode_message
from ipseclab.wire.payloads import NotifyPayload, PsPayload

UNDER_LOAD = IkeLimits(cookie_threshold=0, puzzle_threshold=0)
PUZZLE = Puzzle(PrfId.PRF_HMAC_SHA2_256, 6)


def loaded_pair(**changes):
    """b asks everybody for a cookie and a puzzle."""
    sides = [connection(i, **changes) for i in (0, 1)]
    return Pair((gateway_config(sides[0]), gateway_config(sides[1], limits=UNDER_LOAD)))


def test_an_initiator_solves_the_puzzle_and_gets_in():
    pair = loaded_pair()
    pair.connect()
    assert transcript(pair)[:4] == [
        "a --> IKE_SA_INIT: SA, KE, Ni",
        "b <-- IKE_SA_INIT: N(COOKIE), N(PUZZLE)",
        "a --> IKE_SA_INIT: N(COOKIE), PS, SA, KE, Ni",
        "b <-- IKE_SA_INIT: SA, KE, Nr",
    ]
    (solved,) = pair.events("puzzle_solved", 0)
    assert solved.details["difficulty"] == EASIEST
    assert 4 <= solved.details["tries"] < 40 << EASIEST
    assert pair.b.counters["ike.puzzle_demanded"] == 1
    pair.agreed()


@pytest.mark.parametrize("change", ["none", "other cookie", "wrong keys", "same key", "too short"])
def test_only_the_right_solution_of_the_puzzle_that_was_asked_counts(change):
    pair = loaded_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.025)
    good = decode_message(ike_octets(pair.sent[2]))
    solution = good.find(PsPayload).data
    spoilt = {
        "none": None,
        "other cookie": solve(Puzzle(PUZZLE_PRF, EASIEST), b"another cookie").octets,
        "wrong keys": bytes(len(solution)),
        "same key": solution[:4] * 4,
        "too short": solution[:-1],
    }[change]
    others = tuple(p for p in good.payloads if not isinstance(p, PsPayload))
    cookie, *rest = others
    ps = (PsPayload(spoilt),) if spoilt is not None else ()
    bad = Message(
        good.spi_i, good.spi_r, ExchangeType.IKE_SA_INIT, True, False, 0, (cookie, *ps, *rest)
    )
    # The good one is still on its way.
    (answer,) = receive(pair, 1, bad.encode())
    _, payloads = opened(pair, answer)
    assert [p.notify_type for p in payloads] == [NotifyType.COOKIE, NotifyType.PUZZLE]
    assert pair.b.ike.half_open == 0


def test_a_cookie_does_not_pass_for_an_easier_puzzle():
    """The difficulty is part of what the MAC covers."""
    pair = loaded_pair()
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.025)
    good = decode_message(ike_octets(pair.sent[2]))
    cookie, _ps, *rest = good.payloads
    weak = NotifyPayload(NotifyType.COOKIE, cookie.data[:-1] + b"\1")
    easy = PsPayload(solve(Puzzle(PUZZLE_PRF, 1), weak.data).octets)
    forged = Message(
        good.spi_i, good.spi_r, ExchangeType.IKE_SA_INIT, True, False, 0, (weak, easy, *rest)
    )
    before = pair.b.counters["ike.puzzle_demanded"]
    receive(pair, 1, forged.encode())
    assert pair.b.counters["ike.puzzle_demanded"] == before + 1
    assert pair.b.ike.half_open == 0


def test_a_puzzle_and_then_another_group_keeps_cookie_and_solution():
    texts = ("aes128gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-ecp256")
    first, second = (parse_ike_proposal(text) for text in texts)
    a = connection(0, ike_proposals=(first, second))
    b = connection(1, ike_proposals=(second,))
    pair = Pair((gateway_config(a), gateway_config(b, limits=UNDER_LOAD)))
    pair.connect()
    assert [line.partition(": ")[2] for line in transcript(pair)[:6]] == [
        "SA, KE, Ni",
        "N(COOKIE), N(PUZZLE)",
        "N(COOKIE), PS, SA, KE, Ni",
        "N(INVALID_KE_PAYLOAD)",
        "N(COOKIE), PS, SA, KE, Ni",
        "SA, KE, Nr",
    ]
    assert len(pair.events("puzzle_solved")) == 1
    pair.agreed()


@pytest.mark.parametrize(
    "data", [b"", b"\0\5", b"\0\5\x08\0", b"\0\5\xff", b"\xff\xff\x08", b"\0\0\x08"]
)
def test_a_puzzle_that_is_no_good_is_ignored_and_the_true_answer_still_counts(data):
    """It is not authenticated: a forged one must not cost more than looking at it."""
    pair = make_pair()
    pair.do(0, "initiate", CONNECTION)
    request = decode_message(ike_octets(pair.sent[0]))
    notifies = (
        NotifyPayload(NotifyType.COOKIE, b"cookie"),
        NotifyPayload(NotifyType.PUZZLE, data),
    )
    forged = Message(request.spi_i, bytes(8), ExchangeType.IKE_SA_INIT, False, True, 0, notifies)
    assert receive(pair, 0, forged.encode(), path_to(0)) == []
    assert pair.a.counters["ike.init_refused"] == 1
    pair.run(1.0)
    pair.agreed()


def test_difficulty_follows_the_load():
    limits = IkeLimits(half_open=100, cookie_threshold=10, puzzle_threshold=50)
    found = [wanted_difficulty(limits, half_open) for half_open in range(120)]
    assert found[:50] == [0] * 50
    assert (found[50], found[100], found[119]) == (EASIEST, HARDEST, HARDEST)
    assert found == sorted(found)
    assert wanted_difficulty(IkeLimits(), 1024) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.binary(min_size=1, max_size=64), st.sampled_from(sorted(PRFS)))
def test_what_is_solved_is_a_solution_and_nothing_near_it_is(difficulty, string, prf):
    puzzle = Puzzle(PrfId(prf), difficulty)
    solution = solve(puzzle, string).octets
    assert solves(puzzle, string, solution)
    assert not solves(puzzle, string, solution + b"\0")
    assert not solves(puzzle, string, b"")
    assert not solves(puzzle, string, solution[:4] * 4)


def test_the_work_is_four_times_two_to_the_difficulty():
    rng = random.Random(1)
    tries = [solve(PUZZLE, rng.randbytes(32)).tries for _ in range(200)]
    assert sum(tries) / 200 == pytest.approx(4 * 2**6, rel=0.15)


def test_the_work_of_an_initiator_is_bounded(monkeypatch):
    with pytest.raises(InvalidSyntax, match=f"at most {MAX_DIFFICULTY}"):
        Puzzle.of_notify(Puzzle(PUZZLE_PRF, MAX_DIFFICULTY + 1).notify())
    monkeypatch.setattr(puzzles, "MAX_TRIES", 10)
    with pytest.raises(InvalidSyntax, match="10 tries"):
        solve(Puzzle(PUZZLE_PRF, 16), b"cookie")


def test_a_checked_solution_costs_the_responder_four_prf_calls(monkeypatch):
    calls = []

    class Counting:
        key_size = 32

        def prf(self, key, string):
            calls.append(key)
            return bytes(32)

    monkeypatch.setitem(puzzles.PRFS, PUZZLE_PRF, Counting())
    assert solves(Puzzle(PUZZLE_PRF, 16), b"cookie", bytes(range(16)))
    assert len(calls) == 4


def test_the_simulator_charges_for_the_work():
    processing = Processing(CostTable(machine="test", ike_message=1.0))
    notice = Notice("puzzle_solved", {"tries": 100_000})
    assert processing.seconds([notice], b"", None) == pytest.approx(100_000 * PUZZLE_TRY)
