"""Encryption algorithms of IKEv2 and ESP: what each needs of key, IV and padding, as table rows.

AES-CBC (RFC 3602), 3DES-CBC (RFC 2451), AES-CTR (RFC 3686), AES-GCM (RFC 4106 for ESP, RFC 5282 for
IKE), AES-CCM (RFC 4309), GMAC without encryption (RFC 4543), ChaCha20-Poly1305 (RFC 7634), implicit
IVs (RFC 8750) and NULL (RFC 2410). `protection.py` puts them to use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as BlockCipher
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from ipseclab.registry import EncrId

AES_BLOCK_SIZE = 16
TRIPLE_DES_BLOCK_SIZE = 8
AES_KEY_BITS = (128, 192, 256)


class AeadPrimitive(Protocol):
    """A keyed AEAD of pyca/cryptography; the ICV is at the end of the sealed octets."""

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Ciphertext | ICV."""

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Plaintext; raises InvalidTag."""


class TruncatedGcm:
    """AES-GCM whose ICV is cut to fewer than 16 octets (RFC 4106 section 6)."""

    __slots__ = ("_aes", "_encrypt", "_size")

    def __init__(self, key: bytes, size: int) -> None:
        self._aes = AES(key)
        self._encrypt = AESGCM(key).encrypt
        self._size = size

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Ciphertext | ICV."""
        return self._encrypt(nonce, data, associated_data)[: len(data) + self._size]

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes:
        """Plaintext; raises InvalidTag."""
        end = len(data) - self._size
        if end < 0:
            raise InvalidTag
        mode = GCM(nonce, data[end:], min_tag_length=self._size)
        context = BlockCipher(self._aes, mode).decryptor()
        context.authenticate_additional_data(associated_data or b"")
        return context.update(data[:end]) + context.finalize()


class Form(Enum):
    """How a cipher is applied; each has a class of its own in `protection.py`."""

    AEAD = "AEAD with the IV in the packet"
    IMPLICIT = "AEAD whose IV is the sequence number (RFC 8750)"
    GMAC = "AEAD that authenticates without encryption (RFC 4543)"
    CBC = "cipher block chaining"
    CTR = "counter mode"
    NULL = "no encryption"


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
    form: Form = Form.AEAD

    @property
    def key_size(self) -> int:
        """Octets of the key proper, without the salt."""
        return self.key_bits // 8

    @property
    def aead(self) -> bool:
        """True when the cipher brings its own ICV, so that no integrity transform goes with it."""
        return self.primitive is not None

    @property
    def counter_iv(self) -> bool:
        """True when the IV must not repeat and may be a counter (RFC 4106 section 3.1, RFC 3686
        section 3.1); False when it must not be foreseen (RFC 3602 section 3)."""
        return self.form not in (Form.CBC, Form.NULL)

    @property
    def serves_ike(self) -> bool:
        """True when it may protect IKE messages too: they have to be encrypted (RFC 7296 section
        5), and their message IDs are no implicit IV (RFC 8750 section 4)."""
        return self.form not in (Form.IMPLICIT, Form.GMAC, Form.NULL)


def find_cipher(encr: EncrId | int, key_bits: int | None) -> Cipher | None:
    """The cipher that a transform names, None when it is not one of ours.

    A cipher of fixed key length carries no Key Length attribute (RFC 7296 section 3.3.5).
    """
    if key_bits is None:
        key_bits = FIXED_KEY_BITS.get(EncrId(encr))
    return CIPHERS.get((EncrId(encr), key_bits)) if key_bits is not None else None


def _block_cipher(encr: EncrId, key_bits: int, size: int) -> Cipher:
    return Cipher(encr, key_bits, 0, size, 0, block_size=size, form=Form.CBC)


def _aes_ctr(key_bits: int) -> Cipher:
    return Cipher(EncrId.ENCR_AES_CTR, key_bits, 4, 8, 0, block_size=1, form=Form.CTR)


