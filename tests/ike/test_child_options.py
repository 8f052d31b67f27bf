"""IPComp and AGGFRAG as two real gateways agree on them, use them, and keep them in rekeys."""

import random
from itertools import pairwise

import pytest
from pair import ADDRESSES, CONNECTION, Mode, Pair, connection, gateway_config, make_pair

from ipseclab.errors import ConfigError, InvalidSyntax, NoProposalChosen
from ipseclab.ike.child_options import NO_OPTIONS, ChildOptions, agreed, granted, offered
from ipseclab.ike.config import Aggfrag
from ipseclab.ipsec.esp import seal_esp
from ipseclab.ipsec.processing import PLAIN, ConstantRate, Processing
from ipseclab.outputs import DeliverPacket, SendPacket
from ipseclab.registry import ExchangeType, IpProtocol, NotifyType
from ipseclab.wire.ip import build_ipv4, build_udp, packed_address
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

TEXT = b"to be or not to be, " * 50
SIZE, RATE = 400, 400 * 8 * 100.0
"""A hundred packets a second."""
STEADY = Processing(constant_rate=ConstantRate(SIZE, RATE))
AGGFRAG = {"aggfrag": Aggfrag()}


def text(side, data=TEXT, number=0):
    ends = [bytes([10, 1, 0, 2]), bytes([10, 2, 0, 2])]
    source, destination = ends[side], ends[1 - side]
    segment = build_udp(source, 5000 + number, destination, 4000, data)
    return build_ipv4(source, destination, IpProtocol.UDP, segment)


def only_sa(pair, side):
    (entry,) = pair.gateways[side].datapath.sad
    return entry


def wire_sizes(pair, side, since=0.0):
    return [
        len(s.item.packet)
        for s in pair.sent
        if s.sender == side and s.at >= since and isinstance(s.item, SendPacket)
    ]


def steady_pair(**options):
    return make_pair(both=AGGFRAG, processing=STEADY, **options)


# -- IPComp ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.TUNNEL, Mode.TRANSPORT])
def test_both_ends_compress_when_both_want_to(mode):
    pair = make_pair(both={"ipcomp": True, "mode": mode})
    pair.connect()
    for side in (0, 1):
        pair.do(side, "send_packet", text(side))
    pair.run(0.1)
    assert pair.delivered[1] == [text(0)]
    assert pair.delivered[0] == [text(1)]
    for side in (0, 1):
        compressor = only_sa(pair, side).compressor
        assert (compressor.packed, compressor.unpacked) == (1, 1)
        assert max(wire_sizes(pair, side)) < 200


@pytest.mark.parametrize("able", [0, 1])
def test_a_peer_without_it_gets_an_sa_without_it(able):
    pair = make_pair(**{"ab"[able]: {"ipcomp": True}})
    pair.connect()
    assert only_sa(pair, 0).compressor is None is only_sa(pair, 1).compressor
    pair.do(0, "send_packet", text(0))
    pair.run(0.1)
    assert pair.delivered[1] == [text(0)]


@pytest.mark.parametrize("side", [0, 1])
def test_a_rekey_agrees_on_cpis_anew(side):
    pair = make_pair(both={"ipcomp": True, "rekey_linger": 0.5})
    pair.connect()
    before = only_sa(pair, 0).parameters.compression
    pair.do(side, "rekey_child", CONNECTION)
    pair.run(5.0)
    first, second = (only_sa(pair, end).parameters.compression for end in (0, 1))
    assert (first.cpi_in, first.cpi_out) == (second.cpi_out, second.cpi_in)
    assert first != before
    pair.do(0, "send_packet", text(0))
    pair.run(0.1)
    assert only_sa(pair, 1).compressor.unpacked == 1


# -- AGGFRAG --------------------------------------------------------------------------------------


def test_packets_of_one_size_leave_at_one_rate_whatever_there_is_to_send():
    pair = steady_pair()
    pair.connect()
    start = pair.now
    pair.run(1.0)
    for number in range(20):
        pair.do(0, "send_packet", text(0, bytes(30 * number), number))
    pair.run(1.0)
    sizes = wire_sizes(pair, 0, start)
    assert len(set(sizes)) == 1
    assert SIZE - 4 < sizes[0] <= SIZE
    times = [s.at for s in pair.sent if s.sender == 0 and isinstance(s.item, SendPacket)]
    assert [b - a for a, b in pairwise(times)] == [pytest.approx(0.01)] * (len(times) - 1)
    assert len(times) >= 198
    assert pair.delivered[1] == [text(0, bytes(30 * number), number) for number in range(20)]
    counters = pair.b.counters
    assert counters["packets_in"] == 20
    assert counters["dummies_in"] > 150


