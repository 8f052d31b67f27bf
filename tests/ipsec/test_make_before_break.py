"""RFC 7296 section 2.8: a new SA takes over without a packet lost; section 2.23: the peer moves."""

import heapq
import itertools
import random
from dataclasses import replace

import pytest
from datapath_pair import (
    LEFT_HOST,
    PATH,
    Pair,
    datapath,
    delivered,
    drops,
    network,
    reasons,
    receive,
    sa_pair,
    udp_packet,
)

from ipseclab.ipsec.events import PeerSeen
from ipseclab.outputs import Notice, SendDatagram, SendPacket, UdpEndpoint, UdpPath


def spi_of(output):
    return output.packet[20:24] if isinstance(output, SendPacket) else output.data[:4]


@pytest.mark.rfc("7296", "2.8", "MAY", "initiator-sends")
@pytest.mark.rfc("7296", "2.8.1", "MUST", "either-sa")
def test_new_sa_sends_at_once_and_the_old_one_goes_on_accepting():
    pair = Pair()
    (in_flight,) = pair.right.send_packet(pair.answer(), 0.0)
    new, _ = pair.add_sa(2)
    (output,) = pair.left.send_packet(pair.packet(), 0.0)
    assert spi_of(output) == new.spi_out
    assert len(delivered(receive(pair.left, in_flight))) == 1


@pytest.mark.rfc("7296", "2.8", "MAY", "responder-waits")
def test_responder_s_new_sa_waits_for_the_first_packet_from_the_peer():
    pair = Pair()
    new, new_right = pair.add_sa(2, left_sends=False)
    (output,) = pair.left.send_packet(pair.packet(), 0.0)
    assert spi_of(output) == pair.left_sa.spi_out
    (first,) = pair.right.send_packet(pair.answer(), 0.0)
    assert spi_of(first) == new_right.spi_out
    outputs = receive(pair.left, first)
    assert Notice("child_active", {"spi_in": new.spi_in.hex(), "spi_out": new.spi_out.hex()}) in (
        outputs
    )
    assert len(delivered(outputs)) == 1
    (output,) = pair.left.send_packet(pair.packet(), 0.0)
    assert spi_of(output) == new.spi_out


def test_forged_packet_does_not_let_the_new_sa_take_over():
    pair = Pair()
    new, _ = pair.add_sa(2, left_sends=False)
    (first,) = pair.right.send_packet(pair.answer(), 0.0)
    forged = first.packet[:-1] + bytes([first.packet[-1] ^ 1])
    assert reasons(pair.left.receive_packet(forged, 0.0)) == ["bad_icv"]
    assert spi_of(pair.left.send_packet(pair.packet(), 0.0)[0]) == pair.left_sa.spi_out
    pair.left.receive_packet(first.packet, 0.0)
    assert spi_of(pair.left.send_packet(pair.packet(), 0.0)[0]) == new.spi_out


def test_use_outbound_is_idempotent_and_ignores_what_is_gone():
    pair = Pair()
    new, _ = pair.add_sa(2, left_sends=False)
    (notice,) = pair.left.use_outbound(new.spi_in, 0.0)
    assert notice.event == "child_active"
    assert pair.left.use_outbound(new.spi_in, 0.0) == []
    assert pair.left.use_outbound(b"none", 0.0) == []
    pair.left.remove_sa(new.spi_in, 0.0, linger=5.0)
    assert pair.left.use_outbound(new.spi_in, 0.0) == []


def test_older_sa_carries_on_when_the_newest_is_removed():
    pair = Pair()
    new, _ = pair.add_sa(2)
    assert spi_of(pair.left.send_packet(pair.packet(), 0.0)[0]) == new.spi_out
    pair.left.remove_sa(new.spi_in, 0.0)
    assert spi_of(pair.left.send_packet(pair.packet(), 0.0)[0]) == pair.left_sa.spi_out
    assert drops(pair.left) == {}


