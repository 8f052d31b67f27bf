"""Keywords of proposal texts ("aes128gcm16-prfsha256-x25519") and the transforms that they name.

The words are strongSwan's; it has none for implicit IVs (RFC 8750), which end in "iiv" here.
Reading and writing whole proposals is `ike/proposals.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ipseclab.crypto.cipher import AES_KEY_BITS
from ipseclab.registry import EncrId, EsnId, IanaEnum, IntegId, KeMethod, PrfId, TransformType


class NamedTransform(NamedTuple):
    """A transform without its place in a proposal; `key_bits` only where the wire carries it."""

    type: TransformType
    id: IanaEnum
    key_bits: int | None = None


def transform_named(
    keyword: str, keywords: Mapping[str, NamedTransform] | None = None
) -> NamedTransform | None:
    """The transform of that keyword (any case) among `keywords` (IKE's and ESP's unless given).

    None when there is none."""
    keyword = keyword.lower()
    known = keywords if keywords is not None else KEYWORDS
    return known.get(ALIASES.get(keyword, keyword)) or _additional(keyword)


def keyword_of(kind: TransformType, number: int, key_bits: int | None) -> str | None:
    """The keyword of that transform, None when it has none."""
    prefix = next((prefix for prefix, item in ADDITIONAL.items() if item == kind), None)
    if prefix is None:
        return _NAMES.get((int(kind), int(number), key_bits))
    word = NONE if number == KeMethod.NONE else _NAMES.get((int(_KE), int(number), key_bits))
    return f"{prefix}_{word}" if word is not None else None


def _additional(keyword: str) -> NamedTransform | None:
    """ "ke1_mlkem768" to "ke7_...": an additional key exchange (RFC 9370); "ke1_none": or none."""
    prefix, _, word = keyword.partition("_")
    kind = ADDITIONAL.get(prefix)
    named = KEYWORDS.get(ALIASES.get(word, word))
    if kind is None or (word != NONE and (named is None or named.type != TransformType.KE)):
        return None
    return NamedTransform(kind, named.id if named is not None else KeMethod.NONE)


_ENCR, _INTEG = TransformType.ENCR, TransformType.INTEG
_PRF, _KE, _ESN = TransformType.PRF, TransformType.KE, TransformType.ESN

PRF_OF_INTEGRITY: dict[IntegId, PrfId] = {
    IntegId.AUTH_HMAC_SHA2_256_128: PrfId.PRF_HMAC_SHA2_256,
    IntegId.AUTH_HMAC_SHA2_384_192: PrfId.PRF_HMAC_SHA2_384,
    IntegId.AUTH_HMAC_SHA2_512_256: PrfId.PRF_HMAC_SHA2_512,
    IntegId.AUTH_HMAC_SHA1_96: PrfId.PRF_HMAC_SHA1,
    IntegId.AUTH_AES_XCBC_96: PrfId.PRF_AES128_XCBC,
    IntegId.AUTH_AES_CMAC_96: PrfId.PRF_AES128_CMAC,
}
"""The PRF meant when an IKE proposal names an integrity algorithm and no PRF: the same function."""

ADDITIONAL = {f"ke{number}": TransformType[f"ADDKE{number}"] for number in range(1, 8)}
"""Prefixes of the additional key exchanges' keywords (RFC 9370 section 2.2.1)."""
NONE = "none"

ALIASES = {
    "curve25519": "x25519",
    "curve448": "x448",
    "aes128cbc": "aes128",
    "aes192cbc": "aes192",
    "aes256cbc": "aes256",
}


def _aes(word: str, encr: EncrId) -> dict[str, NamedTransform]:
    """The three key sizes of a cipher; `word` has a place for the size."""
    return {word.format(bits): NamedTransform(_ENCR, encr, bits) for bits in AES_KEY_BITS}


