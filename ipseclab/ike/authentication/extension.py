"""What other features put into IKE_AUTH and take out of it, without a branch in its two halves.

However many exchanges IKE_AUTH takes, three of its messages matter to a feature: the first request,
which asks; the last request, when the initiator has proved who it is; the last response, which
grants. With a pre-shared key the first request is the last one as well, and both hooks are called.
A feature is a subclass of `AuthExtension` without state (what it must remember lives on the IKE_SA)
and a row of `EXTENSIONS` in `extensions.py`.
"""

from __future__ import annotations

from ipseclab.ike.context import Context
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.wire.payloads import Payload


class AuthExtension:
    """The base adds nothing and takes nothing."""

    def first_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        """Initiator: payloads for the first request. CP goes in front of SA, all else behind TSr
        (RFC 7296 section 2.19)."""
        return ()

    def last_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        """Initiator: payloads for the request with its last AUTH."""
        return ()

    def wants_child(self, ctx: Context, sa: IkeSa) -> bool:
        """Initiator: False to leave SA, TSi and TSr out; responder: False when their absence is
        allowed (RFC 6023)."""
        return True

    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        """Responder: `sa.connection` is authenticated, the CHILD_SA not made yet; `first` and
        `last` are the requests. Payloads for the response, placed as in `first_request`. An
        IkeError raised here is answered beside AUTH: the IKE_SA stands without a CHILD_SA."""
        return ()

    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        """Initiator: the responder is authenticated too; what it granted, before the CHILD_SA is
        made. An IkeError raised here leaves the IKE_SA without a CHILD_SA."""
