"""Gateways under fire: nothing leaves them but outputs, tables stay small, their SAs go on working.

`python benchmarks/hostile.py` does the same with a million messages.
"""

import gc
import random
import tracemalloc

import pytest

from ipseclab.lab.mutate import cuts, mutations, wrong_lengths
from ipseclab.lab.siege import Shot, Siege, bad_handshakes, bad_peers, forged
from ipseclab.lab.siege_kits import LIMITS, kits
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4

FORGED = 10_000
FORGED_PER_KIT = 1_000
SEALED = 2_000
EARLY = 400
QUIET = 600.0
"""Seconds after which half-open and replaced SAs are forgotten."""

HANDSHAKE = ("IKE_SA_INIT request", "IKE_SA_INIT response", "IKE_AUTH request", "IKE_AUTH response")


@pytest.fixture
def siege():
    siege = Siege(seed=1)
    siege.establish()
    return siege


def assert_bounded(siege):
    sizes = siege.table_sizes()
    assert sizes["half_open"] <= LIMITS.half_open
    assert sizes["ike_sas"] <= LIMITS.ike_sas
    assert sizes["child_sas"] <= 2 * LIMITS.children_per_ike
    # A table of counters that grew with what an attacker writes would be no bounded one.
    assert sizes["counters"] <= 64


def variants(shot):
    """Every cut and every wrong length of what a shot carries."""
    octets = shot.ike
    if octets is None:
        for size in range(len(shot.data)):
            yield shot._replace(data=shot.data[:size])
        return
    for wrong in (*cuts(octets), *wrong_lengths(octets)):
        yield shot.with_ike(wrong)


def test_the_conversation_is_a_whole_one(siege):
    kinds = {shot.ike[18] for shot in siege.conversation if shot.ike is not None}
    assert kinds == {34, 35, 36, 37}
    assert any(shot.ike is None for shot in siege.conversation)


def test_every_message_cut_at_every_octet_and_every_length_wrong(siege):
    siege.wait(QUIET)
    before = siege.table_sizes()
    fired = 0
    for shot in tuple(siege.conversation):
        for wrong in variants(shot):
            siege.fire(wrong)
            fired += 1
    assert fired > 4000
    assert_bounded(siege)
    assert siege.works()
    siege.wait(QUIET)
    # Nothing but counts is left of it.
    assert siege.table_sizes() | {"counters": 0} == before | {"counters": 0}


@pytest.mark.parametrize("stage", range(4), ids=HANDSHAKE)
def test_a_handshake_under_fire(stage):
    siege = Siege(seed=stage)
    siege.begin()
    siege.talk(stage)
    held = siege.hold_back()
    (real,) = held
    rng = random.Random(stage)
    for wrong in variants(real):
        siege.fire(wrong)
    for octets in mutations(real.ike, rng, 300):
        siege.fire(real.with_ike(octets))
    assert_bounded(siege)
    siege.let_go(held)
    siege.talk()
    siege.wait(200.0)
    if HANDSHAKE[stage] == "IKE_SA_INIT response":
        # Nothing protects this one (RFC 7296 section 2.21.1): whoever is believed first wins, and
        # the attempt may fail. The next one must not.
        siege.command(0, "initiate")
        siege.talk()
    assert siege.works()
    assert_bounded(siege)


def test_forged_messages_leave_an_established_sa_alone(siege):
    rng = random.Random(10)
    spis = [sorted(child.spi_in for child in gateway.ike.child_sas) for gateway in siege.gateways]
    for count in range(1, FORGED + 1):
        siege.fire(forged(siege, rng))
        if count % 1000 == 0:
            assert_bounded(siege)
            assert siege.works()
    after = [sorted(child.spi_in for child in gateway.ike.child_sas) for gateway in siege.gateways]
    assert after == spis


@pytest.mark.parametrize("kit", kits(), ids=lambda kit: kit.name)
def test_forged_messages_against_every_extension(kit):
    siege = Siege(seed=2, kit=kit)
    siege.establish()
    rng = random.Random(kit.name)
    for _ in range(FORGED_PER_KIT):
        siege.fire(forged(siege, rng))
    assert_bounded(siege)
    assert siege.works()


def test_the_kits_speak_every_exchange():
    kinds = set()
    for kit in kits():
        siege = Siege(seed=3, kit=kit)
        siege.establish()
        kinds |= {shot.ike[18] for shot in siege.conversation if shot.ike is not None}
    assert kinds == {34, 35, 36, 37, 38, 43, 44}


def test_peers_that_go_bad_in_the_handshake():
    fired, spoilt = 0, 0
    for siege, count in bad_handshakes(random.Random(30), EARLY):
        fired += count
        assert_bounded(siege)
        spoilt += not siege.works()
        assert siege.recovers()
    assert fired > EARLY // 2
    assert spoilt


def test_peers_gone_bad_harm_nothing_but_their_own_sa():
    fired = 0
    for number, (siege, count) in enumerate(bad_peers(random.Random(20), SEALED)):
        fired += count
        assert_bounded(siege)
        if number % 10 == 0:
            assert siege.recovers()
    assert fired > SEALED // 2


@pytest.mark.parametrize("port", [500, 4500])
def test_random_octets(siege, port):
    rng = random.Random(port)
    path = next(s.path for s in siege.conversation if s.path.local.port == port)
    for _ in range(1000):
        victim = rng.randrange(2)
        siege.fire(Shot(victim, path, rng.randbytes(rng.choice((0, 1, 4, 27, 28, 60, 1400)))))
    siege.fire(Shot(0, path, rng.randbytes(65507)))
    assert_bounded(siege)
    assert siege.works()


def test_random_packets_from_the_unprotected_side(siege):
    rng = random.Random(5)
    esp = next(shot.data for shot in siege.conversation if shot.ike is None)
    for gateway in siege.gateways:
        for protocol in (IpProtocol.ESP, IpProtocol.UDP, IpProtocol.AH):
            whole = build_ipv4(bytes(4), bytes(4), protocol, esp)
            for size in range(len(whole)):
                gateway.receive_packet(whole[:size], siege.now)
            for _ in range(300):
                at = rng.randrange(len(whole))
                wrong = whole[:at] + rng.randbytes(1) + whole[at + 1 :]
                gateway.receive_packet(wrong, siege.now)
                gateway.send_packet(wrong, siege.now)
        for _ in range(300):
            gateway.receive_packet(rng.randbytes(rng.randrange(100)), siege.now)
            gateway.send_packet(rng.randbytes(rng.randrange(100)), siege.now)
    assert siege.works()


def test_memory_does_not_grow_with_the_attack(siege):
    rng = random.Random(30)

    def attack(count):
        for _ in range(count):
            siege.fire(forged(siege, rng))
        siege.wait(400.0)  # for as long as half-open IKE_SAs are kept
        # What the siege itself remembers for its attackers, and what waits for the collector.
        siege.keys.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = attack(1500)
        last = attack(3000)
    finally:
        tracemalloc.stop()
    assert last - first < 50_000


def test_the_same_seed_is_the_same_attack():
    attacks = []
    for _ in range(2):
        siege = Siege(seed=7)
        siege.establish()
        rng = random.Random(7)
        attacks.append([forged(siege, rng) for _ in range(50)])
    assert attacks[0] == attacks[1]
