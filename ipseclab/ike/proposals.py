"""Proposal texts ("aes128gcm16-prfsha256-x25519") to proposals and back, and the suite they name.

RFC 7296 section 3.3.3 says which transform types a protocol's proposal must and may hold. Several
keywords of one type are alternatives, the first preferred; the order of types does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from ipseclab.crypto.cipher import NULL_CIPHER, Cipher, find_cipher
from ipseclab.crypto.integrity import AH_INTEGRITIES, INTEGRITIES
from ipseclab.crypto.kex import KE_METHODS, WEAK_METHODS, KeyExchange
from ipseclab.crypto.names import (
    AH_KEYWORDS,
    KEYWORDS,
    PRF_OF_INTEGRITY,
    NamedTransform,
    keyword_of,
    transform_named,
)
from ipseclab.crypto.prf import PRFS, Prf
from ipseclab.crypto.protection import Suite
from ipseclab.errors import ConfigError, NoProposalChosen
from ipseclab.registry import EncrId, EsnId, IntegId, KeMethod, PrfId, ProtocolId, TransformType
from ipseclab.wire.proposal import ADDITIONAL_KE, Proposal, Transform

# The order in which transforms are written, in a text and on the wire.
TYPE_ORDER = (
    TransformType.ENCR,
    TransformType.INTEG,
    TransformType.PRF,
    TransformType.KE,
    *ADDITIONAL_KE,
    TransformType.ESN,
)

KEY_EXCHANGES = (TransformType.KE, *ADDITIONAL_KE)

REMEMBERED = 64
"""Lists of transforms for which it is remembered what they mean: the same few come for ever."""

_Transforms = dict[TransformType, tuple[Transform, ...]]


def parse_ike_proposal(text: str) -> Proposal:
    """The IKE proposal of that text, number 1, no SPI. Raises ConfigError.

    Without a PRF the integrity algorithms' own HMACs are meant: "aes128-sha256-modp2048".
    """
    by_type = _parse(text)
    if not by_type[TransformType.PRF]:
        by_type[TransformType.PRF] = tuple(
            Transform(TransformType.PRF, PRF_OF_INTEGRITY[IntegId(integrity.id)])
            for integrity in by_type[TransformType.INTEG]
            if integrity.id in PRF_OF_INTEGRITY
        )
    for transform in by_type[TransformType.ENCR]:
        cipher = cipher_of(transform)
        if cipher is not None and not cipher.serves_ike:
            word = keyword_of(transform.type, transform.id, transform.key_bits)
            raise ConfigError(f'proposal "{text}": "{word}" is for ESP alone, not for IKE')
    _require(text, by_type, TransformType.PRF, "a PRF (prfsha256)")
    _require(text, by_type, TransformType.KE, "a key exchange method (x25519)")
    _refuse(text, by_type, TransformType.ESN, "IKE")
    return _proposal(ProtocolId.IKE, by_type)


def parse_esp_proposal(text: str) -> Proposal:
    """The ESP proposal of that text, number 1, no SPI. Raises ConfigError.

    A key exchange method asks for one in each CREATE_CHILD_SA exchange. NO_ESN goes without saying;
    "esn" alone demands extended sequence numbers, "esn-noesn" prefers them.
    """
    by_type = _parse(text)
    if not by_type[TransformType.ESN]:
        by_type[TransformType.ESN] = (Transform(TransformType.ESN, EsnId.NO_ESN),)
    _refuse(text, by_type, TransformType.PRF, "ESP")
    return _proposal(ProtocolId.ESP, by_type)


def parse_ah_proposal(text: str) -> Proposal:
    """The AH proposal of that text, number 1, no SPI: "sha256-x25519", "aes128gmac". Raises
    ConfigError. Sequence numbers as in `parse_esp_proposal`."""
    by_type = _by_type(text, AH_KEYWORDS)
    if not by_type[TransformType.ESN]:
        by_type[TransformType.ESN] = (Transform(TransformType.ESN, EsnId.NO_ESN),)
    _require(text, by_type, TransformType.INTEG, "an integrity algorithm (sha256)")
    _refuse(text, by_type, TransformType.ENCR, "AH")
    _refuse(text, by_type, TransformType.PRF, "AH")
    _check_additional(text, by_type)
    return _proposal(ProtocolId.AH, by_type)


def parse_child_proposal(text: str, protocol: ProtocolId) -> Proposal:
    """The ESP or AH proposal of that text. Raises ConfigError."""
    return parse_ah_proposal(text) if protocol is ProtocolId.AH else parse_esp_proposal(text)


def proposal_text(proposal: Proposal) -> str:
    """The text of a proposal; a transform without a keyword by its IANA name.

    A lone NO_ESN is left out, as it is what an ESP text means when it says nothing.
    """
    return _text(proposal.transforms)


@lru_cache(REMEMBERED)
def _text(transforms: tuple[Transform, ...]) -> str:
    words = [
        keyword_of(transform.type, transform.id, transform.key_bits) or str(transform).lower()
        for kind in TYPE_ORDER
        for transform in transforms
        if transform.type == kind and (kind, transform.id) != (TransformType.INTEG, IntegId.NONE)
    ]
    words += [str(item).lower() for item in transforms if item.type not in TYPE_ORDER]
    if words[-1:] == ["noesn"] and "esn" not in words:
        words.pop()
    return "-".join(words)


@lru_cache(REMEMBERED)
def transform_names(transforms: tuple[Transform, ...]) -> Mapping[TransformType, str]:
    """The IANA name of a chosen proposal's transform of each type."""
    return {transform.type: str(transform) for transform in transforms}


