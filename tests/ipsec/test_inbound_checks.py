"""RFC 4301 section 5.2 and RFC 4303 section 3.4: what is not delivered, and why."""

import random
from dataclasses import replace

import pytest
from datapath_pair import (
    LEFT,
    LEFT_HOST,
    PATH,
    RIGHT,
    RIGHT_HOST,
    SUITES,
    Pair,
    datapath,
    delivered,
    drops,
    network,
    packed,
    protect,
    reasons,
    receive,
    reverse,
    sa_pair,
    udp_packet,
)

from ipseclab.ipsec.esp import PADDING, seal_esp
from ipseclab.ipsec.spd import Action, Policy
from ipseclab.outputs import DeliverPacket, Notice, SendPacket
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import MORE_FRAGMENTS, build_ipv4, build_udp, checksum, decode_ipv4_header
from ipseclab.wire.selector import TrafficSelector

POLICIES = (
    Policy("ike", Action.BYPASS, network(LEFT + "/32"), network(RIGHT + "/32")),
    Policy("no", Action.DISCARD, network("10.1.0.66/32"), network("0.0.0.0/0")),
    protect("10.1.0.0/24", "10.2.0.0/24"),
)


def sealed_by_hand(pair, plaintext, sequence=1):
    """An authentic ESP packet for right whose plaintext is whatever is given."""
    half = pair.left.sad.inbound(pair.left_sa.spi_in).outbound
    header = half.spi + sequence.to_bytes(4, "big")
    return header + half.protection.seal(header, sequence.to_bytes(8, "big"), plaintext)


def padded(payload, next_header=IpProtocol.IPV4, pad=None):
    pad = pad if pad is not None else -(len(payload) + 2) % 4
    return payload + PADDING[:pad] + bytes([pad, next_header])


class TestPlainPackets:
    def test_bypass_passes_both_ways(self):
        left = datapath(policies=POLICIES)
        out, back = udp_packet(LEFT, RIGHT), udp_packet(RIGHT, LEFT)
        assert left.send_packet(out, 0.0) == [SendPacket(out)]
        assert left.receive_packet(back, 0.0) == [DeliverPacket(back)]
        assert (left.counters.bypassed_out, left.counters.bypassed_in) == (1, 1)

    @pytest.mark.parametrize(
        ("local", "remote", "reason"),
        [
            ("10.1.0.66", "10.2.0.1", "policy_discard"),
            ("10.9.0.1", "10.2.0.1", "no_policy"),
        ],
    )
    def test_discard_and_no_policy_drop_both_ways(self, local, remote, reason):
        left = datapath(policies=POLICIES)
        assert reasons(left.send_packet(udp_packet(local, remote), 0.0)) == [reason]
        assert reasons(left.receive_packet(udp_packet(remote, local), 0.0)) == [reason]

    def test_clear_text_where_the_policy_says_protect_is_dropped(self):
        left = datapath(policies=POLICIES)
        packet = udp_packet(RIGHT_HOST, LEFT_HOST)
        details = {"reason": "not_encapsulated", "direction": "inbound", "octets": len(packet)}
        assert left.receive_packet(packet, 0.0) == [Notice("packet_dropped", details)]

    def test_fragments_of_plain_packets_follow_the_policy_for_any_port(self):
        left = datapath(policies=POLICIES)
        later = build_ipv4(packed(LEFT), packed(RIGHT), 17, b"tail", flags_fragment=10)
        assert left.send_packet(later, 0.0) == [SendPacket(later)]


