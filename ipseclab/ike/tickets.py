"""Tickets: an IKE_SA's state, sealed by the gateway and kept by the client (RFC 5723 section 6).

Tickets are by value, so that a gateway remembers nothing of those that it gave but which ones have
been used. The key that seals them changes with time; those of the epoch before are still good.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from ipseclab.crypto.sealing import NONCE_SIZE, seal, unseal
from ipseclab.errors import IntegrityFailure, WireError
from ipseclab.ike.config import Identity
from ipseclab.ike.secrets import Secrets
from ipseclab.registry import IdType
from ipseclab.wire.buffer import Reader
from ipseclab.wire.proposal import Proposal, decode_proposals, encode_proposals

LONGEST_LIFETIME = 86_400.0
"""Seconds: also how long a key seals, so that a ticket's own or the one after knows it."""
MAX_USED = 4096
"""Used tickets that are remembered; with more the oldest could be used again, within its time."""
MAX_TICKET_SIZE = 4096
"""Octets of a ticket that a client keeps."""


@dataclass(frozen=True, slots=True)
class TicketState:
    """What the gateway has to know again (section 6.3)."""

    connection: str
    peer_id: Identity
    spi_i: bytes
    spi_r: bytes
    """Of the IKE_SA that it stands for: the resumed one takes its place."""
    proposal: Proposal
    expires: int
    """Seconds of the time of day."""
    sk_d: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Its octets."""
        parts = (
            self.connection.encode(),
            bytes([self.peer_id.id_type]),
            self.peer_id.data,
            self.spi_i,
            self.spi_r,
            encode_proposals((self.proposal,)),
            self.expires.to_bytes(8, "big"),
            self.sk_d,
        )
        return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

    @classmethod
    def decode(cls, octets: bytes) -> Self:
        """Raises WireError."""
        reader = Reader(octets, "ticket")

        def part() -> bytes:
            return reader.octets(reader.uint(2))

        connection, kind, data, spi_i, spi_r = part().decode(), part(), part(), part(), part()
        (proposal,) = decode_proposals(Reader(part(), "ticket"))
        expires, sk_d = int.from_bytes(part(), "big"), part()
        reader.finish()
        peer_id = Identity(IdType(kind[0]), data)
        return cls(connection, peer_id, spi_i, spi_r, proposal, expires, sk_d)


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket as its client keeps it, with what it needs beside."""

    ticket: bytes = field(repr=False)
    expires: float
    """On the client's clock."""
    proposal: Proposal
    sk_d: bytes = field(repr=False)


class TicketBox:
    """A gateway's tickets: sealed, opened, used once."""

    def __init__(self, secrets: Secrets, *, rng: random.Random) -> None:
        self._secrets = secrets
        self._rng = rng
        self._used: dict[bytes, int] = {}
        """Digest of each used ticket, and when it expires."""

    def make(self, state: TicketState, time: float) -> bytes:
        """The ticket for `state`, at that time of day."""
        return seal(self._key(_epoch(time)), self._rng.randbytes(NONCE_SIZE), state.encode())

    def open(self, ticket: bytes, time: float) -> TicketState | None:
        """What a ticket of ours holds; None for one that is not, has expired or was used."""
        state = self._unsealed(ticket, _epoch(time))
        if state is None or state.expires <= time or self.used(ticket):
            return None
        return state

    def _unsealed(self, ticket: bytes, epoch: int) -> TicketState | None:
        for number in (epoch, epoch - 1):
            try:
                return TicketState.decode(unseal(self._key(number), ticket))
            except IntegrityFailure:
                continue
            except WireError:
                return None
        return None

    def used(self, ticket: bytes) -> bool:
        """True when a client has resumed with it before."""
        return _digest(ticket) in self._used

    def use(self, ticket: bytes, expires: int, time: datetime) -> None:
        """A client has proved that the ticket is its own: it is good for nothing else now."""
        self._forget(time.timestamp())
        self._used[_digest(ticket)] = expires

    def _forget(self, time: float) -> None:
        """Those that have expired, and the oldest when there are too many."""
        for past in [one for one, until in self._used.items() if until <= time]:
            del self._used[past]
        if len(self._used) >= MAX_USED:
            del self._used[next(iter(self._used))]

    def _key(self, epoch: int) -> bytes:
        return self._secrets.derive(b"ticket " + str(epoch).encode())

    def __len__(self) -> int:
        return len(self._used)


def _epoch(time: float) -> int:
    return int(time // LONGEST_LIFETIME)


def _digest(ticket: bytes) -> bytes:
    return hashlib.sha256(ticket).digest()
