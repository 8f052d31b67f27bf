"""What the ends of a CHILD_SA agree on beside proposal and selectors: IPComp, AGGFRAG payloads.

RFC 7296 section 2.22 (IPCOMP_SUPPORTED), RFC 9347 section 5.1 (USE_AGGFRAG). IPComp is a wish: a
peer without it gets an SA without it. AGGFRAG is a demand: it is there to hide something.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ipseclab.errors import InvalidSyntax, NoProposalChosen
from ipseclab.ike.config import ConnectionConfig
from ipseclab.registry import NotifyType
from ipseclab.wire.message import Message
from ipseclab.wire.payloads import NotifyPayload

DEFLATE = 2
"""RFC 7296 section 3.10.1: the transform IPCOMP_DEFLATE."""
CPI_SIZE = 2
FIRST_CPI, LAST_CPI = 256, 61439
"""RFC 3173 section 3.3: those that are negotiated."""
MOST_OFFERED = 8
"""IPCOMP_SUPPORTED of a message that are read; there are three transforms."""

CONGESTION_CONTROL, WHOLE_BLOCKS = 0x02, 0x01
"""RFC 9347 section 6.2: the sender wants to be told of losses; cannot join fragments."""


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """What was agreed. CPIs are empty without IPComp; in an offer there is only `cpi_in`."""

    cpi_in: bytes = b""
    cpi_out: bytes = b""
    aggfrag: bool = False
    whole_blocks: bool = False
    """Whether the peer takes no fragments in AGGFRAG payloads."""


NO_OPTIONS = ChildOptions()


def offered(
    connection: ConnectionConfig, rng: random.Random, *, rekeys: ChildOptions | None
) -> tuple[ChildOptions, tuple[NotifyPayload, ...]]:
    """What the initiator asks for; `rekeys`: of the SA to be rekeyed, from which the new one has
    its AGGFRAG without a word (RFC 9347 section 5.1)."""
    cpi = _new_cpi(rng) if connection.ipcomp else b""
    inherited = rekeys if rekeys is not None else NO_OPTIONS
    options = ChildOptions(cpi, b"", inherited.aggfrag, inherited.whole_blocks)
    return options, _notifies(connection, cpi, aggfrag=rekeys is None)


def agreed(
    connection: ConnectionConfig, asked: ChildOptions, message: Message, *, rekeys: bool
) -> ChildOptions:
    """What the response leaves of the offer. Raises InvalidSyntax for what was not offered, and
    NoProposalChosen without the AGGFRAG that this end needs."""
    cpi_out = _cpi_in(message)
    if cpi_out is None and message.notify(NotifyType.IPCOMP_SUPPORTED) is not None:
        raise InvalidSyntax("IPCOMP_SUPPORTED with a transform that was not offered")
    if cpi_out is not None and not asked.cpi_in:
        raise InvalidSyntax("IPCOMP_SUPPORTED, which was not offered")
    aggfrag, whole = asked.aggfrag, asked.whole_blocks
    if not rekeys:
        aggfrag, whole = _aggfrag(connection, message)
    if cpi_out is None:
        return ChildOptions(b"", b"", aggfrag, whole)
    return ChildOptions(asked.cpi_in, cpi_out, aggfrag, whole)


def granted(
    connection: ConnectionConfig,
    rng: random.Random,
    message: Message,
    *,
    rekeys: ChildOptions | None,
) -> tuple[ChildOptions, tuple[NotifyPayload, ...]]:
    """What the responder makes of the request, and says of it. Raises NoProposalChosen."""
    cpi_out = _cpi_in(message) if connection.ipcomp else None
    cpi_in = _new_cpi(rng) if cpi_out is not None else b""
    if rekeys is not None:
        aggfrag, whole = rekeys.aggfrag, rekeys.whole_blocks
    else:
        aggfrag, whole = _aggfrag(connection, message)
    options = ChildOptions(cpi_in, cpi_out if cpi_out is not None else b"", aggfrag, whole)
    return options, _notifies(connection, cpi_in, aggfrag=rekeys is None)


def _new_cpi(rng: random.Random) -> bytes:
    return rng.randint(FIRST_CPI, LAST_CPI).to_bytes(CPI_SIZE, "big")


def _notifies(
    connection: ConnectionConfig, cpi: bytes, *, aggfrag: bool
) -> tuple[NotifyPayload, ...]:
    found: list[NotifyPayload] = []
    if cpi:
        found.append(NotifyPayload(NotifyType.IPCOMP_SUPPORTED, cpi + bytes([DEFLATE])))
    if aggfrag and connection.aggfrag is not None:
        flags = 0 if connection.aggfrag.fragments else WHOLE_BLOCKS
        found.append(NotifyPayload(NotifyType.USE_AGGFRAG, bytes([flags])))
    return tuple(found)


def _cpi_in(message: Message) -> bytes | None:
    """The CPI with which the sender of `message` wants DEFLATE; None where it does not."""
    wanted = [
        notify.data
        for notify in message.all(NotifyPayload)
        if notify.notify_type == NotifyType.IPCOMP_SUPPORTED
    ]
    for data in wanted[:MOST_OFFERED]:
        if len(data) == CPI_SIZE + 1 and data[CPI_SIZE] == DEFLATE:
            cpi = int.from_bytes(data[:CPI_SIZE], "big")
            if FIRST_CPI <= cpi <= LAST_CPI:
                return data[:CPI_SIZE]
    return None


def _aggfrag(connection: ConnectionConfig, message: Message) -> tuple[bool, bool]:
    """Whether AGGFRAG is used, and whether the peer takes no fragments. Raises NoProposalChosen."""
    if connection.aggfrag is None:
        return False, False
    notify = message.notify(NotifyType.USE_AGGFRAG)
    if notify is None or len(notify.data) != 1:
        raise NoProposalChosen("the connection has AGGFRAG payloads, the peer has none")
    flags = notify.data[0]
    if flags & CONGESTION_CONTROL:
        raise NoProposalChosen("the peer wants congestion control in AGGFRAG payloads")
    return True, bool(flags & WHOLE_BLOCKS)
