"""Integrity algorithms of IKEv2, ESP and AH, as table rows.

HMAC with SHA-1 (RFC 2404) and SHA-2 (RFC 4868), each truncated; AES-XCBC (RFC 3566) and AES-CMAC
(RFC 4494), 96 bits of each; AES-GMAC, which takes a nonce and is AH's alone (RFC 4543 section 5).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, ECB
from cryptography.hazmat.primitives.cmac import CMAC

from ipseclab.registry import IntegId

_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))
_BLOCK = 16
GMAC_IV_SIZE = 8
_GMAC_SALT_SIZE = 4


class KeyedMac(Protocol):
    """A function of messages under one key."""

    def mac(self, *parts: bytes) -> bytes:
        """The ICV over the concatenation of `parts`."""


class KeyedHmac:
    """HMAC under one key, truncated.

    Both hash states after the padded key are kept and copied for each message, as RFC 2104
    section 4 suggests: it halves the work on a short packet.
    """

    __slots__ = ("_inner", "_outer", "_size")

    def __init__(self, hash_name: str, key: bytes, size: int) -> None:
        block_size = hashlib.new(hash_name).block_size
        if len(key) > block_size:
            key = hashlib.new(hash_name, key).digest()
        padded = key.ljust(block_size, b"\0")
        self._inner = hashlib.new(hash_name, padded.translate(_INNER_PAD))
        self._outer = hashlib.new(hash_name, padded.translate(_OUTER_PAD))
        self._size = size

    def mac(self, *parts: bytes) -> bytes:
        """The ICV over the concatenation of `parts`."""
        inner = self._inner.copy()
        for part in parts:
            inner.update(part)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.digest()[: self._size]


class KeyedCmac:
    """AES-CMAC under one key, truncated (RFC 4494)."""

    __slots__ = ("_keyed", "_size")

    def __init__(self, key: bytes, size: int) -> None:
        self._keyed = CMAC(AES(key))
        self._size = size

    def mac(self, *parts: bytes) -> bytes:
        """The ICV over the concatenation of `parts`."""
        context = self._keyed.copy()
        for part in parts:
            context.update(part)
        return context.finalize()[: self._size]


class KeyedXcbc:
    """AES-XCBC-MAC under one key, truncated (RFC 3566 section 4).

    CBC with an IV of zero under K1, whose last ciphertext block is the MAC. The context runs on
    from message to message: what the last block left in the chain is XORed away from the first.
    """

    __slots__ = ("_chain", "_encrypt", "_k2", "_k3", "_size")

    def __init__(self, key: bytes, size: int) -> None:
        derive = BlockCipher(AES(key), ECB()).encryptor()
        k1, k2, k3 = (derive.update(bytes([number]) * _BLOCK) for number in (1, 2, 3))
        self._encrypt = BlockCipher(AES(k1), CBC(bytes(_BLOCK))).encryptor().update
        self._k2, self._k3 = (int.from_bytes(subkey, "big") for subkey in (k2, k3))
        self._chain = 0
        self._size = size

    def mac(self, *parts: bytes) -> bytes:
        """The ICV over the concatenation of `parts`."""
        message = b"".join(parts)
        whole = bool(message) and not len(message) % _BLOCK
        if not whole:
            message += b"\x80" + bytes(-(len(message) + 1) % _BLOCK)
        subkey = self._k2 if whole else self._k3
        # One XOR of a number as long as the message puts in both the chain and the subkey.
        number = int.from_bytes(message, "big") ^ subkey
        number ^= self._chain << 8 * (len(message) - _BLOCK)
        last = self._encrypt(number.to_bytes(len(message), "big"))[-_BLOCK:]
        self._chain = int.from_bytes(last, "big")
        return last[: self._size]


class KeyedGmac:
    """AES-GMAC under one key and salt: the ICV is an IV and the tag under it (RFC 4543)."""

    __slots__ = ("_encrypt", "_salt")

    def __init__(self, key: bytes) -> None:
        self._encrypt = AESGCM(key[:-_GMAC_SALT_SIZE]).encrypt
        self._salt = key[-_GMAC_SALT_SIZE:]

    def mac(self, *parts: bytes) -> bytes:
        """The tag over all but the first of `parts`, which is an IV that never comes twice."""
        iv, *covered = parts
        return self._encrypt(self._salt + iv, b"", b"".join(covered))


@dataclass(frozen=True, slots=True)
class Integrity:
    """An integrity transform (RFC 7296 transform type 3). Sizes are octets."""

    id: IntegId
    key_size: int
    icv_size: int
    make: Callable[[bytes], KeyedMac]
    hash_name: str = ""
    """hashlib's name of an HMAC's hash function; empty for the others."""
    takes_iv: bool = False
    """True when `mac` takes an IV first, which travels before the tag in AH's ICV field."""

    def mac(self, key: bytes, octets: bytes) -> bytes:
        """The ICV of one message: of an HMAC its first `icv_size` octets."""
        if self.hash_name:
            return hmac.digest(key, octets, self.hash_name)[: self.icv_size]
        return self.make(key).mac(octets)

    def keyed(self, key: bytes) -> KeyedMac:
        """The same function for many messages under one key."""
        return self.make(key)


def _hmac(number: IntegId, hash_name: str, key_size: int, icv_size: int) -> Integrity:
    def make(key: bytes) -> KeyedMac:
        return KeyedHmac(hash_name, key, icv_size)

    return Integrity(number, key_size, icv_size, make, hash_name)


def _gmac(number: IntegId, key_size: int) -> Integrity:
    """KEYMAT is key and salt in that order (RFC 4543 section 5.1); the ICV is IV and tag."""
    size = key_size + _GMAC_SALT_SIZE
    return Integrity(number, size, GMAC_IV_SIZE + _BLOCK, KeyedGmac, takes_iv=True)


INTEGRITIES: dict[IntegId, Integrity] = {
    integrity.id: integrity
    for integrity in (
        _hmac(IntegId.AUTH_HMAC_SHA2_256_128, "sha256", 32, 16),
        _hmac(IntegId.AUTH_HMAC_SHA2_384_192, "sha384", 48, 24),
        _hmac(IntegId.AUTH_HMAC_SHA2_512_256, "sha512", 64, 32),
        _hmac(IntegId.AUTH_HMAC_SHA1_96, "sha1", 20, 12),
        Integrity(IntegId.AUTH_AES_XCBC_96, 16, 12, lambda key: KeyedXcbc(key, 12)),
        Integrity(IntegId.AUTH_AES_CMAC_96, 16, 12, lambda key: KeyedCmac(key, 12)),
    )
}

AH_INTEGRITIES: dict[IntegId, Integrity] = INTEGRITIES | {
    integrity.id: integrity
    for integrity in (
        _gmac(IntegId.AUTH_AES_128_GMAC, 16),
        _gmac(IntegId.AUTH_AES_192_GMAC, 24),
        _gmac(IntegId.AUTH_AES_256_GMAC, 32),
    )
}
"""AH's algorithms: GMAC beside all of ESP's."""
