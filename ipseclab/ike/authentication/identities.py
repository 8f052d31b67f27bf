"""Who is who in IKE_AUTH: the connection that a peer means, and the identity that a round is about.

RFC 7296 section 2.15 and 3.5.
"""

from __future__ import annotations

from dataclasses import replace

from ipseclab.errors import AuthenticationFailed, InvalidSyntax, NoProposalChosen
from ipseclab.ike.config import ANY_IDENTITY, ConnectionConfig, Identity, OwnAuth
from ipseclab.ike.context import Context
from ipseclab.ike.negotiation import choose_proposal
from ipseclab.ike.sa import IkeSa
from ipseclab.registry import IdType, ProtocolId
from ipseclab.wire.payloads import IdiPayload, IdrPayload


def own_identity(connection: ConnectionConfig, how: OwnAuth) -> Identity:
    """Who this end says that it is in a round."""
    return how.identity if how.identity is not None else connection.own_id


def identity_of(payload: IdiPayload | IdrPayload) -> Identity:
    """What an ID payload says."""
    return Identity(payload.id_type, payload.data)


def eap_user(identity: Identity) -> bytes:
    """The user of EAP that an identity stands for (RFC 7296 section 3.16): its octets where they
    are a name, else its text."""
    named = (IdType.ID_FQDN, IdType.ID_RFC822_ADDR, IdType.ID_KEY_ID)
    return identity.data if identity.id_type in named else str(identity).encode()


def check_peer_identity(sa: IkeSa, done: int, found: Identity) -> None:
    """Whether the peer may be `found` in its round number `done`. Raises AuthenticationFailed."""
    rounds = sa.connection.peer_rounds
    of_round = rounds[done].identity if done < len(rounds) else None
    expected = of_round if of_round is not None else sa.connection.peer_id
    if expected not in (found, ANY_IDENTITY):
        raise AuthenticationFailed(f"peer is {found}, expected {expected}")


def connection_of(
    ctx: Context, sa: IkeSa, peer_id: IdiPayload, asked: IdrPayload | None, *, eap: bool
) -> ConnectionConfig:
    """The connection that the initiator means: of the ones for its address, the first for its
    identity (or for any), for the identity that it asks for, and for its way to authenticate (`eap`
    or not). Raises AuthenticationFailed, and InvalidSyntax for an AUTH that is missing."""
    found = identity_of(peer_id)
    if sa.resumption is not None:
        # RFC 5723 section 5.2: the ticket says who it is, and AUTH that it is theirs.
        if ctx.tickets.used(sa.resumption.ticket):
            raise AuthenticationFailed("the ticket was used before")
        if found != sa.connection.peer_id:
            raise AuthenticationFailed(f"the ticket is not that of {found}")
        return sa.connection
    wanted = identity_of(asked) if asked is not None else None
    possible = ctx.possible_connections(sa.path)
    named = [
        connection
        for key in (found, ANY_IDENTITY)
        for connection in possible.by_peer_id.get(key, ())
        if wanted in (None, own_identity(connection, connection.own_rounds[0]))
    ]
    fitting = [connection for connection in named if connection.peer_uses_eap is eap]
    if not named:
        raise AuthenticationFailed(f"no connection for peer {found} that asks for {wanted}")
    if not fitting:
        if eap:
            raise InvalidSyntax("IKE_AUTH request without AUTH, and EAP is not for this peer")
        raise AuthenticationFailed(f"peer {found} must be authenticated by EAP")
    chosen = fitting[0]
    return chosen if chosen.peer_id == found else replace(chosen, peer_id=found)


def check_algorithms(sa: IkeSa) -> None:
    """IKE_SA_INIT chose among the proposals of every connection that the peer might mean; now that
    it is known which one, that must allow the choice. Raises AuthenticationFailed."""
    assert sa.proposal is not None
    try:
        choose_proposal((sa.proposal,), sa.connection.ike_proposals, ProtocolId.IKE)
    except NoProposalChosen as error:
        raise AuthenticationFailed(f"connection {sa.connection.name}: {error}") from error
