"""Puzzles for IKE_AUTH (RFC 8019 section 7.2): asked for under load, solved, checked first of all,
bounded for either end."""

from dataclasses import replace

import pytest
from forge import forge, ike_sa, receive
from pair import CONNECTION, Pair, connection, gateway_config
from transcript import ike_octets, opened, transcript

from ipseclab.ike.auth_puzzle import auth_difficulty
from ipseclab.ike.config import Identity, IkeLimits, SharedKeyAuth
from ipseclab.ike.cookies import EASIEST, HARDEST, PUZZLE_PRF
from ipseclab.ike.eap.settings import EapAuth, EapDemand
from ipseclab.ike.proposals import parse_ike_proposal
from ipseclab.ike.puzzles import MAX_DIFFICULTY, Puzzle, solve, solves
from ipseclab.registry import EapType, ExchangeType, IdType, NotifyType
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NotifyPayload, PsPayload

ASKS = IkeLimits(auth_puzzle_threshold=0)


def pair_of(limits=ASKS, *, a=None, b=None, both=None):
    """b asks everybody for the solution of a puzzle in IKE_AUTH."""
    sides = [connection(i, **{**(both or {}), **(own or {})}) for i, own in enumerate((a, b))]
    configs = gateway_config(sides[0], name="a"), gateway_config(sides[1], limits=limits, name="b")
    return Pair(configs)


@pytest.mark.parametrize("asker", [0, 1])
def test_the_initiator_solves_it_and_the_solution_comes_first(asker):
    """Whichever of the two gateways asks: the other begins."""
    sides = [connection(i) for i in (0, 1)]
    limits = [ASKS if i == asker else IkeLimits() for i in (0, 1)]
    pair = Pair(tuple(gateway_config(c, limits=x) for c, x in zip(sides, limits, strict=True)))
    pair.connect(1 - asker)
    me, peer = "ab"[1 - asker], "ab"[asker]
    assert transcript(pair) == [
        f"{me} --> IKE_SA_INIT: SA, KE, Ni",
        f"{peer} <-- IKE_SA_INIT: SA, KE, Nr, N(PUZZLE)",
        f"{me} --> IKE_AUTH: SK {{PS, IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}}",
        f"{peer} <-- IKE_AUTH: SK {{IDr, AUTH, SA, TSi, TSr}}",
    ]
    (solved,) = pair.events("puzzle_solved", 1 - asker)
    assert solved.details["difficulty"] == EASIEST
    assert 4 <= solved.details["tries"] < 40 << EASIEST
    assert pair.gateways[asker].counters["ike.auth_puzzle_demanded"] == 1
    pair.agreed()


def test_the_string_is_nr_and_spir():
    pair = pair_of()
    pair.connect()
    response = decode_message(ike_octets(pair.sent[1]))
    puzzle = Puzzle.of_notify(response.notify(NotifyType.PUZZLE))
    (ps,) = (p for p in opened(pair, pair.sent[2])[1] if isinstance(p, PsPayload))
    sa = ike_sa(pair, 1)
    assert puzzle == Puzzle(PUZZLE_PRF, EASIEST)
    assert solves(puzzle, sa.nonce_r + response.spi_r, ps.data)
    assert not solves(puzzle, sa.nonce_i + response.spi_r, ps.data)


@pytest.mark.parametrize("shown", ["nothing", "wrong keys", "of another string", "behind IDi"])
def test_without_the_solution_nothing_else_is_looked_at(shown):
    """The PSK is wrong, too: the reason given is the puzzle's."""
    pair = pair_of(a={"psk": b"wrong"})
    pair.fate = lambda sent: () if sent.is_ike(ExchangeType.IKE_AUTH) else (0.0,)
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.025)
    good, own_id, *rest = opened(pair, pair.sent[2])[1]
    assert isinstance(good, PsPayload)
    begin = {
        "nothing": (own_id,),
        "wrong keys": (PsPayload(bytes(len(good.data))), own_id),
        "of another string": (PsPayload(solve(ike_sa(pair, 1).puzzle, b"x").octets), own_id),
        "behind IDi": (own_id, good),
    }[shown]
    receive(pair, 1, forge(pair, 0, ExchangeType.IKE_AUTH, *begin, *rest, message_id=1))
    (refused,) = pair.events("ike_error_sent", 1)
    assert refused.details["notify"] == "AUTHENTICATION_FAILED"
    assert "puzzle" in refused.details["reason"]
    assert pair.b.ike.half_open == 0
    assert not pair.events("ike_established")


