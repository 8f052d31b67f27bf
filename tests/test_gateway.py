"""The gateway as a whole: IKE and the datapath joined, and what it tells of itself."""

import random
from dataclasses import replace
from ipaddress import ip_address

import pytest
from pair import ADDRESSES, CONNECTION, Pair, connection, gateway_config, make_pair

from ipseclab.errors import ConfigError
from ipseclab.gateway import Gateway
from ipseclab.ike.config import IkeConfig
from ipseclab.ipsec.fragments import fragments_of
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.outputs import (
    Deadline,
    DeliverPacket,
    Notice,
    SendDatagram,
    UdpEndpoint,
    UdpPath,
)
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

EVERYTHING = (TrafficSelector.of_network("0.0.0.0/0"),)


def test_packet_without_an_sa_waits_while_one_is_made():
    pair = make_pair()
    packets = [pair.send(0, number) for number in range(10)]
    assert len(pair.events("acquire", 0)) == 1
    pair.run(1.0)
    assert pair.delivered[1] == packets
    assert pair.a.counters["parked"] == 10


def test_parked_packets_are_bounded_and_time_out():
    sides = [connection(side) for side in (0, 1)]
    limits = DatapathLimits(parked_packets=3, park_seconds=5.0)
    pair = Pair((gateway_config(sides[0], datapath=limits), gateway_config(sides[1])))
    pair.fate = lambda sent: ()
    for number in range(5):
        pair.send(0, number)
    assert pair.a.counters["drops.park_full"] == 2
    pair.run(6.0)
    assert pair.a.counters["drops.park_timeout"] == 3


def test_traffic_from_both_ends_at_once_gets_through():
    pair = make_pair()
    packets = [pair.send(side) for side in (0, 1)]
    pair.run(1.0)
    assert pair.delivered == ([packets[1]], [packets[0]])


def test_acquire_while_the_first_child_sa_is_refused_does_not_start_another_ike_sa():
    narrow = (TrafficSelector.of_network("10.9.0.0/24"),)
    pair = make_pair(b={"own_ts": narrow})
    pair.connect()
    for number in range(5):
        pair.send(0, number)
        pair.run(2.0)
    assert len(pair.ike_spis(0)) == len(pair.ike_spis(1)) == 1
    assert not pair.spis(0)


def test_unknown_connection_is_a_key_error_that_names_it():
    pair = make_pair()
    with pytest.raises(KeyError, match="a has no connection 'nowhere'"):
        pair.a.initiate("nowhere", 0.0)


@pytest.mark.parametrize(
    ("connections", "policies", "problem"),
    [
        ((), (Policy("p", Action.PROTECT, EVERYTHING, EVERYTHING, "x"),), "no connection 'x'"),
        ((connection(0),), (), "no PROTECT policy for connection 'site'"),
        (
            (connection(0), connection(0)),
            gateway_config(connection(0)).policies,
            "2 connections are named 'site'",
        ),
    ],
)
def test_connections_and_policies_must_name_each_other(connections, policies, problem):
    good = gateway_config(connection(0))
    config = replace(good, ike=IkeConfig("gw", connections), policies=policies)
    with pytest.raises(ConfigError, match=problem):
        Gateway(config, rng=random.Random(1))


def test_connection_that_takes_any_peer_cannot_initiate():
    pair = make_pair(a={"peer_address": None})
    pair.do(0, "initiate", CONNECTION)
    assert pair.sent == []
    assert pair.events("cannot_initiate", 0)


def test_status_shows_ike_sas_and_child_sas():
    pair = make_pair()
    assert pair.a.status().ike_sas == ()
    pair.connect()
    (ike,) = pair.a.status().ike_sas
    (child,) = ike.children
    assert (ike.connection, ike.role, ike.state) == (CONNECTION, "initiator", "established")
    assert (ike.peer, ike.encapsulated) == (f"{ADDRESSES[1]}:500", False)
    assert (child.mode, child.state) == ("tunnel", "installed")
    assert (child.own_ts, child.peer_ts) == ("10.1.0.0/24", "10.2.0.0/24")
    (other,) = pair.b.status().ike_sas
    assert (other.role, other.spi_i, other.spi_r) == ("responder", ike.spi_i, ike.spi_r)
    assert (other.children[0].spi_in, other.children[0].spi_out) == (child.spi_out, child.spi_in)


def test_counters_are_those_of_both_halves():
    pair = make_pair()
    pair.send(0)
    pair.run(1.0)
    octets = UdpPath(UdpEndpoint(ADDRESSES[1], 500), UdpEndpoint(ADDRESSES[0], 500))
    pair.do(1, "receive_datagram", octets, b"nonsense")
    assert pair.b.counters["packets_in"] == 1
    assert pair.b.counters["ike.malformed"] == 1


