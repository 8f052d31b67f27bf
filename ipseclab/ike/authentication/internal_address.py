"""An address of the other side's network for the initiator (RFC 7296 section 2.19).

The first request asks with CP(CFG_REQUEST), the last response gives with CP(CFG_REPLY), and the
CHILD_SA beside it is narrowed to what was given.
"""

from __future__ import annotations

from dataclasses import replace

from typing_extensions import override

from ipseclab.errors import IkeError
from ipseclab.ike import addresses
from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.context import Context
from ipseclab.ike.informational import DeleteIke
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.wire.payloads import CpPayload, Payload


class InternalAddressExtension(AuthExtension):
    """Asks and gives where the connection says so."""

    @override
    def first_request(self, ctx: Context, sa: IkeSa) -> tuple[Payload, ...]:
        asked = sa.connection.address_request
        if asked is None:
            return ()
        wanted = addresses.known_addresses(ctx, sa)
        return ((replace(asked, wanted=wanted) if wanted else asked).payload(),)

    @override
    def last_response(
        self, ctx: Context, sa: IkeSa, first: OpenedMessage, last: OpenedMessage, now: float
    ) -> tuple[Payload, ...]:
        return addresses.give(ctx, sa, first.find(CpPayload))

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        if sa.connection.address_request is None:
            return
        try:
            addresses.accept(ctx, sa, response.find(CpPayload))
        except IkeError as problem:
            # Section 3.15.4: without the address that its policy needs it is of no use.
            ctx.notice("address_refused", connection=sa.connection.name, reason=str(problem))
            ctx.queue(sa, DeleteIke("no internal address"))
            raise
