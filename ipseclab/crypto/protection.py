"""One interface for protecting IKE messages and ESP packets, whatever the algorithms.

An AEAD (RFC 4106, RFC 4309, RFC 5282, RFC 7634) seals by itself; any other cipher is joined with a
MAC over what stands before the ICV (encrypt-then-MAC: RFC 7296 section 3.14, RFC 4303 section 2.8).
Padding and the making of IVs are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hmac import compare_digest
from typing import Protocol, assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, CTR

from ipseclab.crypto.cipher import AES_BLOCK_SIZE, TRIPLE_DES_BLOCK_SIZE, Cipher, Form
from ipseclab.crypto.integrity import Integrity
from ipseclab.errors import IntegrityFailure

Buffer = bytes | bytearray | memoryview
IntoBuffer = Callable[[Buffer, Buffer, Buffer, memoryview], int]
"""Seals or opens `data` under a nonce and AAD into a buffer of exactly the right length."""


class Protection(Protocol):
    """A suite with its keys, for one direction of one SA.

    `suffix` is what a separate MAC covers after the ciphertext although it is not sent: the high
    half of an extended sequence number (RFC 4303 section 2.2.1). To an AEAD it comes in
    `associated` (RFC 4106 section 5), and `suffix` is empty.
    """

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """IV | ciphertext | ICV. An IV must never come twice under one key."""

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
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
        if self.integrity is not None:
            return _joined(self.cipher, self.integrity, encr_key, integ_key)
        match self.cipher.form:
            case Form.IMPLICIT:
                return ImplicitIvProtection(self.cipher, encr_key)
            case Form.GMAC:
                return GmacProtection(self.cipher, encr_key)
            case _:
                return AeadProtection(self.cipher, encr_key)


def _joined(cipher: Cipher, integrity: Integrity, encr_key: bytes, integ_key: bytes) -> Protection:
    match cipher.form:
        case Form.CBC:
            return CbcMacProtection(cipher, integrity, encr_key, integ_key)
        case Form.CTR:
            return CtrMacProtection(cipher, integrity, encr_key, integ_key)
        case Form.NULL:
            return NullMacProtection(integrity, integ_key)
        case Form.AEAD | Form.IMPLICIT | Form.GMAC:
            raise AssertionError("an AEAD goes without integrity algorithm")
        case _:
            assert_never(cipher.form)


class AeadProtection:
    """AES-GCM, AES-CCM or ChaCha20-Poly1305; `associated` is the AAD, the nonce is salt | IV.

    `encrypt_into` and `decrypt_into` (nonce, data, AAD, buffer) and `salt` lie open for trains of
    packets; the two are None for a primitive that writes into no buffer.
    """

    __slots__ = (
        "_decrypt",
        "_encrypt",
        "_iv_size",
        "_minimum",
        "decrypt_into",
        "encrypt_into",
        "salt",
    )

    def __init__(self, cipher: Cipher, encr_key: bytes) -> None:
        assert cipher.primitive is not None
        primitive = cipher.primitive(encr_key[: cipher.key_size])
        self._encrypt = primitive.encrypt
        self._decrypt = primitive.decrypt
        self.encrypt_into: IntoBuffer | None = getattr(primitive, "encrypt_into", None)
        self.decrypt_into: IntoBuffer | None = getattr(primitive, "decrypt_into", None)
        self.salt = encr_key[cipher.key_size :]
        self._iv_size = cipher.iv_size
        self._minimum = cipher.iv_size + cipher.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """IV | ciphertext | ICV."""
        return iv + self._encrypt(self.salt + iv, plaintext, associated)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        if len(sealed) < self._minimum:
            raise IntegrityFailure(f"{len(sealed)} octets sealed, at least {self._minimum} needed")
        size = self._iv_size
        try:
            return self._decrypt(self.salt + sealed[:size], sealed[size:], associated)
        except InvalidTag:
            raise IntegrityFailure("ICV does not verify") from None


class ImplicitIvProtection:
    """An AEAD whose IV is the sequence number, as 64 bits (RFC 8750 section 4).

    It stands in `associated` behind the SPI: 32 bits, or 64 of an extended one.
    """

    __slots__ = ("_decrypt", "_encrypt", "_minimum", "_salt")

    def __init__(self, cipher: Cipher, encr_key: bytes) -> None:
        assert cipher.primitive is not None
        primitive = cipher.primitive(encr_key[: cipher.key_size])
        self._encrypt = primitive.encrypt
        self._decrypt = primitive.decrypt
        self._salt = encr_key[cipher.key_size :]
        self._minimum = cipher.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """Ciphertext | ICV; `iv` stays at home, and has to be the sequence number."""
        return self._encrypt(self._nonce(associated), plaintext, associated)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        if len(sealed) < self._minimum:
            raise IntegrityFailure(f"{len(sealed)} octets sealed, at least {self._minimum} needed")
        try:
            return self._decrypt(self._nonce(associated), sealed, associated)
        except InvalidTag:
            raise IntegrityFailure("ICV does not verify") from None

    def _nonce(self, associated: bytes) -> bytes:
        return self._salt + associated[4:12].rjust(8, b"\0")


class GmacProtection:
    """AES-GMAC without encryption: IV, plaintext and `associated` are under the ICV (RFC 4543
    section 3, and draft-mcgrew-gcm-test-01 for the IV, which the RFC leaves in doubt)."""

    __slots__ = ("_icv_size", "_iv_size", "_salt", "_tag")

    def __init__(self, cipher: Cipher, encr_key: bytes) -> None:
        assert cipher.primitive is not None
        self._tag = cipher.primitive(encr_key[: cipher.key_size]).encrypt
        self._salt = encr_key[cipher.key_size :]
        self._iv_size = cipher.iv_size
        self._icv_size = cipher.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """IV | plaintext | ICV."""
        sealed = iv + plaintext
        return sealed + self._tag(self._salt + iv, b"", associated + sealed)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        covered, icv = sealed[: -self._icv_size], sealed[-self._icv_size :]
        iv = covered[: self._iv_size]
        if len(iv) < self._iv_size:
            raise IntegrityFailure(f"{len(sealed)} octets sealed are not IV and ICV")
        if not compare_digest(icv, self._tag(self._salt + iv, b"", associated + covered)):
            raise IntegrityFailure("ICV does not verify")
        return covered[self._iv_size :]


class CbcMacProtection:
    """CBC (RFC 3602, RFC 2451) with a MAC over associated | IV | ciphertext | suffix.

    Making a cipher context costs more than encrypting a packet with it, so each direction keeps one
    and lets the chain of blocks run on: CBC's IV is only what the first block is XORed with, and
    the chain's last block can be XORed away.
    """

    __slots__ = ("_block", "_chain", "_decryptor", "_encryptor", "_icv_size", "_mac")

    def __init__(
        self, cipher: Cipher, integrity: Integrity, encr_key: bytes, integ_key: bytes
    ) -> None:
        self._chain = 0
        self._block = cipher.block_size
        triple = cipher.block_size == TRIPLE_DES_BLOCK_SIZE
        algorithm = TripleDES(encr_key) if triple else AES(encr_key)
        context = BlockCipher(algorithm, CBC(bytes(cipher.block_size)))
        self._encryptor = context.encryptor()
        self._decryptor = context.decryptor()
        self._mac = integrity.keyed(integ_key).mac
        self._icv_size = integrity.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """IV | ciphertext | ICV; the plaintext is whole blocks."""
        sealed = iv + self._encrypt(iv, plaintext)
        return sealed + self._mac(associated, sealed, suffix)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        covered, icv = sealed[: -self._icv_size], sealed[-self._icv_size :]
        if len(covered) < self._block or len(covered) % self._block:
            raise IntegrityFailure(f"{len(sealed)} octets sealed are not IV, whole blocks and ICV")
        if not compare_digest(icv, self._mac(associated, covered, suffix)):
            raise IntegrityFailure("ICV does not verify")
        # The IV, decrypted as if it were a block, gives one block of nonsense and sets the chain.
        return self._decryptor.update(covered)[self._block :]

    def _encrypt(self, iv: bytes, plaintext: bytes) -> bytes:
        size = self._block
        if len(iv) != size or len(plaintext) % size:
            raise ValueError(
                f"IV of {len(iv)} and plaintext of {len(plaintext)} octets for blocks of {size}"
            )
        if not plaintext:
            return b""
        first = int.from_bytes(plaintext[:size], "big")
        first ^= int.from_bytes(iv, "big") ^ self._chain
        ciphertext = self._encryptor.update(first.to_bytes(size, "big") + plaintext[size:])
        self._chain = int.from_bytes(ciphertext[-size:], "big")
        return ciphertext


class CtrMacProtection:
    """AES-CTR (RFC 3686) with a MAC over associated | IV | ciphertext | suffix.

    One cipher context a direction, set to each packet's counter block: nonce | IV | 1.
    """

    __slots__ = ("_context", "_icv_size", "_iv_size", "_mac", "_salt")

    def __init__(
        self, cipher: Cipher, integrity: Integrity, encr_key: bytes, integ_key: bytes
    ) -> None:
        key, self._salt = encr_key[: cipher.key_size], encr_key[cipher.key_size :]
        self._context = BlockCipher(AES(key), CTR(bytes(AES_BLOCK_SIZE))).encryptor()
        self._iv_size = cipher.iv_size
        self._mac = integrity.keyed(integ_key).mac
        self._icv_size = integrity.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """IV | ciphertext | ICV."""
        sealed = iv + self._stream(iv, plaintext)
        return sealed + self._mac(associated, sealed, suffix)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        covered, icv = sealed[: -self._icv_size], sealed[-self._icv_size :]
        if len(covered) < self._iv_size:
            raise IntegrityFailure(f"{len(sealed)} octets sealed are not IV and ICV")
        if not compare_digest(icv, self._mac(associated, covered, suffix)):
            raise IntegrityFailure("ICV does not verify")
        return self._stream(covered[: self._iv_size], covered[self._iv_size :])

    def _stream(self, iv: bytes, octets: bytes) -> bytes:
        self._context.reset_nonce(self._salt + iv + b"\0\0\0\1")
        return self._context.update(octets)


class NullMacProtection:
    """NULL encryption (RFC 2410): a MAC over associated | plaintext | suffix."""

    __slots__ = ("_icv_size", "_mac")

    def __init__(self, integrity: Integrity, integ_key: bytes) -> None:
        self._mac = integrity.keyed(integ_key).mac
        self._icv_size = integrity.icv_size

    def seal(self, associated: bytes, iv: bytes, plaintext: bytes, suffix: bytes = b"") -> bytes:
        """Plaintext | ICV."""
        return plaintext + self._mac(associated, plaintext, suffix)

    def open(self, associated: bytes, sealed: bytes, suffix: bytes = b"") -> bytes:
        """The plaintext. Raises IntegrityFailure."""
        covered, icv = sealed[: -self._icv_size], sealed[-self._icv_size :]
        if not compare_digest(icv, self._mac(associated, covered, suffix)):
            raise IntegrityFailure("ICV does not verify")
        return covered
