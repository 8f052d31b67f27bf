"""Packets that find no SA wait for one, within bounds; RFC 4301 section 4.4.1."""

from dataclasses import replace

import pytest
from datapath_pair import (
    GCM,
    LEFT_HOST,
    RIGHT_HOST,
    Pair,
    datapath,
    delivered,
    drops,
    network,
    protect,
    reasons,
    receive,
    sa_pair,
    udp_packet,
)

from ipseclab.ipsec.events import Acquire
from ipseclab.outputs import Deadline, Notice, SendPacket
from ipseclab.wire.ip import flow_of


def numbered(number, size=4, **fields):
    return udp_packet(LEFT_HOST, RIGHT_HOST, number.to_bytes(size, "big"), **fields)


def acquires(outputs):
    return [output for output in outputs if isinstance(output, Acquire)]


def sent(outputs):
    return [output for output in outputs if isinstance(output, SendPacket)]


def test_first_packet_acquires_and_all_leave_in_order_once_there_is_an_sa():
    left, right = datapath(), datapath("10.2.0.0/24", "10.1.0.0/24")
    left_sa, right_sa = sa_pair()
    packets = [numbered(number) for number in range(5)]
    assert left.send_packet(packets[0], 0.0) == [Acquire("net", "net", flow_of(packets[0]))]
    for packet in packets[1:]:
        assert left.send_packet(packet, 0.1) == []
    right.add_sa(right_sa, 0.2)
    outputs = left.add_sa(left_sa, 0.2)
    assert outputs[0] == Notice(
        "child_active", {"spi_in": left_sa.spi_in.hex(), "spi_out": left_sa.spi_out.hex()}
    )
    assert [delivered(receive(right, output)) for output in sent(outputs)] == [
        [packet] for packet in packets
    ]
    assert left.next_deadline() is None
    assert drops(left) == {}


def test_acquire_is_repeated_only_after_its_interval():
    left = datapath(acquire_interval=1.0)
    times = [0.0, 0.5, 0.99, 1.0, 1.5, 2.0]
    asked = [bool(acquires(left.send_packet(numbered(0), now))) for now in times]
    assert asked == [True, False, False, True, False, True]
    assert left.counters.acquires == 3


def test_losing_the_sa_acquires_again_at_once():
    pair = Pair()
    pair.left.remove_sa(pair.left_sa.spi_in, 0.0)
    assert acquires(pair.left.send_packet(pair.packet(), 0.0))
    pair.add_sa(2, 0.1)
    pair.left.remove_sa(sa_pair(number=2)[0].spi_in, 0.2)
    assert acquires(pair.left.send_packet(pair.packet(), 0.2))


def test_queue_is_bounded_by_packets():
    left = datapath(parked_packets=3)
    outputs = [out for number in range(5) for out in left.send_packet(numbered(number), 0.0)]
    assert reasons(outputs) == ["park_full"] * 2
    assert len(sent(left.add_sa(sa_pair()[0], 0.0))) == 3


def test_queue_is_bounded_by_octets():
    left = datapath(parked_octets=1000)
    for number in range(5):
        left.send_packet(numbered(number, size=372), 0.0)  # 400 octets each
    assert drops(left) == {"park_full": 3}


def test_room_of_packets_that_timed_out_is_free_again():
    left = datapath(parked_octets=1000, park_seconds=10.0)
    for now in (0.0, 5.0):
        left.send_packet(numbered(0, size=372), now)
    left.handle_timeout(10.0)
    left.send_packet(numbered(1, size=372), 10.0)
    assert drops(left) == {"park_timeout": 1}
    left.send_packet(numbered(2, size=372), 10.0)
    assert drops(left) == {"park_timeout": 1, "park_full": 1}


