"""A gateway that suffers from faults: what comes in and goes out passes through them.

It is driven as any `Gateway`, in every world. Flow faults decide when and whether a message passes,
content faults change what it says before it leaves, behaviour faults keep from the IKE endpoint
what it should act on. Each time a fault strikes, a `fault` notice says so.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple, cast

from typing_extensions import override

from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import NAT_T_PORT
from ipseclab.ike.endpoint import IkeEndpoint
from ipseclab.ike.events import IkeOutput
from ipseclab.ike.natt import NON_ESP_MARKER
from ipseclab.ike.protection import FLAG_RESPONSE
from ipseclab.lab.faults.content import FLAGS_AT, Sealer, change
from ipseclab.lab.faults.fault import BEHAVIOUR, CONTENT, Fault, MessageKind, Traffic
from ipseclab.outputs import (
    Deadline,
    IkeKeyLog,
    Notice,
    Output,
    SendDatagram,
    SendMessage,
    SendPacket,
    TcpPath,
    UdpPath,
)
from ipseclab.registry import ExchangeType, IpProtocol
from ipseclab.wire.ip import IPV4_HEADER_SIZE, checksum
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE
from ipseclab.wire.message import HEADER_SIZE

if TYPE_CHECKING:
    from ipseclab.gateway import _Anything

REMEMBERED = 64
"""Requests that a gateway without retransmissions knows again, and messages changed before."""
MOST_HELD = 1024
"""Messages held back or under way again; beyond them the oldest held one is lost."""
SHORTEST_ESP = 8

_EXCHANGE_AT = 18
_PROTECTED = (int(IpProtocol.ESP), int(IpProtocol.AH))


class Message(NamedTuple):
    """A message that passes: as octets without marker and header below, and what it is."""

    traffic: Traffic
    octets: bytes
    exchange: int | None = None
    kind: MessageKind | None = None


class _Changed(NamedTuple):
    """What a message became, and the faults that had something to change."""

    octets: bytes
    by: tuple[Fault, ...]


class _Held(NamedTuple):
    """Something that waits for its time (inf: for later messages)."""

    at: float
    order: int
    out: bool
    item: SendDatagram | SendPacket


def gateway_with(
    config: GatewayConfig, faults: Iterable[Fault], *, rng: random.Random, seed: int
) -> Gateway:
    """The gateway of that configuration, with those of the faults that are its own."""
    own = tuple(fault for fault in faults if fault.node == config.ike.name)
    if not own:
        return Gateway(config, rng=rng)
    return FaultyGateway(config, own, rng=rng, fault_rng=random.Random(f"faults {seed}"))


class FaultyGateway(Gateway):
    """A gateway with faults; `fault_rng` draws which octet is corrupted."""

    def __init__(
        self,
        config: GatewayConfig,
        faults: Sequence[Fault],
        *,
        rng: random.Random,
        fault_rng: random.Random,
    ) -> None:
        super().__init__(config, rng=rng)
        self._flow = [fault for fault in faults if fault.do not in (*CONTENT, *BEHAVIOUR)]
        self._content = [fault for fault in faults if fault.do in CONTENT]
        self._behaviour = {fault.do: fault for fault in faults if fault.do in BEHAVIOUR}
        self._fault_rng = fault_rng
        self._sealer = Sealer(fault_rng)
        self._met: Counter[str] = Counter()
        self._blocked_since: dict[str, float] = {}
        self._waiting: dict[str, list[tuple[int, _Held]]] = {}
        self._heap: list[_Held] = []
        self._order = 0
        self._sent_requests: deque[bytes] = deque(maxlen=REMEMBERED)
        self._changed: dict[bytes, _Changed] = {}
        self._results: dict[bytes, bytes] = {}
        """What they were changed to, which is not to be changed again when it is repeated."""
        self._deafen()

    def _deafen(self) -> None:
        deaf = Deaf(
            self.ike,
            soft="ignore_soft_expiry" in self._behaviour,
            hard="ignore_hard_expiry" in self._behaviour,
        )
        self.ike = cast(IkeEndpoint, deaf)

    @override
    def restart(self, now: float) -> list[Output]:
        outputs = super().restart(now)
        self._deafen()
        return outputs

    # What comes in.

    @override
    def receive_datagram(self, path: UdpPath, data: bytes, now: float) -> list[Output]:
        return self._receive(SendDatagram(path, data), now)

    @override
    def receive_packet(self, packet: bytes, now: float) -> list[Output]:
        return self._receive(SendPacket(packet), now)

    @override
    def next_deadline(self) -> Deadline | None:
        own = super().next_deadline()
        if not self._heap or (own is not None and own.at <= self._heap[0].at):
            return own
        return Deadline(self._heap[0].at, "fault")

    @override
    def handle_timeout(self, now: float) -> list[Output]:
        outputs: list[Output] = []
        while self._heap and self._heap[0].at <= now:
            held = heappop(self._heap)
            outputs += self._let_out(held.item, now) if held.out else self._take_in(held.item, now)
        own = super().next_deadline()
        if own is not None and own.at <= now:
            outputs += super().handle_timeout(now)
        return outputs

    def _receive(self, item: SendDatagram | SendPacket, now: float) -> list[Output]:
        """An arriving item is held in the shape of what was sent; its path is our own."""
        outputs: list[Output] = []
        for passing in self._through_flow(item, False, outputs, now):
            outputs += self._take_in(passing, now)
        return outputs

    def _take_in(self, item: SendDatagram | SendPacket, now: float) -> list[Output]:
        if isinstance(item, SendDatagram):
            return super().receive_datagram(item.path, item.data, now)
        return super().receive_packet(item.packet, now)

    # What goes out: all of it comes by here.

    @override
    def _settle(self, events: Sequence[_Anything], now: float) -> list[Output]:
        outputs: list[Output] = []
        for output in super()._settle(events, now):
            if isinstance(output, IkeKeyLog):
                self._sealer.learn(output)
            if isinstance(output, SendDatagram | SendPacket):
                passing: list[Output] = []
                self._send(output, passing, now)
                outputs += [kept for one in passing for kept in self._let_out(one, now)]
            else:
                outputs.append(output)
        return outputs

    @override
    def _put_in_stream(self, message: SendMessage, now: float) -> list[Output]:
        outputs: list[Output] = []
        self._send(SendDatagram(message.path, message.data), outputs, now)
        return [kept for one in outputs for kept in self._let_out(one, now)]

    def _let_out(self, item: Output, now: float) -> list[Output]:
        """What passes, in the stream of a TCP connection where it goes there."""
        if isinstance(item, SendDatagram) and isinstance(item.path, TcpPath):
            return super()._put_in_stream(SendMessage(item.path, item.data), now)
        return [item]

    def _send(self, item: SendDatagram | SendPacket, outputs: list[Output], now: float) -> None:
        message = _message_of(item)
        if message is not None and self._repeats(message):
            outputs.append(self._notice(self._behaviour["no_retransmission"], message))
            return
        if message is not None and message.traffic == "ike":
            item = self._with_content(item, message, outputs)
        outputs += self._through_flow(item, True, outputs, now)

    def _repeats(self, message: Message) -> bool:
        """True for a request that went out before, when there are to be no retransmissions."""
        if "no_retransmission" not in self._behaviour or message.kind != "request":
            return False
        if message.octets in self._sent_requests:
            return True
        self._sent_requests.append(message.octets)
        return False

    # Content.

    def _with_content(
        self, item: SendDatagram | SendPacket, message: Message, outputs: list[Output]
    ) -> SendDatagram | SendPacket:
        """The item with its IKE message changed by every content fault that meets it.

        A message that is sent again is changed the same way, octet for octet (RFC 7296 2.1).
        """
        assert isinstance(item, SendDatagram)
        original = message.octets
        if original in self._results:
            return item
        meant = [fault for fault in self._content if self._meets(fault, message, True)]
        changed = self._changed.get(original) if meant else None
        if changed is None:
            changed = self._rewritten(original, meant)
        if original[_EXCHANGE_AT] == ExchangeType.IKE_SA_INIT:
            self._sign(original, changed.octets)
        if not changed.by:
            return item
        outputs.extend(self._notice(fault, message) for fault in changed.by)
        self._remember(original, changed)
        marker = item.data[: len(item.data) - len(original)]
        return SendDatagram(item.path, marker + changed.octets)

    def _rewritten(self, octets: bytes, faults: Sequence[Fault]) -> _Changed:
        parts = self._sealer.take_apart(octets) if faults else None
        if parts is None:
            return _Changed(octets, ())
        by: list[Fault] = []
        for fault in faults:
            before, parts = parts, change(parts, fault)
            if parts != before:
                by.append(fault)
        return _Changed(self._sealer.put_together(parts) if by else octets, tuple(by))

    def _sign(self, original: bytes, octets: bytes) -> None:
        """AUTH covers IKE_SA_INIT as the peer gets it: only what the fault says is to be wrong."""
        before = self._changed.get(original)
        versions = (original, before.octets if before is not None else original)
        for sa in self.ike.ike_sas:
            if sa.init_request in versions:
                sa.init_request = octets
            elif sa.init_response in versions:
                sa.init_response = octets

    def _remember(self, original: bytes, changed: _Changed) -> None:
        self._changed[original] = changed
        self._results[changed.octets] = original
        if len(self._changed) > REMEMBERED:
            oldest = self._changed.pop(next(iter(self._changed)))
            self._results.pop(oldest.octets, None)

    # Flow.

    def _through_flow(
        self, item: SendDatagram | SendPacket, out: bool, outputs: list[Output], now: float
    ) -> list[SendDatagram | SendPacket]:
        """What passes now, in order; the rest is lost or held."""
        message = _message_of(item)
        if message is None:
            return [item]
        struck = [fault for fault in self._flow if self._meets(fault, message, out, now)]
        outputs.extend(self._notice(fault, message) for fault in struck)
        passing: list[SendDatagram | SendPacket] = [item]
        for fault in struck:
            passing = [kept for one in passing for kept in self._strike(fault, one, out, now)]
        return passing + self._released(struck, message, out)

    def _strike(
        self, fault: Fault, item: SendDatagram | SendPacket, out: bool, now: float
    ) -> list[SendDatagram | SendPacket]:
        """What of an item passes at once."""
        match fault.do:
            case "duplicate":
                return [item, item]
            case "replay":
                self._hold_until(now + fault.delay, item, out)
                return [item]
            case "delay" | "answer_late":
                self._hold_until(now + fault.delay, item, out)
                return []
            case "hold" | "reorder":
                self._order += 1
                held = _Held(now, self._order, out, item)
                waiting = self._waiting.setdefault(fault.name, [])
                waiting.append((1 if fault.do == "reorder" else fault.after, held))
                del waiting[:-MOST_HELD]
                return []
            case "corrupt":
                return [self._corrupted(item, fault)]
            case "truncate":
                return [_with_octets(item, lambda octets: octets[: fault.octets])]
            case _:  # drop, block
                return []

    def _hold_until(self, at: float, item: SendDatagram | SendPacket, out: bool) -> None:
        if len(self._heap) < MOST_HELD:
            self._order += 1
            heappush(self._heap, _Held(at, self._order, out, item))

    def _released(
        self, struck: Sequence[Fault], message: Message, out: bool
    ) -> list[SendDatagram | SendPacket]:
        """What has waited for enough later messages of its kind and direction."""
        free: list[SendDatagram | SendPacket] = []
        for fault in self._flow:
            meant = fault.traffic == message.traffic and (fault.direction == "out") is out
            if not meant or fault in struck or fault.name not in self._waiting:
                continue
            counted = [(left - 1, held) for left, held in self._waiting[fault.name]]
            free += [held.item for left, held in counted if left <= 0]
            self._waiting[fault.name] = [(left, held) for left, held in counted if left > 0]
        return free

    def _corrupted(
        self, item: SendDatagram | SendPacket, fault: Fault
    ) -> SendDatagram | SendPacket:
        def flip(octets: bytes) -> bytes:
            at = fault.octet if fault.octet is not None else self._fault_rng.randrange(len(octets))
            if not -len(octets) <= at < len(octets):
                return octets
            damaged = bytearray(octets)
            damaged[at] ^= 1
            return bytes(damaged)

        return _with_octets(item, flip)

    # Which messages are meant.

    def _meets(self, fault: Fault, message: Message, out: bool, now: float = 0.0) -> bool:
        kind = "response" if fault.do == "answer_late" else fault.kind
        if (
            fault.traffic != message.traffic
            or (fault.direction == "out") is not out
            or (kind is not None and kind != message.kind)
            or (fault.exchange is not None and ExchangeType[fault.exchange] != message.exchange)
        ):
            return False
        self._met[fault.name] += 1
        if fault.do == "block":
            return self._blocks(fault, now)
        return not fault.nth or self._met[fault.name] in fault.nth

    def _blocks(self, fault: Fault, now: float) -> bool:
        """From the first message meant on, for as long as the fault says."""
        if self._met[fault.name] < min(fault.nth, default=1):
            return False
        since = self._blocked_since.setdefault(fault.name, now)
        return not fault.delay or now - since < fault.delay

    def _notice(self, fault: Fault, message: Message) -> Notice:
        exchange = ExchangeType(message.exchange).name if message.exchange is not None else None
        return Notice(
            "fault",
            {
                "fault": fault.name,
                "does": fault.do,
                "traffic": message.traffic,
                "exchange": exchange,
                "kind": message.kind,
            },
        )


class Deaf:
    """An IKE endpoint that does not hear of CHILD_SAs that expire; in all else the one it has."""

    def __init__(self, endpoint: IkeEndpoint, *, soft: bool, hard: bool) -> None:
        self._endpoint = endpoint
        self._soft = soft
        self._hard = hard

    def __getattr__(self, name: str) -> object:
        return getattr(self._endpoint, name)

    def child_soft_expired(self, spi_in: bytes, now: float) -> list[IkeOutput]:
        """Nothing, or what the endpoint does."""
        return [] if self._soft else self._endpoint.child_soft_expired(spi_in, now)

    def child_hard_expired(self, spi_in: bytes, now: float) -> list[IkeOutput]:
        """Nothing, or what the endpoint does."""
        return [] if self._hard else self._endpoint.child_hard_expired(spi_in, now)


def _message_of(item: SendDatagram | SendPacket) -> Message | None:
    """What passes: IKE, or ESP or AH (both are `esp`); None for plain packets, keepalives and other
    small things."""
    if isinstance(item, SendPacket):
        start = _header_size(item.packet)
        return Message("esp", item.packet[start:]) if start else None
    octets = item.data
    if item.path.local.port == NAT_T_PORT or isinstance(item.path, TcpPath):
        if not octets.startswith(NON_ESP_MARKER):
            return Message("esp", octets) if len(octets) >= SHORTEST_ESP else None
        octets = octets[len(NON_ESP_MARKER) :]
    if len(octets) < HEADER_SIZE:
        return None
    kind: MessageKind = "response" if octets[FLAGS_AT] & FLAG_RESPONSE else "request"
    return Message("ike", octets, octets[_EXCHANGE_AT], kind)


def _header_size(packet: bytes) -> int:
    """Octets of the IP header in front of ESP or AH; 0 where there is neither."""
    if packet[0] >> 4 == 6:
        return IPV6_HEADER_SIZE if packet[6] in _PROTECTED else 0
    return IPV4_HEADER_SIZE if packet[9] in _PROTECTED else 0


def _with_octets(
    item: SendDatagram | SendPacket, edit: Callable[[bytes], bytes]
) -> SendDatagram | SendPacket:
    """The item with the octets of its IKE message, ESP or AH packet edited."""
    message = _message_of(item)
    if message is None:
        return item  # another fault has left too little of it
    if isinstance(item, SendDatagram):
        before = len(item.data) - len(message.octets)
        return SendDatagram(item.path, item.data[:before] + edit(message.octets))
    payload = edit(message.octets)
    header = bytearray(item.packet[: _header_size(item.packet)])
    if len(header) == IPV6_HEADER_SIZE:
        header[4:6] = len(payload).to_bytes(2, "big")
        return SendPacket(bytes(header) + payload)
    header[2:4] = (IPV4_HEADER_SIZE + len(payload)).to_bytes(2, "big")
    header[10:12] = bytes(2)
    header[10:12] = checksum(bytes(header)).to_bytes(2, "big")
    return SendPacket(bytes(header) + payload)
