"""Which addresses behind NATs peers have CHILD_SAs for.

Two clients behind NATs may have the same private address, for each home has its 192.168.1.2; and in
transport mode all clients behind one NAT have that NAT's address. A gateway that gave both of them
an SA could not tell whose a packet to that address is (RFC 3948 sections 5.1 and 5.2: implementors
MUST prevent it). Here the second one is refused what the first one has; with addresses from a pool
nobody is.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipseclab.errors import TsUnacceptable
from ipseclab.ike.sa import ChildSa, IkeSa
from ipseclab.wire.selector import TrafficSelector

Selectors = tuple[TrafficSelector, ...]


class Claims:
    """CHILD_SAs of peers behind NATs, by the addresses that their selectors begin with."""

    def __init__(self) -> None:
        self._hosts: dict[bytes, dict[bytes, ChildSa]] = {}
        self._ranges: dict[bytes, ChildSa] = {}
        """Those of more than single addresses, by SPI: sites behind NATs, of which there are few.
        """

    def __len__(self) -> int:
        """How many CHILD_SAs are known, a CHILD_SA of several hosts once for each."""
        return len(self._ranges) + sum(map(len, self._hosts.values()))

    def add(self, child: ChildSa) -> None:
        """Know `child`, if its peer is behind a NAT."""
        if child.ike.peer_behind_nat:
            for table in self._tables_for(child):
                table[child.spi_in] = child

    def remove(self, child: ChildSa) -> None:
        """Forget `child`; one that is not known does nothing."""
        self._ranges.pop(child.spi_in, None)
        for address in _hosts(child.peer_ts):
            held = self._hosts.get(address)
            if held is not None:
                held.pop(child.spi_in, None)
                if not held:
                    del self._hosts[address]

    def require_free(self, sa: IkeSa, own_ts: Selectors, peer_ts: Selectors) -> None:
        """Raise TsUnacceptable when a packet for these selectors could be another peer's."""
        if not sa.peer_behind_nat:
            return
        for child in self._near(peer_ts):
            if child.ike.connection.peer_id == sa.connection.peer_id:
                continue
            if _meet(child.peer_ts, peer_ts) and _meet(child.own_ts, own_ts):
                raise TsUnacceptable(
                    f"{', '.join(map(str, peer_ts))} behind a NAT is what "
                    f"{child.ike.connection.peer_id} has already"
                )

    def _tables_for(self, child: ChildSa) -> list[dict[bytes, ChildSa]]:
        hosts = _hosts(child.peer_ts)
        if len(hosts) < len({selector.start for selector in child.peer_ts}):
            return [self._ranges]
        return [self._hosts.setdefault(address, {}) for address in hosts]

    def _near(self, peer_ts: Selectors) -> Iterator[ChildSa]:
        """CHILD_SAs whose selectors these may meet."""
        yield from self._ranges.values()
        if all(selector.start == selector.end for selector in peer_ts):
            for address in _hosts(peer_ts):
                yield from self._hosts.get(address, {}).values()
        else:
            for held in self._hosts.values():
                yield from held.values()


def _hosts(selectors: Selectors) -> list[bytes]:
    """The single addresses among them, each once."""
    return list(dict.fromkeys(one.start for one in selectors if one.start == one.end))


def _meet(ones: Selectors, others: Selectors) -> bool:
    return any(one.intersection(other) is not None for one in ones for other in others)