def test_parked_packets_time_out_one_by_one():
    left = datapath(park_seconds=10.0)
    for number in range(3):
        left.send_packet(numbered(number), float(number))
    assert left.next_deadline() == Deadline(10.0, "esp_park")
    assert left.handle_timeout(9.9) == []
    assert reasons(left.handle_timeout(10.0)) == ["park_timeout"]
    assert left.next_deadline() == Deadline(11.0, "esp_park")
    assert reasons(left.handle_timeout(12.0)) == ["park_timeout"] * 2
    assert left.next_deadline() is None
    assert sent(left.add_sa(sa_pair()[0], 12.0)) == []


def test_parking_can_be_switched_off():
    left = datapath(parked_packets=0)
    outputs = left.send_packet(numbered(0), 0.0)
    assert acquires(outputs)
    assert reasons(outputs) == ["no_outbound_sa"]


def test_one_policy_s_queue_leaves_the_others_their_room():
    policies = (
        protect("10.1.0.0/24", "10.2.0.0/24"),
        protect("10.1.0.0/24", "10.3.0.0/24", name="other"),
    )
    left = datapath(policies=policies, parked_packets=2)
    for number in range(4):
        left.send_packet(numbered(number), 0.0)
    other = udp_packet(LEFT_HOST, "10.3.0.1")
    assert left.send_packet(other, 0.0) == [Acquire("other", "other", flow_of(other))]
    assert drops(left) == {"park_full": 2}
    assert len(sent(left.add_sa(sa_pair()[0], 0.0))) == 2


def test_packets_outside_the_new_sa_s_selectors_stay_parked():
    left = datapath()
    inside, outside = numbered(1), udp_packet(LEFT_HOST, "10.2.0.200")
    for packet in (inside, outside, inside):
        left.send_packet(packet, 0.0)
    narrowed = replace(sa_pair()[0], peer_ts=network(RIGHT_HOST + "/32"))
    assert len(sent(left.add_sa(narrowed, 1.0))) == 2
    assert reasons(left.handle_timeout(10.0)) == ["park_timeout"]


def test_new_sa_that_waits_for_the_peer_parks_without_asking_for_another():
    pair = Pair()
    pair.left.remove_sa(pair.left_sa.spi_in, 0.0)
    pair.add_sa(2, left_sends=False)
    packet = pair.packet()
    assert pair.left.send_packet(packet, 0.5) == []
    first = pair.right.send_packet(pair.answer(), 0.6)[0]
    outputs = receive(pair.left, first, 0.7)
    assert [delivered(receive(pair.right, output)) for output in sent(outputs)] == [[packet]]
    assert len(delivered(outputs)) == 1


@pytest.mark.rfc("7296", "2.8", "MAY", "responder-waits")
def test_new_sa_is_used_after_a_while_when_there_is_no_other():
    """RFC 7296 section 2.8: the responder holds back until the peer sends, "or a timeout"."""
    pair = Pair()
    pair.left.remove_sa(pair.left_sa.spi_in, 0.0)
    pair.add_sa(2, left_sends=False)
    pair.left.send_packet(pair.packet(), 0.5)
    assert pair.left.next_deadline() == Deadline(2.0, "esp_activate")
    outputs = pair.left.handle_timeout(2.0)
    assert len(sent(outputs)) == 1
    assert len(sent(pair.left.send_packet(pair.packet(), 2.1))) == 1


def test_new_sa_that_waited_long_enough_is_used_at_once():
    pair = Pair()
    pair.add_sa(2, left_sends=False)
    pair.left.send_packet(pair.packet(), 5.0)
    pair.left.remove_sa(pair.left_sa.spi_in, 5.0)
    outputs = pair.left.send_packet(pair.packet(), 5.0)
    assert len(sent(outputs)) == 1
    assert acquires(outputs) == []


def test_repr_of_parameters_shows_no_key():
    left_sa, _ = sa_pair(GCM)
    assert left_sa.encr_key_in.hex() not in repr(left_sa)
    assert repr(left_sa.encr_key_in) not in repr(left_sa)
    assert "encr_key" not in repr(left_sa)
