"""Packets one by one and in trains: the same octets, and every counter and window alike."""

import random

import numpy as np
import pytest
from datapath_pair import ALL_SUITES, LEFT_HOST, PATH, RIGHT_HOST, Pair, packed, reverse
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.ipsec.nonces import HALVES
from ipseclab.ipsec.sad import SaLimit
from ipseclab.ipsec.segmentation import SuperPacket, join, segments_of
from ipseclab.ipsec.train import OpenedTrain, SealedTrain, TrainOpener, TrainSealer
from ipseclab.outputs import DeliverPacket, SendDatagram, SendPacket
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import DONT_FRAGMENT, build_ipv4, build_udp, pseudo_header_checksum

ENDS = packed(LEFT_HOST), packed(RIGHT_HOST)
HALF = ("packets", "octets", "packet_mark", "octet_mark")
TCP_FLAGS = (0x10, 0x18, 0x11, 0x90, 0xC2)


def super_packet(rng, *, udp, payload, size, flags=0x10, options=b"", port=5001, tos=0):
    """What a TUN device with segmentation offload hands over; its checksums are arbitrary."""
    ports = (40_000).to_bytes(2, "big") + port.to_bytes(2, "big")
    if udp:
        transport = ports + rng.randbytes(4)
    else:
        offset = (20 + len(options)) // 4 << 4
        start = rng.choice((1, 0xFFFF_FF00, rng.getrandbits(32))).to_bytes(4, "big")
        transport = ports + start + b"\1\2\3\4" + bytes([offset, flags, 1, 0]) + bytes(4) + options
    protocol = IpProtocol.UDP if udp else IpProtocol.TCP
    identification = rng.choice((1, 0xFFF0, rng.getrandbits(16)))
    octets = build_ipv4(
        *ENDS,
        protocol,
        transport + rng.randbytes(payload),
        identification=identification,
        tos=tos,
        flags_fragment=rng.choice((0, DONT_FRAGMENT)),
    )
    return SuperPacket(octets, size)


super_packets = st.builds(
    super_packet,
    st.integers(0, 99).map(random.Random),
    udp=st.booleans(),
    payload=st.integers(1, 20_000),
    size=st.integers(200, 9000),
    flags=st.sampled_from(TCP_FLAGS),
    options=st.sampled_from((b"", b"\1\1\x08\x0a" + bytes(8))),
    port=st.integers(5001, 5002),
    tos=st.sampled_from((0, 2, 0xB8)),
)


@st.composite
def bursts(draw):
    """Packets that one moment brings: runs of a length, now and then another flow or length."""
    packets = []
    for _ in range(draw(st.integers(1, 3))):
        port, size = draw(st.integers(6000, 6001)), draw(st.integers(0, 1500))
        data = random.Random(size).randbytes(size)
        datagram = build_udp(ENDS[0], 7, ENDS[1], port, data)
        packet = build_ipv4(*ENDS, IpProtocol.UDP, datagram, tos=draw(st.sampled_from((0, 0x28))))
        packets += [packet] * draw(st.integers(1, 70))
    return packets


steps = st.lists(
    st.one_of(super_packets, bursts(), st.sampled_from(("rekey", "linger"))), min_size=1, max_size=6
)


class Sides:
    """A plain pair of datapaths, and one that is driven in trains."""

    def __init__(self, suite, path, **changes):
        self.plain = Pair(suite, path=path, replay_window=128, **changes)
        self.train = Pair(suite, path=path, replay_window=128, **changes)
        self.sealer = TrainSealer(self.train.left)
        self.opener = TrainOpener(self.train.right)
        self.number, self.now, self.path = 1, 0.0, path
        self.trains = self.joined = 0

    def send(self, step):
        """What leaves the plain side, after it was compared with the other's."""
        self.now += 0.5
        if isinstance(step, str):
            for pair in (self.plain, self.train):
                self._rekey(pair, step)
            self.number += 1
            return []
        packets = list(segments_of(step)) if isinstance(step, SuperPacket) else step
        plain = [out for packet in packets for out in self.plain.left.send_packet(packet, self.now)]
        assert self._sealed(step) == plain
        assert state(self.train.left) == state(self.plain.left)
        return plain

    def _rekey(self, pair, step):
        pair.add_sa(self.number + 1, self.now)
        if step == "linger":
            old = pair.right_sa.spi_in[:3] + bytes([self.number])
            pair.right.remove_sa(old, self.now, linger=5.0)
            old = pair.left_sa.spi_in[:3] + bytes([self.number])
            pair.left.remove_sa(old, self.now)

    def _sealed(self, step):
        if isinstance(step, SuperPacket):
            return self._expanded(self.sealer.seal_super(step, self.now))
        found = []
        while step:
            found += self._expanded(self.sealer.seal_packets(step, self.now))
            step = step[self.sealer.taken :]
        return found

    def _expanded(self, outputs):
        found = []
        for output in outputs:
            self.trains += isinstance(output, SealedTrain | OpenedTrain)
            match output:
                case SealedTrain(None):
                    found += [SendPacket(packet) for packet in output.packets()]
                case SealedTrain(path):
                    found += [SendDatagram(path, packet) for packet in output.packets()]
                case OpenedTrain():
                    found += [DeliverPacket(packet) for packet in output.packets()]
                    joined = output.joined()
                    if joined is not None:
                        self.joined += 1
                        assert list(segments_of(joined)) == list(output.packets())
                case _:
                    found.append(output)
        return found

    def receive(self, datagrams, size):
        """A train of datagrams of `size` octets, the last one not longer."""
        self.now += 0.5
        path = reverse(PATH) if self.path is not None else None

        def singly(right, packet):
            if path is None:
                return right.receive_packet(packet, self.now)
            return right.receive_esp(packet, path, self.now)

        plain = [out for packet in datagrams for out in singly(self.plain.right, packet)]
        octets = b"".join(datagrams)
        self.opener.buffer[: len(octets)] = octets
        opened = self.opener.open(len(octets), size, path, self.now)
        found = self._expanded(opened)
        for esp in datagrams[self.opener.taken :]:
            found += singly(self.train.right, esp)
        assert found == plain
        assert state(self.train.right) == state(self.plain.right)


