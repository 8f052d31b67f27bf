"""Encryption algorithms of IKEv2 and ESP: what each needs of key, IV and padding, as table rows.

AES-CBC (RFC 3602), AES-GCM with a 16-octet ICV (RFC 4106 for ESP, RFC 5282 for IKE) and
ChaCha20-Poly1305 (RFC 7634). `protection.py` puts them to use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ipseclab.registry import EncrId

AES_BLOCK_SIZE = 16


class AeadPrimitive(Protocol):
    """A keyed AEAD of pyca/cryptography; the ICV is at the end of the sealed octets."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Ciphertext | ICV."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Plaintext; raises InvalidTag."""


@dataclass(frozen=True, slots=True)
class Cipher:
    """An encryption transform (RFC 7296 transform type 1). Sizes are octets.

    `key_bits` is the Key Length attribute for the ciphers that carry one. `block_size` is what the
    plaintext must be a multiple of; ESP asks for at least 4 on top (RFC 4303 section 2.4).
    """

    id: EncrId
    key_bits: int
    salt_size: int
    iv_size: int
    icv_size: int
    block_size: int
    primitive: Callable[[bytes], AeadPrimitive] | None = None

    @property
    def key_size(self) -> int:
        """Octets of the key proper, without the salt."""
        return self.key_bits // 8

    @property
    def aead(self) -> bool:
        """True when the cipher brings its own ICV, so that no integrity transform goes with it."""
        return self.primitive is not None


def find_cipher(encr: EncrId | int, key_bits: int | None) -> Cipher | None:
    """The cipher that a transform names, None when it is not one of ours.

    A cipher of fixed key length carries no Key Length attribute (RFC 7296 section 3.3.5).
    """
    if key_bits is None:
        key_bits = FIXED_KEY_BITS.get(EncrId(encr))
    return CIPHERS.get((EncrId(encr), key_bits)) if key_bits is not None else None


def _aes_cbc(key_bits: int) -> Cipher:
    size = AES_BLOCK_SIZE
    return Cipher(EncrId.ENCR_AES_CBC, key_bits, 0, iv_size=size, icv_size=0, block_size=size)


def _aes_gcm_16(key_bits: int) -> Cipher:
    return Cipher(EncrId.ENCR_AES_GCM_16, key_bits, 4, 8, 16, block_size=1, primitive=AESGCM)


def _chacha20_poly1305() -> Cipher:
    encr = EncrId.ENCR_CHACHA20_POLY1305
    return Cipher(encr, 256, 4, 8, 16, block_size=1, primitive=ChaCha20Poly1305)


FIXED_KEY_BITS: dict[EncrId, int] = {EncrId.ENCR_CHACHA20_POLY1305: 256}

CIPHERS: dict[tuple[EncrId, int], Cipher] = {
    (cipher.id, cipher.key_bits): cipher
    for cipher in (
        _aes_cbc(128),
        _aes_cbc(192),
        _aes_cbc(256),
        _aes_gcm_16(128),
        _aes_gcm_16(192),
        _aes_gcm_16(256),
        _chacha20_poly1305(),
    )
}
