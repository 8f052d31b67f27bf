"""MOBIKE where there are NATs on the way, or may not be any (RFC 4555 sections 3.8 and 3.9)."""

import pytest
from forge import forge, ike_sa
from nat_box import NAT_ADDRESS, NatBox
from pair import CONNECTION, make_pair
from roaming import (
    CAFE,
    HOME,
    OFFICE,
    STATIONARY,
    connected,
    notifies,
    roaming,
)
from transcript import ike_messages

from ipseclab.ike.config import Retransmission
from ipseclab.ike.mobike.settings import Mobike
from ipseclab.outputs import SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import ExchangeType, NotifyType

INFORMATIONAL = ExchangeType.INFORMATIONAL


def natted(**options):
    """a behind a NAT, b takes it from anywhere; with MOBIKE, connected."""
    box = NatBox()
    pair = make_pair(
        both={"mobike": Mobike(), **options.pop("both", {})},
        b={"peer_address": None},
        translate=box,
        **options,
    )
    pair.connect()
    return pair, box


def test_a_nat_appears_on_the_new_path_and_esp_goes_into_udp():
    net = connected(a=STATIONARY)
    box = NatBox()
    plain = UdpPath(UdpEndpoint(HOME, 4500), UdpEndpoint(OFFICE, 4500))
    assert not ike_sa(net.pair, 0).encapsulated

    def translate(sender, path):
        if path.local.address == HOME or path.remote.address == HOME:
            return UdpPath(path.remote, path.local)
        if sender == 1:
            inner = box(sender, path)
            return None if inner is None else UdpPath(UdpEndpoint(CAFE, 4500), inner.remote)
        return box(sender, path)

    net.pair.translate = translate
    net.ends[0] = (CAFE, NAT_ADDRESS)
    net.pair.do(0, "change_addresses", (CAFE,))
    net.pair.run(1.0)
    assert ike_sa(net.pair, 0).own_behind_nat
    assert ike_sa(net.pair, 1).peer_behind_nat
    first = len(net.pair.sent)
    net.works()
    assert all(isinstance(sent.item, SendDatagram) for sent in net.pair.sent[first:])
    # And back to where there is none: ESP leaves UDP.
    net.change(0, HOME)
    net.pair.run(1.0)
    assert ike_sa(net.pair, 0).path == plain
    assert not ike_sa(net.pair, 0).encapsulated
    first = len(net.pair.sent)
    net.works()
    assert all(isinstance(sent.item, SendPacket) for sent in net.pair.sent[first:])


@pytest.mark.rfc("4555", "3.8", "MUST", "detection-answered")
@pytest.mark.rfc("4555", "3.8", "SHOULD", "detection-asked")
@pytest.mark.rfc("4555", "3.8", "SHOULD", "update-sent")
def test_a_nat_that_rebinds_is_found_by_the_liveness_check_and_the_peer_updated():
    pair, box = natted()
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(1.0)
    before = ike_sa(pair, 1).path.remote
    box.rebind("203.0.113.99")
    first = len(pair.sent)
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(1.0)
    asked, answered = (notifies(pair, sent) for sent in ike_messages(pair, first=first)[:2])
    for found in (asked, answered):
        assert NotifyType.NAT_DETECTION_SOURCE_IP in found
        assert NotifyType.NAT_DETECTION_DESTINATION_IP in found
    assert len(pair.events("nat_mapping_changed", 0)) == 2
    assert ike_sa(pair, 1).path.remote.address == "203.0.113.99" != before.address
    pair.agreed()


@pytest.mark.rfc("4555", "3.8", "MUST NOT", "dynamic")
def test_an_ike_message_from_elsewhere_moves_nobody():
    pair, box = natted()
    before = ike_sa(pair, 1).path
    box.rebind("203.0.113.99")
    message = forge(pair, 0, INFORMATIONAL)
    path = UdpPath(before.local, UdpEndpoint("203.0.113.99", 1234))
    pair.carry_out(1, pair.b.receive_datagram(path, bytes(4) + message, pair.now))
    assert ike_sa(pair, 1).path == before


def test_esp_from_another_port_of_the_nat_is_followed_and_from_another_address_not():
    pair, box = natted()
    box.rebind()
    pair.send(0)
    pair.run(0.1)
    followed = ike_sa(pair, 1).path.remote
    assert followed.port == box.ports[4500]
    box.rebind("203.0.113.99")
    pair.send(0)
    pair.run(0.1)
    assert ike_sa(pair, 1).path.remote == followed


FORBIDDEN = Mobike(nats=False, own=(CAFE,))


@pytest.mark.rfc("4555", "3.9", "MUST", "no-nats-sent")
def test_without_nat_traversal_addresses_are_protected():
    net = connected(a=FORBIDDEN, b=Mobike(nats=False))
    init, _answer, auth = ike_messages(net.pair)[:3]
    assert NotifyType.NAT_DETECTION_SOURCE_IP not in notifies(net.pair, init)
    first = len(net.pair.sent)
    net.change(0, CAFE)
    net.pair.run(1.0)
    update = ike_messages(net.pair, first=first)[0]
    for sent in (auth, update):
        data = notifies(net.pair, sent)[NotifyType.NO_NATS_ALLOWED]
        assert len(data) == 12
        assert data[-4:] == bytes.fromhex("01f401f4")
    net.works()


@pytest.mark.rfc("4555", "3.9", "MUST", "verified")
@pytest.mark.rfc("4555", "3.9", "SHOULD", "retried")
@pytest.mark.rfc("4555", "3.9", "MUST NOT", "contents-unused")
def test_a_nat_where_none_is_allowed_is_refused_and_the_update_tried_again():
    net = connected(a=FORBIDDEN, b=Mobike(nats=False))
    count = 0

    def translate(sender, path):
        nonlocal count
        count += sender == 0
        if sender == 0 and count <= 3:
            return UdpPath(path.remote, UdpEndpoint(NAT_ADDRESS, 500))
        seen = UdpPath(path.remote, path.local)
        if path.remote.address == NAT_ADDRESS:
            seen = UdpPath(UdpEndpoint(CAFE, 500), path.local)
        return seen

    net.pair.translate = translate
    net.ends[0] = (CAFE, NAT_ADDRESS)
    net.pair.do(0, "change_addresses", (CAFE,))
    net.pair.run(0.05)
    assert ike_sa(net.pair, 1).path.remote.address == HOME
    net.pair.run(5.0)
    assert net.pair.b.counters["ike.unexpected_nat_detected"] == 3
    assert ike_sa(net.pair, 1).path.remote.address == CAFE
    net.works()


@pytest.mark.rfc("4555", "3.9", "SHOULD", "established-again")
def test_a_nat_in_the_handshake_has_it_begin_anew_and_not_for_ever():
    net = roaming(a=Mobike(nats=False), b=Mobike(nats=False))
    net.ends[0] = (HOME, NAT_ADDRESS)
    net.pair.translate = NatBox()
    net.pair.connect()
    net.pair.run(60.0)
    begun = {s.header.spi_i for s in ike_messages(net.pair) if s.is_ike(ExchangeType.IKE_SA_INIT)}
    assert len(begun) == 1 + Retransmission().tries
    assert net.pair.a.ike.ike_sas == net.pair.b.ike.ike_sas == ()
