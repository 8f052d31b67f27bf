from ipaddress import IPv4Address

import pytest
from nat_packets import (
    IN1,
    IN2,
    OUT,
    OUT2,
    R1,
    R2,
    comes_in,
    echo,
    ends,
    nat,
    packed,
    sent_as,
    tcp,
    udp,
)
from scapy.layers.inet import ICMP, IP, TCP, UDP

from ipseclab.lab.nat import NatBehaviour, NatDrop, NatSide
from ipseclab.wire.ip import build_ipv4

EIM, ADM, APDM = NatBehaviour
A, B, C = f"{R1}:500", f"{R1}:4500", f"{R2}:500"


# Mapping (RFC 4787 section 4.1).


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        (EIM, {A: True, B: True, C: True}),
        (ADM, {A: True, B: True, C: False}),
        (APDM, {A: True, B: False, C: False}),
    ],
)
def test_what_a_mapping_depends_on(kind, same):
    box = nat(mapping=kind)
    first = sent_as(box, f"{IN1}:4500", A)
    for remote, expected in same.items():
        assert (sent_as(box, f"{IN1}:4500", remote) == first) is expected, remote


def test_two_inside_ends_never_share_an_outside_end():
    box = nat()
    assert sent_as(box, f"{IN1}:4500", B) == f"{OUT}:4500"
    other = sent_as(box, f"{IN2}:4500", B)
    assert other.startswith(f"{OUT}:")
    assert other != f"{OUT}:4500"


def test_ports_are_preserved_when_told_so():
    assert sent_as(nat(), f"{IN1}:500", A) == f"{OUT}:500"
    for seed in range(5):
        box = nat(seed, port_preservation=False, first_port=2000, last_port=2009)
        _address, port = sent_as(box, f"{IN1}:500", A).split(":")
        assert 2000 <= int(port) <= 2009


def test_when_the_ports_are_used_up():
    box = nat(port_preservation=False, first_port=2000, last_port=2002)
    ports = {sent_as(box, f"{IN1}:{port}", A) for port in range(100, 103)}
    assert len(ports) == 3
    result = box.outbound(udp(f"{IN1}:103", A), 0.0)
    assert result.dropped is NatDrop.NO_PORT
    # A mapping that is there already is not in need of a port.
    sent_as(box, f"{IN1}:100", A)


def test_the_table_is_bounded():
    box = nat(mappings=2)
    sent_as(box, f"{IN1}:1", A)
    sent_as(box, f"{IN1}:2", A)
    assert box.outbound(udp(f"{IN1}:3", A), 0.0).dropped is NatDrop.TABLE_FULL
    assert len(box) == 2
    sent_as(box, f"{IN1}:3", A, now=1000.0)


# Filtering (RFC 4787 section 5).


@pytest.mark.parametrize("mapping", NatBehaviour)
@pytest.mark.parametrize(
    ("filtering", "passed"),
    [(EIM, {A, B, C}), (ADM, {A, B}), (APDM, {A})],
)
def test_who_may_send_in(mapping, filtering, passed):
    box = nat(mapping=mapping, filtering=filtering)
    outside = sent_as(box, f"{IN1}:500", A)
    for remote in (A, B, C):
        expected = f"{IN1}:500" if remote in passed else "filtered"
        assert comes_in(box, remote, outside) == expected


def test_without_a_mapping_nothing_comes_in():
    box = nat(filtering=EIM)
    assert comes_in(box, A, f"{OUT}:500") == "no_mapping"
    sent_as(box, f"{IN1}:500", A)
    assert comes_in(box, A, f"{OUT}:501") == "no_mapping"
    assert comes_in(box, A, f"{OUT2}:500") == "no_mapping"
    # The same port of another protocol is another end.
    assert comes_in(box, A, f"{OUT}:500", make=tcp) == "no_mapping"


# Time.


def test_a_mapping_ends_when_nothing_was_sent_for_the_timeout():
    box = nat(udp_timeout=30.0)
    outside = sent_as(box, f"{IN1}:500", A)
    assert comes_in(box, A, outside, now=29.9) == f"{IN1}:500"
    assert box.next_deadline() == 30.0
    result = box.inbound(udp(A, outside), 30.0)
    assert [notice.event for notice in result.notices] == ["nat_expired", "nat_dropped"]
    assert result.dropped is NatDrop.NO_MAPPING
    assert len(box) == 0


