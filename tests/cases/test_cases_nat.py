"""Cases 29 to 31: NATs. More, and transport mode with its payloads, in tests/ike/test_nat_traversal
and, in whole labs of both worlds, tests/proof/test_nat_in_both_worlds."""

import pytest
from forge import ike_sa
from nat_box import NatBox
from pair import ADDRESSES, CONNECTION, Mode, make_pair
from sim_lab import SITES_NAT, events, run, topology

from ipseclab.lab.plan import Action, Ping, Transfer
from ipseclab.lab.topology import load_topology
from ipseclab.outputs import SendDatagram, UdpEndpoint, UdpPath
from ipseclab.wire.selector import TrafficSelector

INNER = "192.168.9.9"


def static(sender, path):
    """A NAT before the responder that maps ports to themselves."""
    if sender == 0:
        return UdpPath(UdpEndpoint(INNER, path.remote.port), path.local)
    return UdpPath(path.remote, UdpEndpoint(ADDRESSES[1], path.local.port))


def twice(first, second):
    """What the first NAT sends passes the second."""

    def translate(sender, path):
        order = (first, second) if sender == 0 else (second, first)
        step = order[0](sender, path)
        if step is None:
            return None
        return order[1](sender, UdpPath(step.remote, step.local))

    return translate


def natted(translate, **options):
    pair = make_pair(
        b={"peer_address": None, **options.pop("b", {})}, translate=translate, **options
    )
    pair.connect()
    return pair


def works(pair):
    for side in (0, 1):
        packet = pair.send(side)
        pair.run(0.5)
        assert pair.delivered[1 - side][-1:] == [packet]


@pytest.mark.parametrize("where", ["initiator", "responder", "both", "double"])
def test_case_29_nat_at_the_initiator_the_responder_both_and_two_in_a_row(where):
    box = NatBox()
    if where == "initiator":
        pair = natted(box)
    elif where == "responder":
        pair = make_pair(b={"own_address": INNER}, translate=static)
        pair.connect()
    elif where == "both":
        pair = natted(twice(box, static), b={"own_address": INNER})
    else:
        outer = NatBox(address="203.0.113.77", next_port=50_001)

        def translate(sender, path):
            if sender == 0:
                seen = box(0, path)
                return outer(0, UdpPath(seen.remote, seen.local))
            seen = outer(1, path)
            if seen is None:
                return None
            return box(1, UdpPath(seen.remote, UdpEndpoint(box.address, seen.local.port)))

        pair = natted(translate)
    assert ike_sa(pair, 0).own_behind_nat is (where != "responder")
    assert ike_sa(pair, 0).peer_behind_nat is (where in ("responder", "both"))
    assert ike_sa(pair, 0).encapsulated
    assert ike_sa(pair, 1).encapsulated
    works(pair)
    for side in (0, 1):
        for method in ("rekey_child", "rekey_ike"):
            pair.do(side, method, CONNECTION)
            pair.run(1.0)
    works(pair)
    pair.agreed()


def test_case_29_two_clients_behind_one_nat():
    records = run(
        load_topology("two-clients-one-nat"),
        Ping("first", "h1", "h3", start=1.0, count=3),
        Ping("second", "h2", "h3", start=1.0, count=3),
    )
    for flow, host in (("first", "h1"), ("second", "h2")):
        assert len(events(records, "ping_received", flow=flow, node=host)) == 3


def test_case_29_transport_mode_behind_a_nat():
    ends = [(TrafficSelector.of_address(address),) for address in ADDRESSES]
    pair = natted(
        NatBox(),
        both={"mode": Mode.TRANSPORT},
        a={"own_ts": ends[0], "peer_ts": ends[1]},
        b={"own_ts": ends[1], "peer_ts": ends[0]},
    )
    (child,) = pair.b.ike.child_sas
    # RFC 7296 section 2.23.1: the responder's selectors are about the address that it sees.
    assert [str(ts) for ts in child.peer_ts] == [f"{NatBox().address}/32"]


@pytest.mark.parametrize("by", ["idle", "esp", "ike"])
def test_case_30_mapping_changes_while_idle_or_in_use_and_data_follows(by):
    box = NatBox()
    pair = natted(box)
    old = ike_sa(pair, 1).path.remote
    box.rebind("203.0.113.10")
    if by == "esp":
        pair.send(0)
    elif by == "ike":
        pair.do(0, "check_liveness", CONNECTION)
    else:
        pair.run(25.0)  # a keepalive tells the NAT, but proves nothing
        assert pair.events("keepalive_received", 1)
        assert ike_sa(pair, 1).path.remote == old
        pair.send(0)
    pair.run(1.0)
    assert ike_sa(pair, 1).path.remote.address == "203.0.113.10"
    assert len(pair.events("peer_moved", 1)) == 1
    works(pair)
    assert len(pair.events("ike_established", 1)) == 1


def test_case_30_older_or_forged_packets_move_nobody():
    box = NatBox()
    pair = natted(box)
    pair.send(0, 1)
    pair.run(1.0)
    sent = pair.sent[-1].item
    assert isinstance(sent, SendDatagram)
    before = ike_sa(pair, 1).path
    elsewhere = UdpPath(before.local, UdpEndpoint("203.0.113.66", 4444))
    pair.do(1, "receive_datagram", elsewhere, sent.data)  # a copy
    pair.do(1, "receive_datagram", elsewhere, sent.data[:-1] + b"\0")
    pair.do(1, "receive_datagram", elsewhere, b"\xff")
    assert ike_sa(pair, 1).path == before
    works(pair)


def test_case_31_mapping_times_out_without_keepalives_and_is_held_by_them():
    for keepalive, expired in ((20.0, False), (None, True)):
        lab = topology(SITES_NAT, connections__site__keepalive=keepalive)
        records = run(lab, duration=110.0)
        lost = [
            r for r in events(records, "nat_expired") if str(r.fields["inside"])[-5:] == ":4500"
        ]
        assert bool(lost) is expired


def test_case_31_keepalive_itself_is_never_answered():
    pair = natted(NatBox())
    before = len(pair.sent)
    pair.do(0, "send_keepalive", CONNECTION)
    pair.run(1.0)
    assert pair.events("keepalive_received", 1)
    assert [sent.sender for sent in pair.sent[before:]] == [0]


def test_case_31_transfer_survives_a_rebinding_in_its_middle():
    transfer = Transfer("t", "h1", "h2", start=1.0, octets=2_000_000)
    moves = [Action(2.0, "nat_rebind", node="nat1")]
    lab = topology(SITES_NAT, links__wan__rate="10Mbit/s")
    records = run(lab, transfer, actions=moves, duration=20.0)
    assert events(records, "peer_moved", node="gw2")
    assert events(records, "transfer_done")[0].fields["octets"] == 2_000_000
