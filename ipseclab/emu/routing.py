"""A node's addresses, neighbours, routes and policy routing, as lines for `ip -batch`.

One `ip` process a node reads them all: a fiftieth of the time of Mininet's shell, and text that a
reader can try out by hand. Neighbours are static, so that links carry IP packets and nothing else:
no ARP, no neighbour discovery, no multicast groups, no addresses of a link alone.

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

IPv6 has rules of its own, the same but for ESP and AH: those take rule 5, as a raw IPv6 socket does
not show the header that AH covers.

IP fragments have no ports, not even the first for these rules: those of IKE take rule 5, and the
gateway puts them together.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Sequence

from ipseclab.emu import devices
from ipseclab.emu.devices import PROTECTED_TUN, UNPROTECTED_TUN
from ipseclab.errors import EnvironmentLacks
from ipseclab.ike.config import IKE_PORT, NAT_T_PORT
from ipseclab.ike.streams import STREAM_PORTS
from ipseclab.lab.addresses import AddressChange
from ipseclab.lab.model import Interface, IpAddress, Node
from ipseclab.lab.routes import DEFAULT_ROUTES, Route

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
        nodad = " nodad" if interface.version == 6 else ""
        yield f"address add {interface.address}/{prefix} dev {interface.name}{nodad}"
        yield neighbour_line(interface, interface.peer_address)


def neighbour_line(interface: Interface, address: IpAddress) -> str:
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
    version: int = 4,
    *,
    streams: bool = False,
) -> Iterator[str]:
    """The policy routing of an IPsec node with its routes, of one IP. Its TUN devices must be
    there. `streams`: IKE and ESP may go in TCP."""
    outside = {interface.name for interface in unprotected}
    for interface in unprotected:
        if interface.version != version:
            continue
        name = interface.name
        if version == 4:
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
        if interface.name not in outside and interface.version == version:
            yield f"rule add pref 30 to {interface.network} lookup main"
    for route in routes:
        if route.interface not in outside and route.network.version == version:
            yield f"rule add pref 30 to {route.network} lookup main"
    yield f"rule add pref 40 lookup {PROTECTED_TABLE}"
    # The source address that the node's own packets get: that of its first interface.
    own = next((item.address for item in node.interfaces if item.version == version), None)
    default = DEFAULT_ROUTES[version]
    if own is not None:
        yield own_packets_line(str(own))
    else:
        yield f"route replace {default} dev {PROTECTED_TUN} table {PROTECTED_TABLE}"
    yield f"route add {default} dev {UNPROTECTED_TUN} table {UNPROTECTED_TABLE}"


def source_lines(interface: Interface, index: int, address: IpAddress) -> Iterator[str]:
    """What our sockets send from `address` leaves by that interface (RFC 4555: the path is a pair
    of addresses)."""
    table = SOURCE_TABLES + index
    mark = f"{devices.OWN_MARK:#x}"
    default = DEFAULT_ROUTES[address.version]
    via = f"via {interface.peer_address} dev {interface.name}"
    yield f"route replace {default} {via} table {table}"
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
    default = DEFAULT_ROUTES[6 if ":" in source else 4]
    return f"route replace {default} dev {PROTECTED_TUN} src {source} table {PROTECTED_TABLE}"


_IPV6_SETTINGS = {
    # No router solicitations, no probing for duplicates, no addresses of the link alone.
    "ipv6.conf.all.accept_ra": 0,
    "ipv6.conf.default.accept_ra": 0,
    "ipv6.conf.default.router_solicitations": 0,
    "ipv6.conf.all.accept_dad": 0,
    "ipv6.conf.default.accept_dad": 0,
    "ipv6.conf.all.addr_gen_mode": 1,
    "ipv6.conf.default.addr_gen_mode": 1,
    "ipv6.conf.all.accept_redirects": 0,
    "ipv6.icmp.ratelimit": 0,
    # TUN devices, which come later, are no router's: they would join its groups and say so.
    "ipv6.conf.default.forwarding": 0,
    # Only now, so that no interface has done any of it before.
    "ipv6.conf.default.disable_ipv6": 0,
    "ipv6.conf.all.disable_ipv6": 0,
}


def set_kernel(*, forwards: bool, ipv6: bool = False) -> None:
    """This namespace's settings: no filtering by source, forwarding as told; IPv6 only where the
    node has it, and then silent."""
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
        # Nothing but packets may cross a link, or their indexes would differ from the sim's.
        "ipv6.conf.all.disable_ipv6": 1,
        "ipv6.conf.default.disable_ipv6": 1,
        # Every ICMP error counts as a packet too: none is to be held back by a rate limit.
        "ipv4.icmp_ratelimit": 0,
    }
    more: dict[str, int] = {}
    if ipv6:
        more = {"ipv6.conf.all.forwarding": int(forwards)} | _IPV6_SETTINGS
    for name, value in (*settings.items(), *more.items()):
        try:
            devices.set_sysctl(name, value)
        except FileNotFoundError:
            if ipv6:
                problem = "this kernel has no IPv6"
                raise EnvironmentLacks(problem, "boot it with ipv6.disable=0") from None
            if not name.startswith("ipv6."):  # a kernel without IPv6 has none to disable
                raise


def run_ip(lines: Iterable[str], version: int = 4) -> None:
    """Have `ip -batch` carry out the lines in this namespace, those without an address for that IP.
    Raises EnvironmentLacks."""
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(
        # Without -6 it goes by the addresses in each line, and takes IPv4 where there are none.
        ["ip", *(["-6"] if version == 6 else []), "-batch", "-"],
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
