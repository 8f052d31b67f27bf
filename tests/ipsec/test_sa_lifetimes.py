"""RFC 4301 section 4.4.2.1: soft and hard limits, and what never happens after the hard one."""

from dataclasses import replace

import pytest
from datapath_pair import PATH, Pair, delivered, drops, reasons, receive, sa_pair

from ipseclab.ipsec.events import Acquire, HardExpired, SoftExpired
from ipseclab.ipsec.sad import SEQUENCE_LAST, SEQUENCE_ROOM, SaLimit
from ipseclab.outputs import Deadline, DeliverPacket, Notice, SendDatagram, SendPacket


def expiries(outputs):
    return [output for output in outputs if isinstance(output, SoftExpired | HardExpired)]


def sends(outputs):
    return [output for output in outputs if isinstance(output, SendPacket | SendDatagram)]


def test_soft_and_hard_time_are_told_once_each_at_their_deadlines():
    pair = Pair(now=100.0, soft=SaLimit(seconds=50.0), hard=SaLimit(seconds=60.0))
    spi = pair.left_sa.spi_in
    assert pair.left.next_deadline() == Deadline(150.0, "esp_soft_lifetime")
    assert pair.left.handle_timeout(149.9) == []
    assert pair.left.handle_timeout(150.0) == [SoftExpired(spi, "seconds")]
    assert pair.left.handle_timeout(150.0) == []
    assert pair.left.next_deadline() == Deadline(160.0, "esp_hard_lifetime")
    assert pair.left.handle_timeout(160.0) == [HardExpired(spi, "seconds")]
    assert pair.left.handle_timeout(170.0) == []
    assert pair.left.next_deadline() is None


def test_soft_packets_then_hard_packets_of_the_sending_half():
    pair = Pair(soft=SaLimit(packets=3), hard=SaLimit(packets=5))
    told = [expiries(pair.left.send_packet(pair.packet(), 0.0)) for _ in range(7)]
    spi = pair.left_sa.spi_in
    assert told == [
        [],
        [],
        [SoftExpired(spi, "packets")],
        [],
        [HardExpired(spi, "packets")],
        [],
        [],
    ]
    assert drops(pair.left) == {"hard_expired": 2}


def test_limits_of_the_receiving_half_count_as_well():
    pair = Pair()
    left_sa, right_sa = sa_pair(number=2)
    pair.left.add_sa(left_sa, 0.0)
    limits = {"soft": SaLimit(packets=1), "hard": SaLimit(packets=2)}
    pair.right.add_sa(replace(right_sa, **limits), 0.0)
    told = [expiries(pair.to_right(pair.packet())) for _ in range(3)]
    assert told == [
        [SoftExpired(right_sa.spi_in, "packets")],
        [HardExpired(right_sa.spi_in, "packets")],
        [],
    ]
    assert drops(pair.right) == {"hard_expired": 1}
    assert drops(pair.left) == {}


def test_octets_are_those_that_the_cipher_was_applied_to():
    # 28 + 4 octets of packet and the 4 octets that padding, pad length and next header take up.
    pair = Pair(soft=SaLimit(octets=72), hard=SaLimit(octets=100))
    told = [expiries(pair.left.send_packet(pair.packet(b"four"), 0.0)) for _ in range(3)]
    spi = pair.left_sa.spi_in
    assert told == [[], [SoftExpired(spi, "octets")], [HardExpired(spi, "octets")]]


def test_soft_and_hard_at_the_same_packet_are_told_in_order():
    pair = Pair(soft=SaLimit(packets=1), hard=SaLimit(packets=1))
    told = expiries(pair.left.send_packet(pair.packet(), 0.0))
    spi = pair.left_sa.spi_in
    assert told == [SoftExpired(spi, "packets"), HardExpired(spi, "packets")]


def test_soft_limit_by_volume_cancels_the_one_by_time():
    pair = Pair(soft=SaLimit(seconds=50.0, packets=1))
    assert len(expiries(pair.left.send_packet(pair.packet(), 0.0))) == 1
    assert pair.left.next_deadline() is None


@pytest.mark.parametrize("tunnel", [True, False], ids=["tunnel", "transport"])
@pytest.mark.parametrize("path", [None, PATH], ids=["esp", "udp"])
@pytest.mark.parametrize(
    "hard", [SaLimit(seconds=10.0), SaLimit(packets=4), SaLimit(octets=400)], ids=str
)
def test_expired_sa_never_falls_back_to_clear_text(tunnel, path, hard):
    pair = Pair(tunnel=tunnel, path=path, hard=hard)
    plain = pair.packet(bytes(100))
    outputs = []
    for tick in range(40):
        now = tick * 0.5
        outputs += pair.left.handle_timeout(now)
        outputs += pair.left.send_packet(plain, now)
    pair.left.remove_sa(pair.left_sa.spi_in, 20.0)
    for tick in range(40, 80):
        outputs += pair.left.handle_timeout(tick * 0.5)
        outputs += pair.left.send_packet(plain, tick * 0.5)
    assert len(expiries(outputs)) == 1
    sent = sends(outputs)
    assert 0 < len(sent) <= 20
    for output in sent:
        octets = output.packet if isinstance(output, SendPacket) else output.data
        assert plain[20:] not in octets
        assert pair.left_sa.spi_out in octets[:24]
    assert any(isinstance(output, Acquire) for output in outputs)