def test_a_packet_much_longer_than_the_size_goes_in_many():
    pair = steady_pair()
    pair.connect()
    packets = [text(0, bytes([n]) * 9000, n) for n in range(3)]
    for packet in packets:
        pair.do(0, "send_packet", packet)
    pair.run(2.0)
    assert pair.delivered[1] == packets
    assert set(wire_sizes(pair, 0)) == {wire_sizes(pair, 0)[0]}


def test_more_than_the_rate_carries_is_dropped_and_counted():
    pair = steady_pair()
    pair.connect()
    for number in range(1100):
        pair.do(0, "send_packet", text(0, b"x", number))
    assert pair.a.counters["drops.rate_exceeded"] == 1100 - 1024
    pair.run(10.0)
    assert len(pair.delivered[1]) == 1024


@pytest.mark.parametrize("deaf", [0, 1])
def test_a_peer_that_takes_no_fragments_gets_none_and_the_sender_of_what_is_too_long_is_told(deaf):
    pair = make_pair(
        processing=STEADY, both=AGGFRAG, **{"ab"[deaf]: {"aggfrag": Aggfrag(fragments=False)}}
    )
    pair.connect()
    speaker = 1 - deaf
    for packet in (text(speaker, bytes(250)), text(speaker, bytes(251)), text(speaker)):
        pair.do(speaker, "send_packet", packet)
    pair.run(0.5)
    assert [len(packet) for packet in pair.delivered[deaf]] == [278, 279]
    assert pair.gateways[speaker].counters["drops.too_big"] == 1
    (told,) = pair.delivered[speaker]
    assert told[20:22] == b"\3\4"
    pair.do(deaf, "send_packet", text(deaf))
    pair.run(0.5)
    assert pair.delivered[speaker][1:] == [text(deaf)]


@pytest.mark.parametrize("able", [0, 1])
def test_no_sa_with_a_peer_that_has_none_of_it(able):
    sides = [{}, {}]
    sides[able] = AGGFRAG
    configs = [
        gateway_config(connection(n, **sides[n]), processing=STEADY if n == able else PLAIN)
        for n in (0, 1)
    ]
    pair = Pair(tuple(configs))
    pair.do(0, "initiate", CONNECTION)
    pair.run(20.0)
    assert len(pair.a.datapath.sad) == len(pair.b.datapath.sad) == 0
    assert not pair.a.ike.child_sas
    assert not pair.b.ike.child_sas
    assert len(pair.a.ike.ike_sas) == len(pair.b.ike.ike_sas) == 1


@pytest.mark.parametrize("side", [0, 1])
def test_rekeys_keep_it_say_nothing_of_it_and_lose_nothing(side):
    pair = steady_pair(b={"rekey_linger": 0.5}, a={"rekey_linger": 0.5})
    pair.connect()
    packets = [text(0, bytes([n]) * (100 * n), n) for n in range(30)]
    for number, packet in enumerate(packets):
        pair.do(0, "send_packet", packet)
        if number == 10:
            pair.do(side, "rekey_child", CONNECTION)
        pair.run(0.02)
    pair.run(3.0)
    assert pair.delivered[1] == packets
    assert only_sa(pair, 0).blocks_out is not None is not only_sa(pair, 1).blocks_in
    assert [s for s in pair.sent if s.is_ike(ExchangeType.CREATE_CHILD_SA)]
    assert len(set(wire_sizes(pair, 0))) == 1


def test_what_waits_when_the_sa_goes_waits_for_the_next_one():
    pair = steady_pair()
    pair.connect()
    packets = [text(0, bytes(300), n) for n in range(20)]
    for packet in packets:
        pair.do(0, "send_packet", packet)
    pair.do(0, "delete_child", CONNECTION)
    pair.run(5.0)
    # What was on its way when the peer had removed the SA is gone, as with any SA.
    assert pair.delivered[1] == packets[-len(pair.delivered[1]) :]
    assert len(pair.delivered[1]) >= 17


