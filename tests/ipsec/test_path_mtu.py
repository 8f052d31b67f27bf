"""RFC 4301 section 8: sizes on the way, what ICMP says of them, fragments before and after."""

import random
from dataclasses import replace

import pytest
from datapath_pair import LEFT, PATH, RIGHT, Pair, delivered, drops, packed, reasons, receive
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, defragment, fragment
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment, fragment6
from test_families_and_ah import GCM, INNER, OUTER, ah_suite, packet_of
from test_families_and_ah import pair as families_pair

from ipseclab.errors import ConfigError
from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.ipsec.fragments import Reassembler, fragments_of
from ipseclab.ipsec.processing import DontFragment, Fragmentation, Processing
from ipseclab.ipsec.sad import SadEntry
from ipseclab.outputs import DeliverPacket, Notice, SendDatagram, SendPacket
from ipseclab.wire.ip import DONT_FRAGMENT, build_ipv4, decode_ipv4_header

DF = DONT_FRAGMENT


def shaped(datapath, **settings):
    """Let the datapath's SA process its packets that way; returns the entry."""
    (entry,) = datapath.sad
    fresh = SadEntry(entry.parameters, 0.0, Processing(**settings))
    entry.processing, entry.path_mtu = fresh.processing, fresh.path_mtu
    entry.shaped = True
    return entry


def told(wire, mtu, *, octets=28, router="198.51.100.1"):
    """A router's ICMP message about the packet `wire`."""
    message = IP(src=router, dst=LEFT) / ICMP(type=3, code=4, nexthopmtu=mtu) / wire[:octets]
    return bytes(message)


def outer_size(output):
    extra = 28 if isinstance(output, SendDatagram) else 0
    return len(output.data if extra else output.packet) + extra


