"""The security association database: both halves of every CHILD_SA, found by SPI or by policy.

RFC 4301 section 4.4.2. ESP SAs come in pairs that are made and removed together (RFC 7296 section
2.8), so one entry holds an outbound and an inbound half. The halves lie open (keys, sequence
number, replay window, counts) so that a batching fast path can drive the same entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from math import inf

from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.aggfrag import BlockReceiver, BlockSender
from ipseclab.ipsec.counters import DropReason
from ipseclab.ipsec.fragment_flows import FragmentFlows
from ipseclab.ipsec.ipcomp import Compressor
from ipseclab.ipsec.ipv4 import OuterHeader
from ipseclab.ipsec.processing import PLAIN, SMALLEST_PATH_MTU, Processing
from ipseclab.ipsec.replay import ReplayWindow
from ipseclab.ipsec.spd import covers_inbound, covers_outbound
from ipseclab.outputs import UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import Flow
from ipseclab.wire.selector import TrafficSelector

SEQUENCE_LAST = 0xFFFF_FFFF
"""RFC 4303 section 3.3.3: a 32-bit sequence number must not wrap."""

SEQUENCE_LAST_EXTENDED = 0xFFFF_FFFF_FFFF_FFFF
"""Nor must an extended one (RFC 4303 section 2.2.1)."""

SEQUENCE_ROOM = 1 << 24
"""A rekey is asked for, although no soft limit says so, 16 million packets before the end."""

SPI_SIZE = 4

FLOWS_PER_SA = 1024
"""Flows whose match against an SA's selectors is remembered; when full, starts again empty."""


@dataclass(frozen=True, slots=True)
class SaLimit:
    """Limits from the SA's creation on, each None for none.

    Octets and packets hold for each half by itself; octets are those that the cipher was applied to
    (RFC 4301 section 4.4.2.1).
    """

    seconds: float | None = None
    octets: int | None = None
    packets: int | None = None


@dataclass(frozen=True, slots=True)
class Compression:
    """IPComp with DEFLATE (RFC 3173): the CPIs, 2 octets each."""

    cpi_in: bytes
    cpi_out: bytes


@dataclass(frozen=True, slots=True)
class Aggregation:
    """AGGFRAG payloads (RFC 9347); `fragments`: whether the peer puts fragments together."""

    fragments: bool = True


@dataclass(frozen=True, slots=True)
class SaParameters:
    """All that IKE agreed on for one pair of ESP or AH SAs. SPIs are 4 octets, addresses 4 or 16.

    `path` set means ESP in UDP (RFC 3948) along it; `esn` extended sequence numbers. An AH SA's
    suite is NULL encryption and the integrity algorithm.
    """

    connection: str
    policy: str
    tunnel: bool
    spi_in: bytes
    spi_out: bytes
    local: bytes
    remote: bytes
    own_ts: tuple[TrafficSelector, ...]
    peer_ts: tuple[TrafficSelector, ...]
    suite: Suite
    encr_key_in: bytes = field(repr=False)
    integ_key_in: bytes = field(repr=False)
    encr_key_out: bytes = field(repr=False)
    integ_key_out: bytes = field(repr=False)
    path: UdpPath | None = None
    soft: SaLimit = SaLimit()
    hard: SaLimit = SaLimit()
    replay_window: int = 64
    esn: bool = False
    resource: int = 0
    """Which of several SAs with the same selectors (RFC 9611)."""
    mobile: bool = False
    """Whether addresses change by MOBIKE, and by nothing else (RFC 4555)."""
    protocol: IpProtocol = IpProtocol.ESP
    compression: Compression | None = None
    aggregation: Aggregation | None = None
    """Its size and rate are the policy's."""


