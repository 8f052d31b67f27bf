"""Hostile packets into ESP and AH: what an attacker without keys makes of packets that it saw.

Two datapaths with one pair of SAs. Between honest packets come mutated, replayed, renumbered and
invented ones; each has to end as a counted drop, and every honest packet has to arrive.
`tests/ipsec` does it with thousands, `benchmarks/hostile_esp.py` with a million.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from ipseclab.crypto.cipher import CIPHERS, NULL_CIPHER
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.events import DatapathOutput
from ipseclab.ipsec.sad import SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.outputs import DeliverPacket, SendDatagram, SendPacket, UdpEndpoint, UdpPath
from ipseclab.registry import EncrId, IntegId, IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.ipv6 import build_ipv6
from ipseclab.wire.selector import TrafficSelector

HOSTILE_PER_HONEST = 5
PAUSE = 40.0
"""Seconds after which fragments that wait for others are given up."""

_ENDS = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
_HOSTS = {4: ("10.1.0.5", "10.2.0.7"), 6: ("2001:db8:1::5", "2001:db8:2::7")}
_GCM = Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 128])
_CBC = Suite(CIPHERS[EncrId.ENCR_AES_CBC, 256], INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128])
_IMPLICIT = Suite(CIPHERS[EncrId.ENCR_CHACHA20_POLY1305_IIV, 256])
_AH = Suite(NULL_CIPHER, INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128])


@dataclass(frozen=True, slots=True)
class Target:
    """What kind of SA is attacked."""

    suite: Suite
    family: int = 4
    tunnel: bool = True
    udp: bool = False
    ah: bool = False
    esn: bool = False


TARGETS = {
    "esp-tunnel": Target(_GCM),
    "esp-tunnel-udp": Target(_GCM, udp=True),
    "esp-transport-cbc": Target(_CBC, tunnel=False),
    "esp-tunnel-cbc-esn": Target(_CBC, esn=True),
    "esp-implicit-iv-esn": Target(_IMPLICIT, esn=True),
    "esp-tunnel-ipv6": Target(_GCM, family=6),
    "esp-transport-ipv6-udp": Target(_CBC, family=6, tunnel=False, udp=True),
    "ah-tunnel": Target(_AH, ah=True),
    "ah-transport-ipv6": Target(_AH, family=6, tunnel=False, ah=True),
}


class EspSiege:
    """One pair of SAs under attack. `hostile`, `dropped` and `lost` count packets."""

    def __init__(self, target: Target, seed: int) -> None:
        self._rng = random.Random(f"{seed}")
        self._target = target
        keys = random.Random(f"keys of {seed}")
        left = _parameters(target, keys)
        self._sender = _datapath(left)
        self._receiver = _datapath(mirrored(left))
        self._now = 0.0
        self._seen: list[bytes] = []
        self.hostile = 0
        self.dropped = 0
        """Notices of drops: of a packet of several hostile fragments only one."""
        self.got_through = 0
        self.honest = 0
        self.lost = 0

    def attack(self, hostile: int) -> None:
        """So many hostile packets, an honest one before each few."""
        for number in range(hostile):
            if not number % HOSTILE_PER_HONEST:
                self._honest_packet()
            mutate = self._rng.choice(_MUTATIONS)
            self._take(mutate(self._rng.choice(self._seen), self._rng))
            self.hostile += 1
            self._now += 1e-4
        self._now += PAUSE
        self._count(self._receiver.handle_timeout(self._now))
        self._honest_packet()

    @property
    def drops(self) -> dict[str, int]:
        """The receiver's drops by reason, those that there were."""
        return {reason.value: n for reason, n in self._receiver.counters.drops.items() if n}

    @property
    def works(self) -> bool:
        """True when all honest packets arrived and nothing else did."""
        delivered = self._receiver.counters.packets_in
        return not self.lost and not self.got_through and delivered == self.honest

    def _honest_packet(self) -> None:
        target = self._target
        hosts = (_HOSTS if target.tunnel else _ENDS)[target.family]
        source, destination = (ip_address(text).packed for text in hosts)
        data = self._rng.randbytes(self._rng.randrange(120))
        segment = build_udp(source, 1000, destination, 2000, data)
        build = build_ipv4 if target.family == 4 else build_ipv6
        packet = build(source, destination, IpProtocol.UDP, segment)
        (output,) = self._sender.send_packet(packet, self._now)
        assert isinstance(output, SendPacket | SendDatagram)
        octets = output.data if isinstance(output, SendDatagram) else output.packet
        self._seen = [*self._seen[-20:], octets]
        self.honest += 1
        arrived = [o for o in self._receive(octets) if isinstance(o, DeliverPacket)]
        self.lost += len(arrived) != 1

    def _take(self, octets: bytes) -> None:
        self._count(self._receive(octets))

    def _receive(self, octets: bytes) -> list[DatapathOutput]:
        if self._target.udp:
            ends = _ENDS[self._target.family]
            path = UdpPath(UdpEndpoint(ends[1], 4500), UdpEndpoint(ends[0], 4500))
            return self._receiver.receive_esp(octets, path, self._now)
        return self._receiver.receive_packet(octets, self._now)

    def _count(self, outputs: list[DatapathOutput]) -> None:
        delivered = sum(isinstance(output, DeliverPacket) for output in outputs)
        self.got_through += delivered
        self.dropped += len(outputs) - delivered


