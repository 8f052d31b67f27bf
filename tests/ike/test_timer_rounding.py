"""Timers that recompute when they are due: no float step makes them spin, miss or repeat."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import CONNECTION, make_pair
from post import Post

from ipseclab.ike.config import Lifetime, Retransmission
from ipseclab.ike.sa import IkeState

LIMIT = 2000
"""Calls of handle_timeout in one test; more is a gateway that spins."""


def connected(start, **changes):
    pair = make_pair(a=changes, now=start)
    pair.connect()
    return pair


def timeouts(pair, seconds):
    """Let only `a` live, each timer at its own moment; how often it was called."""
    end, calls = pair.now + seconds, 0
    gateway = pair.gateways[0]
    while (deadline := gateway.next_deadline()) is not None and deadline.at <= end:
        pair.now = max(pair.now, deadline.at)
        pair.carry_out(0, gateway.handle_timeout(pair.now))
        calls += 1
        assert calls < LIMIT
    pair.now = end
    return calls


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 1e9), st.floats(0.5, 50.0))
def test_liveness_asks_once_an_interval_at_any_time_of_the_clock(start, interval):
    pair = connected(start, liveness=interval)
    before = len(pair.events("liveness_confirmed", 0))
    pair.run(10.5 * interval)
    asked = len(pair.events("liveness_confirmed", 0)) - before
    # Each answer takes 0.02 s, and counts from its arrival.
    assert asked == pytest.approx(10.5 * interval / (interval + 0.02), abs=1.01)
    pair.agreed()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.0, 1e9), st.floats(0.5, 50.0))
def test_keepalive_goes_once_an_interval_at_any_time_of_the_clock(start, interval):
    pair = connected(start, force_encapsulation=True, keepalive=interval)
    before = len(pair.events("keepalive_sent", 0))
    pair.run(10.5 * interval)
    sent = len(pair.events("keepalive_sent", 0)) - before
    assert sent in (10, 11)


@pytest.mark.parametrize("kind", ["liveness", "keepalive"])
def test_an_interval_below_the_clock_s_resolution_does_not_spin(kind):
    """At 1e9 s a float step is 1.2e-7 s: adding 1e-9 s to now gives now again."""
    pair = make_pair(a={kind: 1e-9, "force_encapsulation": True}, now=1e9)
    pair.do(0, "initiate", CONNECTION)
    pair.run(0.04001)
    assert pair.a.ike.child_sas
    pair.fate = lambda sent: ()
    gateway = pair.gateways[0]
    for _ in range(50):
        deadline = gateway.next_deadline()
        now = max(pair.now, deadline.at)
        pair.now = now
        pair.carry_out(0, gateway.handle_timeout(now))
        later = gateway.next_deadline()
        assert later is None or later.at > now


def test_a_timer_called_one_step_early_by_a_driver_is_not_lost():
    pair = connected(0.0, liveness=7.0)
    assert timeouts(pair, 7.5) >= 1
    assert [s.header.exchange.name for s in pair.sent[-1:]] == ["INFORMATIONAL"]


def test_hard_expiry_of_an_ike_sa_leaves_no_orphan_of_a_rekey_that_never_ended():
    """Both ends rekey, nothing arrives any more but the peer's request: the candidate goes with the
    IKE_SA that it would have replaced."""
    pair = make_pair(
        both={
            "ike_lifetime": Lifetime(seconds=20.0, margin=0.0),
            "retransmission": Retransmission(timeout=2.0, tries=3),
        }
    )
    pair.connect()
    post = Post(pair)
    pair.do(0, "rekey_ike", CONNECTION)
    pair.do(1, "rekey_ike", CONNECTION)
    post.deliver("b CREATE_CHILD_SA request")
    states = [sa.state for sa in pair.a.ike.ike_sas]
    assert IkeState.CANDIDATE in states
    pair.fate = lambda sent: ()
    pair.run(400.0)
    for gateway in pair.gateways:
        assert gateway.ike.ike_sas == ()
        tables = gateway.ike.table_sizes
        assert {name: size for name, size in tables.items() if size and name != "counters"} == {}
