"""The course of IKE_AUTH: rounds, what each end has done of them, what comes next.

RFC 7296 section 1.2, RFC 4739 section 2. One round an end is the ordinary case:

    Initiator                              Responder
    HDR, SK {IDi, [CERT,] [N(INITIAL_CONTACT),] [CERTREQ,]
      [IDr,] AUTH, SAi2, TSi, TSr}  -->
                              <--  HDR, SK {IDr, [CERT,] AUTH, SAr2, TSi, TSr}

More rounds come in further exchanges. A round begins with the ID of who is to be authenticated in
it; whoever has another one says so beside its AUTH; an end that has no more to say lets the other
go on. What only the first request asks for is answered in the last response.

    HDR, SK {IDi, [IDr,] AUTH, SAi2, TSi, TSr,
      N(MULTIPLE_AUTH_SUPPORTED), N(ANOTHER_AUTH_FOLLOWS)}  -->
                              <--  HDR, SK {IDr, AUTH, N(ANOTHER_AUTH_FOLLOWS)}
    HDR, SK {IDi, AUTH}  -->
                              <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr}

A round by EAP (RFC 7296 section 2.16) begins without AUTH, and ends with one of each end made with
the key of the EAP method. Before any EAP the responder has authenticated itself, unless both ends
leave that to EAP (RFC 5998).

    HDR, SK {IDi, [IDr,] SAi2, TSi, TSr,
      [N(EAP_ONLY_AUTHENTICATION)]}  -->
                              <--  HDR, SK {IDr, [CERT, AUTH,] EAP}
    HDR, SK {EAP}  -->
                              <--  HDR, SK {EAP (Success)}
    HDR, SK {AUTH}  -->
                              <--  HDR, SK {AUTH, SAr2, TSi, TSr}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from ipseclab.errors import AuthenticationFailed, InvalidSyntax
from ipseclab.ike.authentication.methods import PeerProof
from ipseclab.ike.config import Identity
from ipseclab.ike.context import Context
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import AuthPayload, CertPayload, CpPayload, NotifyPayload, Payload

SEVERAL = NotifyPayload(NotifyType.MULTIPLE_AUTH_SUPPORTED)
EAP_ONLY = NotifyPayload(NotifyType.EAP_ONLY_AUTHENTICATION)
ANOTHER = NotifyPayload(NotifyType.ANOTHER_AUTH_FOLLOWS)


class Step(Enum):
    """What the next request is for."""

    ROUND = "a round of the initiator begins"
    EAP = "EAP goes on"
    EAP_AUTH = "AUTH with the key of the EAP method"
    WAIT = "the responder goes on"
    DONE = "both ends are authenticated"


@dataclass(slots=True)
class Progress:
    """What both ends have done of their rounds; own/peer as in the configuration."""

    step: Step = Step.ROUND
    exchanges: int = 0
    own_done: int = 0
    peer_done: int = 0
    own_id: bytes = b""
    """The body of the ID payload of the own round under way, as sent."""
    peer_id: bytes = b""
    """The body of the peer's latest ID payload, as received."""
    peer: Identity | None = None
    """What that payload says."""

    def proof(self, message: Message, now: datetime) -> PeerProof:
        """What the peer shows of itself in `message`, at that time of day. Raises
        AuthenticationFailed and InvalidSyntax without ID and AUTH."""
        auth = message.find(AuthPayload)
        if self.peer is None:
            raise AuthenticationFailed("AUTH of a peer that has not said who it is")
        if auth is None:
            raise InvalidSyntax("IKE_AUTH message without AUTH")
        certificates = tuple(message.all(CertPayload))
        return PeerProof(self.peer, self.peer_id, auth, certificates, now)

    def through(self, sa: IkeSa) -> bool:
        """True when neither end owes anything more."""
        connection = sa.connection
        own, peer = len(connection.own_rounds), len(connection.peer_rounds)
        return self.own_done == own and self.peer_done == peer

    def following(self, sa: IkeSa) -> Step:
        """The step after an exchange that left no round half done."""
        if self.through(sa):
            return Step.DONE
        connection = sa.connection
        done, rounds = (
            (self.own_done, connection.own_rounds)
            if sa.initiator
            else (self.peer_done, connection.peer_rounds)
        )
        return Step.ROUND if done < len(rounds) else Step.WAIT

    def check_follows(self, message: Message, rounds: int) -> None:
        """The peer must announce another round when it owes one, and only then (RFC 4739 section
        2). Raises AuthenticationFailed."""
        says = message.notify(NotifyType.ANOTHER_AUTH_FOLLOWS) is not None
        if says and self.peer_done == rounds:
            raise AuthenticationFailed(f"the peer wants more than {rounds} rounds")
        if not says and self.peer_done < rounds:
            raise AuthenticationFailed(f"the peer ends after {self.peer_done} of {rounds} rounds")

    def check_limit(self, ctx: Context) -> None:
        """Raises AuthenticationFailed when IKE_AUTH takes too long."""
        most = ctx.config.limits.authentication_exchanges
        if self.exchanges >= most:
            raise AuthenticationFailed(f"not authenticated after {most} IKE_AUTH exchanges")


def arranged(child: Iterable[Payload], others: Iterable[Payload]) -> tuple[Payload, ...]:
    """The payloads of features around those of the CHILD_SA: CP goes in front of SA (RFC 7296
    section 2.19), all else behind."""
    others = tuple(others)
    return (
        *(payload for payload in others if isinstance(payload, CpPayload)),
        *child,
        *(payload for payload in others if not isinstance(payload, CpPayload)),
    )
