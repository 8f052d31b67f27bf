from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tcp_pipe import Direction, Fate, Pipe

from ipseclab.sim.tcp import (
    Connection,
    OctetStream,
    PatternStream,
    Segment,
    Stream,
    TcpConfig,
    TcpState,
)
from ipseclab.sim.tcp.receiver import Receiver
from ipseclab.sim.tcp.segment import ACK, FIN, RST, SYN
from ipseclab.sim.tcp.sender import Phase
from ipseclab.sim.tcp.timing import RttEstimator

CONTROLS = pytest.mark.parametrize("control", ["newreno", "cubic"])
MSS = 1448


def pair(
    stream: Stream,
    *,
    forth: Direction | None = None,
    back: Direction | None = None,
    control: str = "cubic",
    answer: bytes | None = None,
    mss: int = 1460,
) -> Pipe:
    # Sequence numbers of the client wrap early in every test.
    client = Connection(
        40_000,
        5001,
        initial_sequence=0xFFFFF000,
        stream=stream,
        config=TcpConfig(congestion=control, mss=mss),
    )
    server = Connection(
        5001,
        40_000,
        initial_sequence=7,
        stream=OctetStream(answer) if answer is not None else None,
        config=TcpConfig(mss=mss),
    )
    return Pipe(client, server, forth or Direction(), back or Direction())


def losing(*indexes: int) -> Fate:
    return lambda index, _: () if index in indexes else (0.0,)


def random_loss(probability: float, seed: int) -> Fate:
    draw = random.Random(seed).random
    return lambda _index, _segment: () if draw() < probability else (0.0,)


def goodput(pipe: Pipe, seconds: float) -> float:
    pipe.open()
    pipe.run(seconds)
    return len(pipe.received[1]) * 8 / seconds


# Handshake and close


def test_handshake_data_and_close_in_rfc_order() -> None:
    pipe = pair(OctetStream(b"hello"), answer=b"world!")
    pipe.open()
    pipe.run(10.0)
    client, server = pipe.ends
    assert (bytes(pipe.received[1]), bytes(pipe.received[0])) == (b"hello", b"world!")
    forth = [(segment.flags & ~8, segment.payload) for _, segment in pipe.ways[0].log]
    assert forth[0] == (SYN, b"")
    assert forth[1] == (ACK | FIN, b"hello")
    assert client.state is TcpState.TIME_WAIT
    assert server.state is TcpState.CLOSED
    assert server.closed_because == "done"
    pipe.run(100.0)
    assert client.closed_because == "done"
    assert client.next_deadline() is None


def test_syn_is_sent_again_with_back_off_and_given_up() -> None:
    pipe = pair(OctetStream(b"x"), forth=Direction(fate=lambda *_: ()))
    pipe.open()
    pipe.run(1000.0)
    assert [at for at, _ in pipe.ways[0].log] == [0, 1, 3, 7, 15, 31, 63]
    assert pipe.ends[0].closed_because == "peer does not answer"


def test_lost_syn_ack_and_lost_handshake_ack_are_survived() -> None:
    pipe = pair(OctetStream(b"x" * 5000), forth=Direction(fate=losing(1, 2)),
                back=Direction(fate=losing(0)))  # fmt: skip
    pipe.open()
    pipe.run(20.0)
    assert bytes(pipe.received[1]) == b"x" * 5000


def test_a_reset_ends_the_connection() -> None:
    pipe = pair(PatternStream())
    pipe.open()
    pipe.run(1.0)
    client = pipe.ends[0]
    exact = pipe.ways[1].log[-1][1]
    wrong = Segment(5001, 40_000, exact.sequence + 9999, 0, RST, 0)
    assert client.receive(wrong, 1.0) == []
    assert client.state is TcpState.ESTABLISHED
    client.receive(wrong._replace(sequence=exact.sequence), 1.0)
    assert client.closed_because == "reset"


