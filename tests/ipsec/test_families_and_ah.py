"""ESP and AH over IPv4, IPv6 and mixed, against Scapy: RFC 4302, RFC 4303, RFC 8200."""

import random
from ipaddress import ip_address

import pytest
from datapath_pair import ALL_SUITES, delivered, drops, mirrored, network, reasons, receive
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption_LSRR, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    HBHOptUnknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH, ESP, SecurityAssociation

from ipseclab.crypto.cipher import NULL_CIPHER
from ipseclab.crypto.integrity import AH_INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.encapsulation import encapsulate
from ipseclab.ipsec.sad import SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.outputs import UdpEndpoint, UdpPath
from ipseclab.registry import IntegId, IpProtocol

OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
INNER = {4: ("10.1.0.5", "10.2.0.7"), 6: ("2001:db8:1::5", "2001:db8:2::7")}
NETS = {4: ("10.1.0.0/24", "10.2.0.0/24"), 6: ("2001:db8:1::/64", "2001:db8:2::/64")}
HEADER = {4: IP, 6: IPv6}
SCAPY_AUTH = {
    IntegId.AUTH_HMAC_SHA1_96: "HMAC-SHA1-96",
    IntegId.AUTH_HMAC_SHA2_256_128: "SHA2-256-128",
    IntegId.AUTH_HMAC_SHA2_384_192: "SHA2-384-192",
    IntegId.AUTH_HMAC_SHA2_512_256: "SHA2-512-256",
    IntegId.AUTH_AES_CMAC_96: "AES-CMAC-96",
}
GCM = ALL_SUITES["aes128gcm16"]

families = pytest.mark.parametrize("inner", [4, 6])
outers = pytest.mark.parametrize("outer", [4, 6])
modes = pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])


def ah_suite(number=IntegId.AUTH_HMAC_SHA2_256_128):
    return Suite(NULL_CIPHER, AH_INTEGRITIES[number])


def pair(suite, *, inner, outer, tunnel=True, ah=False, udp=False, **changes):
    """A left and a right datapath, and left's SA."""
    ends = OUTER[outer]
    keys = random.Random(5)
    left_ts, right_ts = NETS[inner] if tunnel else OUTER[outer]
    path = UdpPath(UdpEndpoint(ends[0], 4500), UdpEndpoint(ends[1], 4500)) if udp else None
    sa = SaParameters(
        connection="net",
        policy="net",
        tunnel=tunnel,
        spi_in=b"\xc1\0\0\1",
        spi_out=b"\xc0\0\0\1",
        local=ip_address(ends[0]).packed,
        remote=ip_address(ends[1]).packed,
        own_ts=network(left_ts),
        peer_ts=network(right_ts),
        suite=suite,
        encr_key_in=keys.randbytes(suite.encr_key_size),
        integ_key_in=keys.randbytes(suite.integ_key_size),
        encr_key_out=keys.randbytes(suite.encr_key_size),
        integ_key_out=keys.randbytes(suite.integ_key_size),
        path=path,
        protocol=IpProtocol.AH if ah else IpProtocol.ESP,
        **changes,
    )
    sides = []
    for one in (sa, mirrored(sa)):
        policy = Policy("net", Action.PROTECT, one.own_ts, one.peer_ts, connection="net")
        side = Datapath(Spd((policy,)), rng=random.Random(1))
        side.add_sa(one, 0.0)
        sides.append(side)
    return (*sides, sa)


def packet_of(family, ends, data=b"data", **fields):
    fields = fields if family == 6 else {"flags": "DF", **fields}
    return bytes(HEADER[family](src=ends[0], dst=ends[1], **fields) / UDP(sport=1, dport=2) / data)


def scapy_sa(sa, *, outer):
    ah = sa.protocol == IpProtocol.AH
    cipher = {} if ah else {"crypt_algo": "AES-GCM", "crypt_key": sa.encr_key_out}
    auth = (
        {"auth_algo": SCAPY_AUTH[sa.suite.integrity.id], "auth_key": sa.integ_key_out} if ah else {}
    )
    header = HEADER[outer](src=OUTER[outer][0], dst=OUTER[outer][1]) if sa.tunnel else None
    spi = int.from_bytes(sa.spi_out, "big")
    return SecurityAssociation(
        AH if ah else ESP, spi=spi, tunnel_header=header, esn_en=sa.esn, **cipher, **auth
    )