class TestInnerPackets:
    @pytest.mark.rfc("3948", "3.1.1", "MUST", "inner-source")
    @pytest.mark.parametrize(
        ("source", "destination"),
        [("10.9.0.1", RIGHT_HOST), (LEFT_HOST, "10.9.0.1"), (RIGHT_HOST, LEFT_HOST)],
    )
    def test_packet_outside_the_sa_s_selectors_is_dropped(self, source, destination):
        pair = Pair()
        esp = sealed_by_hand(pair, padded(udp_packet(source, destination)))
        outputs = pair.right.receive_esp(esp, reverse(PATH), 0.0)
        assert reasons(outputs) == ["selector_mismatch"]
        # Also when a good packet of another flow came before.
        pair.left.sad.inbound(pair.left_sa.spi_in).outbound.sequence = 1
        assert len(delivered(pair.to_right(pair.packet()))) == 1
        esp = sealed_by_hand(pair, padded(udp_packet(source, destination)), 3)
        assert reasons(pair.right.receive_esp(esp, reverse(PATH), 0.0)) == ["selector_mismatch"]

    def test_fragment_of_the_inner_packet_is_carried_in_tunnel_mode(self):
        pair = Pair()
        first = pair.packet(bytes(100), flags_fragment=MORE_FRAGMENTS)
        later = build_ipv4(packed(LEFT_HOST), packed(RIGHT_HOST), 17, bytes(33), flags_fragment=13)
        assert delivered(pair.to_right(first)) == [first]
        assert delivered(pair.to_right(later)) == [later]

    def test_fragment_alone_is_not_carried_in_transport_mode(self):
        """It waits for the others; one that cannot be a fragment, as others would not fit to its
        end, is dropped."""
        pair = Pair(tunnel=False)
        packet = pair.packet(bytes(96), flags_fragment=MORE_FRAGMENTS)
        assert pair.left.send_packet(packet, 0.0) == []
        odd = pair.packet(bytes(99), flags_fragment=MORE_FRAGMENTS)
        assert reasons(pair.left.send_packet(odd, 0.0)) == ["bad_fragment"]

    def test_later_fragment_cannot_pass_for_a_flow_whose_ports_it_copies(self):
        """RFC 4301 section 7: a later fragment has no ports, whatever its octets look like."""
        ports = (TrafficSelector.of_network("10.2.0.0/24", IpProtocol.UDP, (2000, 2000)),)
        pair = Pair()
        left_sa, right_sa = sa_pair(number=2)
        pair.left.add_sa(replace(left_sa, peer_ts=ports), 0.0)
        pair.right.add_sa(replace(right_sa, own_ts=ports), 0.0)
        packet = pair.packet()
        assert delivered(pair.to_right(packet)) == [packet]
        later = build_ipv4(
            packed(LEFT_HOST), packed(RIGHT_HOST), 17, packet[20:], flags_fragment=13
        )
        half = pair.left.sad.inbound(left_sa.spi_in).outbound
        outputs = pair.right.receive_esp(
            seal_esp(half, IpProtocol.IPV4, later, random.Random(1)), reverse(PATH), 0.0
        )
        assert reasons(outputs) == ["selector_mismatch"]
        # The older SA, for any port, carries it.
        (output,) = pair.left.send_packet(later, 0.0)
        assert output.packet[20:24] == pair.left_sa.spi_out

    def test_padding_after_the_inner_packet_is_trimmed(self):
        """RFC 4303 section 2.7: traffic flow confidentiality padding."""
        pair = Pair()
        packet = pair.packet()
        esp = sealed_by_hand(pair, padded(packet + bytes(200)))
        assert delivered(pair.right.receive_esp(esp, reverse(PATH), 0.0)) == [packet]

    def test_dummy_packet_is_discarded_silently_and_counted(self):
        pair = Pair()
        dummy = padded(b"\xa5" * 64, IpProtocol.NO_NEXT_HEADER)
        assert pair.right.receive_esp(sealed_by_hand(pair, dummy), reverse(PATH), 0.0) == []
        assert pair.right.counters.dummies_in == 1
        assert drops(pair.right) == {}

    @pytest.mark.parametrize(
        "plaintext",
        [
            padded(b""),
            padded(b"\x45" + bytes(10)),
            padded(bytes(40)),
            padded(bytes([0x60]) + bytes(60)),
            padded(udp_packet(LEFT_HOST, RIGHT_HOST)[:-5]),
            padded(udp_packet(LEFT_HOST, RIGHT_HOST), IpProtocol.IPV6),
            padded(udp_packet(LEFT_HOST, RIGHT_HOST), IpProtocol.UDP),
            bytes([1, 2, 99, 4]),
            bytes([0xFF] * 4),
            udp_packet(LEFT_HOST, RIGHT_HOST) + bytes([1, 3, 2, 4]),
            udp_packet(LEFT_HOST, RIGHT_HOST) + bytes([0, 0, 2, 4]),
        ],
        ids=lambda plaintext: plaintext[-8:].hex(),
    )
    def test_authentic_nonsense_is_malformed(self, plaintext):
        pair = Pair()
        plaintext = plaintext if len(plaintext) % 4 == 0 else plaintext + b"\0" * 2
        esp = sealed_by_hand(pair, plaintext)
        assert reasons(pair.right.receive_esp(esp, reverse(PATH), 0.0)) == ["malformed"]
        pair.left.sad.inbound(pair.left_sa.spi_in).outbound.sequence = 1
        assert len(delivered(pair.to_right(pair.packet()))) == 1


