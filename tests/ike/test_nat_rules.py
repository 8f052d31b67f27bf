"""NAT detection hash by hash, and transport mode behind a NAT: RFC 7296 section 2.23."""

import hashlib
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

import pytest
from forge import path_to, receive
from nat_box import NAT_ADDRESS, NatBox
from pair import ADDRESSES, CONNECTION, Mode, make_pair
from transcript import ike_octets, opened

from ipseclab.gateway import Gateway
from ipseclab.ike.natt import find_nat
from ipseclab.outputs import UdpEndpoint
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NotifyPayload, TsiPayload, TsrPayload
from ipseclab.wire.selector import TrafficSelector

SOURCE = NotifyType.NAT_DETECTION_SOURCE_IP
DESTINATION = NotifyType.NAT_DETECTION_DESTINATION_IP


def hash_of(message, address, port=500):
    """As section 2.23 has it."""
    octets = message.spi_i + message.spi_r + IPv4Address(address).packed + port.to_bytes(2, "big")
    return hashlib.sha1(octets).digest()


@pytest.mark.rfc("7296", "2.23", "MUST", "nat-detection")
def test_both_ends_send_the_hashes_of_both_addresses():
    pair = make_pair()
    pair.connect()
    for side in (0, 1):
        message = decode_message(ike_octets(pair.sent[side]))
        assert message.notify(SOURCE).data == hash_of(message, ADDRESSES[side])
        assert message.notify(DESTINATION).data == hash_of(message, ADDRESSES[1 - side])


def first_request():
    pair = make_pair()
    pair.fate = lambda sent: ()
    pair.do(0, "initiate", CONNECTION)
    return pair, decode_message(ike_octets(pair.sent[0]))


def told(message, kind, *hashes):
    """The message with those hashes in place of its own."""
    others = [p for p in message.payloads if getattr(p, "notify_type", None) != kind]
    return replace(message, payloads=(*others, *(NotifyPayload(kind, one) for one in hashes)))


@pytest.mark.rfc("7296", "2.23", "MAY", "several-sources")
def test_one_of_several_source_hashes_is_enough():
    for hashes, behind in (((b"x" * 20, b"y" * 20), True), ((b"x" * 20, None), False)):
        pair, message = first_request()
        true = hash_of(message, ADDRESSES[0])
        odd = told(message, SOURCE, *(one if one is not None else true for one in hashes))
        receive(pair, 1, odd.encode())
        (sa,) = pair.b.ike.ike_sas
        assert sa.peer_behind_nat is behind


@pytest.mark.rfc("7296", "2.23", "SHOULD", "enable")
@pytest.mark.parametrize(("kind", "found"), [(SOURCE, (False, True)), (DESTINATION, (True, False))])
def test_a_hash_that_does_not_fit_is_a_nat(kind, found):
    pair, message = first_request()
    notifies = message.all(NotifyPayload)
    path = path_to(1)
    assert find_nat(notifies, message.spi_i, message.spi_r, path) == (False, False)
    receive(pair, 1, told(message, kind, b"z" * 20).encode())
    (sa,) = pair.b.ike.ike_sas
    assert (sa.own_behind_nat, sa.peer_behind_nat) == found
    assert sa.encapsulated


class LowSpis(Random):
    """Draws SPIs that are reserved, and in the end one that is not."""

    def randbytes(self, n):
        octets = super().randbytes(n)
        return bytes(3) + octets[3:] if n == 4 and self.random() < 0.9 else octets


@pytest.mark.rfc("3948", "2.1", "MUST NOT", "spi-zero")
def test_no_spi_of_ours_can_be_taken_for_the_marker():
    pair = make_pair()
    pair.gateways[0] = Gateway(pair.configs[0], rng=LowSpis(5))
    pair.connect()
    for _ in range(20):
        pair.do(0, "create_child", CONNECTION)
        pair.run(0.1)
    spis = {int.from_bytes(child.spi_in, "big") for child in pair.a.ike.child_sas}
    assert len(spis) > 10
    assert min(spis) >= 256


@pytest.mark.rfc("7296", "2.23.1", "SHOULD", "specific-first")
def test_a_packet_is_named_first_in_transport_mode_too():
    hosts = [(TrafficSelector.of_network(f"{address}/32"),) for address in ADDRESSES]
    anyone = (TrafficSelector.of_network("0.0.0.0/0"),)
    pair = make_pair(
        a={"mode": Mode.TRANSPORT, "own_ts": hosts[0], "peer_ts": hosts[1]},
        b={"mode": Mode.TRANSPORT, "own_ts": hosts[1], "peer_ts": anyone, "peer_address": None},
        translate=NatBox(),
    )
    ends = [IPv4Address(address).packed for address in ADDRESSES]
    packet = build_ipv4(*ends, 17, build_udp(ends[0], 4000, ends[1], 4001, b"first"))
    pair.do(0, "send_packet", packet)
    pair.run(1.0)
    request = next(s for s in pair.sent if s.is_ike(ExchangeType.IKE_AUTH, response=False))
    asked = [
        p.selectors for p in opened(pair, request)[1] if isinstance(p, TsiPayload | TsrPayload)
    ]
    assert [(ts[0].protocol, ts[0].ports) for ts in asked] == [
        (17, (4000, 4000)),
        (17, (4001, 4001)),
    ]
    for selectors, address in zip(asked, ADDRESSES, strict=True):
        assert {(ts.start, ts.end) for ts in selectors} == {(IPv4Address(address).packed,) * 2}
    assert UdpEndpoint(NAT_ADDRESS, 40_002) in [pair.b.ike.ike_sas[0].path.remote]
    assert len(pair.delivered[1]) == 1
