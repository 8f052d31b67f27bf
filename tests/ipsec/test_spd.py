"""RFC 4301 section 4.4.1: ordered, first match wins, nothing matches nothing passes."""

import sys
from ipaddress import ip_address, ip_network

import pytest
from datapath_pair import network, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.errors import ConfigError
from ipseclab.ipsec import spd as spd_module
from ipseclab.ipsec.spd import (
    Action,
    Direction,
    Policy,
    Spd,
    covers_inbound,
    covers_outbound,
)
from ipseclab.registry import IpProtocol, TsType
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import ANY_PORTS, OPAQUE_PORTS, TrafficSelector

ANY = network("0.0.0.0/0")


def flow(source, destination, protocol=IpProtocol.UDP, ports=(1000, 2000)):
    return Flow(packed(source), packed(destination), protocol, *ports)


def discard(local, remote, name="no"):
    return Policy(name, Action.DISCARD, local, remote)


def bypass(local, remote, name="clear"):
    return Policy(name, Action.BYPASS, local, remote)


def test_first_match_wins_in_both_directions():
    first = discard(network("10.1.0.5/32"), network("10.2.0.0/24"))
    second = Policy("vpn", Action.PROTECT, network("10.1.0.0/24"), network("10.2.0.0/24"), "vpn")
    spd = Spd([first, second])
    assert spd.outbound(flow("10.1.0.5", "10.2.0.1")) is first
    assert spd.outbound(flow("10.1.0.6", "10.2.0.1")) is second
    assert spd.inbound(flow("10.2.0.1", "10.1.0.5")) is first
    assert spd.inbound(flow("10.2.0.1", "10.1.0.6")) is second


def test_direction_matters():
    spd = Spd([bypass(network("10.1.0.0/24"), network("10.2.0.0/24"))])
    assert spd.outbound(flow("10.2.0.1", "10.1.0.1")) is None
    assert spd.inbound(flow("10.1.0.1", "10.2.0.1")) is None


def test_no_entry_matches_nothing():
    assert Spd([]).outbound(flow("10.1.0.1", "10.2.0.1")) is None
    assert Spd([]).inbound(flow("10.1.0.1", "10.2.0.1")) is None


def test_ports_belong_to_their_own_end():
    dns = (TrafficSelector.of_network("10.2.0.0/24", IpProtocol.UDP, (53, 53)),)
    spd = Spd([bypass(network("10.1.0.0/24"), dns)])
    assert spd.outbound(flow("10.1.0.1", "10.2.0.1", ports=(4000, 53))) is not None
    assert spd.outbound(flow("10.1.0.1", "10.2.0.1", ports=(53, 4000))) is None
    assert spd.inbound(flow("10.2.0.1", "10.1.0.1", ports=(53, 4000))) is not None
    assert spd.inbound(flow("10.2.0.1", "10.1.0.1", ports=(4000, 53))) is None


@pytest.mark.parametrize("side", ["local", "remote"])
def test_icmp_type_is_asked_of_whichever_side_names_it(side):
    echo = (TrafficSelector.of_network("0.0.0.0/0", IpProtocol.ICMP, (8 << 8, 8 << 8)),)
    sides = {"local": ANY, "remote": ANY} | {side: echo}
    spd = Spd([bypass(**sides)])
    request = flow("10.1.0.1", "10.2.0.1", IpProtocol.ICMP, (8 << 8, 0))
    reply = flow("10.1.0.1", "10.2.0.1", IpProtocol.ICMP, (0, 0))
    assert spd.outbound(request) is not None
    assert spd.inbound(request) is not None
    assert spd.outbound(reply) is None


def test_remembered_flows_are_bounded_and_forgetting_changes_no_verdict(monkeypatch):
    monkeypatch.setattr(spd_module, "FLOW_CACHE_LIMIT", 10)
    spd = Spd([discard(network("10.1.0.7/32"), ANY), bypass(ANY, ANY)])
    for _again in range(2):
        for host in range(40):
            policy = spd.outbound(flow(f"10.1.0.{host}", "10.2.0.1"))
            assert policy is not None
            assert policy.name == ("no" if host == 7 else "clear")
            assert len(spd._outbound) <= 10


@pytest.mark.parametrize(
    ("action", "connection"),
    [(Action.PROTECT, None), (Action.BYPASS, "vpn"), (Action.DISCARD, "vpn")],
)
def test_protect_and_only_protect_names_a_connection(action, connection):
    with pytest.raises(ConfigError, match="only PROTECT, names a connection"):
        Policy("p", action, ANY, ANY, connection)


PORTS = st.sampled_from([(0, 0xFFFF), (0xFFFF, 0), (53, 53), (0, 1023), (1024, 0xFFFF)])
PROTOCOLS = st.sampled_from([0, 1, 6, 17, 58])


@st.composite
def selectors(draw, family):
    nets = {4: ("10.{}.{}.0/{}", (8, 16, 24, 32)), 6: ("fd00:{}:{}::/{}", (16, 32, 48, 64))}
    text, lengths = nets[family]
    base = text.format(
        draw(st.integers(0, 2)), draw(st.integers(0, 2)), draw(st.sampled_from(lengths))
    )
    network = ip_network(base, strict=False)
    start, end = network.network_address.packed, network.broadcast_address.packed
    if draw(st.booleans()):  # a range that is no network
        end = (int.from_bytes(start, "big") + draw(st.integers(0, 400))).to_bytes(len(start), "big")
    kind = TsType.TS_IPV4_ADDR_RANGE if family == 4 else TsType.TS_IPV6_ADDR_RANGE
    return TrafficSelector(kind, draw(PROTOCOLS), *draw(PORTS), start, end)


