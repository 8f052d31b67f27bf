"""`ipseclab doctor`: what this machine can do, what is missing, and the remedy.

Each finding belongs to something that the lab offers (`needed_for`); a missing one never stops what
does not need it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ipseclab.emu import sandbox

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/ipsec", "/usr/libexec/ipsec")
PLUGIN_FOLDERS = (
    "/usr/lib/ipsec/plugins",
    "/usr/lib64/ipsec/plugins",
    "/usr/lib64/strongswan/plugins",
)
PLUGINS = {
    "kernel-libipsec": "libcharon-extra-plugins",
    "curve25519": "libstrongswan-extra-plugins",
    "gcm": "libstrongswan-standard-plugins",
    "openssl": "libstrongswan-standard-plugins",
}
"""strongSwan's plugins that the lab loads, and Debian's packages that hold them."""
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: is it there, what was found, what it is needed for, and the remedy."""

    name: str
    ok: bool
    detail: str
    needed_for: str
    remedy: str = ""


def examine() -> tuple[Finding, ...]:
    """Look at everything; takes about a second, changes nothing, leaves nothing."""
    return (
        *_python(),
        *_namespaces(),
        *_strongswan(),
        *_others(),
        *_tshark(),
        *_browser(),
        *_tcp(),
    )


def able(findings: tuple[Finding, ...], what: str) -> bool:
    """True when nothing needed for `what` is missing."""
    return all(finding.ok for finding in findings if finding.needed_for == what)


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    yield Finding(
        "python",
        sys.version_info >= OLDEST_PYTHON,
        version,
        "everything",
        "install Python 3.11 or later",
    )
    missing = list(_packages_missing())
    yield Finding(
        "python packages",
        not missing,
        ", ".join(missing) if missing else "all installed",
        "everything",
        "make setup",
    )


def _packages_missing() -> Iterator[str]:
    """The package's own requirements that are not installed, or too old."""
    for line in metadata.requires("ipseclab") or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            yield wanted.name
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} {found} ({wanted.specifier} wanted)"


def _namespaces() -> Iterator[Finding]:
    """What `--world netns` stands on, as the sandbox itself finds it."""
    for check in sandbox.capabilities():
        yield Finding(check.name, check.ok, check.detail, "world netns", check.remedy)


def find_program(*names: str) -> str | None:
    """The first of these programs, also where an unprivileged user's PATH does not look."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def _program(name: str, what: str, package: str, *aliases: str) -> Finding:
    found = find_program(name, *aliases)
    remedy = f"apt-get install {package}"
    return Finding(name, found is not None, found or "not found", what, remedy)


def _strongswan() -> Iterator[Finding]:
    yield _program("charon", "strongSwan peers", "strongswan-charon", "charon-systemd")
    yield _program("swanctl", "strongSwan peers", "strongswan-swanctl")
    for plugin, package in PLUGINS.items():
        library = f"libstrongswan-{plugin}.so"
        places = (Path(folder) / library for folder in PLUGIN_FOLDERS)
        found = next((str(place) for place in places if place.exists()), None)
        yield Finding(
            plugin,
            found is not None,
            found or "plugin not found",
            "strongSwan peers",
            f"apt-get install {package}",
        )


def _others() -> Iterator[Finding]:
    """What the stack is measured beside, where it is there."""
    for program, package in (("openvpn", "openvpn"), ("wireguard-go", "wireguard-go")):
        yield _program(program, "other tunnels (benchmarks)", package)


def _tshark() -> Iterator[Finding]:
    yield _program("tshark", "independent decoding (tests)", "tshark")
    yield _program("wireshark", "ipseclab open", "wireshark")


def _browser() -> Iterator[Finding]:
    what, package = "the report in a browser (tests)", "chromium chromium-driver"
    yield _program("chromium", what, package)
    yield _program("chromedriver", what, package)


def _tcp() -> Iterator[Finding]:
    """The kernel's congestion control: experiments name cubic and newreno (Linux calls it reno)."""
    path = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
    try:
        available = path.read_text(encoding="ascii").split()
    except OSError:
        available = []
    missing = [name for name in ("cubic", "reno") if name not in available]
    detail = ", ".join(available) if available else "cannot be read"
    remedy = f"as root: modprobe {' '.join(f'tcp_{name}' for name in missing)}"
    yield Finding("TCP congestion control", not missing, detail, "TCP in world netns", remedy)