def test_nothing_but_agreed_payloads_comes_on_such_an_sa():
    pair = steady_pair()
    pair.connect()
    entry = only_sa(pair, 0)
    esp = seal_esp(entry.outbound, int(IpProtocol.IPV4), text(0), random.Random(1))
    outer = build_ipv4(*map(packed_address, ADDRESSES), IpProtocol.ESP, esp)
    assert not [
        output
        for output in pair.b.receive_packet(outer, pair.now)
        if isinstance(output, DeliverPacket)
    ]
    assert pair.b.counters["drops.malformed"] == 1


def test_policy_and_connection_have_to_agree():
    for options in ({"both": AGGFRAG}, {"processing": STEADY}):
        with pytest.raises(ConfigError, match="AGGFRAG and a constant rate"):
            make_pair(**options)


# -- the words ------------------------------------------------------------------------------------


def said(*notifies):
    """A response that holds these."""
    return Message(b"i" * 8, b"r" * 8, ExchangeType.IKE_AUTH, False, True, 1, tuple(notifies))


def ipcomp(data):
    return NotifyPayload(NotifyType.IPCOMP_SUPPORTED, data)


def aggfrag(*flags):
    return NotifyPayload(NotifyType.USE_AGGFRAG, bytes(flags))


PLAIN_CONNECTION = connection(0)
COMPRESSING = connection(0, ipcomp=True)
STEADY_CONNECTION = connection(0, aggfrag=Aggfrag())


def test_an_offer_says_what_the_connection_has():
    assert offered(PLAIN_CONNECTION, random.Random(1), rekeys=None) == (NO_OPTIONS, ())
    options, (notify,) = offered(COMPRESSING, random.Random(1), rekeys=None)
    assert notify.data == options.cpi_in + b"\2"
    assert 256 <= int.from_bytes(options.cpi_in, "big") <= 61439
    _, (notify,) = offered(STEADY_CONNECTION, random.Random(1), rekeys=None)
    assert (notify.notify_type, notify.data) == (NotifyType.USE_AGGFRAG, b"\0")
    deaf = connection(0, aggfrag=Aggfrag(fragments=False))
    assert offered(deaf, random.Random(1), rekeys=None)[1][0].data == b"\1"
    old = ChildOptions(aggfrag=True, whole_blocks=True)
    assert offered(STEADY_CONNECTION, random.Random(1), rekeys=old) == (old, ())


@pytest.mark.parametrize(
    "data",
    [b"", b"\1", b"\1\0", b"\1\0\3", b"\0\0\2", b"\0\xff\2", b"\xff\xff\2", b"\1\0\2\0"],
)
def test_what_is_no_cpi_for_deflate_is_none(data):
    options, notifies = granted(COMPRESSING, random.Random(1), said(ipcomp(data)), rekeys=None)
    assert (options, notifies) == (NO_OPTIONS, ())
    with pytest.raises(InvalidSyntax):
        agreed(COMPRESSING, ChildOptions(cpi_in=b"\1\1"), said(ipcomp(data)), rekeys=False)


def test_of_several_transforms_the_one_that_this_end_has_is_taken():
    message = said(ipcomp(b"\1\0\3"), ipcomp(b"\1\1\2"))
    options, (notify,) = granted(COMPRESSING, random.Random(1), message, rekeys=None)
    assert options.cpi_out == b"\1\1"
    assert notify.data[2:] == b"\2"


def test_an_answer_to_no_question_is_refused():
    with pytest.raises(InvalidSyntax):
        agreed(PLAIN_CONNECTION, NO_OPTIONS, said(ipcomp(b"\1\0\2")), rekeys=False)


@pytest.mark.parametrize("notifies", [(), (aggfrag(),), (aggfrag(0, 0),), (aggfrag(2),)])
def test_aggfrag_that_cannot_be_met_is_refused_by_both_ends(notifies):
    for refused in (
        lambda: agreed(STEADY_CONNECTION, NO_OPTIONS, said(*notifies), rekeys=False),
        lambda: granted(STEADY_CONNECTION, random.Random(1), said(*notifies), rekeys=None),
    ):
        with pytest.raises(NoProposalChosen):
            refused()


def test_use_aggfrag_is_ignored_in_a_rekey():
    options, notifies = granted(
        STEADY_CONNECTION, random.Random(1), said(aggfrag(3)), rekeys=ChildOptions(aggfrag=True)
    )
    assert (options, notifies) == (ChildOptions(aggfrag=True), ())
    old = ChildOptions(aggfrag=True)
    assert agreed(STEADY_CONNECTION, old, said(aggfrag(3)), rekeys=True) == old
