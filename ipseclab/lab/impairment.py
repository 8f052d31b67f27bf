"""What a link does to packets, one direction of it: delay, jitter, loss, reordering, duplication,
corruption, rate and queue, MTU. Pure: the simulator's link and the emulator's relay both run it.

Everything random is drawn by packet index: each packet offered takes the same number of draws from
a generator derived from (seed, link, direction), whatever becomes of it and whenever it comes. So
the packets with the same indexes are lost, held back or corrupted in every world.

A packet goes through: firewall, MTU, queue (tail drop) and serialisation, loss, corruption, delay.
Sizes are octets of the IPv4 packet, without a link header. Packets keep their order under jitter (a
late one holds up those behind it, as in a queue); only `reorder` lets one be overtaken.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, NamedTuple, assert_never

from ipseclab.lab.firewall import Blocked
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE

DEFAULT_MTU = 1500
DEFAULT_QUEUE_PACKETS = 1000
DEFAULT_REORDER_DELAY = 0.01
LARGEST_PACKET = 0xFFFF


def derive(seed: int, *names: str | int) -> random.Random:
    """The generator that belongs to `names` under `seed`; the same whatever PYTHONHASHSEED is."""
    material = "\0".join(str(part) for part in (seed, *names))
    return random.Random(hashlib.sha256(material.encode()).digest())


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Each packet is lost with `probability`, independently."""

    probability: float

    @property
    def mean_loss(self) -> float:
        """The share of packets lost in the long run."""
        return self.probability


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """Bursts: a chain of a good and a bad state, one step a packet, beginning in the good state.

    `p` good to bad, `r` bad to good, `h` and `k` the chance to get through in the bad and in the
    good state (the letters of Gilbert 1960 and Elliott 1963). RFC 3357 motivates looking at loss
    periods.
    """

    p: float
    r: float
    h: float = 0.0
    k: float = 1.0

    @property
    def mean_loss(self) -> float:
        """The share of packets lost in the long run, from the chain's stationary distribution."""
        if self.p + self.r == 0.0:
            return 1.0 - self.k
        bad = self.p / (self.p + self.r)
        return bad * (1.0 - self.h) + (1.0 - bad) * (1.0 - self.k)


@dataclass(frozen=True, slots=True)
class NthPackets:
    """Exactly the packets of these indexes (from 0, as in the trace) and each `every`-th."""

    indexes: tuple[int, ...] = ()
    every: int | None = None

    @property
    def mean_loss(self) -> float:
        """The share of packets lost in the long run."""
        return 0.0 if self.every is None else 1.0 / self.every


LossModel = Bernoulli | GilbertElliott | NthPackets
JitterDistribution = Literal["uniform", "normal"]


@dataclass(frozen=True, slots=True)
class ImpairmentConfig:
    """One direction of a link. Times in seconds, rate in bit/s, probabilities from 0 to 1.

    `jitter` is the half-width of a uniform distribution around `delay`, or the standard deviation
    of a normal one; a delay never falls below 0. The queue holds what waits for a limited `rate`.
    """

    delay: float = 0.0
    jitter: float = 0.0
    jitter_distribution: JitterDistribution = "uniform"
    loss: LossModel | None = None
    reorder: float = 0.0
    reorder_delay: float = DEFAULT_REORDER_DELAY
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float | None = None
    queue_packets: int = DEFAULT_QUEUE_PACKETS
    queue_octets: int | None = None
    mtu: int = DEFAULT_MTU
    block: tuple[Blocked, ...] = ()
    """What a firewall at the beginning of the link stops."""

    @property
    def mean_loss(self) -> float:
        """The share of packets that the loss model takes in the long run."""
        return 0.0 if self.loss is None else self.loss.mean_loss


class LinkDrop(Enum):
    """Why a link let a packet go; the name in `link_dropped`."""

    LOSS = "loss"
    QUEUE_FULL = "queue_full"
    TOO_BIG = "too_big"
    BLOCKED = "blocked"


@dataclass(slots=True)
class Transit:
    """A packet that comes out at the far end at time `at`.

    One is made for each packet of each link; freezing would make that cost four times as much.
    """

    at: float
    packet: bytes
    index: int
    corrupted: bool = False
    duplicate: bool = False
    """True for the second copy."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A packet that does not come out. For TOO_BIG the world answers as a router would."""

    reason: LinkDrop
    index: int


