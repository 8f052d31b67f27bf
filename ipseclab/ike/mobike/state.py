"""What an IKE_SA remembers of its ends' addresses (RFC 4555); a rekeyed one hands it on."""

from __future__ import annotations

from dataclasses import dataclass

from ipseclab.outputs import UdpPath


@dataclass(slots=True, eq=False)
class Mobility:
    """There is one where both ends have said MOBIKE_SUPPORTED."""

    decides: bool
    """This end made the first of the IKE_SAs, so that it chooses the addresses (section 2.1)."""
    proven: str
    """The peer's address at which it has answered last (section 3.7)."""
    peer_addresses: tuple[str, ...] = ()
    """All that the peer has said, the one it spoke from first."""
    told: tuple[str, ...] = ()
    """The addresses of its own that this end has told last."""
    changes: int = 0
    """How often the path has changed: a response to an older request says nothing about it."""
    newest_update: int = -1
    """Message ID of the newest UPDATE_SA_ADDRESSES taken; with a window they may come disordered
    (section 3.5)."""
    newest_list: int = -1
    """The same for lists of addresses (section 3.6)."""
    seen_as: bytes = b""
    """Hash of this end's address and port as the peer saw them last (section 3.8); empty after a
    rekey, as it covers the SPIs."""
    asked: float = 0.0
    """When this end has asked for that last."""
    fallback: UdpPath | None = None
    """The path before the change that is under way: the peer still uses it."""
    refused: tuple[UdpPath, ...] = ()
    """What the peer did not accept since this end's addresses changed last."""
    displaced: bool = False
    """The responder has left an address that it has no more, and the initiator has not decided
    since (end of section 3.5)."""
    nat_retries: int = 0
    """How often in a row the peer found a NAT that must not be there (section 3.9)."""

    def renew(self) -> None:
        """The IKE_SA was rekeyed: message IDs start again, and SPIs are others."""
        self.newest_update = self.newest_list = -1
        self.seen_as = b""