@families
@outers
@pytest.mark.parametrize("ah", [False, True], ids=["ESP", "AH"])
def test_tunnel_of_each_family_in_each(inner, outer, ah):
    left, right, sa = pair(ah_suite() if ah else GCM, inner=inner, outer=outer, ah=ah)
    for size in (0, 1, 100, 1300):
        packet = packet_of(inner, INNER[inner], bytes(size))
        (output,) = left.send_packet(packet, 0.0)
        opened = scapy_sa(sa, outer=outer).decrypt(HEADER[outer](output.packet))
        assert bytes(opened) == packet
        assert delivered(receive(right, output)) == [packet]
    theirs = scapy_sa(sa, outer=outer)
    theirs.seq_num = 10
    wire = bytes(theirs.encrypt(HEADER[inner](packet)))
    assert delivered(right.receive_packet(wire, 0.0)) == [packet]
    assert drops(right) == {}


@outers
@pytest.mark.parametrize("ah", [False, True], ids=["ESP", "AH"])
def test_transport_of_each_family(outer, ah):
    suite = ah_suite() if ah else GCM
    left, right, sa = pair(suite, inner=outer, outer=outer, tunnel=False, ah=ah)
    packet = packet_of(outer, OUTER[outer])
    (output,) = left.send_packet(packet, 0.0)
    assert bytes(scapy_sa(sa, outer=outer).decrypt(HEADER[outer](output.packet))) == packet
    assert delivered(receive(right, output)) == [packet]


@families
def test_esp_in_udp_over_ipv6(inner):
    left, right, _ = pair(GCM, inner=inner, outer=6, udp=True)
    packet = packet_of(inner, INNER[inner])
    (output,) = left.send_packet(packet, 0.0)
    assert str(output.path) == "[2001:db8::1]:4500 - [2001:db8::2]:4500"
    assert delivered(receive(right, output)) == [packet]


def test_transport_in_udp_over_ipv6_makes_the_header_anew():
    left, right, _ = pair(GCM, inner=6, outer=6, tunnel=False, udp=True)
    packet = packet_of(6, OUTER[6])
    assert delivered(receive(right, left.send_packet(packet, 0.0)[0])) == [packet]


@pytest.mark.parametrize("number", AH_INTEGRITIES, ids=lambda number: number.name)
@outers
@modes
@pytest.mark.parametrize("esn", [False, True], ids=["32bit", "esn"])
def test_ah_with_every_integrity_algorithm(number, outer, tunnel, esn):
    left, right, sa = pair(
        ah_suite(number), inner=outer, outer=outer, tunnel=tunnel, ah=True, esn=esn
    )
    packet = packet_of(outer, INNER[outer] if tunnel else OUTER[outer])
    (output,) = left.send_packet(packet, 0.0)
    # Scapy pads neither a 16, 24 nor 32 octet ICV to the 8 octets that IPv6 wants.
    known = {4: SCAPY_AUTH, 6: [IntegId.AUTH_HMAC_SHA1_96, IntegId.AUTH_AES_CMAC_96]}
    if number in known[outer]:
        opened = scapy_sa(sa, outer=outer).decrypt(HEADER[outer](output.packet))
        assert bytes(opened) == packet
    assert delivered(receive(right, output)) == [packet]
    assert reasons(receive(right, output)) == ["replayed"]


IPV4_MUTABLE = {1: 0xFF, 6: 0x40, 8: 0xFF, 10: 0xFF, 11: 0xFF}


@modes
def test_ah_covers_all_but_the_mutable_fields(tunnel):
    left, right, _ = pair(ah_suite(), inner=4, outer=4, tunnel=tunnel, ah=True)
    (output,) = left.send_packet(packet_of(4, INNER[4] if tunnel else OUTER[4]), 0.0)
    for index in range(1, len(output.packet)):
        if index in (2, 3, 9, 21) or 24 <= index < 28:
            continue  # lengths, protocol and SPI: told by other reasons
        changed = bytearray(output.packet)
        changed[index] ^= IPV4_MUTABLE.get(index, 0x10)
        if index == 6:
            changed[6] &= 0x40
        verdict = right.receive_packet(bytes(changed), 0.0)
        if index == 7:
            assert verdict == []  # now a fragment, which waits for others
        elif index in IPV4_MUTABLE:
            assert reasons(verdict) in ([], ["congested"])
            left.sad.inbound(b"\xc1\0\0\1").outbound.sequence += 1
            right.sad.inbound(b"\xc0\0\0\1").inbound.replay.__init__(64)
        else:
            assert reasons(verdict) in (["bad_icv"], ["malformed"]), index


def test_ah_through_a_nat_is_a_bad_icv():
    left, right, _ = pair(ah_suite(), inner=4, outer=4, ah=True)
    (output,) = left.send_packet(packet_of(4, INNER[4]), 0.0)
    translated = IP(output.packet)
    translated.src = "203.0.113.9"
    del translated.chksum
    assert reasons(right.receive_packet(bytes(translated), 0.0)) == ["bad_icv"]
    assert drops(right) == {"bad_icv": 1}


