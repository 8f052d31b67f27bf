"""Integrity algorithms and PRFs: the RFCs' vectors and prf+'s construction."""

import hashlib
import hmac
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipseclab.crypto.integrity import INTEGRITIES, Integrity
from ipseclab.crypto.names import PRF_OF_INTEGRITY
from ipseclab.crypto.prf import PRFS, Prf
from ipseclab.ike.keys import skeyseed
from ipseclab.registry import PrfId

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "crypto.json").read_text())["hmac"]

each_prf = pytest.mark.parametrize("prf", PRFS.values(), ids=lambda prf: prf.id.name)
SHA2_PRFS = {
    PrfId.PRF_HMAC_SHA2_256: "sha256",
    PrfId.PRF_HMAC_SHA2_384: "sha384",
    PrfId.PRF_HMAC_SHA2_512: "sha512",
}
SHA2 = [i for i in INTEGRITIES.values() if i.hash_name in ("sha256", "sha384", "sha512")]
each_integrity = pytest.mark.parametrize("integrity", SHA2, ids=lambda i: i.id.name)
each_vector = pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["source"])


@pytest.mark.rfc("7296", "2.13", "MUST", "variable-keys")
@each_vector
@pytest.mark.parametrize(("number", "name"), SHA2_PRFS.items(), ids=SHA2_PRFS.values())
def test_prf_vector(number: PrfId, name: str, row: dict[str, str]) -> None:
    prf = PRFS[number]
    got = prf.prf(bytes.fromhex(row["key"]), bytes.fromhex(row["data"]))
    assert got.hex() == row[name]
    assert len(got) == prf.output_size


@each_vector
@each_integrity
def test_integrity_vector(integrity: Integrity, row: dict[str, str]) -> None:
    key, data = bytes.fromhex(row["key"]), bytes.fromhex(row["data"])
    expected = bytes.fromhex(row[integrity.hash_name])[: integrity.icv_size]
    assert integrity.mac(key, data) == expected
    assert integrity.keyed(key).mac(data) == expected


@each_integrity
def test_icv_is_half_the_hash(integrity: Integrity) -> None:
    digest_size = hashlib.new(integrity.hash_name).digest_size
    assert integrity.icv_size * 2 == digest_size == integrity.key_size


@each_integrity
@given(key=st.binary(max_size=200), parts=st.lists(st.binary(max_size=300), max_size=4))
def test_keyed_mac_is_hmac_of_the_parts(
    integrity: Integrity, key: bytes, parts: list[bytes]
) -> None:
    mac = integrity.keyed(key)
    expected = hmac.digest(key, b"".join(parts), integrity.hash_name)[: integrity.icv_size]
    assert mac.mac(*parts) == expected
    assert mac.mac(*parts) == expected  # nothing of a message stays behind


@each_prf
@given(key=st.binary(max_size=80), seed=st.binary(max_size=80), size=st.integers(0, 400))
def test_prf_plus_is_the_chain_of_rfc_7296_section_2_13(
    prf: Prf, key: bytes, seed: bytes, size: int
) -> None:
    octets = prf.plus(key, seed, size)
    assert len(octets) == size
    whole = prf.plus(key, seed, 25 * prf.output_size)
    assert whole.startswith(octets)
    blocks = [whole[at : at + prf.output_size] for at in range(0, len(whole), prf.output_size)]
    assert blocks[0] == prf.prf(key, seed + b"\x01")
    for number, (before, block) in enumerate(itertools.pairwise(blocks), start=2):
        assert block == prf.prf(key, before + seed + bytes([number]))


@each_prf
def test_prf_plus_ends_with_its_counter(prf: Prf) -> None:
    limit = 255 * prf.output_size
    assert len(prf.plus(b"key", b"seed", limit)) == limit
    with pytest.raises(ValueError, match=f"at most {limit}"):
        prf.plus(b"key", b"seed", limit + 1)


def test_each_integrity_has_its_prf() -> None:
    for integrity in SHA2:
        assert SHA2_PRFS[PRF_OF_INTEGRITY[integrity.id]] == integrity.hash_name
    for integrity in INTEGRITIES.values():
        prf = PRFS[PRF_OF_INTEGRITY[integrity.id]]
        # The same function: an ICV is the beginning of the PRF's output.
        key = bytes(range(integrity.key_size))
        assert prf.prf(key, b"octets").startswith(integrity.mac(key, b"octets"))


COUNTING = bytes(range(20))
AES_PRF_VECTORS = [
    # RFC 4434 section 4: the message of RFC 3566's test case 3, keys of 16, 10 and 18 octets.
    (PrfId.PRF_AES128_XCBC, COUNTING[:16], "47f51b4564966215b8985c63055ed308"),
    (PrfId.PRF_AES128_XCBC, COUNTING[:10], "0fa087af7d866e7653434e602fdde835"),
    (PrfId.PRF_AES128_XCBC, COUNTING[:16] + b"\xed\xcb", "8cd3c93ae598a9803006ffb67c40e9e4"),
    # RFC 4615 section 4: keys of 18, 16 and 10 octets.
    (PrfId.PRF_AES128_CMAC, COUNTING[:16] + b"\xed\xcb", "84a348a4a45d235babfffc0d2b4da09a"),
    (PrfId.PRF_AES128_CMAC, COUNTING[:16], "980ae87b5f4c9c5214f5b6a8455e4c2d"),
    (PrfId.PRF_AES128_CMAC, COUNTING[:10], "290d9e112edb09ee141fcf64c0b72f3d"),
]


@pytest.mark.rfc("7296", "2.13", "MUST", "variable-keys")
@pytest.mark.parametrize(("number", "key", "output"), AES_PRF_VECTORS)
def test_aes_prf_vector(number: PrfId, key: bytes, output: str) -> None:
    assert PRFS[number].prf(key, COUNTING).hex() == output


def test_hmac_sha1_vector() -> None:
    # RFC 2202 section 3, test cases 1 and 6.
    prf = PRFS[PrfId.PRF_HMAC_SHA1]
    assert prf.prf(b"\x0b" * 20, b"Hi There").hex() == "b617318655057264e28bc0b6fb378c8ef146be00"
    long = b"Test Using Larger Than Block-Size Key - Hash Key First"
    assert prf.prf(b"\xaa" * 80, long).hex() == "aa4ae5e15272d00e95705637ce8a3b55ed402112"


@pytest.mark.parametrize("number", [PrfId.PRF_AES128_XCBC, PrfId.PRF_AES128_CMAC])
def test_skeyseed_takes_64_bits_of_each_nonce(number: PrfId) -> None:
    prf = PRFS[number]
    one, other = skeyseed(prf, b"i" * 32, b"r" * 16, b"g"), prf.prf(b"i" * 8 + b"r" * 8, b"g")
    assert one == other
    whole = PRFS[PrfId.PRF_HMAC_SHA1]
    assert skeyseed(whole, b"i" * 32, b"r" * 16, b"g") == whole.prf(b"i" * 32 + b"r" * 16, b"g")
