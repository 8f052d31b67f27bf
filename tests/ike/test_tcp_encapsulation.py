"""IKE and ESP in TCP (RFC 9329), by two gateways and connections that break, stall and lie."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair import ADDRESSES, CONNECTION
from streams import StreamPair, make_stream_pair, stranger

from ipseclab.ike.config import IkeLimits, Retransmission, TcpUse
from ipseclab.ike.sa import IkeState
from ipseclab.ike.streams import MOST_BAD, MOST_QUEUED, MOST_UNSENT, STREAM_PORTS
from ipseclab.ike.tcp_stream import LARGEST_FRAME, STREAM_PREFIX, StreamReader, frame
from ipseclab.lab.faults import Fault, gateway_with
from ipseclab.outputs import TcpPath, UdpEndpoint
from ipseclab.registry import ExchangeType

TCP = {"tcp": TcpUse.ALWAYS}
AUTO = {"tcp": TcpUse.FALLBACK}


def connected(**options: object) -> StreamPair:
    pair = make_stream_pair(both=dict(TCP), **options)
    pair.connect()
    return pair


def messages(pair: StreamPair, side: int, pipe: int = 0) -> list[bytes]:
    """What that side has sent on a connection, unframed."""
    one = pair.pipes[pipe]
    return StreamReader(prefixed=one.opener == side).take(bytes(one.octets[side]))


def works(pair: StreamPair) -> None:
    """Packets pass both ways, on the one connection that stands."""
    assert len(pair.standing) == 1
    for side in (0, 1):
        packet = pair.send(side, 77)
        pair.run(4 * pair.delay)
        assert pair.delivered[1 - side][-1:] == [packet]


def test_ike_and_esp_go_in_one_stream_that_begins_with_the_prefix():
    pair = connected()
    pair.agreed()
    assert not pair.sent  # nothing outside of TCP
    (pipe,) = pair.pipes
    assert pipe.octets[0].startswith(STREAM_PREFIX)
    assert not pipe.octets[1].startswith(STREAM_PREFIX)
    own = pipe.paths[0]
    assert own.remote == UdpEndpoint(ADDRESSES[1], 4500)
    assert own.local.port in STREAM_PORTS
    ike = [m for m in messages(pair, 0) if m.startswith(bytes(4))]
    esp = [m for m in messages(pair, 0) if not m.startswith(bytes(4))]
    assert len(ike) == 2  # IKE_SA_INIT, IKE_AUTH
    assert len(esp) == 1


def test_notices_say_that_a_message_went_in_tcp():
    pair = connected()
    sent = pair.events("ike_sent", 0)
    assert {notice.details["transport"] for notice in sent} == {"tcp"}
    assert pair.events("stream_opened", 0)
    assert pair.events("stream_accepted", 1)


def test_each_cut_of_the_stream_gives_the_same():
    for piece in (1, 2, 3, 7):
        pair = connected(piece=piece)
        pair.agreed()


def test_no_nat_is_found_and_no_keepalive_sent():
    pair = connected()
    (established,) = pair.events("ike_established", 0)
    assert not established.details["own_behind_nat"]
    pair.run(100.0)
    assert not pair.events("keepalive_sent")


def translated(path: TcpPath) -> TcpPath:
    return TcpPath(UdpEndpoint("192.0.2.77", 1024 + path.local.port % 1000), path.remote)


def test_a_nat_is_found_and_changes_nothing():
    pair = make_stream_pair(both=dict(TCP), b={"peer_address": None}, nat=translated)
    pair.connect()
    (established,) = pair.events("ike_established", 0)
    assert established.details["own_behind_nat"]
    pair.run(100.0)
    assert not pair.events("keepalive_sent")
    works(pair)


def test_keepalive_octet_in_the_stream_is_ignored():
    pair = connected()
    for side in (0, 1):
        pair.do(side, "receive_stream", pair.pipes[0].paths[side], frame(b"\xff"))
    works(pair)


def test_requests_are_not_repeated_on_a_connection():
    pair = connected()
    pair.blocked = lambda side: side == 1  # the answer does not come
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(40.0)
    asked = [n for n in pair.events("ike_sent", 0) if n.details["exchange"] == "INFORMATIONAL"]
    assert len(asked) == 1
    pair.blocked = lambda side: False
    pair.go_on()
    pair.run(1.0)
    assert pair.events("liveness_confirmed", 0)


def test_stalled_connection_is_opened_anew_and_the_request_repeated_there():
    pair = connected()
    old = pair.pipes[0]
    pair.blocked = lambda side: side == 1 and len(pair.pipes) == 1
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(120.0)
    assert len(pair.pipes) == 2
    assert old.closed[0]
    assert pair.events("liveness_confirmed", 0)
    works(pair)


def test_peer_that_stays_silent_in_tcp_is_given_up():
    pair = connected()
    pair.blocked = lambda side: side == 1
    pair.do(0, "check_liveness", CONNECTION)
    pair.run(400.0)
    assert not pair.a.ike.ike_sas
    (gone,) = pair.events("ike_gone", 0)
    # The repeats show b nothing new: it does not go over, and closes what it has no use for.
    assert gone.details["reason"] == "no TCP connection"


def test_broken_connection_is_opened_again_with_the_same_sas():
    pair = connected()
    spis, ike = pair.spis(0), pair.ike_spis(0)
    pair.break_all()
    assert pair.b.ike.ike_sas[0].state is IkeState.ESTABLISHED
    pair.run(1.0)
    assert (pair.spis(0), pair.ike_spis(0)) == (spis, ike)
    assert (pair.spis(1), pair.ike_spis(1)) == (spis, ike)
    assert [pipe.opener for pipe in pair.pipes] == [0, 0]
    assert bytes(pair.pipes[1].octets[0]).startswith(STREAM_PREFIX)
    works(pair)


def test_responder_never_opens_a_connection_even_after_its_own_rekey():
    pair = connected()
    pair.do(1, "rekey_ike", CONNECTION)
    pair.run(1.0)
    assert pair.b.ike.ike_sas[0].initiator
    pair.break_all()
    pair.run(1.0)
    assert {pipe.opener for pipe in pair.pipes} == {0}
    works(pair)


def test_responder_goes_over_with_the_first_authentic_message_alone():
    pair = connected()
    pair.blocked = lambda side: False
    (sa,) = pair.b.ike.ike_sas
    present = sa.path
    new = stranger()
    pair.do(1, "stream_accepted", new)
    # What went before, repeated on a new connection by somebody who has seen it.
    for message in messages(pair, 0):
        pair.do(1, "receive_stream", new, STREAM_PREFIX + frame(message))
        break
    for message in messages(pair, 0)[1:]:
        pair.do(1, "receive_stream", new, frame(message))
    assert sa.path == present
    pair.send(0, 5)  # what a has not sent before, as it comes: b follows
    pair.do(1, "stream_accepted", stranger(1))
    pair.do(1, "receive_stream", stranger(1), STREAM_PREFIX + frame(messages(pair, 0)[-1]))
    assert pair.b.ike.ike_sas[0].path == stranger(1)


def test_request_under_way_is_repeated_on_the_next_connection():
    pair = connected()
    pair.blocked = lambda side: side == 0 and len(pair.pipes) == 1
    pair.do(0, "rekey_child", CONNECTION)
    pair.run(1.0)
    pair.break_all()
    pair.run(1.0)
    assert pair.events("rekey_done", 0)
    works(pair)


def test_responders_request_waits_for_the_next_connection():
    pair = connected()
    pair.refuse = lambda path: True
    pair.break_all()
    pair.do(1, "rekey_child", CONNECTION)
    pair.run(3.0)
    pair.refuse = lambda path: False
    pair.run(30.0)
    assert pair.events("rekey_done", 1)
    works(pair)


def test_attempts_to_connect_are_spaced_and_end():
    pair = connected()
    pair.refuse = lambda path: True
    pair.break_all()
    pair.run(400.0)
    schedule = Retransmission()
    assert len(pair.pipes) - 1 == schedule.tries + 1
    (gone,) = pair.events("ike_gone", 0)
    assert gone.details["reason"] == "no TCP connection"
    assert not any({**pair.a.ike.table_sizes, "counters": 0}.values())


def test_esp_without_a_connection_is_a_counted_drop():
    pair = connected()
    pair.refuse = lambda path: True
    pair.break_all()
    pair.send(1, 1)
    assert pair.b.counters["drops.stream_gone"] == 1


def test_first_request_says_the_port_of_the_connection_that_it_goes_on():
    pair = make_stream_pair(both=dict(TCP))
    pair.refuse = lambda path: len(pair.pipes) < 3
    pair.connect()
    pair.run(30.0)
    pair.agreed()
    assert len(pair.pipes) == 3
    (established,) = pair.events("ike_established", 0)
    assert not established.details["own_behind_nat"]
    assert not established.details["peer_behind_nat"]


@pytest.mark.parametrize("side", [0, 1])
def test_rekeyed_ike_sa_stays_on_the_connection(side):
    pair = connected()
    pair.do(side, "rekey_ike", CONNECTION)
    pair.run(1.0)
    pair.agreed()
    assert len(pair.pipes) == 1
    works(pair)


@pytest.mark.parametrize("side", [0, 1])
def test_connection_is_closed_with_its_last_ike_sa(side):
    pair = connected()
    pair.do(side, "delete_ike", CONNECTION)
    pair.run(1.0)
    assert not pair.standing
    assert pair.pipes[0].closed == [True, True]
    pair.run(200.0)
    for gateway in pair.gateways:
        assert not any({**gateway.ike.table_sizes, "counters": 0}.values())


def test_responder_closes_what_the_originator_leaves_open():
    pair = connected()
    pair.gateways[0].restart(pair.now)
    pair.do(1, "delete_ike", CONNECTION)
    pair.run(500.0)
    assert pair.pipes[0].closed[1]


def test_restart_closes_all_connections():
    pair = connected()
    pair.do(0, "restart")
    assert pair.pipes[0].closed[0]
    pair.do(0, "initiate", CONNECTION)
    pair.run(1.0)
    pair.agreed()


def test_reauthentication_has_a_connection_of_its_own():
    pair = connected()
    pair.do(0, "reauthenticate", CONNECTION)
    pair.run(2.0)
    pair.agreed()
    assert len(pair.pipes) == 2
    works(pair)


def test_second_ike_sa_on_one_connection_is_dropped():
    pair = connected()
    init = messages(pair, 0)[0]
    other = init[:4] + bytes(reversed(init[4:12])) + init[12:]
    pair.do(1, "receive_stream", pair.pipes[0].paths[1], frame(other))
    assert pair.b.counters["ike.stream_shared"] == 1
    assert len(pair.b.ike.ike_sas) == 1


@pytest.mark.parametrize(
    "octets", [b"GET / HTTP/1.1\r\n", STREAM_PREFIX + b"\0\0", STREAM_PREFIX + b"\0\2", b"IKEtcp"]
)
def test_stream_that_cannot_be_followed_is_closed_and_counted(octets):
    pair = connected()
    pair.do(1, "stream_accepted", stranger())
    pair.do(1, "receive_stream", stranger(), octets)
    assert pair.b.counters["ike.stream_corrupt"] == 1
    assert pair.b.ike.streams.get(stranger()) is None
    pair.do(1, "receive_stream", stranger(), octets)  # what was under way
    works(pair)


def test_many_messages_of_no_sa_close_a_stream_and_few_do_not():
    pair = connected()
    pair.do(1, "stream_accepted", stranger())
    pair.do(1, "receive_stream", stranger(), STREAM_PREFIX)
    unknown = frame(b"\1\2\3\4" + bytes(60))
    for _ in range(MOST_BAD - 1):
        pair.do(1, "receive_stream", stranger(), unknown)
    assert pair.b.ike.streams.get(stranger()) is not None
    pair.do(1, "receive_stream", stranger(), unknown)
    assert pair.b.ike.streams.get(stranger()) is None


def test_idle_connections_are_bounded_and_the_oldest_gives_way():
    pair = connected(limits=IkeLimits(idle_streams=4))
    for number in range(10):
        pair.do(1, "stream_accepted", stranger(number))
    assert len(pair.b.ike.streams) == 5  # with the one in use
    assert pair.b.counters["ike.stream_evicted"] == 6
    pair.run(20.0)
    assert len(pair.b.ike.streams) == 1
    works(pair)


def test_connections_are_bounded_in_all():
    pair = connected(limits=IkeLimits(streams=2))
    pair.do(1, "stream_accepted", stranger(0))
    pair.do(1, "stream_accepted", stranger(1))
    assert pair.b.counters["ike.stream_refused"] == 1
    works(pair)


def test_peer_that_connects_from_the_same_ports_again_takes_no_more_room():
    pair = connected(limits=IkeLimits(streams=2))
    pair.do(1, "stream_accepted", stranger())
    former = pair.b.ike.streams.get(stranger())
    pair.do(1, "stream_accepted", stranger())
    assert pair.b.ike.streams.get(stranger()) not in (None, former)
    assert pair.b.counters.get("ike.stream_refused", 0) == 0
    works(pair)


def test_blocked_stream_holds_a_bounded_queue_and_ike_goes_first():
    pair = connected()
    pair.blocked = lambda side: side == 0
    packets = (MOST_UNSENT + MOST_QUEUED) // 1000
    for number in range(packets + 50):
        pair.send(0, number, size=1000)
    (stream,) = pair.a.ike.streams
    assert stream.queued <= MOST_QUEUED
    dropped = pair.a.counters["drops.stream_full"]
    assert dropped > 50
    pair.do(0, "check_liveness", CONNECTION)
    pair.blocked = lambda side: False
    before = len(pair.delivered[1])
    pair.go_on()
    pair.run(5.0)
    assert len(pair.delivered[1]) - before == packets + 50 - dropped
    sent = [message.startswith(bytes(4)) for message in messages(pair, 0)]
    assert sent[-1] is False  # the liveness check overtook what waited
    assert pair.events("liveness_confirmed", 0)


def test_cookies_are_not_asked_for_in_tcp():
    pair = connected(limits=IkeLimits(cookie_threshold=0))
    assert not pair.events("ike_init_retried")
    pair.agreed()


def test_puzzles_are():
    pair = connected(limits=IkeLimits(cookie_threshold=0, puzzle_threshold=0, half_open=4))
    assert pair.events("puzzle_solved", 0)
    pair.agreed()


def test_error_in_ike_sa_init_ends_it_at_once():
    pair = make_stream_pair(a=dict(TCP), b={"tcp": TcpUse.NEVER})
    pair.connect()
    (failed,) = pair.events("ike_failed", 0)
    assert failed.details["reason"] == "NO_PROPOSAL_CHOSEN"
    assert not pair.standing


def test_long_messages_are_not_fragmented():
    pair = make_stream_pair(both={**TCP, "fragment_size": 600})
    pair.connect()
    pair.agreed()
    assert not any("fragment" in notice.details for notice in pair.events("ike_sent"))


def udp_is_blocked(pair: StreamPair) -> None:
    pair.fate = lambda sent: ()


def test_udp_is_tried_first_and_tcp_when_nothing_comes_back():
    pair = make_stream_pair(both=dict(AUTO))
    udp_is_blocked(pair)
    pair.do(0, "initiate", CONNECTION)
    pair.run(60.0)
    attempts = [sent for sent in pair.sent if sent.is_ike(ExchangeType.IKE_SA_INIT)]
    assert len(attempts) == 3  # section 5: at least once again
    first, second = {sent.header.spi_i for sent in attempts}, pair.a.ike.ike_sas[0].spi_i
    assert second not in first  # a new SPI
    (fell,) = pair.events("fell_back", 0)
    assert fell.details["connection"] == CONNECTION
    works(pair)


def test_udp_is_used_where_it_works():
    pair = make_stream_pair(both=dict(AUTO))
    pair.connect()
    pair.agreed()
    assert not pair.pipes


def test_port_4500_alone_blocked_falls_back_too():
    pair = make_stream_pair(both={**AUTO, "force_encapsulation": True})
    pair.fate = lambda sent: () if sent.item.path.remote.port == 4500 else (0.0,)
    pair.do(0, "initiate", CONNECTION)
    pair.run(100.0)
    works(pair)


def test_always_tcp_is_not_answered_in_udp():
    pair = make_stream_pair(a={"tcp": TcpUse.NEVER}, b=dict(TCP))
    pair.connect()
    assert pair.b.counters["ike.no_proposal_chosen"]
    assert not pair.b.ike.ike_sas


def test_same_seed_same_octets():
    first, second = connected(seed=4), connected(seed=4)
    assert first.pipes[0].octets == second.pipes[0].octets
    assert first.pipes[0].paths == second.pipes[0].paths


octets_of_a_stream = st.lists(
    st.one_of(
        st.binary(max_size=80),
        st.binary(min_size=1, max_size=200).map(frame),
        st.binary(min_size=28, max_size=200).map(lambda octets: frame(bytes(4) + octets)),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(parts=octets_of_a_stream, prefixed=st.booleans())
def test_no_octets_harm_the_gateway(parts, prefixed):
    pair = connected()
    pair.do(1, "stream_accepted", stranger())
    if prefixed:
        pair.do(1, "receive_stream", stranger(), STREAM_PREFIX)
    for part in parts:
        pair.do(1, "receive_stream", stranger(), part)
    stream = pair.b.ike.streams.get(stranger())
    assert stream is None or stream.reader.kept <= LARGEST_FRAME
    pair.run(20.0)
    assert pair.b.ike.streams.get(stranger()) is None
    works(pair)


def test_faults_strike_in_tcp_as_elsewhere():
    pair = make_stream_pair(both=dict(TCP))
    fault = Fault("lost", "a", "drop", "out", "ike", exchange="IKE_AUTH", nth=(1,))
    pair.gateways[0] = gateway_with(pair.configs[0], (fault,), rng=random.Random(3), seed=1)
    pair.connect()
    assert not pair.ike_spis(1) or pair.b.ike.ike_sas[0].state is IkeState.HALF_OPEN
    (struck,) = pair.events("fault", 0)
    assert struck.details["exchange"] == "IKE_AUTH"
    pair.run(120.0)  # the connection has stalled: another one, and the request again
    works(pair)
