"""Key derivation and the shared-key AUTH value: RFC 7296 sections 2.13 to 2.18.

Pure functions of secrets, nonces and SPIs. EAP and signatures are not here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ipseclab.crypto.prf import Prf
from ipseclab.crypto.protection import Suite

KEY_PAD = b"Key Pad for IKEv2"
PPK_CONFIRMATION_SIZE = 8


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The seven secrets of an IKE_SA (RFC 7296 section 2.14); an AEAD key ends in its salt."""

    sk_d: bytes = field(repr=False)
    sk_ai: bytes = field(repr=False)
    sk_ar: bytes = field(repr=False)
    sk_ei: bytes = field(repr=False)
    sk_er: bytes = field(repr=False)
    sk_pi: bytes = field(repr=False)
    sk_pr: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """KEYMAT cut up in the order of RFC 7296 section 2.17: keys of initiator to responder first."""

    encr_i: bytes = field(repr=False)
    integ_i: bytes = field(repr=False)
    encr_r: bytes = field(repr=False)
    integ_r: bytes = field(repr=False)


def skeyseed(prf: Prf, nonce_i: bytes, nonce_r: bytes, shared_secret: bytes) -> bytes:
    """SKEYSEED = prf(Ni | Nr, g^ir) (RFC 7296 section 2.14); of AES-XCBC-PRF-128 and
    AES-CMAC-PRF-128 the key is the first 64 bits of each nonce."""
    return prf.prf(nonce_i[: prf.nonce_size] + nonce_r[: prf.nonce_size], shared_secret)


def additional_skeyseed(
    prf: Prf, sk_d: bytes, nonce_i: bytes, nonce_r: bytes, shared_secret: bytes
) -> bytes:
    """SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr) (RFC 9370 section 2.2.2)."""
    return prf.prf(sk_d, shared_secret + nonce_i + nonce_r)


def rekey_skeyseed(
    prf: Prf,
    sk_d: bytes,
    nonce_i: bytes,
    nonce_r: bytes,
    shared_secret: bytes,
    additional: bytes = b"",
) -> bytes:
    """SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr [| SK(1) | ... | SK(n)]) (RFC 7296 section
    2.18, RFC 9370 section 2.2.4).

    `prf` is the old IKE_SA's."""
    return prf.prf(sk_d, shared_secret + nonce_i + nonce_r + additional)


def resumed_skeyseed(prf: Prf, sk_d: bytes, nonce_i: bytes, nonce_r: bytes) -> bytes:
    """SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr) (RFC 5723 section 5.1)."""
    return prf.prf(sk_d, b"Resumption" + nonce_i + nonce_r)


def ike_keys(
    prf: Prf, suite: Suite, seed: bytes, nonces: tuple[bytes, bytes], spis: tuple[bytes, bytes]
) -> IkeKeys:
    """SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr)
    (RFC 7296 section 2.14)."""
    sizes = (
        prf.key_size,
        suite.integ_key_size,
        suite.integ_key_size,
        suite.encr_key_size,
        suite.encr_key_size,
        prf.key_size,
        prf.key_size,
    )
    return IkeKeys(*_cut(prf.plus(seed, b"".join((*nonces, *spis)), sum(sizes)), sizes))


def mix_ppk(prf: Prf, keys: IkeKeys, ppk: bytes) -> IkeKeys:
    """SK_d = prf+ (PPK, SK_d'), and so SK_pi and SK_pr; the others stay (RFC 8784 section 3)."""
    return replace(
        keys,
        sk_d=mix_sk_d(prf, keys.sk_d, ppk),
        sk_pi=prf.plus(ppk, keys.sk_pi, len(keys.sk_pi)),
        sk_pr=prf.plus(ppk, keys.sk_pr, len(keys.sk_pr)),
    )


def mix_sk_d(prf: Prf, sk_d: bytes, ppk: bytes) -> bytes:
    """prf+ (PPK, SK_d), as long as SK_d. In place of SK_d it is what the first IKE_SA goes on with
    (RFC 8784 section 3), and what the keys of a CREATE_CHILD_SA are made of (RFC 9867)."""
    return prf.plus(ppk, sk_d, len(sk_d))


def ppk_skeyseed(prf: Prf, sk_d: bytes, ppk: bytes) -> bytes:
    """SKEYSEED' = prf+ (PPK, SK_d), of which all seven keys are made anew after IKE_INTERMEDIATE
    (RFC 9867 section 3.1.1)."""
    return prf.plus(ppk, sk_d, prf.key_size)


def ppk_confirmation(
    prf: Prf, ppk: bytes, nonces: tuple[bytes, bytes], spis: tuple[bytes, bytes]
) -> bytes:
    """The first 8 octets of prf(PPK, Ni | Nr | SPIi | SPIr): that both ends mean one key is known
    before it is used (RFC 9867 section 3.1)."""
    return prf.prf(ppk, b"".join((*nonces, *spis)))[:PPK_CONFIRMATION_SIZE]


def child_keys(
    prf: Prf,
    suite: Suite,
    sk_d: bytes,
    nonces: tuple[bytes, bytes],
    shared_secret: bytes = b"",
    additional: bytes = b"",
) -> ChildKeys:
    """KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr [| SK(1) | ... | SK(n)]) (RFC 7296 section 2.17,
    RFC 9370 section 2.2.4)."""
    sizes = (suite.encr_key_size, suite.integ_key_size) * 2
    return ChildKeys(
        *_cut(prf.plus(sk_d, shared_secret + b"".join(nonces) + additional, sum(sizes)), sizes)
    )


def _cut(octets: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    parts, start = [], 0
    for size in sizes:
        parts.append(octets[start : start + size])
        start += size
    return parts


def signed_octets(
    prf: Prf, message: bytes, peer_nonce: bytes, sk_p: bytes, id_body: bytes
) -> bytes:
    """What an end authenticates: its own first message, the peer's nonce, prf(SK_p, ID body).

    RFC 7296 section 2.15. `message` is the octets as sent, without a non-ESP marker, `id_body` the
    ID payload's as sent, without its generic header."""
    return message + peer_nonce + prf.prf(sk_p, id_body)


def psk_auth(prf: Prf, psk: bytes, octets: bytes) -> bytes:
    """AUTH = prf(prf(Shared Secret, "Key Pad for IKEv2"), SignedOctets) (RFC 7296 section 2.15)."""
    return prf.prf(prf.prf(psk, KEY_PAD), octets)
