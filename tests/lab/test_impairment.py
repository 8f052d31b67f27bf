import statistics
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.lab.impairment import (
    Bernoulli,
    Dropped,
    GilbertElliott,
    Impairment,
    ImpairmentConfig,
    LinkDrop,
    NthPackets,
    Transit,
    derive,
    flip_bit,
    losses,
)

PACKET = bytes([0x45]) + bytes(range(99))


def link(config, seed=1, direction="forward"):
    return Impairment(config, seed, "wan", direction)


def pass_all(impairment, times, packet=PACKET):
    return [item for now in times for item in impairment.pass_packet(packet, now)]


def spaced(count, interval=1.0):
    return [number * interval for number in range(count)]


def lost_indexes(outcomes):
    return [item.index for item in outcomes if isinstance(item, Dropped)]


def test_a_link_without_impairments_passes_everything_at_once():
    assert pass_all(link(ImpairmentConfig()), [0.0, 0.5]) == [
        Transit(0.0, PACKET, 0),
        Transit(0.5, PACKET, 1),
    ]


def test_delay_is_added():
    (transit,) = link(ImpairmentConfig(delay=0.02)).pass_packet(PACKET, 1.0)
    assert transit.at == pytest.approx(1.02)


PROBABILITY = st.floats(0, 1)
LOSS_MODELS = st.one_of(
    st.builds(Bernoulli, PROBABILITY),
    st.builds(GilbertElliott, PROBABILITY, PROBABILITY, PROBABILITY, PROBABILITY),
    st.builds(NthPackets, st.lists(st.integers(0, 60)).map(tuple), st.none() | st.integers(1, 9)),
)


@given(LOSS_MODELS, st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1500)), max_size=60))
def test_the_same_indexes_are_lost_whatever_times_and_sizes_are(model, packets):
    plain = link(ImpairmentConfig(loss=model))
    other = link(
        ImpairmentConfig(
            loss=model, delay=0.1, jitter=0.05, reorder=0.2, duplicate=0.3, corrupt=0.2
        )
    )
    now, expected, found = 0.0, [], []
    for gap, size in packets:
        now += gap
        expected += plain.pass_packet(PACKET, 0.0)
        found += other.pass_packet(bytes([0x45]) + bytes(size - 1), now)
    assert lost_indexes(found) == lost_indexes(expected)
    assert lost_indexes(found) == [i for i in range(len(packets)) if plain.will_drop(i)]


@given(LOSS_MODELS)
def test_the_preview_is_what_happens(model):
    impairment = link(ImpairmentConfig(loss=model))
    # Asked out of order, and before the packets are there.
    preview = {index: impairment.will_drop(index) for index in (40, 3, 0, 12, 3)}
    lost = lost_indexes(pass_all(impairment, spaced(41)))
    assert preview == {index: index in lost for index in preview}


def test_every_knob_draws_by_index():
    """Each packet's fate is the same when the packets between are dropped for another reason."""
    config = ImpairmentConfig(
        delay=0.05,
        jitter=0.04,
        loss=Bernoulli(0.2),
        duplicate=0.3,
        corrupt=0.3,
        reorder=0.3,
        mtu=100,
    )
    alone, among = link(config), link(config)
    expected = pass_all(alone, spaced(200))
    found = []
    for number in range(200):
        size = 100 if number % 3 else 101
        packet = PACKET[:size].ljust(size, b"x")
        found += among.pass_packet(packet, float(number))
    kept = [item for item in expected if item.index % 3]
    assert [item for item in found if item.index % 3] == kept
    assert all(
        item == Dropped(LinkDrop.TOO_BIG, item.index) for item in found if not item.index % 3
    )


def test_directions_links_and_seeds_draw_apart():
    config = ImpairmentConfig(loss=Bernoulli(0.5))
    runs = [
        lost_indexes(pass_all(Impairment(config, seed, name, direction), spaced(64)))
        for seed in (1, 2)
        for name in ("wan", "lan1")
        for direction in ("forward", "backward")
    ]
    assert len({tuple(run) for run in runs}) == len(runs)


def test_derive_is_stable():
    assert derive(1, "wan", "forward").randrange(10**9) == 277475259
    assert derive(1, "wan", "f").random() != derive(1, "wa", "nf").random()


def test_bernoulli_loses_its_share():
    lost = lost_indexes(pass_all(link(ImpairmentConfig(loss=Bernoulli(0.1))), spaced(20_000)))
    # Four standard deviations of a binomial distribution.
    assert len(lost) == pytest.approx(2000, abs=4 * (20_000 * 0.1 * 0.9) ** 0.5)