KEYWORDS: dict[str, NamedTransform] = {
    **_aes("aes{}", EncrId.ENCR_AES_CBC),
    **_aes("aes{}gcm16", EncrId.ENCR_AES_GCM_16),
    "chacha20poly1305": NamedTransform(_ENCR, EncrId.ENCR_CHACHA20_POLY1305),
    **_aes("aes{}gcm8", EncrId.ENCR_AES_GCM_8),
    **_aes("aes{}gcm12", EncrId.ENCR_AES_GCM_12),
    **_aes("aes{}ccm8", EncrId.ENCR_AES_CCM_8),
    **_aes("aes{}ccm12", EncrId.ENCR_AES_CCM_12),
    **_aes("aes{}ccm16", EncrId.ENCR_AES_CCM_16),
    **_aes("aes{}gmac", EncrId.ENCR_NULL_AUTH_AES_GMAC),
    **_aes("aes{}ccm8iiv", EncrId.ENCR_AES_CCM_8_IIV),
    **_aes("aes{}gcm16iiv", EncrId.ENCR_AES_GCM_16_IIV),
    "chacha20poly1305iiv": NamedTransform(_ENCR, EncrId.ENCR_CHACHA20_POLY1305_IIV),
    **_aes("aes{}ctr", EncrId.ENCR_AES_CTR),
    "3des": NamedTransform(_ENCR, EncrId.ENCR_3DES),
    "null": NamedTransform(_ENCR, EncrId.ENCR_NULL),
    "sha256": NamedTransform(_INTEG, IntegId.AUTH_HMAC_SHA2_256_128),
    "sha384": NamedTransform(_INTEG, IntegId.AUTH_HMAC_SHA2_384_192),
    "sha512": NamedTransform(_INTEG, IntegId.AUTH_HMAC_SHA2_512_256),
    "sha1": NamedTransform(_INTEG, IntegId.AUTH_HMAC_SHA1_96),
    "aesxcbc": NamedTransform(_INTEG, IntegId.AUTH_AES_XCBC_96),
    "aescmac": NamedTransform(_INTEG, IntegId.AUTH_AES_CMAC_96),
    "prfsha256": NamedTransform(_PRF, PrfId.PRF_HMAC_SHA2_256),
    "prfsha384": NamedTransform(_PRF, PrfId.PRF_HMAC_SHA2_384),
    "prfsha512": NamedTransform(_PRF, PrfId.PRF_HMAC_SHA2_512),
    "prfsha1": NamedTransform(_PRF, PrfId.PRF_HMAC_SHA1),
    "prfaesxcbc": NamedTransform(_PRF, PrfId.PRF_AES128_XCBC),
    "prfaescmac": NamedTransform(_PRF, PrfId.PRF_AES128_CMAC),
    "x25519": NamedTransform(_KE, KeMethod.CURVE25519),
    "x448": NamedTransform(_KE, KeMethod.CURVE448),
    "ecp192": NamedTransform(_KE, KeMethod.ECP_192),
    "ecp224": NamedTransform(_KE, KeMethod.ECP_224),
    "ecp256": NamedTransform(_KE, KeMethod.ECP_256),
    "ecp384": NamedTransform(_KE, KeMethod.ECP_384),
    "ecp521": NamedTransform(_KE, KeMethod.ECP_521),
    "ecp256bp": NamedTransform(_KE, KeMethod.BRAINPOOL_P256R1),
    "ecp384bp": NamedTransform(_KE, KeMethod.BRAINPOOL_P384R1),
    "ecp512bp": NamedTransform(_KE, KeMethod.BRAINPOOL_P512R1),
    "modp768": NamedTransform(_KE, KeMethod.MODP_768),
    "modp1024s160": NamedTransform(_KE, KeMethod.MODP_1024_160),
    "modp2048s224": NamedTransform(_KE, KeMethod.MODP_2048_224),
    "modp2048s256": NamedTransform(_KE, KeMethod.MODP_2048_256),
    "modp1024": NamedTransform(_KE, KeMethod.MODP_1024),
    "modp1536": NamedTransform(_KE, KeMethod.MODP_1536),
    "modp2048": NamedTransform(_KE, KeMethod.MODP_2048),
    "modp3072": NamedTransform(_KE, KeMethod.MODP_3072),
    "modp4096": NamedTransform(_KE, KeMethod.MODP_4096),
    "modp6144": NamedTransform(_KE, KeMethod.MODP_6144),
    "modp8192": NamedTransform(_KE, KeMethod.MODP_8192),
    "mlkem512": NamedTransform(_KE, KeMethod.ML_KEM_512),
    "mlkem768": NamedTransform(_KE, KeMethod.ML_KEM_768),
    "mlkem1024": NamedTransform(_KE, KeMethod.ML_KEM_1024),
    "esn": NamedTransform(_ESN, EsnId.ESN),
    "noesn": NamedTransform(_ESN, EsnId.NO_ESN),
}

AH_KEYWORDS: dict[str, NamedTransform] = KEYWORDS | {
    "aes128gmac": NamedTransform(_INTEG, IntegId.AUTH_AES_128_GMAC),
    "aes192gmac": NamedTransform(_INTEG, IntegId.AUTH_AES_192_GMAC),
    "aes256gmac": NamedTransform(_INTEG, IntegId.AUTH_AES_256_GMAC),
}
"""In an AH proposal GMAC is an integrity algorithm (RFC 4543 section 5.2)."""

_NAMES = {
    (int(named.type), int(named.id), named.key_bits): word
    for keywords in (AH_KEYWORDS, KEYWORDS)
    for word, named in keywords.items()
}
