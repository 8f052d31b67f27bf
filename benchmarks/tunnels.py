"""Tunnels that are not IPsec, between two routers of a lab: OpenVPN and wireguard-go, which carry
packets in user space as our gateways do. Each is a process a router; none of them outlives the
sandbox."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ipseclab.emu import devices, routing
from ipseclab.errors import EnvironmentLacks
from ipseclab.ike.config import Identity
from ipseclab.lab.pki import Issued, Subject, Validity, issue, make_authority, make_key

OPENVPN, OPENVPN_TCP, WIREGUARD = "OpenVPN", "OpenVPN over TCP", "wireguard-go"
DEVICE = "vpn0"
READY_SECONDS, LOOK_EVERY = 15.0, 0.05
CERTIFICATE_DAYS = 1.0
SIDES = ("near", "far")
_OPENVPN_PORT, _WIREGUARD_PORT = 1194, 51820


@dataclass(frozen=True, slots=True)
class End:
    """A router: the process whose network namespace it is, its address, and the networks behind
    the other end, which are to go through the tunnel."""

    pid: int
    address: str
    beyond: str


@dataclass(frozen=True, slots=True)
class Software:
    """How a tunnel is put up: `program` is what it needs, `package` where Debian has that."""

    program: str
    package: str
    start: Callable[[Sequence[End], Path], tuple[int, int]]


def missing(name: str) -> EnvironmentLacks | None:
    """What keeps that software from being measured here."""
    software = SOFTWARE[name]
    if shutil.which(software.program) is None:
        return EnvironmentLacks(
            f"{name}: no program {software.program}", f"apt-get install {software.package}"
        )
    return None


def start_tunnel(name: str, ends: Sequence[End], folder: Path) -> tuple[int, int]:
    """Put a tunnel up between two ends, with routes through it; the processes that carry it."""
    folder.mkdir(parents=True)
    processes = SOFTWARE[name].start(ends, folder)
    for end in ends:
        with devices.in_network(end.pid):
            devices.set_up(DEVICE)
            routing.run_ip([f"route replace {end.beyond} dev {DEVICE}"])
    return processes


def _started(end: End, command: Sequence[str], log: Path) -> int:
    """A process in the end's namespace; waits until its device is there."""
    with devices.in_network(end.pid), log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        until = time.monotonic() + READY_SECONDS
        while DEVICE not in (name for _index, name in socket.if_nameindex()):
            if process.poll() is not None or time.monotonic() > until:
                raise EnvironmentLacks(f"{command[0]}: {log.read_text(errors='replace')}", "")
            time.sleep(LOOK_EVERY)
    return process.pid


# OpenVPN: certificates, point to point, its ESP of sorts in the process (no DCO). -----------------


def certify(folder: Path, ends: Mapping[str, tuple[Identity, ...]]) -> None:
    """Keys and certificates of one authority as files, for ends of these identities."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.SystemRandom()
    validity = Validity.of_days(datetime.now(UTC), CERTIFICATE_DAYS)
    authority = make_authority("benchmark", make_key("ecdsa-p256", rng), validity, rng=rng)
    for name, identities in ends.items():
        subject = Subject(name, identities, extended_usage=None)
        key = make_key("ecdsa-p256", rng)
        _write_identity(folder, name, issue(authority, subject, key, validity, rng=rng))


def _start_openvpn(ends: Sequence[End], folder: Path, transport: str = "udp4") -> tuple[int, int]:
    """The server first: a client that finds nobody waits for seconds before it asks again."""
    certify(folder, dict.fromkeys(SIDES, ()))
    near, far = ends
    server = _openvpn(far, near, SIDES[1], folder, transport)
    serving = _started(far, server, folder / f"{SIDES[1]}.log")
    client = _openvpn(near, far, SIDES[0], folder, transport)
    return _started(near, client, folder / f"{SIDES[0]}.log"), serving


def _write_identity(folder: Path, side: str, issued: Issued) -> None:
    key = issued.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / f"{side}.key").write_bytes(key)
    (folder / f"{side}.crt").write_bytes(issued.certificate.public_bytes(Encoding.PEM))
    (folder / "ca.crt").write_bytes(issued.issuer.certificate.public_bytes(Encoding.PEM))


def _openvpn(end: End, other: End, side: str, folder: Path, transport: str) -> list[str]:
    client = side == SIDES[0]
    role = "" if transport == "udp4" else ("-client" if client else "-server")
    settings: dict[str, Sequence[str]] = {
        "dev": [DEVICE],
        "dev-type": ["tun"],
        "proto": [f"{transport}{role}"],
        "local": [end.address],
        **({"remote": [other.address]} if client else {}),
        "port": [str(_OPENVPN_PORT)],
        "ca": [str(folder / "ca.crt")],
        "cert": [str(folder / f"{side}.crt")],
        "key": [str(folder / f"{side}.key")],
        "data-ciphers": ["AES-128-GCM"],
        "disable-dco": [],
        "verb": ["1"],
        **({"tls-client": []} if client else {"tls-server": [], "dh": ["none"]}),
    }
    words = [[f"--{name}", *values] for name, values in settings.items()]
    return ["openvpn", *(word for group in words for word in group)]


# wireguard-go: ChaCha20-Poly1305, as WireGuard knows no other. ------------------------------------


def _start_wireguard(ends: Sequence[End], folder: Path) -> tuple[int, int]:
    keys = [X25519PrivateKey.generate() for _ in ends]
    # Its control sockets are under /run, which a sandbox need not let it write.
    script = f"mount -t tmpfs tmpfs /run && exec wireguard-go --foreground {DEVICE}"
    command = ["unshare", "--mount", "sh", "-c", script]
    near, far = (
        _started(end, command, folder / f"{side}.log")
        for end, side in zip(ends, SIDES, strict=True)
    )
    settings = zip((near, far), ends, reversed(ends), keys, reversed(keys), strict=True)
    for pid, _end, other, own_key, peer_key in settings:
        _configure_wireguard(pid, other, own_key, peer_key)
    return near, far


def _configure_wireguard(
    pid: int, other: End, own_key: X25519PrivateKey, peer_key: X25519PrivateKey
) -> None:
    """Through its control socket (WireGuard's cross-platform interface)."""
    settings = {
        "private_key": own_key.private_bytes_raw().hex(),
        "listen_port": str(_WIREGUARD_PORT),
        "public_key": peer_key.public_key().public_bytes_raw().hex(),
        "endpoint": f"{other.address}:{_WIREGUARD_PORT}",
        "allowed_ip": "0.0.0.0/0",
    }
    request = "".join(f"{key}={value}\n" for key, value in {"set": "1", **settings}.items())
    path = Path(f"/proc/{pid}/root/run/wireguard/{DEVICE}.sock")
    until = time.monotonic() + READY_SECONDS
    while not path.exists() and time.monotonic() < until:
        time.sleep(LOOK_EVERY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(READY_SECONDS)
        control.connect(str(path))
        control.sendall(f"{request}\n".encode("ascii"))
        answer = control.recv(4096).decode("ascii")
    if "errno=0" not in answer:
        raise EnvironmentLacks(f"wireguard-go: {answer.strip()}", "")


SOFTWARE: Mapping[str, Software] = {
    OPENVPN: Software("openvpn", "openvpn", _start_openvpn),
    OPENVPN_TCP: Software("openvpn", "openvpn", partial(_start_openvpn, transport="tcp4")),
    WIREGUARD: Software("wireguard-go", "wireguard-go", _start_wireguard),
}
