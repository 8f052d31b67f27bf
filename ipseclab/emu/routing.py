"""A node's addresses, neighbours, routes and policy routing, as lines for `ip -batch`.

One `ip` process a node reads them all: a fiftieth of the time of Mininet's shell, and text that a
reader can try out by hand. Neighbours are static, so that links carry IPv4 and nothing else.

What makes the kernel hand every packet of an IPsec node to the SPD (RFC 4301 section 5):

    rule   what                                                goes to
     1..4  from the unprotected side: ESP, AH, UDP 500, 4500   the node itself (our sockets)
     4     from the unprotected side: TCP 4500 (RFC 9329)     the same, where it is used
     5     from the unprotected side: anything else            tun-out -> receive_packet
    15     marked: our own sockets, by source (MOBIKE)         a table for each link
    10     to the node's own addresses                         the node itself
    20     marked: our own sockets                             the main table
    30     to the protected side's subnets                     the main table
    40     all the rest, forwarded or the node's own           tun-in -> send_packet

IP fragments have no ports, not even the first for these rules: those of IKE take rule 5, and the
gateway puts them together.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address

from ipseclab.emu import devices
from ipseclab.emu.devices import PROTECTED_TUN, UNPROTECTED_TUN
from ipseclab.errors import EnvironmentLacks
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ike.streams import STREAM_PORTS
from ipseclab.lab.addresses import AddressChange
from ipseclab.lab.model import Interface, Node
from ipseclab.lab.routes import Route

PROTECTED_TABLE = 100
UNPROTECTED_TABLE = 101
SOURCE_TABLES = 200
"""The first of the tables by source address."""
_IP_SECONDS = 30.0


def address_lines(interfaces: Iterable[Interface], mtus: Sequence[int]) -> Iterator[str]:
    """The interfaces up, each with its address, MTU and its one neighbour."""
    for interface, mtu in zip(interfaces, mtus, strict=True):
        prefix = interface.network.prefixlen
        yield f"link set {interface.name} mtu {mtu} up"
        yield f"address add {interface.address}/{prefix} dev {interface.name}"
        yield neighbour_line(interface, interface.peer_address)


def neighbour_line(interface: Interface, address: IPv4Address) -> str:
    """`address` belongs to the interface's one neighbour."""
    return (
        f"neighbour replace {address} lladdr {interface.peer_mac} dev {interface.name} "
        "nud permanent"
    )


def pool_lines(interface: Interface, peer: Node) -> Iterator[str]:
    """The further outside addresses of a neighbour that is a NAT are at the same neighbour."""
    if peer.outside is not None and peer.interface_on(interface.link).name == peer.outside:
        for address in peer.pool:
            yield neighbour_line(interface, address)


def route_lines(routes: Iterable[Route]) -> Iterator[str]:
    """The node's routes beyond its own subnets."""
    for route in routes:
        yield f"route add {route.network} via {route.via} dev {route.interface}"


def ipsec_lines(
    node: Node,
    unprotected: Sequence[Interface],
    routes: Iterable[Route],
    *,
    streams: bool = False,
) -> Iterator[str]:
    """The policy routing of an IPsec node with its routes. Its TUN devices must be there.
    `streams`: IKE and ESP may go in TCP."""
    outside = {interface.name for interface in unprotected}
    for interface in unprotected:
        name = interface.name
        yield f"rule add pref 1 iif {name} ipproto esp lookup local"
        yield f"rule add pref 4 iif {name} ipproto ah lookup local"
        for preference, port in ((2, IKE_PORT), (3, NAT_T_PORT)):
            yield f"rule add pref {preference} iif {name} ipproto udp dport {port} lookup local"
        if streams:
            own_ports = f"{STREAM_PORTS.start}-{STREAM_PORTS.stop - 1}"
            for ports in (f"dport {NAT_T_PORT}", f"sport {NAT_T_PORT} dport {own_ports}"):
                yield f"rule add pref 4 iif {name} ipproto tcp {ports} lookup local"
        yield f"rule add pref 5 iif {name} lookup {UNPROTECTED_TABLE}"
    yield "rule add pref 10 lookup local"
    yield "rule delete pref 0"
    yield f"rule add pref 20 fwmark {devices.OWN_MARK:#x} lookup main"
    for interface in node.interfaces:
        if interface.name not in outside:
            yield f"rule add pref 30 to {interface.network} lookup main"
    for route in routes:
        if route.interface not in outside:
            yield f"rule add pref 30 to {route.network} lookup main"
    yield f"rule add pref 40 lookup {PROTECTED_TABLE}"
    # The source address that the node's own packets get: that of its first interface.
    yield own_packets_line(str(node.address))
    yield f"route add default dev {UNPROTECTED_TUN} table {UNPROTECTED_TABLE}"


