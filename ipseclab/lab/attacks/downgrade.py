"""IKE_SA_INIT with less in it than its sender offered: what a man in the middle wants them to use.

RFC 7296 section 2.15: AUTH covers the whole of IKE_SA_INIT as its sender sent it, so that the ends
find out, provided that what is left is not so weak that the attacker has the keys by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipseclab.errors import WireError
from ipseclab.lab.attacks.attack import Attack
from ipseclab.wire.message import decode_message
from ipseclab.wire.payloads import NotifyPayload, Payload, SaPayload
from ipseclab.wire.proposal import Proposal


def downgraded(message: bytes, attack: Attack) -> bytes | None:
    """The message without the transforms and Notifies that the attack strips; None when it has none
    of them, when nothing would be left to choose, or when it is no IKE message that can be read."""
    try:
        read = decode_message(message)
        payloads = _without(read.payloads, attack)
        if payloads is None or payloads == read.payloads:
            return None
        return replace(read, payloads=payloads).encode()
    except WireError:
        return None


def _without(payloads: Sequence[Payload], attack: Attack) -> tuple[Payload, ...] | None:
    kept: list[Payload] = []
    for payload in payloads:
        if isinstance(payload, NotifyPayload) and payload.notify_type in attack.notifies:
            continue
        if isinstance(payload, SaPayload) and attack.strip:
            proposals = tuple(
                left for one in payload.proposals if (left := _stripped(one, attack)) is not None
            )
            if not proposals:
                return None
            kept.append(replace(payload, proposals=proposals))
        else:
            kept.append(payload)
    return tuple(kept)


def _stripped(proposal: Proposal, attack: Attack) -> Proposal | None:
    """The proposal without those transforms; None when a type is gone with them: who would take it
    would have no cipher, say. Its number stays, so that the answer fits the offer."""
    left = tuple(
        one for one in proposal.transforms if (one.type, one.id, one.key_bits) not in attack.strip
    )
    types = {one.type for one in proposal.transforms}
    return replace(proposal, transforms=left) if types == {one.type for one in left} else None
