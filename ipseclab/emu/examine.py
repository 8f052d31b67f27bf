"""What works inside the sandbox, tried out one by one; run by `sandbox.capabilities`.

Each finding is a `sandbox.Check` as a JSON object, written to the descriptor given.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

from ipseclab.emu import devices, offloads
from ipseclab.errors import EnvironmentLacks
from ipseclab.registry import IpProtocol

_PRIVILEGED = "in a container: run it with --privileged; or use --world sim"


def _veth() -> str:
    _ip("link add v0 type veth peer name v1")
    devices.set_up("v0")
    devices.set_up("v1")
    return "a pair made"


def _tun() -> str:
    os.close(devices.open_tun("t0"))
    return devices.TUN_DEVICE


def _packet_socket() -> str:
    devices.open_packet_socket("v0").close()
    return "AF_PACKET"


def _raw_sockets() -> str:
    devices.open_ip_socket(IpProtocol.ESP).close()
    devices.open_udp_socket("127.0.0.1", 500).close()
    return "protocol 50, UDP 500, SO_MARK"


def _policy_routing() -> str:
    _ip("rule add pref 1 iif v0 ipproto udp dport 500 lookup local")
    _ip("rule add pref 2 not fwmark 1 lookup 100")
    devices.set_sysctl("ipv4.ip_forward", 1)
    return "rules by interface, port and mark"


def _offloads() -> str:
    """Nothing needs them: without one of them the fast path goes packet by packet there."""
    found = offloads.available()
    missing = [name for name, there in found.items() if not there]
    there = [name for name in found if name not in missing]
    lacks = f"; missing: {', '.join(missing)}" if missing else ""
    return f"for the fast path: {', '.join(there) or 'none'}{lacks}"


def _ip(command: str) -> None:
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {command}: {done.stderr.strip()}")


_EXAMINED: tuple[tuple[str, Callable[[], str], str], ...] = (
    ("veth", _veth, "as root: modprobe veth; or use --world sim"),
    ("tun", _tun, "as root: modprobe tun; in a container: run it with --device /dev/net/tun"),
    ("packet sockets", _packet_socket, _PRIVILEGED),
    ("raw sockets", _raw_sockets, _PRIVILEGED),
    ("offloads", _offloads, _PRIVILEGED),
    ("policy routing", _policy_routing, "a kernel with CONFIG_IP_MULTIPLE_TABLES; or --world sim"),
)


def findings() -> Iterator[dict[str, str | bool]]:
    """Each thing that a run needs of the kernel, tried."""
    socket.setdefaulttimeout(5.0)
    for name, examine, remedy in _EXAMINED:
        try:
            yield {"name": name, "ok": True, "detail": examine(), "remedy": ""}
        except (OSError, EnvironmentLacks) as error:
            yield {"name": name, "ok": False, "detail": str(error), "remedy": remedy}


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as report:
        json.dump(list(findings()), report)