class Half:
    """What both directions have: an SPI, a keyed suite, and how much went through."""

    __slots__ = (
        "aead",
        "alignment",
        "esn",
        "icv_size",
        "mac",
        "mac_takes_iv",
        "octet_mark",
        "octets",
        "packet_mark",
        "packets",
        "protection",
        "spi",
    )

    def __init__(
        self, spi: bytes, parameters: SaParameters, encr_key: bytes, integ_key: bytes
    ) -> None:
        suite = parameters.suite
        self.spi = spi
        self.esn = parameters.esn
        self.aead = suite.cipher.aead
        self.protection = suite.keyed(encr_key, integ_key)
        self.icv_size = suite.icv_size
        integrity = suite.integrity
        self.mac = integrity.keyed(integ_key).mac if integrity is not None else None
        """The integrity algorithm by itself, for AH."""
        self.mac_takes_iv = integrity is not None and integrity.takes_iv
        self.alignment = max(4, suite.block_size)
        """What payload and trailer are padded to a multiple of (RFC 4303 section 2.4)."""
        self.packets = 0
        self.octets = 0
        self.packet_mark: float = inf
        """The count of packets at which a limit is to be looked at; `octet_mark` likewise."""
        self.octet_mark: float = inf


class OutboundHalf(Half):
    """The sending half: the sequence number sent last, and where IVs come from."""

    __slots__ = ("counter_iv", "iv_size", "last", "sequence")

    def __init__(self, parameters: SaParameters) -> None:
        p = parameters
        super().__init__(p.spi_out, p, p.encr_key_out, p.integ_key_out)
        self.sequence = 0
        self.last = SEQUENCE_LAST_EXTENDED if p.esn else SEQUENCE_LAST
        """The highest sequence number that may be sent."""
        self.iv_size = p.suite.iv_size
        self.counter_iv = p.suite.cipher.counter_iv
        """Where IVs come from: the sequence number, or else `rng`."""


class InboundHalf(Half):
    """The receiving half: its replay window, and flows that were found to match its selectors."""

    __slots__ = ("checked_flows", "failures", "overhead", "replay")

    def __init__(self, parameters: SaParameters) -> None:
        p = parameters
        super().__init__(p.spi_in, p, p.encr_key_in, p.integ_key_in)
        self.overhead = 2 * SPI_SIZE + p.suite.iv_size + p.suite.icv_size
        """Octets of an ESP packet that are not ciphertext."""
        self.replay = ReplayWindow(p.replay_window)
        self.failures = 0
        """Bad ICVs in a row under an extended sequence number (RFC 4303 appendix A3)."""
        self.checked_flows: set[bytes] = set()


