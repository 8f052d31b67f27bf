"""`handshake_time` under loss, worked out from the retransmission schedule instead of measured.

RFC 7296 section 2.1 (retransmission) and 2.4. The derivation is in `docs/closed-forms.md`. Assumed:
packets are lost independently of each other, retransmission is without jitter, no cookie is asked
for, and nothing but the link takes time (or a constant, `processing`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import fsum, inf, sqrt

from ipseclab.ike.config import Retransmission

NORMAL_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Every possible duration (s), ascending, with its probability; what they lack to 1 is failure.

    Mean, deviation and quantiles are those of the runs that succeed.
    """

    times: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def of(cls, weighted: Iterable[tuple[float, float]]) -> Outcomes:
        """From (time, probability) pairs in any order; equal times are added up."""
        by_time: dict[float, list[float]] = {}
        for time, probability in weighted:
            if probability > 0.0:
                by_time.setdefault(time, []).append(probability)
        times = tuple(sorted(by_time))
        return cls(times, tuple(fsum(by_time[time]) for time in times))

    @property
    def success(self) -> float:
        """The probability of an end at all."""
        return fsum(self.probabilities)

    @property
    def failure(self) -> float:
        """The probability that the initiator gives up."""
        return max(0.0, 1.0 - self.success)

    @property
    def mean(self) -> float:
        """Expected duration (s) of a success."""
        return fsum(t * p for t, p in self._pairs()) / self.success

    @property
    def deviation(self) -> float:
        """Standard deviation (s) of a success."""
        mean = self.mean
        return sqrt(fsum((t - mean) ** 2 * p for t, p in self._pairs()) / self.success)

    def cumulative(self, time: float) -> float:
        """The share of successes that have ended by `time`."""
        return fsum(p for t, p in self._pairs() if t <= time) / self.success

    def quantile(self, share: float) -> float:
        """The time by which that share of successes has ended."""
        sums = [total / self.success for total in accumulate(self.probabilities)]
        return self.times[min(bisect_left(sums, share), len(self.times) - 1)]

    def within(self, limit: float) -> Outcomes:
        """The same when a run is cut off after `limit` seconds: later successes are failures."""
        return Outcomes.of((t, p) for t, p in self._pairs() if t <= limit)

    def interval_95(self, runs: int) -> tuple[float, float]:
        """Where the mean of that many successes lies 95 times of 100 (central limit theorem)."""
        half_width = NORMAL_95 * self.deviation / sqrt(runs)
        return self.mean - half_width, self.mean + half_width

    def _pairs(self) -> Iterable[tuple[float, float]]:
        return zip(self.times, self.probabilities, strict=True)


def sending_times(retransmission: Retransmission) -> tuple[tuple[float, ...], float]:
    """When a request is sent, first time included, and when the initiator gives up (s).

    Raises ValueError for a schedule with jitter: it has no fixed times.
    """
    if retransmission.jitter:
        raise ValueError(f"retransmission jitter {retransmission.jitter}, the closed form needs 0")
    limit = retransmission.limit if retransmission.limit is not None else inf
    waits = (
        min(retransmission.timeout * retransmission.base**index, limit)
        for index in range(retransmission.tries + 1)
    )
    *times, give_up = accumulate(waits, initial=0.0)
    return tuple(times), give_up


def exchange(
    retransmission: Retransmission, rtt: float, *, loss_out: float, loss_back: float
) -> Outcomes:
    """One request and its response, the responder answering each retransmission from its cache."""
    times, give_up = sending_times(retransmission)
    success = (1.0 - loss_out) * (1.0 - loss_back)
    return Outcomes.of(
        (time + rtt, success * (1.0 - success) ** index)
        for index, time in enumerate(times)
        if time + rtt < give_up
    )


def handshake(
    retransmission: Retransmission,
    rtt: float,
    *,
    loss_out: float,
    loss_back: float,
    processing: float = 0.0,
    half_open_timeout: float = inf,
) -> Outcomes:
    """IKE_SA_INIT and IKE_AUTH, one after the other: the distribution of `handshake_time`.

    A responder forgets an IKE_SA for which no IKE_AUTH request has come `half_open_timeout` after
    it was made; what the initiator sends from then on is in vain.
    """
    times, give_up = sending_times(retransmission)
    times = tuple(time for time in times if time + rtt < give_up)
    return Outcomes.of(
        (ended + rtt + answered + rtt + processing, first * second)
        for made, ended, first in _init_ends(times, loss_out, loss_back, half_open_timeout)
        for answered, second in _auth_ends(
            times, loss_out, loss_back, made + half_open_timeout - ended - rtt
        )
    )


def _init_ends(
    times: tuple[float, ...], loss_out: float, loss_back: float, half_open_timeout: float
) -> Iterable[tuple[float, float, float]]:
    """Sending time of the request that made the responder's IKE_SA, that of the request whose
    answer came first, and the probability of the two."""
    arrives, answered = 1.0 - loss_out, 1.0 - loss_back
    # What the responder holds while no answer has come: an IKE_SA made at that time, or none.
    waiting: dict[float | None, float] = {None: 1.0}
    for time in times:
        after: dict[float | None, float] = {}
        for made, probability in waiting.items():
            after[made] = after.get(made, 0.0) + probability * loss_out
            alive = made is not None and time - made < half_open_timeout
            now_made = made if made is not None and alive else time
            yield now_made, time, probability * arrives * answered
            after[now_made] = after.get(now_made, 0.0) + probability * arrives * loss_back
        waiting = after


def _auth_ends(
    times: tuple[float, ...], loss_out: float, loss_back: float, patience: float
) -> Iterable[tuple[float, float]]:
    """Sending time of the request whose answer came first, counted from the exchange's own start,
    and its probability; the first one to arrive must have been sent before `patience`."""
    success = (1.0 - loss_out) * (1.0 - loss_back)
    unheard, unanswered = 1.0, 0.0
    for time in times:
        heard = unheard * (1.0 - loss_out) if time < patience else 0.0
        yield time, heard * (1.0 - loss_back) + unanswered * success
        unheard -= heard
        unanswered += heard * loss_back - unanswered * success