class _Draws(NamedTuple):
    """The uniform draws of one packet, in the order in which they are taken."""

    loss: float
    state: float
    jitter: float
    jitter_radius: float
    reorder: float
    duplicate: float
    corrupt: float
    corrupt_where: float


_UNUSED = _Draws(*(1.0 for _ in _Draws._fields))
"""For a packet to which nothing random can happen."""
_WORDS_A_DRAW = 2
"""32-bit words of the generator (MT19937) that `random()` uses for its 53 bits."""
_SKIPPED_AT_ONCE = 4096


class _LossState:
    """Where a loss model stands; only Gilbert-Elliott has anything to remember."""

    def __init__(self) -> None:
        self._bad = False

    def loses(self, model: LossModel | None, index: int, draws: _Draws) -> bool:
        match model:
            case None:
                return False
            case Bernoulli(probability):
                return draws.loss < probability
            case GilbertElliott(p, r, h, k):
                self._bad = draws.state >= r if self._bad else draws.state < p
                return draws.loss >= (h if self._bad else k)
            case NthPackets(indexes, every):
                return index in indexes or (every is not None and index % every == every - 1)
            case _:
                assert_never(model)


class Impairment:
    """One direction of one link; `names` are the link's name and the direction's."""

    def __init__(self, config: ImpairmentConfig, seed: int, *names: str) -> None:
        self.index = 0
        """The index that the next packet will have."""
        self._seed = seed
        self._names = names
        self._random = derive(seed, *names)
        self._drawn = 0
        """Packets whose draws the generator has given."""
        self._draws = _UNUSED
        """Those of the last of them."""
        self.reconfigure(config)
        self._loss = _LossState()
        self._free_at = -math.inf
        self._last_at = -math.inf
        self._waiting: deque[tuple[float, int]] = deque()
        self._waiting_octets = 0
        self._preview: Iterator[bool] = iter(())
        self._previewed: list[bool] = []
        self._preview_of: LossModel | None = None

    def reconfigure(self, config: ImpairmentConfig) -> None:
        """Take other settings from the next packet on; indexes and draws go on."""
        self.config = config
        self._nothing_random = config.loss is None and not (
            config.jitter or config.reorder or config.duplicate or config.corrupt
        )
        loss = config.loss
        only_lost = replace(config, loss=None) == replace(
            config, loss=None, jitter=0.0, reorder=0.0, duplicate=0.0, corrupt=0.0
        )
        self._loss_alone = loss.probability if isinstance(loss, Bernoulli) and only_lost else 0.0
        # What nothing else can happen to takes the short way, if it is no longer than this.
        short = (self._nothing_random or self._loss_alone > 0.0) and not config.block
        self._short_limit = config.mtu if short else -1
        self._rate, self._delay = config.rate, config.delay

    def pass_unharmed(self, octets: int, now: float) -> float | None:
        """When a packet of `octets` offered at `now` comes out, if nothing else can happen to it.

        None, and nothing has changed, when `pass_packet` has to say what becomes of it. Most
        packets of a lab take this short way.
        """
        if octets > self._short_limit:
            return None
        if self._loss_alone and self._draws_of(self.index).loss < self._loss_alone:
            return None
        sent_at = now if self._rate is None else self._serialise(octets, now)
        if sent_at is None:
            return None
        self.index += 1
        at = sent_at + self._delay
        if at < self._last_at:
            return self._last_at
        self._last_at = at
        return at

    def pass_packet(self, packet: bytes, now: float) -> list[Transit | Dropped]:
        """What becomes of `packet`, offered at `now`: it comes out once, twice, or is dropped."""
        index, config = self.index, self.config
        self.index = index + 1
        if self._nothing_random:
            draws, lost = _UNUSED, False
        else:
            draws = self._draws_of(index)
            lost = self._loss.loses(config.loss, index, draws)
        if config.block and any(rule.stops(packet) for rule in config.block):
            return [Dropped(LinkDrop.BLOCKED, index)]
        if len(packet) > config.mtu:
            return [Dropped(LinkDrop.TOO_BIG, index)]
        sent_at = self._serialise(len(packet), now)
        if sent_at is None:
            return [Dropped(LinkDrop.QUEUE_FULL, index)]
        if lost:
            # After the queue: what the medium loses has used its share of the rate.
            return [Dropped(LinkDrop.LOSS, index)]
        corrupted = draws.corrupt < config.corrupt
        if corrupted:
            packet = flip_bit(packet, draws.corrupt_where)
        at = self._arrival(sent_at, draws)
        transits: list[Transit | Dropped] = [Transit(at, packet, index, corrupted)]
        if draws.duplicate < config.duplicate:
            transits.append(Transit(at, packet, index, corrupted, True))
        return transits

    def _draws_of(self, index: int) -> _Draws:
        """The draws of packet `index`, the last one that was asked for or one behind it: those of
        the packets between them, which did without, are passed over."""
        while (undrawn := index - self._drawn) > 0:
            count = min(undrawn, _SKIPPED_AT_ONCE)
            self._random.getrandbits(32 * _WORDS_A_DRAW * len(_UNUSED) * count)
            self._drawn += count
        if self._drawn == index:
            self._draws = _draw(self._random)
            self._drawn += 1
        return self._draws

    def will_drop(self, index: int) -> bool:
        """Whether the loss model, as set now and from packet 0 on, takes the packet `index`."""
        if self._preview_of != self.config.loss or not self._previewed:
            self._preview_of = self.config.loss
            self._preview = losses(self.config.loss, self._seed, *self._names)
            self._previewed = []
        while len(self._previewed) <= index:
            self._previewed.append(next(self._preview))
        return self._previewed[index]

    def _serialise(self, octets: int, now: float) -> float | None:
        """When the last bit has left, or None when the queue has no room."""
        if self._rate is None:
            return now
        waiting, start = self._waiting, now
        while waiting and waiting[0][0] <= now:
            self._waiting_octets -= waiting.popleft()[1]
        if self._free_at > now:
            config, start = self.config, self._free_at
            if len(waiting) >= config.queue_packets:
                return None
            waiting_octets = self._waiting_octets + octets
            if config.queue_octets is not None and waiting_octets > config.queue_octets:
                return None
            waiting.append((start, octets))
            self._waiting_octets = waiting_octets
        self._free_at = start = start + octets * 8 / self._rate
        return start

    def _arrival(self, sent_at: float, draws: _Draws) -> float:
        config = self.config
        at = sent_at + (
            max(0.0, config.delay + self._jitter(draws)) if config.jitter else config.delay
        )
        if draws.reorder < config.reorder:
            return max(at, self._last_at) + config.reorder_delay
        self._last_at = at = max(at, self._last_at)
        return at

    def _jitter(self, draws: _Draws) -> float:
        jitter = self.config.jitter
        if self.config.jitter_distribution == "uniform":
            return jitter * (2.0 * draws.jitter - 1.0)
        # Box and Muller (1958); 1 - u keeps the logarithm away from 0.
        radius = math.sqrt(-2.0 * math.log(1.0 - draws.jitter_radius))
        return jitter * radius * math.cos(2.0 * math.pi * draws.jitter)


def _draw(generator: random.Random) -> _Draws:
    draw = generator.random
    return _Draws(draw(), draw(), draw(), draw(), draw(), draw(), draw(), draw())


def losses(model: LossModel | None, seed: int, *names: str) -> Iterator[bool]:
    """Without end: whether packet 0, 1, 2, ... is lost under `model` on that link and direction."""
    generator, state, index = derive(seed, *names), _LossState(), 0
    while True:
        yield state.loses(model, index, _draw(generator))
        index += 1


def flip_bit(packet: bytes, where: float) -> bytes:
    """`packet` with one bit of its payload turned over, `where` in [0, 1) saying which.

    The IP header is spared: a router would drop a packet with a bad header unseen, and what such
    a packet meant would differ between worlds. The payload's own checksum or ICV finds the error.
    """
    start = 0
    if packet:
        start = IPV6_HEADER_SIZE if packet[0] >> 4 == 6 else (packet[0] & 0x0F) * 4
    bits = 8 * (len(packet) - start)
    if bits <= 0:
        return packet
    octet, bit = divmod(int(where * bits), 8)
    damaged = bytearray(packet)
    damaged[start + octet] ^= 0x80 >> bit
    return bytes(damaged)