@pytest.mark.rfc("7296", "2.8", "MUST NOT", "use-expired")
def test_expired_sa_accepts_nothing_even_when_the_timer_comes_late():
    pair = Pair(hard=SaLimit(seconds=10.0))
    (sealed,) = pair.left.send_packet(pair.packet(), 9.9)
    (later,) = pair.left.send_packet(pair.packet(), 9.9)
    assert len(delivered(receive(pair.right, sealed, 9.99))) == 1
    outputs = receive(pair.right, later, 10.0)
    assert outputs[0] == HardExpired(pair.right_sa.spi_in, "seconds")
    assert reasons(outputs) == ["hard_expired"]
    assert pair.right.handle_timeout(10.0) == []


@pytest.mark.rfc("7296", "2.8", "MUST NOT", "use-expired")
def test_expired_sa_sends_nothing_even_when_the_timer_comes_late():
    pair = Pair(hard=SaLimit(seconds=10.0))
    assert len(sends(pair.left.send_packet(pair.packet(), 9.9))) == 1
    outputs = pair.left.send_packet(pair.packet(), 10.0)
    assert outputs[0] == HardExpired(pair.left_sa.spi_in, "seconds")
    assert reasons(outputs) == ["hard_expired"]
    assert not sends(outputs)
    assert pair.left.handle_timeout(10.0) == []


def test_older_sa_carries_on_when_the_newest_has_expired():
    pair = Pair()
    new, _ = pair.add_sa(2, hard=SaLimit(packets=1))
    (first, *_events) = pair.left.send_packet(pair.packet(), 0.0)
    (second,) = pair.left.send_packet(pair.packet(), 0.0)
    assert first.packet[20:24] == new.spi_out
    assert second.packet[20:24] == pair.left_sa.spi_out


def test_lingering_sa_tells_no_more_limits_but_keeps_its_hard_one():
    pair = Pair(soft=SaLimit(seconds=3.0, packets=1), hard=SaLimit(seconds=5.0))
    sealed = [pair.left.send_packet(pair.packet(), 0.0)[0] for _ in range(3)]
    pair.right.remove_sa(pair.right_sa.spi_in, 0.0, linger=20.0)
    assert not expiries(receive(pair.right, sealed[0], 0.0))
    assert pair.right.handle_timeout(4.0) == []
    outputs = receive(pair.right, sealed[1], 5.0)
    assert reasons(outputs) == ["hard_expired"]
    assert not expiries(outputs)
    assert pair.right.handle_timeout(20.0) == []
    assert reasons(receive(pair.right, sealed[2], 20.0)) == ["no_sa"]


def near_the_end(pair, sequence):
    half = pair.left.sad.inbound(pair.left_sa.spi_in).outbound
    half.sequence = half.packets = sequence
    return half


def test_sequence_number_is_never_used_twice():
    pair = Pair()
    near_the_end(pair, SEQUENCE_LAST - 1)
    outputs = pair.left.send_packet(pair.packet(), 0.0)
    assert len(sends(outputs)) == 1
    outputs = pair.left.send_packet(pair.packet(), 0.0)
    assert reasons(outputs) == ["sequence_exhausted"]
    assert expiries(outputs) == [HardExpired(pair.left_sa.spi_in, "sequence")]
    assert not sends(outputs)
    outputs = pair.left.send_packet(pair.packet(), 0.0)
    assert reasons(outputs) == ["sequence_exhausted"]
    assert expiries(outputs) == []


def test_rekey_is_asked_for_before_the_sequence_numbers_end():
    pair = Pair(hard=SaLimit(seconds=3600.0))
    near_the_end(pair, SEQUENCE_LAST - SEQUENCE_ROOM - 2)
    told = [expiries(pair.left.send_packet(pair.packet(), 0.0)) for _ in range(4)]
    assert told == [[], [SoftExpired(pair.left_sa.spi_in, "sequence")], [], []]


def test_notice_of_a_drop_says_reason_direction_and_octets():
    pair = Pair(hard=SaLimit(packets=1))
    packet = pair.packet()
    pair.left.send_packet(packet, 0.0)
    details = {"reason": "hard_expired", "direction": "outbound", "octets": len(packet)}
    assert pair.left.send_packet(packet, 0.0) == [Notice("packet_dropped", details)]


def test_expired_pair_delivers_nothing_that_was_under_way():
    pair = Pair(hard=SaLimit(packets=2))
    sealed = [pair.left.send_packet(pair.packet(), 0.0)[0] for _ in range(2)]
    outputs = [result for output in sealed * 2 for result in receive(pair.right, output)]
    assert len([output for output in outputs if isinstance(output, DeliverPacket)]) == 2
    assert reasons(outputs) == ["hard_expired"] * 2
