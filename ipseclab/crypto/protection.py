"""One interface for protecting IKE messages and ESP packets, whatever the algorithms.

An AEAD (RFC 4106, RFC 5282, RFC 7634) seals by itself; AES-CBC is joined with an HMAC over what
stands before the ICV (encrypt-then-MAC: RFC 7296 section 3.14, RFC 4303 section 2.8). Padding and
the making of IVs are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from ipseclab.crypto.cipher import AES_BLOCK_SIZE, Cipher
from ipseclab.crypto.integrity import Integrity
from ipseclab.errors import IntegrityFailure


class Protection(Protocol):
    """A suite with its keys, for one direction of one SA."""

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes) -> bytes:
        """IV | ciphertext | ICV. An IV must never come twice under one key."""

    def open(self, associated: bytes, sealed: bytes) -> bytes:
        """The plaintext of IV | ciphertext | ICV. Raises IntegrityFailure, and nothing else."""


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher, and the integrity algorithm that goes with it unless the cipher is an AEAD."""

    cipher: Cipher
    integrity: Integrity | None = None

    def __post_init__(self) -> None:
        if self.cipher.aead is (self.integrity is not None):
            need = "takes no" if self.cipher.aead else "needs an"
            raise ValueError(f"{self.cipher.id.name} {need} integrity algorithm")

    @property
    def encr_key_size(self) -> int:
        """Octets of key and salt, as they come out of prf+ in that order (RFC 5282 section 7.1)."""
        return self.cipher.key_size + self.cipher.salt_size

    @property
    def integ_key_size(self) -> int:
        """Octets; 0 for an AEAD."""
        return self.integrity.key_size if self.integrity is not None else 0

    @property
    def iv_size(self) -> int:
        """Octets of the explicit IV."""
        return self.cipher.iv_size

    @property
    def icv_size(self) -> int:
        """Octets of the ICV."""
        return self.integrity.icv_size if self.integrity is not None else self.cipher.icv_size

    @property
    def block_size(self) -> int:
        """What a plaintext's length must be a multiple of."""
        return self.cipher.block_size

    def keyed(self, encr_key: bytes, integ_key: bytes = b"") -> Protection:
        """The suite under those keys; an AEAD's `encr_key` ends in its salt."""
        if len(encr_key) != self.encr_key_size or len(integ_key) != self.integ_key_size:
            raise ValueError(
                f"keys of {len(encr_key)} and {len(integ_key)} octets, {self.cipher.id.name} needs "
                f"{self.encr_key_size} and {self.integ_key_size}"
            )
        if self.integrity is None:
            return AeadProtection(self.cipher, encr_key)
        return CbcHmacProtection(self.integrity, encr_key, integ_key)


class AeadProtection:
    """AES-GCM or ChaCha20-Poly1305; `associated` is the AAD, the nonce is salt | IV."""

    __slots__ = ("_decrypt", "_encrypt", "_iv_size", "_minimum", "_salt")

    def __init__(self, cipher: Cipher, encr_key: bytes) -> None:
        assert cipher.primitive is not None
        primitive = cipher.primitive(encr_key[: cipher.key_size])
        self._encrypt = primitive.encrypt
        self._decrypt = primitive.decrypt
        self._salt = encr_key[cipher.key_size :]
        self._iv_size = cipher.iv_size
        self._minimum = cipher.iv_size + cipher.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes) -> bytes:
        """IV | ciphertext | ICV."""
        return iv + self._encrypt(self._salt + iv, plaintext, associated)

    def open(self, associated: bytes, sealed: bytes) -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        if len(sealed) < self._minimum:
            raise IntegrityFailure(f"{len(sealed)} octets sealed, at least {self._minimum} needed")
        size = self._iv_size
        try:
            return self._decrypt(self._salt + sealed[:size], sealed[size:], associated)
        except InvalidTag:
            raise IntegrityFailure("ICV does not verify") from None


class CbcHmacProtection:
    """AES-CBC (RFC 3602) with an HMAC over associated | IV | ciphertext.

    Making a cipher context costs more than encrypting a packet with it, so each direction keeps one
    and lets the chain of blocks run on: CBC's IV is only what the first block is XORed with, and
    the chain's last block can be XORed away.
    """

    __slots__ = ("_chain", "_decryptor", "_encryptor", "_icv_size", "_mac")

    def __init__(self, integrity: Integrity, encr_key: bytes, integ_key: bytes) -> None:
        self._chain = 0
        cipher = BlockCipher(AES(encr_key), CBC(bytes(AES_BLOCK_SIZE)))
        self._encryptor = cipher.encryptor()
        self._decryptor = cipher.decryptor()
        self._mac = integrity.keyed(integ_key).mac
        self._icv_size = integrity.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes) -> bytes:
        """IV | ciphertext | ICV; the plaintext is whole blocks."""
        sealed = iv + self._encrypt(iv, plaintext)
        return sealed + self._mac(associated, sealed)

    def open(self, associated: bytes, sealed: bytes) -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        covered, icv = sealed[: -self._icv_size], sealed[-self._icv_size :]
        if len(covered) < AES_BLOCK_SIZE or len(covered) % AES_BLOCK_SIZE:
            raise IntegrityFailure(f"{len(sealed)} octets sealed are not IV, whole blocks and ICV")
        if not compare_digest(icv, self._mac(associated, covered)):
            raise IntegrityFailure("ICV does not verify")
        # The IV, decrypted as if it were a block, gives one block of nonsense and sets the chain.
        return self._decryptor.update(covered)[AES_BLOCK_SIZE:]

    def _encrypt(self, iv: bytes, plaintext: bytes) -> bytes:
        if len(iv) != AES_BLOCK_SIZE or len(plaintext) % AES_BLOCK_SIZE:
            raise ValueError(
                f"IV of {len(iv)} and plaintext of {len(plaintext)} octets for AES-CBC"
            )
        if not plaintext:
            return b""
        first = int.from_bytes(plaintext[:AES_BLOCK_SIZE], "big")
        first ^= int.from_bytes(iv, "big") ^ self._chain
        octets = first.to_bytes(AES_BLOCK_SIZE, "big") + plaintext[AES_BLOCK_SIZE:]
        ciphertext = self._encryptor.update(octets)
        self._chain = int.from_bytes(ciphertext[-AES_BLOCK_SIZE:], "big")
        return ciphertext
