"""The closed form of `handshake_time` against a model that plays the two exchanges out.

The model shares nothing with the closed form but the rules: it has a queue of events, a responder
that keeps what it answered, and an initiator that stops at the first answer.
"""

import heapq
import random
from math import inf, sqrt
from statistics import fmean, stdev

import pytest

from ipseclab.ike.config import Retransmission
from ipseclab.measure.closed_form import Outcomes, exchange, handshake, sending_times

DEFAULT = Retransmission()
FAST = Retransmission(timeout=0.5, base=2.0, tries=4)


class Model:
    """One handshake: an initiator and a responder joined by a link that loses messages."""

    def __init__(
        self,
        schedule: Retransmission,
        rtt: float,
        losses: tuple[float, float],
        rng: random.Random,
        half_open_timeout: float = inf,
    ) -> None:
        self.schedule, self.delay, self.losses, self.rng = schedule, rtt / 2, losses, rng
        self.half_open_timeout = half_open_timeout
        self.events: list[tuple[float, int, str, tuple[int, int]]] = []
        self.order = 0
        self.step = 0  # the exchange that the initiator is in
        self.ike_sa = 0  # which of the responder's IKE_SAs the initiator talks to
        self.made_at: list[float] = []  # when the responder made each of its IKE_SAs
        self.confirmed: set[int] = set()  # those for which IKE_AUTH has come

    def at(self, time: float, what: str, step: int, number: int) -> None:
        self.order += 1
        heapq.heappush(self.events, (time, self.order, what, (step, number)))

    def send(self, now: float, attempt: int) -> None:
        """Send the current request for the `attempt`-th time, or give up after the last wait."""
        if attempt > self.schedule.tries:
            self.at(now, "give up", self.step, 0)
            return
        if self.rng.random() >= self.losses[0]:
            self.at(now + self.delay, "request", self.step, self.ike_sa)
        wait = self.schedule.timeout * self.schedule.base**attempt
        self.at(now + wait, "timer", self.step, attempt + 1)

    def run(self) -> float | None:
        """Seconds until IKE_AUTH is answered, None when the initiator gives up."""
        self.send(0.0, 0)
        while self.events:
            now, _, what, (step, number) = heapq.heappop(self.events)
            if what == "request":
                self.respond(now, step, number)
            elif step != self.step:
                continue  # for an exchange that is over
            elif what == "timer":
                self.send(now, number)
            elif what == "give up":
                return None
            else:
                self.step, self.ike_sa = step + 1, number
                if self.step == 2:
                    return now
                self.send(now, 0)
        return None

    def respond(self, now: float, step: int, ike_sa: int) -> None:
        if step == 0:
            if not self.made_at or now - self.made_at[-1] >= self.half_open_timeout:
                self.made_at.append(now)
            ike_sa = len(self.made_at) - 1
        elif ike_sa not in self.confirmed:
            if now - self.made_at[ike_sa] >= self.half_open_timeout:
                return
            self.confirmed.add(ike_sa)
        if self.rng.random() >= self.losses[1]:
            self.at(now + self.delay, "answer", step, ike_sa)


def played(
    schedule: Retransmission,
    rtt: float,
    losses: tuple[float, float],
    *,
    runs: int,
    half_open_timeout: float = inf,
) -> tuple[list[float], int]:
    """Durations of the successes, and how many of `runs` failed."""
    rng = random.Random(f"{schedule} {rtt} {losses}")
    ends = [Model(schedule, rtt, losses, rng, half_open_timeout).run() for _ in range(runs)]
    times = [end for end in ends if end is not None]
    return times, runs - len(times)


def assert_same_distribution(outcomes: Outcomes, times: list[float], failures: int) -> None:
    """Mean within 3.5 standard errors, every time possible, shares and failures as foretold."""
    runs = len(times) + failures
    assert fmean(times) == pytest.approx(
        outcomes.mean, abs=3.5 * outcomes.deviation / sqrt(len(times)) + 1e-9
    )
    assert stdev(times) == pytest.approx(outcomes.deviation, rel=0.1, abs=1e-9)
    spread = sqrt(outcomes.failure * outcomes.success / runs)
    assert failures / runs == pytest.approx(outcomes.failure, abs=4 * spread + 1e-12)
    for share in (0.25, 0.5, 0.75, 0.95):
        time = outcomes.quantile(share)
        seen = sum(t <= time + 1e-9 for t in times) / len(times)
        assert seen == pytest.approx(outcomes.cumulative(time), abs=4 * 0.5 / sqrt(len(times)))
    possible = {round(t, 6) for t in outcomes.times}
    assert {round(t, 6) for t in times} <= possible


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.1, 0.2, 0.4])
@pytest.mark.parametrize("schedule", [DEFAULT, FAST], ids=["default", "fast"])
def test_handshake_time_is_as_played(schedule: Retransmission, loss: float) -> None:
    times, failures = played(schedule, 0.04, (loss, loss), runs=8000)
    outcomes = handshake(schedule, 0.04, loss_out=loss, loss_back=loss)
    assert_same_distribution(outcomes, times, failures)