def test_a_passive_end_without_a_stream_closes_after_its_peer() -> None:
    pipe = pair(PatternStream())
    pipe.open()
    pipe.run(1.0)
    assert pipe.ends[1].state is TcpState.ESTABLISHED
    pipe._send(0, pipe.ends[0].close(pipe.now))
    pipe.run(3.0)
    assert pipe.ends[0].state is TcpState.TIME_WAIT
    assert pipe.ends[1].state is TcpState.CLOSED


# Delivery, whatever the network does


FATES = st.lists(
    st.one_of(
        st.just(()),
        st.lists(st.floats(0.0, 0.3), min_size=1, max_size=3).map(tuple),
    ),
    max_size=60,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.integers(0, 60_000),
    st.integers(0, 3_000),
    FATES,
    FATES,
    st.sampled_from(["newreno", "cubic"]),
    st.sampled_from([200, 1460]),
)
def test_all_octets_arrive_in_order_whatever_is_lost_doubled_or_overtaken(
    size: int,
    answer: int,
    forth: list[tuple[float, ...]],
    back: list[tuple[float, ...]],
    control: str,
    mss: int,
) -> None:
    def fate(list_of_fates: list[tuple[float, ...]]) -> Fate:
        return lambda index, _: list_of_fates[index] if index < len(list_of_fates) else (0.0,)

    stream = PatternStream(size)
    back_octets = PatternStream().read(0, answer)
    pipe = pair(stream, forth=Direction(0.02, fate=fate(forth)),
                back=Direction(0.02, fate=fate(back)), control=control, answer=back_octets,
                mss=mss)  # fmt: skip
    pipe.open()
    pipe.run(3000.0)
    client, server = pipe.ends
    if client.closed_because == "peer does not answer" and not pipe.received[1]:
        # Seven SYNs or SYN-ACKs in a row were lost: then nothing may have been delivered.
        return
    assert bytes(pipe.received[1]) == stream.read(0, size)
    assert bytes(pipe.received[0]) == back_octets
    assert {client.state, server.state} == {TcpState.CLOSED}
    assert client.next_deadline() is None
    assert server.next_deadline() is None


@CONTROLS
@pytest.mark.parametrize("seed", range(5))
def test_a_transfer_ends_under_heavy_loss_both_ways(control: str, seed: int) -> None:
    stream = PatternStream(300_000)
    forth = Direction(0.01, fate=random_loss(0.2, seed))
    back = Direction(0.01, fate=random_loss(0.2, seed + 100))
    pipe = pair(stream, forth=forth, back=back, control=control)
    pipe.open()
    pipe.run(600.0)
    assert bytes(pipe.received[1]) == stream.read(0, 300_000)


# Goodput


@CONTROLS
@pytest.mark.parametrize("queue", [40, 200])
def test_a_limited_link_is_filled(control: str, queue: int) -> None:
    rate = 1_250_000.0
    pipe = pair(PatternStream(), forth=Direction(0.02, rate=rate, queue=queue), control=control)
    # Of 1,500 octets of packet 1,448 are payload.
    assert goodput(pipe, 10.0) > 0.9 * rate * 8 * MSS / 1500


@pytest.mark.parametrize(("loss", "rtt"), [(0.003, 0.04), (0.01, 0.04), (0.01, 0.1)])
def test_newreno_under_loss_follows_mathis(loss: float, rtt: float) -> None:
    # Mathis et al. (1997): MSS / RTT * sqrt(3/2) / sqrt(p), for an ACK that counts every octet.
    expected = MSS * 8 / rtt * math.sqrt(1.5 / loss)
    measured = [
        goodput(
            pair(
                PatternStream(),
                forth=Direction(rtt / 2, fate=random_loss(loss, seed)),
                back=Direction(rtt / 2),
                control="newreno",
            ),
            20.0,
        )
        for seed in range(3)
    ]
    assert sum(measured) / 3 == pytest.approx(expected, rel=0.3)


