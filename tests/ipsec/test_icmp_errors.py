"""RFC 4301 section 6.2: an ICMP error goes the way of the traffic that it is about."""

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from datapath_pair import (
    LEFT_HOST,
    RIGHT_HOST,
    RIGHT_NET,
    delivered,
    reasons,
    receive,
    sa_pair,
    udp_packet,
)
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import UDP, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6

from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.events import Acquire
from ipseclab.ipsec.icmp_errors import flow_about
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import TrafficSelector

ROUTER = "172.16.0.9"
"""Behind the left end, and in nobody's selectors."""
DNS = (TrafficSelector.of_network(RIGHT_NET, IpProtocol.UDP, (2000, 2000)),)


def ends(*, icmp_errors=True, with_sas=True):
    left, right = sa_pair()
    left, right = replace(left, peer_ts=DNS), replace(right, own_ts=DNS)
    found = []
    for sa in (left, right):
        policy = Policy("net", Action.PROTECT, sa.own_ts, sa.peer_ts, "net")
        found.append(Datapath(Spd([policy], icmp_errors=icmp_errors), rng=random.Random(1)))
        if with_sas:
            found[-1].add_sa(sa, 0.0)
    return found


def request(port=2000, host=LEFT_HOST):
    """What came from the right to a host on the left."""
    return udp_packet(RIGHT_HOST, host, b"request" * 9, ports=(port, 1000))


def error(quoted, to=RIGHT_HOST, kind=3, code=4, octets=28):
    return bytes(IP(src=ROUTER, dst=to) / ICMP(type=kind, code=code) / quoted[:octets])


@pytest.mark.parametrize("octets", [28, 60])
@pytest.mark.parametrize(("kind", "code"), [(3, 4), (11, 0), (12, 0)])
def test_an_error_of_a_router_between_goes_through_the_sa(kind, code, octets):
    left, right = ends()
    message = error(request(), kind=kind, code=code, octets=octets)
    for _ in range(2):
        (output,) = left.send_packet(message, 0.0)
        assert delivered(receive(right, output)) == [message]


@pytest.mark.parametrize(
    "message",
    [
        error(request(port=2001)),
        error(request(host="10.9.0.1")),
        error(request(), to="10.2.0.8"),
        error(request(), kind=8, code=0),
        error(request(), octets=19),
        error(error(request())),
        bytes(IP(src=ROUTER, dst=RIGHT_HOST) / ICMP(type=3)),
    ],
    ids=["port", "host", "to another", "query", "cut short", "about an error", "empty"],
)
def test_what_quotes_no_traffic_of_the_sa_is_dropped_at_both_ends(message):
    left, right = ends()
    # One that may is sent before, so that nothing is remembered of it.
    (good,) = left.send_packet(error(request()), 0.0)
    assert delivered(receive(right, good))
    assert reasons(left.send_packet(message, 0.0)) == ["no_policy"]
    # A peer that has the keys and looks at nothing; right has seen what left sent.
    everything = (TrafficSelector.of_network("0.0.0.0/0"),)
    careless, _ = sa_pair()
    careless = replace(careless, own_ts=everything, peer_ts=everything)
    policy = Policy("net", Action.PROTECT, everything, everything, "net")
    sender = Datapath(Spd([policy]), rng=random.Random(1))
    sender.add_sa(careless, 0.0)
    (output,) = [sender.send_packet(message, 0.0) for _ in range(5)][-1]
    assert reasons(receive(right, output)) == ["selector_mismatch"]


def test_off_by_default():
    left, _right = ends(icmp_errors=False)
    assert reasons(left.send_packet(error(request()), 0.0)) == ["no_policy"]
    _left, right = ends(icmp_errors=False)
    (output,) = ends()[0].send_packet(error(request()), 0.0)
    assert reasons(receive(right, output)) == ["selector_mismatch"]


def test_without_an_sa_the_one_of_the_traffic_is_asked_for():
    left, _right = ends(with_sas=False)
    acquires = [one for one in left.send_packet(error(request()), 0.0) if isinstance(one, Acquire)]
    assert [one.flow for one in acquires] == [flow_about(error(request()))]
    assert acquires[0].flow.destination_port == 2000


def test_ipv6():
    inner = IPv6(src="2001:db8:2::1", dst="2001:db8:1::1") / UDP(sport=2000, dport=1000) / b"data"
    message = IPv6(src="2001:db8:9::9", dst="2001:db8:2::1") / ICMPv6PacketTooBig() / bytes(inner)
    near, far = (ip_address(text).packed for text in ("2001:db8:1::1", "2001:db8:2::1"))
    assert flow_about(bytes(message)) == Flow(near, far, int(IpProtocol.UDP), 1000, 2000)
    query = IPv6(src="2001:db8:9::9", dst="2001:db8:2::1") / ICMPv6EchoRequest(data=bytes(inner))
    assert flow_about(bytes(query)) is None


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x45", error(request())[:20]]))
def test_any_octets_are_an_error_or_none(octets, start):
    left, _right = ends()
    left.send_packet(start + octets, 0.0)
    quoted = error(octets or b"\0")
    about = flow_about(quoted)
    assert about is None or about.destination == ip_address(RIGHT_HOST).packed