def test_gilbert_elliott_has_its_mean_and_its_bursts():
    model = GilbertElliott(p=0.02, r=0.25, h=0.0, k=1.0)
    draws = losses(model, 3, "wan", "forward")
    outcome = [next(draws) for _ in range(100_000)]
    assert statistics.mean(outcome) == pytest.approx(model.mean_loss, rel=0.1)
    assert model.mean_loss == pytest.approx(0.02 / 0.27)
    bursts = "".join("x" if lost else "." for lost in outcome).replace(".", " ").split()
    # In the bad state all is lost, so a burst lasts as long as the state: 1 / r packets.
    assert statistics.mean(map(len, bursts)) == pytest.approx(1 / 0.25, rel=0.1)


def test_gilbert_elliott_that_never_changes_state():
    assert GilbertElliott(0.0, 0.0, k=0.75).mean_loss == 0.25


def test_nth_packets_are_exactly_those():
    impairment = link(ImpairmentConfig(loss=NthPackets((0, 5), every=4)))
    assert lost_indexes(pass_all(impairment, spaced(9))) == [0, 3, 5, 7]
    assert NthPackets((0, 5), every=4).mean_loss == 0.25


def delays(config, count=4000):
    outcomes = pass_all(link(config), spaced(count))
    return [item.at - item.index for item in outcomes]


def test_uniform_jitter():
    found = delays(ImpairmentConfig(delay=0.1, jitter=0.02))
    assert min(found) >= 0.08 - 1e-9
    assert max(found) <= 0.12 + 1e-9
    assert statistics.mean(found) == pytest.approx(0.1, abs=0.001)
    assert statistics.stdev(found) == pytest.approx(0.02 / 3**0.5, rel=0.05)


def test_normal_jitter():
    found = delays(ImpairmentConfig(delay=0.1, jitter=0.02, jitter_distribution="normal"))
    assert statistics.mean(found) == pytest.approx(0.1, abs=0.002)
    assert statistics.stdev(found) == pytest.approx(0.02, rel=0.05)


def test_a_delay_never_goes_below_zero():
    found = delays(ImpairmentConfig(delay=0.001, jitter=0.1, jitter_distribution="normal"))
    assert min(found) == 0.0


def test_jitter_does_not_reorder():
    impairment = link(ImpairmentConfig(delay=0.1, jitter=0.1))
    times = [item.at for item in pass_all(impairment, spaced(500, 0.001))]
    assert times == sorted(times)


def test_reorder_holds_back_the_chosen_packets():
    impairment = link(ImpairmentConfig(delay=0.01, reorder=0.25, reorder_delay=0.0055))
    found = pass_all(impairment, spaced(2000, 0.001))
    late = [item.index for item in found if item.at - item.index * 0.001 > 0.015]
    assert len(late) == pytest.approx(500, abs=80)
    arrivals = [item.index for item in sorted(found, key=lambda item: item.at)]
    assert arrivals != sorted(arrivals)
    prompt = [index for index in arrivals if index not in late]
    assert prompt == sorted(prompt)


def test_duplicates_are_marked_and_equal():
    found = pass_all(link(ImpairmentConfig(duplicate=0.5, corrupt=0.5)), spaced(400))
    second = [item for item in found if item.duplicate]
    assert len(second) == pytest.approx(200, abs=50)
    first = {item.index: item for item in found if not item.duplicate}
    for item in second:
        assert (item.at, item.packet, item.corrupted) == (
            first[item.index].at,
            first[item.index].packet,
            first[item.index].corrupted,
        )


def test_corruption_turns_one_bit_of_the_payload():
    found = pass_all(link(ImpairmentConfig(corrupt=1.0)), spaced(300))
    for item in found:
        assert item.corrupted
        difference = int.from_bytes(item.packet, "big") ^ int.from_bytes(PACKET, "big")
        assert difference.bit_count() == 1
        assert item.packet[:20] == PACKET[:20]
    assert len({item.packet for item in found}) > 200


@given(st.binary(max_size=60), st.floats(0, 1, exclude_max=True))
def test_flip_bit_never_fails(payload, where):
    packet = bytes([0x45]) + bytes(19) + payload
    flipped = flip_bit(packet, where)
    assert len(flipped) == len(packet)
    assert (flipped == packet) == (not payload)


def test_a_packet_with_no_payload_cannot_be_corrupted():
    assert flip_bit(b"", 0.5) == b""
    assert flip_bit(bytes([0x4F]) + bytes(19), 0.5) == bytes([0x4F]) + bytes(19)


def test_rate_spaces_packets_by_their_size():
    impairment = link(ImpairmentConfig(rate=8000.0, delay=0.5))
    times = [item.at for item in pass_all(impairment, [0.0, 0.0, 10.0])]
    # 100 octets at 8,000 bit/s: 0.1 s.
    assert times == pytest.approx([0.6, 0.7, 10.6])