def test_outbound_packets_refresh():
    box = nat(udp_timeout=30.0)
    outside = sent_as(box, f"{IN1}:500", A)
    sent_as(box, f"{IN1}:500", A, now=20.0)
    assert comes_in(box, A, outside, now=45.0) == f"{IN1}:500"
    assert [notice.event for notice in box.expire(49.9)] == []
    assert [notice.event for notice in box.expire(50.0)] == ["nat_expired"]


@pytest.mark.parametrize(
    ("inbound_refresh", "found"), [(False, "no_mapping"), (True, f"{IN1}:500")]
)
def test_inbound_packets_refresh_when_told_so(inbound_refresh, found):
    box = nat(udp_timeout=30.0, inbound_refresh=inbound_refresh)
    outside = sent_as(box, f"{IN1}:500", A)
    assert comes_in(box, A, outside, now=20.0) == f"{IN1}:500"
    assert comes_in(box, A, outside, now=40.0) == found


def test_a_filter_forgets_a_remote_end_before_the_mapping_ends():
    box = nat(udp_timeout=30.0)
    outside = sent_as(box, f"{IN1}:500", A)
    sent_as(box, f"{IN1}:500", C, now=20.0)
    assert comes_in(box, A, outside, now=35.0) == "filtered"
    assert comes_in(box, C, outside, now=35.0) == f"{IN1}:500"


TCP_TIMES = {"tcp_timeout": 1000.0, "tcp_transitory_timeout": 10.0}


def test_a_tcp_connection_lives_long_once_it_is_established():
    box = nat(**TCP_TIMES)
    outside = sent_as(box, f"{IN1}:5000", A, make=tcp)
    box.inbound(tcp(A, outside, "SA"), 1.0)
    box.outbound(tcp(f"{IN1}:5000", A, "A"), 2.0)
    assert box.expire(900.0) == []
    assert comes_in(box, A, outside, now=900.0, make=lambda s, d: tcp(s, d, "A")) == f"{IN1}:5000"


def test_a_tcp_connection_that_is_not_answered_ends_soon():
    box = nat(**TCP_TIMES)
    sent_as(box, f"{IN1}:5000", A, make=tcp)
    assert [notice.event for notice in box.expire(10.0)] == ["nat_expired"]


@pytest.mark.parametrize("closing", [["R"], ["FA", "FA"]])
def test_a_closed_tcp_connection_ends_soon(closing):
    box = nat(**TCP_TIMES)
    outside = sent_as(box, f"{IN1}:5000", A, make=tcp)
    box.inbound(tcp(A, outside, "SA"), 1.0)
    box.outbound(tcp(f"{IN1}:5000", A, closing[0]), 2.0)
    if len(closing) > 1:
        assert box.expire(500.0) == []
        box.inbound(tcp(A, outside, closing[1]), 500.0)
        assert box.expire(509.0) == []
        assert len(box.expire(510.0)) == 1
    else:
        assert len(box.expire(12.0)) == 1


def test_one_closed_connection_does_not_take_another_with_it():
    box = nat(**TCP_TIMES)
    outside = sent_as(box, f"{IN1}:5000", A, make=tcp)
    box.inbound(tcp(A, outside, "SA"), 0.0)
    assert sent_as(box, f"{IN1}:5000", C, make=tcp) == outside
    box.inbound(tcp(C, outside, "SA"), 0.0)
    box.outbound(tcp(f"{IN1}:5000", C, "R"), 1.0)
    assert box.expire(500.0) == []
    assert comes_in(box, A, outside, now=500.0, make=tcp) == f"{IN1}:5000"


# Rebinding.


