"""Published vectors of every kind of transform: RFC 2202, 3566, 3686, 4106, 4493, 4543, SP 800-67.

AES-CCM is worked out block by block (RFC 3610 section 2), as RFC 4309 has no vectors of its own;
implicit IVs (RFC 8750) are held against the same AEAD with the IV in the packet.
"""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from ipseclab.crypto.cipher import CIPHERS
from ipseclab.crypto.integrity import INTEGRITIES, KeyedGmac
from ipseclab.crypto.protection import Suite
from ipseclab.errors import IntegrityFailure
from ipseclab.registry import EncrId, IntegId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "transforms.json").read_text())
SHA256 = INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128]


def rows(table):
    return pytest.mark.parametrize("row", VECTORS[table], ids=lambda row: row["source"])


def octets(row, *names):
    return tuple(bytes.fromhex(row[name]) for name in names)


@rows("ctr")
def test_counter_mode(row):
    key, salt, iv, plaintext, ciphertext = octets(
        row, "key", "salt", "iv", "plaintext", "ciphertext"
    )
    suite = Suite(CIPHERS[EncrId.ENCR_AES_CTR, len(key) * 8], SHA256)
    protection = suite.keyed(key + salt, bytes(32))
    for _ in range(2):
        sealed = protection.seal(b"", iv, plaintext)
        assert sealed[: -suite.icv_size] == iv + ciphertext
        assert protection.open(b"", sealed) == plaintext


@rows("mac")
def test_mac(row):
    key, data, mac = octets(row, "key", "data", "mac")
    integrity = INTEGRITIES[IntegId.named(row["integ"])]
    keyed = integrity.keyed(key)
    assert integrity.mac(key, data) == mac[: integrity.icv_size]
    for cut in range(0, len(data) + 1, 5):
        assert keyed.mac(data[:cut], data[cut:]) == mac[: integrity.icv_size]


@rows("aead")
def test_aead(row):
    key, salt, iv, aad, plaintext, sealed = octets(
        row, "key", "salt", "iv", "aad", "plaintext", "sealed"
    )
    protection = Suite(CIPHERS[EncrId.named(row["encr"]), row["key_bits"]]).keyed(key + salt)
    assert protection.seal(aad, iv, plaintext) == iv + sealed
    assert protection.open(aad, iv + sealed) == plaintext
    with pytest.raises(IntegrityFailure):
        protection.open(aad + b"\0", iv + sealed)


def test_ah_s_gmac_is_the_same_function():
    (row,) = (row for row in VECTORS["aead"] if row["encr"] == "ENCR_NULL_AUTH_AES_GMAC")
    key, salt, iv, aad, plaintext, sealed = octets(
        row, "key", "salt", "iv", "aad", "plaintext", "sealed"
    )
    assert KeyedGmac(key + salt).mac(iv, aad, iv, plaintext) == sealed[-16:]


@pytest.mark.rfc("7296", "2.13", "MUST", "key-from-any-value")
@rows("triple_des")
def test_triple_des(row):
    key, plaintext, ciphertext = octets(row, "key", "plaintext", "ciphertext")
    suite = Suite(CIPHERS[EncrId.ENCR_3DES, 192], SHA256)
    protection = suite.keyed(key, bytes(32))
    sealed = protection.seal(b"", bytes(8), plaintext)
    assert sealed[8:16] == ciphertext
    assert protection.open(b"", sealed) == plaintext


def ccm(key, nonce, plaintext, aad, size):
    """CCM with a counter of 4 octets (RFC 4309 section 4), by the block cipher alone."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update
    flags = (0x40 if aad else 0) | (size - 2) // 2 << 3 | 3
    head = bytes([flags]) + nonce + len(plaintext).to_bytes(4, "big")
    described = len(aad).to_bytes(2, "big") + aad if aad else b""
    data = head + b"".join(part + bytes(-len(part) % 16) for part in (described, plaintext))
    mac = bytes(16)
    for start in range(0, len(data), 16):
        mac = block(bytes(a ^ b for a, b in zip(mac, data[start : start + 16], strict=True)))
    stream = b"".join(
        block(bytes([3]) + nonce + counter.to_bytes(4, "big"))
        for counter in range(len(plaintext) // 16 + 2)
    )
    ciphertext = bytes(a ^ b for a, b in zip(plaintext, stream[16:], strict=False))
    return ciphertext + bytes(a ^ b for a, b in zip(mac, stream, strict=False))[:size]


@given(
    cipher=st.sampled_from([c for c in CIPHERS.values() if "CCM" in c.id.name and c.iv_size]),
    plaintext=st.binary(max_size=100),
    aad=st.binary(min_size=8, max_size=12),
    data=st.data(),
)
@settings(max_examples=40)
def test_ccm(cipher, plaintext, aad, data):
    key, salt, iv = (data.draw(st.binary(min_size=n, max_size=n)) for n in (cipher.key_size, 3, 8))
    sealed = Suite(cipher).keyed(key + salt).seal(aad, iv, plaintext)
    assert sealed == iv + ccm(key, salt + iv, plaintext, aad, cipher.icv_size)


IMPLICIT = {
    EncrId.ENCR_AES_CCM_8_IIV: EncrId.ENCR_AES_CCM_8,
    EncrId.ENCR_AES_GCM_16_IIV: EncrId.ENCR_AES_GCM_16,
    EncrId.ENCR_CHACHA20_POLY1305_IIV: EncrId.ENCR_CHACHA20_POLY1305,
}


@pytest.mark.parametrize("number", [c for c in CIPHERS if c[0] in IMPLICIT], ids=str)
@pytest.mark.parametrize("sequence", ["00000007", "0000000100000007"])
def test_implicit_iv_is_the_sequence_number(number, sequence):
    encr, bits = number
    key = bytes(range(CIPHERS[number].key_size + CIPHERS[number].salt_size))
    associated = b"spi!" + bytes.fromhex(sequence)
    iv = bytes.fromhex(sequence.rjust(16, "0"))
    explicit = Suite(CIPHERS[IMPLICIT[encr], bits]).keyed(key).seal(associated, iv, b"data")
    protection = Suite(CIPHERS[number]).keyed(key)
    sealed = protection.seal(associated, iv, b"data")
    assert iv + sealed == explicit
    assert protection.open(associated, sealed) == b"data"


SUITES = [
    Suite(cipher, integrity)
    for cipher in CIPHERS.values()
    for integrity in ((None,) if cipher.aead else INTEGRITIES.values())
]


@given(suite=st.sampled_from(SUITES), size=st.integers(0, 9000), data=st.data())
@settings(max_examples=150, deadline=None)
def test_what_is_sealed_opens_whatever_its_size(suite, size, data):
    size -= size % suite.block_size
    fill = data.draw(st.binary(min_size=1, max_size=64))
    plaintext = (fill * (size // len(fill) + 1))[:size]
    keys = bytes(range(suite.encr_key_size)), bytes(range(suite.integ_key_size))
    protection, suffix = suite.keyed(*keys), b"" if suite.cipher.aead else b"high"
    iv = bytes(7) + b"\1" if suite.cipher.counter_iv else bytes(suite.iv_size)
    sealed = protection.seal(b"spi!seq#", iv, plaintext, suffix)
    assert len(sealed) == suite.iv_size + size + suite.icv_size
    assert protection.open(b"spi!seq#", sealed, suffix) == plaintext
    if suffix:
        with pytest.raises(IntegrityFailure):
            protection.open(b"spi!seq#", sealed)
