"""What both ends can agree on: one proposal of several.

RFC 7296 sections 2.7 (proposals), 3.3.6 (unknown attributes); selectors are in `selectors.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from ipseclab.crypto.kex import KE_METHODS
from ipseclab.errors import InvalidSyntax, NoProposalChosen
from ipseclab.ike.proposals import KEY_EXCHANGES, REMEMBERED, distinct_methods, proposal_text
from ipseclab.registry import EsnId, IntegId, KeMethod, ProtocolId, TransformType
from ipseclab.wire.proposal import ADDITIONAL_KE, Proposal, Transform

KE_METHOD_SIZE = 2  # RFC 7296 section 3.10.1, INVALID_KE_PAYLOAD

_Transforms = tuple[Transform, ...]

# What leaving a transform type out says (RFC 7296 section 3.3.3 and RFC 4303 for ESN).
_ABSENT: dict[int, int] = {
    TransformType.INTEG: IntegId.NONE,
    TransformType.KE: KeMethod.NONE,
    TransformType.ESN: EsnId.NO_ESN,
    **dict.fromkeys(ADDITIONAL_KE, KeMethod.NONE),
}


def choose_proposal(
    offered: tuple[Proposal, ...],
    own: tuple[Proposal, ...],
    protocol: ProtocolId,
    *,
    additional: bool = True,
) -> Proposal:
    """The first own proposal that an offered one allows, cut to one transform a type.

    It carries the offered number and SPI. Without `additional` no key exchange beside the first is
    possible (RFC 9370 section 2.2.1). Raises NoProposalChosen.
    """
    for mine in own:
        for theirs in offered:
            if theirs.protocol != protocol:
                continue
            transforms = _common(theirs.transforms, mine.transforms, additional=additional)
            if transforms is not None:
                return Proposal(theirs.number, protocol, theirs.spi, transforms)
    known = "; ".join(proposal_text(proposal) for proposal in own)
    raise NoProposalChosen(f"none of {len(offered)} {protocol.name} proposals matches {known}")


@lru_cache(REMEMBERED)
def _common(theirs: _Transforms, mine: _Transforms, *, additional: bool) -> _Transforms | None:
    """One transform of each type that either end names, in own order of preference."""
    kinds = sorted({int(transform.type) for transform in theirs + mine})
    common: dict[TransformType, _Transforms] = {}
    for kind in map(TransformType, kinds):
        usable = _choices(theirs, kind)
        if kind in ADDITIONAL_KE and not additional:
            usable = tuple(t for t in usable if t.id == KeMethod.NONE)
        common[kind] = tuple(t for t in _choices(mine, kind) if t in usable)
        if not common[kind]:
            return None
    exchanges = [kind for kind in common if kind in KEY_EXCHANGES]
    distinct = distinct_methods([common[kind] for kind in exchanges])
    if distinct is None:
        return None
    chosen = {kind: transforms[0] for kind, transforms in common.items()}
    chosen.update(zip(exchanges, distinct, strict=True))
    offered = {transform.type for transform in theirs}
    return tuple(transform for kind, transform in chosen.items() if kind in offered)


def _choices(transforms: _Transforms, kind: TransformType) -> _Transforms:
    """The transforms of a type that can be used; what its absence means where there is none."""
    present = tuple(transform for transform in transforms if transform.type == kind)
    if present:
        return tuple(transform for transform in present if not transform.attributes)
    return (Transform(kind, _ABSENT[kind]),) if kind in _ABSENT else ()


def check_chosen(answer: tuple[Proposal, ...], offered: tuple[Proposal, ...]) -> Proposal:
    """The responder's single choice, which must be one that was offered. Raises InvalidSyntax."""
    if len(answer) != 1:
        raise InvalidSyntax(f"SA payload with {len(answer)} proposals as an answer, must be 1")
    chosen = answer[0]
    original = next((p for p in offered if p.number == chosen.number), None)
    kinds = [transform.type for transform in chosen.transforms]
    allowed = original is not None and original.protocol == chosen.protocol
    if original is None or not allowed or len(set(kinds)) != len(kinds):
        raise InvalidSyntax(f"proposal {chosen.number} was not offered")
    if any(transform not in original.transforms for transform in chosen.transforms):
        raise InvalidSyntax(f"proposal {chosen.number} holds a transform that was not offered")
    exchanges = [(t,) for t in chosen.transforms if t.type in KEY_EXCHANGES]
    if distinct_methods(exchanges) is None:
        raise InvalidSyntax(f"proposal {chosen.number} has one key exchange method twice")
    omitted = {transform.type for transform in original.transforms} - set(kinds)
    if any(not _may_omit(original, kind) for kind in omitted):
        raise InvalidSyntax(f"proposal {chosen.number} lacks a transform type that was offered")
    return chosen