@pytest.mark.parametrize("port_preservation", [True, False])
def test_a_rebinding_gives_other_ports(port_preservation):
    box = nat(port_preservation=port_preservation)
    before = sent_as(box, f"{IN1}:4500", B)
    (notice,) = box.rebind(1.0)
    assert (notice.event, notice.details["outside"]) == ("nat_rebound", before)
    assert comes_in(box, B, before, now=1.0) == "no_mapping"
    after = sent_as(box, f"{IN1}:4500", B, now=1.0)
    assert after != before
    assert after.startswith(OUT)
    assert comes_in(box, B, after, now=1.0) == f"{IN1}:4500"


def test_a_rebinding_can_change_the_address():
    box = nat()
    before = sent_as(box, f"{IN1}:4500", B)
    box.rebind(1.0, IPv4Address(OUT2))
    assert box.outside_address == IPv4Address(OUT2)
    assert sent_as(box, f"{IN1}:4500", B, now=1.0) == f"{OUT2}:4500"
    assert comes_in(box, B, before, now=1.0) == "no_mapping"


def test_a_rebinding_to_an_address_not_its_own_is_refused():
    with pytest.raises(ValueError, match=r"198\.51\.100\.2 is not an outside address"):
        nat().rebind(0.0, IPv4Address(R1))


# Hairpinning (RFC 4787 section 6).


def test_hairpinning_brings_the_outside_source():
    box = nat(filtering=EIM)
    second = sent_as(box, f"{IN2}:4500", B)
    result = box.outbound(udp(f"{IN1}:700", second), 0.0)
    assert result.to is NatSide.INSIDE
    assert ends(result.packet) == (f"{OUT}:700", f"{IN2}:4500")


def test_hairpinning_is_filtered_too():
    box = nat(filtering=APDM)
    second = sent_as(box, f"{IN2}:4500", B)
    assert box.outbound(udp(f"{IN1}:700", second), 0.0).dropped is NatDrop.FILTERED
    # Once the second has sent to the first's outside end, the way is open.
    sent_as(box, f"{IN2}:4500", f"{OUT}:700")
    assert box.outbound(udp(f"{IN1}:700", second), 0.0).to is NatSide.INSIDE


def test_hairpinning_can_be_off():
    box = nat(filtering=EIM, hairpinning=False)
    second = sent_as(box, f"{IN2}:4500", B)
    assert box.outbound(udp(f"{IN1}:700", second), 0.0).dropped is NatDrop.NO_HAIRPIN


def test_hairpinning_to_nobody():
    assert nat().outbound(udp(f"{IN1}:700", f"{OUT}:9"), 0.0).dropped is NatDrop.NO_MAPPING


# What is changed in a packet.


def test_only_what_has_to_is_changed():
    box = nat(port_preservation=False)
    before = IP(udp(f"{IN1}:4500", B, b"payload", tos=0x2E, identification=9, ttl=33))
    after = IP(box.outbound(bytes(before), 0.0).packet)
    assert (after.tos, after.id, after.ttl, after.dst) == (0x2E, 9, 32, R1)
    assert (after.dport, bytes(after[UDP].payload)) == (4500, b"payload")


def test_a_zero_udp_checksum_stays_zero():
    packet = IP(udp(f"{IN1}:4500", B))
    packet[UDP].chksum = 0
    result = nat(port_preservation=False).outbound(bytes(packet), 0.0)
    assert IP(result.packet)[UDP].chksum == 0


def test_a_udp_checksum_that_becomes_zero_is_sent_as_ones():
    """RFC 768. The data is chosen so that the translated segment sums up to zero."""
    box = nat()
    assert sent_as(box, f"{IN1}:4500", B) == f"{OUT}:4500"
    translated = IP(udp(f"{OUT}:4500", B, b"\0\0"))
    filling = translated[UDP].chksum.to_bytes(2, "big")
    packet = udp(f"{IN1}:4500", B, filling)
    result = IP(box.outbound(packet, 0.0).packet)
    assert result[UDP].chksum == 0xFFFF
    ends(bytes(result))


def test_a_damaged_payload_stays_damaged():
    packet = bytearray(udp(f"{IN1}:4500", B))
    packet[-1] ^= 1
    result = nat(port_preservation=False).outbound(bytes(packet), 0.0)
    with pytest.raises(AssertionError, match="checksum"):
        ends(result.packet)


