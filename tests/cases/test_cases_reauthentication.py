"""Case 20: reauthentication, make before break, by either end and by both at once (RFC 7296 section
2.8.3). More in tests/ike/test_reauthentication.py."""

import pytest
from collide import LONG, SIDES, connected, exchange, held
from pair import CONNECTION
from post import name_of
from sim_lab import SITES, events, run, topology
from transcript import transcript

from ipseclab.ike.config import Narrowing
from ipseclab.lab.plan import Ping
from ipseclab.registry import ExchangeType
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NoncePayload

SPACING = 0.004
INIT, AUTH = ExchangeType.IKE_SA_INIT, ExchangeType.IKE_AUTH
NONCES = (*exchange(0, "IKE_SA_INIT"), *exchange(1, "IKE_SA_INIT"))
"""The four messages with a nonce of two ends that begin at once."""


def traffic(pair, seconds):
    """Packets both ways all the time; how many were lost of each side's."""
    before = [len(set(packets)) for packets in pair.delivered]
    number, end = 1_000_000 + len(pair.sent), pair.now + seconds
    first = number
    while pair.now < end:
        for side in SIDES:
            pair.send(side, number)
        number += 1
        pair.run(SPACING)
    pair.run(1.0)
    arrived = [len(set(packets)) for packets in pair.delivered]
    return [number - first - (arrived[1 - side] - before[1 - side]) for side in SIDES]


def inits(pair):
    """The IKE_SA_INIT messages since both began, by name, with their nonces."""
    found = {}
    for sent in pair.sent:
        if sent.is_ike(INIT):
            nonce = decode_message(sent.item.data).find(NoncePayload)
            found.setdefault(name_of(sent), nonce.data)
    return found


def crossed(lowest, **options):
    """Both ends begin at once, and the lowest of the four nonces is in the message `lowest`; all of
    IKE_SA_INIT is delivered, and IKE_AUTH held."""
    for seed in range(1, 200):
        pair, post = held(seed, **options)
        for side in SIDES:
            pair.do(side, "reauthenticate", CONNECTION)
        post.deliver(NONCES[0], NONCES[2], NONCES[1], NONCES[3])
        found = inits(pair)
        if min(found, key=found.__getitem__) == lowest:
            return pair, post
    raise AssertionError(f"no seed with the lowest nonce in {lowest}")


@pytest.mark.parametrize("side", SIDES)
def test_case_20_no_gap_in_traffic_whoever_authenticates_anew(side):
    pair = connected()
    old = pair.ike_spis(0)
    assert traffic(pair, 0.1) == [0, 0]
    pair.do(side, "reauthenticate", CONNECTION)
    assert traffic(pair, 0.5) == [0, 0]
    assert not old & pair.ike_spis(0)
    assert not pair.events("packet_dropped")
    kinds = [line.split(":")[0] for line in transcript(pair)]
    own, other = "ab"[side], "ab"[1 - side]
    assert [kind for kind in kinds if "INFORMATIONAL" in kind] == [
        f"{own} --> INFORMATIONAL",
        f"{other} <-- INFORMATIONAL",
    ]
    assert kinds.index(f"{own} --> INFORMATIONAL") > kinds.index(f"{other} <-- IKE_AUTH")
    pair.agreed()


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("lowest", NONCES)
def test_case_20_both_at_once_and_the_one_of_the_lowest_nonce_goes(lowest, first):
    """Whichever IKE_AUTH comes through first."""
    pair, post = crossed(lowest)
    for side in (first, 1 - first):
        post.deliver(*exchange(side, "IKE_AUTH"))
    both = pair.ike_spis(0)
    assert len(both) >= 2
    post.open(LONG)
    loser = 0 if lowest in NONCES[:2] else 1
    assert [len(pair.events("reauth_redundant", side)) for side in SIDES] == [
        int(side == loser) for side in SIDES
    ]
    (left,) = pair.ike_spis(0)
    (mine,) = (sa for sa in pair.gateways[loser].ike.ike_sas)
    assert not mine.initiator
    assert left == (mine.spi_i, mine.spi_r)
    pair.agreed()


