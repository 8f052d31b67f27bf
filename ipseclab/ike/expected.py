"""Which payloads a protected message is read for; all others are passed over unread.

RFC 7296 appendix C lists what each exchange's messages hold. What stands in another one is ignored
(section 2.5), and a peer gone bad shall not have long lists read that nobody asks for.
"""

from __future__ import annotations

from collections.abc import Mapping

from ipseclab.ike.sa import IkeSa
from ipseclab.registry import ExchangeType, PayloadType
from ipseclab.wire.message import Message

Wanted = frozenset[PayloadType] | None
"""None: all."""

_ALWAYS = (PayloadType.NOTIFY, PayloadType.VENDOR, PayloadType.SK, PayloadType.SKF)
_KEY_EXCHANGE = frozenset((*_ALWAYS, PayloadType.KE))

_OF_EXCHANGE: Mapping[ExchangeType, frozenset[PayloadType]] = {
    ExchangeType.INFORMATIONAL: frozenset((*_ALWAYS, PayloadType.DELETE, PayloadType.CP)),
    ExchangeType.IKE_INTERMEDIATE: _KEY_EXCHANGE,
    ExchangeType.IKE_FOLLOWUP_KE: _KEY_EXCHANGE,
}

_ANSWERED = frozenset((*_ALWAYS, PayloadType.DELETE))
"""To INFORMATIONAL: no request of ours holds a CP payload."""

_LATER_IN_AUTH = frozenset(
    (
        *_ALWAYS,
        PayloadType.IDI,
        PayloadType.IDR,
        PayloadType.CERT,
        PayloadType.CERTREQ,
        PayloadType.AUTH,
        PayloadType.EAP,
    )
)
"""What the CHILD_SA is to be like stands in the first request of IKE_AUTH."""


def expected(sa: IkeSa, message: Message) -> Wanted:
    """What a message on `sa` is read for."""
    if message.exchange == ExchangeType.IKE_AUTH:
        return None if sa.authentication is None else _LATER_IN_AUTH
    if message.exchange == ExchangeType.INFORMATIONAL and message.response:
        return _ANSWERED
    return _OF_EXCHANGE.get(message.exchange)
