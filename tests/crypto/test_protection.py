"""Cipher suites: published vectors, and what `open` refuses."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.cipher import CIPHERS, Cipher, find_cipher
from ipseclab.crypto.integrity import INTEGRITIES
from ipseclab.crypto.protection import Protection, Suite
from ipseclab.errors import IntegrityFailure
from ipseclab.registry import EncrId, IntegId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())
NOT_OCTETS = ("source", "encr", "key_bits")
SHA256 = INTEGRITIES[IntegId.AUTH_HMAC_SHA2_256_128]
MOST_KEY_BITS = {encr: max(bits for other, bits in CIPHERS if other == encr) for encr, _ in CIPHERS}
# One key size of each cipher, and each integrity algorithm once.
SUITES = [
    Suite(CIPHERS[number], None if CIPHERS[number].aead else SHA256)
    for number in MOST_KEY_BITS.items()
] + [
    Suite(CIPHERS[EncrId.ENCR_AES_CBC, 128], integrity)
    for integrity in INTEGRITIES.values()
    if integrity != SHA256
]


def suite_name(suite: Suite) -> str:
    integrity = f"-{suite.integrity.id.name}" if suite.integrity is not None else ""
    return f"{suite.cipher.id.name}-{suite.cipher.key_bits}{integrity}"


def keyed(suite: Suite, fill: int = 7) -> Protection:
    return suite.keyed(bytes([fill]) * suite.encr_key_size, bytes([fill]) * suite.integ_key_size)


def cbc_suite(key: bytes) -> Suite:
    return Suite(CIPHERS[EncrId.ENCR_AES_CBC, len(key) * 8], SHA256)


each_suite = pytest.mark.parametrize("suite", SUITES, ids=suite_name)


@pytest.mark.parametrize("row", VECTORS["aead"], ids=lambda row: row["source"])
def test_aead_vector(row: dict[str, str | int]) -> None:
    octets = {key: bytes.fromhex(str(value)) for key, value in row.items() if key not in NOT_OCTETS}
    suite = Suite(CIPHERS[EncrId.named(str(row["encr"])), int(row["key_bits"])])
    protection = suite.keyed(octets["key"] + octets["salt"])
    sealed = protection.seal(octets["aad"], octets["iv"], octets["plaintext"])
    assert sealed == octets["iv"] + octets["ciphertext"] + octets["icv"]
    assert protection.open(octets["aad"], sealed) == octets["plaintext"]


@pytest.mark.parametrize("row", VECTORS["cbc"], ids=lambda row: row["source"])
def test_cbc_vector(row: dict[str, str]) -> None:
    key, iv, plaintext, ciphertext = (
        bytes.fromhex(row[name]) for name in ("key", "iv", "plaintext", "ciphertext")
    )
    protection = cbc_suite(key).keyed(key, bytes(32))
    for _ in range(3):  # the running chain must not show in a later packet
        sealed = protection.seal(b"", iv, plaintext)
        assert sealed[:16] == iv
        assert sealed[16:-16] == ciphertext
        assert protection.open(b"", sealed) == plaintext


@pytest.mark.rfc("7296", "3.14", "MUST", "icv-over-ciphertext")
def test_cbc_icv_covers_associated_iv_and_ciphertext() -> None:
    protection = cbc_suite(bytes(16)).keyed(bytes(16), b"k" * 32)
    sealed = protection.seal(b"header", bytes(16), bytes(32))
    assert sealed[-16:] == SHA256.mac(b"k" * 32, b"header" + sealed[:-16])


@each_suite
def test_sizes(suite: Suite) -> None:
    sealed = keyed(suite).seal(b"aad", bytes(suite.iv_size), bytes(64))
    assert len(sealed) == suite.iv_size + 64 + suite.icv_size


@each_suite
@given(data=st.data())
def test_what_is_sealed_opens(suite: Suite, data: st.DataObject) -> None:
    one, other = keyed(suite), keyed(suite)
    for _ in range(3):
        associated = data.draw(st.binary(max_size=40))
        iv = data.draw(st.binary(min_size=suite.iv_size, max_size=suite.iv_size))
        blocks = data.draw(st.integers(0, 8))
        plaintext = data.draw(st.binary(min_size=16 * blocks, max_size=16 * blocks))
        assert other.open(associated, one.seal(associated, iv, plaintext)) == plaintext


@each_suite
def test_a_changed_octet_anywhere_is_refused(suite: Suite) -> None:
    protection = keyed(suite)
    sealed = protection.seal(b"spi+sequence", bytes(suite.iv_size), bytes(32))
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 0x01
        with pytest.raises(IntegrityFailure):
            protection.open(b"spi+sequence", bytes(changed))
    with pytest.raises(IntegrityFailure):
        protection.open(b"spi+sequencf", sealed)
    assert protection.open(b"spi+sequence", sealed) == bytes(32)


@each_suite
def test_a_cut_anywhere_is_refused(suite: Suite) -> None:
    protection = keyed(suite)
    sealed = protection.seal(b"", bytes(suite.iv_size), bytes(32))
    for size in range(len(sealed)):
        with pytest.raises(IntegrityFailure):
            protection.open(b"", sealed[:size])
        with pytest.raises(IntegrityFailure):
            protection.open(b"", sealed[len(sealed) - size :])
    with pytest.raises(IntegrityFailure):
        protection.open(b"", sealed + b"\0")


@each_suite
@given(octets=st.binary(max_size=200))
def test_random_octets_are_refused(suite: Suite, octets: bytes) -> None:
    with pytest.raises(IntegrityFailure):
        keyed(suite).open(b"", octets)


@each_suite
def test_another_key_is_refused(suite: Suite) -> None:
    sealed = keyed(suite, 1).seal(b"", bytes(suite.iv_size), bytes(16))
    with pytest.raises(IntegrityFailure):
        keyed(suite, 2).open(b"", sealed)


def test_a_valid_icv_over_a_broken_block_is_refused() -> None:
    # The peer's own mistake, not an attack: the ICV is right, the ciphertext not whole blocks.
    covered = bytes(16 + 15)
    sealed = covered + SHA256.mac(bytes(32), covered)
    with pytest.raises(IntegrityFailure):
        cbc_suite(bytes(16)).keyed(bytes(16), bytes(32)).open(b"", sealed)


def test_an_aead_refuses_an_integrity_algorithm_and_cbc_wants_one() -> None:
    with pytest.raises(ValueError, match="takes no integrity"):
        Suite(CIPHERS[EncrId.ENCR_AES_GCM_16, 128], SHA256)
    with pytest.raises(ValueError, match="needs an integrity"):
        Suite(CIPHERS[EncrId.ENCR_AES_CBC, 128])


@each_suite
def test_keys_of_a_wrong_size_are_refused(suite: Suite) -> None:
    with pytest.raises(ValueError, match="octets"):
        suite.keyed(bytes(suite.encr_key_size + 1), bytes(suite.integ_key_size))
    with pytest.raises(ValueError, match="octets"):
        suite.keyed(bytes(suite.encr_key_size), bytes(suite.integ_key_size + 1))


def test_cbc_refuses_to_seal_a_broken_block() -> None:
    protection = cbc_suite(bytes(16)).keyed(bytes(16), bytes(32))
    with pytest.raises(ValueError, match="plaintext of 15"):
        protection.seal(b"", bytes(16), bytes(15))


@pytest.mark.parametrize(
    ("encr", "key_bits", "found"),
    [
        (EncrId.ENCR_AES_GCM_16, 256, (EncrId.ENCR_AES_GCM_16, 256)),
        (EncrId.ENCR_CHACHA20_POLY1305, None, (EncrId.ENCR_CHACHA20_POLY1305, 256)),
        (EncrId.ENCR_AES_GCM_16, None, None),
        (EncrId.ENCR_AES_GCM_16, 129, None),
        (EncrId.ENCR_3DES, None, (EncrId.ENCR_3DES, 192)),
        (EncrId.ENCR_NULL, None, (EncrId.ENCR_NULL, 0)),
        (EncrId.ENCR_CAMELLIA_CBC, None, None),
        (4711, None, None),
    ],
)
def test_find_cipher(encr: int, key_bits: int | None, found: tuple[EncrId, int] | None) -> None:
    expected: Cipher | None = CIPHERS[found] if found is not None else None
    assert find_cipher(encr, key_bits) is expected
