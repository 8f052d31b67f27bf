"""Pseudorandom functions of IKEv2, and prf+ (RFC 7296 section 2.13): HMAC with SHA-1 and SHA-2
(RFC 2104, RFC 4868), AES-XCBC-PRF-128 (RFC 4434) and AES-CMAC-PRF-128 (RFC 4615)."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from ipseclab.crypto.integrity import KeyedXcbc
from ipseclab.registry import PrfId

PRF_PLUS_MAX_ROUNDS = 255
"""The round counter is one octet (RFC 7296 section 2.13)."""

_BLOCK = 16
_HALF_NONCE = 8


@dataclass(frozen=True, slots=True)
class Prf:
    """A PRF transform (RFC 7296 transform type 2). `key_size` is the preferred key's, in octets.

    `nonce_size` is how much of each nonce SKEYSEED's key takes: all, or 64 bits (section 2.14).
    """

    id: PrfId
    key_size: int
    output_size: int
    function: Callable[[bytes, bytes], bytes] = field(repr=False)
    nonce_size: int | None = None

    def prf(self, key: bytes, octets: bytes) -> bytes:
        """prf(key, octets); the key may have any length."""
        return self.function(key, octets)

    def plus(self, key: bytes, seed: bytes, size: int) -> bytes:
        """The first `size` octets of prf+(key, seed).

        prf+ (K,S) = T1 | T2 | T3 | ...  with T1 = prf (K, S | 0x01), Tn = prf (K, Tn-1 | S | n)
        """
        rounds = -(-size // self.output_size)
        if rounds > PRF_PLUS_MAX_ROUNDS:
            limit = PRF_PLUS_MAX_ROUNDS * self.output_size
            raise ValueError(f"prf+ of {size} octets, {self.id.name} gives at most {limit}")
        blocks: list[bytes] = []
        last = b""
        for counter in range(1, rounds + 1):
            last = self.prf(key, last + seed + bytes([counter]))
            blocks.append(last)
        return b"".join(blocks)[:size]


def _hmac(number: PrfId, hash_name: str, size: int) -> Prf:
    def function(key: bytes, octets: bytes) -> bytes:
        return hmac.digest(key, octets, hash_name)

    return Prf(number, size, size, function)


def _xcbc(key: bytes, octets: bytes) -> bytes:
    return KeyedXcbc(key, _BLOCK).mac(octets)


def _cmac(key: bytes, octets: bytes) -> bytes:
    mac = CMAC(AES(key))
    mac.update(octets)
    return mac.finalize()


def _aes_xcbc(key: bytes, octets: bytes) -> bytes:
    """RFC 4434 section 2: short keys are padded with zeros, long ones hashed under the zero key."""
    key = key.ljust(_BLOCK, b"\0") if len(key) <= _BLOCK else _xcbc(bytes(_BLOCK), key)
    return _xcbc(key, octets)


def _aes_cmac(key: bytes, octets: bytes) -> bytes:
    """RFC 4615 section 3: a key of any other size than 16 octets is hashed under the zero key."""
    return _cmac(key if len(key) == _BLOCK else _cmac(bytes(_BLOCK), key), octets)


PRFS: dict[PrfId, Prf] = {
    prf.id: prf
    for prf in (
        _hmac(PrfId.PRF_HMAC_SHA2_256, "sha256", 32),
        _hmac(PrfId.PRF_HMAC_SHA2_384, "sha384", 48),
        _hmac(PrfId.PRF_HMAC_SHA2_512, "sha512", 64),
        _hmac(PrfId.PRF_HMAC_SHA1, "sha1", 20),
        Prf(PrfId.PRF_AES128_XCBC, _BLOCK, _BLOCK, _aes_xcbc, _HALF_NONCE),
        Prf(PrfId.PRF_AES128_CMAC, _BLOCK, _BLOCK, _aes_cmac, _HALF_NONCE),
    )
}
