"""Stateful fragment checking: later fragments go by the ports of their first one.

RFC 4301 section 7.3. Without it a later fragment matches only selectors for any port, or OPAQUE.
"""

from __future__ import annotations

from ipseclab.ipsec.counters import Dropped, DropReason
from ipseclab.wire.ip import Flow, decode_ipv4_header
from ipseclab.wire.ipv6 import FRAGMENT, decode_ipv6_header, flow_of_packet

FIRST_FRAGMENTS = 1024
"""Remembered at a time; the oldest makes room."""


class FragmentFlows:
    """The ports that first fragments showed, by addresses, protocol and identification."""

    def __init__(self) -> None:
        self._ports: dict[tuple[bytes, bytes, int], tuple[int, int]] = {}

    def flow_of(self, packet: bytes) -> Flow:
        """The selectors of a packet, a later fragment's ports those of its first one. Raises
        Dropped when that has not come by, WireError for what is no IP packet."""
        flow = flow_of_packet(packet)
        identification = _identification(packet)
        if identification is None:
            return flow
        key = flow.source, flow.destination, identification
        if flow.later_fragment:
            ports = self._ports.get(key)
            if ports is None:
                raise Dropped(DropReason.NO_FIRST_FRAGMENT)
            return flow._replace(
                source_port=ports[0], destination_port=ports[1], later_fragment=False
            )
        self._ports.pop(key, None)
        if len(self._ports) >= FIRST_FRAGMENTS:
            del self._ports[next(iter(self._ports))]
        self._ports[key] = flow.source_port, flow.destination_port
        return flow


def _identification(packet: bytes) -> int | None:
    """What a fragment has in common with the others of its packet; None for a whole packet."""
    if packet[0] >> 4 == 4:
        header = decode_ipv4_header(packet)
        return header.identification << 8 | header.protocol if header.is_fragment else None
    six = decode_ipv6_header(packet)
    at = next((item.start for item in six.extensions if item.protocol == FRAGMENT), None)
    return int.from_bytes(packet[at + 4 : at + 8], "big") if at is not None else None