class TestEspPackets:
    @pytest.mark.parametrize("name", sorted(SUITES))
    def test_packet_cut_anywhere_is_dropped(self, name):
        pair = Pair(SUITES[name], path=PATH)
        (output,) = pair.left.send_packet(pair.packet(b"x" * 50), 0.0)
        for size in range(len(output.data)):
            outputs = pair.right.receive_esp(output.data[:size], reverse(PATH), 0.0)
            assert reasons(outputs)[0] in ("malformed", "no_sa", "bad_icv")
            assert len(outputs) == 1
        assert len(delivered(receive(pair.right, output))) == 1

    @pytest.mark.parametrize("name", sorted(SUITES))
    def test_every_octet_is_under_the_icv(self, name):
        pair = Pair(SUITES[name], path=PATH)
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        for index in range(4, len(output.data)):
            changed = bytearray(output.data)
            changed[index] ^= 0x10
            outputs = pair.right.receive_esp(bytes(changed), reverse(PATH), 0.0)
            assert reasons(outputs) == ["bad_icv"], index
        assert len(delivered(receive(pair.right, output))) == 1

    def test_unknown_spi(self):
        pair = Pair(path=PATH)
        outputs = pair.right.receive_esp(b"\x01\x02\x03\x04" + bytes(60), reverse(PATH), 0.0)
        assert reasons(outputs) == ["no_sa"]

    def test_replayed_packet_costs_no_decryption_and_forgery_moves_no_window(self):
        pair = Pair()
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        ahead = bytearray(output.packet)
        ahead[24:28] = (5000).to_bytes(4, "big")
        assert reasons(pair.right.receive_packet(bytes(ahead), 0.0)) == ["bad_icv"]
        assert len(delivered(receive(pair.right, output))) == 1
        assert reasons(receive(pair.right, output)) == ["replayed"]
        half = pair.right.sad.inbound(pair.right_sa.spi_in).inbound
        assert (half.packets, half.replay.top) == (1, 1)

    def test_fragment_of_an_esp_packet_waits_for_the_others_and_is_given_up(self):
        """RFC 4303 section 3.4.1: reassembly comes before ESP."""
        pair = Pair()
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        for flags in (MORE_FRAGMENTS, 6):
            packet = build_ipv4(
                packed(LEFT), packed(RIGHT), 50, output.packet[20:][: 8 * 5], flags_fragment=flags
            )
            assert pair.right.receive_packet(packet, 0.0) == []
        deadline = pair.right.next_deadline()
        assert reasons(pair.right.handle_timeout(deadline.at)) == ["reassembly_timeout"] * 2

    @pytest.mark.parametrize("octets", [b"", b"\x45", bytes(19), bytes(40), b"\x46" + bytes(30)])
    def test_what_is_not_ipv4_is_malformed_in_both_directions(self, octets):
        left = datapath(policies=POLICIES)
        assert reasons(left.send_packet(octets, 0.0)) == ["malformed"]
        assert reasons(left.receive_packet(octets, 0.0)) == ["malformed"]


