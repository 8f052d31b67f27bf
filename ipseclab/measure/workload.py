"""Work to be timed, without a world around it: packets through two datapaths, handshakes in memory.

`measure/calibrate.py` and the benchmarks measure with it. Nothing here reads a clock.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from ipseclab.crypto.names import KEYWORDS
from ipseclab.crypto.protection import Suite
from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import ConnectionConfig, Identity, IkeConfig
from ipseclab.ike.proposals import (
    cipher_of,
    parse_esp_proposal,
    parse_ike_proposal,
    suite_of,
)
from ipseclab.ipsec.datapath import Datapath
from ipseclab.ipsec.limits import DatapathLimits
from ipseclab.ipsec.sad import SaParameters
from ipseclab.ipsec.spd import Action, Policy, Spd
from ipseclab.outputs import DeliverPacket, Output, SendDatagram, SendPacket, UdpPath
from ipseclab.registry import IdType, IpProtocol, TransformType
from ipseclab.wire.ip import IPV4_HEADER_SIZE, UDP_HEADER_SIZE, build_ipv4, build_udp
from ipseclab.wire.proposal import Transform
from ipseclab.wire.selector import TrafficSelector

SITE_ADDRESS = {"a": "10.1.0.2", "b": "10.2.0.2"}
GATEWAY_ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.2"}
CONNECTION = "peer"


# --- ESP -----------------------------------------------------------------------------------------


def esp_suites() -> dict[str, Suite]:
    """Every suite that an ESP proposal can name, by its text, those without an HMAC first."""
    ciphers = [word for word, named in KEYWORDS.items() if named.type == TransformType.ENCR]
    hmacs = [word for word, named in KEYWORDS.items() if named.type == TransformType.INTEG]
    aead = [word for word in ciphers if _is_aead(word)]
    joined = [f"{word}-{mac}" for word in ciphers if word not in aead for mac in hmacs]
    return {text: suite_of(parse_esp_proposal(text).transforms) for text in (*aead, *joined)}


def _is_aead(word: str) -> bool:
    cipher = cipher_of(Transform(*KEYWORDS[word]))
    return cipher is not None and cipher.aead


def datapath_pair(suite: Suite, *, tunnel: bool = True) -> tuple[Datapath, Datapath]:
    """Two datapaths with one pair of SAs between them, ESP as protocol 50."""
    return _datapath("a", "b", suite, tunnel), _datapath("b", "a", suite, tunnel)


def _datapath(own: str, peer: str, suite: Suite, tunnel: bool) -> Datapath:
    policy = _policy(own, peer)
    datapath = Datapath(Spd((policy,)), rng=random.Random(own))
    encr_key, integ_key = bytes(suite.encr_key_size), bytes(suite.integ_key_size)
    parameters = SaParameters(
        connection=CONNECTION,
        policy=policy.name,
        tunnel=tunnel,
        spi_in=f"to-{own}".encode(),
        spi_out=f"to-{peer}".encode(),
        local=_octets(GATEWAY_ADDRESS[own]),
        remote=_octets(GATEWAY_ADDRESS[peer]),
        own_ts=policy.local,
        peer_ts=policy.remote,
        suite=suite,
        encr_key_in=encr_key,
        integ_key_in=integ_key,
        encr_key_out=encr_key,
        integ_key_out=integ_key,
    )
    datapath.add_sa(parameters, 0.0)
    return datapath


def inner_packet(octets: int) -> bytes:
    """A UDP packet of that many octets from site a to site b."""
    source, destination = _octets(SITE_ADDRESS["a"]), _octets(SITE_ADDRESS["b"])
    data = bytes(octets - IPV4_HEADER_SIZE - UDP_HEADER_SIZE)
    segment = build_udp(source, 5001, destination, 5001, data)
    return build_ipv4(source, destination, IpProtocol.UDP, segment)


def seal_packets(sender: Datapath, packet: bytes, count: int) -> list[bytes]:
    """The ESP packets that `count` copies of `packet` become."""
    sealed: list[bytes] = []
    for _ in range(count):
        (output,) = sender.send_packet(packet, 1.0)
        assert isinstance(output, SendPacket)
        sealed.append(output.packet)
    return sealed


def open_packets(receiver: Datapath, sealed: list[bytes]) -> None:
    """Take in what `seal_packets` made; each packet must be delivered."""
    for packet in sealed:
        output = receiver.receive_packet(packet, 1.0)[-1]
        assert isinstance(output, DeliverPacket)


# --- IKE -----------------------------------------------------------------------------------------


def gateway_pair(ike_proposal: str, esp_proposal: str, *, seed: int) -> tuple[Gateway, Gateway]:
    """Two gateways that know each other by a pre-shared key and have not spoken yet."""
    return (
        _gateway("a", "b", ike_proposal, esp_proposal, seed),
        _gateway("b", "a", ike_proposal, esp_proposal, seed),
    )


def _gateway(own: str, peer: str, ike_proposal: str, esp_proposal: str, seed: int) -> Gateway:
    policy = _policy(own, peer)
    connection = ConnectionConfig(
        name=CONNECTION,
        own_address=GATEWAY_ADDRESS[own],
        peer_address=GATEWAY_ADDRESS[peer],
        own_id=_identity(own),
        peer_id=_identity(peer),
        psk=b"a pre-shared key for measuring",
        ike_proposals=(parse_ike_proposal(ike_proposal),),
        esp_proposals=(parse_esp_proposal(esp_proposal),),
        own_ts=policy.local,
        peer_ts=policy.remote,
    )
    config = GatewayConfig(
        ike=IkeConfig(name=own, connections=(connection,)),
        policies=(policy,),
        datapath=DatapathLimits(),
    )
    return Gateway(config, rng=random.Random(f"{seed} {own}"))


Timed = Callable[[str, Callable[[], list[Output]]], list[Output]]
"""Runs one step of a gateway ("a" or "b") and may take its time."""


def untimed(_gateway: str, step: Callable[[], list[Output]]) -> list[Output]:
    """The step, not timed."""
    return step()


def handshake(initiator: Gateway, responder: Gateway, timed: Timed = untimed) -> int:
    """Carry the messages of one handshake back and forth; how many there were."""
    gateways = {"a": initiator, "b": responder}
    outputs = timed("a", lambda: initiator.initiate(CONNECTION, 0.0))
    waiting = deque(("b", output) for output in outputs)
    messages = 0
    while waiting:
        name, output = waiting.popleft()
        if not isinstance(output, SendDatagram):
            continue
        messages += 1
        outputs = timed(name, _delivery(gateways[name], output))
        waiting.extend((_other(name), output) for output in outputs)
    return messages


def _delivery(gateway: Gateway, datagram: SendDatagram) -> Callable[[], list[Output]]:
    path = UdpPath(local=datagram.path.remote, remote=datagram.path.local)
    return lambda: gateway.receive_datagram(path, datagram.data, 0.0)


def _other(name: str) -> str:
    return "b" if name == "a" else "a"


def _identity(name: str) -> Identity:
    return Identity(IdType.ID_FQDN, f"{name}.example".encode())


def _policy(own: str, peer: str) -> Policy:
    own_ts, peer_ts = ((TrafficSelector.of_address(SITE_ADDRESS[end]),) for end in (own, peer))
    return Policy("traffic", Action.PROTECT, own_ts, peer_ts, CONNECTION)


def _octets(address: str) -> bytes:
    return bytes(int(part) for part in address.split("."))