def test_the_queue_drops_its_tail():
    impairment = link(ImpairmentConfig(rate=8000.0, queue_packets=2))
    found = pass_all(impairment, [0.0] * 4)
    assert [item.at for item in found[:3]] == pytest.approx([0.1, 0.2, 0.3])
    assert found[3] == Dropped(LinkDrop.QUEUE_FULL, 3)
    # At 0.15 s the second is being sent and one waits: room for one.
    again = pass_all(impairment, [0.15, 0.15])
    assert again[0].at == pytest.approx(0.4)
    assert again[1] == Dropped(LinkDrop.QUEUE_FULL, 5)


def test_the_queue_has_room_in_octets():
    impairment = link(ImpairmentConfig(rate=8000.0, queue_octets=150))
    found = pass_all(impairment, [0.0] * 3)
    assert lost_indexes(found) == [2]
    assert lost_indexes(pass_all(impairment, [0.35, 0.35, 0.35])) == [5]


def test_a_lost_packet_has_used_its_share_of_the_rate():
    impairment = link(ImpairmentConfig(rate=8000.0, loss=NthPackets((0,))))
    assert pass_all(impairment, [0.0, 0.0])[1].at == pytest.approx(0.2)


@settings(max_examples=50)
@given(
    st.floats(1e3, 1e6),
    st.integers(0, 5),
    st.lists(st.tuples(st.floats(0, 0.1), st.integers(20, 1500)), min_size=1, max_size=50),
)
def test_no_more_leaves_than_the_rate_allows(rate, room, packets):
    impairment = link(ImpairmentConfig(rate=rate, queue_packets=room))
    now, sent = 0.0, []
    for gap, size in packets:
        now += gap
        for item in impairment.pass_packet(bytes(size), now):
            if isinstance(item, Transit):
                assert item.at >= now + size * 8 / rate - 1e-9
                sent.append((item.at, size))
    for (earlier, _), (later, size) in pairwise(sent):
        assert later - earlier >= size * 8 / rate - 1e-9


def test_mtu():
    impairment = link(ImpairmentConfig(mtu=100))
    assert isinstance(impairment.pass_packet(PACKET, 0.0)[0], Transit)
    assert impairment.pass_packet(PACKET + b"x", 0.0) == [Dropped(LinkDrop.TOO_BIG, 1)]


def test_reconfigure_goes_on_with_indexes_and_draws():
    config = ImpairmentConfig(loss=Bernoulli(0.3))
    changed, untouched = link(ImpairmentConfig()), link(config)
    pass_all(changed, spaced(50))
    changed.reconfigure(config)
    expected = lost_indexes(pass_all(untouched, spaced(100)))
    assert lost_indexes(pass_all(changed, spaced(50))) == [i for i in expected if i >= 50]


@pytest.mark.parametrize("before", [1, 4096, 5000])
def test_packets_that_needed_no_draw_have_passed_theirs_over(before):
    lossy = ImpairmentConfig(loss=Bernoulli(0.3))
    changed, always = link(ImpairmentConfig(delay=0.01)), link(lossy)
    pass_all(changed, spaced(before))
    pass_all(always, spaced(before))
    changed.reconfigure(lossy)
    after = spaced(200)
    assert lost_indexes(pass_all(changed, after)) == lost_indexes(pass_all(always, after))


@given(
    st.lists(st.tuples(st.floats(0.0, 0.01), st.integers(20, 1600)), max_size=60),
    st.sampled_from((None, 1e6)),
    st.sampled_from((None, 4000)),
)
def test_the_short_way_and_the_long_one_let_packets_out_at_the_same_times(
    offered: list[tuple[float, int]], rate: float | None, queue_octets: int | None
) -> None:
    config = ImpairmentConfig(delay=0.003, rate=rate, queue_packets=5, queue_octets=queue_octets)
    short, long = Impairment(config, 1, "wan", "forward"), Impairment(config, 1, "wan", "forward")
    now = 0.0
    for gap, octets in offered:
        now += gap
        (fate,) = long.pass_packet(bytes(octets), now)
        at = short.pass_unharmed(octets, now)
        if at is None:
            assert short.pass_packet(bytes(octets), now) == [fate]
            assert isinstance(fate, Dropped)
        else:
            assert isinstance(fate, Transit)
            assert (at, short.index - 1) == (fate.at, fate.index)
    lossy = replace(config, loss=Bernoulli(0.5))
    for impairment in (short, long):
        impairment.reconfigure(lossy)
    # The draws that nobody needed are passed over alike.
    assert [short.pass_packet(b"x" * 20, now + n) for n in range(20)] == [
        long.pass_packet(b"x" * 20, now + n) for n in range(20)
    ]
