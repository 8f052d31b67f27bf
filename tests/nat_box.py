"""A NAT in front of one side of a Pair: an address of its own, a port for each inner port."""

from __future__ import annotations

from dataclasses import dataclass, field

from pair import ADDRESSES

from ipseclab.outputs import UdpEndpoint, UdpPath

NAT_ADDRESS = "203.0.113.9"


@dataclass
class NatBox:
    """To be a Pair's `translate`; `inside` is the side that it hides."""

    inside: int = 0
    address: str = NAT_ADDRESS
    next_port: int = 40_001
    ports: dict[int, int] = field(default_factory=dict)

    def __call__(self, sender: int, path: UdpPath) -> UdpPath | None:
        if sender == self.inside:
            if path.local.port not in self.ports:
                self.ports[path.local.port] = self.next_port
                self.next_port += 1
            outside = UdpEndpoint(self.address, self.ports[path.local.port])
            return UdpPath(path.remote, outside)
        for inner, outer in self.ports.items():
            if path.remote == UdpEndpoint(self.address, outer):
                return UdpPath(UdpEndpoint(ADDRESSES[self.inside], inner), path.local)
        return None

    def rebind(self, address: str | None = None) -> None:
        """Forget every mapping; what comes from inside next gets other ports."""
        self.ports.clear()
        if address is not None:
            self.address = address