def test_tcp_checksums():
    box = nat(port_preservation=False)
    packet = box.outbound(tcp(f"{IN1}:5000", A, "S", b"data"), 0.0).packet
    assert IP(packet)[TCP].sport != 5000
    assert ends(packet)[1] == A
    assert comes_in(box, A, ends(packet)[0], make=tcp) == f"{IN1}:5000"


def test_icmp_echo_is_translated_by_its_identifier():
    box = nat(port_preservation=False)
    request = IP(box.outbound(echo(IN1, R1), 0.0).packet)
    assert (request.src, request[ICMP].type) == (OUT, 8)
    assert request[ICMP].id != 77
    reply = box.inbound(echo(R1, OUT, 0, request[ICMP].id), 0.0)
    assert ends(reply.packet) == (f"{R1}:77", f"{IN1}:77")
    assert box.inbound(echo(R2, OUT, 0, request[ICMP].id), 0.0).dropped is NatDrop.FILTERED


def test_an_echo_request_from_outside_is_for_nobody():
    box = nat(filtering=EIM)
    sent_as(box, IN1, R1, make=echo)
    assert box.inbound(echo(R1, OUT), 0.0).dropped is NatDrop.NO_MAPPING


@pytest.mark.parametrize("whole", [True, False])
def test_an_icmp_error_about_a_packet_that_went_out(whole):
    box = nat(port_preservation=False)
    went = box.outbound(udp(f"{IN1}:4500", B, b"x" * 50), 0.0).packet
    quoted = went if whole else went[:28]
    error = bytes(IP(src="203.0.113.9", dst=OUT) / ICMP(type=3, code=4, nexthopmtu=1400) / quoted)
    result = box.inbound(error, 0.0)
    seen = IP(result.packet)
    assert (result.to, seen.src, seen.dst) == (NatSide.INSIDE, "203.0.113.9", IN1)
    assert (seen[ICMP].type, seen[ICMP].code, seen[ICMP].nexthopmtu) == (3, 4, 1400)
    inside = IP(bytes(seen[ICMP].payload))
    assert (inside.src, inside.sport, inside.dst, inside.dport) == (IN1, 4500, R1, 4500)
    again = IP(result.packet)
    del again.chksum, again[ICMP].chksum
    assert bytes(again) == result.packet
    if whole:
        # The inner packet is that which went in, but for the TTL that the NAT took.
        original = IP(udp(f"{IN1}:4500", B, b"x" * 50))
        original.ttl -= 1
        del original.chksum
        assert bytes(inside) == bytes(original)


def test_an_icmp_error_about_a_packet_that_came_in():
    box = nat(port_preservation=False)
    outside = sent_as(box, f"{IN1}:4500", B)
    came = box.inbound(udp(B, outside, b"y" * 20), 0.0).packet
    error = bytes(IP(src=IN1, dst=R1) / ICMP(type=3, code=3) / came)
    result = box.outbound(error, 0.0)
    seen = IP(result.packet)
    inside = IP(bytes(seen[ICMP].payload))
    assert (seen.src, seen.dst) == (OUT, R1)
    assert f"{inside.dst}:{inside.dport}" == outside


def test_icmp_errors_about_nothing_known_are_dropped():
    box = nat()
    about = udp(f"{OUT}:4500", B)
    error = bytes(IP(src=R1, dst=OUT) / ICMP(type=3, code=3) / about)
    assert box.inbound(error, 0.0).dropped is NatDrop.NO_MAPPING
    out = bytes(IP(src=IN1, dst=R1) / ICMP(type=3, code=3) / udp(B, f"{IN1}:4500"))
    assert box.outbound(out, 0.0).dropped is NatDrop.NO_MAPPING


def test_fragments_follow_their_first():
    box = nat(port_preservation=False)
    segment = udp(f"{IN1}:4500", B, bytes(range(200)))[20:]
    pieces = [
        build_ipv4(packed(IN1), packed(R1), 17, part, identification=3, flags_fragment=bits)
        for part, bits in ((segment[:104], 0x2000), (segment[104:], 13))
    ]
    assert box.outbound(pieces[1], 0.0).dropped is NatDrop.LOST_FRAGMENT
    out = [box.outbound(piece, 0.0).packet for piece in pieces]
    assert [IP(piece).src for piece in out] == [OUT, OUT]
    whole = build_ipv4(packed(OUT), packed(R1), 17, out[0][20:] + out[1][20:])
    assert ends(whole)[1] == B
    assert box.outbound(pieces[1], 20.0).dropped is NatDrop.LOST_FRAGMENT


