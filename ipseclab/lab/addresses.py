"""The unprotected addresses that a node has now, as they change while a lab runs.

In no world in particular: `sim` and `emu` both ask here what a change means, and then make it so.
A link keeps its other end: what changes is the address of the node at it, or whether it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from ipseclab.errors import ConfigError
from ipseclab.lab.model import Interface, IpAddress
from ipseclab.lab.sides import unprotected_interfaces
from ipseclab.lab.topology import Topology


@dataclass(frozen=True, slots=True)
class AddressChange:
    """At `interface` the address `old` is gone, and `new` is there; None: none."""

    interface: Interface
    old: IpAddress | None
    new: IpAddress | None


class OutsideAddresses:
    """A node's addresses by link, the first link's the best."""

    def __init__(self, topology: Topology, node: str) -> None:
        self._node = node
        self._interfaces = {i.link: i for i in unprotected_interfaces(topology, node)}
        self._present: dict[str, IpAddress | None] = {
            link: interface.address for link, interface in self._interfaces.items()
        }

    @property
    def addresses(self) -> tuple[str, ...]:
        """What the gateway is told, the best first."""
        return tuple(str(one) for one in self._present.values() if one is not None)

    def change(self, link: str, address: str | None) -> AddressChange:
        """The node has another address at `link`, or none. Raises ConfigError."""
        problem = f"address_change at {self._node}"
        interface = self._interfaces.get(link)
        if interface is None:
            known = ", ".join(self._interfaces) or "none"
            raise ConfigError(f"{problem}: no unprotected link {link!r}, expected one of {known}")
        new = None if address is None else usable_address(interface, address)
        others = [one for name, one in self._present.items() if name != link]
        if new is not None and new in others:
            raise ConfigError(f"{problem}: {new} is at another link")
        old, self._present[link] = self._present[link], new
        return AddressChange(interface, old, new)


def usable_address(interface: Interface, text: str) -> IpAddress:
    """An address that `interface` could have. Raises ConfigError."""
    network = interface.network
    try:
        address = ip_address(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no IP address") from None
    reserved = (network.network_address, network.broadcast_address)
    taken = address == interface.peer_address
    if address not in network or (network.prefixlen < 31 and address in reserved) or taken:
        raise ConfigError(f"{address} cannot be used, expected another address of {network}")
    return address