class SadEntry:
    """One pair of ESP SAs and its state."""

    __slots__ = (
        "activate_at",
        "active",
        "ah",
        "blocks_in",
        "blocks_out",
        "compressor",
        "fragment_flows",
        "hard_at",
        "icmp_errors",
        "inbound",
        "last_inbound",
        "last_outbound",
        "lingering",
        "mobile",
        "next_block_at",
        "outbound",
        "outer",
        "parameters",
        "path",
        "path_mtu",
        "path_mtu_until",
        "processing",
        "refusal",
        "shaped",
        "soft_told",
    )

    def __init__(
        self, parameters: SaParameters, now: float, processing: Processing = PLAIN
    ) -> None:
        self.parameters = parameters
        self.processing = processing
        self.path_mtu = processing.path_mtu
        """The longest outer packet; None for any."""
        self.path_mtu_until = inf
        """When a path MTU that was learnt is forgotten."""
        self.shaped = processing != PLAIN or parameters.compression is not None
        """True when a packet's size, or the making of its outer header, needs a look."""
        self.outbound = OutboundHalf(parameters)
        self.inbound = InboundHalf(parameters)
        self.ah = parameters.protocol == IpProtocol.AH
        self.outer = OuterHeader(parameters.local, parameters.remote, parameters.protocol)
        compression, aggregation = parameters.compression, parameters.aggregation
        self.compressor = (
            Compressor(compression.cpi_in, compression.cpi_out) if compression is not None else None
        )
        """IPComp, where it was agreed."""
        both = processing.constant_rate is not None and aggregation is not None
        self.blocks_out = (
            BlockSender(fragments=aggregation.fragments) if both and aggregation else None
        )
        """What waits to be sent in AGGFRAG payloads, where those were agreed."""
        self.blocks_in = BlockReceiver() if aggregation is not None else None
        self.next_block_at: float | None = None
        """When the next one goes; None when this SA is not the one that sends."""
        self.path = parameters.path
        self.mobile = parameters.mobile
        self.active = False
        """True once outbound traffic may use it (RFC 7296 section 2.8)."""
        self.activate_at = now
        """From when on it may be used without a sign from its owner or the peer."""
        self.last_inbound: float | None = None
        """When a valid packet last came; None for never."""
        self.last_outbound: float | None = None
        """When a packet last went; None for never."""
        self.lingering = False
        """True once removed, while late packets are still accepted."""
        self.icmp_errors = False
        """Whether it brings ICMP errors about what it carries (RFC 4301 section 6.2)."""
        self.fragment_flows: FragmentFlows | None = None
        """Inner fragments, where they are checked statefully."""
        self.soft_told = False
        self.refusal: DropReason | None = None
        """Why the SA neither sends nor accepts; None while it does."""
        seconds = parameters.hard.seconds
        self.hard_at = now + seconds if seconds is not None else inf
        """When it stops to send and accept; -inf once it has."""
        self.set_marks()

    def learn_path_mtu(self, mtu: int, now: float) -> bool:
        """Take a smaller path MTU for a while, no less than the family's limit; False when it is
        not smaller."""
        mtu = max(mtu, SMALLEST_PATH_MTU[len(self.parameters.local)])
        if self.path_mtu is not None and mtu >= self.path_mtu and now < self.path_mtu_until:
            return False
        self.path_mtu, self.shaped = mtu, True
        self.path_mtu_until = now + self.processing.path_mtu_seconds
        return True

    def move(self, path: UdpPath, *, in_udp: bool) -> None:
        """Send from and to the addresses of `path` from now on; in UDP, or as the protocol itself
        (RFC 4555 section 3.5)."""
        self.path = path if in_udp else None
        local, remote = (ip_address(end.address).packed for end in path)
        p = self.parameters
        if (local, remote) != (p.local, p.remote):
            self.parameters = replace(p, local=local, remote=remote)
            self.outer = OuterHeader(local, remote, p.protocol)
            self.path_mtu, self.path_mtu_until = self.processing.path_mtu, inf

    def comes_from_peer(self, outer: bytes, path: UdpPath | None) -> bool:
        """Whether a packet came with the addresses that the SA has now (RFC 4555 section 3.12)."""
        p = self.parameters
        if path is not None:
            local, remote = (ip_address(end.address).packed for end in path)
            return (local, remote) == (p.local, p.remote)
        if outer[0] >> 4 == 4:
            return outer[12:20] == p.remote + p.local
        return outer[8:40] == p.remote + p.local

    def stands_for(self, other: SadEntry) -> bool:
        """True when it carries just what `other` does, as the rekeyed SA does for the old one."""
        own, its = self.parameters, other.parameters
        same = (own.own_ts, own.peer_ts, own.resource) == (its.own_ts, its.peer_ts, its.resource)
        return same and own.policy == its.policy

    def covers(self, flow: Flow) -> bool:
        """True when an outbound `flow` is within the traffic selectors."""
        return covers_outbound(self.parameters.own_ts, self.parameters.peer_ts, flow)

    def accepts(self, flow: Flow) -> bool:
        """True when an inbound `flow`, decapsulated, is within the traffic selectors."""
        return covers_inbound(self.parameters.own_ts, self.parameters.peer_ts, flow)

    def limit_reached(self, limit: SaLimit) -> str | None:
        """Which of `limit`'s volumes either half has used up, None when neither has."""
        halves = self.outbound, self.inbound
        if limit.packets is not None and any(half.packets >= limit.packets for half in halves):
            return "packets"
        if limit.octets is not None and any(half.octets >= limit.octets for half in halves):
            return "octets"
        return None

    def set_marks(self) -> None:
        """Let both halves look out for the next limit: soft until that was told, then hard."""
        limits = [self.parameters.hard]
        if not self.soft_told:
            limits.append(self.parameters.soft)
        packets = min((inf if limit.packets is None else limit.packets) for limit in limits)
        octets = min((inf if limit.octets is None else limit.octets) for limit in limits)
        self.inbound.packet_mark = packets
        room = self.outbound.last - SEQUENCE_ROOM
        self.outbound.packet_mark = packets if self.soft_told else min(packets, room)
        self.inbound.octet_mark = self.outbound.octet_mark = octets

    def __repr__(self) -> str:
        p = self.parameters
        ends = f"{ip_address(p.local)} {p.spi_in.hex()}, {ip_address(p.remote)} {p.spi_out.hex()}"
        return f"<SadEntry {p.policy}: {ends}{' active' if self.active else ''}>"