def weak_words(proposal: Proposal) -> tuple[str, ...]:
    """The keywords of key exchange methods in it that RFC 8247 section 2.4 advises against."""
    return tuple(
        keyword_of(transform.type, transform.id, None) or str(transform)
        for kind in KEY_EXCHANGES
        for transform in proposal.of_type(kind)
        if transform.id in WEAK_METHODS
    )


@lru_cache(REMEMBERED)
def suite_of(transforms: tuple[Transform, ...]) -> Suite:
    """The suite of a chosen proposal's transforms, one a type. Raises NoProposalChosen."""
    chosen = {transform.type: transform for transform in transforms}
    cipher = cipher_of(chosen.get(TransformType.ENCR))
    integrity_transform = chosen.get(TransformType.INTEG)
    # RFC 5282 section 8: with an AEAD, integrity is absent or NONE.
    number = IntegId(integrity_transform.id) if integrity_transform is not None else IntegId.NONE
    integrity = INTEGRITIES.get(number)
    if (
        cipher is None
        or cipher.aead is (number != IntegId.NONE)
        or (not cipher.aead and integrity is None)
    ):
        names = " ".join(str(transform) for transform in chosen.values())
        raise NoProposalChosen(f"no suite of {names or 'no transforms'}")
    return Suite(cipher, integrity)


def child_suite_of(proposal: Proposal) -> Suite:
    """The suite of a chosen ESP or AH proposal; AH's has NULL encryption (it has no keys). Raises
    NoProposalChosen."""
    if proposal.protocol != ProtocolId.AH:
        return suite_of(proposal.transforms)
    for transform in proposal.of_type(TransformType.INTEG):
        if IntegId(transform.id) in AH_INTEGRITIES:
            return Suite(NULL_CIPHER, AH_INTEGRITIES[IntegId(transform.id)])
    raise NoProposalChosen("no integrity algorithm of ours for AH")


def cipher_of(transform: Transform | None) -> Cipher | None:
    """The cipher that an ENCR transform names, None when it is not one of ours."""
    if transform is None or transform.type != TransformType.ENCR or transform.attributes:
        return None
    return find_cipher(EncrId(transform.id), transform.key_bits)


def prf_of(transforms: Iterable[Transform]) -> Prf:
    """The PRF of a chosen proposal's transforms. Raises NoProposalChosen."""
    for transform in transforms:
        if transform.type == TransformType.PRF and PrfId(transform.id) in PRFS:
            return PRFS[PrfId(transform.id)]
    raise NoProposalChosen("no PRF of ours")