def test_next_deadline_is_the_earlier_of_both_halves():
    pair = make_pair()
    assert pair.a.next_deadline() is None
    pair.send(0)
    assert pair.a.next_deadline() == Deadline(4.0, "retransmit")
    pair.run(1.0)
    deadline = pair.a.next_deadline()
    assert deadline is not None
    assert 3000.0 < deadline.at < 3300.0  # the CHILD_SA's soft lifetime


@pytest.mark.rfc("3948", "2.3", "SHOULD", "keepalive-ignored")
def test_keepalive_is_taken_notice_of_and_not_answered():
    pair = make_pair()
    path = UdpPath(UdpEndpoint(ADDRESSES[1], 4500), UdpEndpoint(ADDRESSES[0], 4500))
    (notice,) = pair.b.receive_datagram(path, b"\xff", 0.0)
    assert isinstance(notice, Notice)
    assert notice.event == "keepalive_received"


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x00\x00\x00", b"\x01\x02\x03", b"\xff\xff"])
@pytest.mark.parametrize("port", [500, 4500])
def test_short_datagrams_are_dropped_and_counted(port, data):
    pair = make_pair()
    path = UdpPath(UdpEndpoint(ADDRESSES[1], port), UdpEndpoint(ADDRESSES[0], port))
    outputs = pair.b.receive_datagram(path, data, 0.0)
    assert {type(output) for output in outputs} == {Notice}
    assert sum(pair.b.counters.values()) == 1


def test_protected_packet_that_arrives_in_clear_is_dropped():
    pair = make_pair()
    pair.connect()
    outputs = pair.b.receive_packet(pair.packet(0), pair.now)
    assert not [output for output in outputs if isinstance(output, DeliverPacket)]
    assert pair.b.counters["drops.not_encapsulated"] == 1


def test_same_seed_same_octets():
    def octets():
        pair = make_pair(seed=11)
        pair.connect()
        for side in (0, 1):
            pair.do(side, "rekey_child", CONNECTION)
            pair.do(side, "rekey_ike", CONNECTION)
        pair.run(60.0)
        return [(sent.at, sent.sender, sent.item) for sent in pair.sent]

    assert octets() == octets()


class TestIkeInIpFragments:
    """A driver cannot know IKE by its ports where fragments show none."""

    @staticmethod
    def in_pieces(sent, mtu=1280):
        """The IKE message as the IP fragments in which it would arrive."""
        ends = [ip_address(end.address).packed for end in sent.item.path]
        ports = [end.port for end in sent.item.path]
        segment = build_udp(ends[0], ports[0], ends[1], ports[1], sent.item.data)
        return fragments_of(build_ipv4(*ends, 17, segment, identification=7), mtu)

    def first_message(self):
        pair = make_pair()
        pair.fate = lambda sent: ()
        pair.do(0, "initiate", CONNECTION)
        return pair, pair.sent[0]

    @pytest.mark.parametrize("backwards", [False, True])
    def test_they_are_put_together_and_answered(self, backwards):
        pair, sent = self.first_message()
        *pieces, last = sorted(self.in_pieces(sent, 108), reverse=backwards)
        assert len(pieces) == 2
        for piece in pieces:
            assert pair.b.receive_packet(piece, 0.0) == []
        assert any(isinstance(o, SendDatagram) for o in pair.b.receive_packet(last, 0.0))
        assert pair.b.ike.table_sizes["half_open"] == 1

    def test_a_wrong_checksum_is_malformed(self):
        pair, sent = self.first_message()
        *pieces, last = self.in_pieces(sent, 108)
        for piece in pieces:
            pair.b.receive_packet(piece, 0.0)
        pair.b.receive_packet(last[:-1] + bytes([last[-1] ^ 1]), 0.0)
        assert pair.b.counters["drops.malformed"] == 1
        assert pair.b.ike.table_sizes["half_open"] == 0

    @pytest.mark.parametrize(("address", "port"), [(ADDRESSES[1], 501), ("198.51.100.9", 500)])
    def test_other_ports_and_addresses_are_the_spd_s_business(self, address, port):
        pair, sent = self.first_message()
        path = replace(sent.item, path=UdpPath(sent.item.path.local, UdpEndpoint(address, port)))
        for piece in self.in_pieces(replace(sent, item=path), 108):
            pair.b.receive_packet(piece, 0.0)
        assert pair.b.counters["drops.no_policy"] > 0
        assert pair.b.ike.table_sizes["half_open"] == 0

    def test_what_never_gets_whole_is_given_up(self):
        pair, sent = self.first_message()
        for piece in self.in_pieces(sent, 108)[1:]:
            pair.b.receive_packet(piece, 0.0)
        pair.b.handle_timeout(pair.b.next_deadline().at)
        assert pair.b.next_deadline() is None
        assert pair.b.counters["drops.reassembly_timeout"] > 1
