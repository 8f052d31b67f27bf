"""placeholder while the machine is written"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class NatBehaviour(Enum):
    """RFC 4787 sections 4.1 and 5: what a mapping or a filter depends on."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class NatConfig:
    """A NAT's settings; times in seconds.

    `udp_timeout`: RFC 4787 REQ-5 asks for 2 minutes or more, real ones are often shorter.
    `tcp_timeout`: RFC 5382 REQ-5, an established connection; `tcp_transitory_timeout` one that is
    being opened or closed. `icmp_timeout`: RFC 5508 REQ-2.
    """

    mapping: NatBehaviour = NatBehaviour.ENDPOINT_INDEPENDENT
    filtering: NatBehaviour = NatBehaviour.ADDRESS_AND_PORT_DEPENDENT
    port_preservation: bool = True
    hairpinning: bool = True
    udp_timeout: float = 120.0
    tcp_timeout: float = 7440.0
    tcp_transitory_timeout: float = 240.0
    icmp_timeout: float = 60.0
    first_port: int = 1024
    last_port: int = 65535
    mappings: int = 4096
    esp_passthrough: bool = False
