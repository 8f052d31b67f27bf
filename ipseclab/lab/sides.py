"""The two sides of an IPsec node, and how long a packet from its protected side may be.

RFC 4301 section 8.2: who protects packets tells their senders of an MTU that leaves room for what
it adds. Both worlds ask here, so that the same packets fit in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from ipseclab.crypto.protection import Suite
from ipseclab.ike.config import Mode, TcpUse
from ipseclab.ike.proposals import child_suite_of, suite_of
from ipseclab.ike.tcp_stream import LENGTH_SIZE
from ipseclab.ipsec.ah import header_size
from ipseclab.lab.impairment import LARGEST_PACKET
from ipseclab.lab.model import Connection, Interface
from ipseclab.lab.topology import Topology
from ipseclab.registry import ProtocolId, TransformType
from ipseclab.wire.ip import IPV4_HEADER_SIZE, UDP_HEADER_SIZE
from ipseclab.wire.ipv6 import IPV6_HEADER_SIZE

ESP_HEADER_SIZE = 8
ESP_TRAILER_SIZE = 2
ESP_ALIGNMENT = 4
TCP_HEADER_SIZE = 32
"""With timestamps."""
_HEADER_SIZES = {4: IPV4_HEADER_SIZE, 6: IPV6_HEADER_SIZE}


def unprotected_interfaces(topology: Topology, node: str) -> tuple[Interface, ...]:
    """The interfaces of `node` on which its connections have their addresses. Where addresses may
    change (MOBIKE) those follow that nothing protected is behind, in the order of links."""
    connections = topology.connections_of(node)
    own = [
        item.initiator_address if item.initiator == node else item.responder_address
        for item in connections
    ]
    interfaces = topology.nodes[node].interfaces
    found = tuple(item for item in interfaces if item.address in own)
    if not any(item.mobike is not None for item in connections):
        return found
    near = [
        selector.network
        for item in connections
        for selector in (item.local_ts if item.initiator == node else item.remote_ts)
    ]
    others = (item for item in interfaces if item not in found)
    return (*found, *(i for i in others if not any(i.network.overlaps(one) for one in near)))


def source_routed(topology: Topology, node: str) -> bool:
    """Whether what `node` sends leaves by the link of its source address: where it has several to
    choose from (MOBIKE)."""
    return any(item.mobike is not None for item in topology.connections_of(node))


def uses_tcp(topology: Topology, node: str) -> bool:
    """Whether IKE and ESP of a connection of `node` may go in TCP (RFC 9329)."""
    return any(item.tcp is not TcpUse.NEVER for item in topology.connections_of(node))


def accepts_tcp(topology: Topology, node: str) -> bool:
    """Whether peers of `node` may open TCP connections to it: only who begins a session does."""
    items = topology.connections_of(node)
    return any(item.tcp is not TcpUse.NEVER and item.responder == node for item in items)


def tunnel_mtu(topology: Topology, node: str) -> int:
    """The longest packet of the protected side that each of the node's connections can carry in one
    piece, whichever of its proposals is agreed on."""
    return min(
        (_fitting(item, _path_mtu(topology, item)) for item in topology.connections_of(node)),
        default=LARGEST_PACKET,
    )


def _fitting(connection: Connection, mtu: int) -> int:
    if connection.mode is None:
        return mtu
    header = _HEADER_SIZES[connection.initiator_address.version]
    room = mtu - header
    # In transport mode the IP header stays outside, and what is left fits behind it.
    outside = header if connection.mode is Mode.TRANSPORT else 0
    if connection.protocol is ProtocolId.AH:
        ipv6 = header == IPV6_HEADER_SIZE
        sizes = (header_size(suite.icv_size, ipv6=ipv6) for suite in _suites(connection))
        return outside + room - max(sizes)
    # Where addresses may change, a NAT may come.
    moves = connection.mobike is not None
    if connection.tcp is not TcpUse.NEVER:
        # One packet a segment, where the connection has nothing else to send.
        room -= TCP_HEADER_SIZE + LENGTH_SIZE
    elif connection.in_udp or moves:
        room -= UDP_HEADER_SIZE
    return outside + min(_fitting_esp(room, suite) for suite in _suites(connection))


def _fitting_esp(room: int, suite: Suite) -> int:
    """Octets of payload in an ESP packet of `room` octets: whole blocks, less the trailer."""
    alignment = max(ESP_ALIGNMENT, suite.block_size)
    ciphered = room - ESP_HEADER_SIZE - suite.iv_size - suite.icv_size
    return ciphered // alignment * alignment - ESP_TRAILER_SIZE


def _suites(connection: Connection) -> Iterator[Suite]:
    """Each suite that the connection's proposals allow."""
    for proposal in connection.child_proposals:
        if proposal.protocol is ProtocolId.AH:
            for item in proposal.of_type(TransformType.INTEG):
                yield child_suite_of(replace(proposal, transforms=(item,)))
            continue
        integrities = proposal.of_type(TransformType.INTEG)
        for cipher in proposal.of_type(TransformType.ENCR):
            if integrities:
                yield from (suite_of((cipher, integrity)) for integrity in integrities)
            else:
                yield suite_of((cipher,))


def _path_mtu(topology: Topology, connection: Connection) -> int:
    """The smallest MTU between the two ends, either way."""
    path = topology.routing.path(connection.initiator, connection.responder)
    assert path is not None, f"{connection.name}: no way between the ends of a checked topology"
    mtus = [LARGEST_PACKET]
    for near, far in pairwise(path):
        link = topology.graph.edges[near, far]["link"]
        if link.hidden_mtu:
            continue
        mtus += [link.forward.mtu, link.backward.mtu]
    if connection.mobike is not None:
        for end in connection.ends:
            links = (topology.link(i.link) for i in unprotected_interfaces(topology, end))
            mtus += [mtu for link in links for mtu in (link.forward.mtu, link.backward.mtu)]
    return min(mtus)
