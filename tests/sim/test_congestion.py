"""HyStart and CUBIC as Linux has them, fed with ACKs by hand, and over a pipe."""

from __future__ import annotations

import pytest
from tcp_pipe import Direction, Pipe

from ipseclab.sim.tcp import Connection, PatternStream, TcpConfig
from ipseclab.sim.tcp.congestion import Cubic, HyStart

RTT = 0.2


def acks_until_exit(hystart: HyStart, times: list[float], *, window: float = 100.0) -> int | None:
    """The number of the ACK of one round at which slow start ends."""
    for number, at in enumerate(times):
        if hystart.ends_slow_start(window, RTT, at, sent=10_000, una=1 + number):
            return number
    return None


def sampled() -> HyStart:
    hystart = HyStart()
    hystart.sample(RTT)
    return hystart


def test_a_train_of_acks_longer_than_half_the_round_trip_ends_slow_start() -> None:
    times = [1.0 + n * 0.0015 for n in range(100)]
    found = acks_until_exit(sampled(), times)
    assert found is not None
    assert times[found] - times[0] == pytest.approx((RTT + 0.001) / 2, abs=0.0015)


def test_one_gap_of_more_than_two_milliseconds_ends_the_train_for_the_round() -> None:
    times = [1.0 + n * 0.0015 + (0.001 if n > 20 else 0.0) for n in range(100)]
    assert acks_until_exit(sampled(), times) is None


def test_small_windows_stay_in_slow_start() -> None:
    times = [1.0 + n * 0.0015 for n in range(100)]
    assert acks_until_exit(sampled(), times, window=15.0) is None


def test_a_risen_rtt_counts_from_the_ninth_sample_of_a_round() -> None:
    hystart = sampled()
    verdicts = [
        hystart.ends_slow_start(100.0, RTT + 0.02, 1.0 + n, sent=10_000, una=1 + n)
        for n in range(9)
    ]
    assert verdicts == [False] * 8 + [True]


def test_one_short_rtt_in_a_round_says_that_the_queue_is_empty() -> None:
    hystart = sampled()
    rtts = [RTT + 0.02] * 8 + [RTT] + [RTT + 0.02] * 8
    assert not any(
        hystart.ends_slow_start(100.0, rtt, 1.0 + n, sent=10_000, una=1 + n)
        for n, rtt in enumerate(rtts)
    )


def test_the_window_grows_by_a_twentieth_a_round_trip_before_the_first_loss() -> None:
    cubic = Cubic()
    cubic.cwnd = cubic.ssthresh = 200.0
    for n in range(200):
        cubic.on_ack(1, RTT, 1.0 + n * RTT / 200, sent=10_000, una=1)
    assert cubic.cwnd == pytest.approx(210.0, abs=0.5)
    cubic.on_loss(2.0)
    cubic.cwnd = cubic.ssthresh
    before = cubic.cwnd
    for n in range(10):
        cubic.on_ack(1, RTT, 2.0 + n * 0.001, sent=10_000, una=1)
    # From then on the curve says how fast: up to the old window, steeply at first.
    assert cubic.cwnd - before != pytest.approx(10 * 0.05, rel=0.01)


def test_a_time_out_makes_cubic_forget_the_window_that_it_lost_from() -> None:
    cubic = Cubic()
    cubic.cwnd = cubic.ssthresh = 200.0
    cubic.on_ack(1, RTT, 1.0, sent=1, una=1)
    cubic.on_loss(2.0)
    cubic.on_timeout()
    cubic.cwnd = cubic.ssthresh
    start = cubic.cwnd
    for n in range(int(start)):
        cubic.on_ack(1, RTT, 3.0 + n * RTT / start, sent=10_000, una=1)
    assert cubic.cwnd == pytest.approx(1.05 * start, rel=0.01)


def test_slow_start_on_a_long_path_reaches_what_the_path_holds() -> None:
    """20 Mbit/s and 200 ms hold 333 segments. Rounds that began in the midst of a train ended slow
    start at 150: their first samples had the queue of the train in them."""
    client = Connection(
        1, 2, initial_sequence=0, stream=PatternStream(), config=TcpConfig(congestion="cubic")
    )
    server = Connection(2, 1, initial_sequence=0)
    pipe = Pipe(client, server, Direction(RTT / 2, rate=2.5e6), Direction(RTT / 2))
    pipe.open()
    pipe.run(3.0)
    assert client.sender.congestion.ssthresh > 333
    before = len(pipe.received[1])
    pipe.run(4.0)
    assert (len(pipe.received[1]) - before) * 8 > 18e6