def state(datapath):
    """All that packets leave behind."""
    entries = [
        (
            [getattr(half, name) for half in (entry.inbound, entry.outbound) for name in HALF],
            (entry.outbound.sequence, entry.inbound.failures, entry.inbound.replay.top),
            entry.inbound.replay._blocks,
            entry.inbound.checked_flows,
            (entry.last_inbound, entry.last_outbound, entry.active, entry.refusal, entry.soft_told),
        )
        for entry in datapath.sad
    ]
    return datapath.counters.as_dict(), entries, datapath.next_deadline()


def octets_of(outputs):
    """What goes over the wire."""
    return [
        output.data if isinstance(output, SendDatagram) else output.packet
        for output in outputs
        if isinstance(output, SendDatagram | SendPacket)
    ]


def in_trains(datagrams, limit):
    """As generic receive offload groups them: one length, the last one shorter."""
    train = []
    for esp in datagrams:
        if train and (len(esp) > len(train[0]) or len(train[-1]) < len(train[0])):
            yield train
            train = []
        train.append(esp)
        if len(train) == limit or sum(map(len, train)) > 60_000:
            yield train
            train = []
    if train:
        yield train


def with_mischief(datagrams, kind, rng):
    """Replayed, forged, reordered or lost on the way."""
    changed = list(datagrams)
    for _ in range(3 if changed and kind != "none" else 0):
        at, other = rng.randrange(len(changed)), rng.randrange(len(changed))
        match kind:
            case "replayed":
                changed.insert(at, changed[other])
            case "forged":
                where = rng.randrange(len(changed[at]))
                octets = bytearray(changed[at])
                octets[where] ^= 1 << rng.randrange(8)
                changed[at] = bytes(octets)
            case "reordered":
                changed[at], changed[other] = changed[other], changed[at]
            case "lost" if len(changed) > 1:
                del changed[at]
    return changed


MISCHIEF = st.sampled_from(("none", "replayed", "forged", "reordered", "lost"))
FAST_SUITES = ("aes128gcm16", "aes256gcm16", "chacha20poly1305", "aes128ccm8")
SLOW_SUITES = ("aes128gcm8", "aes128-sha256")


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(FAST_SUITES + SLOW_SUITES),
    st.sampled_from((None, PATH)),
    st.booleans(),
    st.sampled_from((None, 30, 150)),
    steps,
    MISCHIEF,
    st.integers(0, 1000).map(random.Random),
)
def test_trains_are_what_packets_are(suite, path, esn, limit, wanted, kind, rng):
    soft = SaLimit(packets=limit)
    hard = SaLimit(packets=2 * limit if limit else None)
    sides = Sides(ALL_SUITES[suite], path, esn=esn, soft=soft, hard=hard)
    for step in wanted:
        datagrams = with_mischief(octets_of(sides.send(step)), kind, rng)
        for train in in_trains(datagrams, rng.choice((5, 64))):
            sides.receive(train, len(train[0]))


