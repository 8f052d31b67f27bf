"""Two datapaths back to back, without IKE: the SAs are put in by hand.

left 10.1.0.0/24 --- 192.0.2.1 ======== 192.0.2.2 --- 10.2.0.0/24 right
"""

import random
from ipaddress import IPv4Address

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Suite
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.sad import SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.lab.esp_siege import mirrored
from ipseclab.measure.workload import esp_suites
from ipseclab.outputs import (
    DeliverPacket,
    Notice,
    SendDatagram,
    SendPacket,
    UdpEndpoint,
    UdpPath,
)
from ipseclab.registry import EncrId, IntegId, IpProtocol
from ipseclab.wire.ip import build_ipv4, build_udp
from ipseclab.wire.selector import TrafficSelector

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
LEFT_HOST, RIGHT_HOST = "10.1.0.5", "10.2.0.7"
LEFT_NET, RIGHT_NET = "10.1.0.0/24", "10.2.0.0/24"
PATH = UdpPath(UdpEndpoint(LEFT, 4500), UdpEndpoint(RIGHT, 4500))

SUITES = {
    "aes128gcm16": Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 128]),
    "aes192gcm16": Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 192]),
    "aes256gcm16": Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 256]),
    "chacha20poly1305": Suite(CIPHERS[EncrId.ENCR_CHACHA20_POLY1305, 256]),
    "aes128-sha256": Suite(
        CIPHERS[EncrId.ENCR_AES_CBC, 128], INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128]
    ),
    "aes192-sha384": Suite(
        CIPHERS[EncrId.ENCR_AES_CBC, 192], INTEGRITIES[IntegId.AUTH_HMAC_SHA2_384_192]
    ),
    "aes256-sha512": Suite(
        CIPHERS[EncrId.ENCR_AES_CBC, 256], INTEGRITIES[IntegId.AUTH_HMAC_SHA2_512_256]
    ),
}
ALL_SUITES = esp_suites()
"""Every one that a proposal can name; `SUITES` is the choice that most tests run with."""
GCM = SUITES["aes128gcm16"]


def packed(address):
    return IPv4Address(address).packed


def reverse(path):
    return UdpPath(path.remote, path.local)


def network(*texts):
    return tuple(TrafficSelector.of_network(text) for text in texts)


def protect(local, remote, name="net"):
    return Policy(name, Action.PROTECT, network(local), network(remote), connection=name)


def sa_pair(suite=GCM, *, seed=1, tunnel=True, path=None, number=1, **changes):
    """The parameters of one pair of SAs, as left and as right sees them."""
    keys = random.Random(f"{seed}/{number}")
    key_lr, key_rl = (keys.randbytes(suite.encr_key_size) for _ in range(2))
    mac_lr, mac_rl = (keys.randbytes(suite.integ_key_size) for _ in range(2))
    spi_lr, spi_rl = (bytes([0xC0 + way, 0, 0, number]) for way in range(2))
    left_ts, right_ts = (LEFT_NET, RIGHT_NET) if tunnel else (LEFT + "/32", RIGHT + "/32")
    left = SaParameters(
        connection="net",
        policy="net",
        tunnel=tunnel,
        spi_in=spi_rl,
        spi_out=spi_lr,
        local=packed(LEFT),
        remote=packed(RIGHT),
        own_ts=network(left_ts),
        peer_ts=network(right_ts),
        suite=suite,
        encr_key_in=key_rl,
        integ_key_in=mac_rl,
        encr_key_out=key_lr,
        integ_key_out=mac_lr,
        path=path,
        **changes,
    )
    return left, mirrored(left)


def datapath(local=LEFT_NET, remote=RIGHT_NET, *, policies=None, seed=7, **limits):
    policies = policies if policies is not None else (protect(local, remote),)
    return Datapath(Spd(policies), rng=random.Random(seed), limits=DatapathLimits(**limits))


class Pair:
    """A left and a right datapath with one pair of SAs installed; `left_sa` and `right_sa`."""

    def __init__(self, suite=GCM, *, tunnel=True, path=None, now=0.0, **changes):
        self.tunnel = tunnel
        ends = (LEFT_NET, RIGHT_NET) if tunnel else (LEFT + "/32", RIGHT + "/32")
        self.left = datapath(*ends, seed="left")
        self.right = datapath(*reversed(ends), seed="right")
        self.left_sa, self.right_sa = sa_pair(suite, tunnel=tunnel, path=path, **changes)
        self.left.add_sa(self.left_sa, now)
        self.right.add_sa(self.right_sa, now)

    def add_sa(self, number, now=0.0, *, left_sends=True, right_sends=True, **changes):
        left_sa, right_sa = sa_pair(
            self.left_sa.suite, tunnel=self.tunnel, path=self.left_sa.path, number=number, **changes
        )
        self.left.add_sa(left_sa, now, use_outbound=left_sends)
        self.right.add_sa(right_sa, now, use_outbound=right_sends)
        return left_sa, right_sa

    def packet(self, data=b"data", **fields):
        """A UDP packet from left to right; `fields` as `udp_packet` has them."""
        hosts = (LEFT_HOST, RIGHT_HOST) if self.tunnel else (LEFT, RIGHT)
        return udp_packet(*hosts, data, **fields)

    def answer(self, data=b"answer"):
        """A UDP packet from right to left."""
        hosts = (RIGHT_HOST, LEFT_HOST) if self.tunnel else (RIGHT, LEFT)
        return udp_packet(*hosts, data, ports=(2000, 1000))

    def to_right(self, packet, now=0.0):
        """What right makes of what left makes of `packet`."""
        (output,) = self.left.send_packet(packet, now)
        return receive(self.right, output, now)

    def to_left(self, packet, now=0.0):
        (output,) = self.right.send_packet(packet, now)
        return receive(self.left, output, now)


def udp_packet(source, destination, data=b"data", *, ports=(1000, 2000), **fields):
    source, destination = packed(source), packed(destination)
    segment = build_udp(source, ports[0], destination, ports[1], data)
    return build_ipv4(source, destination, IpProtocol.UDP, segment, **fields)


def receive(receiver, output, now=0.0, path=None):
    """Hand one SendPacket or SendDatagram to the other end, along `path` if given."""
    if isinstance(output, SendDatagram):
        path = path if path is not None else reverse(output.path)
        return receiver.receive_esp(output.data, path, now)
    assert isinstance(output, SendPacket), output
    return receiver.receive_packet(output.packet, now)


def delivered(outputs):
    return [output.packet for output in outputs if isinstance(output, DeliverPacket)]


def reasons(outputs):
    """The reasons of the drops among `outputs`."""
    return [
        output.details["reason"]
        for output in outputs
        if isinstance(output, Notice) and output.event == "packet_dropped"
    ]


def drops(end):
    """The drop counters that are not zero."""
    return {reason.value: count for reason, count in end.counters.drops.items() if count}
