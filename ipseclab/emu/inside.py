"""Addresses and name servers that a peer gives a node, in its namespace (RFC 7296 section 2.19).

The addresses go to the TUN device of the protected side, and the node's own packets come from the
first of them. Who resolves names is written down as resolv.conf(5) has it, in the node's folder of
the results: the namespaces of a lab share one /etc.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ipseclab.emu import routing
from ipseclab.emu.devices import PROTECTED_TUN
from ipseclab.outputs import InternalConfiguration


class InsideAddresses:
    """What the connections of one node have been given. `own_address` is where its packets come
    from otherwise; `resolver` the file of the name servers."""

    def __init__(self, own_address: str, resolver: Path) -> None:
        self._own = own_address
        self._resolver = resolver
        self._given: dict[str, InternalConfiguration] = {}

    def take(self, given: InternalConfiguration) -> None:
        """Have those in place of what the connection gave before."""
        before = self._given.pop(given.connection, None)
        if given.addresses:
            self._given[given.connection] = given
        routing.run_ip(self._lines(before, given))
        self._write_resolver()

    def _lines(
        self, before: InternalConfiguration | None, given: InternalConfiguration
    ) -> Iterator[str]:
        gone = _ipv4(before) if before is not None else []
        for address in gone:
            yield f"address delete {address}/32 dev {PROTECTED_TUN}"
        for address in _ipv4(given):
            yield f"address add {address}/32 dev {PROTECTED_TUN}"
        every = chain.from_iterable(map(_ipv4, self._given.values()))
        yield routing.own_packets_line(next(every, self._own))

    def _write_resolver(self) -> None:
        """RFC 8598 section 5 would have each domain asked of its own servers, for which
        resolv.conf(5) has no words: they are written as comments."""
        lines: list[str] = []
        for given in self._given.values():
            lines.append(f"# {given.connection}: {' '.join(given.domains) or 'all names'}")
            lines += [f"nameserver {server}" for server in given.dns]
        self._resolver.parent.mkdir(parents=True, exist_ok=True)
        self._resolver.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _ipv4(given: InternalConfiguration) -> list[str]:
    """Links, and so the node's interfaces, carry IPv4 alone."""
    return [address for address in given.addresses if ":" not in address]
