"""A handshake in memory, before the gateways are forked and in each of them.

Algorithms are fetched, modules imported, code paths taken and pages copied for the first time here,
so that the first handshake of a run does not take milliseconds longer than the second.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from ipseclab.errors import IpsecLabError
from ipseclab.gateway import Gateway, GatewayConfig
from ipseclab.ike.config import TcpUse
from ipseclab.lab.credentials import Keyring
from ipseclab.lab.gateways import gateway_config
from ipseclab.lab.topology import Topology
from ipseclab.outputs import Output, SendDatagram, UdpPath
from ipseclab.registry import IpProtocol
from ipseclab.wire.ip import build_ipv4

MOST_EXCHANGES = 40
"""Datagrams of one warm-up; a handshake, a rekey of each kind and a delete take far fewer."""
_ACTIONS = ("initiate", "rekey_child", "rekey_ike", "delete_ike")


def warm_up(topology: Topology, keyring: Keyring, *nodes: str) -> None:
    """Do in memory what these nodes will do for real, for each kind of connection of theirs."""
    done: dict[tuple[object, ...], None] = {}
    for connection in topology.connections:
        ways = tuple(tuple(one.kind for one in rounds) for rounds in connection.rounds)
        kind = (connection.mode, connection.ike, connection.child, ways)
        concerned = any(end in nodes for end in connection.ends)
        if concerned and connection.mode is not None and kind not in done:
            done[kind] = None
            _rehearse(topology, keyring, connection.name, connection.ends)


def _rehearse(topology: Topology, keyring: Keyring, name: str, ends: tuple[str, str]) -> None:
    gateways = {
        end: Gateway(_in_udp(topology, end, keyring), rng=random.SystemRandom()) for end in ends
    }
    initiator, responder = ends
    now = 0.0
    for action in _ACTIONS:
        now += 1.0
        try:
            outputs = getattr(gateways[initiator], action)(name, now)
        except (IpsecLabError, KeyError):
            return
        _carry(gateways, initiator, responder, outputs, now)
        packet = build_ipv4(bytes(4), bytes(4), IpProtocol.UDP, bytes(64))
        gateways[initiator].send_packet(packet, now)


def _in_udp(topology: Topology, end: str, keyring: Keyring) -> GatewayConfig:
    """What that end is told, but for TCP: messages are handed over as they are."""
    config = gateway_config(topology, end, keyring=keyring, wall_clock=datetime.now(UTC))
    connections = tuple(replace(one, tcp=TcpUse.NEVER) for one in config.ike.connections)
    return replace(config, ike=replace(config.ike, connections=connections))


def _carry(
    gateways: Mapping[str, Gateway], sender: str, receiver: str, outputs: list[Output], now: float
) -> None:
    """Hand datagrams over, back and forth, until neither end has more to say."""
    waiting = [(sender, receiver, output) for output in outputs]
    for _ in range(MOST_EXCHANGES):
        if not waiting:
            return
        source, target, output = waiting.pop(0)
        if isinstance(output, SendDatagram):
            path = UdpPath(output.path.remote, output.path.local)
            answers = gateways[target].receive_datagram(path, output.data, now)
            waiting += [(target, source, answer) for answer in answers]