def _may_omit(offered: Proposal, kind: TransformType) -> bool:
    return kind in _ABSENT and _ABSENT[kind] in [t.id for t in offered.of_type(kind)]


def without_key_exchange(proposals: tuple[Proposal, ...]) -> tuple[Proposal, ...]:
    """The same without key exchanges: in IKE_AUTH there is no KE payload (RFC 7296 section 1.2)."""
    return tuple(
        Proposal(
            proposal.number,
            proposal.protocol,
            proposal.spi,
            tuple(t for t in proposal.transforms if t.type not in KEY_EXCHANGES),
        )
        for proposal in proposals
    )


def with_spi(proposals: tuple[Proposal, ...], spi: bytes) -> tuple[Proposal, ...]:
    """The same proposals, numbered from 1, each with the own SPI."""
    return tuple(
        Proposal(number, proposal.protocol, spi, proposal.transforms)
        for number, proposal in enumerate(proposals, 1)
    )


def ke_method(proposal: Proposal) -> KeMethod:
    """The key exchange method of a chosen proposal; NONE without one."""
    transforms = proposal.of_type(TransformType.KE)
    return KeMethod(transforms[0].id) if transforms else KeMethod.NONE


def additional_methods(proposal: Proposal) -> tuple[KeMethod, ...]:
    """The additional key exchanges of a chosen proposal, in the order in which they are done."""
    chosen: dict[TransformType, KeMethod] = {}
    for transform in proposal.transforms:
        if transform.type in ADDITIONAL_KE:
            chosen.setdefault(transform.type, KeMethod(transform.id))
    methods = (chosen[kind] for kind in ADDITIONAL_KE if kind in chosen)
    return tuple(method for method in methods if method != KeMethod.NONE)


def offers_additional(proposals: Iterable[Proposal]) -> bool:
    """True when any of them holds an additional key exchange (RFC 9370)."""
    return any(
        transform.type in ADDITIONAL_KE and transform.id != KeMethod.NONE
        for proposal in proposals
        for transform in proposal.transforms
    )


def offered_methods(proposals: tuple[Proposal, ...]) -> tuple[KeMethod, ...]:
    """Every key exchange method in the proposals, most wanted first."""
    methods = (KeMethod(t.id) for p in proposals for t in p.of_type(TransformType.KE))
    return tuple(dict.fromkeys(methods))


def method_asked_for(data: bytes, proposals: tuple[Proposal, ...], *, tried: KeMethod) -> KeMethod:
    """The method that INVALID_KE_PAYLOAD wants in place of `tried`. Raises InvalidSyntax when it is
    none of the others that were offered (RFC 7296 section 1.3)."""
    if len(data) != KE_METHOD_SIZE:
        raise InvalidSyntax(f"INVALID_KE_PAYLOAD with {len(data)} octets, must be {KE_METHOD_SIZE}")
    wanted = KeMethod(int.from_bytes(data, "big"))
    if wanted == tried or wanted not in offered_methods(proposals) or wanted not in KE_METHODS:
        raise InvalidSyntax(f"peer wants {wanted.name}, which was not offered")
    return wanted