@pytest.mark.parametrize("ah", [False, True], ids=["ESP", "AH"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("mtu", range(1290, 1310))
def test_the_longest_packet_that_fits_is_told(ah, outer, tunnel, mtu):
    suite = ah_suite() if ah else GCM
    # What IPv6 carries anywhere must pass: see below.
    mtu += 100 if outer == 6 else 0
    left, right, _ = families_pair(suite, inner=outer, outer=outer, tunnel=tunnel, ah=ah)
    shaped(left, path_mtu=mtu)
    ends = INNER[outer] if tunnel else OUTER[outer]
    too_long = packet_of(outer, ends, bytes(1400))
    drop, answer = left.send_packet(too_long, 0.0)
    assert reasons([drop]) == ["too_big"]
    if outer == 4:
        message = IP(answer.packet)
        assert (message.src, message.dst) == ends[::-1]
        assert (message[ICMP].type, message[ICMP].code) == (3, 4)
        limit = message[ICMP].nexthopmtu
    else:
        limit = IPv6(answer.packet)[ICMPv6PacketTooBig].mtu
    header = 28 if outer == 4 else 48
    for size, fits in ((limit, True), (limit + 1, False)):
        outputs = left.send_packet(packet_of(outer, ends, bytes(size - header)), 0.0)
        assert isinstance(outputs[0], SendPacket) == fits
        if fits:
            assert mtu - (4 if not ah or outer == 4 else 8) < outer_size(outputs[0]) <= mtu
            assert len(delivered(receive(right, outputs[0]))) == 1


@pytest.mark.parametrize("ah", [False, True], ids=["ESP", "AH"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
def test_1280_octets_of_ipv6_pass_a_path_of_no_more(ah, outer, tunnel):
    """RFC 8200 section 5: the packet is not cut up, but what is made of it is."""
    if outer == 4 and not tunnel:
        return
    suite = ah_suite() if ah else GCM
    left, right, _ = families_pair(suite, inner=6, outer=outer, tunnel=tunnel, ah=ah)
    shaped(left, path_mtu=1280)
    ends = INNER[6] if tunnel else OUTER[6]
    packet = packet_of(6, ends, bytes(1280 - 48))
    assert len(packet) == 1280
    pieces = left.send_packet(packet, 0.0)
    assert len(pieces) == 2
    assert all(len(piece.packet) <= 1280 for piece in pieces)
    arrived = [delivered(receive(right, piece)) for piece in reversed(pieces)]
    assert arrived == [[], [packet]]
    longer = packet_of(6, ends, bytes(1281 - 48))
    drop, answer = left.send_packet(longer, 0.0)
    assert reasons([drop]) == ["too_big"]
    assert IPv6(answer.packet)[ICMPv6PacketTooBig].mtu == 1280


def test_icmp_about_our_own_packet_lowers_the_path_mtu_for_a_while():
    pair = Pair()
    (entry,) = pair.left.sad
    big = pair.packet(bytes(1372), flags_fragment=DF)
    (sent,) = pair.left.send_packet(big, 0.0)
    outputs = pair.left.receive_packet(told(sent.packet, 1300), 1.0)
    assert outputs[0] == Notice(
        "path_mtu", {"spi_out": pair.left_sa.spi_out.hex(), "octets": 1300, "inner": 1246}
    )
    _drop, answer = pair.left.send_packet(big, 2.0)
    assert isinstance(answer, DeliverPacket)
    limit = IP(answer.packet)[ICMP].nexthopmtu
    assert len(answer.packet) <= 576
    (fits,) = pair.left.send_packet(pair.packet(bytes(limit - 28), flags_fragment=DF), 2.0)
    assert 1296 < len(fits.packet) <= 1300
    assert entry.path_mtu == 1300
    (again,) = pair.left.send_packet(big, 700.0)
    assert isinstance(again, SendPacket)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda wire: wire[:20] + b"\0\0\0\1" + wire[24:],
        lambda wire: wire[:24] + bytes(4) + wire[28:],
        lambda wire: wire[:24] + (999).to_bytes(4, "big") + wire[28:],
        lambda wire: wire[:12] + packed("192.0.2.9") + wire[16:],
        lambda wire: wire[:27],
        lambda wire: wire[:5],
    ],
)
def test_icmp_about_what_was_never_sent_changes_nothing(spoil):
    pair = Pair()
    (entry,) = pair.left.sad
    (sent,) = pair.left.send_packet(pair.packet(), 0.0)
    entry.outbound.sequence += 70_000 if spoil(sent.packet)[24:28] == bytes(4) else 0
    pair.left.receive_packet(told(spoil(sent.packet), 1300), 1.0)
    assert entry.path_mtu is None
    good = bytearray(told(sent.packet, 1300))
    good[26] ^= 1
    pair.left.receive_packet(bytes(good), 1.0)
    assert entry.path_mtu is None


def test_no_icmp_message_makes_the_path_mtu_tiny():
    pair = Pair()
    (entry,) = pair.left.sad
    (sent,) = pair.left.send_packet(pair.packet(), 0.0)
    pair.left.receive_packet(told(sent.packet, 68), 1.0)
    assert entry.path_mtu == 576


def test_packet_too_big_about_esp_over_ipv6():
    left, _right, sa = families_pair(GCM, inner=6, outer=6)
    (sent,) = left.send_packet(packet_of(6, INNER[6]), 0.0)
    message = IPv6(src="2001:db8::77", dst=OUTER[6][0]) / ICMPv6PacketTooBig(mtu=1400)
    left.receive_packet(bytes(message / sent.packet[:100]), 0.0)
    assert left.sad.inbound(sa.spi_in).path_mtu == 1400


def test_icmp_about_esp_in_udp_that_quotes_enough():
    pair = Pair(path=PATH)
    (entry,) = pair.left.sad
    (sent,) = pair.left.send_packet(pair.packet(), 0.0)
    wire = bytes(IP(src=LEFT, dst=RIGHT) / UDP(sport=4500, dport=4500) / sent.data)
    pair.left.receive_packet(told(wire, 1300, octets=28), 0.0)
    assert entry.path_mtu is None
    pair.left.receive_packet(told(wire, 1300, octets=36), 0.0)
    assert entry.path_mtu == 1300


@pytest.mark.parametrize("where", list(Fragmentation))
@pytest.mark.parametrize("tunnel", [True, False])
def test_what_may_be_fragmented_arrives(where, tunnel):
    pair = Pair(tunnel=tunnel)
    shaped(pair.left, path_mtu=700, fragmentation=where)
    packet = pair.packet(random.Random(1).randbytes(3000), identification=77)
    outputs = pair.left.send_packet(packet, 0.0)
    assert len(outputs) > 4
    assert all(outer_size(output) <= 700 for output in outputs)
    random.Random(2).shuffle(outputs)
    arrived = [one for output in outputs for one in delivered(receive(pair.right, output))]
    if tunnel and where is Fragmentation.BEFORE:
        whole = Reassembler(1, 10_000, 1.0)
        arrived = [found for piece in arrived if (found := whole.add(piece, 0.0)) is not None]
    assert arrived == [packet]
    assert drops(pair.right) == {}


@pytest.mark.parametrize(
    ("setting", "inner", "outer"),
    [("copy", 0, 0), ("copy", DF, DF), ("set", 0, DF), ("set", DF, DF), ("clear", DF, 0)],
)
def test_df_of_the_outer_header(setting, inner, outer):
    pair = Pair()
    shaped(pair.left, dont_fragment=DontFragment(setting))
    (output,) = pair.left.send_packet(pair.packet(flags_fragment=inner), 0.0)
    assert decode_ipv4_header(output.packet).flags_fragment == outer
    assert len(delivered(receive(pair.right, output))) == 1


def test_cleared_df_lets_the_outer_packet_be_fragmented():
    pair = Pair()
    shaped(pair.left, dont_fragment=DontFragment.CLEAR, path_mtu=1000)
    packet = pair.packet(bytes(1400), flags_fragment=DF)
    outputs = pair.left.send_packet(packet, 0.0)
    assert [one for o in outputs for one in delivered(receive(pair.right, o))] == [packet]


def test_dscp_and_ecn_of_the_outer_header():
    pair = Pair()
    shaped(pair.left, dscp=46, ecn=False)
    (output,) = pair.left.send_packet(pair.packet(tos=0x28 | 2), 0.0)
    assert output.packet[1] == 46 << 2
    (arrived,) = delivered(receive(pair.right, output))
    assert arrived[1] == 0x28 | 2


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("mss", [1460, 1200, None])
def test_mss_is_clamped_in_a_syn(family, mss):
    left, right, _ = families_pair(GCM, inner=family, outer=4)
    shaped(left, path_mtu=1300, clamp_mss=True)
    options = [("NOP", None), ("MSS", mss)] if mss else [("NOP", None)]
    header = (IP if family == 4 else IPv6)(src=INNER[family][0], dst=INNER[family][1])
    for flags in ("S", "SA", "A"):
        packet = bytes(header / TCP(flags=flags, options=options))
        (arrived,) = delivered(receive(right, left.send_packet(packet, 0.0)[0]))
        if mss is None or (mss, family) == (1200, 4) or flags == "A":
            assert arrived == packet
            continue
        segment = type(header)(arrived)[TCP]
        clamped = dict(segment.options)["MSS"]
        assert clamped == 1300 - 20 - 8 - 8 - 16 - 2 - (40 if family == 4 else 60) & ~3 | 2
        again = type(header)(arrived)
        del again[TCP].chksum
        assert bytes(again) == arrived


def test_padding_hides_the_sizes_of_inner_packets():
    pair = Pair()
    shaped(pair.left, tfc_padding=500)
    sizes = set()
    for size in (0, 17, 400, 472):
        packet = pair.packet(bytes(size))
        (output,) = pair.left.send_packet(packet, 0.0)
        sizes.add(len(output.packet))
        assert delivered(receive(pair.right, output)) == [packet]
    assert len(sizes) == 1


def test_dummies_fill_a_silence():
    pair = Pair()
    entry = shaped(pair.left, tfc_padding=300, dummy_interval=0.5)
    pair.left._dummies.arm(entry, 0.0)
    times = []
    while (deadline := pair.left.next_deadline()).at < 3.0:
        (output,) = pair.left.handle_timeout(deadline.at) or [None]
        if output is not None:
            times.append(deadline.at)
            assert receive(pair.right, output, deadline.at) == []
        if deadline.at == 1.0:
            pair.left.send_packet(pair.packet(), 1.2)
    assert times == pytest.approx([0.5, 1.0, 1.7, 2.2, 2.7])
    assert pair.left.counters.dummies_out == pair.right.counters.dummies_in == 5
    assert pair.right.counters.packets_in == 0


class TestReassembly:
    @given(
        size=st.integers(1, 9000),
        mtu=st.integers(576, 1500),
        seed=st.integers(0, 99),
        family=st.sampled_from([4, 6]),
    )
    @settings(max_examples=40, deadline=None)
    def test_scapy_s_fragments_in_any_order(self, size, mtu, seed, family):
        data = random.Random(seed).randbytes(size)
        if family == 4:
            whole = IP(src=LEFT, dst=RIGHT, id=7, proto=50) / data
            pieces = [bytes(piece) for piece in fragment(whole, mtu // 8 * 8 - 24)]
            assert bytes(whole) in ([*pieces] if len(pieces) == 1 else [bytes(whole)])
        else:
            whole = IPv6(src=OUTER[6][0], dst=OUTER[6][1]) / IPv6ExtHdrFragment(id=3, nh=50) / data
            pieces = [bytes(piece) for piece in fragment6(whole, max(mtu, 1280))]
            whole = IPv6(src=OUTER[6][0], dst=OUTER[6][1], nh=50) / data
        if len(pieces) == 1:
            return
        random.Random(seed).shuffle(pieces)
        waiting = Reassembler(4, 100_000, 1.0)
        results = [waiting.add(piece, 0.0) for piece in pieces]
        assert results[:-1] == [None] * (len(pieces) - 1)
        assert results[-1] == bytes(whole)
        assert waiting.next_expiry() is None

    def test_ours_are_put_together_by_scapy(self):
        packet = build_ipv4(
            packed(LEFT), packed(RIGHT), 50, bytes(range(256)) * 10, identification=5
        )
        pieces = fragments_of(packet, 700)
        assert bytes(defragment([IP(piece) for piece in pieces])[0]) == packet
        smaller = [tiny for piece in pieces for tiny in fragments_of(piece, 600)]
        assert bytes(defragment([IP(piece) for piece in smaller])[0]) == packet

    def test_bounds(self):
        waiting = Reassembler(2, 2000, 5.0)

        def piece(ident, start, size, more=True):
            flags = (0x2000 if more else 0) | start // 8
            return build_ipv4(
                packed(LEFT),
                packed(RIGHT),
                50,
                bytes(size),
                identification=ident,
                flags_fragment=flags,
            )

        def reason(fragment_octets):
            with pytest.raises(Dropped) as caught:
                waiting.add(fragment_octets, 0.0)
            return caught.value.reason

        assert waiting.add(piece(1, 0, 800), 0.0) is None
        assert waiting.add(piece(2, 0, 800), 0.0) is None
        assert reason(piece(3, 0, 8)) is DropReason.REASSEMBLY_FULL
        assert reason(piece(2, 800, 800)) is DropReason.REASSEMBLY_FULL
        assert reason(piece(1, 0, 800)) is DropReason.BAD_FRAGMENT  # a duplicate spoils nothing
        assert reason(piece(1, 792, 16)) is DropReason.BAD_FRAGMENT
        assert waiting.add(piece(4, 0, 8), 0.0) is None
        assert reason(piece(4, 8, 9)) is DropReason.BAD_FRAGMENT
        assert waiting.next_expiry() is None

    def test_what_does_not_become_whole_is_counted(self):
        pair = Pair()
        shaped(pair.left, path_mtu=600)
        outputs = pair.left.send_packet(pair.packet(bytes(1400)), 0.0)
        for output in outputs[:-1]:
            assert receive(pair.right, output, 1.0) == []
        deadline = pair.right.next_deadline()
        assert (deadline.at, deadline.why) == (31.0, "esp_reassembly")
        assert len(reasons(pair.right.handle_timeout(31.0))) == len(outputs) - 1
        assert drops(pair.right) == {"reassembly_timeout": len(outputs) - 1}


@pytest.mark.parametrize(
    "settings", [{"dscp": 64}, {"tfc_padding": -1}, {"path_mtu": 100}, {"dummy_interval": 0.0}]
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError, match="expected"):
        replace(Processing(), **settings)