class TestEcn:
    """RFC 6040 section 4.2, figure 4; codepoints: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""

    @pytest.mark.rfc("7296", "2.24", "MUST", "ecn")
    @pytest.mark.parametrize(
        ("inner", "outer", "result"),
        [
            (0, 0, 0), (0, 2, 0), (0, 1, 0), (0, 3, None),
            (2, 0, 2), (2, 2, 2), (2, 1, 1), (2, 3, 3),
            (1, 0, 1), (1, 2, 1), (1, 1, 1), (1, 3, 3),
            (3, 0, 3), (3, 2, 3), (3, 1, 3), (3, 3, 3),
        ],
    )  # fmt: skip
    def test_mark_on_the_way(self, inner, outer, result):
        pair = Pair()
        packet = pair.packet(tos=0xB8 | inner)
        (output,) = pair.left.send_packet(packet, 0.0)
        assert output.packet[1] == 0xB8 | inner
        marked = output.packet[:1] + bytes([0xB8 | outer]) + output.packet[2:]
        outputs = pair.right.receive_packet(marked, 0.0)
        if result is None:
            assert reasons(outputs) == ["congested"]
            return
        (arrived,) = delivered(outputs)
        assert arrived[1] == 0xB8 | result
        assert arrived[20:] == packet[20:]
        assert checksum(arrived[:20]) == 0


class TestTransportBehindNat:
    """RFC 3948 section 3.1.2: the NAT changed addresses that TCP and UDP checksums cover."""

    INSIDE = "192.168.1.10"

    def right_sees(self, protocol, segment):
        """What right delivers of a segment sent from INSIDE, which a NAT maps to LEFT."""
        pair = Pair(tunnel=False, path=PATH)
        packet = build_ipv4(packed(self.INSIDE), packed(RIGHT), protocol, segment)
        esp = sealed_by_hand(pair, padded(packet[20:], protocol))
        (arrived,) = delivered(pair.right.receive_esp(esp, reverse(PATH), 0.0))
        header = decode_ipv4_header(arrived)
        assert (header.source, header.destination) == (packed(LEFT), packed(RIGHT))
        return arrived[20:]

    def test_udp_checksum_is_made_right(self):
        before = build_udp(packed(self.INSIDE), 1000, packed(RIGHT), 2000, b"abc")
        after = build_udp(packed(LEFT), 1000, packed(RIGHT), 2000, b"abc")
        assert before != after
        assert self.right_sees(IpProtocol.UDP, before) == after

    def test_udp_without_checksum_stays_without(self):
        segment = build_udp(
            packed(self.INSIDE), 1000, packed(RIGHT), 2000, b"abc", zero_checksum=True
        )
        assert self.right_sees(IpProtocol.UDP, segment) == segment

    def test_tcp_checksum_is_made_right(self):
        from scapy.layers.inet import IP, TCP

        def segment(source):
            tcp = TCP(sport=80, dport=4242, seq=7, ack=9, flags="PA")
            return bytes(IP(src=source, dst=RIGHT) / tcp / b"GET /")[20:]

        assert self.right_sees(IpProtocol.TCP, segment(self.INSIDE)) == segment(LEFT)

    @pytest.mark.parametrize("protocol", [IpProtocol.TCP, IpProtocol.UDP])
    def test_segment_too_short_for_its_header_is_left_alone(self, protocol):
        assert self.right_sees(protocol, b"short") == b"short"

    def test_udp_checksum_that_works_out_as_zero_is_sent_as_all_ones(self):
        """RFC 768: zero would say that there is none."""
        ends = packed(LEFT), 1000, packed(RIGHT), 2000
        value = int.from_bytes(build_udp(*ends, b"\0\0")[6:8], "big")
        after = build_udp(*ends, value.to_bytes(2, "big"))
        assert after[6:8] == b"\xff\xff"
        assert self.right_sees(IpProtocol.UDP, after[:6] + b"\x12\x34" + after[8:]) == after

    def test_icmp_has_no_addresses_in_its_checksum(self):
        assert self.right_sees(IpProtocol.ICMP, b"\x08\x00\xf7\xff\0\0\0\0") == (
            b"\x08\x00\xf7\xff\0\0\0\0"
        )