class Sad:
    """Entries by inbound SPI, and those that can send by policy, newest first."""

    def __init__(self) -> None:
        self._by_spi: dict[bytes, SadEntry] = {}
        self._by_policy: dict[str, dict[bytes, SadEntry]] = {}
        """By inbound SPI, newest last: a policy may have a hundred thousand."""
        self._by_spi_out: dict[bytes, list[SadEntry]] = {}
        self.inbound = self._by_spi.get
        """The entry of an inbound SPI, or None."""

    def __len__(self) -> int:
        return len(self._by_spi)

    def __iter__(self) -> Iterator[SadEntry]:
        return iter(self._by_spi.values())

    def add(self, entry: SadEntry) -> None:
        """Install both halves. The inbound SPI is the receiver's own choice, so it is free."""
        spi = entry.parameters.spi_in
        assert spi not in self._by_spi, f"inbound SPI {spi.hex()} is taken"
        self._by_spi[spi] = entry
        self._by_policy.setdefault(entry.parameters.policy, {})[spi] = entry
        self._by_spi_out.setdefault(entry.parameters.spi_out, []).append(entry)

    def remove_outbound(self, entry: SadEntry) -> None:
        """Take away the outbound half; harmless when it is gone already."""
        spi = entry.parameters.spi_out
        sending = self._by_spi_out.get(spi, [])
        if entry in sending:
            sending.remove(entry)
        if not sending:
            self._by_spi_out.pop(spi, None)
        policy = entry.parameters.policy
        siblings = self._by_policy.get(policy, {})
        if siblings.get(entry.parameters.spi_in) is entry:
            del siblings[entry.parameters.spi_in]
        if not siblings:
            self._by_policy.pop(policy, None)

    def remove(self, entry: SadEntry) -> None:
        """Take away both halves."""
        self.remove_outbound(entry)
        del self._by_spi[entry.parameters.spi_in]

    def of_policy(self, policy: str) -> list[SadEntry]:
        """The entries of `policy` with an outbound half, newest first."""
        return list(self._newest_first(policy))

    def covering_policy(self, policy: str) -> SadEntry | None:
        """The newest entry of `policy` that has an outbound half."""
        return next(self._newest_first(policy), None)

    def sending(self, spi_out: bytes) -> list[SadEntry]:
        """The entries that send with that SPI: peers choose theirs without knowing each other's."""
        return self._by_spi_out.get(spi_out, [])

    def covering(self, policy: str, flow: Flow) -> list[SadEntry]:
        """The entries of `policy` with an outbound half that cover `flow`, newest first."""
        return [entry for entry in self._newest_first(policy) if entry.covers(flow)]

    def _newest_first(self, policy: str) -> Iterator[SadEntry]:
        return reversed(self._by_policy.get(policy, {}).values())
