"""RFC 4301 section 7.3: a later fragment goes where its first one went."""

import random
from dataclasses import replace

import pytest
from datapath_pair import RIGHT_NET, delivered, reasons, receive, sa_pair, udp_packet
from scapy.layers.inet6 import UDP, IPv6, IPv6ExtHdrFragment, fragment6

from ipseclab.ipsec import fragment_flows
from ipseclab.ipsec.counters import Dropped
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.fragment_flows import FragmentFlows
from ipseclab.ipsec.fragments import fragments_of
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.registry import IpProtocol
from ipseclab.wire.selector import TrafficSelector

DNS = (TrafficSelector.of_network(RIGHT_NET, IpProtocol.UDP, (53, 53)),)


def ends(*, stateful):
    left, right = sa_pair()
    left, right = replace(left, peer_ts=DNS), replace(right, own_ts=DNS)
    found = []
    for sa in (left, right):
        policy = Policy("net", Action.PROTECT, sa.own_ts, sa.peer_ts, "net")
        found.append(Datapath(Spd([policy], stateful_fragments=stateful), rng=random.Random(1)))
        found[-1].add_sa(sa, 0.0)
    return found


def pieces(port, number=9):
    packet = udp_packet(
        "10.1.0.5", "10.2.0.7", bytes(1500), ports=(999, port), identification=number
    )
    return fragments_of(packet, 600)


def test_fragments_of_a_protected_port_go_through_both_ends():
    left, right = ends(stateful=True)
    for piece in pieces(53):
        (output,) = left.send_packet(piece, 0.0)
        assert delivered(receive(right, output)) == [piece]
    first, *later = pieces(80, number=10)
    assert reasons(left.send_packet(first, 0.0)) == ["no_policy"]
    assert [reasons(left.send_packet(piece, 0.0)) for piece in later] == [["no_policy"]] * 2


def test_a_later_fragment_that_comes_first_is_dropped():
    left, _right = ends(stateful=True)
    assert reasons(left.send_packet(pieces(53)[1], 0.0)) == ["no_first_fragment"]
    assert reasons(left.receive_packet(pieces(53)[1], 0.0)) == ["no_first_fragment"]


def test_without_state_no_later_fragment_matches_a_port():
    left, _right = ends(stateful=False)
    assert reasons(left.send_packet(pieces(53)[1], 0.0)) == ["no_policy"]


def test_ipv6_and_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(fragment_flows, "FIRST_FRAGMENTS", 3)
    flows, later = FragmentFlows(), []
    for number in range(5):
        head = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(id=number)
        first, second = map(bytes, fragment6(head / UDP(sport=5, dport=53) / bytes(1400), 1280))
        assert flows.flow_of(first).destination_port == 53
        later.append(second)
    for number, piece in enumerate(later):
        if number < 2:
            with pytest.raises(Dropped):
                flows.flow_of(piece)
        else:
            flow = flows.flow_of(piece)
            assert (flow.source_port, flow.destination_port) == (5, 53)
            assert not flow.later_fragment
