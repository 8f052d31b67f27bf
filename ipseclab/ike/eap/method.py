"""What an EAP method is to the two state machines, and the packets between them."""

from __future__ import annotations

from typing import Protocol

from ipseclab.errors import AuthenticationFailed
from ipseclab.registry import EapCode, EapType
from ipseclab.wire.payloads import EapPayload

MUTUAL_METHODS = (EapType.TLS,)
"""Methods that authenticate both ends, make a key and resist a dictionary: those that EAP alone may
be left to (RFC 5998 section 4)."""


class EapRefused(AuthenticationFailed):
    """The EAP server has said Failure: it knows that the IKE_SA is over."""


class PeerMethod(Protocol):
    """The initiator's side of a method."""

    def answer(self, identifier: int, data: bytes) -> bytes:
        """The response to a request, both without the type. Raises AuthenticationFailed when the
        server is not to be believed."""

    @property
    def done(self) -> bool:
        """True once the server may say Success."""

    @property
    def key(self) -> bytes:
        """The MSK; empty for a method that makes none."""


class ServerMethod(Protocol):
    """The gateway's side of a method."""

    def start(self, identifier: int) -> bytes:
        """The first request, without the type."""

    def answer(self, identifier: int, data: bytes) -> bytes | None:
        """The next request after that response; None when the method is over."""

    @property
    def succeeded(self) -> bool:
        """True when it is over and the peer has authenticated itself."""

    @property
    def reason(self) -> str:
        """Why it did not succeed; empty when the method cannot say."""

    @property
    def key(self) -> bytes:
        """The MSK; empty for a method that makes none."""


def request(identifier: int, kind: EapType, data: bytes) -> EapPayload:
    """An EAP-Request."""
    return EapPayload(EapCode.REQUEST, identifier, bytes([kind]) + data)


def response(identifier: int, kind: EapType, data: bytes) -> EapPayload:
    """An EAP-Response."""
    return EapPayload(EapCode.RESPONSE, identifier, bytes([kind]) + data)


def kind_of(packet: EapPayload) -> EapType:
    """A request's or response's type. Raises AuthenticationFailed without one."""
    if not packet.data:
        raise AuthenticationFailed(f"EAP {packet.code.name} without a type")
    return EapType(packet.data[0])