OPTIONS = {
    "router alert": [IPOption_Router_Alert(), IPOption_NOP()],
    "source route": [IPOption_LSRR(routers=["198.51.100.1", "192.0.2.2"], pointer=4)],
}


@pytest.mark.parametrize("name", OPTIONS)
def test_ah_with_ipv4_options(name):
    left, right, sa = pair(ah_suite(), inner=4, outer=4, tunnel=False, ah=True)
    packet = packet_of(4, OUTER[4], options=OPTIONS[name])
    (output,) = left.send_packet(packet, 0.0)
    if name == "router alert":
        assert bytes(scapy_sa(sa, outer=4).decrypt(IP(output.packet))) == packet
        assert delivered(receive(right, output)) == [packet]
        return
    # At the end of the route: the pointer moved on, other addresses recorded.
    arrived = bytearray(output.packet)
    arrived[22] = 12
    arrived[23:27] = ip_address("198.51.100.77").packed
    assert len(delivered(right.receive_packet(bytes(arrived), 0.0))) == 1


def test_ah_and_esp_with_ipv6_extension_headers():
    options = [HBHOptUnknown(otype=0x3E, optdata=b"route"), PadN(optdata=bytes(3))]
    head = IPv6(src=OUTER[6][0], dst=OUTER[6][1]) / IPv6ExtHdrHopByHop(options=options)
    packet = bytes(head / IPv6ExtHdrDestOpt(options=options) / UDP(sport=1, dport=2) / b"data")
    left, right, _ = pair(ah_suite(), inner=6, outer=6, tunnel=False, ah=True)
    (output,) = left.send_packet(packet, 0.0)
    assert output.packet[40] == IpProtocol.AH
    changed = bytearray(output.packet)
    changed[44:49] = b"other"  # an option that may change en route does
    (arrived,) = delivered(right.receive_packet(bytes(changed), 0.0))
    assert arrived[49:] == packet[49:]
    left, right, _ = pair(GCM, inner=6, outer=6, tunnel=False)
    assert delivered(receive(right, left.send_packet(packet, 0.0)[0])) == [packet]


def test_ah_takes_a_routing_header_as_it_arrives():
    via = "2001:db8::9"
    routing = IPv6ExtHdrRouting(addresses=[OUTER[6][1]], segleft=1)
    packet = bytes(IPv6(src=OUTER[6][0], dst=via) / routing / UDP(sport=1, dport=2) / b"data")
    left, right, sa = pair(ah_suite(), inner=6, outer=6, tunnel=False, ah=True)
    entry = left.sad.inbound(sa.spi_in)
    sent = encapsulate(entry, packet, random.Random(1)).packet
    arrived = bytearray(sent)
    arrived[24:40], arrived[48:64] = sent[48:64], sent[24:40]
    arrived[43] = 0
    assert len(delivered(right.receive_packet(bytes(arrived), 0.0))) == 1


@pytest.mark.rfc("7296", "2.24", "MUST", "ecn")
@families
@outers
@pytest.mark.parametrize(("tos", "mark"), [(0xB8 | 2, 3), (0x28 | 1, 3), (0, 3), (2, 1)])
def test_congestion_is_carried_over_between_families(inner, outer, tos, mark):
    left, right, _ = pair(GCM, inner=inner, outer=outer)
    packet = packet_of(inner, INNER[inner], **({"tc": tos} if inner == 6 else {"tos": tos}))
    (output,) = left.send_packet(packet, 0.0)
    wire = HEADER[outer](output.packet)
    field = "tc" if outer == 6 else "tos"
    assert getattr(wire, field) == tos
    setattr(wire, field, tos & ~3 | mark)
    if outer == 4:
        # Of IPv6 no router cuts what every path carries, so nobody has to hear of it.
        assert wire.flags == ("DF" if inner == 4 else 0)
        del wire.chksum
    outputs = right.receive_packet(bytes(wire), 0.0)
    if not tos & 3:
        assert reasons(outputs) == ["congested"]
        return
    (arrived,) = delivered(outputs)
    assert getattr(HEADER[inner](arrived), "tc" if inner == 6 else "tos") == tos & ~3 | mark


@given(octets=st.binary(max_size=200), where=st.integers(0, 100))
@settings(max_examples=300, deadline=None)
def test_ipv6_and_ah_of_any_octets_never_raise(octets, where):
    for ah, inner in ((True, 6), (False, 6), (True, 4)):
        left, right, _ = pair(ah_suite() if ah else GCM, inner=inner, outer=inner, ah=ah)
        (output,) = left.send_packet(packet_of(inner, INNER[inner]), 0.0)
        cut = output.packet[:where]
        for packet in (b"\x60" + octets, cut, cut + octets):
            for outputs in (left.send_packet(packet, 0.0), right.receive_packet(packet, 0.0)):
                assert all(reasons([item]) for item in outputs if hasattr(item, "event"))