def test_cubic_under_loss_follows_its_response_function() -> None:
    # RFC 9438 section 5.2, for a loss each 1 / p segments: 1.054 * (RTT / p)^(3/4) segments a round
    # trip. NewReno's sqrt(3/2 / p) is half of that on this path.
    every, rtt, start, end = 2000, 0.2, 20.0, 60.0

    def window(control: str) -> float:
        def fate(index: int, _segment: Segment) -> tuple[float, ...]:
            return () if index % every == every - 1 else (0.0,)

        forth = Direction(rtt / 2, fate=fate)
        pipe = pair(PatternStream(), forth=forth, back=Direction(rtt / 2), control=control)
        pipe.ends[0].sender.congestion.ssthresh = 60.0
        pipe.open()
        pipe.run(start)
        before = len(pipe.received[1])
        pipe.run(end)
        return (len(pipe.received[1]) - before) / MSS * rtt / (end - start)

    cubic = window("cubic")
    assert cubic == pytest.approx(1.054 * (rtt * every) ** 0.75, rel=0.2)
    assert cubic > 1.5 * window("newreno")


def test_hystart_leaves_slow_start_before_the_queue_overflows() -> None:
    way = Direction(0.02, rate=12_500_000.0, queue=2000)
    pipe = pair(PatternStream(), forth=way, control="cubic")
    goodput(pipe, 2.0)
    assert pipe.ends[0].sender.counters.retransmitted == 0
    assert pipe.ends[0].sender.congestion.ssthresh < 1000
    # NewReno, without it, fills the queue: slow start overshoots.
    other = pair(
        PatternStream(), forth=Direction(0.02, rate=1_250_000.0, queue=50), control="newreno"
    )
    goodput(other, 2.0)
    assert other.ends[0].sender.counters.retransmitted > 0


def test_the_receive_buffer_bounds_what_is_in_flight() -> None:
    client = Connection(1, 2, initial_sequence=0, stream=PatternStream())
    server = Connection(2, 1, initial_sequence=0, config=TcpConfig(receive_buffer=100_000))
    pipe = Pipe(client, server, Direction(0.05), Direction(0.05))
    measured = goodput(pipe, 10.0)
    assert client.sender.nxt - client.sender.una <= 100_000
    assert measured == pytest.approx(100_000 * 8 / 0.1, rel=0.1)


# Loss recovery


def lost_once(*positions: int) -> Fate:
    """Lose the first sending of the n-th data segments."""
    seen: dict[int, int] = {}

    def fate(_index: int, segment: Segment) -> tuple[float, ...]:
        if not segment.payload:
            return (0.0,)
        first = segment.sequence not in seen
        order = seen.setdefault(segment.sequence, len(seen))
        return () if first and order in positions else (0.0,)

    return fate


def test_sack_repairs_many_losses_in_one_round_trip() -> None:
    rtt = 0.1
    gaps = (200, 202, 204, 205, 207)
    forth = Direction(rtt / 2, rate=2_500_000.0, fate=lost_once(*gaps))
    pipe = pair(PatternStream(), forth=forth, back=Direction(rtt / 2), control="newreno")
    pipe.ends[0].sender.congestion.ssthresh = 100.0
    goodput(pipe, 2.0)
    sender = pipe.ends[0].sender
    assert sender.counters.retransmitted == len(gaps)
    assert sender.counters.recoveries == 1
    assert sender.counters.timeouts == 0
    seen: dict[int, float] = {}
    again = []
    for at, segment in pipe.ways[0].log:
        if segment.payload and segment.sequence in seen:
            again.append((at, at - seen[segment.sequence]))
        elif segment.payload:
            seen[segment.sequence] = at
    # All went out again within one round trip, each about a round trip after its first sending.
    assert max(at for at, _ in again) - min(at for at, _ in again) < rtt
    assert all(rtt <= delay < 2 * rtt for _, delay in again)