def source_lines(interface: Interface, index: int, address: IPv4Address) -> Iterator[str]:
    """What our sockets send from `address` leaves by that interface (RFC 4555: the path is a pair
    of addresses)."""
    table = SOURCE_TABLES + index
    mark = f"{devices.OWN_MARK:#x}"
    yield f"route replace default via {interface.peer_address} dev {interface.name} table {table}"
    yield f"rule add pref 15 from {address} fwmark {mark} lookup {table}"


def address_change_lines(
    change: AddressChange, index: int | None, routes: Iterable[Route]
) -> Iterator[str]:
    """Another address at an interface, or none, with those of the node's `routes` that go with the
    last address of an interface. `index`: of the interface's table, where sources choose one."""
    interface = change.interface
    prefix = interface.network.prefixlen
    if change.old is not None:
        if index is not None:
            mark = f"{devices.OWN_MARK:#x}"
            yield f"rule delete pref 15 from {change.old} fwmark {mark}"
        yield f"address del {change.old}/{prefix} dev {interface.name}"
    if change.new is not None:
        yield f"address add {change.new}/{prefix} dev {interface.name}"
        # The last address took neighbours and routes with it.
        yield neighbour_line(interface, interface.peer_address)
        for route in routes:
            if route.interface == interface.name:
                yield f"route replace {route.network} via {route.via} dev {route.interface}"
        if index is not None:
            yield from source_lines(interface, index, change.new)


def own_packets_line(source: str) -> str:
    """The node's own packets to what is not on its protected side come from `source`."""
    return f"route replace default dev {PROTECTED_TUN} src {source} table {PROTECTED_TABLE}"


def set_kernel(*, forwards: bool) -> None:
    """This namespace's settings: IPv4 alone, no filtering by source, forwarding as told."""
    devices.set_up("lo")
    settings = {
        "ipv4.ip_forward": int(forwards),
        "ipv4.conf.all.rp_filter": 0,
        "ipv4.conf.default.rp_filter": 0,
        "ipv4.conf.all.accept_redirects": 0,
        "ipv4.conf.all.send_redirects": 0,
        "ipv4.conf.default.send_redirects": 0,
        # A packet that the kernel has matched to a socket before routing it is not forwarded, not
        # even to the TUN device through which it would come to that socket.
        "ipv4.ip_early_demux": 0,
        # Nothing but IPv4 may cross a link, or the packets' indexes would differ from the sim's.
        "ipv6.conf.all.disable_ipv6": 1,
        "ipv6.conf.default.disable_ipv6": 1,
        # Every ICMP error counts as a packet too: none is to be held back by a rate limit.
        "ipv4.icmp_ratelimit": 0,
    }
    for name, value in settings.items():
        try:
            devices.set_sysctl(name, value)
        except FileNotFoundError:
            if not name.startswith("ipv6."):  # a kernel without IPv6 has none to disable
                raise


def run_ip(lines: Iterable[str]) -> None:
    """Have `ip -batch` carry out the lines in this namespace. Raises EnvironmentLacks."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        ["ip", "-batch", "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=_IP_SECONDS,
    )
    if done.returncode != 0:
        raise EnvironmentLacks(
            f"ip -batch: {' '.join(done.stderr.split())}",
            "a newer iproute2, a kernel with policy routing, or --world sim",
        )