def test_each_way_to_begin_ike_auth_begins_with_it():
    """Fragments, IKE_INTERMEDIATE before it, EAP; only the first request has it."""
    text = "aes128gcm16-prfsha256-x25519-ke1_x448"
    user = Identity(IdType.ID_FQDN, b"a.example.org")
    gate, demand = SharedKeyAuth(b"gate"), EapDemand((EapType.MSCHAPV2,), ((str(user), "p"),))
    pair = pair_of(
        both={"ike_proposals": (parse_ike_proposal(text),), "fragment_size": 576},
        a={"own_auth": (EapAuth((EapType.MSCHAPV2,), "p", identity=user),), "peer_auth": (gate,)},
        b={"own_auth": (gate,), "peer_auth": (demand,)},
    )
    pair.connect()
    requests = [line for line in transcript(pair) if "a --> IKE_AUTH" in line]
    assert requests[0].startswith("a --> IKE_AUTH: SK {PS, IDi, ")
    assert len(requests) > 2
    assert not any("PS" in line for line in requests[1:])
    pair.agreed()


def test_cookie_puzzle_and_puzzle_again():
    always = IkeLimits(cookie_threshold=0, puzzle_threshold=0, auth_puzzle_threshold=0)
    pair = pair_of(always)
    pair.connect()
    assert [line.split(": ")[1] for line in transcript(pair)[1:4]] == [
        "N(COOKIE), N(PUZZLE)",
        "N(COOKIE), PS, SA, KE, Ni",
        "SA, KE, Nr, N(PUZZLE)",
    ]
    assert len(pair.events("puzzle_solved", 0)) == 2
    pair.agreed()


@pytest.mark.parametrize("data", [b"", b"\0\5", b"\0\5\0\0", bytes([0, 5, MAX_DIFFICULTY + 1])])
def test_a_demand_that_this_end_does_not_take_on_is_not_believed(data):
    """It is not authenticated: the true response may still come, and does."""
    pair = pair_of(IkeLimits())
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.015)
    true = decode_message(ike_octets(pair.sent[1]))
    forged = replace(
        true, payloads=(*true.payloads, NotifyPayload(NotifyType.PUZZLE, data))
    ).encode()
    assert receive(pair, 0, forged) == []
    assert pair.a.counters["ike.init_refused"] == 1
    assert not pair.events("puzzle_solved")
    pair.run(1.0)
    pair.agreed()


def test_a_demand_that_was_forged_costs_one_puzzle_and_shows_in_auth():
    """AUTH covers IKE_SA_INIT as each end has it."""
    pair = pair_of(IkeLimits())
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.015)
    true = decode_message(ike_octets(pair.sent[1]))
    forged = replace(true, payloads=(*true.payloads, Puzzle(PUZZLE_PRF, 4).notify())).encode()
    receive(pair, 0, forged)
    receive(pair, 0, forged)
    pair.run(1.0)
    assert len(pair.events("puzzle_solved", 0)) == 1
    assert pair.events("auth_failed", 0)
    assert not pair.spis(0)


@pytest.mark.parametrize(
    ("half_open", "bits"), [(0, 0), (9, 0), (10, EASIEST), (55, 12), (100, HARDEST)]
)
def test_the_fewer_are_left_the_more_work(half_open, bits):
    limits = IkeLimits(half_open=100, auth_puzzle_threshold=10)
    assert auth_difficulty(limits, half_open) == bits
    assert auth_difficulty(IkeLimits(), half_open) == 0


def test_off_by_default_nothing_is_said_or_drawn():
    pairs = [pair_of(limits) for limits in (IkeLimits(), IkeLimits(auth_puzzle_threshold=1))]
    for pair in pairs:
        pair.connect()
        assert not any("PUZZLE" in line or "PS" in line for line in transcript(pair))
    assert [ike_octets(sent) for sent in pairs[0].sent] == [ike_octets(s) for s in pairs[1].sent]
