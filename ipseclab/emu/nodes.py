"""Mininet's hosts and links as the lab uses them: its Python API, without what it need not do.

Mininet makes the namespaces, each node's shell, and the veth pairs. Addresses and routes are set
by `emu.routing`, so `ifconfig`, `arp` and `route` of net-tools are not needed; no switch,
controller or `mn -c` is used, and no setting of the machine is touched.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from dataclasses import dataclass
from typing import Any

from ipseclab.emu import devices
from ipseclab.errors import EnvironmentLacks
from ipseclab.lab.model import Link
from ipseclab.lab.topology import Topology

RELAY_SIDE = ("a", "b")
RELAY_MAC_PREFIX = "02:1c"


def relay_interface(index: int, side: int) -> str:
    """The relay's interface towards one end of the link with that index in the topology."""
    return f"r{index}{RELAY_SIDE[side]}"


@dataclass(frozen=True, slots=True)
class Nodes:
    """Mininet with the topology's nodes and links in it."""

    net: Any

    def pid(self, name: str) -> int:
        """The process whose network namespace is the node's."""
        return int(self.net.get(name).pid)


def build_nodes(topology: Topology, relayed: set[str]) -> Nodes:
    """Make every node and link; the links in `relayed` as two veth pairs that end with us."""
    mininet = _import_mininet()
    net = mininet.net(
        controller=None, switch=None, host=mininet.host, link=mininet.link, intf=mininet.interface
    )
    for name in topology.nodes:
        net.addHost(name)
    here = net.addHost("lab", inNamespace=False)
    for index, link in enumerate(topology.links):
        if link.name in relayed:
            _add_relayed(net, here, link, index)
        else:
            first, second = link.ends
            net.addLink(
                first.node,
                second.node,
                intfName1=first.name,
                intfName2=second.name,
                addr1=first.mac,
                addr2=second.mac,
            )
    net.build()
    return Nodes(net)


def _add_relayed(net: Any, here: Any, link: Link, index: int) -> None:
    for side, end in enumerate(link.ends):
        name = relay_interface(index, side)
        net.addLink(
            end.node,
            here,
            intfName1=end.name,
            intfName2=name,
            addr1=end.mac,
            addr2=f"{RELAY_MAC_PREFIX}:{index >> 8:02x}:{index & 0xFF:02x}:00:{side + 1:02x}",
        )
        devices.offloads_off(name)
        # The relay's own kernel has nothing to say on the link.
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            devices.set_sysctl(f"ipv6.conf.{name}.disable_ipv6", 1)
        devices.set_up(name)


@dataclass(frozen=True, slots=True)
class _Mininet:
    """The classes of Mininet in use, ours where they differ."""

    net: Any
    host: Any
    link: Any
    interface: Any


def _import_mininet() -> _Mininet:
    """Import Mininet and adapt it. Raises EnvironmentLacks."""
    if sys.version_info >= (3, 12):
        _stand_in_for_distutils()
    try:
        with warnings.catch_warnings():
            # Of its use of distutils, and of escapes in its strings.
            warnings.simplefilter("ignore")
            net = importlib.import_module("mininet.net")
            node = importlib.import_module("mininet.node")
            link = importlib.import_module("mininet.link")
            log = importlib.import_module("mininet.log")
    except ImportError as error:
        raise EnvironmentLacks(f"Mininet: {error}", "pip install mininet") from error
    log.setLogLevel("error")
    # Its init() raises limits of the whole machine through sysctl: not ours to change.
    net.Mininet.inited = True

    class LabHost(node.Host):  # type: ignore[misc, name-defined]
        """A host whose interfaces are configured by `emu.routing`."""

        isSetup = False

        @classmethod
        def setup(cls) -> None:
            """The sandbox has seen to `mnexec`; `ifconfig` is not used."""

        def config(self, **_parameters: object) -> dict[str, object]:
            """Nothing by the shell."""
            return {}

    class LabInterface(link.Intf):  # type: ignore[misc, name-defined]
        """An interface that is left as the kernel made it."""

        def config(self, **_parameters: object) -> dict[str, object]:
            """Nothing by the shell."""
            return {}

    return _Mininet(net.Mininet, LabHost, link.Link, LabInterface)


def _stand_in_for_distutils() -> None:
    """Mininet imports distutils.version, which Python 3.12 no longer has, to compare versions of
    Open vSwitch, which the lab does not use."""
    if importlib.util.find_spec("distutils") is not None:
        return
    package, version = types.ModuleType("distutils"), types.ModuleType("distutils.version")
    version.StrictVersion = str  # type: ignore[attr-defined]
    package.version = version  # type: ignore[attr-defined]
    sys.modules["distutils"], sys.modules["distutils.version"] = package, version