@st.composite
def policies(draw):
    found = []
    for number in range(draw(st.integers(9, 30))):
        sides = [
            tuple(
                draw(selectors(draw(st.sampled_from([4, 4, 6]))))
                for _ in range(draw(st.integers(1, 2)))
            )
            for _ in range(2)
        ]
        direction = draw(st.sampled_from(list(Direction)))
        found.append(Policy(f"p{number}", Action.DISCARD, *sides, direction=direction))
    return found


@st.composite
def flows(draw):
    text = draw(st.sampled_from(["10.{}.{}.{}", "fd00:{}:{}::{}"]))
    numbers = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 255))
    ends = [ip_address(text.format(*draw(numbers))).packed for _ in range(2)]
    ports = st.sampled_from([0, 53, 1023, 1024, 0xFFFF])
    later = draw(st.booleans())
    shown = (0, 0) if later else (draw(ports), draw(ports))
    return Flow(*ends, draw(st.sampled_from([1, 6, 17, 58, 47])), *shown, later)


@given(policies(), st.lists(flows(), min_size=1, max_size=20))
@settings(max_examples=80, deadline=None)
def test_the_index_finds_what_asking_each_finds(entries, asked):
    spd = Spd(entries)
    for one in asked:
        out = [p for p in entries if p.direction is not Direction.INBOUND]
        into = [p for p in entries if p.direction is not Direction.OUTBOUND]
        first_out = next((p for p in out if covers_outbound(p.local, p.remote, one)), None)
        first_in = next((p for p in into if covers_inbound(p.local, p.remote, one)), None)
        assert spd.outbound(one) is first_out
        assert spd.inbound(one) is first_in


def test_later_fragment_needs_a_selector_for_any_port_or_for_opaque_ones():
    """RFC 4301 section 7."""

    def spd(ports):
        udp = (TrafficSelector.of_network("10.2.0.0/24", IpProtocol.UDP, ports),)
        return Spd([bypass(network("10.1.0.0/24"), udp)])

    later = flow("10.1.0.1", "10.2.0.1", ports=(0, 0))._replace(later_fragment=True)
    first = flow("10.1.0.1", "10.2.0.1", ports=(0, 0))
    assert [spd(ports).outbound(later) is None for ports in (ANY_PORTS, OPAQUE_PORTS)] == [
        False
    ] * 2
    assert spd((0, 100)).outbound(later) is None
    assert spd((0, 100)).outbound(first) is not None
    assert spd(OPAQUE_PORTS).outbound(first) is None


def test_defaults_are_a_direction_s_own():
    spd = Spd([], outbound_default=Action.BYPASS)
    one = flow("10.1.0.1", "10.2.0.1")
    assert spd.outbound(one).action is Action.BYPASS
    assert spd.inbound(one) is None
    with pytest.raises(ConfigError, match="the inbound default"):
        Spd([], inbound_default=Action.PROTECT)


def test_an_entry_of_one_direction_is_not_asked_in_the_other():
    spd = Spd([Policy("out", Action.BYPASS, ANY, ANY, direction=Direction.OUTBOUND)])
    assert spd.outbound(flow("10.1.0.1", "10.2.0.1")).name == "out"
    assert spd.inbound(flow("10.1.0.1", "10.2.0.1")) is None
    with pytest.raises(ConfigError, match="both ways"):
        Policy("p", Action.PROTECT, ANY, ANY, "c", Direction.INBOUND)


def test_other_policies_leave_all_else_as_it_was():
    spd = Spd([], outbound_default=Action.BYPASS, stateful_fragments=True).with_policies([])
    assert spd.stateful_fragments
    flow = Flow(bytes([10, 1, 0, 1]), bytes([10, 2, 0, 1]), 17, 1, 2)
    found = spd.outbound(flow)
    assert found is not None
    assert found.action is Action.BYPASS
    assert spd.inbound(flow) is None


def calls_of(work):
    """Functions called, of Python and of C: a measure of work without a clock."""
    found = []
    sys.setprofile(lambda _frame, event, _what: found.append(event) if "call" in event else None)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(found)


def test_a_new_flow_costs_no_more_among_ten_thousand_entries():
    work = {}
    for count in (1, 10_000):
        networks = [TrafficSelector.of_network(f"10.{n >> 8}.{n & 255}.0/24") for n in range(count)]
        anywhere = TrafficSelector.of_network("172.16.0.0/12")
        spd = Spd([Policy(str(n), Action.BYPASS, (one,), (anywhere,)) for n, one in
                   enumerate(networks)])  # fmt: skip
        last = count - 1
        source = bytes([10, last >> 8, last & 255, 1])
        asked = Flow(source, bytes([172, 16, 0, 1]), 17, 1, 2)
        work[count] = calls_of(lambda spd=spd, asked=asked: spd.outbound(asked))
        assert spd.outbound(asked).name == str(last)
        once_more = calls_of(lambda spd=spd, asked=asked: spd.outbound(asked))
        assert once_more <= 3
    assert work[10_000] <= 2 * work[1]