def test_a_lost_retransmission_is_sent_again_without_a_time_out() -> None:
    count: dict[int, int] = {}

    def fate(_index: int, segment: Segment) -> tuple[float, ...]:
        if not segment.payload:
            return (0.0,)
        count[segment.sequence] = count.get(segment.sequence, 0) + 1
        order = list(count).index(segment.sequence)
        return () if order == 30 and count[segment.sequence] <= 2 else (0.0,)

    pipe = pair(PatternStream(400_000), forth=Direction(fate=fate))
    pipe.open()
    pipe.run(20.0)
    counters = pipe.ends[0].sender.counters
    assert len(pipe.received[1]) == 400_000
    assert (counters.timeouts, counters.retransmitted) == (0, 2)


def test_a_lost_tail_is_probed_before_the_time_out() -> None:
    pipe = pair(PatternStream(MSS * 30), forth=Direction(fate=lost_once(29)))
    pipe.open()
    pipe.run(10.0, stop=lambda: len(pipe.received[1]) == MSS * 30)
    sender = pipe.ends[0].sender
    assert sender.counters.tail_probes == 1
    assert sender.counters.timeouts == 0
    before = sender.congestion.cwnd
    pipe.run(20.0)
    # The probe repaired a loss, which counts as congestion (RFC 8985 section 7.4).
    assert sender.congestion.cwnd < before


def test_time_outs_back_off_and_start_again_from_one_segment() -> None:
    dead = {"from": 2.0, "until": 8.0}
    pipe = pair(PatternStream(), forth=Direction(rate=1_250_000.0))
    pipe.ways[0].fate = lambda *_: () if dead["from"] <= pipe.now < dead["until"] else (0.0,)
    pipe.open()
    pipe.run(2.0)
    pipe.run(7.9)
    sender = pipe.ends[0].sender
    assert sender.phase is Phase.LOSS
    assert sender.congestion.cwnd == 1.0
    heads = [at for at, segment in pipe.ways[0].log if at > 2.2 and segment.payload]
    gaps = [second - first for first, second in pairwise(heads)]
    doubling = gaps[-3:]
    assert doubling[1] == pytest.approx(2 * doubling[0])
    assert doubling[2] == pytest.approx(2 * doubling[1])
    before = len(pipe.received[1])
    pipe.run(20.0)
    assert len(pipe.received[1]) > before + 1_000_000


def test_a_peer_that_is_gone_is_given_up() -> None:
    pipe = pair(PatternStream(), forth=Direction(rate=1_250_000.0))
    pipe.open()
    pipe.run(1.0)
    pipe.ways[0].fate = lambda *_: ()
    pipe.run(2000.0)
    assert pipe.ends[0].closed_because == "peer does not answer"
    assert pipe.ends[0].next_deadline() is None


def test_a_delay_spike_is_undone() -> None:
    # RFC 4015: everything waits for 1.5 s, nothing is lost.
    pipe = pair(PatternStream(), control="newreno")
    pipe.ends[0].sender.congestion.ssthresh = 40.0
    pipe.ways[0].fate = lambda *_: (max(0.0, 3.0 - pipe.now) if 1.5 < pipe.now < 3.0 else 0.0,)
    pipe.open()
    pipe.run(1.5)
    before = pipe.ends[0].sender.congestion.cwnd
    pipe.run(3.5)
    sender = pipe.ends[0].sender
    assert sender.counters.timeouts >= 1
    assert sender.counters.undone >= 1
    assert sender.congestion.cwnd >= before


def test_reordering_is_learnt_and_costs_few_retransmissions() -> None:
    draw = random.Random(5).random
    pipe = pair(PatternStream(), forth=Direction(0.05, rate=1_250_000.0, queue=1000,
                fate=lambda *_: (0.004 if draw() < 0.1 else 0.0,)))  # fmt: skip
    assert goodput(pipe, 10.0) > 8_500_000
    counters = pipe.ends[0].sender.counters
    assert counters.retransmitted < 0.01 * counters.segments


# Acknowledgments and timing


def test_acknowledgments_are_delayed_after_the_quick_ones() -> None:
    pipe = pair(PatternStream(MSS * 200), forth=Direction(0.02, rate=1_250_000.0))
    pipe.open()
    pipe.run(5.0)
    acks = len(pipe.ways[1].log)
    assert 100 <= acks <= 130