@pytest.mark.parametrize("lowest", NONCES)
@pytest.mark.parametrize("apart", [0.0, 0.005, 0.015, 0.025, 0.035])
def test_case_20_both_at_once_without_a_gap_in_traffic(lowest, apart):
    for seed in range(1, 200):
        pair = connected(seed)
        pair.do(0, "reauthenticate", CONNECTION)
        lost = [traffic(pair, apart)] if apart else []
        pair.do(1, "reauthenticate", CONNECTION)
        lost.append(traffic(pair, 0.5))
        found = inits(pair)
        if len(found) < len(NONCES) or min(found, key=found.__getitem__) == lowest:
            break
    assert all(each == [0, 0] for each in lost)
    pair.run(LONG)
    pair.agreed()


@pytest.mark.parametrize("seed", range(1, 9))
def test_case_20_both_at_once_and_none_gives_way_before_the_ike_auth_response_is_in(seed):
    """Who gives way does so when the peer has its new CHILD_SA: no packet waits for one."""
    pair = connected(seed)
    slow = 1.5 * pair.delay

    def fate(sent):
        # Of the second alone, so that the first is through when its request comes.
        return (slow,) if sent.sender == 0 and sent.is_ike(AUTH, response=True) else (0.0,)

    pair.fate = fate
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(pair.delay)
    pair.do(1, "reauthenticate", CONNECTION)
    assert traffic(pair, 0.5) == [0, 0]
    assert not pair.events("acquire")
    assert len(pair.ike_spis(0)) == 1


@pytest.mark.parametrize("lowest", NONCES)
@pytest.mark.parametrize("lost", [*NONCES[::2], *exchange(0, "IKE_AUTH"), *exchange(1, "IKE_AUTH")])
def test_case_20_both_at_once_and_a_message_is_lost(lowest, lost):
    for seed in range(1, 200):
        pair, post = held(seed)
        for side in SIDES:
            pair.do(side, "reauthenticate", CONNECTION)
        for name in NONCES[::2]:
            post.take(name) if name == lost else post.deliver(name)
        pair.fate = losing(pair, lost)
        post.open()
        pair.fate = losing(pair, lost)
        pair.run(60.0)
        found = inits(pair)
        if min(found, key=found.__getitem__) == lowest:
            break
    pair.run(LONG)
    pair.agreed()


def losing(pair, name):
    """A fate that loses the first message of that name."""
    state = {"lost": any(name_of(one) == name for one in pair.sent if one.header)}

    def fate(sent):
        if sent.header is not None and name_of(sent) == name and not state["lost"]:
            state["lost"] = True
            return ()
        return (0.0,)

    return fate


@pytest.mark.parametrize("side", SIDES)
def test_case_20_each_of_several_child_sas_moves_over(side):
    pair = connected()
    pair.do(side, "create_child", CONNECTION)
    pair.run(1.0)
    before = pair.spis(0)
    assert len(before) == 2
    pair.do(side, "reauthenticate", CONNECTION)
    assert traffic(pair, 0.5) == [0, 0]
    assert not before & pair.spis(0)
    assert pair.spis(0) == pair.spis(1) != set()


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_case_20_both_at_once_with_a_child_sa_for_each_flow(seed):
    pair = connected(seed, both={"narrowing": Narrowing.PACKET})
    for side in SIDES:
        pair.send(side)
        pair.do(side, "reauthenticate", CONNECTION)
    pair.run(LONG)
    assert pair.ike_spis(0) == pair.ike_spis(1)
    assert len(pair.ike_spis(0)) == 1
    assert pair.spis(0) == pair.spis(1)
    assert traffic(pair, 0.2) == [0, 0]


@pytest.mark.parametrize("seed", [1, 2])
def test_case_20_both_break_before_they_make(seed):
    pair = connected(seed, both={"break_before_make": True})
    for side in SIDES:
        pair.do(side, "reauthenticate", CONNECTION)
    pair.run(LONG)
    pair.agreed()


def test_case_20_in_a_lab_no_ping_is_lost_in_an_hour_of_minutes():
    """By time, the responder's limit the same as the initiator's."""
    lab = topology(SITES, connections__site__reauthentication="60s")
    records = run(lab, Ping("p", "h1", "h2", start=1.0, interval=0.05, count=9000), duration=460.0)
    assert len(events(records, "reauth_done")) >= 6
    assert len(events(records, "ping_received")) == 9000
    assert len(events(records, "ike_established", node="gw2")) == 1 + len(
        events(records, "reauth_done")
    )
