from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ipseclab.lab.impairment import Bernoulli, ImpairmentConfig, NthPackets, losses
from ipseclab.lab.trace import Trace
from ipseclab.sim.clock import Clock
from ipseclab.sim.link import Interface, Link, Take
from ipseclab.wire.ip import build_ipv4

A, B = bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))


@dataclass
class Sink:
    """A node that writes down what it gets."""

    name: str
    clock: Clock
    got: list[tuple[float, bytes]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def entry(self, interface: Interface) -> Take:
        return self.receive

    def receive(self, packet: bytes) -> None:
        self.got.append((self.clock.now, packet))

    def too_big(self, packet: bytes, mtu: int) -> None:
        self.refused.append(mtu)


@dataclass
class Pair:
    clock: Clock
    trace: Trace
    link: Link
    left: Sink
    right: Sink
    ends: tuple[Interface, Interface]


def joined(
    forward: ImpairmentConfig, backward: ImpairmentConfig | None = None, *, seed: int = 1
) -> Pair:
    clock, trace = Clock(), Trace()
    left, right = Sink("left", clock), Sink("right", clock)
    ends = (Interface(left, "left-eth0", "192.0.2.1"), Interface(right, "right-eth0", "192.0.2.2"))
    configs = (forward, backward if backward is not None else ImpairmentConfig())
    link = Link("wan", ends, configs, clock=clock, trace=trace, seed=seed)
    return Pair(clock, trace, link, left, right, ends)


def packet(number: int, size: int = 100) -> bytes:
    return build_ipv4(A, B, 17, number.to_bytes(4, "big").ljust(size - 20, b"."))


def test_each_direction_has_its_own_delay() -> None:
    pair = joined(ImpairmentConfig(delay=0.02), ImpairmentConfig(delay=0.005))
    pair.ends[0].send(packet(0))
    pair.ends[1].send(packet(1))
    pair.clock.run_through(1.0)
    assert pair.right.got == [(0.02, packet(0))]
    assert pair.left.got == [(0.005, packet(1))]
    assert pair.link.packets == 2


def test_a_rate_spaces_packets_out() -> None:
    pair = joined(ImpairmentConfig(delay=0.01, rate=1e6))
    for number in range(3):
        pair.ends[0].send(packet(number, size=1250))
    pair.clock.run_through(1.0)
    assert [at for at, _ in pair.right.got] == pytest.approx([0.02, 0.03, 0.04])


def test_the_packets_lost_are_those_that_the_index_says() -> None:
    pair = joined(ImpairmentConfig(loss=Bernoulli(0.3)), seed=7)
    for number in range(500):
        pair.ends[0].send(packet(number))
    pair.clock.run_through(1.0)
    fates = losses(Bernoulli(0.3), 7, "wan", "forward")
    kept = [packet(number) for number, lost in zip(range(500), fates, strict=False) if not lost]
    assert [got for _, got in pair.right.got] == kept
    dropped = [record for record in pair.trace.records if record.event == "link_dropped"]
    assert len(dropped) == 500 - len(kept) > 100
    assert dict(dropped[0].fields) == {
        "direction": "forward",
        "index": dropped[0].fields["index"],
        "reason": "loss",
        "octets": 100,
    }
    assert dropped[0].node == "wan"


def test_duplicates_and_damage_are_written_down() -> None:
    pair = joined(ImpairmentConfig(duplicate=1.0), ImpairmentConfig(corrupt=1.0))
    pair.ends[0].send(packet(0))
    pair.ends[1].send(packet(1))
    pair.clock.run_through(1.0)
    assert [got for _, got in pair.right.got] == [packet(0)] * 2
    assert len(pair.left.got) == 1
    assert pair.left.got[0][1] != packet(1)
    events = [(record.event, record.fields["direction"]) for record in pair.trace.records]
    assert events == [("link_duplicated", "forward"), ("link_corrupted", "backward")]


def test_a_packet_beyond_the_mtu_goes_back_to_its_sender() -> None:
    pair = joined(ImpairmentConfig(mtu=1000))
    pair.ends[0].send(packet(0, size=1001))
    pair.ends[0].send(packet(1, size=1000))
    pair.clock.run_through(1.0)
    assert pair.left.refused == [1000]
    assert [got for _, got in pair.right.got] == [packet(1, size=1000)]
    assert [record.fields["reason"] for record in pair.trace.records] == ["too_big"]


def test_new_settings_hold_from_the_next_packet_on_and_indexes_go_on() -> None:
    pair = joined(ImpairmentConfig(loss=NthPackets((1, 3))))
    for number in range(2):
        pair.ends[0].send(packet(number))
    slower = ImpairmentConfig(delay=0.5, loss=NthPackets((1, 3)))
    pair.link.reconfigure(slower, pair.link.configs[1])
    assert pair.link.configs == (slower, ImpairmentConfig())
    for number in range(2, 5):
        pair.ends[0].send(packet(number))
    pair.clock.run_through(1.0)
    assert pair.right.got == [(0.0, packet(0)), (0.5, packet(2)), (0.5, packet(4))]


def test_taps_see_what_is_sent_and_received() -> None:
    pair = joined(ImpairmentConfig(loss=NthPackets((0,))))
    seen: list[tuple[str, bytes]] = []
    for interface in pair.ends:
        interface.tap(lambda octets, name=interface.name: seen.append((name, octets)))
    pair.ends[0].send(packet(0))
    pair.ends[0].send(packet(1))
    pair.clock.run_through(1.0)
    assert seen == [
        ("left-eth0", packet(0)),
        ("left-eth0", packet(1)),
        ("right-eth0", packet(1)),
    ]
