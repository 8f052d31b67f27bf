"""Windows above 1: what each end lets the other have outstanding (RFC 7296 section 2.3).

    HDR, SK {N(SET_WINDOW_SIZE)}  -->
                                  <--  HDR, SK {}

A new IKE_SA, whether of IKE_AUTH or of a rekey, has a window of 1 (section 2.18); an end that
allows more says so once it is established. Requests may then be answered in any order, and each of
the last responses that the window holds is kept for a repeat of its request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from ipseclab.errors import InvalidSyntax
from ipseclab.ike.task import Task
from ipseclab.registry import ExchangeType, NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload, Payload

if TYPE_CHECKING:
    from ipseclab.ike.context import Context
    from ipseclab.ike.protection import OpenedMessage
    from ipseclab.ike.sa import IkeSa

WINDOW_SIZE = 4
"""Octets of the notification's data."""
MAX_WINDOW = 64
"""Own limit: responses kept an IKE_SA, and requests of ours outstanding, whatever a peer allows."""


class SetWindow(Task):
    """Tell the peer how many of its requests may be outstanding."""

    exchange = ExchangeType.INFORMATIONAL
    name = "set window size"
    follows_succession = False

    @override
    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        if not sa.alive:
            return None
        # A promise as soon as it is out: the peer may act on it before its answer is here.
        sa.own_window = min(sa.connection.window, MAX_WINDOW)
        data = sa.own_window.to_bytes(WINDOW_SIZE, "big")
        return (NotifyPayload(NotifyType.SET_WINDOW_SIZE, data),)

    @override
    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        ctx.notice("window_set", spi_i=sa.spi_i.hex(), size=sa.own_window)


def take_window(sa: IkeSa, message: Message) -> None:
    """Note what the peer allows, if the message says so. Raises InvalidSyntax."""
    said = message.notify(NotifyType.SET_WINDOW_SIZE)
    if said is None:
        return
    size = int.from_bytes(said.data, "big")
    if len(said.data) != WINDOW_SIZE or size == 0:
        raise InvalidSyntax(f"SET_WINDOW_SIZE of {len(said.data)} octets that says {size}")
    sa.peer_window = min(size, MAX_WINDOW)
