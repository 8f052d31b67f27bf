"""A task: something that this end wants of the peer, one exchange at a time.

An IKE_SA works off its tasks in order, with one outstanding request unless the peer's window is
larger (RFC 7296 section 2.3) and the tasks may overlap. A task builds its request when its turn
comes, because the world may have changed since it was queued, and is told of the response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ipseclab.outputs import UdpPath
from ipseclab.registry import ExchangeType
from ipseclab.wire.payloads import Payload

if TYPE_CHECKING:
    from ipseclab.ike.context import Context
    from ipseclab.ike.protection import OpenedMessage
    from ipseclab.ike.sa import ChildSa, IkeSa


class Task:
    """Base of all tasks; `name` goes into traces."""

    exchange: ClassVar[ExchangeType]
    name: ClassVar[str]
    touches_children: ClassVar[bool] = False
    """True for creating, rekeying or closing a CHILD_SA: RFC 7296 section 2.25.1 then refuses a
    request to rekey the IKE_SA."""
    follows_succession: bool = True
    """Whether it is still wanted of the IKE_SA that takes over when this one is rekeyed."""
    exclusive: ClassVar[bool] = True
    """Whether no other request may be outstanding beside it, whatever the window."""
    path: UdpPath | None = None
    """The way its request goes, where that is not the IKE_SA's (RFC 4555 section 3.10)."""
    searches: bool = False
    """Whether it goes along all paths without an answer even from the end that does not decide."""
    search_after: int = 2
    """From which repetition on that is so."""
    strayed: bool = False
    """Its request has gone along more than one path."""
    given_up: str = "no answer"
    """Why the IKE_SA failed, should the request stay without a response."""

    @property
    def subject(self) -> ChildSa | None:
        """The CHILD_SA that it is about, where there is one."""
        return None

    def may_overlap(self, other: Task) -> bool:
        """Whether its request may be outstanding together with that of `other`."""
        if self.exclusive or other.exclusive:
            return False
        return self.subject is None or self.subject is not other.subject

    def request(self, ctx: Context, sa: IkeSa, now: float) -> tuple[Payload, ...] | None:
        """The payloads to send, or None when there is nothing left to do."""
        raise AssertionError(f"{type(self).__name__} has no request")

    def response(self, ctx: Context, sa: IkeSa, message: OpenedMessage, now: float) -> None:
        """Take the peer's answer, its payloads opened. Raises IkeError when it cannot be used."""
        raise AssertionError(f"{type(self).__name__} has no response")

    def abandoned(self, ctx: Context, sa: IkeSa, now: float) -> None:
        """The exchange will not be finished: the IKE_SA is gone, or the response was refused."""
