"""IP traffic flow security: an SA that sends packets of one size at one rate, come what may.

RFC 9347 section 2: what is sent does not depend on what there is to send, so that who watches the
path learns neither sizes nor times. Of the SAs that carry the same, one sends: the newest.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from ipseclab.ipsec.aggfrag import HEADER_SIZE, BlockSender
from ipseclab.ipsec.counters import INBOUND, OUTBOUND, Counters, Dropped, DropReason
from ipseclab.ipsec.encapsulation import aggregated
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.lifetimes import Lifetimes
from ipseclab.ipsec.path_mtu import inner_limit, refuse
from ipseclab.ipsec.processing import ConstantRate
from ipseclab.ipsec.sad import Sad, SadEntry
from ipseclab.ipsec.timers import TimerKind
from ipseclab.registry import IpProtocol
from ipseclab.timers import Timers

MOST_LATE = 8
"""Packets that a driver which comes late still owes; a longer gap stays one, as a burst would show
more than a gap does."""


class Change(NamedTuple):
    """What is left of SAs that send no more, and who sends in their place."""

    left: list[bytes]
    sender: SadEntry | None


def rate_of(entry: SadEntry) -> tuple[BlockSender, ConstantRate]:
    """What an entry of constant rate sends from, and how."""
    rate = entry.processing.constant_rate
    assert entry.blocks_out is not None
    assert rate is not None
    return entry.blocks_out, rate


def payload_size(entry: SadEntry) -> int:
    """Octets of an AGGFRAG payload, its header included, now: the path may carry less than the
    policy wants."""
    size = rate_of(entry)[1].size
    if entry.path_mtu is not None:
        size = min(size, entry.path_mtu)
    return inner_limit(entry, size)


def fits(entry: SadEntry, packet: bytes) -> bool:
    """Whether a packet can be sent at all: one that may not be cut has to fit a payload."""
    sender, _ = rate_of(entry)
    return sender.fragments or len(packet) <= payload_size(entry) - HEADER_SIZE


def elect(sad: Sad, like: SadEntry, timers: Timers[bytes | str, TimerKind], now: float) -> Change:
    """After an SA came, or went: the newest of those that carry what `like` does sends, the others
    stop; what they have not sent yet is left."""
    left: list[bytes] = []
    sender: SadEntry | None = None
    for entry in sad.of_policy(like.parameters.policy):
        if entry.blocks_out is None or not entry.active or entry.refusal is not None:
            continue
        if not entry.stands_for(like):
            continue
        if sender is None:
            sender = entry
            if entry.next_block_at is None:
                entry.next_block_at = now
                timers.set(entry.parameters.spi_in, TimerKind.CONSTANT_RATE, now)
        elif entry.next_block_at is not None:
            entry.next_block_at = None
            timers.cancel(entry.parameters.spi_in, TimerKind.CONSTANT_RATE)
            left += entry.blocks_out.leave()
    return Change(left, sender)


def next_payload(
    entry: SadEntry, counters: Counters, rng: random.Random, now: float
) -> list[DatapathOutput]:
    """The packet that is due, full or empty. Raises Dropped."""
    sender, rate = rate_of(entry)
    assert entry.next_block_at is not None
    due = entry.next_block_at + rate.interval
    entry.next_block_at = due if due > now - MOST_LATE * rate.interval else now + rate.interval
    payload, ended = sender.fill(payload_size(entry))
    output = aggregated(entry, payload, rng)
    entry.last_outbound = now
    counters.packets_out += len(ended)
    counters.octets_out += sum(map(len, ended))
    if not any(payload[2:]):
        counters.dummies_out += 1
    return [output]


class FixedRate:
    """What a datapath does for its SAs of a fixed rate, in either direction."""

    def __init__(
        self,
        sad: Sad,
        timers: Timers[bytes | str, TimerKind],
        counters: Counters,
        lifetimes: Lifetimes,
        rng: random.Random,
    ) -> None:
        self._sad = sad
        self._timers = timers
        self._counters = counters
        self._lifetimes = lifetimes
        self._rng = rng

    def await_turn(self, entry: SadEntry, packet: bytes) -> list[DatapathOutput]:
        """What an SA carries leaves in the packets that it sends anyway."""
        if not fits(entry, packet):
            return refuse(self._counters, packet, payload_size(entry))
        if not rate_of(entry)[0].offer(packet):
            return [self._counters.drop(DropReason.RATE_EXCEEDED, OUTBOUND, len(packet))]
        return []

    def send(self, entry: SadEntry, now: float) -> list[DatapathOutput]:
        """The packet that is due."""
        try:
            outputs = next_payload(entry, self._counters, self._rng, now)
        except Dropped as drop:
            return self._lifetimes.expire(entry, "sequence", drop.reason)
        at = entry.next_block_at
        assert at is not None, "there is one after each that was sent"
        self._timers.set(entry.parameters.spi_in, TimerKind.CONSTANT_RATE, at)
        half = entry.outbound
        if half.packets >= half.packet_mark or half.octets >= half.octet_mark:
            outputs += self._lifetimes.volume_reached(entry)
        return outputs

    def change_sender(self, entry: SadEntry, now: float) -> list[DatapathOutput]:
        """The newest SA sends from now on, first what the one before it has not sent yet."""
        left, sender = elect(self._sad, entry, self._timers, now)
        outputs: list[DatapathOutput] = []
        for packet in left:
            assert sender is not None
            outputs += self.await_turn(sender, packet)
        return outputs

    def hand_over(self, gone: SadEntry, now: float) -> tuple[list[DatapathOutput], list[bytes]]:
        """After an SA has gone: what comes of the change of sender, and the packets that it has not
        sent, which go the way of any packet."""
        return self.change_sender(gone, now), rate_of(gone)[0].leave()

    def take(
        self, entry: SadEntry, next_header: int, payload: bytes, sequence: int
    ) -> tuple[list[DatapathOutput], list[tuple[int, bytes]]]:
        """What is to be told of an AGGFRAG payload, and the packets in it and ended by it, each
        with its next header; nothing else comes on such an SA (RFC 9347 section 2.5)."""
        blocks, counters = entry.blocks_in, self._counters
        assert blocks is not None
        if next_header != IpProtocol.AGGFRAG:
            return [counters.drop(DropReason.MALFORMED, INBOUND, len(payload))], []
        try:
            packets = blocks.take(sequence, payload)
        except Dropped as drop:
            return [counters.drop(drop.reason, INBOUND, len(payload))], []
        if not any(payload[2:]):
            counters.dummies_in += 1
        lost: list[DatapathOutput] = [
            counters.drop(DropReason.REASSEMBLY_TIMEOUT, INBOUND, 0)
            for _ in range(blocks.take_lost())
        ]
        ipv4, ipv6 = int(IpProtocol.IPV4), int(IpProtocol.IPV6)
        return lost, [(ipv4 if one[0] >> 4 == 4 else ipv6, one) for one in packets]
