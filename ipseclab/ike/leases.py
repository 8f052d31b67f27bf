"""Addresses handed out to peers: who has which one of a pool (RFC 7296 section 2.19).

A peer that comes back gets the address that it had, as long as nobody else needed it. An IKE_SA
more of the same identity gets an address of its own, unless it asks for one that the identity has:
that is a reauthentication, whose old IKE_SA is about to go (section 2.8.3). What a pool remembers
of those who are gone is bounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from ipaddress import ip_address

from ipseclab.ike.config import NULL_IDENTITY, Identity
from ipseclab.ike.configuration import AddressPool

MAX_REMEMBERED = 4096
"""Addresses that a pool keeps for identities that have none at the moment."""


@dataclass(slots=True, eq=False)
class Lease:
    """An address and who has it; `holders`: how many IKE_SAs use it now."""

    pool: AddressPool
    address: bytes
    owner: Identity
    holders: int = 0

    def __str__(self) -> str:
        return str(ip_address(self.address))


class _Table:
    """The leases of one pool."""

    def __init__(self, pool: AddressPool) -> None:
        self.pool = pool
        self.by_address: dict[bytes, Lease] = {}
        self.by_owner: dict[Identity, list[Lease]] = {}
        self.free: dict[bytes, Lease] = {}
        """Those that nobody uses now, the one given back first in front."""
        self.spare: deque[bytes] = deque()
        """Addresses that were had once, and whose owners are forgotten."""
        self.fresh = 0
        """How many addresses have been handed out at least once."""

    def take(self, owner: Identity, wanted: bytes) -> Lease | None:
        own = self.by_owner.get(owner, ()) if owner != NULL_IDENTITY else ()
        lease = next((one for one in own if one.address == wanted), None)
        if lease is None:
            lease = next((one for one in own if not one.holders), None)
        if lease is None:
            lease = self._new(owner, wanted)
        if lease is not None:
            lease.holders += 1
            self.free.pop(lease.address, None)
        return lease

    def _new(self, owner: Identity, wanted: bytes) -> Lease | None:
        address: bytes | None = wanted
        if wanted not in self.pool or wanted in self.by_address:
            address = self._unused()
        if address is None:
            return None
        lease = self.by_address[address] = Lease(self.pool, address, owner)
        self.by_owner.setdefault(owner, []).append(lease)
        return lease

    def _unused(self) -> bytes | None:
        """An address that nobody is remembered for; without one, the one given back first."""
        while self.spare:
            address = self.spare.popleft()
            if address not in self.by_address:
                return address
        while self.fresh < self.pool.size:
            address = self.pool.address(self.fresh)
            self.fresh += 1
            if address not in self.by_address:
                return address
        oldest = next(iter(self.free.values()), None)
        if oldest is None:
            return None
        self._forget(oldest)
        return oldest.address

    def _forget(self, lease: Lease) -> None:
        self.free.pop(lease.address, None)
        del self.by_address[lease.address]
        own = self.by_owner[lease.owner]
        own.remove(lease)
        if not own:
            del self.by_owner[lease.owner]

    def give_back(self, lease: Lease) -> None:
        lease.holders -= 1
        if lease.holders:
            return
        self.free[lease.address] = lease
        # RFC 7619 section 2.2: nobody can come back as nobody.
        if lease.owner != NULL_IDENTITY and len(self.free) <= MAX_REMEMBERED:
            return
        oldest = lease if lease.owner == NULL_IDENTITY else next(iter(self.free.values()))
        self._forget(oldest)
        self.spare.append(oldest.address)


class Leases:
    """All pools of an endpoint; a pool is known from its first lease on."""

    def __init__(self) -> None:
        self._tables: dict[AddressPool, _Table] = {}

    def take(self, pool: AddressPool, owner: Identity, wanted: bytes = b"") -> Lease | None:
        """An address for `owner`, the one that it wants if that may be; None when none is left."""
        if pool not in self._tables:
            self._tables[pool] = _Table(pool)
        return self._tables[pool].take(owner, wanted)

    def give_back(self, lease: Lease) -> None:
        """One IKE_SA less uses it."""
        self._tables[lease.pool].give_back(lease)

    def __len__(self) -> int:
        return sum(len(table.by_address) for table in self._tables.values())

    @property
    def in_use(self) -> int:
        """Addresses that an IKE_SA has."""
        return len(self) - sum(len(table.free) for table in self._tables.values())
