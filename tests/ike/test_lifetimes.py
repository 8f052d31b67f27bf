"""Soft and hard lifetimes: rekeys begin when they should, lose nothing, and nothing leaks."""

import pytest
from pair import CONNECTION, make_pair
from rekey_schedule import in_clear
from transcript import transcript

from ipseclab.ike.config import Lifetime, Retransmission
from ipseclab.ike.proposals import parse_esp_proposal
from ipseclab.registry import ExchangeType

NEVER = Lifetime()
PROBE = 0.001
"""Seconds between the packets of a probe: 1,000 a second."""


def probe(pair, seconds, *sides):
    """Send numbered packets at 1,000 a second from those sides; check that each arrives."""
    start, sent = pair.now, {side: [] for side in sides}
    before = [len(pair.delivered[side]) for side in (0, 1)]
    for number in range(round(seconds / PROBE)):
        pair.run(max(0.0, start + number * PROBE - pair.now))
        for side in sides:
            sent[side].append(pair.send(side, number))
    pair.run(1.0)
    for side in sides:
        arrived = pair.delivered[1 - side][before[1 - side] :]
        assert sorted(arrived) == sorted(sent[side])
    assert not in_clear(pair)


def times_of(pair, event, side=0):
    return [at for at, who, notice in pair.notices if notice.event == event and who == side]


def test_soft_lifetime_starts_a_rekey_at_the_computed_moment():
    limit = Lifetime(seconds=100.0, margin=0.2, jitter=0.0)
    pair = make_pair(a={"child_lifetime": limit}, b={"child_lifetime": NEVER})
    pair.connect()
    pair.run(170.0)
    assert times_of(pair, "soft_expired") == pytest.approx([80.04, 160.06])
    assert times_of(pair, "rekey_started") == pytest.approx([80.04, 160.06])
    assert not pair.events("hard_expired")
    pair.agreed()


@pytest.mark.rfc("7296", "2.8.1", "SHOULD", "jitter")
def test_jitter_draws_each_soft_lifetime_anew_within_its_bounds():
    limit = Lifetime(seconds=100.0, margin=0.1, jitter=1.0)
    pair = make_pair(a={"child_lifetime": limit}, b={"child_lifetime": NEVER})
    pair.connect()
    pair.run(5000.0)
    made = [0.04, *times_of(pair, "child_ready")[1:]]
    lives = [
        soft - start for soft, start in zip(times_of(pair, "soft_expired"), made, strict=False)
    ]
    assert len(lives) > 50
    assert all(80.0 <= life <= 90.0 for life in lives)
    assert max(lives) - min(lives) > 8.0
    pair.agreed()


def test_two_ends_with_the_same_lifetime_rarely_rekey_at_the_same_moment():
    limit = Lifetime(seconds=100.0, margin=0.1, jitter=1.0)
    pair = make_pair(both={"child_lifetime": limit})
    pair.connect()
    pair.run(5000.0)
    starts = sorted(times_of(pair, "rekey_started", 0) + times_of(pair, "rekey_started", 1))
    assert 50 < len(starts) < 70
    pair.agreed()