def key_exchange_of(transforms: Iterable[Transform]) -> KeyExchange | None:
    """The key exchange method of a chosen proposal's transforms, None when it has none.

    Raises NoProposalChosen for a method that is not one of ours.
    """
    for transform in transforms:
        if transform.type == TransformType.KE and transform.id != KeMethod.NONE:
            method = KE_METHODS.get(KeMethod(transform.id))
            if method is None:
                raise NoProposalChosen(f"no key exchange method {transform}")
            return method
    return None


def _parse(text: str) -> _Transforms:
    """The text's transforms by type, what holds for IKE and ESP checked."""
    by_type = _by_type(text, KEYWORDS)
    _check_integrity(text, by_type)
    _check_additional(text, by_type)
    return by_type


def _by_type(text: str, keywords: Mapping[str, NamedTransform]) -> _Transforms:
    """The text's transforms by type."""
    transforms: list[Transform] = []
    for word in text.strip().split("-"):
        named = transform_named(word, keywords)
        if named is None:
            known = " ".join(keywords)
            raise ConfigError(f'proposal "{text}": unknown keyword "{word}", known are {known}')
        transform = Transform(named.type, named.id, named.key_bits)
        if transform in transforms:
            raise ConfigError(f'proposal "{text}": "{word}" comes twice')
        transforms.append(transform)
    return {kind: tuple(item for item in transforms if item.type == kind) for kind in TYPE_ORDER}


def _check_additional(text: str, by_type: _Transforms) -> None:
    """RFC 9370: additional key exchanges come after a first one, none of a method done before."""
    if any(by_type[kind] for kind in ADDITIONAL_KE):
        _require(text, by_type, TransformType.KE, "a key exchange method (x25519) before ke1_...")
    if distinct_methods([by_type[kind] for kind in KEY_EXCHANGES if by_type[kind]]) is None:
        raise ConfigError(
            f'proposal "{text}": no choice is left in which each key exchange has another method'
        )


def distinct_methods(
    choices: Sequence[tuple[Transform, ...]],
) -> tuple[Transform, ...] | None:
    """The first choice of one transform each such that no method but NONE comes twice.

    RFC 9370 section 2.2.1; None when there is none. Preferences of earlier types go first.
    """
    return _distinct(tuple(choices), frozenset())


def _distinct(
    choices: tuple[tuple[Transform, ...], ...], used: frozenset[int]
) -> tuple[Transform, ...] | None:
    if not choices:
        return ()
    for transform in choices[0]:
        if transform.id == KeMethod.NONE:
            rest = _distinct(choices[1:], used)
        elif transform.id not in used:
            rest = _distinct(choices[1:], used | {transform.id})
        else:
            continue
        if rest is not None:
            return (transform, *rest)
    return None


def _check_integrity(text: str, by_type: _Transforms) -> None:
    """AEAD without and other ciphers with integrity, never both in one proposal (RFC 7296 3.3)."""
    _require(text, by_type, TransformType.ENCR, "a cipher (aes128gcm16)")
    aead = [
        cipher.aead for cipher in map(cipher_of, by_type[TransformType.ENCR]) if cipher is not None
    ]
    if all(aead):
        _refuse(text, by_type, TransformType.INTEG, "an AEAD cipher")
    elif any(aead):
        raise ConfigError(f'proposal "{text}": AEAD and other ciphers need a proposal each')
    else:
        _require(text, by_type, TransformType.INTEG, "an integrity algorithm (sha256) with CBC")


def _require(text: str, by_type: _Transforms, kind: TransformType, what: str) -> None:
    if not by_type[kind]:
        raise ConfigError(f'proposal "{text}": needs {what}')


def _refuse(text: str, by_type: _Transforms, kind: TransformType, where: str) -> None:
    if by_type[kind]:
        first = by_type[kind][0]
        word = keyword_of(first.type, first.id, first.key_bits)
        raise ConfigError(
            f'proposal "{text}": {where} takes no {kind.name} transform, found "{word}"'
        )


def _proposal(protocol: ProtocolId, by_type: _Transforms) -> Proposal:
    transforms = tuple(item for kind in TYPE_ORDER for item in by_type[kind])
    return Proposal(number=1, protocol=protocol, spi=b"", transforms=transforms)
