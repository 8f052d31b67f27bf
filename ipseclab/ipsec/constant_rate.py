"""IP traffic flow security: an SA that sends packets of one size at one rate, come what may.

RFC 9347 section 2: what is sent does not depend on what there is to send, so that who watches the
path learns neither sizes nor times. Of the SAs that carry the same, one sends: the newest.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from ipseclab.ipsec.aggfrag import HEADER_SIZE, BlockSender
from ipseclab.ipsec.counters import Counters
from ipseclab.ipsec.encapsulation import aggregated
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.path_mtu import inner_limit
from ipseclab.ipsec.processing import ConstantRate
from ipseclab.ipsec.sad import Sad, SadEntry
from ipseclab.ipsec.timers import TimerKind
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