def test_flow_goes_to_the_sa_that_covers_it_though_a_newer_one_does_not():
    pair = Pair()
    new, _ = sa_pair(number=2)
    pair.left.add_sa(replace(new, peer_ts=network("10.2.0.200/32")), 0.0)
    for _again in range(2):
        (output,) = pair.left.send_packet(pair.packet(), 0.0)
        assert spi_of(output) == pair.left_sa.spi_out
        (output,) = pair.left.send_packet(udp_packet(LEFT_HOST, "10.2.0.200"), 0.0)
        assert spi_of(output) == new.spi_out


def test_inbound_half_lingers_and_then_is_gone():
    pair = Pair()
    sealed = [pair.left.send_packet(pair.packet(), 0.0)[0] for _ in range(3)]
    pair.right.remove_sa(pair.right_sa.spi_in, 10.0, linger=5.0)
    assert pair.right.next_deadline().at == 15.0
    assert len(delivered(receive(pair.right, sealed[0], 14.9))) == 1
    assert pair.right.handle_timeout(15.0) == []
    assert reasons(receive(pair.right, sealed[1], 15.0)) == ["no_sa"]
    assert pair.right.next_deadline() is None
    assert len(pair.right.sad) == 0


def test_lingering_sa_sends_nothing():
    pair = Pair()
    pair.right.remove_sa(pair.right_sa.spi_in, 0.0, linger=5.0)
    outputs = pair.right.send_packet(pair.answer(), 0.0)
    assert not any(isinstance(output, SendPacket) for output in outputs)
    # An inbound packet during the linger must not bring the outbound half back either.
    receive(pair.right, pair.left.send_packet(pair.packet(), 0.0)[0])
    outputs = pair.right.send_packet(pair.answer(), 0.1)
    assert not any(isinstance(output, SendPacket) for output in outputs)


def test_lingering_sa_can_be_removed_at_once():
    pair = Pair()
    (sealed,) = pair.left.send_packet(pair.packet(), 0.0)
    pair.right.remove_sa(pair.right_sa.spi_in, 0.0, linger=5.0)
    pair.right.remove_sa(pair.right_sa.spi_in, 1.0)
    assert reasons(receive(pair.right, sealed, 1.0)) == ["no_sa"]
    assert pair.right.next_deadline() is None


def test_removing_an_unknown_sa_is_harmless():
    assert datapath().remove_sa(b"none", 0.0) == []


class Wires:
    """Links of about 30 ms between the two ends of a pair, and what else is to happen when."""

    def __init__(self, pair, seed):
        self.pair = pair
        self.rng = random.Random(seed)
        self.agenda = []
        self.order = itertools.count()
        self.arrived = {"left": [], "right": []}

    def at(self, time, action, *arguments):
        heapq.heappush(self.agenda, (time, next(self.order), action, arguments))

    def send(self, name, packet, now):
        other = "right" if name == "left" else "left"
        for output in getattr(self.pair, name).send_packet(packet, now):
            self.at(now + self.rng.uniform(0.027, 0.033), self.take, other, output)

    def take(self, name, output, now):
        self.arrived[name] += delivered(receive(getattr(self.pair, name), output, now))

    def add(self, end, sa, use_outbound, now):
        end.add_sa(sa, now, use_outbound=use_outbound)

    def replace(self, end, old, new, now):
        end.use_outbound(new, now)
        end.remove_sa(old, now, linger=0.2)

    def rekey(self, number, now):
        """Left's CREATE_CHILD_SA request and its response, then DELETE and its response."""
        old_left, old_right = sa_pair(number=number - 1)
        new_left, new_right = sa_pair(number=number)
        self.at(now + 0.03, self.add, self.pair.right, new_right, False)
        self.at(now + 0.06, self.add, self.pair.left, new_left, True)
        self.at(now + 0.09, self.replace, self.pair.right, old_right.spi_in, new_right.spi_in)
        self.at(now + 0.12, self.replace, self.pair.left, old_left.spi_in, new_left.spi_in)

    def run(self):
        while self.agenda:
            now, _order, action, arguments = heapq.heappop(self.agenda)
            self.pair.left.handle_timeout(now)
            self.pair.right.handle_timeout(now)
            action(*arguments, now)


