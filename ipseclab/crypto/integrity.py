"""Integrity algorithms of IKEv2 and ESP: HMAC with SHA-2, half of it sent (RFC 4868, RFC 2104)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from ipseclab.registry import IntegId

_INNER_PAD = bytes(octet ^ 0x36 for octet in range(256))
_OUTER_PAD = bytes(octet ^ 0x5C for octet in range(256))


class KeyedMac:
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


@dataclass(frozen=True, slots=True)
class Integrity:
    """An integrity transform (RFC 7296 transform type 3). Sizes are octets."""

    id: IntegId
    hash_name: str
    key_size: int
    icv_size: int

    def mac(self, key: bytes, octets: bytes) -> bytes:
        """The ICV: the HMAC's first `icv_size` octets."""
        return hmac.digest(key, octets, self.hash_name)[: self.icv_size]

    def keyed(self, key: bytes) -> KeyedMac:
        """The same function for many messages under one key."""
        return KeyedMac(self.hash_name, key, self.icv_size)


INTEGRITIES: dict[IntegId, Integrity] = {
    integrity.id: integrity
    for integrity in (
        Integrity(IntegId.AUTH_HMAC_SHA2_256_128, "sha256", 32, 16),
        Integrity(IntegId.AUTH_HMAC_SHA2_384_192, "sha384", 48, 24),
        Integrity(IntegId.AUTH_HMAC_SHA2_512_256, "sha512", 64, 32),
    )
}
