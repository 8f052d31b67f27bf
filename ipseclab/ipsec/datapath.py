"""The IPsec datapath: each packet through SPD, SAD and ESP or AH, in either direction.

RFC 4301 section 5 (processing), RFC 4303 (ESP), RFC 4302 (AH), RFC 3948 (ESP in UDP), RFC 7296
section 2.8 (when a new SA takes over). No input from the network raises: what cannot be processed
is dropped under a `DropReason`, counted, and told in a `Notice`.

    send_packet --> flow cache ---------------------------+
                      | miss                              v
                      v                                  SA --> seal --> SendPacket, SendDatagram
                     SPD --> PROTECT --> SAD -------------^
                      |                   | none: park, Acquire
                      +--> BYPASS, DISCARD

    receive_packet, receive_esp --> SAD by SPI --> open --> selectors of the SA --> DeliverPacket
                   plain packet --> SPD --> BYPASS alone
                   IKE in IP fragments --> put together --> OwnDatagram
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from math import inf
from typing import assert_never

from ipseclab.errors import WireError
from ipseclab.ipsec import ipv4, ipv6
from ipseclab.ipsec.ah import open_ah
from ipseclab.ipsec.constant_rate import FixedRate
from ipseclab.ipsec.counters import INBOUND, OUTBOUND, Counters, Dropped, DropReason
from ipseclab.ipsec.dummies import Dummies
from ipseclab.ipsec.encapsulation import decapsulate, encapsulate, outbound_key
from ipseclab.ipsec.esp import open_esp
from ipseclab.ipsec.events import Acquire, DatapathOutput, OwnDatagram, PeerSeen
from ipseclab.ipsec.flows import FlowCache, of_flow
from ipseclab.ipsec.fragment_flows import FragmentFlows
from ipseclab.ipsec.fragments import Reassembler, fragments_of, is_fragment
from ipseclab.ipsec.lifetimes import Lifetimes
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.park import AcquirePace, Parked, ParkingLot
from ipseclab.ipsec.path_mtu import Way, learn_path_mtu, refuse, way_of
from ipseclab.ipsec.plain import read_datagram, refusal_of_plain
from ipseclab.ipsec.sad import SPI_SIZE, Sad, SadEntry, SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.ipsec.timers import TimerKind
from ipseclab.outputs import Deadline, DeliverPacket, Notice, SendPacket, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.timers import Timers
from ipseclab.wire.ip import IPV4_HEADER_SIZE, Flow, Ipv4Header
from ipseclab.wire.ipv6 import Ipv6Header, decode_ip_header, flow_of_packet, packet_length

_NO_SPI = b""
_NO_NEXT_HEADER = int(IpProtocol.NO_NEXT_HEADER)


class Datapath:
    """One gateway's ESP. Every call returns what is to be done, in order."""

    def __init__(
        self,
        spd: Spd,
        *,
        rng: random.Random,
        limits: DatapathLimits | None = None,
        own: Collection[tuple[bytes, int]] = (),
    ) -> None:
        """`own`: addresses and ports of this end whose datagrams are not the SPD's business."""
        self.spd = spd
        self._own = frozenset(own)
        self._own_addresses = frozenset(address for address, _ in own)
        self.sad = Sad()
        self.counters = Counters()
        self._rng = rng
        self._limits = limits if limits is not None else DatapathLimits()
        self._flows = FlowCache()
        self.carrier = self._flows.find
        """The entry that carries the flow of an `ipv4.flow_key`; None when that is not settled."""
        stateful = spd.stateful_fragments
        self._flow_out = FragmentFlows().flow_of if stateful else flow_of_packet
        self._flow_in = FragmentFlows().flow_of if stateful else flow_of_packet
        self._parked = ParkingLot(self._limits.parked_packets, self._limits.parked_octets)
        self._pieces, self._own_pieces = (
            Reassembler(
                self._limits.reassembled_packets,
                self._limits.reassembled_octets,
                self._limits.reassembly_seconds,
            )
            for _direction in (INBOUND, OUTBOUND)
        )
        self._timers: Timers[bytes | str, TimerKind] = Timers()
        self._lifetimes = Lifetimes(self._timers)
        self._dummies = Dummies(self.sad, self._timers, self.counters, rng)
        self._fixed_rate = FixedRate(self.sad, self._timers, self.counters, self._lifetimes, rng)
        self._pace = AcquirePace(self._limits.acquire_interval)

    # -- the SAs ---------------------------------------------------------------------------------

    def add_sa(
        self,
        parameters: SaParameters,
        now: float,
        *,
        use_outbound: bool = True,
        hold: float = inf,
    ) -> list[DatapathOutput]:
        """Install both halves. The inbound half accepts at once; the outbound half carries traffic
        at once with `use_outbound`, else from `use_outbound()` or the first valid inbound packet on
        (RFC 7296 section 2.8), and then sends what was parked. When there is no other SA, it waits
        for neither longer than `hold` seconds, if that is less than the limit of all."""
        known = self.sad.inbound(parameters.spi_in)
        if known is not None and known.lingering:
            # IKE has forgotten this one and may draw its SPI again.
            self.remove_sa(parameters.spi_in, now)
        entry = SadEntry(parameters, now, self.spd.processing(parameters.policy))
        entry.fragment_flows = FragmentFlows() if self.spd.stateful_fragments else None
        entry.icmp_errors = self.spd.icmp_errors
        self.sad.add(entry)
        if parameters.soft.seconds is not None:
            at = now + parameters.soft.seconds
            self._timers.set(parameters.spi_in, TimerKind.SOFT_LIFETIME, at)
        if entry.hard_at != inf:
            self._timers.set(parameters.spi_in, TimerKind.HARD_LIFETIME, entry.hard_at)
        if use_outbound:
            return self._activate(entry, now)
        entry.activate_at = now + min(hold, self._limits.activate_seconds)
        if self._parked.next_expiry(parameters.policy) is not None:
            self._timers.set(parameters.spi_in, TimerKind.ACTIVATE, entry.activate_at)
        return []

    def use_outbound(self, spi_in: bytes, now: float) -> list[DatapathOutput]:
        """Let this SA carry outbound traffic; nothing happens when it does or is gone."""
        entry = self.sad.inbound(spi_in)
        if entry is None or entry.active or entry.lingering or entry.refusal is not None:
            return []
        return self._activate(entry, now)

    def remove_sa(self, spi_in: bytes, now: float, *, linger: float = 0.0) -> list[DatapathOutput]:
        """Take away the outbound half at once, the inbound half after `linger` seconds, so that
        packets on their way still arrive. An SPI that names no SA is ignored."""
        entry = self.sad.inbound(spi_in)
        if entry is None:
            return []
        self._flows.forget(entry.parameters.policy)
        for kind in TimerKind:
            self._timers.cancel(spi_in, kind)
        entry.next_block_at = None
        if linger > 0.0:
            entry.lingering = entry.soft_told = True
            entry.set_marks()
            self.sad.remove_outbound(entry)
            self._timers.set(spi_in, TimerKind.LINGER, now + linger)
        else:
            self.sad.remove(entry)
        if entry.blocks_out is None:
            return []
        outputs, left = self._fixed_rate.hand_over(entry, now)
        for packet in left:
            outputs += self._send_new_flow(packet, now)
        return outputs

    def replace_policies(self, policies: Sequence[Policy]) -> None:
        """Other policies from now on; SAs that are there keep what they were made for."""
        self.spd = self.spd.with_policies(policies)
        for policy in policies:
            self._flows.forget(policy.name)

    def move(self, spi_in: bytes, path: UdpPath, *, in_udp: bool) -> None:
        """Send along another path from now on (RFC 7296 section 2.23, RFC 4555 section 3.5)."""
        entry = self.sad.inbound(spi_in)
        if entry is not None:
            entry.move(path, in_udp=in_udp)

    def has_sa(self, spi_in: bytes) -> bool:
        """True while there is an SA of that inbound SPI, a lingering one included."""
        return self.sad.inbound(spi_in) is not None

    @property
    def table_sizes(self) -> Mapping[str, int]:
        """Entries of each table: none grows without limit."""
        return {"sad": len(self.sad), "timers": len(self._timers), "parked": len(self._parked)}

    def last_inbound(self, spi_in: bytes) -> float | None:
        """When a valid packet last came on this SA; None for never, or when there is no such SA."""
        entry = self.sad.inbound(spi_in)
        return entry.last_inbound if entry is not None else None

    def last_outbound(self, spi_in: bytes) -> float | None:
        """When a packet was last sent on this SA; None for never, or when there is no such SA."""
        entry = self.sad.inbound(spi_in)
        return entry.last_outbound if entry is not None else None

    def _activate(self, entry: SadEntry, now: float) -> list[DatapathOutput]:
        p = entry.parameters
        entry.active = True
        self._timers.cancel(p.spi_in, TimerKind.ACTIVATE)
        self._flows.forget(p.policy)
        self._pace.forget(p.policy)
        details = {"spi_in": p.spi_in.hex(), "spi_out": p.spi_out.hex()}
        outputs: list[DatapathOutput] = [Notice("child_active", details)]
        self._dummies.arm(entry, now)
        if entry.blocks_out is not None:
            outputs += self._fixed_rate.change_sender(entry, now)
        for parked in self._parked.take(p.policy):
            if entry.refusal is None and entry.covers(parked.flow):
                outputs += self._protect(entry, parked.packet, now)
            else:
                self._parked.add(p.policy, parked)
        self._arm_park(p.policy)
        waiting = self._parked.first(p.policy)
        if waiting is not None and not self.sad.covering(p.policy, waiting.flow):
            # This SA was narrowed (RFC 7296 section 2.9), and what still waits needs one more.
            outputs += self._acquire(p.policy, p.connection, waiting.flow, now, again=True)
        return outputs

    # -- outbound --------------------------------------------------------------------------------

    def send_packet(self, packet: bytes, now: float) -> list[DatapathOutput]:
        """A plain IP packet on its way out (RFC 4301 section 5.1)."""
        entry = self._flows.find(ipv4.flow_key(packet))
        if entry is None and packet[:1] and packet[0] >> 4 == 6:
            entry = self._flows.find(ipv6.flow_key(packet))
        if entry is not None and now < entry.hard_at:
            if entry.shaped:
                return self._protect_shaped(entry, packet, now)
            return self._seal(entry, packet, now)
        return self._send_new_flow(packet, now)

    def _send_new_flow(self, packet: bytes, now: float) -> list[DatapathOutput]:
        try:
            packet = packet[: packet_length(packet)]
            flow = self._flow_out(packet)
        except WireError:
            return [self._dropped(DropReason.MALFORMED, OUTBOUND, packet)]
        except Dropped as drop:
            return [self._dropped(drop.reason, OUTBOUND, packet)]
        policy, flow = self.spd.outbound_of(packet, flow)
        if policy is None:
            return [self._dropped(DropReason.NO_POLICY, OUTBOUND, packet)]
        match policy.action:
            case Action.DISCARD:
                return [self._dropped(DropReason.POLICY_DISCARD, OUTBOUND, packet)]
            case Action.BYPASS:
                self.counters.bypassed_out += 1
                return [SendPacket(packet)]
            case Action.PROTECT:
                return self._protect_new_flow(policy, flow, packet, now)
            case _:
                assert_never(policy.action)

    def _protect_new_flow(
        self, policy: Policy, flow: Flow, packet: bytes, now: float
    ) -> list[DatapathOutput]:
        outputs: list[DatapathOutput] = []
        covering = self.sad.covering(policy.name, flow)
        for entry in covering:
            if now >= entry.hard_at:
                outputs += self._lifetimes.expire(entry, "seconds")
        usable = [entry for entry in covering if entry.refusal is None]
        if active := [entry for entry in usable if entry.active]:
            entry = of_flow(active, flow)
            if key := outbound_key(entry, packet):
                self._flows.remember(key, entry)
            return outputs + self._protect(entry, packet, now)
        if usable:
            # The one that may be used first: of a newer one the peer may not know yet.
            waiting = min(usable, key=lambda entry: entry.activate_at)
            return outputs + self._await_peer(waiting, policy, flow, packet, now)
        if covering:
            reason = covering[0].refusal
            assert reason is not None
            return [*outputs, self._dropped(reason, OUTBOUND, packet)]
        assert policy.connection is not None
        acquire = self._acquire(policy.name, policy.connection, flow, now)
        return acquire + self._park(policy, flow, packet, now)

    def _await_peer(
        self, entry: SadEntry, policy: Policy, flow: Flow, packet: bytes, now: float
    ) -> list[DatapathOutput]:
        """There is an SA, but the peer has not used it yet: RFC 7296 section 2.8 lets the responder
        hold back until it does "or a timeout has occurred"."""
        if now >= entry.activate_at:
            return self._activate(entry, now) + self._protect(entry, packet, now)
        self._timers.set(entry.parameters.spi_in, TimerKind.ACTIVATE, entry.activate_at)
        return self._park(policy, flow, packet, now)

    def _acquire(
        self, policy: str, connection: str, flow: Flow, now: float, *, again: bool = False
    ) -> list[DatapathOutput]:
        """Ask for an SA, once an interval for a policy, and `again` once an interval for a flow
        that the SA which came does not carry."""
        if not self._pace.may(policy, flow if again else None, now):
            return []
        self._pace.note(policy, flow, now)
        self.counters.acquires += 1
        return [Acquire(policy, connection, flow)]

    def _park(self, policy: Policy, flow: Flow, packet: bytes, now: float) -> list[DatapathOutput]:
        if not self._limits.parked_packets:
            return [self._dropped(DropReason.NO_OUTBOUND_SA, OUTBOUND, packet)]
        parked = Parked(packet, flow, now + self._limits.park_seconds)
        if not self._parked.add(policy.name, parked):
            return [self._dropped(DropReason.PARK_FULL, OUTBOUND, packet)]
        self.counters.parked += 1
        self._arm_park(policy.name)
        return []

    def _protect(self, entry: SadEntry, packet: bytes, now: float) -> list[DatapathOutput]:
        if not entry.parameters.tunnel and is_fragment(packet):
            return self._protect_in_pieces(entry, packet, now)
        if entry.shaped:
            return self._protect_shaped(entry, packet, now)
        return self._seal(entry, packet, now)

    def _protect_shaped(self, entry: SadEntry, packet: bytes, now: float) -> list[DatapathOutput]:
        """A packet for an SA that looks at sizes (RFC 4301 section 8), or sends at a fixed rate."""
        if entry.blocks_out is not None:
            return self._fixed_rate.await_turn(entry, packet)
        way, packet, limit = way_of(entry, packet, now)
        match way:
            case Way.WHOLE:
                return self._seal(entry, packet, now)
            case Way.INNER_PIECES:
                pieces = fragments_of(packet, limit)
                return [output for piece in pieces for output in self._seal(entry, piece, now)]
            case Way.OUTER_PIECES:
                return self._seal_in_pieces(entry, packet, limit, now)
            case Way.REFUSED:
                return refuse(self.counters, packet, limit)
            case _:
                assert_never(way)

    def _protect_in_pieces(
        self, entry: SadEntry, fragment: bytes, now: float
    ) -> list[DatapathOutput]:
        """Transport mode is for whole packets (RFC 4303 section 3.3.4): what the host's own stack
        has cut up is put together first, and what comes of it cut up again."""
        outputs = self._expire_fragments(now)
        try:
            whole = self._own_pieces.add(fragment, now)
        except Dropped as drop:
            return [*outputs, self._dropped(drop.reason, OUTBOUND, fragment)]
        self._arm_reassembly()
        if whole is None:
            return outputs
        if entry.path_mtu is None:
            return outputs + self._seal(entry, whole, now)
        return outputs + self._seal_in_pieces(entry, whole, entry.path_mtu, now)

    def _seal_in_pieces(
        self, entry: SadEntry, packet: bytes, limit: int, now: float
    ) -> list[DatapathOutput]:
        """Sealed, then fragmented; a datagram's fragments are the business of whoever sends it."""
        return [
            piece
            for output in self._seal(entry, packet, now)
            for piece in (
                map(SendPacket, fragments_of(output.packet, limit, entry.outbound.sequence))
                if isinstance(output, SendPacket)
                else (output,)
            )
        ]

    def _seal(self, entry: SadEntry, packet: bytes, now: float) -> list[DatapathOutput]:
        try:
            output: DatapathOutput = encapsulate(entry, packet, self._rng)
        except Dropped as drop:
            outputs: list[DatapathOutput] = [self._dropped(drop.reason, OUTBOUND, packet)]
            if drop.reason is DropReason.SEQUENCE_EXHAUSTED:
                outputs += self._lifetimes.expire(entry, "sequence", DropReason.SEQUENCE_EXHAUSTED)
            return outputs
        entry.last_outbound = now
        counters, half = self.counters, entry.outbound
        counters.packets_out += 1
        counters.octets_out += len(packet)
        if half.packets >= half.packet_mark or half.octets >= half.octet_mark:
            return [output, *self._lifetimes.volume_reached(entry)]
        return [output]

    # -- inbound ---------------------------------------------------------------------------------

    def receive_packet(self, packet: bytes, now: float) -> list[DatapathOutput]:
        """A whole IP packet from the unprotected side: ESP as protocol 50, AH, or a plain one."""
        if ipv4.is_plain_esp(packet):
            return self._receive_esp(
                packet[IPV4_HEADER_SIZE:], packet[:IPV4_HEADER_SIZE], None, now
            )
        try:
            header = decode_ip_header(packet)
        except WireError:
            return [self._dropped(DropReason.MALFORMED, INBOUND, packet)]
        packet = packet[: header.total_length]
        if header.protocol not in (IpProtocol.ESP, IpProtocol.AH):
            if header.destination in self._own_addresses and header.protocol == IpProtocol.UDP:
                return self._receive_own(header, packet, now)
            return self._receive_plain(packet, now)
        if header.is_fragment:
            return self._receive_fragment(packet, now)
        start = header.header_length
        if header.protocol == IpProtocol.AH:
            return self._receive_ah(packet, start, now)
        return self._receive_esp(packet[start:], packet[:start], None, now)

    def receive_esp(self, esp: bytes, path: UdpPath, now: float) -> list[DatapathOutput]:
        """An ESP packet that came in UDP along `path` (RFC 3948)."""
        return self._receive_esp(esp, b"", path, now)

    def _receive_fragment(self, packet: bytes, now: float) -> list[DatapathOutput]:
        """RFC 4303 section 3.4.1: ESP and AH are reassembled before they are processed. So is UDP
        to this end, as only the first fragment would show that it is IKE."""
        outputs = self._expire_fragments(now)
        try:
            whole = self._pieces.add(packet, now)
        except Dropped as drop:
            whole = None
            outputs.append(self._dropped(drop.reason, INBOUND, packet))
        outputs += self._expire_fragments(now)
        self._arm_reassembly()
        return outputs + self.receive_packet(whole, now) if whole is not None else outputs

    def _expire_fragments(self, now: float) -> list[DatapathOutput]:
        return [
            self._dropped(DropReason.REASSEMBLY_TIMEOUT, direction, b"")
            for direction, pieces in ((INBOUND, self._pieces), (OUTBOUND, self._own_pieces))
            for _ in range(pieces.expire(now))
        ]

    def _arm_reassembly(self) -> None:
        both = (self._pieces.next_expiry(), self._own_pieces.next_expiry())
        at = min((one for one in both if one is not None), default=None)
        self._timers.set_or_cancel(_NO_SPI, TimerKind.REASSEMBLY, at)

    def _receive_own(
        self, header: Ipv4Header | Ipv6Header, packet: bytes, now: float
    ) -> list[DatapathOutput]:
        """UDP to one of this end's addresses: IKE passes by the SPD (RFC 4301 section 3.2)."""
        if header.is_fragment:
            return self._receive_fragment(packet, now)
        try:
            path, data = read_datagram(header, packet)
        except WireError:
            return [self._dropped(DropReason.MALFORMED, INBOUND, packet)]
        if (header.destination, path.local.port) in self._own:
            return [OwnDatagram(path, data)]
        return self._receive_plain(packet, now)

    def _receive_plain(self, packet: bytes, now: float) -> list[DatapathOutput]:
        """RFC 4301 section 5.2, step 2: what was not protected must be allowed to be so."""
        outputs: list[DatapathOutput] = [*learn_path_mtu(self.sad, packet, now)]
        try:
            refusal = refusal_of_plain(self.spd, self._flow_in(packet))
        except Dropped as drop:
            refusal = drop.reason
        if refusal is not None:
            return [*outputs, self._dropped(refusal, INBOUND, packet)]
        self.counters.bypassed_in += 1
        return [*outputs, DeliverPacket(packet)]

    def _receive_esp(
        self, esp: bytes, outer: bytes, path: UdpPath | None, now: float
    ) -> list[DatapathOutput]:
        entry = self.sad.inbound(esp[:SPI_SIZE])
        if entry is None or entry.ah:
            return [self._dropped(DropReason.NO_SA, INBOUND, esp)]
        if now >= entry.hard_at:
            return self._too_late(entry, esp)
        try:
            opened = open_esp(entry.inbound, esp)
        except Dropped as drop:
            return [self._dropped(drop.reason, INBOUND, esp)]
        low = int.from_bytes(esp[SPI_SIZE : 2 * SPI_SIZE], "big")
        return self._take_in(entry, opened, low, outer, path, now)

    def _receive_ah(self, packet: bytes, start: int, now: float) -> list[DatapathOutput]:
        """A whole packet with its AH at octet `start`."""
        entry = self.sad.inbound(packet[start + SPI_SIZE : start + 2 * SPI_SIZE])
        if entry is None or not entry.ah:
            return [self._dropped(DropReason.NO_SA, INBOUND, packet)]
        if now >= entry.hard_at:
            return self._too_late(entry, packet)
        try:
            opened = open_ah(entry.inbound, packet, start)
        except Dropped as drop:
            return [self._dropped(drop.reason, INBOUND, packet)]
        low = int.from_bytes(packet[start + 2 * SPI_SIZE : start + 3 * SPI_SIZE], "big")
        return self._take_in(entry, opened, low, packet[:start], None, now)

    def _too_late(self, entry: SadEntry, packet: bytes) -> list[DatapathOutput]:
        expiry = self._lifetimes.expire(entry, "seconds")
        return [*expiry, self._dropped(DropReason.HARD_EXPIRED, INBOUND, packet)]

    def _take_in(
        self,
        entry: SadEntry,
        opened: tuple[int, bytes, bool],
        low: int,
        outer: bytes,
        path: UdpPath | None,
        now: float,
    ) -> list[DatapathOutput]:
        """What follows once a packet has verified; `opened` is next header, payload, newest;
        `low` the 32 bits of its sequence number that were sent."""
        next_header, payload, newest = opened
        half = entry.inbound
        outputs: list[DatapathOutput] = []
        if not entry.mobile or entry.comes_from_peer(outer, path):
            entry.last_inbound = now
        if not entry.lingering:
            if newest and path != entry.path and path is not None and entry.path is not None:
                outputs.append(PeerSeen(entry.parameters.spi_in, path))
            # RFC 7296 section 2.8: a valid packet shows that the peer has the SA and uses it.
            if not entry.active:
                outputs += self._activate(entry, now)
        if entry.blocks_in is not None and next_header != IpProtocol.NO_NEXT_HEADER:
            sequence = half.replay.extended(low) if half.esn else low
            told, packets = self._fixed_rate.take(entry, next_header, payload, sequence)
            outputs += told
            for version, packet in packets:
                outputs += self.deliver(entry, version, packet, outer, None)
        else:
            outputs += self.deliver(entry, next_header, payload, outer, path)
        if half.packets >= half.packet_mark or half.octets >= half.octet_mark:
            outputs += self._lifetimes.volume_reached(entry)
        return outputs

    def deliver(
        self, entry: SadEntry, next_header: int, payload: bytes, outer: bytes, path: UdpPath | None
    ) -> list[DatapathOutput]:
        """What a verified packet carried, after the inbound checks; also for trains of them."""
        if next_header == _NO_NEXT_HEADER:
            self.counters.dummies_in += 1
            return []
        try:
            packet = decapsulate(entry, next_header, payload, outer, path)
        except Dropped as drop:
            return [self._dropped(drop.reason, INBOUND, payload)]
        self.counters.packets_in += 1
        self.counters.octets_in += len(packet)
        return [DeliverPacket(packet)]

    # -- lifetimes and other deadlines -----------------------------------------------------------

    def next_deadline(self) -> Deadline | None:
        """When `handle_timeout` is wanted."""
        return self._timers.next_deadline()

    def handle_timeout(self, now: float) -> list[DatapathOutput]:
        """Do what is due."""
        outputs: list[DatapathOutput] = []
        while (key := self._timers.take_due(now)) is not None:
            subject, kind = key
            if kind is TimerKind.REASSEMBLY:
                outputs += self._expire_fragments(now)
                self._arm_reassembly()
                continue
            if isinstance(subject, str):
                outputs += self._park_timeout(subject, now)
                continue
            entry = self.sad.inbound(subject)
            assert entry is not None, "removing an SA cancels its timers"
            outputs += self._entry_timeout(kind, entry, now)
        return outputs

    def _entry_timeout(self, kind: TimerKind, entry: SadEntry, now: float) -> list[DatapathOutput]:
        match kind:
            case TimerKind.SOFT_LIFETIME:
                return self._lifetimes.soften(entry, "seconds")
            case TimerKind.HARD_LIFETIME:
                return self._lifetimes.expire(entry, "seconds")
            case TimerKind.ACTIVATE:
                return self._activate(entry, now)
            case TimerKind.LINGER:
                self.sad.remove(entry)
                return []
            case TimerKind.DUMMY:
                return self._dummies.send(entry, now)
            case TimerKind.CONSTANT_RATE:
                return self._fixed_rate.send(entry, now)
            case TimerKind.PARK | TimerKind.REASSEMBLY:
                raise AssertionError("neither parked packets nor fragments belong to an SA")
            case _:
                assert_never(kind)

    def _park_timeout(self, policy: str, now: float) -> list[DatapathOutput]:
        expired = self._parked.take_expired(policy, now)
        self._arm_park(policy)
        return [self._dropped(DropReason.PARK_TIMEOUT, OUTBOUND, p.packet) for p in expired]

    def _arm_park(self, policy: str) -> None:
        self._timers.set_or_cancel(policy, TimerKind.PARK, self._parked.next_expiry(policy))

    def drop_sent(self, reason: DropReason, octets: int) -> Notice:
        """Count an ESP packet of that size that got no further than out of here."""
        return self.counters.drop(reason, OUTBOUND, octets)

    def _dropped(self, reason: DropReason, direction: str, packet: bytes) -> Notice:
        return self.counters.drop(reason, direction, len(packet))