def _parameters(target: Target, keys: random.Random) -> SaParameters:
    ends, hosts = _ENDS[target.family], _HOSTS[target.family]
    own, peer = hosts if target.tunnel else ends
    suite = target.suite
    path = UdpPath(UdpEndpoint(ends[0], 4500), UdpEndpoint(ends[1], 4500)) if target.udp else None
    return SaParameters(
        connection="siege",
        policy="siege",
        tunnel=target.tunnel,
        spi_in=b"\xc1\0\0\1",
        spi_out=b"\xc0\0\0\1",
        local=ip_address(ends[0]).packed,
        remote=ip_address(ends[1]).packed,
        own_ts=(TrafficSelector.of_address(own),),
        peer_ts=(TrafficSelector.of_address(peer),),
        suite=suite,
        encr_key_in=keys.randbytes(suite.encr_key_size),
        integ_key_in=keys.randbytes(suite.integ_key_size),
        encr_key_out=keys.randbytes(suite.encr_key_size),
        integ_key_out=keys.randbytes(suite.integ_key_size),
        path=path,
        esn=target.esn,
        protocol=IpProtocol.AH if target.ah else IpProtocol.ESP,
    )


def mirrored(p: SaParameters) -> SaParameters:
    """The same pair of SAs as the other end has it."""
    return replace(
        p,
        spi_in=p.spi_out,
        spi_out=p.spi_in,
        local=p.remote,
        remote=p.local,
        own_ts=p.peer_ts,
        peer_ts=p.own_ts,
        encr_key_in=p.encr_key_out,
        integ_key_in=p.integ_key_out,
        encr_key_out=p.encr_key_in,
        integ_key_out=p.integ_key_in,
        path=UdpPath(p.path.remote, p.path.local) if p.path is not None else None,
    )


def _datapath(p: SaParameters) -> Datapath:
    policy = Policy("siege", Action.PROTECT, p.own_ts, p.peer_ts, connection="siege")
    datapath = Datapath(Spd((policy,)), rng=random.Random(1))
    datapath.add_sa(p, 0.0)
    return datapath


# --- What is done to a packet --------------------------------------------------------------------


def _cut(octets: bytes, rng: random.Random) -> bytes:
    return octets[: rng.randrange(len(octets))]


def _extended(octets: bytes, rng: random.Random) -> bytes:
    return octets + rng.randbytes(rng.randrange(1, 80))


def _flipped(octets: bytes, rng: random.Random) -> bytes:
    changed = bytearray(octets)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwritten(octets: bytes, rng: random.Random) -> bytes:
    changed = bytearray(octets)
    start = rng.randrange(len(changed) - 4)
    changed[start : start + 4] = rng.choice([b"\0" * 4, b"\xff" * 4, rng.randbytes(4)])
    return bytes(changed)


def _spliced(octets: bytes, rng: random.Random) -> bytes:
    start, end = sorted(rng.randrange(len(octets)) for _ in range(2))
    return octets[:start] + octets[end:]


def _replayed(octets: bytes, rng: random.Random) -> bytes:
    return octets


def _invented(octets: bytes, rng: random.Random) -> bytes:
    return octets[: rng.choice([0, 1, 4, 20, 24])] + rng.randbytes(rng.randrange(120))


_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _cut,
    _extended,
    _flipped,
    _overwritten,
    _spliced,
    _replayed,
    _invented,
)
