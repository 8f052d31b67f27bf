"""What the two ends tell each other in IKE_SA_INIT that they can do: one Notify each.

Most extensions of IKEv2 start so: the initiator sends a Notify, a responder that can do it too
sends the same Notify back, and from then on both may use it. Some are said by the responder alone
(RFC 6023), some hold data (RFC 7427). A new extension is a row of `CAPABILITIES`; whoever uses it
asks `IkeSa.agreed` or reads `IkeSa.peer_offers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ipseclab.crypto.signature import OWN_HASHES, encode_hashes
from ipseclab.ike.config import Childless, ConnectionConfig, PpkUse
from ipseclab.ike.credentials import CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand
from ipseclab.ike.negotiation import offers_additional
from ipseclab.registry import NotifyType
from ipseclab.wire.payloads import NotifyPayload

Offer = Callable[[ConnectionConfig], bytes | None]
"""The Notify's data (often empty) when that connection can do it, None when it cannot."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One extension. `unasked`: a responder says it even to an initiator that did not;
    `initiator`: an initiator says it at all; `responder`: a responder does."""

    notify: NotifyType
    offer: Offer
    unasked: bool = False
    initiator: bool = True
    responder: bool = True


def _several_rounds(connection: ConnectionConfig) -> bytes | None:
    """RFC 4739 section 2: the initiator says it in IKE_AUTH."""
    return b"" if len(connection.own_rounds) > 1 or len(connection.peer_rounds) > 1 else None


def _fragmentation(connection: ConnectionConfig) -> bytes | None:
    """RFC 7383 section 2.3."""
    return b"" if connection.fragmentation else None


def _intermediate(connection: ConnectionConfig) -> bytes | None:
    """RFC 9370 section 2.2.1: said by who has additional key exchanges to propose, or a PPK."""
    wanted = offers_additional(connection.ike_proposals) or _ppk_in_intermediate(connection) == b""
    return b"" if wanted else None


def _ppk_in_auth(connection: ConnectionConfig) -> bytes | None:
    """RFC 8784 section 3."""
    return b"" if connection.ppks and connection.ppk_use is not PpkUse.INTERMEDIATE else None


def _ppk_in_intermediate(connection: ConnectionConfig) -> bytes | None:
    """RFC 9867 section 3.1."""
    return b"" if connection.ppks and connection.ppk_use is not PpkUse.AUTH else None


def _signature_hashes(connection: ConnectionConfig) -> bytes | None:
    """RFC 7427 section 4, when either end of the connection signs."""
    rounds = (*connection.own_rounds, *connection.peer_rounds)
    signing = (CertificateAuth, CertificateDemand, RawKeyAuth, RawKeyDemand)
    return encode_hashes(OWN_HASHES) if any(isinstance(how, signing) for how in rounds) else None


def _redirect(connection: ConnectionConfig) -> bytes | None:
    """RFC 5685 section 3: said by clients that follow."""
    return b"" if connection.redirect is not None and connection.redirect.follow else None


def _childless(connection: ConnectionConfig) -> bytes | None:
    """RFC 6023 section 3: said by responders alone, asked or not."""
    return None if connection.childless is Childless.NEVER else b""


CAPABILITIES: tuple[Capability, ...] = (
    Capability(NotifyType.IKEV2_FRAGMENTATION_SUPPORTED, _fragmentation),
    Capability(NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED, _intermediate),
    Capability(NotifyType.MULTIPLE_AUTH_SUPPORTED, _several_rounds, unasked=True, initiator=False),
    Capability(NotifyType.SIGNATURE_HASH_ALGORITHMS, _signature_hashes),
    Capability(NotifyType.REDIRECT_SUPPORTED, _redirect, responder=False),
    Capability(NotifyType.USE_PPK, _ppk_in_auth),
    Capability(NotifyType.USE_PPK_INT, _ppk_in_intermediate),
    Capability(NotifyType.CHILDLESS_IKEV2_SUPPORTED, _childless, unasked=True, initiator=False),
)
"""In the order in which their notifications are sent."""
_NOTIFIES = frozenset(capability.notify for capability in CAPABILITIES)


def offers_of_initiator(connection: ConnectionConfig) -> tuple[NotifyPayload, ...]:
    """What an IKE_SA_INIT request says."""
    return tuple(
        NotifyPayload(capability.notify, data)
        for capability in CAPABILITIES
        if capability.initiator and (data := capability.offer(connection)) is not None
    )


def offers_of_responder(
    connections: Iterable[ConnectionConfig], peer_offers: Mapping[NotifyType, bytes]
) -> tuple[NotifyPayload, ...]:
    """What the response says. Which of `connections` the peer means shows in IKE_AUTH only: what
    any of them can do is said, by the first that can."""
    candidates = tuple(connections)
    notifies = []
    for capability in CAPABILITIES:
        asked = capability.notify in peer_offers or capability.unasked
        if not asked or not capability.responder:
            continue
        able = (capability.offer(connection) for connection in candidates)
        data = next((data for data in able if data is not None), None)
        if data is not None:
            notifies.append(NotifyPayload(capability.notify, data))
    said = {notify.notify_type for notify in notifies}
    if NotifyType.USE_PPK_INT in said:
        # RFC 9867 section 3.1: one of the two ways, and only IKE_INTERMEDIATE has room for this.
        possible = NotifyType.INTERMEDIATE_EXCHANGE_SUPPORTED in said
        worse = NotifyType.USE_PPK if possible else NotifyType.USE_PPK_INT
        notifies = [notify for notify in notifies if notify.notify_type != worse]
    return tuple(notifies)


def offers_in(notifies: Iterable[NotifyPayload]) -> dict[NotifyType, bytes]:
    """The capabilities among a peer's notifications; of repeated ones the first counts."""
    offers: dict[NotifyType, bytes] = {}
    for notify in notifies:
        if notify.notify_type in _NOTIFIES:
            offers.setdefault(notify.notify_type, notify.data)
    return offers