@pytest.mark.parametrize("suite", FAST_SUITES)
@pytest.mark.parametrize("esn", [False, True])
@pytest.mark.parametrize("path", [None, PATH], ids=["protocol-50", "udp"])
def test_a_settled_flow_goes_in_trains(suite, esn, path):
    sides = Sides(ALL_SUITES[suite], path, esn=esn)
    packet = super_packet(random.Random(1), udp=False, payload=50_000, size=1400, flags=0x18)
    for _ in range(3):
        datagrams = octets_of(sides.send(packet))
        sides.receive(datagrams, len(datagrams[0]))
    # All but the first, whose flow was new to both ends; what arrives is one packet again.
    assert sides.trains == 4
    assert sides.joined == 2


@pytest.mark.parametrize(("at", "octet"), [(0, 0x46), (1, 3), (6, 0x20), (9, 51)])
def test_a_packet_of_protocol_50_that_needs_a_look_gets_it(at, octet):
    sides = Sides(ALL_SUITES["aes128gcm16"], None)
    packet = super_packet(random.Random(1), udp=False, payload=50_000, size=1400)
    sides.receive(octets_of(sides.send(packet)), 0x10000)
    sent = octets_of(sides.send(packet))
    changed = bytearray(sent[5])
    changed[at] = octet
    trains = sides.trains
    sides.receive([*sent[:5], bytes(changed), *sent[6:]], len(sent[0]))
    assert sides.trains == trains


def test_udp_is_joined_where_its_packets_are_numbered():
    packet = super_packet(random.Random(3), udp=True, payload=20_500, size=1000)
    packets = list(segments_of(packet))
    joined = join(*rows_of(packets))
    assert joined is not None
    assert list(segments_of(joined)) == packets
    assert join(*rows_of([packets[0], *packets])) is None
    without = [segment[:26] + b"\0\0" + segment[28:] for segment in packets]
    assert join(*rows_of(without)) is None


def rows_of(packets):
    size = len(packets[0])
    octets = b"".join(packet.ljust(size, b"\0") for packet in packets)
    return np.frombuffer(octets, np.uint8).reshape(len(packets), size).copy(), len(packets[-1])


@given(super_packets)
@settings(deadline=None, max_examples=60)
def test_joining_undoes_cutting(packet):
    packets = list(segments_of(packet))
    joined = join(*rows_of(packets))
    if joined is not None:
        assert list(segments_of(joined)) == packets


def test_joined_packet_has_the_sum_of_its_pseudo_header():
    packet = super_packet(random.Random(2), udp=False, payload=10_000, size=1000, flags=0x18)
    joined = join(*rows_of(list(segments_of(packet))))
    assert joined is not None
    segment = joined.octets[20:]
    # What the kernel does with it: the sum over the segment, with what is in the field.
    partial = int.from_bytes(segment[16:18], "big")
    rest = pseudo_header_checksum(bytes(4), bytes(4), 0, segment[:16] + b"\0\0" + segment[18:])
    whole = (0xFFFF - rest - len(segment) + partial) % 0xFFFF
    full = pseudo_header_checksum(*ENDS, 6, segment[:16] + b"\0\0" + segment[18:])
    assert (0xFFFF - whole - full) % 0xFFFF == 0


@pytest.mark.parametrize("at", [8, 10, 30, 33, 36, 45, 700])
def test_what_joining_would_mend_stays_apart(at):
    packet = super_packet(random.Random(2), udp=False, payload=10_000, size=1000)
    packets = [bytearray(segment) for segment in segments_of(packet)]
    packets[3][at] ^= 0x41
    assert join(*rows_of([bytes(segment) for segment in packets])) is None


def opened_train(count, size):
    """What `count` segments of one super-packet are opened to, and they themselves."""
    whole = super_packet(random.Random(count), udp=False, payload=size * count, size=size)
    packets = list(segments_of(whole))
    rows = np.frombuffer(b"".join(packets), np.uint8).reshape(count, -1)
    return OpenedTrain(rows, rows.shape[1]), packets


def test_a_train_that_fits_one_super_packet_stays_whole():
    train, packets = opened_train(47, 1386)
    (part,) = train.parts()
    assert list(segments_of(part.joined())) == packets


def test_a_train_beyond_one_super_packet_goes_in_parts():
    train, packets = opened_train(47, 1386)
    rows = np.concatenate([train.rows, train.rows[:20]])
    parts = list(OpenedTrain(rows, train.last).parts())
    assert [len(part.rows) for part in parts] == [47, 20]
    found = [packet for part in parts for packet in segments_of(part.joined())]
    assert found == packets + packets[:20]


def test_nonces_of_old_halves_are_let_go():
    sides = Sides(ALL_SUITES["aes128gcm16"], PATH)
    step = super_packet(random.Random(1), udp=False, payload=9000, size=1000)
    for _ in range(3 * HALVES):
        sides.send(step)  # the first of its flow under this SA goes packet by packet
        sides.send(step)
        sides.send("rekey")
    assert sides.trains >= 3 * HALVES
    assert len(sides.sealer._keyed._by_half) == HALVES