@pytest.mark.parametrize(
    ("limit", "packets"),
    [
        (Lifetime(packets=1000, margin=0.2, jitter=0.0), 800),
        (Lifetime(octets=100_000, margin=0.2, jitter=0.0), None),
    ],
)
def test_volume_starts_a_rekey(limit, packets):
    pair = make_pair(a={"child_lifetime": limit}, b={"child_lifetime": NEVER})
    pair.connect()
    sent = 0
    while not pair.events("soft_expired", 0):
        pair.send(0, sent)
        sent += 1
    if packets is not None:
        assert sent == packets
    else:
        # 92 octets of inner packet, 2 of trailer, padded to 4: 96 under the cipher.
        assert sent == -(-80_000 // 96)
    pair.run(1.0)
    assert len(pair.events("rekey_done", 0)) == 1
    pair.agreed()


@pytest.mark.rfc("7296", "2.8", "MUST", "ready-before-response")
@pytest.mark.parametrize("esp", ["aes128gcm16", "aes128gcm16-x25519"])
@pytest.mark.parametrize(
    "limit",
    [
        Lifetime(seconds=1.0, margin=0.5, jitter=0.5),
        Lifetime(packets=600, margin=0.5, jitter=0.5),
        Lifetime(octets=60_000, margin=0.5, jitter=0.5),
    ],
    ids=["seconds", "packets", "octets"],
)
def test_rekeys_by_both_ends_lose_nothing_of_a_thousand_packets_a_second(esp, limit):
    both = {"child_lifetime": limit, "esp_proposals": (parse_esp_proposal(esp),)}
    pair = make_pair(both=both)
    pair.connect()
    probe(pair, 2.0, 0, 1)
    assert len(pair.events("rekey_started")) >= 3
    assert not pair.events("hard_expired")


def test_rekeys_of_the_ike_sa_lose_nothing_either():
    limit = Lifetime(seconds=0.5, margin=0.4, jitter=0.5)
    pair = make_pair(both={"ike_lifetime": limit})
    pair.connect()
    probe(pair, 3.0, 0, 1)
    assert len(pair.events("ike_rekeyed", 0)) >= 5
    assert not pair.events("child_gone")


def test_first_packets_on_the_new_sa_may_overtake_the_response_that_makes_it():
    """Case 34: the responder has to hold back until it knows that the initiator can receive."""
    pair = make_pair()
    pair.connect()

    def late_ike(sent):
        return (0.0,) if sent.header is None else (0.2,)

    pair.fate = late_ike
    pair.do(0, "rekey_child", CONNECTION)
    probe(pair, 1.5, 0, 1)
    assert pair.b.counters["packets_in"] == pair.a.counters["packets_out"]
    pair.agreed()


def test_rekeying_under_loss_loses_only_what_the_path_lost():
    limit = Lifetime(seconds=2.0, margin=0.4, jitter=0.5)
    pair = make_pair(both={"child_lifetime": limit})
    pair.connect()
    ike = []

    def lose_every_third_ike_message(sent):
        if sent.header is None:
            return (0.0,)
        ike.append(sent)
        return () if len(ike) % 3 == 0 else (0.0,)

    pair.fate = lose_every_third_ike_message
    sent = []
    for number in range(3000):
        pair.run(PROBE)
        sent.append(pair.send(0, number))
    pair.run(1.0)
    # Where a rekey met the hard limit after all, each packet that is missing was counted.
    counters = [*pair.a.counters.items(), *pair.b.counters.items()]
    drops = sum(count for name, count in counters if name.startswith("drops."))
    assert len(sent) - len(pair.delivered[1]) == drops
    assert not in_clear(pair)


def test_ike_soft_lifetime_rekeys_the_ike_sa_at_the_computed_moment():
    limit = Lifetime(seconds=100.0, margin=0.1, jitter=0.0)
    pair = make_pair(a={"ike_lifetime": limit}, b={"ike_lifetime": NEVER})
    pair.connect()
    start = len(pair.sent)
    pair.run(95.0)
    assert times_of(pair, "rekey_started") == pytest.approx([90.04])
    assert transcript(pair, first=start) == [
        "a --> CREATE_CHILD_SA: SK {SA, Ni, KE}",
        "b <-- CREATE_CHILD_SA: SK {SA, Nr, KE}",
        "a --> INFORMATIONAL: SK {D(IKE)}",
        "b <-- INFORMATIONAL: SK {}",
    ]
    pair.run(1000.0)
    assert not [n for n in pair.events("ike_gone") if n.details["reason"] == "expired"]
    pair.agreed()


@pytest.mark.rfc("7296", "2.4", "SHOULD", "delete-ike-told")
@pytest.mark.rfc("7296", "2.8", "MUST", "close-expired")
def test_ike_hard_lifetime_closes_an_ike_sa_that_is_not_rekeyed():
    limit = Lifetime(seconds=100.0, margin=0.1, jitter=0.0)
    pair = make_pair(a={"ike_lifetime": limit}, b={"ike_lifetime": NEVER})
    pair.connect()
    pair.fate = lambda sent: () if sent.is_ike(ExchangeType.CREATE_CHILD_SA) else (0.0,)
    pair.run(300.0)
    assert not pair.ike_spis(0)
    assert not pair.spis(0)


def test_expiry_while_the_ike_sa_is_rekeyed_does_not_close_the_new_one():
    """Case 35: the response to the rekey comes after the old IKE_SA's end."""
    limit = Lifetime(seconds=100.0, margin=0.1, jitter=0.0)
    pair = make_pair(a={"ike_lifetime": limit}, b={"ike_lifetime": NEVER})
    pair.connect()
    pair.fate = lambda sent: (12.0,) if sent.is_ike(ExchangeType.CREATE_CHILD_SA) else (0.0,)
    pair.run(150.0)
    assert [n.details["reason"] for n in pair.events("ike_gone", 0)] == ["rekeyed"]
    pair.agreed()


@pytest.mark.parametrize(
    "limit",
    [
        Lifetime(seconds=10.0, margin=0.0, jitter=0.0),
        Lifetime(packets=50, margin=0.0, jitter=0.0),
        Lifetime(octets=5000, margin=0.0, jitter=0.0),
    ],
    ids=["seconds", "packets", "octets"],
)
def test_expiry_without_a_rekey_never_leaks_clear_text(limit):
    """Case 36. Every exchange is lost, so that no new SA comes."""
    pair = make_pair(both={"child_lifetime": limit})
    pair.connect()
    pair.fate = lambda sent: (0.0,) if sent.header is None else ()
    for number in range(300):
        pair.run(0.1)
        pair.send(0, number)
        pair.send(1, number)
    assert pair.events("hard_expired", 0)
    assert not in_clear(pair)
    assert len(pair.delivered[1]) <= 100
    pair.run(300.0)
    pair.send(0)
    pair.run(30.0)
    assert not in_clear(pair)


@pytest.mark.rfc("7296", "2.4", "MUST", "delete-told")
def test_hard_expiry_deletes_the_child_sa_and_traffic_makes_another():
    limit = Lifetime(seconds=10.0, margin=0.0, jitter=0.0)
    pair = make_pair(a={"child_lifetime": limit}, b={"child_lifetime": NEVER})
    pair.connect()
    pair.fate = lambda sent: () if sent.is_ike(ExchangeType.CREATE_CHILD_SA) else (0.0,)
    pair.run(200.0)
    pair.fate = lambda sent: (0.0,)
    packet = pair.send(0)
    pair.run(2.0)
    assert pair.delivered[1] == [packet]


def test_hard_expiry_between_the_response_and_the_delete_removes_the_sa_once():
    limit = Lifetime(seconds=10.0, margin=0.5, jitter=0.0)
    often = {"retransmission": Retransmission(timeout=1.0, base=1.0, tries=20)}
    pair = make_pair(a={"child_lifetime": limit, **often}, b={"child_lifetime": NEVER})
    pair.connect()
    pair.fate = lambda sent: () if sent.is_ike(ExchangeType.INFORMATIONAL) else (0.0,)
    pair.run(9.5)  # the soft limit was at 5 s, the hard one of the old SA at 10 s
    pair.fate = lambda sent: (0.0,)
    assert len(pair.events("hard_expired", 0)) == 1
    pair.run(3.0)
    gone = [n.details["spi_in"] for n in pair.events("child_gone", 0)]
    assert len(gone) == len(set(gone))
    pair.agreed()


def test_unlimited_lifetimes_never_rekey():
    pair = make_pair(both={"child_lifetime": NEVER, "ike_lifetime": NEVER})
    pair.connect()
    start = len(pair.sent)
    pair.run(1e6)
    assert len(pair.sent) == start
    pair.agreed()
