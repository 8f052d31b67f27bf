import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.errors import WireError
from ipseclab.lab.plan import Action, Ping, Probe, RunPlan, Transfer
from ipseclab.lab.traffic import (
    SMALLEST_PROBE,
    decode_probe,
    flow_end,
    flow_ids,
    packet_count,
    probe_payload,
    send_times,
)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.integers(SMALLEST_PROBE, 1500))
def test_a_probe_says_what_it_is(flow, sequence, size):
    payload = probe_payload(flow, sequence, size)
    assert len(payload) == size
    assert decode_probe(payload) == (flow, sequence)


@given(st.integers(0, 199), st.integers(0, 7))
def test_a_probe_with_any_bit_turned_is_not_taken_for_another(octet, bit):
    payload = bytearray(probe_payload(3, 77, 200))
    payload[octet] ^= 1 << bit
    with pytest.raises(WireError):
        decode_probe(bytes(payload))


@given(st.binary(max_size=100))
def test_garbage_is_no_probe(octets):
    with pytest.raises(WireError):
        decode_probe(octets)


@pytest.mark.parametrize("size", [SMALLEST_PROBE - 1, 65508])
def test_a_probe_of_an_impossible_size(size):
    with pytest.raises(ValueError, match="probe of"):
        probe_payload(1, 1, size)


def test_probes_leave_at_a_constant_rate():
    probe = Probe("p", "h1", "h2", start=1.0, duration=0.3, rate=10.0)
    assert list(send_times(probe)) == pytest.approx([1.0, 1.1, 1.2])
    assert flow_end(probe) == pytest.approx(1.2)


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_a_probe_has_rate_times_duration_packets(rate, tenths):
    probe = Probe("p", "h1", "h2", duration=tenths / 10, rate=float(rate))
    assert packet_count(probe) == -(-rate * tenths // 10)


def test_no_rounding_error_adds_up():
    probe = Probe("p", "h1", "h2", duration=1000.0, rate=1000.0)
    *_, last = send_times(probe)
    assert last == 999.999


def test_pings():
    ping = Ping("p", "h1", "h2", start=2.0, interval=0.5, count=3)
    assert list(send_times(ping)) == [2.0, 2.5, 3.0]
    assert flow_end(ping) == 3.0


def test_a_transfer_ends_by_time_or_by_octets():
    assert flow_end(Transfer("t", "h1", "h2", start=1.0, duration=4.0)) == 5.0
    assert flow_end(Transfer("t", "h1", "h2", octets=1000)) is None
    with pytest.raises(ValueError, match="either a duration"):
        Transfer("t", "h1", "h2")
    with pytest.raises(ValueError, match="either a duration"):
        Transfer("t", "h1", "h2", duration=1.0, octets=1)


def test_flows_are_numbered_by_their_place():
    plan = RunPlan((Ping("a", "h1", "h2"), Probe("b", "h1", "h2")))
    assert flow_ids(plan) == {"a": 0, "b": 1}


def test_two_flows_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two flows of one name: a"):
        RunPlan((Ping("a", "h1", "h2"), Probe("a", "h1", "h2")))


def test_actions_name_their_target_and_come_by_time():
    late = Action(2.0, "rekey_child", node="gw1")
    early = Action(1.0, "link_set", link="wan", arguments={"loss": 0.1})
    same = Action(1.0, "nat_rebind", node="nat1")
    assert RunPlan(actions=(late, early, same)).timeline() == (early, same, late)
    assert [action.target for action in (late, early, same)] == ["gw1", "wan", "nat1"]


@pytest.mark.parametrize(("name", "what"), [("link_set", "a link"), ("rekey_ike", "a node")])
def test_an_action_without_its_target_is_refused(name, what):
    with pytest.raises(ValueError, match=f"{name} names {what}"):
        Action(0.0, name)