@pytest.mark.parametrize("losses", [(0.3, 0.0), (0.0, 0.3), (0.1, 0.4)])
def test_losses_differ_by_direction(losses: tuple[float, float]) -> None:
    times, failures = played(FAST, 0.1, losses, runs=8000)
    outcomes = handshake(FAST, 0.1, loss_out=losses[0], loss_back=losses[1])
    assert_same_distribution(outcomes, times, failures)


@pytest.mark.parametrize("rtt", [0.6, 1.7])
def test_answers_that_come_after_the_next_retransmission(rtt: float) -> None:
    # 1.7 s is longer than the first two waits together: answers of early attempts still come first.
    times, failures = played(FAST, rtt, (0.3, 0.3), runs=8000)
    assert_same_distribution(handshake(FAST, rtt, loss_out=0.3, loss_back=0.3), times, failures)


@pytest.mark.parametrize("half_open_timeout", [1.2, 3.0, 8.0])
def test_a_responder_that_forgets(half_open_timeout: float) -> None:
    times, failures = played(
        FAST, 0.1, (0.4, 0.4), runs=20_000, half_open_timeout=half_open_timeout
    )
    outcomes = handshake(
        FAST, 0.1, loss_out=0.4, loss_back=0.4, half_open_timeout=half_open_timeout
    )
    assert outcomes.failure > handshake(FAST, 0.1, loss_out=0.4, loss_back=0.4).failure
    assert_same_distribution(outcomes, times, failures)


def test_without_a_forgetful_responder_the_exchanges_are_independent() -> None:
    one = exchange(DEFAULT, 0.1, loss_out=0.2, loss_back=0.1)
    both = handshake(DEFAULT, 0.1, loss_out=0.2, loss_back=0.1)
    assert both.mean == pytest.approx(2 * one.mean)
    assert both.deviation**2 == pytest.approx(2 * one.deviation**2)
    assert both.success == pytest.approx(one.success**2)


def test_no_loss_is_two_round_trips_and_processing() -> None:
    outcomes = handshake(DEFAULT, 0.2, loss_out=0.0, loss_back=0.0, processing=0.003)
    assert outcomes.times == pytest.approx((0.403,))
    assert outcomes.failure == 0.0
    assert outcomes.deviation == 0.0
    assert outcomes.interval_95(1000) == pytest.approx((0.403, 0.403))


def test_mean_of_one_exchange_is_the_formula_written_down() -> None:
    # docs/closed-forms.md: rtt + q / (1 - (1-q)^(n+1)) * sum of t_i (1-q)^i
    q, n = (1 - 0.2) ** 2, DEFAULT.tries
    times = [4.0 * (1.8**i - 1) / 0.8 for i in range(n + 1)]
    series = sum(time * (1 - q) ** i for i, time in enumerate(times))
    expected = 0.04 + q * series / (1 - (1 - q) ** (n + 1))
    outcomes = exchange(DEFAULT, 0.04, loss_out=0.2, loss_back=0.2)
    assert outcomes.mean == pytest.approx(expected)
    assert outcomes.failure == pytest.approx((1 - q) ** (n + 1))


def test_nothing_arrives() -> None:
    assert handshake(DEFAULT, 0.1, loss_out=1.0, loss_back=0.0).failure == 1.0
    assert exchange(FAST, 100.0, loss_out=0.0, loss_back=0.0).failure == 1.0


def test_sending_times() -> None:
    times, give_up = sending_times(Retransmission(timeout=1.0, base=2.0, tries=3))
    assert times == pytest.approx((0.0, 1.0, 3.0, 7.0))
    assert give_up == pytest.approx(15.0)
    times, give_up = sending_times(Retransmission(timeout=1.0, base=2.0, tries=3, limit=2.5))
    assert times == pytest.approx((0.0, 1.0, 3.0, 5.5))
    assert give_up == pytest.approx(8.0)
    with pytest.raises(ValueError, match="jitter"):
        sending_times(Retransmission(jitter=0.1))


def test_outcomes() -> None:
    outcomes = Outcomes.of([(2.0, 0.25), (1.0, 0.5), (2.0, 0.125), (9.0, 0.0)])
    assert outcomes.times == (1.0, 2.0)
    assert outcomes.success == pytest.approx(0.875)
    assert outcomes.mean == pytest.approx((0.5 * 1 + 0.375 * 2) / 0.875)
    assert outcomes.cumulative(1.5) == pytest.approx(0.5 / 0.875)
    assert outcomes.quantile(0.5) == 1.0
    assert outcomes.quantile(1.0) == 2.0
    assert outcomes.within(1.0).failure == pytest.approx(0.5)
    low, high = outcomes.interval_95(100)
    assert high - low == pytest.approx(2 * 1.959964 * outcomes.deviation / 10)