def _aes_gcm(encr: EncrId, key_bits: int, icv_size: int) -> Cipher:
    def truncated(key: bytes) -> AeadPrimitive:
        return TruncatedGcm(key, icv_size)

    primitive = AESGCM if icv_size == 16 else truncated
    return Cipher(encr, key_bits, 4, 8, icv_size, block_size=1, primitive=primitive)


def _aes_ccm(encr: EncrId, key_bits: int, icv_size: int) -> Cipher:
    def primitive(key: bytes) -> AeadPrimitive:
        return AESCCM(key, tag_length=icv_size)

    return Cipher(encr, key_bits, 3, 8, icv_size, block_size=1, primitive=primitive)


def _aes_gmac(key_bits: int) -> Cipher:
    encr = EncrId.ENCR_NULL_AUTH_AES_GMAC
    return Cipher(encr, key_bits, 4, 8, 16, block_size=1, primitive=AESGCM, form=Form.GMAC)


def _chacha20_poly1305() -> Cipher:
    encr = EncrId.ENCR_CHACHA20_POLY1305
    return Cipher(encr, 256, 4, 8, 16, block_size=1, primitive=ChaCha20Poly1305)


def _implicit(encr: EncrId, explicit: Cipher) -> Cipher:
    """The same AEAD without the IV in the packet."""
    return Cipher(
        encr,
        explicit.key_bits,
        explicit.salt_size,
        0,
        explicit.icv_size,
        explicit.block_size,
        explicit.primitive,
        Form.IMPLICIT,
    )


NULL_CIPHER = Cipher(EncrId.ENCR_NULL, 0, 0, 0, 0, block_size=1, form=Form.NULL)

FIXED_KEY_BITS: dict[EncrId, int] = {
    EncrId.ENCR_CHACHA20_POLY1305: 256,
    EncrId.ENCR_CHACHA20_POLY1305_IIV: 256,
    EncrId.ENCR_3DES: 192,
    EncrId.ENCR_NULL: 0,
}

_GCM = {
    8: EncrId.ENCR_AES_GCM_8,
    12: EncrId.ENCR_AES_GCM_12,
    16: EncrId.ENCR_AES_GCM_16,
}
_CCM = {
    8: EncrId.ENCR_AES_CCM_8,
    12: EncrId.ENCR_AES_CCM_12,
    16: EncrId.ENCR_AES_CCM_16,
}

CIPHERS: dict[tuple[EncrId, int], Cipher] = {
    (cipher.id, cipher.key_bits): cipher
    for cipher in (
        *(_block_cipher(EncrId.ENCR_AES_CBC, bits, AES_BLOCK_SIZE) for bits in AES_KEY_BITS),
        *(_aes_gcm(_GCM[16], bits, 16) for bits in AES_KEY_BITS),
        _chacha20_poly1305(),
        *(_aes_gcm(_GCM[icv], bits, icv) for icv in (8, 12) for bits in AES_KEY_BITS),
        *(_aes_ccm(_CCM[icv], bits, icv) for icv in (8, 12, 16) for bits in AES_KEY_BITS),
        *(_aes_gmac(bits) for bits in AES_KEY_BITS),
        *(
            _implicit(EncrId.ENCR_AES_CCM_8_IIV, _aes_ccm(_CCM[8], bits, 8))
            for bits in AES_KEY_BITS
        ),
        *(
            _implicit(EncrId.ENCR_AES_GCM_16_IIV, _aes_gcm(_GCM[16], bits, 16))
            for bits in AES_KEY_BITS
        ),
        _implicit(EncrId.ENCR_CHACHA20_POLY1305_IIV, _chacha20_poly1305()),
        *(_aes_ctr(bits) for bits in AES_KEY_BITS),
        _block_cipher(EncrId.ENCR_3DES, FIXED_KEY_BITS[EncrId.ENCR_3DES], TRIPLE_DES_BLOCK_SIZE),
        NULL_CIPHER,
    )
}
