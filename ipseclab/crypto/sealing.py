"""Octets that an end seals for itself, gives away, and opens when they come back."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ipseclab.errors import IntegrityFailure

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16


def seal(key: bytes, nonce: bytes, plain: bytes) -> bytes:
    """`plain` under AES-256-GCM; the nonce, never used twice with a key, stands in front."""
    return nonce + AESGCM(key).encrypt(nonce, plain, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """What `seal` was given. Raises IntegrityFailure for anything else."""
    if len(sealed) < NONCE_SIZE + TAG_SIZE:
        raise IntegrityFailure(f"{len(sealed)} sealed octets, at least {NONCE_SIZE + TAG_SIZE}")
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_SIZE], sealed[NONCE_SIZE:], None)
    except InvalidTag:
        raise IntegrityFailure("sealed octets do not open") from None
