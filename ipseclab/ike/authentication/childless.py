"""An IKE_SA that begins without a CHILD_SA (RFC 6023).

A responder that can do without says CHILDLESS_IKEV2_SUPPORTED in IKE_SA_INIT; an initiator that
prefers it then leaves SA, TSi and TSr out of IKE_AUTH. The first CHILD_SA is made right after by
CREATE_CHILD_SA, which can exchange keys of its own as IKE_AUTH cannot.
"""

from __future__ import annotations

from typing_extensions import override

from ipseclab.ike.authentication.extension import AuthExtension
from ipseclab.ike.config import Childless
from ipseclab.ike.context import Context
from ipseclab.ike.create import CreateChild
from ipseclab.ike.protection import OpenedMessage
from ipseclab.ike.sa import IkeSa
from ipseclab.ike.selectors import ChildWish
from ipseclab.registry import NotifyType


class ChildlessExtension(AuthExtension):
    """Leaves the first CHILD_SA out, and has it made afterwards."""

    @override
    def wants_child(self, ctx: Context, sa: IkeSa) -> bool:
        if sa.initiator:
            return not _goes_without(sa)
        return sa.connection.childless is Childless.NEVER

    @override
    def finish(self, ctx: Context, sa: IkeSa, response: OpenedMessage, now: float) -> None:
        if _goes_without(sa):
            ctx.queue(sa, CreateChild(sa.connection, wish=ChildWish(sa.trigger)))


def _goes_without(sa: IkeSa) -> bool:
    able = NotifyType.CHILDLESS_IKEV2_SUPPORTED in sa.peer_offers
    return able and sa.connection.childless is Childless.PREFER