@pytest.mark.parametrize("seed", range(4))
def test_hundred_rekeys_under_traffic_lose_nothing_at_zero_loss(seed):
    pair = Pair()
    wires = Wires(pair, seed)
    for number in range(2, 102):
        wires.at(number * 0.15 + wires.rng.random() * 0.02, wires.rekey, number)
    numbers = [number.to_bytes(4, "big") for number in range(1600)]
    for number, data in enumerate(numbers):
        wires.at(number * 0.01, wires.send, "left", pair.packet(data))
        wires.at(number * 0.01 + 0.003, wires.send, "right", pair.answer(data))
    wires.run()
    assert sorted(packet[28:] for packet in wires.arrived["right"]) == numbers
    assert sorted(packet[28:] for packet in wires.arrived["left"]) == numbers
    assert drops(pair.left) == drops(pair.right) == {}
    pair.left.handle_timeout(100.0)
    pair.right.handle_timeout(100.0)
    assert len(pair.left.sad) == len(pair.right.sad) == 1


MOVED = UdpPath(PATH.local, UdpEndpoint("192.0.2.2", 61000))


def test_peer_seen_only_for_the_newest_authenticated_packet_from_elsewhere():
    pair = Pair(path=PATH)
    sealed = [pair.right.send_packet(pair.answer(), 0.0)[0] for _ in range(4)]
    assert not peers(receive(pair.left, sealed[0]))
    moved = receive(pair.left, sealed[2], path=MOVED)
    assert peers(moved) == [PeerSeen(pair.left_sa.spi_in, MOVED)]
    assert len(delivered(moved)) == 1
    older = receive(pair.left, sealed[1], path=MOVED)
    assert not peers(older)
    assert len(delivered(older)) == 1
    assert not peers(receive(pair.left, sealed[2], path=MOVED))
    forged = SendDatagram(sealed[3].path, sealed[3].data[:-1] + b"?")
    assert not peers(receive(pair.left, forged, path=MOVED))


def peers(outputs):
    return [output for output in outputs if isinstance(output, PeerSeen)]


def test_datapath_sends_to_the_old_path_until_it_is_told_to_move():
    pair = Pair(path=PATH)
    (sealed,) = pair.right.send_packet(pair.answer(), 0.0)
    receive(pair.left, sealed, path=MOVED)
    assert pair.left.send_packet(pair.packet(), 0.0)[0].path == PATH
    pair.left.move(pair.left_sa.spi_in, MOVED, in_udp=True)
    assert pair.left.send_packet(pair.packet(), 0.0)[0].path == MOVED
    (sealed,) = pair.right.send_packet(pair.answer(), 0.0)
    assert not peers(receive(pair.left, sealed, path=MOVED))


def test_lingering_sa_does_not_move_the_peer():
    pair = Pair(path=PATH)
    (sealed,) = pair.right.send_packet(pair.answer(), 0.0)
    pair.left.remove_sa(pair.left_sa.spi_in, 0.0, linger=5.0)
    outputs = receive(pair.left, sealed, path=MOVED)
    assert len(delivered(outputs)) == 1
    assert not peers(outputs)


@pytest.mark.rfc("7296", "2.23", "MUST", "either-form")
@pytest.mark.rfc("7296", "2.23", "MUST", "udp-without-nat")
def test_either_encapsulation_is_accepted_but_only_udp_moves_a_peer():
    """RFC 7296 section 2.23: ESP in UDP must be accepted even where no NAT was found."""
    pair = Pair()
    (sealed,) = pair.right.send_packet(pair.answer(), 0.0)
    outputs = pair.left.receive_esp(sealed.packet[20:], MOVED, 0.0)
    assert len(delivered(outputs)) == 1
    assert not peers(outputs)


def test_spi_of_a_lingering_sa_can_be_taken_again():
    pair = Pair()
    (sealed,) = pair.left.send_packet(pair.packet(), 0.0)
    pair.right.remove_sa(pair.right_sa.spi_in, 0.0, linger=5.0)
    pair.right.add_sa(pair.right_sa, 1.0)
    assert pair.right.next_deadline() is None
    assert len(delivered(receive(pair.right, sealed, 6.0))) == 1