def test_a_lone_segment_is_acknowledged_after_40_ms() -> None:
    receiver = Receiver(buffer=100_000)
    receiver._quick = 0
    assert receiver.accept(1, b"x" * 1000, fin=False, now=5.0) == b"x" * 1000
    assert (receiver.ack_now, receiver.ack_at) == (False, pytest.approx(5.04))
    receiver.handle_timeout(5.04)
    assert receiver.ack_now
    receiver.acknowledged()
    # Two full segments do not wait, nor does one behind a hole.
    receiver.accept(1001, b"y" * 1000, fin=False, now=6.0)
    assert not receiver.ack_now
    receiver.accept(2001, b"y" * 1000, fin=False, now=6.0)
    assert receiver.ack_now
    receiver.acknowledged()
    receiver.accept(5000, b"z", fin=False, now=7.0)
    assert receiver.ack_now
    assert receiver.sack_blocks() == ((5000, 5001),)


def test_a_duplicate_is_reported_as_d_sack() -> None:
    receiver = Receiver(buffer=100_000)
    receiver.accept(1, b"y" * 1000, fin=False, now=1.0)
    receiver.accept(3001, b"y" * 1000, fin=False, now=1.0)
    receiver.acknowledged()
    assert receiver.accept(1, b"y" * 1000, fin=False, now=2.0) == b""
    assert receiver.sack_blocks() == ((1, 1001), (3001, 4001))
    receiver.acknowledged()
    assert receiver.sack_blocks() == ((3001, 4001),)


def test_octets_beyond_the_window_are_not_taken() -> None:
    receiver = Receiver(buffer=1000)
    assert receiver.accept(600, b"y" * 600, fin=True, now=1.0) == b""
    assert receiver.ack_now
    assert receiver.sack_blocks() == ()
    assert receiver.accept(1, b"y" * 600, fin=False, now=1.0) == b"y" * 600
    assert not receiver.fin_received


def test_rtt_estimator_follows_rfc_6298() -> None:
    rtt = RttEstimator()
    assert rtt.rto == 1.0
    rtt.sample(0.1)
    assert (rtt.srtt, rtt.variance) == (0.1, 0.05)
    assert rtt.rto == pytest.approx(0.1 + 0.2)
    rtt.sample(0.5)
    assert rtt.variance == pytest.approx(0.75 * 0.05 + 0.25 * 0.4)
    assert rtt.srtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.5)
    assert rtt.rto == pytest.approx(rtt.srtt + 4 * rtt.variance)
    rtt.backoff = 3
    assert rtt.rto == pytest.approx(8 * (rtt.srtt + 4 * rtt.variance))
    rtt.backoff = 60
    assert rtt.rto == 120.0


def test_a_smaller_path_mtu_is_taken_up_at_once() -> None:
    limit = {"octets": 1500}
    pipe = pair(PatternStream(500_000))
    pipe.ways[0].fate = lambda _index, segment: (
        () if len(segment.payload) + 52 > limit["octets"] else (0.0,)
    )
    pipe.open()
    pipe.run(0.55)
    limit["octets"] = 1300
    pipe.run(0.7)
    client = pipe.ends[0]
    cwnd = client.sender.congestion.cwnd
    pipe._send(0, client.shrink_path(1300 - 20, pipe.now))
    assert client.sender.mss == 1300 - 52
    assert client.sender.congestion.cwnd == cwnd
    pipe.run(20.0)
    assert bytes(pipe.received[1]) == PatternStream().read(0, 500_000)


def test_pattern_stream_reads_alike_in_any_pieces() -> None:
    stream = PatternStream()
    whole = stream.read(0, 400_000)
    assert len(whole) == 400_000
    assert (
        b"".join(stream.read(at, min(at + 1448, 400_000)) for at in range(0, 400_000, 1448))
        == whole
    )
    assert stream.read(65_000, 66_000) == whole[65_000:66_000]
