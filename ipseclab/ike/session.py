"""What an IKE_SA carries beyond its CHILD_SAs: it moves on to the IKE_SA that a rekey makes."""

from __future__ import annotations

from dataclasses import dataclass

from ipseclab.ike.configuration import Assigned
from ipseclab.ike.leases import Lease


@dataclass(slots=True, eq=False)
class Session:
    """Lives from IKE_AUTH until the last IKE_SA of its line is gone."""

    leases: tuple[Lease, ...] = ()
    """Addresses that this end has given the peer."""
    assigned: Assigned | None = None
    """What the peer has given this end."""
    begun_here: bool = False
    """True at the end that began IKE_AUTH, whoever has rekeyed since."""
    nonce: bytes = b""
    """The lower of the nonces of the IKE_SA_INIT that began it."""
    renewal: float | None = None
    """When this end began it to authenticate anew; None: it did not, or that is settled."""
    since: float = 0.0
    """When both ends were authenticated."""
    renew: float | None = None
    """When this end is to begin a reauthentication; None: never."""
    expires: float | None = None
    """When the authentication is no longer good."""

    @property
    def addressed(self) -> bool:
        """True when one end stands for an address that the other gave it."""
        return bool(self.leases) or self.assigned is not None