# What is not passed.


def test_a_packet_at_the_end_of_its_ttl():
    result = nat().outbound(udp(f"{IN1}:1", A, ttl=1), 0.0)
    assert result.dropped is NatDrop.TTL_EXPIRED
    assert result.notices[-1].details == {
        "reason": "ttl_expired",
        "source": f"{IN1}:1",
        "destination": A,
        "protocol": "udp",
    }


def test_esp_has_no_ports_to_translate():
    packet = build_ipv4(packed(IN1), packed(R1), 50, bytes(40))
    assert nat().outbound(packet, 0.0).dropped is NatDrop.PROTOCOL


def test_esp_passthrough_knows_one_inside_host_a_remote_one():
    box = nat(esp_passthrough=True, udp_timeout=30.0)
    for inside in (IN1, IN2):
        out = box.outbound(build_ipv4(packed(inside), packed(R1), 50, bytes(40)), 0.0).packet
        assert IP(out).src == OUT
    answer = build_ipv4(packed(R1), packed(OUT), 50, bytes(40))
    assert IP(box.inbound(answer, 1.0).packet).dst == IN2
    assert box.inbound(answer, 31.0).dropped is NatDrop.NO_MAPPING
    other = build_ipv4(packed(R2), packed(OUT), 50, bytes(40))
    assert box.inbound(other, 1.0).dropped is NatDrop.NO_MAPPING


def test_ah_passes_by_a_setting_of_its_own():
    there = build_ipv4(packed(IN1), packed(R1), 51, bytes(40))
    back = build_ipv4(packed(R1), packed(OUT), 51, bytes(40))
    assert nat(esp_passthrough=True).outbound(there, 0.0).dropped is NatDrop.PROTOCOL
    box = nat(esp_passthrough=True, ah_passthrough=True)
    assert IP(box.outbound(there, 0.0).packet).src == OUT
    assert IP(box.inbound(back, 1.0).packet).dst == IN1
    # ESP from the same remote end is another matter.
    esp = build_ipv4(packed(R1), packed(OUT), 50, bytes(40))
    assert box.inbound(esp, 1.0).dropped is NatDrop.NO_MAPPING


GOOD = udp(f"{IN1}:1", A)
MALFORMED = {
    "nothing": b"",
    "cut header": GOOD[:19],
    "cut packet": GOOD[:-1],
    "IPv6": b"\x60" + GOOD[1:],
    "bad header checksum": GOOD[:10] + b"\0\0" + GOOD[12:],
    "no room for UDP": build_ipv4(packed(IN1), packed(R1), 17, bytes(7)),
    "no room for TCP": build_ipv4(packed(IN1), packed(R1), 6, bytes(19)),
    "no room for ICMP": build_ipv4(packed(IN1), packed(R1), 1, b"\x08"),
    "error about nothing": build_ipv4(packed(IN1), packed(R1), 1, b"\x03" + bytes(10)),
}


@pytest.mark.parametrize("octets", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_packets_are_dropped(octets):
    box = nat()
    for way in (box.outbound, box.inbound):
        result = way(octets, 0.0)
        assert result.dropped is not None
        assert result.packet is None
    assert len(box) == 0
    assert box.outbound(octets, 0.0).dropped is NatDrop.MALFORMED


def test_link_layer_padding_is_cut_off():
    packet = nat().outbound(GOOD + bytes(13), 0.0).packet
    assert len(packet) == len(GOOD)
    ends(packet)


def test_a_new_mapping_is_told_once():
    box = nat()
    result = box.outbound(GOOD, 0.0)
    (notice,) = result.notices
    assert notice.event == "nat_mapped"
    assert notice.details == {
        "protocol": "udp",
        "inside": f"{IN1}:1",
        "outside": f"{OUT}:1",
        "remote": A,
    }
    assert box.outbound(GOOD, 0.0).notices == ()
