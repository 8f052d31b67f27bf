"""RFC 4301 section 4.4.1: ordered, first match wins, nothing matches nothing passes."""

import pytest
from datapath_pair import network, packed

from ipseclab.errors import ConfigError
from ipseclab.ipsec import spd as spd_module
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import TrafficSelector

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
