"""Packets that the lab itself loses: a queue of the kernel's that was full because its reader was
too slow.

What a link drops is its model's doing and is traced. What is lost here happened on no link: a run
in which it did has measured the machine as well, and has to say so. Read from the nodes' own
proc(5) files, from outside, so that every process there is seen: gateways of either stack, and the
ends of flows. Relays and NATs count their own sockets' (`devices.queue_losses`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_TRANSMIT_DROP = 11
"""The column of /proc/net/dev, the first after the name being 0."""


def losses(pid: int) -> int:
    """Packets lost so far in the network namespace of `pid`: by UDP and raw sockets without room,
    by TUN devices that nobody read in time, by interfaces whose other end could take no more."""
    folder = Path(f"/proc/{pid}/net")
    return sum((*_udp(folder / "snmp"), *_raw(folder / "raw"), *_devices(folder / "dev")))


def _udp(path: Path) -> Iterator[int]:
    """`RcvbufErrors`: not what had a bad checksum, which a link may have damaged."""
    lines = path.read_text(encoding="ascii").splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    yield int(values[names.index("RcvbufErrors")])


def _raw(path: Path) -> Iterator[int]:
    """The last column, of each raw socket that is open now."""
    for line in path.read_text(encoding="ascii").splitlines()[1:]:
        yield int(line.split()[-1])


def _devices(path: Path) -> Iterator[int]:
    """What each interface could not hand over."""
    for line in path.read_text(encoding="ascii").splitlines()[2:]:
        yield int(line.partition(":")[2].split()[_TRANSMIT_DROP])
